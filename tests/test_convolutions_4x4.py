"""The 4x4 convolutions: both implementations agree with jax.lax under every transformation."""

import jax
import numpy as np
import pytest
from jax import export, lax
from jax import numpy as jnp

from vvae.models import convolutions, convolutions_cpu_4x4

# Height and width of the small grid, channels of the image, features of the grid: for both forms of
# `convolutions_cpu_4x4`, with whole and with half-empty tiles.
SIZES = [
    (1, 1, 3, 64),
    (16, 16, 1, 7),
    (3, 5, 7, 3),
    (16, 16, 64, 64),
    (3, 5, 64, 1),
    (15, 16, 9, 7),
]
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _draw(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _reference_down(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS, precision="highest"
    )


def _reference_up(y, kernel):
    """Computes `up_conv` from its definition: each pixel adds its kernel at the output's stride."""
    images, height, width, _ = y.shape
    out = jnp.zeros((images, 2 * height + 2, 2 * width + 2, kernel.shape[3]), y.dtype)
    for i in range(4):
        for j in range(4):
            term = jnp.einsum("nhwc,cf->nhwf", y, kernel[i, j], precision="highest")
            out = out.at[:, i : i + 2 * height : 2, j : j + 2 * width : 2].add(term)
    return out[:, 1:-1, 1:-1]


def _assert_close(actual, expected, bound):
    """Compares the largest error with the largest entry."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    error = float(jnp.abs(actual - expected).max() / jnp.abs(expected).max())
    assert error <= bound, f"error {error:.1e} of the largest entry exceeds {bound:.0e}"


def _check_value_and_gradients(function, reference, x, kernel, bound):
    dy = _draw(2, *jax.eval_shape(function, x, kernel).shape, dtype=x.dtype)

    def differentiate(function):
        def run(x, kernel, dy):
            y, pullback = jax.vjp(function, x, kernel)
            return y, *pullback(dy)

        return jax.jit(run)(x, kernel, dy)

    for actual, expected in zip(differentiate(function), differentiate(reference)):
        _assert_close(actual, expected, bound)


@pytest.mark.parametrize("height,width,channels,features", SIZES)
def test_down_conv_equals_lax_in_float32(height, width, channels, features):
    x = _draw(0, 3, 2 * height, 2 * width, channels)
    kernel = _draw(1, 4, 4, channels, features)
    _check_value_and_gradients(convolutions.down_conv, _reference_down, x, kernel, 1e-5)


@pytest.mark.parametrize("height,width,channels,features", SIZES)
def test_up_conv_equals_its_definition_in_float32(height, width, channels, features):
    y = _draw(0, 3, height, width, features)
    kernel = _draw(1, 4, 4, features, channels)
    _check_value_and_gradients(convolutions.up_conv, _reference_up, y, kernel, 1e-5)


@pytest.mark.parametrize("height,width,channels", [(1, 2, 3), (5, 6, 9)])
def test_float64_is_exact(height, width, channels):
    with jax.enable_x64(True):
        kernel = _draw(1, 4, 4, channels, 5, dtype=np.float64)
        x = _draw(0, 2, 2 * height, 2 * width, channels, dtype=np.float64)
        _check_value_and_gradients(convolutions.down_conv, _reference_down, x, kernel, 1e-12)
        y = _draw(3, 2, height, width, 5, dtype=np.float64)
        swapped = kernel.swapaxes(2, 3)
        _check_value_and_gradients(convolutions.up_conv, _reference_up, y, swapped, 1e-12)


def test_bfloat16_keeps_its_dtype_and_rounds_only_the_result():
    x, kernel = _draw(0, 2, 12, 8, 16), _draw(1, 4, 4, 16, 9)
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    y = convolutions.down_conv(x, kernel)
    assert y.dtype == jnp.bfloat16
    exact = _reference_down(x.astype(jnp.float32), kernel.astype(jnp.float32))
    _assert_close(y.astype(jnp.float32), exact, 2.0**-8)
    assert convolutions.up_conv(y, kernel.swapaxes(2, 3)).dtype == jnp.bfloat16


@pytest.mark.parametrize("channels", [3, 16])
def test_native_lowering_agrees_with_the_one_for_cpus(channels):
    x, y, kernel = _draw(0, 2, 12, 20, channels), _draw(1, 2, 6, 10, 9), _draw(2, 4, 4, channels, 9)
    _assert_close(
        convolutions_cpu_4x4.down_conv(x, kernel), convolutions._native_down(x, kernel), 1e-5
    )
    _assert_close(convolutions_cpu_4x4.up_conv(y, kernel), convolutions._native_up(y, kernel), 1e-5)
    _assert_close(
        convolutions_cpu_4x4.kernel_gradient(x, y), convolutions._native_kernel_gradient(x, y), 1e-5
    )


def _loss(x, down, up):
    return jnp.sum(jnp.sin(convolutions.up_conv(jnp.sin(convolutions.down_conv(x, down)), up)))


def _reference_loss(x, down, up):
    return jnp.sum(jnp.sin(_reference_up(jnp.sin(_reference_down(x, down)), up)))


@pytest.fixture
def arrays():
    return _draw(0, 8, 6, 8, 12, 9), _draw(1, 4, 4, 9, 8) / 8, _draw(2, 4, 4, 8, 9) / 8


def _grad(loss, argnums):
    return jax.jit(jax.grad(loss, argnums))


def test_gradient_under_scan_is_the_sum_over_its_steps(arrays):
    x, down, up = arrays

    @jax.jit
    def sum_gradients(x, down, up):
        def add(total, x):
            grads = jax.grad(_loss, (1, 2))(x, down, up)
            return jax.tree.map(jnp.add, total, grads), None

        return lax.scan(add, jax.tree.map(jnp.zeros_like, (down, up)), x)[0]

    merged = x.reshape(-1, *x.shape[2:])
    expected = _grad(_reference_loss, (1, 2))(merged, down, up)
    for a, b in zip(sum_gradients(x, down, up), expected):
        _assert_close(a, b, 1e-5)


def test_vmap_over_images_and_over_kernels(arrays):
    x, down, up = arrays
    x, downs = x[:3], jnp.stack([down, 2 * down, -down])
    grad, reference = jax.grad(_loss, (0, 1)), _grad(_reference_loss, (0, 1))
    together = jax.jit(jax.vmap(grad, in_axes=(0, 0, None)))(x, downs, up)
    for i in range(3):
        for a, b in zip(together, reference(x[i], downs[i], up)):
            _assert_close(a[i], b, 1e-5)


def test_pmap_over_devices(arrays):
    x, down, up = arrays

    def mean_gradient(x, down, up):
        return lax.pmean(jax.grad(_loss, argnums=1)(x, down, up), "device")

    run = jax.pmap(mean_gradient, axis_name="device", in_axes=(0, None, None), out_axes=None)
    merged = x.reshape(-1, *x.shape[2:])
    expected = _grad(_reference_loss, 1)(merged, down, up) / len(x)
    assert len(x) == jax.local_device_count()
    _assert_close(run(x, down, up), expected, 1e-5)


def test_second_derivative(arrays):
    x, down, up = arrays
    x = x[0]

    def penalty(loss):
        return _grad(lambda down: jnp.sum(jax.grad(loss)(x, down, up) ** 2), 0)

    _assert_close(penalty(_loss)(down), penalty(_reference_loss)(down), 1e-5)


def test_without_jit(arrays):
    x, down, _ = arrays
    _assert_close(convolutions.down_conv(x[0], down), _reference_down(x[0], down), 1e-5)


@pytest.mark.parametrize("platform,num_native", [("cpu", 0), ("cuda", 5), ("tpu", 5)])
def test_each_platform_gets_its_own_lowering(arrays, platform, num_native):
    x, down, up = arrays
    # Two convolutions forward; two kernel gradients and one image gradient backward.
    grad = jax.jit(jax.grad(_loss, argnums=(1, 2)))
    module = export.export(grad, platforms=(platform,))(x[0], down, up).mlir_module()
    assert module.count("stablehlo.convolution") == num_native
    assert ("stablehlo.dot_general" in module) == (platform == "cpu")


def test_modules_double_and_halve():
    x = _draw(0, 2, 6, 10, 3)
    down, up = convolutions.DownConv(features=8), convolutions.UpConv(features=3)
    down_variables = down.init(jax.random.key(0), x)
    y = down.apply(down_variables, x)
    up_variables = up.init(jax.random.key(1), y)
    assert y.shape == (2, 3, 5, 8)
    assert up.apply(up_variables, y).shape == x.shape
    assert jax.tree.map(jnp.shape, down_variables) == {
        "params": {"kernel": (4, 4, 3, 8), "bias": (8,)}
    }
    biased = {"params": {**down_variables["params"], "bias": jnp.full(8, 2.0)}}
    np.testing.assert_array_equal(down.apply(biased, x), y + 2.0)


@pytest.mark.parametrize(
    "module,shape",
    [(convolutions.DownConv, (2, 64, 64, 32)), (convolutions.UpConv, (2, 16, 16, 32))],
)
def test_initial_kernels_keep_the_variance(module, shape):
    x = _draw(0, *shape)
    y, _ = module(features=64).init_with_output(jax.random.key(0), x)
    assert 0.9 < float(jnp.std(y)) < 1.1


def test_parameters_stay_float32_under_bfloat16():
    down = convolutions.DownConv(features=4, dtype=jnp.bfloat16)
    y, variables = down.init_with_output(jax.random.key(0), _draw(0, 1, 4, 4, 2))
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("height,width", [(7, 8), (8, 7)])
def test_odd_sizes_are_refused(height, width):
    with pytest.raises(ValueError, match=f"{height}x{width}"):
        convolutions.DownConv(features=4).init(jax.random.key(0), jnp.zeros((1, height, width, 3)))
