"""Layers whose parameters have the names and the axes of published weights.

The axes are those of PyTorch, with the two channel axes moved behind the others: a convolution's
weight [F, C, k, k, k] is the `kernel` [k, k, k, C, F], a scale [C, 1, 1, 1] the `gamma` [1, 1, 1,
C].
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.causal_blocks import CausalConv, Past, map_frames, prepend_past, stack_frames
from vvae.models.convolutions import apply_with_bias, conv_3x3, down_conv, up_conv

_SMALLEST_NORM = 1e-12  # of torch.nn.functional.normalize

Layer = Callable[[jax.Array, Past], tuple[jax.Array, Past]]

LOG_SIGMA = math.log(2.0 * 10.0 ** (-30.0 / 20.0))
"""Initial log noise scale of imported models, in [-1, 1] units: that of a PSNR of 30 dB.

Published weights have none: they were trained with other losses than a likelihood.
"""

SAMPLE_SIZE = (256, 256)
"""Height and width of the frames that imported models sample; they encode and decode any size."""

# A 3x3 convolution of an image whose pixels were repeated 2x2 times is a transposed convolution
# with a 4x4 kernel and stride 2. For each of its four taps, these rows tell which taps of the 3x3
# kernel read the same pixel.
_DOUBLING = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))


def apply_kernel(module: nn.Module, x: jax.Array, shape: tuple[int, ...], convolve) -> jax.Array:
    """Declares the float32 parameters of a layer and applies them; see `apply_with_bias`.

    Args:
      module: the layer, with the attributes `dtype` and `use_bias`.
      x: the input, channels last.
      shape: of `kernel`, with the output channels last.
      convolve: (x, kernel) -> y without the bias.
    """
    if module.use_bias:
        return apply_with_bias(module, x, shape, convolve)
    kernel = module.param("kernel", nn.initializers.lecun_normal(), shape)
    return convolve(x.astype(module.dtype), kernel.astype(module.dtype))


class PointwiseConv(nn.Module, kw_only=True):
    """A convolution over single positions: a matrix product of the channels, and a bias.

    Attributes:
      features: F.
      num_axes: number of axes of length one in the published weight: 3, 2, or 0 for a matrix.
      use_bias: whether there is a bias.
      dtype: of the activations; the parameters are float32.
    """

    features: int
    num_axes: int = 3
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*(1,) * self.num_axes, x.shape[-1], self.features)
        return apply_kernel(self, x, shape, lambda x, kernel: x @ kernel.reshape(shape[-2:]))


class EdgePaddedConv(nn.Module, kw_only=True):
    """A 3x3x3 convolution that pads time by repeating frames; its parameters are named `conv`.

    Attributes:
      features: F.
      causal: whether a frame depends on the two before it (and the last two inputs are remembered),
        or on its neighbours on both sides (and nothing is remembered).
      borders: padding of rows and columns, see `pad_borders`.
      dtype: of the activations; the parameters are float32.
    """

    features: int
    causal: bool = True
    borders: str = "zeros"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        conv = CausalConv(features=self.features, dtype=self.dtype, name="conv")
        x, inner = pad_borders(x_BTHWC.astype(self.dtype), self.borders)
        if self.causal:
            y, past = conv(x, jnp.repeat(x[:, :1], 2, axis=1) if past is None else past)
            return y[inner], past
        x = jnp.concatenate([x, x[:, -1:]], axis=1)
        return conv(x, x[:, :1])[0][inner], ()


def pad_borders(x_BTHWC: jax.Array, borders: str) -> tuple[jax.Array, tuple[slice, ...]]:
    """Pads rows and columns by one, for a convolution that itself pads with zeros.

    Args:
      x_BTHWC: the frames.
      borders: "zeros" for nothing, "edge" to repeat the outermost pixels, or "reflect" to mirror
        the frames about them.

    Returns:
      (the padded frames, the index of what remains of the convolution's output).
    """
    whole = (slice(None),) * 2
    if borders == "zeros":
        return x_BTHWC, whole
    # A single row has nothing to mirror but itself.
    modes = ["edge" if size == 1 else borders for size in x_BTHWC.shape[2:4]]
    for axis, mode in zip((2, 3), modes, strict=True):
        widths = [(0, 0)] * 5
        widths[axis] = (1, 1)
        x_BTHWC = jnp.pad(x_BTHWC, widths, mode=mode)
    return x_BTHWC, (*whole, slice(1, -1), slice(1, -1))


class StridedConv(nn.Module, kw_only=True):
    """3x3x3 convolution with stride 2 in space; repeats the first frame in front.

    It keeps the channels; its parameters are named `conv`. It remembers its last input, or its last
    two.

    Attributes:
      in_time: whether the stride in time is 2 too.
      borders: padding of rows and columns: "zeros" on every side, "edge" to repeat the outermost
        pixels, or "end" for zeros at the bottom and right alone.
      dtype: of the activations; the parameters are float32.
    """

    in_time: bool = True
    borders: str = "zeros"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        x = x_BTHWC.astype(self.dtype)
        past = jnp.repeat(x[:, :1], 2, axis=1) if past is None else past
        stacked = stack_frames(prepend_past(x, past, 0), stride=1 + self.in_time)
        convolve = _HALVINGS[self.borders]
        conv = StackedConv(features=x.shape[-1], convolve=convolve, dtype=self.dtype, name="conv")
        if self.in_time:
            return conv(stacked), x[:, -1:]
        return conv(stacked), prepend_past(x, past, 0)[:, -2:]


class TemporalConv(nn.Module, kw_only=True):
    """A 3x1x1 convolution of frames stacked by `stack_frames`: [..., 3 C] -> [..., F].

    Attributes:
      features: F.
      num_axes: number of axes of length one in the published weight, 2 or 0.
      dtype: of the activations; the parameters are float32.
    """

    features: int
    num_axes: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stacked: jax.Array) -> jax.Array:
        shape = (3, *(1,) * self.num_axes, stacked.shape[-1] // 3, self.features)
        return apply_with_bias(
            self, stacked, shape, lambda x, kernel: x @ kernel.reshape(-1, self.features)
        )


class EdgePaddedTemporalConv(nn.Module, kw_only=True):
    """3x1x1 convolution over a frame and the two before it; repeats the first frame in front.

    Remembers its last two inputs; its parameters are named `conv`.

    Attributes:
      features: F.
      dtype: of the activations; the parameters are float32.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        conv = TemporalConv(features=self.features, num_axes=0, dtype=self.dtype, name="conv")
        return filter_time(conv, x, past)


class GroupNorm(nn.Module, kw_only=True):
    """Subtracts the mean of groups of channels and divides by their standard deviation.

    Computed at least in float32.

    Attributes:
      groups: number of groups.
      over_time: whether the mean is over all frames at hand, which no causal network can do, or
        over each frame.
      epsilon: added to the variance.
      dtype: of the result.

    References:
      Wu and He, Group Normalization, 2018.
    """

    groups: int = 32
    over_time: bool = False
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        channels = x_BTHWC.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = raise_precision(x_BTHWC).reshape(*x_BTHWC.shape[:-1], self.groups, -1)
        axes = (1, 2, 3, 5) if self.over_time else (2, 3, 5)
        x = x - jnp.mean(x, axis=axes, keepdims=True)
        variance = jnp.mean(jnp.square(x), axis=axes, keepdims=True)
        y = (x * jax.lax.rsqrt(variance + self.epsilon)).reshape(x_BTHWC.shape)
        y = y * scale.reshape(1, 1, 1, 1, -1) + bias.reshape(1, 1, 1, 1, -1)
        return y.astype(self.dtype)


class RMSNorm(nn.Module, kw_only=True):
    """Scales the channels of every position to length sqrt(C), times `gamma`; at least in float32.

    Attributes:
      num_axes: number of axes of length one in the published gamma, 3 or 2.
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


class SpatialConv(nn.Module, kw_only=True):
    """A 3x3 convolution of each frame.

    Attributes:
      features: F.
      convolve: (images [N, H, W, C], kernel [3, 3, C, F]) -> images [N, H', W', F].
      num_axes: number of axes of length one in front in the published weight.
      use_bias: whether there is a bias.
      dtype: of the activations; the parameters are float32.
    """

    features: int
    convolve: Any
    num_axes: int = 0
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        def convolve(x, kernel):
            kernel = kernel.reshape(shape[-4:])
            return map_frames(lambda x_NHWC: self.convolve(x_NHWC, kernel), x)

        shape = (*(1,) * self.num_axes, 3, 3, x_BTHWC.shape[-1], self.features)
        return apply_kernel(self, x_BTHWC, shape, convolve)


class SpatialResample(nn.Module, kw_only=True):
    """Halves or doubles height and width with a convolution named `conv`. Remembers nothing."""

    convolve: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        conv = SpatialConv(
            features=x.shape[-1], convolve=self.convolve, dtype=self.dtype, name="conv"
        )
        return conv(x), ()


class StackedConv(nn.Module, kw_only=True):
    """A 3x3x3 convolution of frames stacked by `stack_frames`.

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
        def convolve(x, kernel):
            flat = kernel.transpose(1, 2, 0, 3, 4).reshape(3, 3, -1, self.features)
            return map_frames(lambda x_NHWC: self.convolve(x_NHWC, flat), x)

        shape = (3, 3, 3, stacked.shape[-1] // 3, self.features)
        return apply_with_bias(self, stacked, shape, convolve)


def stateless(layer: Callable[[jax.Array], jax.Array]) -> Layer:
    """Returns the layer as one that remembers nothing of the frames before."""
    return lambda x, past: (layer(x), ())


def frame_conv_3x3(x_NHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves images with a 3x3 kernel, padded with one zero on every side."""
    return conv_3x3(x_NHWC[None], kernel[None])[0]


def down_conv_3x3(x_NHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves images with a 3x3 kernel and stride 2; pads one zero at the bottom and right.

    It is `convolutions.down_conv` with a 4x4 kernel whose first row and column are zero.
    """
    return down_conv(x_NHWC, jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))))


def halve_centred(x_NHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel and stride 2, padded with one zero on every side."""
    return down_conv(x_NHWC, jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0))))


def halve_repeating_edges(x_NHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel and stride 2; repeats the outermost pixels on every side."""
    x = jnp.pad(x_NHWC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return down_conv_3x3(x, kernel)[:, :-1, :-1]


# Padding of rows and columns -> convolution with a 3x3 kernel and stride 2.
_HALVINGS = {"zeros": halve_centred, "edge": halve_repeating_edges, "end": down_conv_3x3}


def up_conv_3x3(x_NHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """Repeats every pixel 2x2 times and convolves with a 3x3 kernel, padded with zeros."""
    spread = jnp.array(_DOUBLING, kernel.dtype)
    return up_conv(x_NHWC, jnp.einsum("ai,bj,ijcf->abcf", spread, spread, kernel))


def repeat_before(x_BTHWC: jax.Array, past: Past) -> jax.Array:
    """Returns x with the past in front, or with its first frame twice before the first frame."""
    past = jnp.repeat(x_BTHWC[:, :1], 2, axis=1) if past is None else past
    return prepend_past(x_BTHWC, past, 0)


def filter_time(conv: TemporalConv, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
    """Convolves a frame and the two before it; repeats the first one in front.

    Remembers the last two inputs.
    """
    x = repeat_before(x_BTHWC, past)
    return conv(stack_frames(x)), x[:, -2:]


def centre_in_time(conv: TemporalConv) -> Layer:
    """Returns the convolution of a frame and its neighbours, with zeros beyond the ends."""
    ends = ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0))
    return stateless(lambda x: conv(stack_frames(jnp.pad(x, ends))))


def repeat_later(x_BTHWC: jax.Array, past: Past) -> jax.Array:
    """Repeats every frame twice, but the first one of a video, which is alone."""
    alone = int(past is None)
    later = x_BTHWC[:, alone:].repeat(2, axis=1)
    return jnp.concatenate([x_BTHWC[:, :alone], later], axis=1)


def temporal_down(conv: TemporalConv, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
    """Maps 1 + 2n frames to 1 + n, and 2n later frames to n; the first frame is passed through.

    Remembers the last input.
    """
    x = prepend_past(x_BTHWC, past, 0)
    y = conv(stack_frames(x, stride=2))
    if past is None:
        y = jnp.concatenate([x[:, :1], y], axis=1)
    return y, x[:, -1:]


def temporal_up(conv: TemporalConv, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
    """Maps 1 + n frames to 1 + 2n, and n later frames to 2n; the first frame is passed through.

    The other frames do not see it: zeros take its place. Remembers the last two inputs.

    Args:
      conv: with 2 C features, those of the earlier frame of a pair before those of the later.
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


def interpolate_time(x_BTHWC: jax.Array) -> jax.Array:
    """Doubles the frames linearly: frame j gives 1/4 (j - 1) + 3/4 j and 3/4 j + 1/4 (j + 1).

    The outermost frames are repeated beyond the ends.
    """
    before = jnp.concatenate([x_BTHWC[:, :1], x_BTHWC[:, :-1]], axis=1)
    after = jnp.concatenate([x_BTHWC[:, 1:], x_BTHWC[:, -1:]], axis=1)
    pairs = jnp.stack([0.25 * before + 0.75 * x_BTHWC, 0.75 * x_BTHWC + 0.25 * after], axis=2)
    return pairs.reshape(x_BTHWC.shape[0], -1, *x_BTHWC.shape[2:])


def fold_patches(x_BTHWC: jax.Array, size: int) -> jax.Array:
    """Moves squares of size x size pixels into channels, in the order (channel, column, row)."""
    batch, length, height, width, channels = x_BTHWC.shape
    x = x_BTHWC.reshape(batch, length, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 2, 4, 6, 5, 3).reshape(
        batch, length, height // size, width // size, channels * size * size
    )


def unfold_patches(y_BTHWC: jax.Array, size: int) -> jax.Array:
    """Moves channels back into squares of pixels: the inverse of `fold_patches`."""
    batch, length, height, width, channels = y_BTHWC.shape
    y = y_BTHWC.reshape(batch, length, height, width, channels // size**2, size, size)
    return y.transpose(0, 1, 2, 6, 3, 5, 4).reshape(
        batch, length, height * size, width * size, channels // size**2
    )


def average_down(x_BTHWC: jax.Array, features: int, in_time: int, in_space: int) -> jax.Array:
    """Averages groups of the C in_time in_space^2 numbers that become one position.

    Args:
      x_BTHWC: floats; padded in front with zero frames to a multiple of in_time.
      features: number of groups; the numbers are grouped in the order (channel, frame, row,
        column).
      in_time: number of frames that become one.
      in_space: number of rows, and of columns, that become one.

    Returns:
      [B, ceil(T / in_time), H / in_space, W / in_space, features].

    Raises:
      ValueError: if the numbers do not form whole groups.
    """
    factor = in_time * in_space**2
    if x_BTHWC.shape[-1] * factor % features:
        raise ValueError(
            f"{x_BTHWC.shape[-1]} channels of {factor} positions do not form {features} whole "
            "groups"
        )
    x = jnp.pad(x_BTHWC, ((0, 0), (-x_BTHWC.shape[1] % in_time, 0), (0, 0), (0, 0), (0, 0)))
    batch, length, height, width, channels = x.shape
    grid = (length // in_time, height // in_space, width // in_space)
    x = x.reshape(batch, grid[0], in_time, grid[1], in_space, grid[2], in_space, channels)
    x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(batch, *grid, features, -1).mean(-1)


def repeat_up(x_BTHWC: jax.Array, features: int, in_time: int, in_space: int) -> jax.Array:
    """Repeats channels and spreads them over the positions that one position becomes.

    It is the inverse of `average_down`, but for padded frames, if C = features in_time in_space^2.

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
