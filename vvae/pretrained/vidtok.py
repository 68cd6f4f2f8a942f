"""VidTok, with Gaussian latents or finite scalars.

Spatial and temporal residual blocks alternate, with LayerNorm over channels and one attention
within frames. In causal weights time is padded by repeating frames, the first one to a whole latent
frame. The encoder is causal. The decoder doubles time by interpolation, which looks one frame
ahead. Weights that are not causal (`is_causal` false) convolve over frames on both sides, with
zeros beyond the ends, and latent frames cover f_t frames each, the first one too.

Their authors encode clips of 16 frames, and diffusers decodes whole clips of 16 alone; here videos
of any length are encoded at once, after the last frame is repeated to a whole latent frame.

References:
  Tang et al., VidTok: A Versatile and Open-Source Video Tokenizer, 2024, arXiv:2412.13061.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.bottleneck import FiniteScalars, ScaledLatents
from vvae.models.causal_blocks import (
    Past,
    attend_within_frames,
    chain,
    preactivate,
)
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.family import Family, check_channels, unscaled_latents
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    Layer,
    PointwiseConv,
    SpatialConv,
    SpatialResample,
    down_conv_3x3,
    frame_conv_3x3,
    up_conv_3x3,
)
from vvae.pretrained.vidtok_layers import CausalSpec, CentredSpec, Norm

_LEVELS = 8  # of every finite scalar

DEFAULTS = {
    "AutoencoderVidTok": {
        "in_channels": 3,
        "out_channels": 3,
        "ch": 128,
        "ch_mult": (1, 2, 4, 4),
        "z_channels": 4,
        "double_z": True,
        "num_res_blocks": 2,
        "spatial_ds": None,
        "spatial_us": None,
        "tempo_ds": None,
        "tempo_us": None,
        "dropout": 0.0,
        "regularizer": "kl",
        "codebook_size": 262144,
        "is_causal": True,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


@dataclass(frozen=True)
class Network:
    """Settings that the encoder and the decoder share; each tuple is finest resolution first.

    Attributes:
      widths: channels at each resolution.
      depth: residual blocks at each resolution of the encoder; the decoder has one more.
      down: (in space, in time) of the step after each resolution of the encoder.
      up: (in space, in time) of the step after each resolution of the decoder.
      base: channels of the encoder's first convolution.
      spec: makes the layers.
    """

    widths: tuple[int, ...]
    depth: int
    down: tuple[tuple[bool, bool], ...]
    up: tuple[tuple[bool, bool], ...]
    base: int
    spec: CausalSpec


class SpatialResBlock(nn.Module, kw_only=True):
    """Residual block of 3x3 convolutions of each frame. Remembers nothing."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        settings = {"features": self.features, "dtype": self.dtype}
        h = x
        for i in (1, 2):
            h = nn.silu(Norm(dtype=self.dtype, name=f"norm{i}")(h))
            h = SpatialConv(convolve=frame_conv_3x3, **settings, name=f"conv{i}")(h)
        if x.shape[-1] != self.features:
            x = PointwiseConv(num_axes=2, **settings, name="nin_shortcut")(x)
        return x + h, ()


class TemporalResBlock(nn.Module, kw_only=True):
    """Residual block of convolutions over three frames.

    Attributes:
      in_space: whether they also convolve rows and columns.
      spec: makes the layers.
    """

    in_space: bool
    spec: CausalSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec, features = self.spec, x.shape[-1]
        make = spec.make_conv if self.in_space else spec.make_temporal_conv
        layers = [
            preactivate(Norm(dtype=spec.dtype, name=f"norm{i}"), make(features, f"conv{i}"))
            for i in (1, 2)
        ]
        y, past = chain(layers, x, past)
        return x + y, past


class SpatialAttention(nn.Module, kw_only=True):
    """Residual attention among the positions of each frame. Remembers nothing."""

    spec: CausalSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        make = functools.partial(self.spec.make_dense, x.shape[-1])
        h = Norm(dtype=self.spec.dtype, name="norm")(x)
        h = jnp.concatenate([make(name)(h) for name in "qkv"], axis=-1)
        return x + make("proj_out")(attend_within_frames(h)), ()


def _make_middle(spec: CausalSpec) -> list[nn.Module]:
    """Makes the layers at the coarsest resolution."""
    return [
        TemporalResBlock(in_space=True, spec=spec, name="mid.block_1"),
        SpatialAttention(spec=spec, name="mid.attn_1"),
        TemporalResBlock(in_space=True, spec=spec, name="mid.block_2"),
    ]


def _make_level(path: str, width: int, depth: int, spec: CausalSpec) -> list[nn.Module]:
    """Makes alternating spatial and temporal blocks; `path` is "down.LEVEL" or "up.LEVEL"."""
    side, level = path.split(".")
    return [
        block
        for i in range(depth)
        for block in (
            SpatialResBlock(features=width, dtype=spec.dtype, name=f"{side}.{level}.block.{i}"),
            TemporalResBlock(in_space=False, spec=spec, name=f"{side}_temporal.{level}.block.{i}"),
        )
    ]


def _make_head(features: int, spec: CausalSpec) -> Layer:
    """Makes norm, SiLU and a convolution whose output is at least float32."""
    spec = replace(spec, dtype=jnp.promote_types(spec.dtype, jnp.float32))
    return preactivate(
        Norm(dtype=spec.dtype, name="norm_out"), spec.make_conv(features, "conv_out")
    )


class Encoder(nn.Module, kw_only=True):
    """Maps [B, T, H, W, C] to [B, t, h, w, features]."""

    net: Network
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net, spec, dtype = self.net, self.net.spec, self.net.spec.dtype
        layers: list = [spec.make_conv(net.base, "conv_in")]
        for level, (width, (in_space, in_time)) in enumerate(zip(net.widths, net.down)):
            layers += _make_level(f"down.{level}", width, net.depth, spec)
            if in_space:
                name = f"down.{level}.downsample"
                layers.append(SpatialResample(convolve=down_conv_3x3, dtype=dtype, name=name))
            if in_time:
                name = f"down_temporal.{level}.downsample"
                layers.append(spec.make_down(name))
        layers += [*_make_middle(spec), _make_head(self.features, spec)]
        return chain(layers, x, past)


class Decoder(nn.Module, kw_only=True):
    """Maps [B, t, h, w, Z] to [B, t f_t, H, W, channels]."""

    net: Network
    channels: int

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net, spec, dtype, first = self.net, self.net.spec, self.net.spec.dtype, 1
        layers: list = [spec.make_conv(net.widths[-1], "conv_in"), *_make_middle(spec)]
        for level in reversed(range(len(net.widths))):
            layers += _make_level(f"up.{level}", net.widths[level], net.depth + 1, spec)
            in_space, in_time = net.up[level]
            if in_space:
                name = f"up.{level}.upsample"
                layers.append(SpatialResample(convolve=up_conv_3x3, dtype=dtype, name=name))
            if in_time:
                name = f"up_temporal.{level}.upsample"
                layers.append(spec.make_up(first, name))
                first *= 2
        layers.append(_make_head(self.channels, spec))
        return chain(layers, z, past)


class VidTokVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      base: channels that `multiples` multiply.
      multiples: of the channels at each resolution, finest first.
      depth, down, up: see `Network`.
      causal: whether the encoder sees no later frames; if it does, every latent frame covers f_t
        frames.
      bottleneck: Gaussian latents, without a published mean and standard deviation, or finite
        scalars.
      dtype: of the activations. Norms, posterior and video are at least float32.
    """

    base: int = 128
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    depth: int = 2
    down: tuple[tuple[bool, bool], ...] = (
        (True, False),
        (True, True),
        (True, True),
        (False, False),
    )
    up: tuple[tuple[bool, bool], ...] = ((False, False), (True, True), (True, True), (True, False))
    causal: bool = True
    bottleneck: ScaledLatents | FiniteScalars = unscaled_latents(4)
    dtype: Any = jnp.float32

    @property
    def last_layer(self) -> tuple[str, ...]:
        """Path of the decoder's last convolution; see `GridVideoVAE`."""
        return ("decoder", "conv_out", *(("conv",) if self.causal else ()))

    def setup(self):
        widths = tuple(self.base * multiple for multiple in self.multiples)
        net = Network(
            widths=widths,
            depth=self.depth,
            down=self.down,
            up=self.up,
            base=self.base,
            spec=(CausalSpec if self.causal else CentredSpec)(dtype=self.dtype),
        )
        self.encoder = Encoder(net=net, features=self.bottleneck.num_outputs)
        self.decoder = Decoder(net=net, channels=self.shape_HWC[-1])
        self.setup_likelihood(LOG_SIGMA)

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return 2 ** sum(in_time for _, in_time in self.down)

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return 2 ** sum(in_space for in_space, _ in self.down)

    @property
    def first_frames(self) -> int:
        """How many frames the first latent frame covers."""
        return 1 if self.causal else self.temporal_compression

    @property
    def encoder_lookahead(self) -> int | None:
        """How many frames after its own a latent frame depends on; None for all of the video."""
        return 0 if self.causal else None

    @property
    def decodes_causally(self) -> bool:
        """False: the decoder interpolates between frames, or convolves over later ones."""
        return False

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to outputs; repeats the first frame to a whole latent frame."""
        if past is None:
            missing = self.temporal_compression - self.first_frames
            first = jnp.repeat(x_BTHWC[:, :1], missing, axis=1)
            x_BTHWC = jnp.concatenate([first, x_BTHWC], axis=1)
        return self.encoder(x_BTHWC, past)

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to frames, without the repetitions of the first one."""
        x, past = self.decoder(z_BthwZ, past)
        return x[:, self.temporal_compression - self.first_frames :], past


def build(values: dict[str, Any]) -> VidTokVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    check_channels(values)
    count = len(values["ch_mult"])
    down = _read_steps(values, "ds", range(count - 1), (count - 2, count - 3))
    up = _read_steps(values, "us", range(1, count), (1, 2))
    if any(sum(step[i] for step in down) != sum(step[i] for step in up) for i in (0, 1)):
        raise ValueError(
            "spatial_ds, tempo_ds, spatial_us and tempo_us: the decoder must double as often as "
            f"the encoder halves, not {down} and {up} (in space, in time; finest first)"
        )
    return VidTokVAE(
        shape_HWC=(*SAMPLE_SIZE, values["in_channels"]),
        base=values["ch"],
        multiples=values["ch_mult"],
        depth=values["num_res_blocks"],
        down=down,
        up=up,
        causal=values["is_causal"],
        bottleneck=_build_bottleneck(values),
    )


def _read_steps(values, suffix: str, in_space, in_time) -> tuple[tuple[bool, bool], ...]:
    """Returns (in space, in time) for each level; time changes only where the size does."""
    spatial, temporal = values[f"spatial_{suffix}"], values[f"tempo_{suffix}"]
    spatial = in_space if spatial is None else spatial
    temporal = in_time if temporal is None else temporal
    levels = range(len(values["ch_mult"]))
    if set(temporal) - set(spatial) or set(spatial) - set(levels):
        raise ValueError(
            f"tempo_{suffix}={tuple(temporal)} must be among spatial_{suffix}={tuple(spatial)}, "
            f"which must be among the levels 0 to {levels[-1]}"
        )
    return tuple((level in spatial, level in temporal) for level in levels)


def _build_bottleneck(values: dict[str, Any]) -> ScaledLatents | FiniteScalars:
    channels, regularizer = values["z_channels"], values["regularizer"]
    if regularizer not in ("kl", "fsq"):
        raise ValueError(f"regularizer={regularizer!r}: only kl and fsq are known")
    if values["double_z"] != (regularizer == "kl"):
        raise ValueError(f"double_z={values['double_z']} does not fit regularizer={regularizer!r}")
    if regularizer == "kl":
        return unscaled_latents(channels)
    if values["codebook_size"] != _LEVELS**channels:
        raise ValueError(
            f"codebook_size={values['codebook_size']} is not {_LEVELS}^z_channels, "
            f"{_LEVELS**channels}"
        )
    return FiniteScalars((_LEVELS,) * channels)


def describe(model: VidTokVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    is_gaussian = isinstance(model.bottleneck, ScaledLatents)
    steps = {"ds": model.down, "us": model.up}
    return {
        "_class_name": "AutoencoderVidTok",
        "in_channels": model.shape_HWC[-1],
        "out_channels": model.shape_HWC[-1],
        "ch": model.base,
        "ch_mult": model.multiples,
        "z_channels": model.bottleneck.channels,
        "double_z": is_gaussian,
        "num_res_blocks": model.depth,
        "dropout": 0.0,
        "regularizer": "kl" if is_gaussian else "fsq",
        "codebook_size": _LEVELS**model.bottleneck.channels,
        "is_causal": model.causal,
    } | {
        f"{kind}_{suffix}": [level for level, step in enumerate(found) if step[axis]]
        for suffix, found in steps.items()
        for axis, kind in enumerate(("spatial", "tempo"))
    }


FAMILY = Family(
    model=VidTokVAE,
    defaults=DEFAULTS,
    build=build,
    describe=describe,
)
