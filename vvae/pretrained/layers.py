"""Layers whose parameters have the names and the axes of published weights.

The axes are those of PyTorch, with the two channel axes behind the others: a weight [F, C, k, k, k]
of a convolution is the `kernel` [k, k, k, C, F], a scale [C, 1, 1, 1] the `gamma` [1, 1, 1, C].
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.causal_blocks import CausalConv, Past, map_frames, prepend_past, stack_frames
from vvae.models.convolutions import conv_3x3, down_conv, up_conv

_SMALLEST_NORM = 1e-12  # of torch.nn.functional.normalize

LOG_SIGMA = math.log(2.0 * 10.0 ** (-30.0 / 20.0))
"""log of the noise scale that imported models begin with, in [-1, 1] units: that of 30 dB.

Published weights have none: they were trained with other losses than a likelihood.
"""

SAMPLE_SIZE = (256, 256)
"""Height and width of the frames that imported models sample; they encode and decode any."""

# A 3x3 convolution of an image whose pixels were doubled is a transposed one with a 4x4 kernel and
# stride 2: these rows, over its four taps, say which taps of the 3x3 kernel fall on the same pixel.
_DOUBLING = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))


class Pointwise(nn.Module):
    """A convolution over one position: a matrix product of the channels, and a bias.

    Attributes:
      features: F.
      num_axes: 3 or 2, the axes of length one that the published weight has.
      dtype: of the activations; the parameters are float32.
    """

    features: int
    num_axes: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1,) * self.num_axes + (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype).reshape(shape[-2:])
        return y + bias.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class EdgeConv(nn.Module):
    """A 3x3x3 convolution that repeats the first frame in front, and the last behind if it looks
    ahead; its parameters are named `conv`.

    Attributes:
      features: F.
      causal: whether a frame sees the two before it (and the last two inputs are remembered), or
        its neighbours on both sides (and nothing can be remembered).
      dtype: of the activations; the parameters are float32.
    """

    features: int
    causal: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        conv = CausalConv(self.features, self.dtype, name="conv")
        if self.causal:
            start = jnp.repeat(x_BTHWC[:, :1], 2, axis=1).astype(self.dtype)
            return conv(x_BTHWC, start if past is None else past)
        x = jnp.concatenate([x_BTHWC, x_BTHWC[:, -1:]], axis=1)
        return conv(x, x[:, :1].astype(self.dtype))[0], ()


class TimeConv(nn.Module):
    """A 3x1x1 convolution of frames that `stack_frames` has stacked: [..., 3 C] -> [..., F].

    Attributes:
      features: F.
      num_axes: 2 or 0, the axes of length one that the published weight has.
      dtype: of the activations; the parameters are float32.
    """

    features: int
    num_axes: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stacked: jax.Array) -> jax.Array:
        channels = stacked.shape[-1] // 3
        shape = (3, *(1,) * self.num_axes, channels, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = stacked.astype(self.dtype) @ kernel.astype(self.dtype).reshape(-1, self.features)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, 1, -1)


class UnitNorm(nn.Module):
    """Every position's channels to length sqrt(C), times `gamma`; computed at least in float32.

    Attributes:
      num_axes: 3 or 2, the axes of length one that the published gamma has.
      dtype: of the result.
    """

    num_axes: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        channels = x_BTHWC.shape[-1]
        gamma = self.param("gamma", nn.initializers.ones, (1,) * self.num_axes + (channels,))
        x = raise_precision(x_BTHWC)
        squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
        y = x / jnp.sqrt(jnp.maximum(squares, _SMALLEST_NORM**2)) * channels**0.5
        return (y * gamma.reshape(1, 1, 1, 1, -1)).astype(self.dtype)


class FrameConv(nn.Module):
    """The parameters of a 3x3 convolution of frames, which `convolve` applies.

    Attributes:
      features: F.
      convolve: (images [N, H, W, C], kernel [3, 3, C, F]) -> images [N, H', W', F].
      dtype: of the activations; the parameters are float32.
    """

    features: int
    convolve: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        shape = (3, 3, x_BTHWC.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = map_frames(lambda x: self.convolve(x, kernel), x_BTHWC.astype(self.dtype))
        return y + bias.astype(self.dtype).reshape(1, 1, 1, 1, -1)


class StackedConv(nn.Module):
    """A 3x3x3 convolution of frames that `stack_frames` has stacked.

    Attributes:
      features: F.
      convolve: (images [N, H, W, 3 C], kernel [3, 3, 3 C, F]) -> images [N, H', W', F].
      dtype: of the activations; the parameters are float32.
    """

    features: int
    convolve: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stacked: jax.Array) -> jax.Array:
        shape = (3, 3, 3, stacked.shape[-1] // 3, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        flat = kernel.transpose(1, 2, 0, 3, 4).reshape(3, 3, -1, self.features)
        y = map_frames(lambda x: self.convolve(x, flat), stacked.astype(self.dtype))
        return y + bias.astype(self.dtype).reshape(1, 1, 1, 1, -1)


def convolve_frame(x_NHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel; one zero on every side."""
    return conv_3x3(x_NHWC[None], kernel[None])[0]


def halve(x_NHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel and stride 2; one zero behind the last row and column.

    It is `layers.down_conv` with a 4x4 kernel whose first row and column are zero.
    """
    return down_conv(x_NHWC, jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))))


def double(x_NHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """Repeats every pixel 2x2 times and convolves with a 3x3 kernel, padded by zeros."""
    spread = jnp.array(_DOUBLING, kernel.dtype)
    return up_conv(x_NHWC, jnp.einsum("ai,bj,ijcf->abcf", spread, spread, kernel))


def halve_time(conv: TimeConv, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
    """1 + 2n frames -> 1 + n, and 2n later frames -> n; the first frame passes as it is.

    Remembers the last input.
    """
    x = prepend_past(x_BTHWC, past, 0)
    y = conv(stack_frames(x, stride=2))
    if past is None:
        y = jnp.concatenate([x[:, :1], y], axis=1)
    return y, x[:, -1:]


def double_time(conv: TimeConv, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
    """1 + n frames -> 1 + 2n, and n later frames -> 2n; the first frame passes as it is.

    The others do not see it: for them there are zeros before. Remembers the last two inputs.

    Args:
      conv: of 2 C features, those of the earlier frame of a pair before those of the later.
      x_BTHWC: the frames.
      past: see `causal_blocks`.
    """
    batch, _, height, width, channels = x_BTHWC.shape
    x = prepend_past(x_BTHWC[:, 1:] if past is None else x_BTHWC, past, 2)
    pairs = conv(stack_frames(x)).reshape(batch, -1, height, width, 2, channels)
    y = jnp.moveaxis(pairs, 4, 2).reshape(batch, 2 * pairs.shape[1], height, width, channels)
    if past is None:
        y = jnp.concatenate([x_BTHWC[:, :1], y], axis=1)
    return y, x[:, -2:]


def fold_patches(x_BTHWC: jax.Array, size: int) -> jax.Array:
    """Puts squares of size x size pixels into channels, in the order (channel, column, row)."""
    batch, length, height, width, channels = x_BTHWC.shape
    x = x_BTHWC.reshape(batch, length, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 2, 4, 6, 5, 3).reshape(
        batch, length, height // size, width // size, channels * size * size
    )


def unfold_patches(y_BTHWC: jax.Array, size: int) -> jax.Array:
    """The inverse of `fold_patches`."""
    batch, length, height, width, channels = y_BTHWC.shape
    y = y_BTHWC.reshape(batch, length, height, width, channels // size**2, size, size)
    return y.transpose(0, 1, 2, 6, 3, 5, 4).reshape(
        batch, length, height * size, width * size, channels // size**2
    )


def average_down(x_BTHWC: jax.Array, features: int, in_time: int, in_space: int) -> jax.Array:
    """Means of groups of the C in_time in_space^2 numbers that become one position.

    Args:
      x_BTHWC: floats; zero frames in front make the frames a multiple of in_time.
      features: number of groups; the numbers are grouped in the order (channel, frame, row,
        column).
      in_time, in_space: frames, and rows and columns, that become one.

    Returns:
      [B, ceil(T / in_time), H / in_space, W / in_space, features].

    Raises:
      ValueError: if the numbers are no whole groups.
    """
    factor = in_time * in_space**2
    if x_BTHWC.shape[-1] * factor % features:
        raise ValueError(
            f"{x_BTHWC.shape[-1]} channels of {factor} positions are no {features} whole groups"
        )
    x = jnp.pad(x_BTHWC, ((0, 0), (-x_BTHWC.shape[1] % in_time, 0), (0, 0), (0, 0), (0, 0)))
    batch, length, height, width, channels = x.shape
    grid = (length // in_time, height // in_space, width // in_space)
    x = x.reshape(batch, grid[0], in_time, grid[1], in_space, grid[2], in_space, channels)
    x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(batch, *grid, features, -1).mean(-1)


def repeat_up(x_BTHWC: jax.Array, features: int, in_time: int, in_space: int) -> jax.Array:
    """Repeats channels and spreads them over the positions that one position becomes.

    The inverse of `average_down` but for frames, where C is features in_time in_space^2.

    Returns:
      [B, T in_time, H in_space, W in_space, features].

    Raises:
      ValueError: if the channels are not repeated a whole number of times.
    """
    batch, length, height, width, channels = x_BTHWC.shape
    factor = in_time * in_space**2
    if features * factor % channels:
        raise ValueError(
            f"{channels} channels do not fill {features} at {factor} positions a whole number of "
            "times"
        )
    x = jnp.repeat(x_BTHWC, features * factor // channels, axis=-1)
    x = x.reshape(batch, length, height, width, features, in_time, in_space, in_space)
    return x.transpose(0, 1, 5, 2, 6, 3, 7, 4).reshape(
        batch, length * in_time, height * in_space, width * in_space, features
    )
