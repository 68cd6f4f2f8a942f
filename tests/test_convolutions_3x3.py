"""3x3 convolutions over frames: every implementation agrees with jax.lax, on every platform."""

import jax
import numpy as np
import pytest
from jax import export
from jax import numpy as jnp

from vvae.models import convolutions, convolutions_cpu_3x3, onednn_probe
from vvae.training.cost import count_flops

# Batch, frames, height, width, channels, features, taps. For both CPU forms: blocks of a part of a
# clip, of several clips, strips of a frame that end inside the last tile, and a single block.
SIZES = [
    (2, 6, 34, 33, 24, 3, 3),
    (6, 2, 24, 25, 24, 2, 3),
    (1, 2, 65, 70, 24, 2, 3),
    (1, 7, 16, 16, 24, 24, 1),
    (2, 3, 1, 1, 24, 4, 3),
    (3, 4, 6, 7, 3, 24, 3),
    (1, 3, 5, 4, 12, 4, 1),
]


@pytest.fixture(params=["onednn", "portable"])
def lowering(request, monkeypatch):
    """What convolutions on a CPU are lowered to."""
    if request.param == "onednn":
        monkeypatch.setenv(onednn_probe.SWITCH, "1")
        if not onednn_probe.works_here():
            pytest.skip("no oneDNN here: another processor or wheel")


def _draw(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _draw_all(size, dtype=np.float32):
    """Draws inputs, a kernel and weights of the outputs."""
    batch, length, height, width, channels, features, taps = size
    x = _draw(0, batch, length + taps - 1, height, width, channels, dtype=dtype)
    kernel = _draw(1, taps, 3, 3, channels, features, dtype=dtype)
    return x, kernel, _draw(2, batch, length, height, width, features, dtype=dtype)


def _assert_close(actual, expected, bound):
    """Compares the largest error with the largest entry."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    error = float(jnp.abs(actual - expected).max() / jnp.abs(expected).max())
    assert error <= bound, f"error {error:.1e} of the largest entry exceeds {bound:.0e}"


def _differentiate(function, x, kernel, dy):
    def run(x, kernel, dy):
        y, pullback = jax.vjp(function, x, kernel)
        return y, *pullback(dy)

    return jax.jit(run)(x, kernel, dy)


@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradients_equal_those_of_lax(size, lowering):
    arrays = _draw_all(size)
    expected = _differentiate(convolutions.native_conv_3x3, *arrays)
    for actual, value in zip(_differentiate(convolutions.conv_3x3, *arrays), expected, strict=True):
        _assert_close(actual, value, 1e-5)
    x, _, dy = arrays
    _assert_close(convolutions._native_kernel_gradient_3x3(x, dy, 0), expected[2], 1e-5)


@pytest.mark.parametrize("lead", [0, 2])
def test_results_more_precise_than_the_inputs(lead, lowering):
    """The same in float32 for bfloat16 numbers; gradients are bfloat16, as the inputs are."""
    arrays = x, kernel, dy = _draw_all((6, 2, 24, 25, 24, 2, 3), jnp.bfloat16)
    x, dy = x[:, lead:], dy.astype(jnp.float32)

    def convolve(x, kernel):
        return convolutions.conv_3x3(x, kernel, lead, jnp.float32)

    exact = [a.astype(jnp.float32) for a in arrays]
    exact[0] = exact[0][:, lead:]
    expected = _differentiate(lambda x, k: convolutions.native_conv_3x3(x, k, lead), *exact)
    y, *gradients = _differentiate(convolve, x, kernel, dy)
    _assert_close(y, expected[0], 1e-5)
    for gradient, value in zip(gradients, expected[1:], strict=True):
        assert gradient.dtype == jnp.bfloat16
        _assert_close(gradient.astype(jnp.float32), value, 2.0**-7)
    native = convolutions.native_conv_3x3(x, kernel, lead, jnp.float32)
    _assert_close(native, expected[0], 1e-5)


@pytest.mark.parametrize("lead", [1, 2])
def test_zeros_in_front_are_as_if_given_and_cost_no_gradient(lead, lowering):
    x, kernel, dy = _draw_all((2, 6, 34, 33, 24, 3, 3))
    given = x.at[:, :lead].set(0)
    expected = _differentiate(convolutions.native_conv_3x3, given, kernel, dy)
    expected = (expected[0], expected[1][:, lead:], expected[2])
    found = _differentiate(
        lambda x, k: convolutions.conv_3x3(x, k, lead), given[:, lead:], kernel, dy
    )
    for actual, value in zip(found, expected, strict=True):
        _assert_close(actual, value, 1e-5)
    _assert_close(convolutions.native_conv_3x3(x[:, lead:], kernel, lead), found[0], 1e-5)
    _assert_close(convolutions._native_kernel_gradient_3x3(x[:, lead:], dy, lead), found[2], 1e-5)


def test_zeros_in_front_are_no_work():
    """Padding in time is not computed.

    In units of the taps of an output frame: the first two outputs need 1 + 2 taps less, forward and
    in the gradient with respect to the kernel, and two frames need no gradient.
    """
    x, kernel, _ = _draw_all((1, 4, 6, 8, 24, 24, 3))

    def count(convolve):
        differentiate = jax.value_and_grad(lambda x, k: jnp.sum(jnp.sin(convolve(x, k))), (0, 1))
        return count_flops(jax.make_jaxpr(differentiate)(x, kernel))

    given = count(
        lambda x, k: convolutions.conv_3x3(jnp.pad(x, ((0, 0), (2, 0), *3 * [(0, 0)])), k)
    )
    frame = count_flops(jax.make_jaxpr(convolutions.native_conv_3x3)(x[:, :3], kernel))
    assert given - count(lambda x, k: convolutions.conv_3x3(x, k, 2)) == (1 + 1 + 2) * frame


@pytest.mark.parametrize("size", [(2, 6, 34, 33, 24, 3, 3), (1, 2, 65, 70, 24, 2, 3)])
def test_float64_is_exact(size):
    with jax.enable_x64(True):
        arrays = _draw_all(size, np.float64)
        expected = _differentiate(convolutions.native_conv_3x3, *arrays)
        for actual, value in zip(
            _differentiate(convolutions.conv_3x3, *arrays), expected, strict=True
        ):
            _assert_close(actual, value, 1e-13)


def test_bfloat16_keeps_its_dtype_and_rounds_only_the_result(lowering):
    x, kernel, _ = (a.astype(jnp.bfloat16) for a in _draw_all((1, 2, 6, 8, 24, 4, 3)))
    y = convolutions.conv_3x3(x, kernel)
    assert y.dtype == jnp.bfloat16
    exact = convolutions.native_conv_3x3(x.astype(jnp.float32), kernel.astype(jnp.float32))
    # Except where float32 lies on the other side of the midpoint between two bfloat16 numbers.
    assert np.mean(y == exact.astype(jnp.bfloat16)) > 0.99


def test_winograd_rounds_no_more_than_a_plain_sum_of_the_products():
    """Winograd's form has no constants but 1 and 1/2, so it loses little precision.

    A sum of n random products taken one after the other has a root-mean-square error of
    u sqrt(n / 6) of its size, u the unit roundoff. What jax.lax reaches depends on how a
    processor's kernels block the sum: the two are compared with this bound, not with each other.
    """
    x, kernel, _ = _draw_all((1, 2, 32, 32, 96, 96, 3))
    with jax.enable_x64(True):
        exact = convolutions.native_conv_3x3(x.astype(jnp.float64), kernel.astype(jnp.float64))
    bound = np.finfo(np.float32).eps / 2 * np.sqrt(3 * 9 * 96 / 6)
    for convolve in (convolutions_cpu_3x3.conv, convolutions.native_conv_3x3):
        error = np.asarray(convolve(x, kernel)) - np.asarray(exact)
        assert np.sqrt(np.mean(error**2)) <= bound * np.sqrt(np.mean(exact**2))


def test_vmap_and_second_derivatives(lowering):
    x, kernel, weight = _draw_all((1, 2, 6, 5, 24, 24, 3))
    kernels = jnp.stack([kernel, -2 * kernel]) / 20

    def map_second_derivative(convolve):
        def penalize(kernel):
            gradient = jax.grad(lambda x: jnp.sum(weight * jnp.sin(convolve(x, kernel))))(x)
            return jnp.sum(gradient**2)

        return jax.jit(jax.vmap(jax.grad(penalize)))(kernels)

    expected = map_second_derivative(convolutions.native_conv_3x3)
    _assert_close(map_second_derivative(convolutions.conv_3x3), expected, 1e-5)


@pytest.mark.parametrize("platform,num_native", [("cpu", 0), ("cuda", 3), ("tpu", 3)])
def test_each_platform_gets_its_own_lowering(platform, num_native):
    x, kernel, _ = _draw_all((1, 2, 6, 8, 24, 24, 3))
    # One convolution forward, and a gradient for each argument backward.
    grad = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.sin(convolutions.conv_3x3(x, k))), (0, 1)))
    module = export.export(grad, platforms=(platform,))(x, kernel).mlir_module()
    assert module.count("stablehlo.convolution") == num_native
    assert ("stablehlo.dot_general" in module) == (platform == "cpu")


def test_memory_does_not_grow_with_the_frames():
    """Beside the padded input there is one block, however long the video and large the frames."""

    def measure(length, size):
        x = jax.ShapeDtypeStruct((1, length + 2, size, size, 24), jnp.float32)
        kernel = jax.ShapeDtypeStruct((3, 3, 3, 24, 24), jnp.float32)
        compiled = jax.jit(convolutions_cpu_3x3.conv).lower(x, kernel).compile()
        padded = 4 * (length + 2) * (size + 2) ** 2 * 24
        return compiled.memory_analysis().temp_size_in_bytes - padded

    assert measure(64, 64) <= 1.1 * measure(2, 64)
    assert measure(2, 256) <= 1.3 * measure(2, 64)
