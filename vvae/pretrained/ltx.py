"""The video VAE of LTX-Video.

It starts with 4x4 patches and compresses 8x32x32 into 128 channels with convolutions, without
attention. The encoder is causal; the decoder looks ahead unless the weights say otherwise. Time is
padded by repeating frames. All channels of a position share one log-variance.

Later decoders (0.9.1 and on) also denoise: they are conditioned on a timestep, the noise level of
the latents (`Decoding.timestep`). That of 0.9.1 adds noise of its own to the activations: one value
per position for all frames and channels, times a learned scale per channel. Decoding is a function
of the latents here, so this noise is left out unless a key for it is given: `model.apply(params, z,
method="decode", rngs={"noise": key})`.

References:
  HaCohen et al., LTX-Video: Realtime Video Latent Diffusion, 2024, arXiv:2501.00103, section 2.1.
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
from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import Past, chain, preactivate
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.family import LATENT_SCALES, Family, unscaled_latents
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    EdgePaddedConv,
    Layer,
    PointwiseConv,
    StridedConv,
    average_down,
    fold_patches,
    repeat_up,
    unfold_patches,
)

_FIRST, _LATER = "LTXVideoDownBlock3D", "LTXVideo095DownBlock3D"
# Kind of a step to a coarser resolution -> factors by which it compresses (time, space).
_STEPS = {"conv": (2, 2), "spatial": (1, 2), "temporal": (2, 1), "spatiotemporal": (2, 2)}
_NORM_EPSILON = 1e-8
_NUM_FREQUENCIES = 128
_LONGEST_PERIOD = 10_000.0

DECODE_TIMESTEP = 0.05
"""Timestep, in [0, 1], of decoders with timestep conditioning: the value in the authors' pipelines
and in the documentation of diffusers."""

DEFAULTS = {
    "AutoencoderKLLTXVideo": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 128,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": (_FIRST,) * 4,
        "decoder_block_out_channels": (128, 256, 512, 512),
        "layers_per_block": (4, 3, 3, 3, 4),
        "decoder_layers_per_block": (4, 3, 3, 3, 4),
        "spatio_temporal_scaling": (True, True, True, False),
        "decoder_spatio_temporal_scaling": (True, True, True, False),
        "decoder_inject_noise": (False,) * 5,
        "downsample_type": ("conv",) * 4,
        "upsample_residual": (False,) * 4,
        "upsample_factor": (1,) * 4,
        "timestep_conditioning": False,
        "patch_size": 4,
        "patch_size_t": 1,
        "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0,
        "encoder_causal": True,
        "decoder_causal": False,
        "spatial_compression_ratio": None,
        "temporal_compression_ratio": None,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


@dataclass(frozen=True)
class Encoding:
    """Settings of the encoder; each tuple is finest resolution first.

    Attributes:
      widths: channels at each resolution; one more than there are steps if `merged`.
      depths: residual blocks at each resolution, and in the middle.
      steps: kind of the step after each resolution, a key of `_STEPS`, or "" for none.
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
      steps: whether there is a step before each resolution.
      residual: whether that step has a shortcut.
      factors: what that step divides the channels by.
      causal: whether no frame depends on later latents.
      noisy: whether noise is added at each resolution, and in the middle.
      timestep: noise level of the latents, in [0, 1], that the decoder is conditioned on; None
        without timestep conditioning.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    depths: tuple[int, ...] = (4, 3, 3, 3, 4)
    steps: tuple[bool, ...] = (True, True, True, False)
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
    """

    causal: bool
    epsilon: float
    dtype: Any

    def make_conv(self, features: int, name: str) -> EdgePaddedConv:
        """Makes a 3x3x3 convolution."""
        return EdgePaddedConv(features=features, causal=self.causal, dtype=self.dtype, name=name)


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
            x = PointwiseConv(features=self.features, dtype=dtype, name="conv_shortcut.conv")(x)
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
    """Moves the channels of a convolution to 2x2x2 positions.

    Attributes:
      residual: whether the input, spread in the same way, is added.
      factor: what the channels are divided by.
      spec: of the blocks.
    """

    residual: bool
    factor: int
    spec: BlockSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        features = x.shape[-1] // self.factor
        y, after = self.spec.make_conv(8 * features, "conv")(x, past)
        y = repeat_up(y, features, 2, 2)
        if self.residual:
            shortcut = repeat_up(x, x.shape[-1] // 8, 2, 2)
            y = y + jnp.tile(shortcut, (1, 1, 1, 1, 8 // self.factor))
        # The first frame gives one frame: keep the second of its pair.
        return y[:, 1:] if past is None else y, after


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
            layers.append(StridedConv(features=width, dtype=spec.dtype, name=name))
        elif self.step:
            time, space = _STEPS[self.step]
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
    step: bool
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
            settings = {"residual": self.residual, "factor": self.factor}
            layers.append(DepthToSpaceUp(**settings, spec=spec, name="upsamplers.0"))
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


class LTXVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      encoding: see `Encoding`.
      decoding: see `Decoding`.
      patch: side of the squares of pixels that are moved into channels.
      epsilon: of the norms of shortcuts.
      bottleneck: latents with their published mean and standard deviation.
      dtype: of the activations. Norms, posterior and video are at least float32.
    """

    encoding: Encoding = Encoding()
    decoding: Decoding = Decoding()
    patch: int = 4
    epsilon: float = 1e-6
    bottleneck: ScaledLatents = unscaled_latents(128)
    dtype: Any = jnp.float32

    def setup(self):
        encoder_spec = BlockSpec(causal=True, epsilon=self.epsilon, dtype=self.dtype)
        self.encoder = Encoder(
            net=self.encoding,
            patch=self.patch,
            features=self.bottleneck.channels + 1,
            spec=encoder_spec,
        )
        self.decoder = Decoder(
            net=self.decoding,
            patch=self.patch,
            channels=self.shape_HWC[-1],
            spec=replace(encoder_spec, causal=self.decoding.causal),
        )
        self.setup_likelihood(LOG_SIGMA)

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return 2 ** sum(_STEPS[step][0] == 2 for step in self.encoding.steps if step)

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return self.patch * 2 ** sum(_STEPS[step][1] == 2 for step in self.encoding.steps if step)

    @property
    def decodes_causally(self) -> bool:
        """Whether every frame is decoded without later latents."""
        return self.decoding.causal

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to means and log-variances, one log-variance per position."""
        outputs, past = self.encoder(x_BTHWC, past)
        mean, logvar = outputs[..., :-1], outputs[..., -1:]
        return jnp.concatenate([mean, jnp.broadcast_to(logvar, mean.shape)], axis=-1), past


_ONLY = {
    "patch_size_t": 1,
    "scaling_factor": 1.0,
    "encoder_causal": True,
}


def build(values: dict[str, Any]) -> LTXVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    for name, only in _ONLY.items():
        if values[name] != only:
            raise ValueError(f"{name}={values[name]!r}: must be {only!r}")
    if values["in_channels"] != values["out_channels"]:
        raise ValueError(
            f"in_channels={values['in_channels']} and out_channels={values['out_channels']} differ"
        )
    channels = values["latent_channels"]
    model = LTXVAE(
        shape_HWC=(*SAMPLE_SIZE, values["in_channels"]),
        encoding=_build_encoding(values),
        decoding=_build_decoding(values),
        patch=values["patch_size"],
        epsilon=values["resnet_norm_eps"],
        bottleneck=unscaled_latents(channels),
    )
    decoded = 2 ** sum(model.decoding.steps)
    if (model.temporal_compression, model.spatial_compression // model.patch) != (decoded,) * 2:
        raise ValueError(
            f"spatio_temporal_scaling={values['spatio_temporal_scaling']!r} with downsample_type="
            f"{values['downsample_type']!r} and decoder_spatio_temporal_scaling="
            f"{model.decoding.steps!r} do not compress by the same factors"
        )
    return model


def _build_encoding(values: dict[str, Any]) -> Encoding:
    kinds = set(values["down_block_types"])
    if kinds not in ({_FIRST}, {_LATER}):
        raise ValueError(
            f"down_block_types={values['down_block_types']!r}: must be all {_FIRST} or all {_LATER}"
        )
    merged = kinds == {_LATER}
    widths = values["block_out_channels"]
    count = len(widths) - merged
    scaled = values["spatio_temporal_scaling"][:count]
    names = values["downsample_type"] if merged else ("conv",) * count
    if set(names) - _STEPS.keys():
        raise ValueError(f"downsample_type={names!r}: only {', '.join(_STEPS)} are known")
    if not len(scaled) == count <= len(names) or len(values["layers_per_block"]) <= count:
        raise ValueError(
            f"spatio_temporal_scaling={scaled!r}, downsample_type={names!r} and layers_per_block="
            f"{values['layers_per_block']!r} do not fit block_out_channels={widths!r}"
        )
    steps = tuple(name if step else "" for name, step in zip(names, scaled))
    layers = values["layers_per_block"]
    depths = (*layers[:count], layers[-1])
    return Encoding(widths=widths, depths=depths, steps=steps, merged=merged)


def _build_decoding(values: dict[str, Any]) -> Decoding:
    widths = values["decoder_block_out_channels"]
    names = ("decoder_spatio_temporal_scaling", "upsample_residual", "upsample_factor")
    steps, residual, factors = (values[name] for name in names)
    layers = values["decoder_layers_per_block"]
    noisy = values["decoder_inject_noise"]
    if {len(steps), len(residual), len(factors), len(layers) - 1, len(noisy) - 1} != {len(widths)}:
        raise ValueError(
            f"decoder_layers_per_block={layers!r}, {names[0]}={steps!r}, {names[1]}={residual!r}, "
            f"{names[2]}={factors!r} and decoder_inject_noise={noisy!r} do not fit "
            f"decoder_block_out_channels={widths!r}"
        )
    if any(beside and width % 8 for beside, width in zip(residual, widths, strict=True)):
        raise ValueError(
            f"decoder_block_out_channels={widths!r} must be multiples of 8 where upsample_residual="
            f"{residual!r}"
        )
    is_conditioned = values["timestep_conditioning"]
    narrowed = tuple(width // factor for width, factor in zip(widths, factors))
    entering = (*narrowed[1:], widths[-1])
    changes = any(wide // f != width for wide, f, width in zip(entering, factors, narrowed))
    if changes and (is_conditioned or any(noisy)):
        raise ValueError(
            f"decoder_block_out_channels={widths!r} with upsample_factor={factors!r} change "
            "outside the steps, where neither timestep conditioning nor noise is possible"
        )
    return Decoding(
        widths=widths,
        depths=layers,
        steps=steps,
        residual=residual,
        factors=factors,
        causal=values["decoder_causal"],
        noisy=noisy,
        timestep=DECODE_TIMESTEP if is_conditioned else None,
    )


def describe(model: LTXVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    encoding, decoding = model.encoding, model.decoding
    count = len(encoding.steps)
    return DEFAULTS["AutoencoderKLLTXVideo"] | {
        "_class_name": "AutoencoderKLLTXVideo",
        "in_channels": model.shape_HWC[-1],
        "out_channels": model.shape_HWC[-1],
        "latent_channels": model.bottleneck.channels,
        "block_out_channels": encoding.widths,
        "down_block_types": (_LATER if encoding.merged else _FIRST,) * count,
        "decoder_block_out_channels": decoding.widths,
        "layers_per_block": encoding.depths,
        "decoder_layers_per_block": decoding.depths,
        "spatio_temporal_scaling": tuple(bool(step) for step in encoding.steps),
        "decoder_spatio_temporal_scaling": decoding.steps,
        "decoder_inject_noise": decoding.noisy,
        "downsample_type": tuple(step or "conv" for step in encoding.steps),
        "upsample_residual": decoding.residual,
        "upsample_factor": decoding.factors,
        "timestep_conditioning": decoding.timestep is not None,
        "patch_size": model.patch,
        "resnet_norm_eps": model.epsilon,
        "decoder_causal": decoding.causal,
        "spatial_compression_ratio": model.spatial_compression,
        "temporal_compression_ratio": model.temporal_compression,
    }


FAMILY = Family(
    model=LTXVAE,
    defaults=DEFAULTS,
    build=build,
    describe=describe,
    buffers=LATENT_SCALES,
)
