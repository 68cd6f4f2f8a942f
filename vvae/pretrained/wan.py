"""The video VAE of Wan 2.1 and 2.2, and of Qwen-Image (one frame of the network of Wan 2.1).

Wan 2.1 (Wan Team 2025, arXiv:2503.20314, section 4.1) compresses 4x8x8 into 16 channels by causal
convolutions, norms per position and one attention within frames. Wan 2.2 begins with 2x2 patches,
compresses 4x16x16 into 48 channels and has a shortcut without parameters around each resolution.
Causal in both directions: latent frame 0 is frame 0 alone, latent frame i the four after 4 i - 4.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import CausalConv, Past, attend_within_frames, chain
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    FrameConv,
    Pointwise,
    TimeConv,
    UnitNorm,
    average_down,
    double,
    double_time,
    fold_patches,
    halve,
    halve_time,
    repeat_up,
    unfold_patches,
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
"""Class -> the settings that its config.json may have, and the values of those that it lacks."""


@dataclass(frozen=True)
class Network:
    """What encoder and decoder have in common.

    Attributes:
      multiples: of the channels at each resolution, the finest first.
      depth: residual blocks at each resolution of the encoder; the decoder has one more.
      in_time: whether each step to a coarser resolution halves time too.
      residual: whether each resolution has a shortcut around it (Wan 2.2).
      patch: pixels of a side of the squares that are put into channels; 1 for none.
      dtype: of the activations.
    """

    multiples: tuple[int, ...]
    depth: int
    in_time: tuple[bool, ...]
    residual: bool
    patch: int
    dtype: Any


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x by a matrix where the channels change."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        before = past or (None, None)
        h = nn.silu(UnitNorm(dtype=self.dtype, name="norm1")(x))
        h, first = CausalConv(self.features, self.dtype, name="conv1")(h, before[0])
        h = nn.silu(UnitNorm(dtype=self.dtype, name="norm2")(h))
        h, second = CausalConv(self.features, self.dtype, name="conv2")(h, before[1])
        if x.shape[-1] != self.features:
            x = Pointwise(self.features, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h, (first, second)


class Attention(nn.Module):
    """Every position of a frame attends to all positions of that frame; remembers nothing."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        channels = x.shape[-1]
        h = UnitNorm(2, self.dtype, name="norm")(x)
        h = Pointwise(3 * channels, 2, self.dtype, name="to_qkv")(h)
        h = attend_within_frames(h)
        return x + Pointwise(channels, 2, self.dtype, name="proj")(h), ()


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        layers = [
            ResBlock(self.features, self.dtype, name="resnets.0"),
            Attention(self.dtype, name="attentions.0"),
            ResBlock(self.features, self.dtype, name="resnets.1"),
        ]
        return chain(layers, x, past)


class Halve(nn.Module):
    """Halves height and width, and time where in_time says so; keeps the channels."""

    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        channels = x.shape[-1]
        x = FrameConv(channels, halve, self.dtype, name="resample.1")(x)
        if not self.in_time:
            return x, ()
        return halve_time(TimeConv(channels, dtype=self.dtype, name="time_conv"), x, past)


class Double(nn.Module):
    """Doubles time where in_time says so, then height and width."""

    features: int
    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        after: Past = ()
        if self.in_time:
            conv = TimeConv(2 * x.shape[-1], dtype=self.dtype, name="time_conv")
            x, after = double_time(conv, x, past)
        return FrameConv(self.features, double, self.dtype, name="resample.1")(x), after


def _make_blocks(features: int, depth: int, dtype) -> list[nn.Module]:
    return [ResBlock(features, dtype, name=f"resnets.{i}") for i in range(depth)]


class ResidualDown(nn.Module):
    """Residual blocks, halved if there is a step, beside means of what they have read."""

    features: int
    depth: int
    step: bool
    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        layers = _make_blocks(self.features, self.depth, self.dtype)
        if self.step:
            layers.append(Halve(self.in_time, self.dtype, name="downsampler"))
        y, past = chain(layers, x, past)
        return y + average_down(x, self.features, 1 + self.in_time, 1 + self.step), past


class ResidualUp(nn.Module):
    """Residual blocks, doubled if there is a step, beside repetitions of what they have read."""

    features: int
    depth: int
    step: bool
    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        layers = _make_blocks(self.features, self.depth, self.dtype)
        if not self.step:
            return chain(layers, x, past)
        layers.append(Double(self.features, self.in_time, self.dtype, name="upsampler"))
        y, after = chain(layers, x, past)
        beside = repeat_up(x, self.features, 1 + self.in_time, 2)
        # Of the first frame's pair the second is kept.
        return y + (beside[:, self.in_time :] if past is None else beside), after


class Up(nn.Module):
    """Residual blocks, doubled with half the channels if there is a step."""

    features: int
    depth: int
    step: bool
    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        layers = _make_blocks(self.features, self.depth, self.dtype)
        if self.step:
            half = self.features // 2
            layers.append(Double(half, self.in_time, self.dtype, name="upsamplers.0"))
        return chain(layers, x, past)


def _make_head(features: int, dtype) -> list:
    """Norm, SiLU and a convolution whose result is at least float32."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    norm = UnitNorm(dtype=dtype, name="norm_out")
    return [
        lambda x, past: (nn.silu(norm(x)), ()),
        CausalConv(features, dtype, name="conv_out"),
    ]


class Encoder(nn.Module):
    """[B, T, H, W, C] -> [B, t, h, w, features]."""

    net: Network
    base: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net = self.net
        widths = [self.base * multiple for multiple in net.multiples]
        layers = [CausalConv(self.base, net.dtype, name="conv_in")]
        layers += self._make_residual(widths) if net.residual else self._make_plain(widths)
        layers.append(Middle(widths[-1], net.dtype, name="mid_block"))
        layers += _make_head(self.features, net.dtype)
        return chain(layers, fold_patches(x, net.patch), past)

    def _make_residual(self, widths: list[int]) -> list[nn.Module]:
        net, steps = self.net, (*self.net.in_time, None)
        return [
            ResidualDown(
                width,
                net.depth,
                in_time is not None,
                bool(in_time),
                net.dtype,
                name=f"down_blocks.{level}",
            )
            for level, (width, in_time) in enumerate(zip(widths, steps, strict=True))
        ]

    def _make_plain(self, widths: list[int]) -> list[nn.Module]:
        net, layers = self.net, []
        for width, in_time in zip(widths, (*net.in_time, None), strict=True):
            for _ in range(net.depth):
                layers.append(ResBlock(width, net.dtype, name=f"down_blocks.{len(layers)}"))
            if in_time is not None:
                layers.append(Halve(in_time, net.dtype, name=f"down_blocks.{len(layers)}"))
        return layers


class Decoder(nn.Module):
    """[B, t, h, w, Z] -> [B, T, H, W, channels] in [-1, 1]."""

    net: Network
    base: int
    channels: int

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net = self.net
        widths = [self.base * multiple for multiple in reversed(net.multiples)]
        layers = [
            CausalConv(widths[0], net.dtype, name="conv_in"),
            Middle(widths[0], net.dtype, name="mid_block"),
        ]
        block = ResidualUp if net.residual else Up
        steps = (*reversed(net.in_time), None)
        for level, (width, in_time) in enumerate(zip(widths, steps, strict=True)):
            settings = (net.depth + 1, in_time is not None, bool(in_time), net.dtype)
            layers.append(block(width, *settings, name=f"up_blocks.{level}"))
        layers += _make_head(self.channels * net.patch**2, net.dtype)
        x, past = chain(layers, z, past)
        return jnp.clip(unfold_patches(x, net.patch), -1.0, 1.0), past


class WanVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      base: channels that `multiples` multiply, of the encoder and of the decoder.
      multiples: see `Network`.
      depth: see `Network`.
      in_time: see `Network`.
      residual: see `Network`.
      patch: see `Network`.
      bottleneck: latents with their published mean and standard deviation.
      dtype: of the activations; norms, posterior and video are at least float32.
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

    def setup(self):
        if len(self.in_time) != len(self.multiples) - 1:
            raise ValueError(
                f"in_time={self.in_time}: one for each step between the resolutions of "
                f"multiples={self.multiples} is needed"
            )
        net = Network(
            self.multiples, self.depth, self.in_time, self.residual, self.patch, self.dtype
        )
        self.encoder = Encoder(net, self.base[0], self.bottleneck.num_outputs)
        self.quant_conv = Pointwise(self.bottleneck.num_outputs, dtype=self.dtype)
        self.post_quant_conv = Pointwise(self.bottleneck.channels, dtype=self.dtype)
        self.decoder = Decoder(net, self.base[1], self.shape_HWC[-1])
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
        """Frames -> mean and log-variance."""
        outputs, past = self.encoder(x_BTHWC, past)
        return self.quant_conv(outputs), past

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Latents -> frames."""
        return self.decoder(self.post_quant_conv(z_BthwZ), past)


MODEL = WanVAE
# Tensors beside the parameters, the mean and the standard deviation of the latents: none here.
BUFFERS = ()


def build(values: dict[str, Any]) -> WanVAE:
    """Returns the model of the settings of a config.json, filled up from DEFAULTS.

    Raises:
      ValueError: for settings that no network has, or that diffusers itself cannot run.
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
    return WanVAE(
        shape_HWC=(*SAMPLE_SIZE, inputs // patch**2),
        base=(base, values.get("decoder_base_dim") or base),
        multiples=multiples,
        depth=values["num_res_blocks"],
        in_time=steps,
        residual=values.get("is_residual", False),
        patch=patch,
        bottleneck=ScaledLatents(values["z_dim"], values["latents_mean"], values["latents_std"]),
    )


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
