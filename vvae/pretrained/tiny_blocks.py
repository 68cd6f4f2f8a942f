"""Blocks of the tiny autoencoders TAESD and TAEHV: convolutions and ReLU, numbered in sequence.

The published networks are sequences of layers, in which layers without parameters count too. A
layer is made from its name, which ends with its number.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.causal_blocks import Past, prepend_past
from vvae.pretrained.layers import (
    GroupNorm,
    Layer,
    PointwiseConv,
    SpatialConv,
    frame_conv_3x3,
    stateless,
)

Maker = Callable[[str], Layer]

_CLAMP = 3.0


def number_layers(makers: list[Maker], prefix: str, first: int = 0) -> list[Layer]:
    """Makes layers named PREFIX followed by their number in the sequence."""
    return [make(f"{prefix}{number}") for number, make in enumerate(makers, start=first)]


def apply(function: Callable[[jax.Array], jax.Array]) -> Maker:
    """Returns the maker of a layer without parameters."""
    return lambda name: stateless(function)


def conv(features: int, dtype, *, convolve=frame_conv_3x3, use_bias: bool = True) -> Maker:
    """Returns the maker of a 3x3 convolution of each frame."""
    settings = {"features": features, "convolve": convolve, "use_bias": use_bias, "dtype": dtype}
    return lambda name: stateless(SpatialConv(**settings, name=name))


def clamp(z: jax.Array) -> jax.Array:
    """Limits latents smoothly to (-3, 3)."""
    return jnp.tanh(z / _CLAMP) * _CLAMP


def run_convs(x: jax.Array, features: int, dtype) -> jax.Array:
    """Applies three 3x3 convolutions of each frame, numbered 0, 2 and 4, with ReLU between."""
    for number in (0, 2, 4):
        x = nn.relu(x) if number else x
        settings = {"features": features, "convolve": frame_conv_3x3, "dtype": dtype}
        x = SpatialConv(**settings, name=f"conv.{number}")(x)
    return x


class Block(nn.Module, kw_only=True):
    """relu(x + three convolutions of x), after statistics of the whole frame where it is `pooled`.

    Remembers nothing.
    """

    pooled: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        channels = x.shape[-1]
        if self.pooled:
            settings = {"num_axes": 2, "use_bias": False, "dtype": self.dtype}
            h = PointwiseConv(features=4 * channels, **settings, name="pool.0")(x)
            norm = GroupNorm(groups=4, epsilon=1e-5, dtype=self.dtype, name="pool.1")
            x = x + PointwiseConv(features=channels, **settings, name="pool.3")(nn.relu(norm(h)))
        return nn.relu(x + run_convs(x, channels, self.dtype)), ()


class MemoryBlock(nn.Module, kw_only=True):
    """relu(x + three convolutions of x and of the frame before it). Remembers its last input."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        known = prepend_past(x, past, 1)
        pairs = jnp.concatenate([x, known[:, :-1]], axis=-1)
        return nn.relu(x + run_convs(pairs, x.shape[-1], self.dtype)), known[:, -1:]


class JoinFrames(nn.Module, kw_only=True):
    """Projects `count` neighbouring frames to one. Remembers nothing."""

    count: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        batch, length, height, width, channels = x.shape
        x = x.reshape(batch, length // self.count, self.count, height, width, channels)
        x = jnp.moveaxis(x, 2, 4).reshape(*x.shape[:2], height, width, -1)
        settings = {"features": channels, "num_axes": 2, "use_bias": False, "dtype": self.dtype}
        return PointwiseConv(**settings, name="conv")(x), ()


class PartFrames(nn.Module, kw_only=True):
    """Projects a frame to `count` frames. Remembers nothing."""

    count: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        batch, length, height, width, channels = x.shape
        settings = {"num_axes": 2, "use_bias": False, "dtype": self.dtype}
        x = PointwiseConv(features=self.count * channels, **settings, name="conv")(x)
        x = jnp.moveaxis(x.reshape(batch, length, height, width, self.count, channels), 4, 2)
        return x.reshape(batch, self.count * length, height, width, channels), ()
