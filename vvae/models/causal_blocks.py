"""Building blocks of causal video networks: no frame of an output sees a later frame of its input.

Every layer maps (x, past) to (y, past): `past` is what it has to remember of the frames before x,
and None before the first frame. A whole video is one call with past=None, and a video in pieces is
one call a piece, each with the past that the call before has returned. It is the same computation,
so both give the same values and the same gradients, whatever the pieces.

Time is padded with zeros in front of the first frame, space with zeros on all sides. Where frames
are padded for other reasons, such as to be shared out evenly among devices, a layer's `extent` says
how many (rows, columns) of its input are real: what lies beyond is zero for every layer that looks
sideways, so that it is as if it were not there. None stands for all.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.convolutions import (
    DownConv,
    UpConv,
    conv_3x3,
    down_conv,
    native_conv_3x3,
    native_down_conv,
    native_up_conv,
    up_conv,
)

# A pytree of arrays [B, ...], or None before the first frame.
Past = Any

# Real rows and columns of an input, or None for all of them.
Extent = tuple[int, int] | None

NORMS = ("position", "frame")
_GROUPS = 32
_KERNEL = 3


def prepend_past(x_BTHWC: jax.Array, past: jax.Array | None, num_zeros: int) -> jax.Array:
    """Returns x with the frames of the past in front, or with zeros before the first frame.

    Raises:
      ValueError: if the past is of other videos: another batch, size or number of channels.
    """
    if past is None:
        return jnp.pad(x_BTHWC, ((0, 0), (num_zeros, 0), (0, 0), (0, 0), (0, 0)))
    before, now = (a.shape[:1] + a.shape[2:] for a in (past, x_BTHWC))
    if before != now:
        raise ValueError(
            f"the cache is of features {before} (B, H, W, C), and this chunk has {now}: a stream "
            "keeps its batch and its frame size"
        )
    return jnp.concatenate([past, x_BTHWC], axis=1)


def inside(extent: tuple[int, int], height: int, width: int) -> jax.Array:
    """Returns bool [1, 1, H, W, 1], True within the extent."""
    rows, columns = jnp.arange(height) < extent[0], jnp.arange(width) < extent[1]
    return jnp.logical_and(*jnp.meshgrid(rows, columns, indexing="ij"))[None, None, ..., None]


def zero_outside(x_BTHWC: jax.Array, extent: Extent) -> jax.Array:
    """Returns x with zeros beyond its extent."""
    if extent is None:
        return x_BTHWC
    return jnp.where(inside(extent, *x_BTHWC.shape[2:4]), x_BTHWC, 0.0)


def chain(layers, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
    """Applies layers one after the other, each with its own past."""
    after = []
    for layer, before in zip(layers, past or (None,) * len(layers), strict=True):
        x, now = layer(x, before)
        after.append(now)
    return x, tuple(after)


def stack_frames(x_BTHWC: jax.Array, stride: int = 1) -> jax.Array:
    """Puts three neighbouring frames into the channels, (frame, channel) in this order.

    Args:
      x_BTHWC: [B, T, H, W, C], T at least 3.
      stride: frames from one triple to the next.

    Returns:
      [B, (T - 3) // stride + 1, H, W, 3 C].
    """
    last = x_BTHWC.shape[1] - _KERNEL + 1
    shifted = [x_BTHWC[:, k : last + k : stride] for k in range(_KERNEL)]
    return jnp.concatenate(shifted, axis=-1)


class CausalConv(nn.Module):
    """3x3x3 convolution of a frame and the two before it; remembers its last two inputs.

    Attributes:
      features: number of output channels F.
      dtype: of the activations; the parameters are float32.
      kernel_init: of `kernel` [3, 3, 3, C, F].
      extent: see the module.
    """

    features: int
    dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal()
    extent: Extent = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        shape = (_KERNEL, _KERNEL, _KERNEL, x_BTHWC.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = zero_outside(x_BTHWC.astype(self.dtype), self.extent)
        known = prepend_past(x, past, _KERNEL - 1)
        convolve = conv_3x3 if self.extent is None else native_conv_3x3
        # Zeros that the convolution puts in front itself get no gradient, which would be work.
        x, lead = (x, _KERNEL - 1) if past is None else (known, 0)
        y = convolve(x, kernel.astype(self.dtype), lead)
        y = y + bias.astype(self.dtype).reshape(1, 1, 1, 1, -1)
        return y, known[:, -(_KERNEL - 1) :]


class Norm(nn.Module):
    """Normalises, at least in float32. Nothing is averaged over time.

    Attributes:
      kind: "position": root mean square over the channels of each position (Zhang and Sennrich
        2019); "frame": groups of channels over each frame (Wu and He 2018).
      dtype: of the result.
      extent: see the module; what lies beyond does not count.
    """

    kind: str
    dtype: Any
    extent: Extent = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        x = raise_precision(x_BTHWC)
        # dtype=None keeps float64 and raises nothing else.
        if self.kind == "position":
            y = nn.RMSNorm(epsilon=1e-6, dtype=None, name="norm")(x)
        else:
            groups = math.gcd(x.shape[-1], _GROUPS)
            norm = nn.GroupNorm(groups, dtype=None, use_fast_variance=False, name="norm")
            frames = x.reshape(-1, *x.shape[2:])
            mask = None
            if self.extent is not None:
                mask = jnp.broadcast_to(inside(self.extent, *x.shape[2:4])[0], frames.shape)
            y = norm(frames, mask=mask).reshape(x.shape)
        return y.astype(self.dtype)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); begins as the identity."""

    norm: str
    dtype: Any
    extent: Extent = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        features = x_BTHWC.shape[-1]
        before = past or (None, None)
        zeros, extent = nn.initializers.zeros, self.extent
        h = nn.silu(Norm(self.norm, self.dtype, extent, name="norm_0")(x_BTHWC))
        h, first = CausalConv(features, self.dtype, extent=extent, name="conv_0")(h, before[0])
        h = nn.silu(Norm(self.norm, self.dtype, extent, name="norm_1")(h))
        h, second = CausalConv(features, self.dtype, zeros, extent, name="conv_1")(h, before[1])
        return x_BTHWC + h, (first, second)


class Stage(nn.Module):
    """`depth` residual blocks, as one scanned block that is computed again in the backward pass."""

    depth: int
    norm: str
    dtype: Any
    extent: Extent = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        blocks = nn.scan(
            nn.remat(ResBlock, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        return blocks(self.norm, self.dtype, self.extent, name="blocks")(x_BTHWC, past)


def attend_within_frames(query_key_value: jax.Array, extent: Extent = None) -> jax.Array:
    """Attention of one head among the positions of each frame; softmax at least in float32.

    Args:
      query_key_value: [B, T, H, W, 3 C], queries, keys and values in this order.
      extent: see the module.

    Returns:
      [B, T, H, W, C].
    """
    *lead, height, width, channels = query_key_value.shape
    joined = query_key_value.reshape(*lead, height * width, channels)
    query, key, value = jnp.split(joined, 3, axis=-1)
    scores = raise_precision(jnp.einsum("btqc,btkc->btqk", query, key))
    scores = scores / math.sqrt(channels // 3)
    if extent is not None:
        scores = jnp.where(inside(extent, height, width).reshape(1, 1, 1, -1), scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    y = jnp.einsum("btqk,btkc->btqc", weights, value)
    return y.reshape(*lead, height, width, channels // 3)


class FrameAttention(nn.Module):
    """Every position of a frame attends to all positions of that frame; one head; residual.

    Remembers nothing.
    """

    norm: str
    dtype: Any
    extent: Extent = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        channels = x_BTHWC.shape[-1]
        h = Norm(self.norm, self.dtype, self.extent, name="norm")(x_BTHWC)
        h = nn.Dense(3 * channels, dtype=self.dtype, name="query_key_value")(h)
        h = attend_within_frames(h, self.extent)
        zeros = nn.initializers.zeros
        return x_BTHWC + nn.Dense(channels, dtype=self.dtype, kernel_init=zeros, name="out")(h), ()


class SpatialDown(nn.Module):
    """Halves height and width of each frame. Remembers nothing."""

    features: int
    dtype: Any
    extent: Extent = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        convolve = down_conv if self.extent is None else native_down_conv
        conv = DownConv(self.features, self.dtype, convolve, name="conv")
        return map_frames(conv, zero_outside(x_BTHWC, self.extent)), ()


class SpatialUp(nn.Module):
    """Doubles height and width of each frame. Remembers nothing."""

    features: int
    dtype: Any
    extent: Extent = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        convolve = up_conv if self.extent is None else native_up_conv
        conv = UpConv(self.features, self.dtype, convolve, name="conv")
        return map_frames(conv, zero_outside(x_BTHWC, self.extent)), ()


def map_frames(layer, x_BTHWC: jax.Array) -> jax.Array:
    """Applies a layer of images [N, H, W, C] to every frame."""
    y_NHWC = layer(x_BTHWC.reshape(-1, *x_BTHWC.shape[2:]))
    return y_NHWC.reshape(*x_BTHWC.shape[:2], *y_NHWC.shape[1:])


class TemporalDown(nn.Module):
    """1 + 2n frames -> 1 + n, and 2n later frames -> n: frame j sees 2j - 2, 2j - 1 and 2j.

    The first frame is alone. Remembers its last input.
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        x = prepend_past(x_BTHWC.astype(self.dtype), past, _KERNEL - 1)
        dense = nn.Dense(self.features, dtype=self.dtype, name="conv")
        return dense(stack_frames(x, stride=2)), x[:, -1:]


class TemporalUp(nn.Module):
    """1 + n frames -> 1 + 2n, and n later frames -> 2n: frame j gives 2j - 1 and 2j.

    Each pair sees its frame and the two before it. Remembers its last two inputs.
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        batch, length, height, width, _ = x_BTHWC.shape
        x = prepend_past(x_BTHWC.astype(self.dtype), past, _KERNEL - 1)
        pairs = nn.Dense(2 * self.features, dtype=self.dtype, name="conv")(stack_frames(x))
        pairs = pairs.reshape(batch, length, height, width, 2, self.features)
        y = jnp.moveaxis(pairs, 4, 2).reshape(batch, 2 * length, height, width, self.features)
        # Nothing was there before the first frame, which the first of its pair would be.
        return y[:, 1:] if past is None else y, x[:, -(_KERNEL - 1) :]


class Head(nn.Module):
    """norm, SiLU and a convolution whose result is at least float32."""

    features: int
    norm: str
    dtype: Any
    extent: Extent = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        h = nn.silu(Norm(self.norm, dtype, self.extent, name="norm")(x_BTHWC))
        return CausalConv(self.features, dtype, extent=self.extent, name="conv")(h, past)
