"""The video VAE of Mochi 1.

It compresses 6x8x8 into 12 channels. The encoder sees the pixels and their sines and cosines, has
norms over single frames, and attends at each position to earlier frames. The decoder has no
attention. Both are causal and stream exactly; the attentions of the encoder remember the keys and
values of all frames, so that the memory of an encoding stream grows with the video.

A step of the decoder makes two or three frames of each; of those of the first latent frame only the
last is kept. The authors' code drops the others at every step, diffusers at the end, so that its
convolutions still see them: it decodes other first frames from the same weights. Here they are
dropped at every step. In bfloat16 diffusers also takes the sines of rounded pixels; here, as in the
authors' code, pixels are not rounded.

References:
  Genmo Team, Mochi 1, 2024, https://github.com/genmoai/mochi, src/genmo/mochi_preview/vae.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import Past, chain, preactivate
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.causal_attention import CausalAttention, attend_over_time
from vvae.pretrained.family import Family, check_fixed, read_latents, unscaled_latents
from vvae.pretrained.fold_blocks import FoldedConv
from vvae.pretrained.kl_blocks import FrameSpec, Level
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    EdgePaddedConv,
    GroupNorm,
    Layer,
    PointwiseConv,
    repeat_up,
    stateless,
)

_GROUPS = 32
_HEAD = 32  # channels of a head of the attention
_SMALLEST_SQUARE = 1e-24  # of the length of a query or a key
_TURNS = (64.0, 128.0)  # of the sines and cosines, for each unit of a pixel
_WAVES = 1 + 2 * len(_TURNS)  # numbers that the encoder sees of each channel

DEFAULTS = {
    "AutoencoderKLMochi": {
        "in_channels": 15,
        "out_channels": 3,
        "encoder_block_out_channels": (64, 128, 256, 384),
        "decoder_block_out_channels": (128, 256, 512, 768),
        "latent_channels": 12,
        "layers_per_block": (3, 3, 4, 6, 3),
        "act_fn": "silu",
        "temporal_expansions": (1, 2, 3),
        "spatial_expansions": (2, 2, 2),
        "add_attention_block": (False, True, True, True, True),
        "latents_mean": (
            -0.06730895953510081,
            -0.038011381506090416,
            -0.07477820912866141,
            -0.05565264470995561,
            0.012767231469026969,
            -0.04703542746246419,
            0.043896967884726704,
            -0.09346305707025976,
            -0.09918314763016893,
            -0.008729793427399178,
            -0.011931556316503654,
            -0.0321993391887285,
        ),
        "latents_std": (
            0.9263795028493863,
            0.9248894543193766,
            0.9393059390890617,
            0.959253732819592,
            0.8244560132752793,
            0.917259975397747,
            0.9294154431013696,
            1.3720942357788521,
            0.881393668867029,
            0.9168315692124348,
            0.9185249279345552,
            0.9274757570805041,
        ),
        "scaling_factor": 1.0,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


def add_waves(x: jax.Array) -> jax.Array:
    """Appends the sines and cosines of 64 and 128 turns per unit: [..., C] -> [..., 5 C]."""
    angles = jnp.stack([2.0 * math.pi * turns * x for turns in _TURNS], axis=-1)
    angles = angles.reshape(*x.shape[:-1], -1)
    return jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], axis=-1)


def attend_by_direction(query_BTNC: jax.Array, key_BSNC: jax.Array, value_BSNC: jax.Array):
    """Computes `attend_over_time`, with the queries and keys of each head scaled to length one."""
    heads = query_BTNC.shape[-1] // _HEAD

    def normalize(a):
        parts = raise_precision(a).reshape(*a.shape[:-1], heads, _HEAD)
        squares = jnp.sum(jnp.square(parts), axis=-1, keepdims=True)
        parts = parts * jax.lax.rsqrt(jnp.maximum(squares, _SMALLEST_SQUARE))
        return parts.reshape(a.shape).astype(a.dtype)

    return attend_over_time(normalize(query_BTNC), normalize(key_BSNC), value_BSNC, heads)


@dataclass(frozen=True)
class MochiSpec(FrameSpec):
    """Makes the layers; see `FrameSpec`. A step is (channels of the result, frames of a stride).

    Attributes:
      attends: whether an attention over time follows each block.
    """

    groups: int = _GROUPS
    attends: bool = False

    def make_blocks(self, features: int, depth: int) -> list[Layer]:
        """Makes the residual blocks of a level, and the attentions after them."""
        layers = []
        for i in range(depth):
            layers.append(self.make_block(features, f"{self.blocks}.{i}"))
            if self.attends:
                layers.append(self.make_attention(f"attentions.{i}"))
        return layers

    def make_norm(self, name: str) -> GroupNorm:
        """Makes a norm."""
        settings = {"groups": self.groups, "epsilon": 1e-5, "dtype": self.dtype}
        return GroupNorm(**settings, name=f"{name}.norm_layer")

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a convolution that keeps the size."""
        return EdgePaddedConv(features=features, borders="edge", dtype=self.dtype, name=name)

    def make_attention(self, name: str) -> Layer:
        """Makes an attention; the norm before it has a name beside its own."""
        norm = self.make_norm(name.replace("attentions", "norms"))
        return CausalAttention(
            make_norm=lambda: norm,
            num_axes=0,
            out="to_out.0",
            attend=attend_by_direction,
            use_bias=False,
            dtype=self.dtype,
            name=name,
        )

    def make_down(self, step: tuple[int, int], name: str) -> Layer:
        """Makes the step to the next coarser resolution."""
        features, in_time = step
        return FoldedConv(features=features, in_time=in_time, dtype=self.dtype, name=f"{name}.conv")

    def make_up(self, step: tuple[int, int], name: str) -> Layer:
        """Makes the step to the next finer resolution."""
        features, in_time = step
        dense = self.make_dense(4 * in_time * features, name)

        def run(x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
            y = repeat_up(dense(x), features, in_time, 2)
            return y[:, in_time - 1 if past is None else 0 :], ()

        return run

    def make_dense(self, features: int, name: str, *, use_bias: bool = True) -> PointwiseConv:
        """Makes a linear layer."""
        settings = {"num_axes": 0, "use_bias": use_bias, "dtype": self.dtype}
        return PointwiseConv(features=features, **settings, name=name)

    def make_level(self, width: int, depth: int, name: str, **steps) -> Level:
        """Makes blocks of one resolution; see `Level`."""
        return Level(features=width, depth=depth, spec=self, **steps, name=name)

    def in_high_precision(self) -> "MochiSpec":
        """Returns what makes layers whose output is at least float32."""
        return replace(self, dtype=jnp.promote_types(self.dtype, jnp.float32))


class Encoder(nn.Module, kw_only=True):
    """Maps [B, T, H, W, C] to [B, t, h, w, features].

    Attributes:
      widths: channels at each resolution, finest first.
      depths: blocks of the input, after each step, and of the output.
      attends: for each of them, whether its blocks are followed by attentions.
      in_time: frames of each stride.
      features: number of output channels.
      dtype: of the activations.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    attends: tuple[bool, ...]
    in_time: tuple[int, ...]
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        specs = [MochiSpec(attends=attends, dtype=self.dtype) for attends in self.attends]
        widths, depths, last = self.widths, self.depths, specs[-1].in_high_precision()
        layers = [
            stateless(specs[0].make_dense(widths[0], "proj_in")),
            specs[0].make_level(widths[0], depths[0], "block_in"),
        ]
        for i, (width, in_time) in enumerate(zip(widths[1:], self.in_time, strict=True)):
            make = functools.partial(specs[i + 1].make_down, (width, in_time), "conv_in")
            name = f"down_blocks.{i}"
            layers.append(specs[i + 1].make_level(width, depths[i + 1], name, first=make))
        out = last.make_dense(self.features, "proj_out", use_bias=False)
        layers.append(specs[-1].make_level(widths[-1], depths[-1], "block_out"))
        layers.append(preactivate(last.make_norm("norm_out"), stateless(out)))
        return chain(layers, add_waves(x), past)


class Decoder(nn.Module, kw_only=True):
    """Maps [B, t, h, w, Z] to [B, T, H, W, channels].

    Attributes:
      widths, depths, in_time, dtype: see `Encoder`.
      channels: number of output channels.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    in_time: tuple[int, ...]
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec, widths, depths = MochiSpec(dtype=self.dtype), self.widths[::-1], self.depths[::-1]
        conv = PointwiseConv(features=widths[0], dtype=self.dtype, name="conv_in")
        layers = [stateless(conv), spec.make_level(widths[0], depths[0], "block_in")]
        for i, in_time in enumerate(reversed(self.in_time)):
            make = functools.partial(spec.make_up, (widths[i + 1], in_time), "proj")
            name = f"up_blocks.{i}"
            layers.append(spec.make_level(widths[i], depths[i + 1], name, step=make))
        out = spec.in_high_precision().make_dense(self.channels, "proj_out")
        layers.append(spec.make_level(widths[-1], depths[-1], "block_out"))
        layers.append(preactivate(lambda x: x, stateless(out)))
        return chain(layers, z, past)


class MochiVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      widths: channels at each resolution of the encoder and of the decoder, finest first.
      depths, attends, in_time: see `Encoder`.
      bottleneck: latents with their published mean and standard deviation.
      dtype: of the activations. Sines, norms, posterior and video are at least float32.
    """

    widths: tuple[tuple[int, ...], tuple[int, ...]] = ((64, 128, 256, 384), (128, 256, 512, 768))
    depths: tuple[int, ...] = (3, 3, 4, 6, 3)
    attends: tuple[bool, ...] = (False, True, True, True, True)
    in_time: tuple[int, ...] = (1, 2, 3)
    bottleneck: ScaledLatents = unscaled_latents(12)
    dtype: Any = jnp.float32

    last_layer: ClassVar[tuple[str, ...]] = ("decoder", "proj_out")

    def setup(self):
        common = {"depths": self.depths, "in_time": self.in_time, "dtype": self.dtype}
        features = self.bottleneck.num_outputs
        self.encoder = Encoder(
            widths=self.widths[0], attends=self.attends, features=features, **common
        )
        self.decoder = Decoder(widths=self.widths[1], channels=self.shape_HWC[-1], **common)
        self.setup_likelihood(LOG_SIGMA)

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return math.prod(self.in_time)

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return 2 ** len(self.in_time)


def build(values: dict[str, Any]) -> MochiVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    channels, in_time = values["out_channels"], values["temporal_expansions"]
    check_fixed(
        values,
        {
            "act_fn": "silu",
            "in_channels": _WAVES * channels,
            "spatial_expansions": (2,) * len(in_time),
        },
    )
    lengths = {
        "encoder_block_out_channels": len(in_time) + 1,
        "decoder_block_out_channels": len(in_time) + 1,
        "layers_per_block": len(in_time) + 2,
        "add_attention_block": len(in_time) + 2,
    }
    for name, length in lengths.items():
        if len(values[name]) != length:
            raise ValueError(
                f"{name}={values[name]!r}: must have {length} values for temporal_expansions="
                f"{in_time!r}"
            )
    widths = values["encoder_block_out_channels"], values["decoder_block_out_channels"]
    if any(width % _GROUPS for side in widths for width in side):
        raise ValueError(
            f"encoder_block_out_channels={widths[0]!r} and decoder_block_out_channels="
            f"{widths[1]!r}: must be multiples of {_GROUPS}"
        )
    return MochiVAE(
        shape_HWC=(*SAMPLE_SIZE, channels),
        widths=widths,
        depths=values["layers_per_block"],
        attends=values["add_attention_block"],
        in_time=in_time,
        bottleneck=read_latents(values),
    )


def describe(model: MochiVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    channels = model.shape_HWC[-1]
    return {
        "_class_name": "AutoencoderKLMochi",
        "in_channels": _WAVES * channels,
        "out_channels": channels,
        "encoder_block_out_channels": model.widths[0],
        "decoder_block_out_channels": model.widths[1],
        "latent_channels": model.bottleneck.channels,
        "layers_per_block": model.depths,
        "act_fn": "silu",
        "temporal_expansions": model.in_time,
        "spatial_expansions": (2,) * len(model.in_time),
        "add_attention_block": model.attends,
        "latents_mean": model.bottleneck.prior_mean,
        "latents_std": model.bottleneck.prior_std,
        "scaling_factor": 1.0,
    }


FAMILY = Family(model=MochiVAE, defaults=DEFAULTS, build=build, describe=describe)
