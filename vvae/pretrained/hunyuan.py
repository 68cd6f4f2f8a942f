"""The video VAE of HunyuanVideo, also used by FramePack and Kandinsky 5 and 6.

It compresses 4x8x8 into 16 channels. Its convolutions are causal and pad every border by repeating
it, and its attention sees earlier frames alone; but its norms average over the whole video, so that
every latent and every frame depends on all others. Nothing can be streamed.

diffusers cuts a video of more than 16 frames into overlapping pieces and blends them unless it is
told not to (`use_framewise_encoding`, `use_framewise_decoding`): the latents of the pieces are not
those of the video. Here a video is encoded and decoded as a whole. The scores of the attention are
computed for a frame at a time; see `causal_attention`.

References:
  Kong et al., HunyuanVideo: A Systematic Framework For Large Video Generative Models, 2024,
  arXiv:2412.03603, section 4.1.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import Past, map_frames
from vvae.pretrained.causal_attention import CausalAttention
from vvae.pretrained.family import Family, describe_latents, read_latents
from vvae.pretrained.kl import KLVAE, describe_network, read_network
from vvae.pretrained.kl_blocks import FrameSpec
from vvae.pretrained.layers import (
    EdgePaddedConv,
    GroupNorm,
    Layer,
    PointwiseConv,
    StridedConv,
)

_DOWN, _UP = "HunyuanVideoDownBlock3D", "HunyuanVideoUpBlock3D"

DEFAULTS = {
    "AutoencoderKLHunyuanVideo": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 16,
        "down_block_types": (_DOWN,) * 4,
        "up_block_types": (_UP,) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "scaling_factor": 0.476986,
        "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 4,
        "mid_block_add_attention": True,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


class RepeatUp(nn.Module, kw_only=True):
    """Repeats pixels 2x2 times, and frames but the first twice, before a convolution."""

    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        x = map_frames(lambda x: x.repeat(2, axis=1).repeat(2, axis=2), x)
        if self.in_time:
            x = jnp.concatenate([x[:, :1], x[:, 1:].repeat(2, axis=1)], axis=1)
        settings = {"features": x.shape[-1], "borders": "edge", "dtype": self.dtype}
        return EdgePaddedConv(**settings, name="conv")(x, past)


@dataclass(frozen=True)
class VideoSpec(FrameSpec):
    """Makes the layers of a network that sees whole videos; see `FrameSpec`."""

    def make_norm(self, name: str) -> GroupNorm:
        """Makes a norm."""
        return GroupNorm(groups=self.groups, over_time=True, dtype=self.dtype, name=name)

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a convolution that keeps the size."""
        return EdgePaddedConv(features=features, borders="edge", dtype=self.dtype, name=name)

    def make_shortcut(self, features: int, name: str) -> PointwiseConv:
        """Makes the projection of the input of a residual block that changes the channels."""
        return PointwiseConv(features=features, dtype=self.dtype, name=f"{name}.conv")

    def make_attention(self, name: str) -> Layer:
        """Makes the attention in the middle."""
        return CausalAttention(
            make_norm=lambda: self.make_norm("group_norm"),
            num_axes=0,
            out="to_out.0",
            dtype=self.dtype,
            name=name,
        )

    def make_down(self, step: str, name: str) -> Layer:
        """Makes the step to the next coarser resolution."""
        return StridedConv(
            in_time=step == "both",
            borders="edge",
            dtype=self.dtype,
            name=f"{name}.conv",
        )

    def make_up(self, step: str, name: str) -> Layer:
        """Makes the step to the next finer resolution."""
        return RepeatUp(in_time=step == "both", dtype=self.dtype, name=name)


class HunyuanVAE(KLVAE):
    """The model; see `KLVAE` for the other attributes.

    Attributes:
      in_time: number of the coarsest steps that also halve time.
    """

    in_time: int = 2
    bottleneck: ScaledLatents = ScaledLatents(16, (0.0,) * 16, (1 / 0.476986,) * 16)

    projection_axes: ClassVar[int] = 3
    last_layer: ClassVar[tuple[str, ...]] = ("decoder", "conv_out", "conv")

    @nn.nowrap
    def make_specs(self) -> tuple[FrameSpec, FrameSpec]:
        """Returns what makes the layers of the encoder and of the decoder."""
        return (VideoSpec(groups=self.groups, dtype=self.dtype),) * 2

    @nn.nowrap
    def list_steps(self) -> tuple[tuple, tuple]:
        """Returns the steps after the levels of the encoder and of the decoder; see `Stack`.

        Those of both that change time are the last ones.
        """
        count = len(self.widths[0]) - 1
        steps = ("space",) * (count - self.in_time) + ("both",) * self.in_time
        return ((*steps, None),) * 2

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return 2**self.in_time

    @property
    def encoder_lookahead(self) -> None:
        """None: the norms average over all frames."""
        return None

    @property
    def decodes_causally(self) -> bool:
        """False: the norms average over all frames."""
        return False


def build(values: dict[str, Any]) -> HunyuanVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    # What other classes leave open is fixed in this one.
    values = values | {"use_quant_conv": True, "use_post_quant_conv": True}
    return HunyuanVAE(
        **read_network(values, values["block_out_channels"], (_DOWN, _UP)),
        in_time=_count_steps_in_time(values),
        bottleneck=read_latents(values),
    )


def _count_steps_in_time(values: dict[str, Any]) -> int:
    """Returns how many steps also halve time."""
    time, space = values["temporal_compression_ratio"], values["spatial_compression_ratio"]
    count = len(values["block_out_channels"]) - 1
    if time != 4 or space != 2**count or count < 2:
        raise ValueError(
            f"temporal_compression_ratio={time} must be 4 and spatial_compression_ratio={space} be "
            f"{2**count}, a factor 2 for each step of block_out_channels="
            f"{values['block_out_channels']!r}"
        )
    return int(math.log2(time))


def describe(model: HunyuanVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    kind = "AutoencoderKLHunyuanVideo"
    settings = describe_network(model, (_DOWN, _UP)) | describe_latents(model.bottleneck)
    return {k: settings[k] for k in DEFAULTS[kind].keys() & settings.keys()} | {
        "_class_name": kind,
        "spatial_compression_ratio": model.spatial_compression,
        "temporal_compression_ratio": model.temporal_compression,
    }


FAMILY = Family(model=HunyuanVAE, defaults=DEFAULTS, build=build, describe=describe)
