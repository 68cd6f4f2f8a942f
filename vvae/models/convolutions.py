"""The convolutions of the networks: the one place that chooses an implementation per backend.

Convolutions that halve or double an image have 4x4 kernels, stride 2 and padding 1: every position
is covered by the same number of taps, so no checkerboard appears. Those that keep the size have 3x3
kernels, over one or more frames.

References:
  Odena et al., Deconvolution and Checkerboard Artifacts, Distill 2016,
  https://distill.pub/2016/deconv-checkerboard.
"""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from jax import Array, lax
from jax import numpy as jnp
from jax.nn import initializers

from vvae.models import convolutions_cpu_3x3, convolutions_cpu_4x4, convolutions_onednn

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# An output of a doubling convolution sees 4 of the kernel's 16 taps, so its fan-in is a quarter of
# that of the kernel's shape.
_up_kernel_init = initializers.variance_scaling(4.0, "fan_in", "truncated_normal")
_kernel_init = initializers.lecun_normal()


@jax.custom_vjp
def down_conv(x_NHWC: Array, kernel: Array) -> Array:
    """Convolves with a 4x4 kernel, stride 2, padding 1 (cross-correlation, as torch.nn.Conv2d).

    Uses the matrix products of `convolutions_cpu_4x4` on CPUs and the backend's own convolution
    elsewhere. Has reverse-mode derivatives of any order, but no jvp.

    Args:
      x_NHWC: floats [N, H, W, C]; H and W even.
      kernel: [4, 4, C, F], the dtype of x.

    Returns:
      [N, H / 2, W / 2, F], the dtype of x.

    Raises:
      ValueError: if H or W is odd.
    """
    height, width = x_NHWC.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"cannot halve an image of {height}x{width}: both sizes must be even")
    return lax.platform_dependent(
        x_NHWC, kernel, cpu=convolutions_cpu_4x4.down_conv, default=_native_down
    )


@jax.custom_vjp
def up_conv(x_NHWC: Array, kernel: Array) -> Array:
    """Applies the transposed convolution with a 4x4 kernel, stride 2, padding 1.

    As torch.nn.ConvTranspose2d, whose weight is the kernel transposed by (2, 3, 0, 1):

        out[n, i, j, f] = sum over p, q, c of x[n, p, q, c] kernel[i - 2p + 1, j - 2q + 1, c, f]

    It is the adjoint of `down_conv` with the two channel axes of the kernel exchanged. It is
    implemented per backend and differentiated as `down_conv`.

    Args:
      x_NHWC: floats [N, H, W, C].
      kernel: [4, 4, C, F], the dtype of x.

    Returns:
      [N, 2 H, 2 W, F], the dtype of x.
    """
    adjoint_kernel = kernel.swapaxes(2, 3)
    return lax.platform_dependent(
        x_NHWC, adjoint_kernel, cpu=convolutions_cpu_4x4.up_conv, default=_native_up
    )


def _kernel_gradient(x_NHWC: Array, y_NhwF: Array) -> Array:
    """Applies the adjoint of kernel -> down_conv(x, kernel) to y: [4, 4, C, F]."""
    return lax.platform_dependent(
        x_NHWC, y_NhwF, cpu=convolutions_cpu_4x4.kernel_gradient, default=_native_kernel_gradient
    )


def _down_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return down_conv(x, kernel), (x, kernel)


def _down_backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return up_conv(dy, kernel.swapaxes(2, 3)), _kernel_gradient(x, dy)


def _up_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return up_conv(x, kernel), (x, kernel)


def _up_backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return down_conv(dy, kernel.swapaxes(2, 3)), _kernel_gradient(dy, x).swapaxes(2, 3)


down_conv.defvjp(_down_forward, _down_backward)
up_conv.defvjp(_up_forward, _up_backward)


def _native_down(x_NHWC: Array, kernel: Array) -> Array:
    padding = ((1, 1), (1, 1))
    return lax.conv_general_dilated(x_NHWC, kernel, (2, 2), padding, dimension_numbers=_DIMENSIONS)


def _native_up(y_NhwF: Array, kernel: Array) -> Array:
    """Applies the adjoint of x -> _native_down(x, kernel)."""
    return lax.conv_general_dilated(
        y_NhwF,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        ((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=_DIMENSIONS,
    )


def _native_kernel_gradient(x_NHWC: Array, y_NhwF: Array) -> Array:
    shape = jax.ShapeDtypeStruct((4, 4, x_NHWC.shape[-1], y_NhwF.shape[-1]), x_NHWC.dtype)
    (gradient,) = jax.linear_transpose(lambda kernel: _native_down(x_NHWC, kernel), shape)(y_NhwF)
    return gradient


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_3x3(x_BTHWC: Array, kernel: Array, lead: int = 0, dtype: jnp.dtype | None = None) -> Array:
    """Convolves frames with a 3x3 kernel over [taps] frames; pads rows and columns with zeros.

    Time is padded only in front, by `lead` frames. It is implemented per backend and differentiated
    as `down_conv`; CPUs use oneDNN where it is switched on and works (`onednn_probe`), and
    else the products of `convolutions_cpu_3x3`.

    Args:
      x_BTHWC: floats [B, T, H, W, C].
      kernel: [taps, 3, 3, C, F] over time, rows and columns, the dtype of x.
      lead: number of zero frames before the first frame, less than taps.
      dtype: of the result, at least as precise as x, whose dtype it is by default. Gradients are
        computed in the dtype of x.

    Returns:
      [B, T + lead - (taps - 1), H, W, F].
    """
    dtype, padding = dtype or x_BTHWC.dtype, ((lead, 0), (1, 1), (1, 1))

    def convolve_portably(x: Array, kernel: Array) -> Array:
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        return convolutions_cpu_3x3.conv(_pad_frames(x, lead, 0), kernel)

    convolve = convolutions_onednn.dispatch(
        lambda x, kernel: convolutions_onednn.convolve(x, kernel, (1, 1, 1), padding, dtype),
        convolve_portably,
    )
    default = functools.partial(native_conv_3x3, lead=lead, dtype=dtype)
    return lax.platform_dependent(x_BTHWC, kernel, cpu=convolve, default=default)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel_gradient_3x3(x_BTHWC: Array, y_BTHWF: Array, lead: int) -> Array:
    """The adjoint of kernel -> conv_3x3(x, kernel, lead), applied to y: [taps, 3, 3, C, F]."""
    taps = 1 + lead + x_BTHWC.shape[1] - y_BTHWF.shape[1]
    compute = convolutions_onednn.dispatch(
        functools.partial(convolutions_onednn.kernel_gradient, taps=(taps, 3, 3)),
        convolutions_cpu_3x3.kernel_gradient,
    )
    return lax.platform_dependent(
        x_BTHWC,
        y_BTHWF,
        cpu=lambda x, y: compute(_pad_frames(x, lead, 0), y),
        default=lambda x, y: _native_kernel_gradient_3x3(x, y, lead),
    )


def _input_gradient_3x3(y_BTHWF: Array, kernel: Array, lead: int) -> Array:
    """The adjoint of x -> conv_3x3(x, kernel, lead), applied to y."""
    # It is the convolution with the flipped kernel, over all frames that it reaches.
    reach = kernel.shape[0] - 1
    flipped = kernel[::-1, ::-1, ::-1].swapaxes(3, 4)
    return conv_3x3(_pad_frames(y_BTHWF, reach - lead, reach), flipped)


def _conv_3x3_forward(
    x: Array, kernel: Array, lead: int, dtype: jnp.dtype | None
) -> tuple[Array, tuple[Array, Array]]:
    return conv_3x3(x, kernel, lead, dtype), (x, kernel)


def _conv_3x3_backward(
    lead: int, dtype: jnp.dtype | None, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    del dtype
    x, kernel = residuals
    dy = dy.astype(x.dtype)
    return _input_gradient_3x3(dy, kernel, lead), _kernel_gradient_3x3(x, dy, lead)


def _kernel_gradient_3x3_forward(
    x: Array, y: Array, lead: int
) -> tuple[Array, tuple[Array, Array]]:
    return _kernel_gradient_3x3(x, y, lead), (x, y)


def _kernel_gradient_3x3_backward(
    lead: int, residuals: tuple[Array, Array], dkernel: Array
) -> tuple[Array, Array]:
    x, y = residuals
    return _input_gradient_3x3(y, dkernel, lead), conv_3x3(x, dkernel, lead)


conv_3x3.defvjp(_conv_3x3_forward, _conv_3x3_backward)
_kernel_gradient_3x3.defvjp(_kernel_gradient_3x3_forward, _kernel_gradient_3x3_backward)


def native_conv_3x3(
    x_BTHWC: Array, kernel: Array, lead: int = 0, dtype: jnp.dtype | None = None
) -> Array:
    """Computes `conv_3x3` by the backend's own convolution everywhere; see `native_down_conv`."""
    return lax.conv_general_dilated(
        x_BTHWC,
        kernel,
        window_strides=(1, 1, 1),
        padding=((lead, 0), (1, 1), (1, 1)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        preferred_element_type=dtype,
    )


def _pad_frames(x_BTHWC: Array, before: int, after: int) -> Array:
    return jnp.pad(x_BTHWC, ((0, 0), (before, after), (0, 0), (0, 0), (0, 0)))


def _native_kernel_gradient_3x3(x_BTHWC: Array, y_BTHWF: Array, lead: int) -> Array:
    taps = 1 + lead + x_BTHWC.shape[1] - y_BTHWF.shape[1]
    shape = (taps, 3, 3, x_BTHWC.shape[-1], y_BTHWF.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, x_BTHWC.dtype)
    (gradient,) = jax.linear_transpose(lambda k: native_conv_3x3(x_BTHWC, k, lead), kernel)(y_BTHWF)
    return gradient


def native_down_conv(x_NHWC: Array, kernel: Array) -> Array:
    """Computes `down_conv` by the backend's own convolution everywhere.

    Use it for frames that are sharded over devices: they stay sharded. The matrix products for CPUs
    cut frames into patches across the shard borders, so each device would gather the whole frame.
    """
    return _native_down(x_NHWC, kernel)


def native_up_conv(x_NHWC: Array, kernel: Array) -> Array:
    """Computes `up_conv` by the backend's own convolution everywhere; see `native_down_conv`."""
    return _native_up(x_NHWC, kernel.swapaxes(2, 3))


def apply_with_bias(
    module: nn.Module,
    x: Array,
    kernel_shape: Sequence[int],
    convolve: Callable[[Array, Array], Array],
    kernel_init: Callable = _kernel_init,
) -> Array:
    """Declares the float32 parameters `kernel` and `bias` of a layer and applies them.

    Args:
      module: the layer; its `dtype` is that of the activations.
      x: the input, channels last.
      kernel_shape: of `kernel`, with the number F of output channels last.
      convolve: (x, kernel) -> y without the bias, channels last; x and kernel in the dtype of the
        layer.
      kernel_init: initialiser of `kernel`.

    Returns:
      y + bias, in the dtype of y.
    """
    kernel = module.param("kernel", kernel_init, tuple(kernel_shape))
    bias = module.param("bias", initializers.zeros, (kernel_shape[-1],))
    y = convolve(x.astype(module.dtype), kernel.astype(module.dtype))
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class DownConv(nn.Module, kw_only=True):
    """Halves height and width: `down_conv` plus a bias.

    Attributes:
      features: number of output channels F.
      dtype: of the activations; the parameters `kernel` [4, 4, C, F] and `bias` [F] are float32.
      convolve: `down_conv`, or `native_down_conv` for frames that are sharded over devices.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    convolve: Callable[[Array, Array], Array] = down_conv

    @nn.compact
    def __call__(self, x_NHWC: Array) -> Array:
        """Maps [N, H, W, C] (H and W even, else ValueError) to [N, H / 2, W / 2, features]."""
        return apply_with_bias(self, x_NHWC, (4, 4, x_NHWC.shape[-1], self.features), self.convolve)


class UpConv(nn.Module, kw_only=True):
    """Doubles height and width: `up_conv` plus a bias.

    Attributes:
      features: number of output channels F.
      dtype: of the activations; the parameters `kernel` [4, 4, C, F] and `bias` [F] are float32.
      convolve: `up_conv`, or `native_up_conv` for frames that are sharded over devices.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    convolve: Callable[[Array, Array], Array] = up_conv

    @nn.compact
    def __call__(self, x_NHWC: Array) -> Array:
        """Maps [N, H, W, C] to [N, 2 H, 2 W, features]."""
        shape = (4, 4, x_NHWC.shape[-1], self.features)
        return apply_with_bias(self, x_NHWC, shape, self.convolve, _up_kernel_init)
