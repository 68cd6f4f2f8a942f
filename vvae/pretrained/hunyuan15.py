"""The video VAE of HunyuanVideo 1.5.

It compresses 4x16x16 into 32 channels. Its norms are over the channels of each position, its
convolutions pad every border by repeating it, and steps move positions into channels and back. In
the middle every position attends to all positions of its own and of earlier frames. It is causal in
both directions and streams exactly; the attention remembers the keys and values of all frames, so
that the memory of a stream grows with the video.

diffusers makes a mask of all positions against all, which takes more memory than the activations;
here the scores are computed for a frame at a time, see `causal_attention`.

References:
  Tencent Hunyuan, HunyuanVideo 1.5 Technical Report, 2025, arXiv:2511.18870.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import Past, chain
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.causal_attention import (
    Attend,
    CausalAttention,
    attend_to_earlier_frames,
)
from vvae.pretrained.family import Family, check_channels, describe_latents, read_latents
from vvae.pretrained.fold_blocks import FoldDown, UnfoldUp, average_groups
from vvae.pretrained.kl_blocks import FrameSpec, MidBlock, Stack
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    EdgePaddedConv,
    Layer,
    PointwiseConv,
    RMSNorm,
)

DEFAULTS = {
    "AutoencoderKLHunyuanVideo15": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 32,
        "block_out_channels": (128, 256, 512, 1024, 1024),
        "layers_per_block": 2,
        "spatial_compression_ratio": 16,
        "temporal_compression_ratio": 4,
        "downsample_match_channel": True,
        "upsample_match_channel": True,
        "scaling_factor": 1.03682,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


@dataclass(frozen=True)
class Spec15(FrameSpec):
    """Makes the layers; see `FrameSpec`. A step is (channels of the result, whether in time)."""

    last_norm: ClassVar[str] = "norm_out"

    def make_norm(self, name: str) -> RMSNorm:
        """Makes a norm."""
        return RMSNorm(dtype=self.dtype, name=name)

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a convolution that keeps the size."""
        return EdgePaddedConv(features=features, borders="edge", dtype=self.dtype, name=name)

    def make_shortcut(self, features: int, name: str) -> PointwiseConv:
        """Makes the projection of the input of a residual block that changes the channels."""
        return PointwiseConv(features=features, dtype=self.dtype, name=name)

    def make_attention(self, name: str, attend: Attend = attend_to_earlier_frames) -> Layer:
        """Makes the attention in the middle; see `CausalAttention`."""
        settings = {"num_axes": 3, "out": "proj_out", "attend": attend, "dtype": self.dtype}
        return CausalAttention(make_norm=lambda: self.make_norm("norm"), **settings, name=name)

    def make_down(self, step: tuple[int, bool], name: str) -> Layer:
        """Makes the step to the next coarser resolution."""
        return FoldDown(features=step[0], in_time=step[1], dtype=self.dtype, name=name)

    def make_up(self, step: tuple[int, bool], name: str) -> Layer:
        """Makes the step to the next finer resolution."""
        return UnfoldUp(features=step[0], in_time=step[1], dtype=self.dtype, name=name)


class Encoder(nn.Module, kw_only=True):
    """Maps [B, T, H, W, C] to [B, t, h, w, features]."""

    stack: Stack
    features: int
    spec: Spec15

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec, stack = self.spec, self.stack
        head = spec.make_head(self.features)

        def add_averages(x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
            y, after = head(x, past)
            return y + average_groups(x, self.features), after

        def make_step(step) -> Layer:
            return spec.make_down(step, "downsamplers.0")

        layers = [
            spec.make_conv(stack.widths[0], "conv_in"),
            *stack.list_levels(stack.widths, "down_blocks", make_step, spec),
            MidBlock(spec=spec, name="mid_block"),
            add_averages,
        ]
        return chain(layers, x, past)


class Decoder(nn.Module, kw_only=True):
    """Maps [B, t, h, w, Z] to [B, T, H, W, channels]."""

    stack: Stack
    channels: int
    spec: Spec15

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec, stack, width = self.spec, self.stack, self.stack.widths[0]
        conv = spec.make_conv(width, "conv_in")

        def add_repetitions(z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
            y, after = conv(z, past)
            return y + jnp.repeat(z, width // z.shape[-1], axis=-1).astype(y.dtype), after

        def make_step(step) -> Layer:
            return spec.make_up(step, "upsamplers.0")

        layers = [
            add_repetitions,
            MidBlock(spec=spec, name="mid_block"),
            *stack.list_levels(stack.widths, "up_blocks", make_step, spec),
            spec.make_head(self.channels),
        ]
        return chain(layers, z, past)


class Hunyuan15VAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      widths: channels at each resolution, finest first.
      depth: residual blocks at each resolution of the encoder; the decoder has one more.
      halvings: number of steps in space, and how many of them, the coarsest, are in time too.
      match: whether a step of the encoder, and of the decoder, already changes the channels.
      bottleneck: latents with their published standard deviation.
      dtype: of the activations. Norms, posterior and video are at least float32.
    """

    widths: tuple[int, ...] = (128, 256, 512, 1024, 1024)
    depth: int = 2
    halvings: tuple[int, int] = (4, 2)
    match: tuple[bool, bool] = (True, True)
    bottleneck: ScaledLatents = ScaledLatents(32, (0.0,) * 32, (1 / 1.03682,) * 32)
    dtype: Any = jnp.float32

    last_layer: ClassVar[tuple[str, ...]] = ("decoder", "conv_out", "conv")
    spec_class: ClassVar[type[Spec15]] = Spec15

    def setup(self):
        spec, (in_space, in_time) = self.spec_class(dtype=self.dtype), self.halvings
        down = [i >= in_space - in_time for i in range(in_space)]
        up = [i < in_time for i in range(in_space)]
        stacks = [
            Stack(widths=widths, steps=_list_steps(widths, steps, match), depth=depth)
            for widths, steps, match, depth in zip(
                (self.widths, self.widths[::-1]),
                (down, up),
                self.match,
                (self.depth, self.depth + 1),
                strict=True,
            )
        ]
        self.encoder = Encoder(stack=stacks[0], features=self.bottleneck.num_outputs, spec=spec)
        self.decoder = Decoder(stack=stacks[1], channels=self.shape_HWC[-1], spec=spec)
        self.setup_likelihood(LOG_SIGMA)

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return 2 ** self.halvings[1]

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return 2 ** self.halvings[0]


def _list_steps(widths: tuple[int, ...], in_time: list[bool], match: bool) -> tuple:
    """Returns the step after each level; see `Spec15`."""
    steps = [(widths[i + match], time) for i, time in enumerate(in_time)]
    return (*steps, *(None,) * (len(widths) - len(steps)))


def read_network(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a `Hunyuan15VAE` that settings of diffusers describe.

    Raises:
      ValueError: for settings that fit no network.
    """
    check_channels(values)
    widths = values["block_out_channels"]
    space, time = values["spatial_compression_ratio"], values["temporal_compression_ratio"]
    halvings = math.log2(space), math.log2(time)
    if not all(n.is_integer() for n in halvings) or not halvings[1] <= halvings[0] < len(widths):
        raise ValueError(
            f"spatial_compression_ratio={space} and temporal_compression_ratio={time} must be "
            f"powers of two, the second no larger, with a step fewer than block_out_channels="
            f"{widths!r}"
        )
    if widths[-1] % (2 * values["latent_channels"]) or any(width % 8 for width in widths):
        raise ValueError(
            f"block_out_channels={widths!r} must be multiples of 8, the last one also of twice "
            f"latent_channels={values['latent_channels']}"
        )
    return {
        "shape_HWC": (*SAMPLE_SIZE, values["in_channels"]),
        "widths": widths,
        "depth": values["layers_per_block"],
        "halvings": (int(halvings[0]), int(halvings[1])),
        "match": (values["downsample_match_channel"], values["upsample_match_channel"]),
        "bottleneck": read_latents(values),
    }


def describe_network(model: Hunyuan15VAE) -> dict[str, Any]:
    """Returns the settings that `read_network` reads."""
    return {
        "in_channels": model.shape_HWC[-1],
        "out_channels": model.shape_HWC[-1],
        "latent_channels": model.bottleneck.channels,
        "block_out_channels": model.widths,
        "layers_per_block": model.depth,
        "spatial_compression_ratio": 2 ** model.halvings[0],
        "temporal_compression_ratio": 2 ** model.halvings[1],
        "downsample_match_channel": model.match[0],
        "upsample_match_channel": model.match[1],
        "scaling_factor": describe_latents(model.bottleneck)["scaling_factor"],
    }


def build(values: dict[str, Any]) -> Hunyuan15VAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    return Hunyuan15VAE(**read_network(values))


def describe(model: Hunyuan15VAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    return {"_class_name": "AutoencoderKLHunyuanVideo15"} | describe_network(model)


FAMILY = Family(model=Hunyuan15VAE, defaults=DEFAULTS, build=build, describe=describe)
