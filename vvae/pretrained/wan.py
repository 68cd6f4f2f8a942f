"""The video VAE of Wan 2.1 and 2.2, and of Qwen-Image (one frame of the network of Wan 2.1).

Wan 2.1 compresses 4x8x8 into 16 channels with causal convolutions, RMSNorm and one attention within
frames. Wan 2.2 starts with 2x2 patches, compresses 4x16x16 into 48 channels and has a
parameter-free shortcut around each resolution. Both are causal in both directions: latent frame 0
is frame 0 alone, latent frame i the four frames after frame 4 i - 4.

References:
  Wan Team, Wan: Open and Advanced Large-Scale Video Generative Models, 2025, arXiv:2503.20314,
  section 4.1.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import CausalConv, Past, attend_within_frames, chain, preactivate
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.family import Family
from vvae.pretrained.kl_blocks import MidBlock, ResBlock
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    Layer,
    PointwiseConv,
    RMSNorm,
    SpatialConv,
    TemporalConv,
    average_down,
    down_conv_3x3,
    fold_patches,
    repeat_up,
    temporal_down,
    temporal_up,
    unfold_patches,
    up_conv_3x3,
)

_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508)
_MEAN += (0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743)
_STD += (3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)

_COMMON = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": (1, 2, 4, 4),
    "num_res_blocks": 2,
    "attn_scales": (),
    "temperal_downsample": (False, True, True),
    "dropout": 0.0,
    "latents_mean": _MEAN,
    "latents_std": _STD,
}
DEFAULTS = {
    "AutoencoderKLWan": _COMMON
    | {
        "decoder_base_dim": None,
        "is_residual": False,
        "in_channels": 3,
        "out_channels": 3,
        "patch_size": None,
        "scale_factor_temporal": 4,
        "scale_factor_spatial": 8,
    },
    "AutoencoderKLQwenImage": _COMMON | {"input_channels": 3},
}
"""Class -> the settings that its config.json may have, with their default values."""


@dataclass(frozen=True)
class Network:
    """Settings that the encoder and the decoder share.

    Attributes:
      multiples: of the channels at each resolution, finest first.
      depth: residual blocks at each resolution of the encoder; the decoder has one more.
      in_time: whether each step to a coarser resolution also halves time.
      residual: whether each resolution has a shortcut around it (Wan 2.2).
      patch: side of the squares of pixels that are moved into channels; 1 for none.
    """

    multiples: tuple[int, ...]
    depth: int
    in_time: tuple[bool, ...]
    residual: bool
    patch: int


@dataclass(frozen=True)
class WanSpec:
    """Makes the layers; see `FrameSpec`.

    Attributes:
      dtype: of the activations.
    """

    dtype: Any

    def make_norm(self, name: str) -> RMSNorm:
        """Makes a norm."""
        return RMSNorm(dtype=self.dtype, name=name)

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a convolution that keeps the size."""
        return CausalConv(features=features, dtype=self.dtype, name=name)

    def make_shortcut(self, features: int, name: str) -> PointwiseConv:
        """Makes the projection of the input of a residual block that changes the channels."""
        return PointwiseConv(features=features, dtype=self.dtype, name=name)

    def make_time_conv(self, features: int) -> Any:
        """Makes the convolution of a step in time."""
        return TemporalConv(features=features, dtype=self.dtype, name="time_conv")

    def make_block(self, features: int, name: str) -> Layer:
        """Makes a residual block."""
        return ResBlock(features=features, spec=self, name=name)

    def make_attention(self, name: str) -> Layer:
        """Makes the attention in the middle."""
        return SpatialAttention(dtype=self.dtype, name=name)

    def make_blocks(self, features: int, depth: int) -> list[Layer]:
        """Makes the residual blocks of a resolution."""
        return [self.make_block(features, f"resnets.{i}") for i in range(depth)]

    def make_head(self, features: int) -> Layer:
        """Makes norm, SiLU and a convolution whose output is at least float32."""
        spec = replace(self, dtype=jnp.promote_types(self.dtype, jnp.float32))
        return preactivate(spec.make_norm("norm_out"), spec.make_conv(features, "conv_out"))


class SpatialAttention(nn.Module, kw_only=True):
    """Residual attention among the positions of each frame. Remembers nothing."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        channels, settings = x.shape[-1], {"num_axes": 2, "dtype": self.dtype}
        h = RMSNorm(**settings, name="norm")(x)
        h = PointwiseConv(features=3 * channels, **settings, name="to_qkv")(h)
        h = attend_within_frames(h)
        return x + PointwiseConv(features=channels, **settings, name="proj")(h), ()


class Downsample(nn.Module, kw_only=True):
    """Halves height and width, and time if `in_time` is set; keeps the channels."""

    in_time: bool
    spec: WanSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        settings = {"features": x.shape[-1], "dtype": self.spec.dtype}
        x = SpatialConv(convolve=down_conv_3x3, **settings, name="resample.1")(x)
        if not self.in_time:
            return x, ()
        return temporal_down(self.spec.make_time_conv(x.shape[-1]), x, past)


class Upsample(nn.Module, kw_only=True):
    """Doubles time if `in_time` is set, then height and width."""

    features: int
    in_time: bool
    spec: WanSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        after: Past = ()
        if self.in_time:
            x, after = temporal_up(self.spec.make_time_conv(2 * x.shape[-1]), x, past)
        settings = {"features": self.features, "dtype": self.spec.dtype}
        conv = SpatialConv(convolve=up_conv_3x3, **settings, name="resample.1")
        return conv(x), after


class ResidualDownBlock(nn.Module, kw_only=True):
    """Residual blocks and a step, if there is one, plus a shortcut of averages of the input.

    Attributes:
      features: channels of the residual blocks.
      depth: number of residual blocks.
      in_time: whether the step also halves time; None for no step.
      spec: makes the layers.
    """

    features: int
    depth: int
    in_time: bool | None
    spec: WanSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        layers, (time, space) = self.spec.make_blocks(self.features, self.depth), (1, 1)
        if self.in_time is not None:
            layers.append(Downsample(in_time=self.in_time, spec=self.spec, name="downsampler"))
            time, space = 1 + self.in_time, 2
        y, past = chain(layers, x, past)
        return y + average_down(x, self.features, time, space), past


class UpBlock(nn.Module, kw_only=True):
    """Residual blocks, then the step to the next finer resolution, if there is one.

    Attributes:
      features: channels of the residual blocks. The step halves them, unless it is residual.
      depth: number of residual blocks.
      in_time: whether the step also doubles time; None for no step.
      residual: whether a shortcut of repeated inputs is added to the step's output (Wan 2.2).
      spec: makes the layers.
    """

    features: int
    depth: int
    in_time: bool | None
    residual: bool
    spec: WanSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        layers = self.spec.make_blocks(self.features, self.depth)
        if self.in_time is None:
            return chain(layers, x, past)
        width, name = self.features // 2, "upsamplers.0"
        if self.residual:
            width, name = self.features, "upsampler"
        settings = {"features": width, "in_time": self.in_time, "spec": self.spec}
        layers.append(Upsample(**settings, name=name))
        y, after = chain(layers, x, past)
        if not self.residual:
            return y, after
        shortcut = repeat_up(x, self.features, 1 + self.in_time, 2)
        # The first frame gives one frame: keep the second of its pair.
        return y + (shortcut[:, self.in_time :] if past is None else shortcut), after


class Encoder(nn.Module, kw_only=True):
    """Maps [B, T, H, W, C] to [B, t, h, w, features]."""

    net: Network
    base: int
    features: int
    spec: WanSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net = self.net
        widths = [self.base * multiple for multiple in net.multiples]
        levels = list(zip(widths, (*net.in_time, None), strict=True))
        layers = [
            self.spec.make_conv(self.base, "conv_in"),
            *(self._make_residual(levels) if net.residual else self._make_plain(levels)),
            MidBlock(spec=self.spec, name="mid_block"),
            self.spec.make_head(self.features),
        ]
        return chain(layers, fold_patches(x, net.patch), past)

    def _make_residual(self, levels: list[tuple[int, bool | None]]) -> list[nn.Module]:
        common = {"depth": self.net.depth, "spec": self.spec}
        return [
            ResidualDownBlock(features=width, in_time=in_time, **common, name=f"down_blocks.{i}")
            for i, (width, in_time) in enumerate(levels)
        ]

    def _make_plain(self, levels: list[tuple[int, bool | None]]) -> list[Layer]:
        layers: list[Layer] = []
        for width, in_time in levels:
            for _ in range(self.net.depth):
                layers.append(self.spec.make_block(width, f"down_blocks.{len(layers)}"))
            if in_time is not None:
                name = f"down_blocks.{len(layers)}"
                layers.append(Downsample(in_time=in_time, spec=self.spec, name=name))
        return layers


class Decoder(nn.Module, kw_only=True):
    """Maps [B, t, h, w, Z] to [B, T, H, W, channels] in [-1, 1]."""

    net: Network
    base: int
    channels: int
    spec: WanSpec

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net = self.net
        widths = [self.base * multiple for multiple in reversed(net.multiples)]
        levels = zip(widths, (*reversed(net.in_time), None), strict=True)
        common = {"depth": net.depth + 1, "residual": net.residual, "spec": self.spec}
        blocks = [
            UpBlock(features=width, in_time=in_time, **common, name=f"up_blocks.{i}")
            for i, (width, in_time) in enumerate(levels)
        ]
        layers = [
            self.spec.make_conv(widths[0], "conv_in"),
            MidBlock(spec=self.spec, name="mid_block"),
            *blocks,
            self.spec.make_head(self.channels * net.patch**2),
        ]
        x, past = chain(layers, z, past)
        return jnp.clip(unfold_patches(x, net.patch), -1.0, 1.0), past


class WanVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      base: channels that `multiples` multiply, of the encoder and of the decoder.
      multiples, depth, in_time, residual, patch: see `Network`.
      bottleneck: latents with their published mean and standard deviation.
      dtype: of the activations. Norms, posterior and video are at least float32.
    """

    base: tuple[int, int] = (96, 96)
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    depth: int = 2
    in_time: tuple[bool, ...] = (False, True, True)
    residual: bool = False
    patch: int = 1
    bottleneck: ScaledLatents = ScaledLatents(16, _MEAN, _STD)
    dtype: Any = jnp.float32

    last_layer: ClassVar[tuple[str, ...]] = ("decoder", "conv_out")
    projection_axes: ClassVar[int] = 3

    @nn.nowrap
    def make_spec(self) -> WanSpec:
        """Returns what makes the layers."""
        return WanSpec(self.dtype)

    def setup(self):
        if len(self.in_time) != len(self.multiples) - 1:
            raise ValueError(
                f"in_time={self.in_time}: must have one value for each step between the "
                f"resolutions of multiples={self.multiples}"
            )
        net = Network(
            multiples=self.multiples,
            depth=self.depth,
            in_time=self.in_time,
            residual=self.residual,
            patch=self.patch,
        )
        common = {"net": net, "spec": self.make_spec()}
        encoder_base, decoder_base = self.base
        channels, num_outputs = self.bottleneck.channels, self.bottleneck.num_outputs
        settings = {"num_axes": self.projection_axes, "dtype": self.dtype}
        self.encoder = Encoder(**common, base=encoder_base, features=num_outputs)
        self.quant_conv = PointwiseConv(features=num_outputs, **settings)
        self.post_quant_conv = PointwiseConv(features=channels, **settings)
        self.decoder = Decoder(**common, base=decoder_base, channels=self.shape_HWC[-1])
        self.setup_likelihood(LOG_SIGMA)

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return 2 ** sum(self.in_time)

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return 2 ** len(self.in_time) * self.patch

    @nn.nowrap
    def encoder_modules(self) -> tuple[str, ...]:
        """See `GridVideoVAE`."""
        return ("encoder", "quant_conv")

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to mean and log-variance."""
        outputs, past = self.encoder(x_BTHWC, past)
        return self.quant_conv(outputs), past

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to frames."""
        return self.decoder(self.post_quant_conv(z_BthwZ), past)


def build(values: dict[str, Any]) -> WanVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network, or that diffusers itself cannot run.
    """
    return WanVAE(**read_network(values))


def read_network(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a `WanVAE` that settings of diffusers describe.

    Raises:
      ValueError: for settings that fit no network, or that diffusers itself cannot run.
    """
    inputs = values["in_channels"] if "in_channels" in values else values["input_channels"]
    outputs, patch = values.get("out_channels", inputs), values.get("patch_size") or 1
    if inputs != outputs or inputs % patch**2:
        raise ValueError(
            f"in_channels={inputs} and out_channels={outputs} must be the same and whole squares "
            f"of patch_size={patch}"
        )
    if values["attn_scales"]:
        raise ValueError(f"attn_scales={values['attn_scales']!r}: must be empty")
    steps, multiples = values["temperal_downsample"], values["dim_mult"]
    if len(steps) != len(multiples) - 1:
        raise ValueError(
            f"temperal_downsample={steps!r} must have one value for each step between the "
            f"resolutions of dim_mult={multiples!r}"
        )
    base = values["base_dim"]
    return {
        "shape_HWC": (*SAMPLE_SIZE, inputs // patch**2),
        "base": (base, values.get("decoder_base_dim") or base),
        "multiples": multiples,
        "depth": values["num_res_blocks"],
        "in_time": steps,
        "residual": values.get("is_residual", False),
        "patch": patch,
        "bottleneck": ScaledLatents(values["z_dim"], values["latents_mean"], values["latents_std"]),
    }


def describe(model: WanVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    channels = model.shape_HWC[-1] * model.patch**2
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": model.base[0],
        "decoder_base_dim": model.base[1],
        "z_dim": model.bottleneck.channels,
        "dim_mult": model.multiples,
        "num_res_blocks": model.depth,
        "attn_scales": (),
        "temperal_downsample": model.in_time,
        "dropout": 0.0,
        "latents_mean": model.bottleneck.prior_mean,
        "latents_std": model.bottleneck.prior_std,
        "is_residual": model.residual,
        "in_channels": channels,
        "out_channels": channels,
        "patch_size": None if model.patch == 1 else model.patch,
        "scale_factor_temporal": model.temporal_compression,
        "scale_factor_spatial": model.spatial_compression,
    }


FAMILY = Family(
    model=WanVAE,
    defaults=DEFAULTS,
    build=build,
    describe=describe,
)
