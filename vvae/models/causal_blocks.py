"""Building blocks of causal video networks: no output frame depends on a later input frame.

Every layer maps (x, past) to (y, past). `past` holds what the layer remembers of the frames before
x, and is None before the first frame. A whole video is one call with past=None; a video in chunks
is one call per chunk, each with the past that the previous call returned. Both run the same
computation, so they give the same values and the same gradients for any chunking.

Time is padded with zeros before the first frame, space with zeros on all sides. Where frames are
padded for another reason, such as to divide them evenly over devices, a layer's `extent` says how
many (rows, columns) of its input are real. Every layer with a spatial receptive field treats the
rest as zero, as if it were not there. None means that all rows and columns are real.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.convolutions import (
    DownConv,
    UpConv,
    apply_with_bias,
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


@dataclass(frozen=True)
class LayerSpec:
    """Settings that the layers of a network share.

    Attributes:
      norm: "position" for RMSNorm over the channels of each position, "frame" for GroupNorm over
        each frame. Neither averages over time.
      dtype: of the activations.
      extent: real rows and columns of a layer's input; None for all of them.
    """

    norm: str = "position"
    dtype: Any = jnp.float32
    extent: Extent = None


def prepend_past(x_BTHWC: jax.Array, past: jax.Array | None, num_zeros: int) -> jax.Array:
    """Returns x with the past frames in front, or with zeros before the first frame.

    Raises:
      ValueError: if the past belongs to other videos: another batch, frame size or channel count.
    """
    if past is None:
        return jnp.pad(x_BTHWC, ((0, 0), (num_zeros, 0), (0, 0), (0, 0), (0, 0)))
    before, now = (a.shape[:1] + a.shape[2:] for a in (past, x_BTHWC))
    if before != now:
        raise ValueError(
            f"the cache holds features {before} (B, H, W, C), but this chunk has {now}: a stream "
            "must keep its batch and its frame size"
        )
    return jnp.concatenate([past, x_BTHWC], axis=1)


def inside(extent: tuple[int, int], height: int, width: int) -> jax.Array:
    """Returns a bool mask [1, 1, H, W, 1], True within the extent."""
    rows, columns = jnp.arange(height) < extent[0], jnp.arange(width) < extent[1]
    return jnp.logical_and(*jnp.meshgrid(rows, columns, indexing="ij"))[None, None, ..., None]


def zero_outside(x_BTHWC: jax.Array, extent: Extent) -> jax.Array:
    """Returns x with zeros outside the extent."""
    if extent is None:
        return x_BTHWC
    return jnp.where(inside(extent, *x_BTHWC.shape[2:4]), x_BTHWC, 0.0)


def chain(layers, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
    """Applies layers one after another, each with its own past."""
    after = []
    for layer, before in zip(layers, past or (None,) * len(layers), strict=True):
        x, now = layer(x, before)
        after.append(now)
    return x, tuple(after)


def stack_frames(x_BTHWC: jax.Array, stride: int = 1) -> jax.Array:
    """Concatenates three neighbouring frames along the channels, in the order (frame, channel).

    Args:
      x_BTHWC: [B, T, H, W, C], T at least 3.
      stride: frames from one triple to the next.

    Returns:
      [B, (T - 3) // stride + 1, H, W, 3 C].
    """
    last = x_BTHWC.shape[1] - _KERNEL + 1
    shifted = [x_BTHWC[:, k : last + k : stride] for k in range(_KERNEL)]
    return jnp.concatenate(shifted, axis=-1)


class CausalConv(nn.Module, kw_only=True):
    """3x3x3 convolution over a frame and the two before it; remembers its last two inputs.

    Attributes:
      features: number of output channels F.
      dtype: of the inputs and the kernel as they are used; the parameters are float32.
      output_dtype: of the outputs, `dtype` by default.
      kernel_init: initialiser of `kernel` [3, 3, 3, C, F].
      extent: see the module docstring.
    """

    features: int
    dtype: Any = jnp.float32
    output_dtype: Any = None
    kernel_init: Any = nn.initializers.lecun_normal()
    extent: Extent = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        x = zero_outside(x_BTHWC.astype(self.dtype), self.extent)
        known = prepend_past(x, past, _KERNEL - 1)
        # Let the convolution pad the first frames itself: it computes no gradient for that padding.
        x, lead = (x, _KERNEL - 1) if past is None else (known, 0)
        convolve = conv_3x3 if self.extent is None else native_conv_3x3
        y = apply_with_bias(
            self,
            x,
            (_KERNEL, _KERNEL, _KERNEL, x.shape[-1], self.features),
            lambda x, kernel: convolve(x, kernel, lead, self.output_dtype),
            self.kernel_init,
        )
        return y, known[:, -(_KERNEL - 1) :]


class Norm(nn.Module):
    """RMSNorm over channels or GroupNorm within frames, computed at least in float32.

    Nothing is averaged over time: that would leak the future.

    References:
      Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
      Wu and He, Group Normalization, 2018.
    """

    spec: LayerSpec = LayerSpec()

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        x = raise_precision(x_BTHWC)
        # dtype=None keeps the precision of x: float32 or float64.
        if self.spec.norm == "position":
            y = nn.RMSNorm(epsilon=1e-6, dtype=None, name="norm")(x)
        else:
            groups = math.gcd(x.shape[-1], _GROUPS)
            norm = nn.GroupNorm(groups, dtype=None, use_fast_variance=False, name="norm")
            frames = x.reshape(-1, *x.shape[2:])
            mask = None
            if self.spec.extent is not None:
                mask = jnp.broadcast_to(inside(self.spec.extent, *x.shape[2:4])[0], frames.shape)
            y = norm(frames, mask=mask).reshape(x.shape)
        return y.astype(self.spec.dtype)


def preactivate(norm, conv):
    """Returns the layer conv(silu(norm(x)))."""
    return lambda x, past: conv(nn.silu(norm(x)), past)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); begins as the identity."""

    spec: LayerSpec = LayerSpec()

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec = self.spec
        conv = functools.partial(
            CausalConv, features=x_BTHWC.shape[-1], dtype=spec.dtype, extent=spec.extent
        )
        layers = [
            preactivate(Norm(spec, name="norm_0"), conv(name="conv_0")),
            preactivate(
                Norm(spec, name="norm_1"),
                conv(kernel_init=nn.initializers.zeros, name="conv_1"),
            ),
        ]
        y, past = chain(layers, x_BTHWC, past)
        return x_BTHWC + y, past


class Stage(nn.Module, kw_only=True):
    """`depth` residual blocks as one scanned block, rematerialised in the backward pass."""

    depth: int
    spec: LayerSpec = LayerSpec()

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        blocks = nn.scan(
            nn.remat(ResBlock, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        return blocks(self.spec, name="blocks")(x_BTHWC, past)


def attend_within_frames(query_key_value: jax.Array, extent: Extent = None) -> jax.Array:
    """Single-head attention among the positions of each frame; softmax at least in float32.

    Args:
      query_key_value: [B, T, H, W, 3 C], queries, keys and values in this order.
      extent: see the module docstring.

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


class SpatialAttention(nn.Module):
    """Residual single-head attention: each position attends to all positions of its frame.

    Remembers nothing.
    """

    spec: LayerSpec = LayerSpec()

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        channels, dtype = x_BTHWC.shape[-1], self.spec.dtype
        h = Norm(self.spec, name="norm")(x_BTHWC)
        h = nn.Dense(3 * channels, dtype=dtype, name="query_key_value")(h)
        h = attend_within_frames(h, self.spec.extent)
        out = nn.Dense(channels, dtype=dtype, kernel_init=nn.initializers.zeros, name="out")
        return x_BTHWC + out(h), ()


class SpatialDown(nn.Module, kw_only=True):
    """Halves height and width of each frame. Remembers nothing."""

    features: int
    spec: LayerSpec = LayerSpec()

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec = self.spec
        convolve = down_conv if spec.extent is None else native_down_conv
        conv = DownConv(features=self.features, dtype=spec.dtype, convolve=convolve, name="conv")
        return map_frames(conv, zero_outside(x_BTHWC, spec.extent)), ()


class SpatialUp(nn.Module, kw_only=True):
    """Doubles height and width of each frame. Remembers nothing."""

    features: int
    spec: LayerSpec = LayerSpec()

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec = self.spec
        convolve = up_conv if spec.extent is None else native_up_conv
        conv = UpConv(features=self.features, dtype=spec.dtype, convolve=convolve, name="conv")
        return map_frames(conv, zero_outside(x_BTHWC, spec.extent)), ()


def map_frames(layer, x_BTHWC: jax.Array) -> jax.Array:
    """Applies a layer of images [N, H, W, C] to every frame."""
    y_NHWC = layer(x_BTHWC.reshape(-1, *x_BTHWC.shape[2:]))
    return y_NHWC.reshape(*x_BTHWC.shape[:2], *y_NHWC.shape[1:])


class TemporalDown(nn.Module, kw_only=True):
    """Maps 1 + 2n frames to 1 + n, and 2n later frames to n.

    Output frame j depends on the input frames 2j - 2, 2j - 1 and 2j; the first frame is alone.
    Remembers its last input.
    """

    features: int
    spec: LayerSpec = LayerSpec()

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        x = prepend_past(x_BTHWC.astype(self.spec.dtype), past, _KERNEL - 1)
        dense = nn.Dense(self.features, dtype=self.spec.dtype, name="conv")
        return dense(stack_frames(x, stride=2)), x[:, -1:]


class TemporalUp(nn.Module, kw_only=True):
    """Maps 1 + n frames to 1 + 2n, and n later frames to 2n.

    Input frame j gives the output frames 2j - 1 and 2j, which depend on it and on the two input
    frames before it. Remembers its last two inputs.
    """

    features: int
    spec: LayerSpec = LayerSpec()

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        batch, length, height, width, _ = x_BTHWC.shape
        x = prepend_past(x_BTHWC.astype(self.spec.dtype), past, _KERNEL - 1)
        pairs = nn.Dense(2 * self.features, dtype=self.spec.dtype, name="conv")(stack_frames(x))
        pairs = pairs.reshape(batch, length, height, width, 2, self.features)
        y = jnp.moveaxis(pairs, 4, 2).reshape(batch, 2 * length, height, width, self.features)
        # The first input frame gives one output frame: drop the other of its pair.
        return y[:, 1:] if past is None else y, x[:, -(_KERNEL - 1) :]


class Head(nn.Module, kw_only=True):
    """Norm, SiLU and a convolution whose output is at least float32."""

    features: int
    spec: LayerSpec = LayerSpec()

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec = self.spec
        conv = CausalConv(
            features=self.features,
            dtype=spec.dtype,
            output_dtype=jnp.promote_types(spec.dtype, jnp.float32),
            extent=spec.extent,
            name="conv",
        )
        return preactivate(Norm(spec, name="norm"), conv)(x_BTHWC, past)
