"""The video VAE of LTX-Video (HaCohen et al. 2024, arXiv:2501.00103, section 2.1).

4x4 patches, then convolutions without attention that compress 8x32x32 into 128 channels. The
encoder is causal; the decoder looks ahead unless the weights say otherwise. Frames are padded in
time by repetition. All log-variances of a position are one number.

Later decoders (0.9.1 and on) remove noise as well: they are told how much there is in the latents,
the timestep (`Decoding.timestep`). That of 0.9.1 adds noise of its own to the activations, one
value a position for all frames and channels, times a learned scale a channel. Decoding is a
function of the latents here, so that noise is left out, unless there is a key for it:
`model.apply(params, z, method="decode", rngs={"noise": key})`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vvae.distributions import raise_precision
from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import Past, chain, prepend_past, stack_frames
from vvae.models.convolutions import down_conv
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    EdgeConv,
    Pointwise,
    StackedConv,
    average_down,
    fold_patches,
    repeat_up,
    unfold_patches,
)

_FIRST, _LATER = "LTXVideoDownBlock3D", "LTXVideo095DownBlock3D"
# Kind of a step to a coarser resolution -> how much it compresses (time, space).
_STEPS = {"conv": (2, 2), "spatial": (1, 2), "temporal": (2, 1), "spatiotemporal": (2, 2)}
_NORM_EPSILON = 1e-8
_NUM_FREQUENCIES = 128
_LONGEST_PERIOD = 10_000.0

DECODE_TIMESTEP = 0.05
"""What decoders that are conditioned on a timestep are told, in [0, 1]: the setting of the authors'
pipelines and of the documentation of diffusers."""

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
"""Class -> the settings that its config.json may have, and the values of those that it lacks."""


@dataclass(frozen=True)
class Encoding:
    """The encoder, each tuple from the finest resolution on.

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
    """The decoder, each tuple from the finest resolution on.

    Attributes:
      widths: channels at each resolution, before they are divided by `factors`.
      depths: residual blocks at each resolution, and in the middle.
      steps: whether there is a step before each resolution.
      residual: whether that step has a shortcut.
      factors: what that step divides the channels by.
      causal: whether nothing looks ahead.
      noisy: whether noise is added at each resolution, and in the middle.
      timestep: how much noise the decoder is told that its latents have, from 0 to 1; None if it
        is not told.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    depths: tuple[int, ...] = (4, 3, 3, 3, 4)
    steps: tuple[bool, ...] = (True, True, True, False)
    residual: tuple[bool, ...] = (False,) * 4
    factors: tuple[int, ...] = (1,) * 4
    causal: bool = False
    noisy: tuple[bool, ...] = (False,) * 5
    timestep: float | None = None


def normalize(x: jax.Array) -> jax.Array:
    """Divides by the root mean square of the channels, at least in float32."""
    h = raise_precision(x)
    squares = jnp.mean(jnp.square(h), axis=-1, keepdims=True)
    return (h * jax.lax.rsqrt(squares + _NORM_EPSILON)).astype(x.dtype)


class TimestepEmbedding(nn.Module):
    """Cosines and sines of a timestep, and two dense layers: a scalar -> [features]."""

    features: int

    @nn.compact
    def __call__(self, timestep: jax.Array) -> jax.Array:
        exponents = np.arange(_NUM_FREQUENCIES) / _NUM_FREQUENCIES
        angles = timestep * jnp.asarray(_LONGEST_PERIOD**-exponents, timestep.dtype)
        waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])
        hidden = nn.silu(nn.Dense(self.features, name="linear_1")(waves))
        return nn.Dense(self.features, name="linear_2")(hidden)


def _embed(timestep: jax.Array | None, features: int) -> jax.Array | None:
    """The embedding of a timestep, under its published name; None if there is no timestep."""
    if timestep is None:
        return None
    return TimestepEmbedding(features, name="time_embedder.timestep_embedder")(timestep)


def _read_embedding(
    module: nn.Module, embedding: jax.Array | None, count: int
) -> list[Callable[[jax.Array], jax.Array]]:
    """What an embedding [2 count C] does after each of so many norms: it shifts and scales.

    Its rows of C numbers have learned offsets; without an embedding nothing is done.
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


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x normed and projected if the channels change.

    With an embedding of the timestep [4 C], each norm is followed by a shift and a scale; if it is
    `noisy`, each convolution by noise.
    """

    features: int
    causal: bool
    epsilon: float
    dtype: Any
    noisy: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, past: Past, embedding: jax.Array | None = None
    ) -> tuple[jax.Array, Past]:
        before = past or (None, None)
        settings = (self.features, self.causal, self.dtype)
        modulate_1, modulate_2 = _read_embedding(self, embedding, 2)
        h = nn.silu(modulate_1(normalize(x)))
        h, first = EdgeConv(*settings, name="conv1")(h, before[0])
        h = self._add_noise(h, "per_channel_scale1")
        h = nn.silu(modulate_2(normalize(h)))
        h, second = EdgeConv(*settings, name="conv2")(h, before[1])
        h = self._add_noise(h, "per_channel_scale2")
        if x.shape[-1] != self.features:
            norm = nn.LayerNorm(self.epsilon, use_fast_variance=False, name="norm3")
            x = norm(raise_precision(x)).astype(self.dtype)
            x = Pointwise(self.features, dtype=self.dtype, name="conv_shortcut.conv")(x)
        return x + h, (first, second)

    def _add_noise(self, h_BTHWC: jax.Array, name: str) -> jax.Array:
        """Adds noise of its own to each position, if the block does and there is a key for it."""
        if not self.noisy:
            return h_BTHWC
        scale = self.param(name, nn.initializers.zeros, (self.features, 1, 1))
        if not self.has_rng("noise"):
            return h_BTHWC
        noise_HW = jax.random.normal(self.make_rng("noise"), h_BTHWC.shape[2:4], h_BTHWC.dtype)
        scale = scale.astype(h_BTHWC.dtype).reshape(1, 1, 1, 1, -1)
        return h_BTHWC + noise_HW[None, None, :, :, None] * scale


class StridedConv(nn.Module):
    """3x3x3 convolution with stride 2; repeats the first frame in front, remembers its last."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        past = jnp.repeat(x_BTHWC[:, :1], 2, axis=1) if past is None else past
        stacked = stack_frames(prepend_past(x_BTHWC, past, 0), stride=2)
        conv = StackedConv(self.features, _halve_centred, self.dtype, name="conv")
        return conv(stacked), x_BTHWC[:, -1:]


def _halve_centred(x_NHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel and stride 2; one zero on every side."""
    return down_conv(x_NHWC, jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0))))


class MergedDown(nn.Module):
    """Puts neighbouring positions of a convolution into channels, beside means of them."""

    features: int
    in_time: int
    in_space: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        if past is None:
            x = jnp.concatenate([x[:, : self.in_time - 1], x], axis=1)
        factor = self.in_time * self.in_space**2
        conv = EdgeConv(self.features // factor, True, self.dtype, name="conv")
        y, past = conv(x, past)
        # Groups of one number: nothing is averaged.
        y = average_down(y, y.shape[-1] * factor, self.in_time, self.in_space)
        return y + average_down(x, self.features, self.in_time, self.in_space), past


class Up(nn.Module):
    """Spreads the channels of a convolution over 2x2x2 positions."""

    residual: bool
    factor: int
    causal: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        features = x.shape[-1] // self.factor
        y, after = EdgeConv(8 * features, self.causal, self.dtype, name="conv")(x, past)
        y = repeat_up(y, features, 2, 2)
        if self.residual:
            beside = repeat_up(x, x.shape[-1] // 8, 2, 2)
            y = y + jnp.tile(beside, (1, 1, 1, 1, 8 // self.factor))
        # Of the first frame's pair the second is kept.
        return y[:, 1:] if past is None else y, after


class DownBlock(nn.Module):
    """Residual blocks and, where there is one, the step to the next resolution."""

    features: int
    depth: int
    step: str
    merged: bool
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        width = x.shape[-1]
        layers: list = _make_blocks(self.depth, width, True, self.epsilon, self.dtype)
        if self.step == "conv":
            layers.append(StridedConv(width, self.dtype, name="downsamplers.0"))
        elif self.step:
            settings = (self.features, *_STEPS[self.step], self.dtype)
            layers.append(MergedDown(*settings, name="downsamplers.0"))
        if not self.merged and width != self.features:
            layers.append(ResBlock(self.features, True, self.epsilon, self.dtype, name="conv_out"))
        return chain(layers, x, past)


class UpBlock(nn.Module):
    """The step from the resolution before, where there is one, and residual blocks."""

    features: int
    depth: int
    step: bool
    residual: bool
    factor: int
    noisy: bool
    causal: bool
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, past: Past, timestep: jax.Array | None
    ) -> tuple[jax.Array, Past]:
        common = (self.features, self.causal, self.epsilon, self.dtype, self.noisy)
        layers: list = []
        if x.shape[-1] // self.factor != self.features:
            layers.append(ResBlock(*common, name="conv_in"))
        if self.step:
            settings = (self.residual, self.factor, self.causal, self.dtype)
            layers.append(Up(*settings, name="upsamplers.0"))
        layers += _condition(_make_blocks(self.depth, *common), self.features, timestep)
        return chain(layers, x, past)


class Middle(nn.Module):
    """Residual blocks at the coarsest resolution."""

    depth: int
    causal: bool
    epsilon: float
    dtype: Any
    noisy: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, past: Past, timestep: jax.Array | None = None
    ) -> tuple[jax.Array, Past]:
        settings = (x.shape[-1], self.causal, self.epsilon, self.dtype, self.noisy)
        blocks = _make_blocks(self.depth, *settings)
        return chain(_condition(blocks, x.shape[-1], timestep), x, past)


def _make_blocks(depth: int, *settings) -> list[ResBlock]:
    return [ResBlock(*settings, name=f"resnets.{i}") for i in range(depth)]


def _condition(
    blocks: list[ResBlock], width: int, timestep: jax.Array | None
) -> list[Callable[[jax.Array, Past], tuple[jax.Array, Past]]]:
    """The blocks, given what they have in common of the timestep."""
    embedding = _embed(timestep, 4 * width)
    return [functools.partial(block, embedding=embedding) for block in blocks]


def _make_head(
    features: int, causal: bool, dtype, modulate: Callable[[jax.Array], jax.Array] = lambda h: h
) -> list:
    """Norm, what comes after it, SiLU and a convolution whose result is at least float32."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    return [
        lambda x, past: (nn.silu(modulate(normalize(x.astype(dtype)))), ()),
        EdgeConv(features, causal, dtype, name="conv_out"),
    ]


class Encoder(nn.Module):
    """[B, T, H, W, C] -> [B, t, h, w, features]."""

    net: Encoding
    patch: int
    features: int
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net, common = self.net, (self.epsilon, self.dtype)
        layers: list = [EdgeConv(net.widths[0], True, self.dtype, name="conv_in")]
        following = (*net.widths[1:], net.widths[-1])
        for level, step in enumerate(net.steps):
            settings = (following[level], net.depths[level], step, net.merged, *common)
            layers.append(DownBlock(*settings, name=f"down_blocks.{level}"))
        layers.append(Middle(net.depths[-1], True, *common, name="mid_block"))
        layers += _make_head(self.features, True, self.dtype)
        return chain(layers, fold_patches(x, self.patch), past)


class Decoder(nn.Module):
    """[B, t, h, w, Z] -> [B, T, H, W, channels]."""

    net: Decoding
    patch: int
    channels: int
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net, common = self.net, (self.net.causal, self.epsilon, self.dtype)
        timestep = self._scale_timestep()
        middle = Middle(net.depths[-1], *common, net.noisy[-1], name="mid_block")
        layers: list = [
            EdgeConv(net.widths[-1], net.causal, self.dtype, name="conv_in"),
            functools.partial(middle, timestep=timestep),
        ]
        for number, level in enumerate(reversed(range(len(net.widths)))):
            width = net.widths[level] // net.factors[level]
            settings = (net.depths[level], net.steps[level], net.residual[level])
            settings += (net.factors[level], net.noisy[level])
            block = UpBlock(width, *settings, *common, name=f"up_blocks.{number}")
            layers.append(functools.partial(block, timestep=timestep))
        embedding = _embed(timestep, 2 * (net.widths[0] // net.factors[0]))
        (modulate,) = _read_embedding(self, embedding, 1)
        head = (self.channels * self.patch**2, net.causal, self.dtype)
        x, past = chain([*layers, *_make_head(*head, modulate)], z, past)
        return unfold_patches(x, self.patch), past

    def _scale_timestep(self) -> jax.Array | None:
        """The timestep on the scale that its waves are made for; None if there is none."""
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
      patch: pixels of a side of the squares that are put into channels.
      epsilon: of the norms of shortcuts.
      bottleneck: latents with their published mean and standard deviation.
      dtype: of the activations; norms, posterior and video are at least float32.
    """

    encoding: Encoding = Encoding()
    decoding: Decoding = Decoding()
    patch: int = 4
    epsilon: float = 1e-6
    bottleneck: ScaledLatents = ScaledLatents(128, (0.0,) * 128, (1.0,) * 128)
    dtype: Any = jnp.float32

    def setup(self):
        common = (self.epsilon, self.dtype)
        self.encoder = Encoder(self.encoding, self.patch, self.bottleneck.channels + 1, *common)
        self.decoder = Decoder(self.decoding, self.patch, self.shape_HWC[-1], *common)
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
        """Whether no frame is decoded from later latents."""
        return self.decoding.causal

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Frames -> means, and the log-variance of a position for each."""
        outputs, past = self.encoder(x_BTHWC, past)
        mean, logvar = outputs[..., :-1], outputs[..., -1:]
        return jnp.concatenate([mean, jnp.broadcast_to(logvar, mean.shape)], axis=-1), past


MODEL = LTXVAE
# Tensors beside the parameters, the mean and the standard deviation of the latents.
BUFFERS = ("latents_mean", "latents_std")
_ONLY = {
    "patch_size_t": 1,
    "scaling_factor": 1.0,
    "encoder_causal": True,
}


def build(values: dict[str, Any]) -> LTXVAE:
    """Returns the model of the settings of a config.json, filled up from DEFAULTS.

    Raises:
      ValueError: for settings that no network has.
    """
    for name, only in _ONLY.items():
        if values[name] != only:
            raise ValueError(f"{name}={values[name]!r}: only {only!r} can be read")
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
        bottleneck=ScaledLatents(channels, (0.0,) * channels, (1.0,) * channels),
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
            f"down_block_types={values['down_block_types']!r}: all {_FIRST} or all {_LATER}"
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
    return Encoding(widths, (*layers[:count], layers[-1]), steps, merged)


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
            "outside the steps, where neither a timestep nor noise can be given"
        )
    timestep = DECODE_TIMESTEP if is_conditioned else None
    causal = values["decoder_causal"]
    return Decoding(widths, layers, steps, residual, factors, causal, noisy, timestep)


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
