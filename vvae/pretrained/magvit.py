"""The video VAE of EasyAnimate 5, `AutoencoderKLMagvit` in diffusers.

It compresses 4x8x8 into 16 channels with causal convolutions and norms over single frames, without
attention. It is causal in both directions: the first frame is alone, and later ones come in groups
of four.

`enable_tiling` of diffusers also encodes four frames at a time, which gives the same as the whole;
only its tiles in space give other latents.

References:
  Xu et al., EasyAnimate: A High-Performance Long Video Generation Method based on Transformer
  Architecture, 2024, arXiv:2405.18991.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import CausalConv, Past, map_frames
from vvae.pretrained.family import (
    Family,
    check_channels,
    check_fixed,
    describe_latents,
    read_latents,
)
from vvae.pretrained.kl import KLVAE, check_groups
from vvae.pretrained.kl_blocks import FrameSpec
from vvae.pretrained.layers import SAMPLE_SIZE, Layer, PointwiseConv, StridedConv, repeat_later

_DOWN = {False: "SpatialDownBlock3D", True: "SpatialTemporalDownBlock3D"}
_UP = {False: "SpatialUpBlock3D", True: "SpatialTemporalUpBlock3D"}

DEFAULTS = {
    "AutoencoderKLMagvit": {
        "in_channels": 3,
        "latent_channels": 16,
        "out_channels": 3,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": (_DOWN[False], *(_DOWN[True],) * 3),
        "up_block_types": (_UP[False], *(_UP[True],) * 3),
        "layers_per_block": 2,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "scaling_factor": 0.7125,
        "spatial_group_norm": True,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


def convolve_causally(features: int, dtype, name: str) -> Layer:
    """Makes a 3x3x3 convolution that repeats the first frame in front."""
    conv = CausalConv(features=features, dtype=dtype, name=name)

    def run(x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        x = x.astype(dtype)
        return conv(x, jnp.repeat(x[:, :1], 2, axis=1) if past is None else past)

    return run


class RepeatLater(nn.Module, kw_only=True):
    """Repeats pixels 2x2 times, convolves, and repeats frames but the first of a video."""

    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        x = map_frames(lambda x: x.repeat(2, axis=1).repeat(2, axis=2), x)
        y, after = convolve_causally(x.shape[-1], self.dtype, "conv")(x, past)
        return repeat_later(y, past) if self.in_time else y, after


@dataclass(frozen=True)
class MagvitSpec(FrameSpec):
    """Makes the layers; see `FrameSpec`. A step says whether it is in time too."""

    blocks: ClassVar[str] = "convs"
    steps: ClassVar[tuple[str, str]] = ("downsampler", "upsampler")

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a convolution that keeps the size."""
        return convolve_causally(features, self.dtype, name)

    def make_shortcut(self, features: int, name: str) -> PointwiseConv:
        """Makes the projection of the input of a residual block that changes the channels."""
        return PointwiseConv(features=features, dtype=self.dtype, name="shortcut")

    def make_down(self, step: bool, name: str) -> Layer:
        """Makes the step to the next coarser resolution."""
        return StridedConv(in_time=step, borders="end", dtype=self.dtype, name=name)

    def make_up(self, step: bool, name: str) -> Layer:
        """Makes the step to the next finer resolution."""
        return RepeatLater(in_time=step, dtype=self.dtype, name=name)


class MagvitVAE(KLVAE):
    """The model; see `KLVAE` for the other attributes.

    Attributes:
      in_time: whether each step of the encoder, finest first, and each step of the decoder,
        coarsest first, is in time too.
    """

    has_attention: bool = False
    in_time: tuple[tuple[bool, ...], tuple[bool, ...]] = ((False, True, True),) * 2
    bottleneck: ScaledLatents = ScaledLatents(16, (0.0,) * 16, (1 / 0.7125,) * 16)

    projection_axes: ClassVar[int] = 3

    @nn.nowrap
    def make_specs(self) -> tuple[FrameSpec, FrameSpec]:
        """Returns what makes the layers of the encoder and of the decoder."""
        return (MagvitSpec(groups=self.groups, dtype=self.dtype),) * 2

    @nn.nowrap
    def list_steps(self) -> tuple[tuple, tuple]:
        """Returns the steps after the levels of the encoder and of the decoder; see `Stack`."""
        encoder, decoder = self.in_time
        return (*encoder, None), (*decoder, None)

    @nn.nowrap
    def count_middle_blocks(self) -> int:
        """Returns the number of blocks in the middle."""
        return self.depth

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return 2 ** sum(self.in_time[0])


def _read_kinds(values: dict[str, Any], name: str, kinds: dict[bool, str]) -> tuple[bool, ...]:
    """Returns whether each step is in time too; the last block has no step."""
    found = {kind: in_time for in_time, kind in kinds.items()}
    if set(values[name]) - found.keys() or len(values[name]) != len(values["block_out_channels"]):
        raise ValueError(
            f"{name}={values[name]!r}: must be {' or '.join(found)} for each of "
            f"block_out_channels={values['block_out_channels']!r}"
        )
    return tuple(found[kind] for kind in values[name][:-1])


def build(values: dict[str, Any]) -> MagvitVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    check_fixed(values, {"act_fn": "silu", "spatial_group_norm": True})
    check_channels(values)
    widths = values["block_out_channels"]
    check_groups(widths, values["norm_num_groups"])
    in_time = (
        _read_kinds(values, "down_block_types", _DOWN),
        _read_kinds(values, "up_block_types", _UP),
    )
    if sum(in_time[0]) != sum(in_time[1]):
        raise ValueError(
            f"down_block_types={values['down_block_types']!r} and up_block_types="
            f"{values['up_block_types']!r} do not compress time by the same factor"
        )
    return MagvitVAE(
        shape_HWC=(*SAMPLE_SIZE, values["in_channels"]),
        widths=(widths, widths),
        depth=values["layers_per_block"],
        groups=values["norm_num_groups"],
        in_time=in_time,
        bottleneck=read_latents(values),
    )


def describe(model: MagvitVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    encoder, decoder = model.in_time
    return {
        "_class_name": "AutoencoderKLMagvit",
        "in_channels": model.shape_HWC[-1],
        "latent_channels": model.bottleneck.channels,
        "out_channels": model.shape_HWC[-1],
        "block_out_channels": model.widths[0],
        # The last block has no step, whatever its name says.
        "down_block_types": (*(_DOWN[step] for step in encoder), _DOWN[True]),
        "up_block_types": (*(_UP[step] for step in decoder), _UP[True]),
        "layers_per_block": model.depth,
        "act_fn": "silu",
        "norm_num_groups": model.groups,
        "scaling_factor": describe_latents(model.bottleneck)["scaling_factor"],
        "spatial_group_norm": True,
    }


FAMILY = Family(model=MagvitVAE, defaults=DEFAULTS, build=build, describe=describe)
