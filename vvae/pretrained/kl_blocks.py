"""The network that most published autoencoders share: residual blocks, steps and one attention.

    encoder: conv_in, levels of residual blocks with a step to the next resolution, mid, head
    decoder: conv_in, mid, levels of residual blocks with a step to the next resolution, head

A `Spec` makes the layers. `FrameSpec` makes those of the image autoencoders, which see each frame
by itself; families with other norms, convolutions or steps derive their own from it.

References:
  Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022, section 3.1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.causal_blocks import Past, attend_within_frames, chain, preactivate
from vvae.pretrained.layers import (
    GroupNorm,
    Layer,
    PointwiseConv,
    SpatialConv,
    SpatialResample,
    down_conv_3x3,
    frame_conv_3x3,
    stateless,
    up_conv_3x3,
)


@dataclass(frozen=True)
class FrameSpec:
    """Makes the layers of a network that sees each frame by itself.

    Attributes:
      groups: of the norms.
      dtype: of the activations.
    """

    groups: int = 32
    dtype: Any = jnp.float32

    # Names of the last norm, of the list of blocks of a level, and of the steps.
    last_norm: ClassVar[str] = "conv_norm_out"
    blocks: ClassVar[str] = "resnets"
    steps: ClassVar[tuple[str, str]] = ("downsamplers.0", "upsamplers.0")
    # Name of the norm of an attention, and axes of length one in its published weights.
    attention_norm: ClassVar[str] = "group_norm"
    attention_axes: ClassVar[int] = 0

    def make_blocks(self, features: int, depth: int) -> list[Layer]:
        """Makes the residual blocks of a level."""
        return [self.make_block(features, f"{self.blocks}.{i}") for i in range(depth)]

    def see_latents(self, z_BthwZ: jax.Array) -> Self:
        """Returns what makes the layers of a decoder of these latents."""
        return self

    def make_norm(self, name: str) -> Callable[[jax.Array], jax.Array]:
        """Makes a norm."""
        return GroupNorm(groups=self.groups, dtype=self.dtype, name=name)

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a convolution that keeps the size."""
        conv = SpatialConv(features=features, convolve=frame_conv_3x3, dtype=self.dtype, name=name)
        return stateless(conv)

    def make_shortcut(self, features: int, name: str) -> Callable[[jax.Array], jax.Array]:
        """Makes the projection of the input of a residual block that changes the channels."""
        return PointwiseConv(features=features, num_axes=2, dtype=self.dtype, name=name)

    def make_block(self, features: int, name: str) -> Layer:
        """Makes a residual block."""
        return ResBlock(features=features, spec=self, name=name)

    def make_attention(self, name: str) -> Layer:
        """Makes the attention in the middle."""
        return FrameAttention(spec=self, name=name)

    def make_down(self, step: Any, name: str) -> Layer:
        """Makes the step to the next coarser resolution."""
        return SpatialResample(convolve=down_conv_3x3, dtype=self.dtype, name=name)

    def make_up(self, step: Any, name: str) -> Layer:
        """Makes the step to the next finer resolution."""
        return SpatialResample(convolve=up_conv_3x3, dtype=self.dtype, name=name)

    def make_head(self, features: int) -> Layer:
        """Makes norm, SiLU and a convolution whose output is at least float32."""
        spec = replace(self, dtype=jnp.promote_types(self.dtype, jnp.float32))
        return preactivate(spec.make_norm(self.last_norm), spec.make_conv(features, "conv_out"))


class ResBlock(nn.Module, kw_only=True):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x projected if the channels change."""

    features: int
    spec: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec, features = self.spec, self.features
        layers = [
            preactivate(spec.make_norm(f"norm{i}"), spec.make_conv(features, f"conv{i}"))
            for i in (1, 2)
        ]
        y, past = chain(layers, x, past)
        if x.shape[-1] != features:
            x = spec.make_shortcut(features, "conv_shortcut")(x)
        return x + y, past


class FrameAttention(nn.Module, kw_only=True):
    """Residual single-head attention among the positions of each frame. Remembers nothing."""

    spec: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec = self.spec
        dense = make_dense(x.shape[-1], spec.dtype, spec.attention_axes)
        h = spec.make_norm(spec.attention_norm)(x)
        h = jnp.concatenate([dense(f"to_{name}")(h) for name in "qkv"], axis=-1)
        return x + dense("to_out.0")(attend_within_frames(h)), ()


def make_dense(features: int, dtype, num_axes: int = 0) -> Callable[[str], PointwiseConv]:
    """Returns a function: name -> a linear layer; see `PointwiseConv`."""
    return lambda name: PointwiseConv(features=features, num_axes=num_axes, dtype=dtype, name=name)


class Level(nn.Module, kw_only=True):
    """Residual blocks of one resolution, with the step from or to another one, if there is one.

    Attributes:
      features: channels of the blocks.
      depth: number of blocks.
      first: makes the step before the blocks; None for no step.
      step: makes the step after the blocks; None for no step.
      spec: makes the blocks.
    """

    features: int
    depth: int
    spec: Any
    first: Callable[[], Layer] | None = None
    step: Callable[[], Layer] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        layers = [] if self.first is None else [self.first()]
        layers += self.spec.make_blocks(self.features, self.depth)
        if self.step is not None:
            layers.append(self.step())
        return chain(layers, x, past)


class MidBlock(nn.Module, kw_only=True):
    """Residual blocks at the coarsest resolution, with an attention after the first.

    Attributes:
      spec: makes the layers.
      has_attention: whether there is the attention.
      depth: number of blocks.
    """

    spec: Any
    has_attention: bool = True
    depth: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        layers = self.spec.make_blocks(x.shape[-1], self.depth)
        if self.has_attention:
            layers.insert(1, self.spec.make_attention("attentions.0"))
        return chain(layers, x, past)


@dataclass(frozen=True)
class Stack:
    """Settings of an encoder or a decoder.

    Attributes:
      widths: channels at each resolution, finest first.
      steps: what `spec.make_down` or `spec.make_up` gets for the step after each level, in the
        order of the levels; None for no step.
      depth: residual blocks of each level.
      has_attention: whether there is an attention in the middle.
      middle: residual blocks in the middle.
      entry: channels of the first convolution; None for those of the level beside it.
    """

    widths: tuple[int, ...]
    steps: tuple[Any, ...]
    depth: int
    has_attention: bool = True
    middle: int = 2
    entry: int | None = None

    def make_middle(self, spec) -> MidBlock:
        """Makes the layers at the coarsest resolution."""
        settings = {"has_attention": self.has_attention, "depth": self.middle}
        return MidBlock(spec=spec, **settings, name="mid_block")

    def list_levels(self, widths, name: str, make_step, spec) -> list[Level]:
        """Makes the levels of these widths, named NAME.NUMBER."""
        levels = []
        for i, (width, step) in enumerate(zip(widths, self.steps, strict=True)):
            make = None if step is None else (lambda step=step: make_step(step))
            level = Level(
                features=width, depth=self.depth, spec=spec, step=make, name=f"{name}.{i}"
            )
            levels.append(level)
        return levels


class Encoder(nn.Module, kw_only=True):
    """Maps [B, T, H, W, C] to [B, t, h, w, features]."""

    stack: Stack
    features: int
    spec: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec, stack = self.spec, self.stack

        def make_step(step) -> Layer:
            return spec.make_down(step, spec.steps[0])

        layers = [
            spec.make_conv(stack.entry or stack.widths[0], "conv_in"),
            *stack.list_levels(stack.widths, "down_blocks", make_step, spec),
            stack.make_middle(spec),
            spec.make_head(self.features),
        ]
        return chain(layers, x, past)


class Decoder(nn.Module, kw_only=True):
    """Maps [B, t, h, w, Z] to [B, T, H, W, channels]."""

    stack: Stack
    channels: int
    spec: Any

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec, stack = self.spec.see_latents(z), self.stack

        def make_step(step) -> Layer:
            return spec.make_up(step, spec.steps[1])

        layers = [
            spec.make_conv(stack.entry or stack.widths[-1], "conv_in"),
            stack.make_middle(spec),
            *stack.list_levels(stack.widths[::-1], "up_blocks", make_step, spec),
            spec.make_head(self.channels),
        ]
        return chain(layers, z, past)
