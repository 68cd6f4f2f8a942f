"""Blocks of the video VAEs of LTX-Video and LTX-2.

Residual blocks with norms over the channels of each position, and steps that move positions into
channels and back. Decoders may be conditioned on a timestep and add noise; see `ltx`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vvae.distributions import raise_precision
from vvae.models.causal_blocks import Past, chain, preactivate
from vvae.pretrained.layers import (
    EdgePaddedConv,
    Layer,
    PointwiseConv,
    StridedConv,
    average_down,
    fold_patches,
    repeat_up,
    unfold_patches,
)

STEPS = {"conv": (2, 2), "spatial": (1, 2), "temporal": (2, 1), "spatiotemporal": (2, 2)}
"""Kind of a step to a coarser resolution -> factors by which it compresses (time, space)."""

_NORM_EPSILON = 1e-8
_NUM_FREQUENCIES = 128
_LONGEST_PERIOD = 10_000.0


@dataclass(frozen=True)
class Encoding:
    """Settings of the encoder; each tuple is finest resolution first.

    Attributes:
      widths: channels at each resolution; one more than there are steps if `merged`.
      depths: residual blocks at each resolution, and in the middle.
      steps: kind of the step after each resolution, a key of `STEPS`, or "" for none.
      merged: whether a step changes the channels itself (0.9.5), or a residual block after it.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    depths: tuple[int, ...] = (4, 3, 3, 3, 4)
    steps: tuple[str, ...] = ("conv", "conv", "conv", "")
    merged: bool = False


@dataclass(frozen=True)
class Decoding:
    """Settings of the decoder; each tuple is finest resolution first.

    Attributes:
      widths: channels at each resolution, before they are divided by `factors`.
      depths: residual blocks at each resolution, and in the middle.
      steps: kind of the step before each resolution, a key of `STEPS` but "conv", or "" for none.
      residual: whether that step has a shortcut.
      factors: what that step divides the channels by.
      causal: whether no frame depends on later latents.
      noisy: whether noise is added at each resolution, and in the middle.
      timestep: noise level of the latents, in [0, 1], that the decoder is conditioned on; None
        without timestep conditioning.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    depths: tuple[int, ...] = (4, 3, 3, 3, 4)
    steps: tuple[str, ...] = ("spatiotemporal",) * 3 + ("",)
    residual: tuple[bool, ...] = (False,) * 4
    factors: tuple[int, ...] = (1,) * 4
    causal: bool = False
    noisy: tuple[bool, ...] = (False,) * 5
    timestep: float | None = None


@dataclass(frozen=True)
class BlockSpec:
    """Settings that the blocks of an encoder or of a decoder share.

    Attributes:
      causal: whether no frame depends on later ones.
      epsilon: of the norms of shortcuts.
      dtype: of the activations.
      borders: padding of rows and columns, see `pad_borders`.
      shortcut: name of the projection in a block that changes the channels.
    """

    causal: bool
    epsilon: float
    dtype: Any
    borders: str = "zeros"
    shortcut: str = "conv_shortcut.conv"

    def make_conv(self, features: int, name: str) -> EdgePaddedConv:
        """Makes a 3x3x3 convolution."""
        settings = {"features": features, "causal": self.causal, "borders": self.borders}
        return EdgePaddedConv(**settings, dtype=self.dtype, name=name)


def normalize(x: jax.Array) -> jax.Array:
    """Divides by the root mean square of the channels, at least in float32."""
    h = raise_precision(x)
    squares = jnp.mean(jnp.square(h), axis=-1, keepdims=True)
    return (h * jax.lax.rsqrt(squares + _NORM_EPSILON)).astype(x.dtype)


class TimestepEmbedding(nn.Module):
    """Embeds a timestep by cosines, sines and two dense layers: a scalar -> [features]."""

    features: int

    @nn.compact
    def __call__(self, timestep: jax.Array) -> jax.Array:
        exponents = np.arange(_NUM_FREQUENCIES) / _NUM_FREQUENCIES
        angles = timestep * jnp.asarray(_LONGEST_PERIOD**-exponents, timestep.dtype)
        waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])
        hidden = nn.silu(nn.Dense(self.features, name="linear_1")(waves))
        return nn.Dense(self.features, name="linear_2")(hidden)


def _embed(timestep: jax.Array | None, features: int) -> jax.Array | None:
    """Embeds a timestep, under its published name; returns None without a timestep."""
    if timestep is None:
        return None
    return TimestepEmbedding(features, name="time_embedder.timestep_embedder")(timestep)


def _read_embedding(
    module: nn.Module, embedding: jax.Array | None, count: int
) -> list[Callable[[jax.Array], jax.Array]]:
    """Returns `count` functions that shift and scale activations by an embedding [2 count C].

    The 2 count rows of C numbers get learned offsets. Without an embedding, the functions return
    their argument.
    """
    if embedding is None:
        return [lambda h: h] * count
    rows = embedding.reshape(2 * count, -1)
    init = nn.initializers.normal(rows.shape[1] ** -0.5)
    rows = rows + module.param("scale_shift_table", init, rows.shape)
    return [
        functools.partial(_modulate, shift=rows[2 * k], scale=rows[2 * k + 1]) for k in range(count)
    ]


def _modulate(h: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    shift, scale = (a.astype(h.dtype).reshape((1,) * (h.ndim - 1) + (-1,)) for a in (shift, scale))
    return h * (1 + scale) + shift


class ResBlock(nn.Module, kw_only=True):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x normed and projected if the channels change.

    With an embedding of the timestep [4 C], each norm is followed by a shift and a scale. If the
    block is `noisy`, each convolution is followed by noise.
    """

    features: int
    spec: BlockSpec
    noisy: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, past: Past, embedding: jax.Array | None = None
    ) -> tuple[jax.Array, Past]:
        dtype = self.spec.dtype
        layers = [
            preactivate(
                lambda h, modulate=modulate: modulate(normalize(h)), self._make_noisy_conv(number)
            )
            for number, modulate in enumerate(_read_embedding(self, embedding, 2), start=1)
        ]
        y, past = chain(layers, x, past)
        if x.shape[-1] != self.features:
            norm = nn.LayerNorm(self.spec.epsilon, use_fast_variance=False, name="norm3")
            x = norm(raise_precision(x)).astype(dtype)
            x = PointwiseConv(features=self.features, dtype=dtype, name=self.spec.shortcut)(x)
        return x + y, past

    def _make_noisy_conv(self, number: int) -> Layer:
        """Makes a convolution that adds noise to its output if the block is noisy."""
        conv = self.spec.make_conv(self.features, f"conv{number}")

        def convolve(h, past):
            h, past = conv(h, past)
            return self._add_noise(h, f"per_channel_scale{number}"), past

        return convolve

    def _add_noise(self, h_BTHWC: jax.Array, name: str) -> jax.Array:
        """Adds noise of its own to each position, if the block is noisy and there is a key."""
        if not self.noisy:
            return h_BTHWC
        scale = self.param(name, nn.initializers.zeros, (self.features, 1, 1))
        if not self.has_rng("noise"):
            return h_BTHWC
        noise_HW = jax.random.normal(self.make_rng("noise"), h_BTHWC.shape[2:4], h_BTHWC.dtype)
        scale = scale.astype(h_BTHWC.dtype).reshape(1, 1, 1, 1, -1)
        return h_BTHWC + noise_HW[None, None, :, :, None] * scale


class SpaceToDepthDown(nn.Module, kw_only=True):
    """Moves neighbouring positions of a convolution into channels, and adds averages of the input.

    Attributes:
      features: channels of the result.
      in_time: number of frames that become one.
      in_space: number of rows, and of columns, that become one.
      spec: of the blocks.
    """

    features: int
    in_time: int
    in_space: int
    spec: BlockSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        if past is None:
            x = jnp.concatenate([x[:, : self.in_time - 1], x], axis=1)
        factor = self.in_time * self.in_space**2
        y, past = self.spec.make_conv(self.features // factor, "conv")(x, past)
        # Groups of one number: moves positions into channels, averages nothing.
        y = average_down(y, y.shape[-1] * factor, self.in_time, self.in_space)
        return y + average_down(x, self.features, self.in_time, self.in_space), past


class DepthToSpaceUp(nn.Module, kw_only=True):
    """Moves the channels of a convolution to neighbouring positions.

    Attributes:
      in_time: number of frames that a frame becomes.
      in_space: number of rows, and of columns, that each becomes.
      residual: whether the input, spread in the same way, is added.
      factor: what the channels are divided by.
      spec: of the blocks.
    """

    in_time: int
    in_space: int
    residual: bool
    factor: int
    spec: BlockSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        features, spread = x.shape[-1] // self.factor, (self.in_time, self.in_space)
        size = self.in_time * self.in_space**2
        y, after = self.spec.make_conv(size * features, "conv")(x, past)
        y = repeat_up(y, features, *spread)
        if self.residual:
            shortcut = repeat_up(x, x.shape[-1] // size, *spread)
            y = y + jnp.tile(shortcut, (1, 1, 1, 1, size // self.factor))
        # The first frame gives one frame: keep the last of those that it becomes.
        return y[:, self.in_time - 1 :] if past is None else y, after


class DownBlock(nn.Module, kw_only=True):
    """Residual blocks and the step to the next resolution, if there is one.

    Attributes:
      features: channels of the next resolution.
      depth: number of residual blocks.
      step, merged: see `Encoding`.
      spec: of the blocks.
    """

    features: int
    depth: int
    step: str
    merged: bool
    spec: BlockSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        width, spec, name = x.shape[-1], self.spec, "downsamplers.0"
        layers: list = _make_blocks(self.depth, features=width, spec=spec)
        if self.step == "conv":
            layers.append(StridedConv(dtype=spec.dtype, name=name))
        elif self.step:
            time, space = STEPS[self.step]
            settings = {"features": self.features, "in_time": time, "in_space": space}
            layers.append(SpaceToDepthDown(**settings, spec=spec, name=name))
        if not self.merged and width != self.features:
            layers.append(ResBlock(features=self.features, spec=spec, name="conv_out"))
        return chain(layers, x, past)


class UpBlock(nn.Module, kw_only=True):
    """The step from the previous resolution, if there is one, and residual blocks.

    Attributes:
      features: channels of the residual blocks.
      depth: number of residual blocks.
      step, residual, factor, noisy: of this resolution, see `Decoding`.
      spec: of the blocks.
    """

    features: int
    depth: int
    step: str
    residual: bool
    factor: int
    noisy: bool
    spec: BlockSpec

    @nn.compact
    def __call__(
        self, x: jax.Array, past: Past, timestep: jax.Array | None
    ) -> tuple[jax.Array, Past]:
        spec = self.spec
        common = {"features": self.features, "spec": spec, "noisy": self.noisy}
        layers: list = []
        if x.shape[-1] // self.factor != self.features:
            layers.append(ResBlock(**common, name="conv_in"))
        if self.step:
            time, space = STEPS[self.step]
            settings = {"in_time": time, "in_space": space, "residual": self.residual}
            settings |= {"factor": self.factor, "spec": spec}
            layers.append(DepthToSpaceUp(**settings, name="upsamplers.0"))
        layers += _condition(_make_blocks(self.depth, **common), self.features, timestep)
        return chain(layers, x, past)


class MidBlock(nn.Module, kw_only=True):
    """Residual blocks at the coarsest resolution."""

    depth: int
    spec: BlockSpec
    noisy: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, past: Past, timestep: jax.Array | None = None
    ) -> tuple[jax.Array, Past]:
        width = x.shape[-1]
        blocks = _make_blocks(self.depth, features=width, spec=self.spec, noisy=self.noisy)
        return chain(_condition(blocks, width, timestep), x, past)


def _make_blocks(depth: int, **settings) -> list[ResBlock]:
    return [ResBlock(**settings, name=f"resnets.{i}") for i in range(depth)]


def _condition(blocks: list[ResBlock], width: int, timestep: jax.Array | None) -> list[Layer]:
    """Returns the blocks with their common embedding of the timestep."""
    embedding = _embed(timestep, 4 * width)
    return [functools.partial(block, embedding=embedding) for block in blocks]


def _make_head(
    features: int, spec: BlockSpec, modulate: Callable[[jax.Array], jax.Array] = lambda h: h
) -> Layer:
    """Makes norm, `modulate`, SiLU and a convolution whose output is at least float32."""
    spec = replace(spec, dtype=jnp.promote_types(spec.dtype, jnp.float32))
    conv = spec.make_conv(features, "conv_out")
    return preactivate(lambda x: modulate(normalize(x.astype(spec.dtype))), conv)


class Encoder(nn.Module, kw_only=True):
    """Maps [B, T, H, W, C] to [B, t, h, w, features]."""

    net: Encoding
    patch: int
    features: int
    spec: BlockSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net, spec = self.net, self.spec
        following = (*net.widths[1:], net.widths[-1])
        layers: list = [spec.make_conv(net.widths[0], "conv_in")]
        for level, step in enumerate(net.steps):
            settings = {"features": following[level], "depth": net.depths[level]}
            settings |= {"step": step, "merged": net.merged, "spec": spec}
            layers.append(DownBlock(**settings, name=f"down_blocks.{level}"))
        layers.append(MidBlock(depth=net.depths[-1], spec=spec, name="mid_block"))
        layers.append(_make_head(self.features, spec))
        return chain(layers, fold_patches(x, self.patch), past)


class Decoder(nn.Module, kw_only=True):
    """Maps [B, t, h, w, Z] to [B, T, H, W, channels]."""

    net: Decoding
    patch: int
    channels: int
    spec: BlockSpec

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net, spec, timestep = self.net, self.spec, self._scale_timestep()
        blocks: list = [
            MidBlock(depth=net.depths[-1], noisy=net.noisy[-1], spec=spec, name="mid_block")
        ]
        for number, level in enumerate(reversed(range(len(net.widths)))):
            settings = {
                "features": net.widths[level] // net.factors[level],
                "depth": net.depths[level],
                "step": net.steps[level],
                "residual": net.residual[level],
                "factor": net.factors[level],
                "noisy": net.noisy[level],
            }
            blocks.append(UpBlock(**settings, spec=spec, name=f"up_blocks.{number}"))
        embedding = _embed(timestep, 2 * (net.widths[0] // net.factors[0]))
        (modulate,) = _read_embedding(self, embedding, 1)
        layers = [
            spec.make_conv(net.widths[-1], "conv_in"),
            *(functools.partial(block, timestep=timestep) for block in blocks),
            _make_head(self.channels * self.patch**2, spec, modulate),
        ]
        x, past = chain(layers, z, past)
        return unfold_patches(x, self.patch), past

    def _scale_timestep(self) -> jax.Array | None:
        """Returns the timestep on the scale of its embedding; None without a timestep."""
        if self.net.timestep is None:
            return None
        scale = self.param("timestep_scale_multiplier", nn.initializers.constant(1000.0), ())
        return self.net.timestep * scale
