"""Blocks of DC-AE: residual blocks, multi-scale linear attention, and steps between resolutions.

References:
  See `vvae.pretrained.dc`.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.causal_blocks import Past
from vvae.pretrained.layers import (
    Layer,
    PointwiseConv,
    SpatialConv,
    apply_kernel,
    average_down,
    frame_conv_3x3,
    halve_centred,
    repeat_up,
    up_conv_3x3,
)

_SMALLEST_SUM = 1e-15


class ChannelNorm(nn.Module, kw_only=True):
    """Divides by the root mean square of the channels of a position; at least in float32."""

    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        channels = x_BTHWC.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,)).reshape(1, 1, 1, 1, -1)
        bias = self.param("bias", nn.initializers.zeros, (channels,)).reshape(1, 1, 1, 1, -1)
        x = raise_precision(x_BTHWC)
        square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(square + self.epsilon) * scale + bias).astype(self.dtype)


class ConvBlock(nn.Module, kw_only=True):
    """x + norm(conv(activation(conv(x)))). Remembers nothing."""

    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        settings = {"features": x.shape[-1], "convolve": frame_conv_3x3, "dtype": self.dtype}
        h = getattr(nn, self.activation)(SpatialConv(**settings, name="conv1")(x))
        h = SpatialConv(**settings, use_bias=False, name="conv2")(h)
        return x + ChannelNorm(dtype=self.dtype, name="norm")(h), ()


class DepthwiseConv(nn.Module, kw_only=True):
    """Convolves each channel of each frame by itself; pads with zeros.

    Attributes:
      size: rows and columns of the kernel [size, size, 1, C].
      use_bias: whether there is a bias.
      dtype: of the activations; the parameters are float32.
    """

    size: int
    use_bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width, channels = x.shape[2:]

        def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
            margin = (self.size // 2,) * 2
            x = jnp.pad(x, ((0, 0), (0, 0), margin, margin, (0, 0)))
            return sum(
                x[:, :, i : i + height, j : j + width] * kernel[i, j].reshape(1, 1, 1, 1, -1)
                for i in range(self.size)
                for j in range(self.size)
            )

        return apply_kernel(self, x, (self.size, self.size, 1, channels), convolve)


class GroupedConv(nn.Module, kw_only=True):
    """Mixes the channels within each group of a position: kernel [1, 1, size, C], no bias."""

    size: int
    dtype: Any

    use_bias = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, channels = self.size, x.shape[-1]

        def mix(x: jax.Array, kernel: jax.Array) -> jax.Array:
            groups = x.reshape(*x.shape[:-1], channels // size, size)
            mixed = jnp.einsum("bthwgi,igo->bthwgo", groups, kernel.reshape(size, -1, size))
            return mixed.reshape(x.shape)

        return apply_kernel(self, x, (1, 1, size, channels), mix)


class LinearAttention(nn.Module, kw_only=True):
    """x + norm(attention of x with relu(query) relu(key) as weights), within each frame.

    Attributes:
      head: channels of a head.
      scales: sizes of the neighbourhoods that give further heads.
      dtype: of the activations.
    """

    head: int
    scales: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        inner = channels // self.head * self.head
        settings = {"num_axes": 0, "use_bias": False, "dtype": self.dtype}
        mixed = [PointwiseConv(features=inner, **settings, name=f"to_{name}")(x) for name in "qkv"]
        heads = [jnp.concatenate(mixed, axis=-1)]
        for number, scale in enumerate(self.scales):
            path = f"to_qkv_multiscale.{number}"
            conv = {"size": scale, "use_bias": False, "dtype": self.dtype}
            h = DepthwiseConv(**conv, name=f"{path}.proj_in")(heads[0])
            heads.append(GroupedConv(size=self.head, dtype=self.dtype, name=f"{path}.proj_out")(h))
        y = self._attend(jnp.concatenate(heads, axis=-1)).astype(self.dtype)
        y = PointwiseConv(features=channels, **settings, name="to_out")(y)
        return x + ChannelNorm(dtype=self.dtype, name="norm_out")(y)

    def _attend(self, x_BTHWC: jax.Array) -> jax.Array:
        """Applies each head: 3 `head` neighbouring channels are its query, key and value."""
        batch, length, height, width, channels = x_BTHWC.shape
        x = raise_precision(x_BTHWC).reshape(batch, length, height * width, -1, 3 * self.head)
        query, key, value = jnp.split(x, 3, axis=-1)
        query, key = nn.relu(query), nn.relu(key)
        found = jnp.einsum(
            "btnhd,bthde->btnhe", query, jnp.einsum("btnhd,btnhe->bthde", key, value)
        )
        total = jnp.einsum("btnhd,bthd->btnh", query, key.sum(2))[..., None]
        return (found / (total + _SMALLEST_SUM)).reshape(*x_BTHWC.shape[:-1], channels // 3)


class GatedConv(nn.Module, kw_only=True):
    """x + norm of a gated convolution of each channel, among four times the channels."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        settings = {"num_axes": 2, "dtype": self.dtype}
        h = PointwiseConv(features=8 * channels, **settings, name="conv_inverted")(x)
        conv = DepthwiseConv(size=3, use_bias=True, dtype=self.dtype, name="conv_depth")
        h, gate = jnp.split(conv(nn.silu(h)), 2, axis=-1)
        settings |= {"features": channels, "use_bias": False}
        h = PointwiseConv(**settings, name="conv_point")(h * nn.silu(gate))
        return x + ChannelNorm(dtype=self.dtype, name="norm")(h)


class AttentionBlock(nn.Module, kw_only=True):
    """Linear attention and a gated convolution; see `LinearAttention`. Remembers nothing."""

    head: int
    scales: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        settings = {"head": self.head, "scales": self.scales, "dtype": self.dtype}
        x = LinearAttention(**settings, name="attn")(x)
        return GatedConv(dtype=self.dtype, name="conv_out")(x), ()


class Down(nn.Module, kw_only=True):
    """Halves height and width by a convolution, plus averages of the input. Remembers nothing.

    Attributes:
      features: channels of the result.
      shifts: whether positions are moved into channels, or the convolution has a stride.
      shortcut: whether averages are added.
      dtype: of the activations.
    """

    features: int
    shifts: bool
    dtype: Any
    shortcut: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        if self.shifts:
            settings = {"features": self.features // 4, "convolve": frame_conv_3x3}
            y = SpatialConv(**settings, dtype=self.dtype, name="conv")(x)
            y = average_down(y, self.features, 1, 2)
        else:
            settings = {"features": self.features, "convolve": halve_centred}
            y = SpatialConv(**settings, dtype=self.dtype, name="conv")(x)
        return (y + average_down(x, self.features, 1, 2) if self.shortcut else y), ()


class Up(nn.Module, kw_only=True):
    """Doubles height and width by a convolution, plus repetitions of the input; see `Down`."""

    features: int
    shifts: bool
    dtype: Any
    shortcut: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        if self.shifts:
            settings = {"features": 4 * self.features, "convolve": frame_conv_3x3}
            y = SpatialConv(**settings, dtype=self.dtype, name="conv")(x)
            y = repeat_up(y, self.features, 1, 2)
        else:
            settings = {"features": self.features, "convolve": up_conv_3x3}
            y = SpatialConv(**settings, dtype=self.dtype, name="conv")(x)
        return (y + repeat_up(x, self.features, 1, 2) if self.shortcut else y), ()


@dataclass(frozen=True)
class Side:
    """Settings of the encoder or of the decoder; each tuple is finest resolution first.

    Attributes:
      widths: channels at each resolution.
      depths: blocks at each resolution; with none at the finest, the first step skips it.
      attends: whether the blocks of a resolution have attention.
      scales: sizes of the neighbourhoods of that attention.
      activations: of the blocks without attention, "silu" or "relu".
      shifts: whether steps move positions into channels, or a convolution has a stride.
      shortcut: whether averages or repetitions are added beside the latents' convolution.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    depths: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    attends: tuple[bool, ...] = (False,) * 6
    scales: tuple[tuple[int, ...], ...] = ((),) * 3 + ((5,),) * 3
    activations: tuple[str, ...] = ("silu",) * 6
    shifts: bool = True
    shortcut: bool = True

    def make_blocks(self, level: int, names: list[str], head: int, dtype) -> list[Layer]:
        """Makes the blocks of a level."""
        if self.attends[level]:
            settings = {"head": head, "scales": self.scales[level], "dtype": dtype}
            return [AttentionBlock(**settings, name=name) for name in names]
        settings = {"activation": self.activations[level], "dtype": dtype}
        return [ConvBlock(**settings, name=name) for name in names]
