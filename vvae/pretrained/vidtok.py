"""VidTok, with Gaussian latents or finite scalars.

Spatial and temporal residual blocks alternate, with LayerNorm over channels and one attention
within frames. Time is padded by repeating frames, the first one to a whole latent frame. The
encoder is causal. The decoder doubles time by interpolation, which looks one frame ahead. Weights
that are not causal (`is_causal` false) are refused.

References:
  Tang et al., VidTok: A Versatile and Open-Source Video Tokenizer, 2024, arXiv:2412.13061.
"""

import functools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.bottleneck import FiniteScalars, ScaledLatents
from vvae.models.causal_blocks import (
    Past,
    attend_within_frames,
    chain,
    preactivate,
    prepend_past,
    stack_frames,
)
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.family import Family, check_channels, unscaled_latents
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    EdgePaddedConv,
    EdgePaddedTemporalConv,
    PointwiseConv,
    SpatialConv,
    SpatialResample,
    StackedConv,
    down_conv_3x3,
    frame_conv_3x3,
    interpolate_time,
    up_conv_3x3,
)

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
      dtype: of the activations.
    """

    widths: tuple[int, ...]
    depth: int
    down: tuple[tuple[bool, bool], ...]
    up: tuple[tuple[bool, bool], ...]
    base: int
    dtype: Any


class Norm(nn.Module, kw_only=True):
    """LayerNorm over the channels of each position, computed at least in float32."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = nn.LayerNorm(1e-6, use_fast_variance=False, name="norm")
        return norm(raise_precision(x)).astype(self.dtype)


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


class CausalResBlock(nn.Module, kw_only=True):
    """Residual block of convolutions over a frame and the two before it.

    Attributes:
      in_space: whether they also convolve rows and columns.
      dtype: of the activations.
    """

    in_space: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        conv = EdgePaddedConv if self.in_space else EdgePaddedTemporalConv
        layers = [
            preactivate(
                Norm(dtype=self.dtype, name=f"norm{i}"),
                conv(features=x.shape[-1], dtype=self.dtype, name=f"conv{i}"),
            )
            for i in (1, 2)
        ]
        y, past = chain(layers, x, past)
        return x + y, past


class SpatialAttention(nn.Module, kw_only=True):
    """Residual attention among the positions of each frame. Remembers nothing."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        conv = functools.partial(PointwiseConv, features=x.shape[-1], dtype=self.dtype)
        h = Norm(dtype=self.dtype, name="norm")(x)
        h = jnp.concatenate([conv(name=f"{name}.conv")(h) for name in "qkv"], axis=-1)
        return x + conv(name="proj_out.conv")(attend_within_frames(h)), ()


class TemporalDown(nn.Module, kw_only=True):
    """Maps 2n frames to n: mixes the mean of three frames with a convolution of them.

    Output frame j depends on the input frames 2j - 1, 2j and 2j + 1. Remembers its last input.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        share = _mix(self)
        x = prepend_past(x, x[:, :1] if past is None else past, 0)
        stacked = stack_frames(x, stride=2)
        mean = stacked.reshape(*stacked.shape[:-1], 3, -1).mean(-2)
        conv = StackedConv(
            features=x.shape[-1], convolve=frame_conv_3x3, dtype=self.dtype, name="conv.conv"
        )
        return share * mean + (1.0 - share) * conv(stacked), x[:, -1:]


class TemporalUp(nn.Module, kw_only=True):
    """Maps n frames to 2n: mixes an interpolation with a convolution of it.

    Attributes:
      first: number of frames at the start that are interpolated separately from the later ones.
      dtype: of the activations.
    """

    first: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        share = _mix(self)
        parts = [part for part in (x[:, : self.first], x[:, self.first :]) if part.shape[1]]
        x = jnp.concatenate([interpolate_time(part) for part in parts], axis=1)
        y, _ = EdgePaddedConv(features=x.shape[-1], dtype=self.dtype, name="conv")(x, None)
        return share * x + (1.0 - share) * y, ()


def _mix(module: nn.Module) -> jax.Array:
    factor = module.param("mix_factor", nn.initializers.constant(2.0), (1,))
    return nn.sigmoid(factor).astype(module.dtype).reshape(1, 1, 1, 1, 1)


def _make_conv(name: str, features: int, dtype) -> EdgePaddedConv:
    return EdgePaddedConv(features=features, dtype=dtype, name=name)


def _make_middle(dtype) -> list[nn.Module]:
    """Makes the layers at the coarsest resolution."""
    return [
        CausalResBlock(in_space=True, dtype=dtype, name="mid.block_1"),
        SpatialAttention(dtype=dtype, name="mid.attn_1"),
        CausalResBlock(in_space=True, dtype=dtype, name="mid.block_2"),
    ]


def _make_level(path: str, width: int, depth: int, dtype) -> list[nn.Module]:
    """Makes alternating spatial and temporal blocks; `path` is "down.LEVEL" or "up.LEVEL"."""
    side, level = path.split(".")
    return [
        block
        for i in range(depth)
        for block in (
            SpatialResBlock(features=width, dtype=dtype, name=f"{side}.{level}.block.{i}"),
            CausalResBlock(in_space=False, dtype=dtype, name=f"{side}_temporal.{level}.block.{i}"),
        )
    ]


def _make_head(features: int, dtype):
    """Makes norm, SiLU and a convolution whose output is at least float32."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    return preactivate(Norm(dtype=dtype, name="norm_out"), _make_conv("conv_out", features, dtype))


class Encoder(nn.Module, kw_only=True):
    """Maps [B, T, H, W, C] to [B, t, h, w, features]."""

    net: Network
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net, dtype = self.net, self.net.dtype
        layers: list = [_make_conv("conv_in", net.base, dtype)]
        for level, (width, (in_space, in_time)) in enumerate(zip(net.widths, net.down)):
            layers += _make_level(f"down.{level}", width, net.depth, dtype)
            if in_space:
                name = f"down.{level}.downsample"
                layers.append(SpatialResample(convolve=down_conv_3x3, dtype=dtype, name=name))
            if in_time:
                name = f"down_temporal.{level}.downsample"
                layers.append(TemporalDown(dtype=dtype, name=name))
        layers += [*_make_middle(dtype), _make_head(self.features, dtype)]
        return chain(layers, x, past)


class Decoder(nn.Module, kw_only=True):
    """Maps [B, t, h, w, Z] to [B, T + f_t - 1, H, W, channels]; the first frame is repeated."""

    net: Network
    channels: int

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net, dtype, first = self.net, self.net.dtype, 1
        layers: list = [_make_conv("conv_in", net.widths[-1], dtype), *_make_middle(dtype)]
        for level in reversed(range(len(net.widths))):
            layers += _make_level(f"up.{level}", net.widths[level], net.depth + 1, dtype)
            in_space, in_time = net.up[level]
            if in_space:
                name = f"up.{level}.upsample"
                layers.append(SpatialResample(convolve=up_conv_3x3, dtype=dtype, name=name))
            if in_time:
                name = f"up_temporal.{level}.upsample"
                layers.append(TemporalUp(first=first, dtype=dtype, name=name))
                first *= 2
        layers.append(_make_head(self.channels, dtype))
        return chain(layers, z, past)


class VidTokVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      base: channels that `multiples` multiply.
      multiples: of the channels at each resolution, finest first.
      depth, down, up: see `Network`.
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
    bottleneck: ScaledLatents | FiniteScalars = unscaled_latents(4)
    dtype: Any = jnp.float32

    def setup(self):
        widths = tuple(self.base * multiple for multiple in self.multiples)
        net = Network(
            widths=widths,
            depth=self.depth,
            down=self.down,
            up=self.up,
            base=self.base,
            dtype=self.dtype,
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
    def decodes_causally(self) -> bool:
        """False: the decoder interpolates between frames."""
        return False

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to outputs; repeats the first frame to a whole latent frame."""
        if past is None:
            first = jnp.repeat(x_BTHWC[:, :1], self.temporal_compression - 1, axis=1)
            x_BTHWC = jnp.concatenate([first, x_BTHWC], axis=1)
        return self.encoder(x_BTHWC, past)

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to frames, without the repetitions of the first one."""
        x, past = self.decoder(z_BthwZ, past)
        return x[:, self.temporal_compression - 1 :], past


def build(values: dict[str, Any]) -> VidTokVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network, or of a network that is not causal.
    """
    if not values["is_causal"]:
        raise ValueError("is_causal=False: only causal weights can be read")
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
        "is_causal": True,
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
