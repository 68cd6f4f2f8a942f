"""Convolutions by the oneDNN inside jaxlib, for x86-64 CPUs, where XLA's own are slow.

The x86-64 wheels of jaxlib contain oneDNN, and XLA's runtime calls it for a custom call named
`__onednn$convolution`. That is not a public interface, so `dispatch` uses it only

* where `onednn_probe` has shown that it computes what `jax.lax` computes,
* in float32 and bfloat16 (oneDNN ends the process for float64),
* in programs for one device, or for one device each (pmap, `shard_map`): a compiler that divides
  arrays among devices cannot look into it,
* in programs that run here: exported ones may run elsewhere.

Everywhere else the portable function takes its place. The decision is made where the program is
lowered, because a traced function does not know where it will run.

Such a program must stay out of jax's persistent compilation cache: XLA takes the call for another
kind as it writes it. jax does not write programs with host callbacks, so these have one, which is
never called.
"""

import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from vvae.models import onednn_probe

DTYPES = (jnp.float32, jnp.bfloat16)

Padding = Sequence[tuple[int, int]]

# Inputs of so many bytes stay in the cache of a core while they are convolved (measured).
_BLOCK_BYTES = 2 << 20
# The cost of laying out an input of a block, with that of using it as the unit (measured).
_LAYOUT_COST = 0.3


def convolve(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Padding,
    dilations: Sequence[int] | None = None,
    dtype: jnp.dtype | None = None,
) -> Array:
    """Convolves (cross-correlation) over two or three axes by oneDNN, whether or not it works.

    Args:
      x: [N, *sizes, C], float32 or bfloat16.
      kernel: [*taps, C, F], the dtype of x.
      strides: of each axis.
      padding: zeros before and behind each axis.
      dilations: distances between the taps of each axis, one by default.
      dtype: of the result, that of x by default; sums are taken in float32.

    Returns:
      [N, *sizes of the outputs, F].

    Raises:
      TypeError: for another dtype, which would end the process.
    """
    if x.dtype not in DTYPES or kernel.dtype != x.dtype:
        raise TypeError(f"oneDNN convolves no {x.dtype} with {kernel.dtype} here")
    return _convolution.bind(
        x,
        kernel,
        strides=tuple(strides),
        padding=tuple(tuple(pair) for pair in padding),
        dilations=tuple(dilations or (1,) * len(strides)),
        dtype=jnp.dtype(dtype or x.dtype),
    )


def double(y_NhwF: Array, kernel: Array) -> Array:
    """The adjoint of a convolution with a 4x4 kernel, stride 2 and padding 1.

    A convolution without stride of the small grid gives each 2x2 pixels of the padded image.

    Args:
      y_NhwF: the small grid.
      kernel: [4, 4, C, F].

    Returns:
      [N, 2 h, 2 w, C].
    """
    images, height, width, features = y_NhwF.shape
    channels = kernel.shape[2]
    # [p, a, q, b, C, F], turned round in p and q -> [p, q, F, (a, b, C)]
    g = kernel.reshape(2, 2, 2, 2, channels, features)[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4)
    d = convolve(y_NhwF, g.reshape(2, 2, features, -1), (1, 1), ((1, 1), (1, 1)))
    d = d.reshape(images, height + 1, width + 1, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return d.reshape(images, 2 * height + 2, 2 * width + 2, channels)[:, 1:-1, 1:-1]


def kernel_gradient(
    x_BTHWC: Array, y_BTHWF: Array, taps: tuple[int, int, int], stride: int = 1
) -> Array:
    """The adjoint of kernel -> convolution of x, applied to y.

    The sum over positions is a convolution too: the columns of x become its channels, and y becomes
    its kernel, [frames, rows, 1, columns, F], dilated by the stride. The rows of x are laid out as
    [taps along a row and C, columns], and the outputs are the taps over time and rows. It is
    computed in blocks of frames and rows whose arrays stay in the cache of the processor.

    Args:
      x_BTHWC: inputs [B, T + taps - 1, H, W, C], float32 or bfloat16.
      y_BTHWF: [B, T, h, w, F], for the outputs of a convolution with one zero on each side of a
        frame; the dtype of x.
      taps: of the kernel, over time, rows and columns.
      stride: over rows and columns.

    Returns:
      [*taps, C, F], the dtype of x; sums are taken in float32.
    """
    batch, length, height, width, features = y_BTHWF.shape
    channels = x_BTHWC.shape[-1]
    row_bytes = x_BTHWC.dtype.itemsize * width * taps[2] * channels
    block = _Block.choose((length, height), taps, stride, row_bytes)
    x, y = block.pad_inputs(x_BTHWC, width), block.pad_outputs(y_BTHWF)

    def add(total: Array, position: Array):
        clip, frame, row = block.locate(position)
        inputs = _take(x, (clip, frame, stride * row), block.input_size)
        outputs = _take(y, (clip, frame, row), block.output_size)
        kernel = outputs.reshape(*block.output_size, 1, width, features)
        product = convolve(
            _columns_to_channels(inputs, width, taps[2], stride),
            kernel,
            strides=(1, 1, 1),
            padding=((0, 0),) * 3,
            dilations=(1, stride, 1),
            dtype=jnp.float32,
        )
        return total + product, None

    zeros = jnp.zeros((1, *taps[:2], taps[2] * channels, features))
    total, _ = lax.scan(add, zeros, jnp.arange(batch * math.prod(block.grid)))
    return total.reshape(*taps, channels, features).astype(x_BTHWC.dtype)


def _take(a_BTHWK: Array, first: tuple[Array, ...], size: tuple[int, int]) -> Array:
    """Returns so many frames and rows of one clip, [1, frames, rows, W, K]."""
    zero = jnp.zeros_like(first[0])
    return lax.dynamic_slice(a_BTHWK, (*first, zero, zero), (1, *size, *a_BTHWK.shape[3:]))


def _columns_to_channels(x_BTHWC: Array, width: int, taps: int, stride: int) -> Array:
    """Returns [B, T, H, taps C, width]: for each tap along a row, the columns that it meets."""
    reach = stride * (width - 1) + 1
    if stride == 1:
        columns_last = x_BTHWC.swapaxes(3, 4)
        shifted = [columns_last[..., k : k + reach] for k in range(taps)]
        return jnp.concatenate(shifted, axis=3)
    shifted = [x_BTHWC[:, :, :, k : k + reach : stride] for k in range(taps)]
    return jnp.concatenate(shifted, axis=4).swapaxes(3, 4)


@dataclass(frozen=True)
class _Block:
    """Frames and rows of outputs that are used at a time, and how many such blocks a clip has.

    Attributes:
      output_size: frames and rows of outputs.
      input_size: those of the inputs that they see.
      grid: blocks along the frames and along the rows of a clip; the last ones are filled up.
      taps: of the kernel, over time, rows and columns.
      stride: over rows and columns.
    """

    output_size: tuple[int, int]
    input_size: tuple[int, int]
    grid: tuple[int, int]
    taps: tuple[int, int, int]
    stride: int

    @classmethod
    def choose(
        cls, outputs: tuple[int, int], taps: tuple[int, int, int], stride: int, row_bytes: int
    ) -> "_Block":
        """Returns the cheapest block whose inputs fit into the cache.

        Args:
          outputs: frames and rows of a clip.
          taps: see the class.
          stride: see the class.
          row_bytes: of a row of inputs as it is laid out.
        """

        def make(*size: int) -> "_Block":
            inputs = (size[0] + taps[0] - 1, stride * (size[1] - 1) + taps[1])
            grid = tuple(-(-n // m) for n, m in zip(outputs, size))
            return cls(size, inputs, grid, taps, stride)

        def estimate_cost(block: "_Block") -> float:
            layout = _LAYOUT_COST * math.prod(block.input_size) / stride
            return math.prod(block.grid) * (math.prod(block.output_size) + layout)

        blocks = itertools.starmap(make, itertools.product(*(range(1, n + 1) for n in outputs)))
        fitting = [b for b in blocks if math.prod(b.input_size) * row_bytes <= _BLOCK_BYTES]
        return min(fitting, key=estimate_cost, default=make(1, 1))

    def locate(self, position: Array) -> tuple[Array, Array, Array]:
        """Returns clip, first frame and first row of the outputs of a block."""
        frames, rows = self.output_size
        clip, rest = position // math.prod(self.grid), position % math.prod(self.grid)
        return clip, rest // self.grid[1] * frames, rest % self.grid[1] * rows

    def pad_inputs(self, x_BTHWC: Array, width: int) -> Array:
        """Puts a zero on each side of a frame, and zeros at the ends up to whole blocks."""
        _, length, height, columns, _ = x_BTHWC.shape
        frames, rows = (n * m for n, m in zip(self.grid, self.output_size))
        missing_rows = self.stride * (rows - 1) + self.taps[1] - 1 - height
        missing_columns = self.stride * (width - 1) + self.taps[2] - 1 - columns
        missing_frames = frames + self.taps[0] - 1 - length
        ends = ((0, missing_frames), (1, missing_rows), (1, missing_columns))
        return jnp.pad(x_BTHWC, ((0, 0), *ends, (0, 0)))

    def pad_outputs(self, y_BTHWF: Array) -> Array:
        """Puts zeros at the ends up to whole blocks."""
        counts = (n * m for n, m in zip(self.grid, self.output_size))
        ends = ((0, n - m) for n, m in zip(counts, y_BTHWF.shape[1:3]))
        return jnp.pad(y_BTHWF, ((0, 0), *ends, (0, 0), (0, 0)))


_convolution = Primitive("onednn_convolution")


@_convolution.def_abstract_eval
def _describe_output(x, kernel, *, strides, padding, dilations, dtype) -> ShapedArray:
    sizes = [
        (size + sum(ends) - dilation * (taps - 1) - 1) // stride + 1
        for size, ends, taps, stride, dilation in zip(
            x.shape[1:-1], padding, kernel.shape, strides, dilations
        )
    ]
    return ShapedArray((x.shape[0], *sizes, kernel.shape[-1]), dtype)


def _lower(context, x, kernel, *, strides, padding, dilations, dtype):
    del dtype  # that of the result says it
    context.module_context.add_host_callback(_keep_out_of_the_compilation_cache)
    num_axes = len(strides) + 2
    data = {
        "data": {
            "batch_dim": 0,
            "feature_dim": num_axes - 1,
            "spatial_dims": list(range(1, num_axes - 1)),
        }
    }
    filters = {
        "filter": {
            "input_feature_dim": num_axes - 2,
            "output_feature_dim": num_axes - 1,
            "spatial_dims": list(range(num_axes - 2)),
        }
    }
    window = {
        "pad_left": [before for before, _ in padding],
        "pad_right": [behind for _, behind in padding],
        "strides": strides,
        "window_dilations": dilations,
    }
    settings = {"dims": num_axes, "feature_groups": 1, "input": data, "output": data}
    settings |= {"kernel": filters, "window": window}
    lower = jax.ffi.ffi_lowering(
        "__onednn$convolution",
        backend_config=json.dumps({"onednn_conv_config": settings}),
        api_version=2,
    )
    return lower(context, x, kernel)


def _keep_out_of_the_compilation_cache(*_):
    raise AssertionError("no program calls this")


def _batch(arrays, axes, **settings):
    x, kernel = arrays
    if axes[1] is not None:
        # A kernel for each example: one convolution after the other.
        moved = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(arrays, axes)]
        if axes[0] is None:
            return lax.map(lambda k: _convolution.bind(x, k, **settings), moved[1]), 0
        return lax.map(lambda pair: _convolution.bind(*pair, **settings), tuple(moved)), 0
    x = jnp.moveaxis(x, axes[0], 0)
    y = _convolution.bind(x.reshape(-1, *x.shape[2:]), kernel, **settings)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


_convolution.def_impl(
    lambda *arrays, **settings: jax.jit(functools.partial(_convolution.bind, **settings))(*arrays)
)
mlir.register_lowering(_convolution, _lower, platform="cpu")
batching.primitive_batchers[_convolution] = _batch


def dispatch(onednn: Callable, portable: Callable) -> Callable:
    """Returns the function of arrays that is one of two where a program for CPUs is lowered.

    Args:
      onednn: of arrays of one dtype; used where oneDNN is, see the module.
      portable: the same function, used everywhere else.
    """

    def choose(*arrays: Array) -> Array:
        return _choice.bind(*arrays, onednn=onednn, portable=portable)

    return choose


_choice = Primitive("onednn_or_portable")
_choice.def_impl(lambda *arrays, **functions: jax.jit(dispatch(**functions))(*arrays))


@_choice.def_abstract_eval
def _describe_choice(*arrays, onednn, portable) -> ShapedArray:
    del onednn
    result = jax.eval_shape(portable, *arrays)
    return ShapedArray(result.shape, result.dtype)


def _lower_choice(context, *arrays, onednn, portable):
    chosen = onednn if _can_use(context) else portable
    return mlir.lower_fun(chosen, multiple_results=False)(context, *arrays)


def _can_use(context) -> bool:
    module = context.module_context
    return (
        all(a.dtype in DTYPES and a.size for a in (*context.avals_in, *context.avals_out))
        and not module.lowering_parameters.for_export
        and _is_whole_on_each_device(module.axis_context)
        and onednn_probe.is_usable()
    )


def _is_whole_on_each_device(axes) -> bool:
    """Whether no compiler divides the arrays of a program among devices."""
    if isinstance(axes, mlir.SPMDAxisContext):
        return axes.manual_axes == frozenset(axes.mesh.axis_names)
    return axes.num_devices == 1


def _batch_choice(arrays, axes, *, onednn, portable):
    mapped = (jax.vmap(function, in_axes=axes) for function in (onednn, portable))
    return dispatch(*mapped)(*arrays), 0


mlir.register_lowering(_choice, _lower_choice)
batching.primitive_batchers[_choice] = _batch_choice
