"""LPIPS against NumPy, and the reader of its weights, which calls no code from the file."""

import functools
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vvae.objectives import lpips

# The pictures whose distances the authors' README gives (0.722 and 0.138) are not available, so the
# tests compare with the definition, implemented again without JAX.
SIDE = {"alexnet": 35, "vgg16": 18}


@functools.cache
def load(net):
    try:
        return lpips.load_weights(net)
    except ValueError as error:
        pytest.skip(str(error))


def make_frames(side, seed=0):
    """Returns a smooth picture and a noisy, shifted copy, [side, side, 3] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    x = ndimage.gaussian_filter(rng.normal(size=(side, side, 3)), (2, 2, 0))
    x = np.clip(x / np.abs(x).max(), -1, 1)
    y = np.clip(np.roll(x, 2, axis=1) + 0.1 * rng.normal(size=x.shape), -1, 1)
    return x.astype(np.float32), y.astype(np.float32)


def convolve(x_HWC, conv, stride, padding):
    kernel = conv["kernel"].astype(np.float64)
    x = np.pad(x_HWC, ((padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(0, 1))
    y = np.einsum("hwcij,ijcf->hwf", windows[::stride, ::stride], kernel, optimize=True)
    return np.maximum(y + conv["bias"], 0.0)


def pool(x_HWC, size):
    windows = np.lib.stride_tricks.sliding_window_view(x_HWC, (size, size), axis=(0, 1))
    return windows[::2, ::2].max((-1, -2))


def read_alexnet(x, body):
    features = [convolve(x, body["Conv_0"], 4, 2)]
    features.append(convolve(pool(features[0], 3), body["Conv_1"], 1, 2))
    features.append(convolve(pool(features[1], 3), body["Conv_2"], 1, 1))
    features.append(convolve(features[2], body["Conv_3"], 1, 1))
    features.append(convolve(features[3], body["Conv_4"], 1, 1))
    return features


def read_vgg16(x, body):
    features, number = [], 0
    for depth in (2, 2, 3, 3, 3):
        x = x if not features else pool(x, 2)
        for _ in range(depth):
            x = convolve(x, body[f"Conv_{number}"], 1, 1)
            number += 1
        features.append(x)
    return features


def measure(net, weights, x, y):
    body = weights["AlexNet_0" if net == "alexnet" else "VGG16_0"]
    # ImageNet's statistics for pixels in [0, 1].
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scaled = [((a.astype(np.float64) + 1) / 2 - mean) / std for a in (x, y)]
    read = read_alexnet if net == "alexnet" else read_vgg16
    total = 0.0
    for number, pair in enumerate(zip(*(read(a, body) for a in scaled))):
        first, second = (f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10) for f in pair)
        linear = weights[f"NetLinLayer_{number}"]["Conv_0"]["kernel"][0, 0, :, 0]
        total += ((first - second) ** 2 @ linear).mean()
    return total


@pytest.mark.parametrize("net", lpips.NETS)
def test_equals_the_definition_in_numpy(net):
    weights, (x, y) = load(net), make_frames(SIDE[net])
    expected = measure(net, weights, x, y)
    got = jax.jit(functools.partial(lpips.frame_lpips, net=net))(weights, x=x, y=y)
    assert expected > 0.02
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_axes_gray_frames_and_equal_frames():
    weights = load("alexnet")
    measure_frames = jax.jit(functools.partial(lpips.frame_lpips, weights, "alexnet"))
    x, y = (np.stack([a, b]) for a, b in zip(make_frames(35), make_frames(35, 1)))
    both = measure_frames(x[None], y[None])
    assert both.shape == (1, 2)
    np.testing.assert_allclose(both[0, 1], measure_frames(x[1:], y[1:])[0], rtol=1e-4)
    np.testing.assert_allclose(measure_frames(x, x), 0.0, atol=1e-12)
    gray = [a[..., :1] for a in (x, y)]
    rgb = [np.repeat(a, 3, -1) for a in gray]
    np.testing.assert_allclose(measure_frames(*gray), measure_frames(*rgb), rtol=1e-5)


def test_gradients_are_finite_even_where_frames_are_equal_and_features_zero():
    weights = load("alexnet")
    gradient = jax.jit(jax.grad(lambda x, y: lpips.frame_lpips(weights, "alexnet", x, y).sum()))
    for x in (jnp.zeros((1, 31, 31, 3)), jnp.asarray(make_frames(31)[0][None])):
        assert np.isfinite(gradient(x, x)).all()
        assert np.abs(gradient(x, -x + 0.1)).max() > 0


@pytest.mark.parametrize("net", lpips.NETS)
def test_smallest_frames(net):
    weights, side = load(net), lpips.SMALLEST_SIDE[net]
    x, y = make_frames(side)
    assert np.isfinite(lpips.frame_lpips(weights, net, x, y))
    with pytest.raises(ValueError, match=f"needs frames of at least {side} pixels"):
        lpips.frame_lpips(weights, net, x[1:], y[1:])


def test_other_frames_and_networks_are_refused():
    x = jnp.zeros((40, 40, 3))
    with pytest.raises(ValueError, match=r"equal shapes \[..., H, W, 1 or 3\]"):
        lpips.frame_lpips({}, "alexnet", x, x[..., :2])
    with pytest.raises(ValueError, match="'squeeze': choose from alexnet, vgg16"):
        lpips.frame_lpips({}, "squeeze", x, x)
    with pytest.raises(ValueError, match="'squeeze': choose from alexnet, vgg16"):
        lpips.load_weights("squeeze")


# --- the reader ----------------------------------------------------------------------------------


def write(folder, content, protocol=4):
    path = folder / "weights.ckpt"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("order", ["C", "F"])
def test_reads_what_numpy_has_written(tmp_path, order):
    array = np.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), np.float32, order=order)
    got = lpips.read_arrays(write(tmp_path, {"a": {"kernel": array}, "b": array[0]}))
    np.testing.assert_array_equal(got["a"]["kernel"], array)
    np.testing.assert_array_equal(got["b"], array[0])


class Call:
    """An object that is pickled as a call of a function, which plain unpickling executes."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def name(module, attribute):
    """Returns a pickle that consists of one name."""
    return f"c{module}\n{attribute}\n.".encode()


def test_nothing_that_a_file_names_is_called(tmp_path):
    marker = tmp_path / "called"
    path = write(tmp_path, {"kernel": Call(os.mkdir, str(marker))})
    with pytest.raises(ValueError, match=r"weights.ckpt: .*it asks for \w+\.mkdir"):
        lpips.read_arrays(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # plain unpickling calls it


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("builtins", "dict"),
        ("collections", "OrderedDict"),
        ("copyreg", "_reconstructor"),
        ("_codecs", "encode"),
        ("functools", "partial"),
        ("importlib", "import_module"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "float32"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.multiarray", "fromfile"),
        ("jax.numpy", "array"),
        ("vvae.objectives.lpips", "read_arrays"),
    ],
)
def test_every_other_name_is_refused(tmp_path, module, attribute):
    with pytest.raises(ValueError, match=f"it asks for {module}.{attribute}"):
        lpips.read_arrays(write(tmp_path, name(module, attribute)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(3, np.float64), "arrays of type 'f8', not f4"),
        (np.zeros(3, ">f4"), "a type with the state"),
        (np.array([{}], object), "arrays of type 'O8', not f4"),
        ({"a": [np.zeros(3, np.float32)]}, "weights.ckpt/a holds list"),
        ({1: np.zeros(3, np.float32)}, "weights.ckpt holds dict"),
        ("text", "weights.ckpt holds str"),
        (name("numpy", "ndarray"), "weights.ckpt holds type"),
        (b"Pid\n.", "persistent"),
        (b"\x80\x04K", "is not a file of plain arrays"),
        (b"", "is not a file of plain arrays"),
    ],
)
def test_anything_but_dictionaries_of_float32_arrays_is_refused(tmp_path, content, message):
    with pytest.raises(
        ValueError,
        match=f"weights.ckpt: is not a file of plain arrays .*{message}|weights.ckpt: {message}",
    ):
        lpips.read_arrays(write(tmp_path, content))


def test_an_array_of_another_size_than_its_bytes_is_refused(tmp_path):
    content = pickle.dumps({"a": np.arange(3, dtype=np.float32)}, 4)
    assert content.count(b"K\x03\x85") == 1
    path = write(tmp_path, content.replace(b"K\x03\x85", b"K\x04\x85"))
    with pytest.raises(ValueError, match=r"12 bytes for an array of shape \(4,\)"):
        lpips.read_arrays(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none.ckpt: cannot be read"):
        lpips.read_arrays(tmp_path / "none.ckpt")
