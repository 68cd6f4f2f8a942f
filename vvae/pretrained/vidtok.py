"""VidTok (Tang et al. 2024, arXiv:2412.13061), with Gaussian latents or finite scalars.

Residual blocks of frames and of time take turns; norms per position, one attention within frames.
Frames are padded in time by repetition, the first one to a whole latent frame. The encoder is
causal. The decoder doubles time by interpolation, which looks one frame ahead. Weights that are not
causal (`is_causal` false) are refused.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.bottleneck import FiniteScalars, ScaledLatents
from vvae.models.causal_blocks import Past, attend_within_frames, chain, prepend_past, stack_frames
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    EdgeConv,
    FrameConv,
    Pointwise,
    StackedConv,
    TimeConv,
    convolve_frame,
    double,
    halve,
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
"""Class -> the settings that its config.json may have, and the values of those that it lacks."""


@dataclass(frozen=True)
class Network:
    """What encoder and decoder have in common, each tuple from the finest resolution on.

    Attributes:
      widths: channels at each resolution.
      depth: residual blocks at each resolution of the encoder; the decoder has one more.
      down: (in space, in time) of the step after each resolution of the encoder.
      up: (in space, in time) of the step after each resolution of the decoder.
      base: channels of the first convolution of the encoder.
      dtype: of the activations.
    """

    widths: tuple[int, ...]
    depth: int
    down: tuple[tuple[bool, bool], ...]
    up: tuple[tuple[bool, bool], ...]
    base: int
    dtype: Any


class Norm(nn.Module):
    """LayerNorm over the channels of a position, computed at least in float32."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = nn.LayerNorm(1e-6, use_fast_variance=False, name="norm")
        return norm(raise_precision(x)).astype(self.dtype)


class TimeBlock(nn.Module):
    """3x1x1 convolution of a frame and the two before it, the first one repeated in front."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        x = prepend_past(x, jnp.repeat(x[:, :1], 2, axis=1) if past is None else past, 0)
        conv = TimeConv(self.features, 0, self.dtype, name="conv")
        return conv(stack_frames(x)), x[:, -2:]


class FrameBlock(nn.Module):
    """Residual block of 3x3 convolutions of each frame. Remembers nothing."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        settings = (self.features, convolve_frame, self.dtype)
        h = FrameConv(*settings, name="conv1")(nn.silu(Norm(self.dtype, name="norm1")(x)))
        h = FrameConv(*settings, name="conv2")(nn.silu(Norm(self.dtype, name="norm2")(h)))
        if x.shape[-1] != self.features:
            x = Pointwise(self.features, 2, self.dtype, name="nin_shortcut")(x)
        return x + h, ()


class CausalBlock(nn.Module):
    """Residual block of layers that see a frame and the two before it.

    Attributes:
      in_space: whether they see neighbouring rows and columns too.
      dtype: of the activations.
    """

    in_space: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        before, features = past or (None, None), x.shape[-1]
        settings = (features, True, self.dtype) if self.in_space else (features, self.dtype)
        layer = EdgeConv if self.in_space else TimeBlock
        h = nn.silu(Norm(self.dtype, name="norm1")(x))
        h, first = layer(*settings, name="conv1")(h, before[0])
        h = nn.silu(Norm(self.dtype, name="norm2")(h))
        h, second = layer(*settings, name="conv2")(h, before[1])
        return x + h, (first, second)


class Attention(nn.Module):
    """Every position of a frame attends to all positions of that frame. Remembers nothing."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        channels = x.shape[-1]
        h = Norm(self.dtype, name="norm")(x)
        qkv = [Pointwise(channels, dtype=self.dtype, name=f"{name}.conv")(h) for name in "qkv"]
        h = attend_within_frames(jnp.concatenate(qkv, axis=-1))
        return x + Pointwise(channels, dtype=self.dtype, name="proj_out.conv")(h), ()


class FrameResample(nn.Module):
    """Halves or doubles height and width, by a convolution named `conv`. Remembers nothing."""

    convolve: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        return FrameConv(x.shape[-1], self.convolve, self.dtype, name="conv")(x), ()


class TimeDown(nn.Module):
    """2n frames -> n: a mixture of the mean of three frames and a convolution of them.

    Frame j sees 2j - 1, 2j and 2j + 1. Remembers its last input.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        share = _mix(self)
        x = prepend_past(x, x[:, :1] if past is None else past, 0)
        stacked = stack_frames(x, stride=2)
        mean = stacked.reshape(*stacked.shape[:-1], 3, -1).mean(-2)
        y = StackedConv(x.shape[-1], convolve_frame, self.dtype, name="conv.conv")(stacked)
        return share * mean + (1.0 - share) * y, x[:, -1:]


class TimeUp(nn.Module):
    """n frames -> 2n: a mixture of an interpolation and a convolution of it.

    Attributes:
      first: so many frames are interpolated apart from those after them.
      dtype: of the activations.
    """

    first: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        share = _mix(self)
        parts = [part for part in (x[:, : self.first], x[:, self.first :]) if part.shape[1]]
        x = jnp.concatenate([interpolate_time(part) for part in parts], axis=1)
        y, _ = EdgeConv(x.shape[-1], True, self.dtype, name="conv")(x, None)
        return share * x + (1.0 - share) * y, ()


def _mix(module: nn.Module) -> jax.Array:
    factor = module.param("mix_factor", nn.initializers.constant(2.0), (1,))
    return nn.sigmoid(factor).astype(module.dtype).reshape(1, 1, 1, 1, 1)


def interpolate_time(x_BTHWC: jax.Array) -> jax.Array:
    """Doubles the frames linearly: frame j gives 1/4 (j - 1) + 3/4 j and 3/4 j + 1/4 (j + 1).

    Beyond the ends the outermost frames are repeated.
    """
    before = jnp.concatenate([x_BTHWC[:, :1], x_BTHWC[:, :-1]], axis=1)
    after = jnp.concatenate([x_BTHWC[:, 1:], x_BTHWC[:, -1:]], axis=1)
    pairs = jnp.stack([0.25 * before + 0.75 * x_BTHWC, 0.75 * x_BTHWC + 0.25 * after], axis=2)
    return pairs.reshape(x_BTHWC.shape[0], -1, *x_BTHWC.shape[2:])


def _make_middle(dtype) -> list[nn.Module]:
    """Layers at the coarsest resolution."""
    return [
        CausalBlock(True, dtype, name="mid.block_1"),
        Attention(dtype, name="mid.attn_1"),
        CausalBlock(True, dtype, name="mid.block_2"),
    ]


def _make_level(name: str, level: int, width: int, depth: int, dtype) -> list[nn.Module]:
    """Blocks of frames and of time in turn; `name` is that of the list of levels."""
    return [
        block
        for i in range(depth)
        for block in (
            FrameBlock(width, dtype, name=f"{name}.{level}.block.{i}"),
            CausalBlock(False, dtype, name=f"{name}_temporal.{level}.block.{i}"),
        )
    ]


def _make_head(features: int, dtype) -> list:
    """Norm, SiLU and a convolution whose result is at least float32."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    norm = Norm(dtype, name="norm_out")
    return [
        lambda x, past: (nn.silu(norm(x)), ()),
        EdgeConv(features, True, dtype, name="conv_out"),
    ]


class Encoder(nn.Module):
    """[B, T, H, W, C] -> [B, t, h, w, features]."""

    net: Network
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net = self.net
        layers: list = [EdgeConv(net.base, True, net.dtype, name="conv_in")]
        for level, (width, (in_space, in_time)) in enumerate(zip(net.widths, net.down)):
            layers += _make_level("down", level, width, net.depth, net.dtype)
            if in_space:
                name = f"down.{level}.downsample"
                layers.append(FrameResample(halve, net.dtype, name=name))
            if in_time:
                layers.append(TimeDown(net.dtype, name=f"down_temporal.{level}.downsample"))
        layers += [*_make_middle(net.dtype), *_make_head(self.features, net.dtype)]
        return chain(layers, x, past)


class Decoder(nn.Module):
    """[B, t, h, w, Z] -> [B, T + f_t - 1, H, W, channels], the first frame repeated in front."""

    net: Network
    channels: int

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net, first = self.net, 1
        layers: list = [
            EdgeConv(net.widths[-1], True, net.dtype, name="conv_in"),
            *_make_middle(net.dtype),
        ]
        for level in reversed(range(len(net.widths))):
            layers += _make_level("up", level, net.widths[level], net.depth + 1, net.dtype)
            in_space, in_time = net.up[level]
            if in_space:
                layers.append(FrameResample(double, net.dtype, name=f"up.{level}.upsample"))
            if in_time:
                layers.append(TimeUp(first, net.dtype, name=f"up_temporal.{level}.upsample"))
                first *= 2
        layers += _make_head(self.channels, net.dtype)
        return chain(layers, z, past)


class VidTokVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      base: channels that `multiples` multiply.
      multiples: of the channels at each resolution, the finest first.
      depth: see `Network`.
      down, up: see `Network`.
      bottleneck: Gaussian latents, of which no mean and standard deviation are published, or finite
        scalars.
      dtype: of the activations; norms, posterior and video are at least float32.
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
    bottleneck: ScaledLatents | FiniteScalars = ScaledLatents(4, (0.0,) * 4, (1.0,) * 4)
    dtype: Any = jnp.float32

    def setup(self):
        widths = tuple(self.base * multiple for multiple in self.multiples)
        net = Network(widths, self.depth, self.down, self.up, self.base, self.dtype)
        self.encoder = Encoder(net, self.bottleneck.num_outputs)
        self.decoder = Decoder(net, self.shape_HWC[-1])
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
        """False: doubled frames are interpolated between two."""
        return False

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Frames -> outputs; the first frame is repeated to a whole latent frame."""
        if past is None:
            first = jnp.repeat(x_BTHWC[:, :1], self.temporal_compression - 1, axis=1)
            x_BTHWC = jnp.concatenate([first, x_BTHWC], axis=1)
        return self.encoder(x_BTHWC, past)

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Latents -> frames, without the repetitions of the first one."""
        x, past = self.decoder(z_BthwZ, past)
        return x[:, self.temporal_compression - 1 :], past


MODEL = VidTokVAE
# Tensors beside the parameters, the mean and the standard deviation of the latents: none here.
BUFFERS = ()


def build(values: dict[str, Any]) -> VidTokVAE:
    """Returns the model of the settings of a config.json, filled up from DEFAULTS.

    Raises:
      ValueError: for settings that no network has, or of one that is not causal.
    """
    if not values["is_causal"]:
        raise ValueError("is_causal=False: only causal weights can be read")
    if values["in_channels"] != values["out_channels"]:
        raise ValueError(
            f"in_channels={values['in_channels']} and out_channels={values['out_channels']} differ"
        )
    count = len(values["ch_mult"])
    down = _read_steps(values, "ds", range(count - 1), (count - 2, count - 3))
    up = _read_steps(values, "us", range(1, count), (1, 2))
    if any(sum(step[i] for step in down) != sum(step[i] for step in up) for i in (0, 1)):
        raise ValueError(
            "spatial_ds, tempo_ds, spatial_us and tempo_us: the decoder must double as often as "
            f"the encoder halves, not {down} and {up} (in space, in time; the finest first)"
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
    """Returns (in space, in time) for each level; a level that keeps its size keeps its time."""
    spatial, temporal = values[f"spatial_{suffix}"], values[f"tempo_{suffix}"]
    spatial = in_space if spatial is None else spatial
    temporal = in_time if temporal is None else temporal
    levels = range(len(values["ch_mult"]))
    if set(temporal) - set(spatial) or set(spatial) - set(levels):
        raise ValueError(
            f"tempo_{suffix}={tuple(temporal)} must be among spatial_{suffix}={tuple(spatial)}, "
            f"and these among the levels 0 to {levels[-1]}"
        )
    return tuple((level in spatial, level in temporal) for level in levels)


def _build_bottleneck(values: dict[str, Any]) -> ScaledLatents | FiniteScalars:
    channels, regularizer = values["z_channels"], values["regularizer"]
    if regularizer not in ("kl", "fsq"):
        raise ValueError(f"regularizer={regularizer!r}: only kl and fsq are known")
    if values["double_z"] != (regularizer == "kl"):
        raise ValueError(f"double_z={values['double_z']} does not fit regularizer={regularizer!r}")
    if regularizer == "kl":
        return ScaledLatents(channels, (0.0,) * channels, (1.0,) * channels)
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
