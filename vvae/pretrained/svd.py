"""The autoencoder of Stable Video Diffusion: that of images, with a decoder that sees all frames.

It compresses each frame 8x8 into 4 channels by itself. The decoder mixes every block of a frame
with convolutions over its neighbours, whose norms average over the whole video: every decoded frame
depends on all latents. Videos are encoded in pieces and decoded as a whole; pipelines of diffusers
decode a few frames at a time to save memory, which gives other frames.

References:
  Blattmann et al., Stable Video Diffusion: Scaling Latent Video Diffusion Models to Large Datasets,
  2023, arXiv:2311.15127.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax

from vvae.models.causal_blocks import Past, preactivate
from vvae.pretrained.family import Family, check_fixed, describe_latents, read_latents
from vvae.pretrained.kl import KLVAE, describe_network, read_network
from vvae.pretrained.kl_blocks import Decoder, FrameSpec, ResBlock
from vvae.pretrained.layers import GroupNorm, Layer, TemporalConv, centre_in_time

_GROUPS = 32
_DEPTH = 2  # blocks in the middle of the decoder, as many as at each resolution of the encoder
_DOWN = "DownEncoderBlock2D"

DEFAULTS = {
    "AutoencoderKLTemporalDecoder": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": (_DOWN,),
        "block_out_channels": (64,),
        "layers_per_block": 1,
        "latent_channels": 4,
        "sample_size": 32,
        "scaling_factor": 0.18215,
        "force_upcast": True,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


def convolve_time(features: int, dtype, name: str) -> Layer:
    """Makes a 3x1x1 convolution of a frame and its neighbours, with zeros beyond the ends."""
    return centre_in_time(TemporalConv(features=features, dtype=dtype, name=name))


class TemporalBlock(nn.Module, kw_only=True):
    """A residual block of convolutions over time, with norms over the whole video."""

    spec: FrameSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y, dtype = x, self.spec.dtype
        for i in (1, 2):
            norm = GroupNorm(
                groups=self.spec.groups,
                over_time=True,
                epsilon=1e-5,
                dtype=dtype,
                name=f"norm{i}",
            )
            y, _ = preactivate(norm, convolve_time(x.shape[-1], dtype, f"conv{i}"))(y, None)
        return x + y


class MixedBlock(nn.Module, kw_only=True):
    """A residual block of each frame, mixed with one over time. Remembers nothing."""

    features: int
    spec: FrameSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec = self.spec
        x, _ = ResBlock(features=self.features, spec=spec, name="spatial_res_block")(x, past)
        y = TemporalBlock(spec=spec, name="temporal_res_block")(x)
        init = nn.initializers.zeros
        factor = self.param("time_mixer.mix_factor", init, (1,)).astype(spec.dtype)
        share = nn.sigmoid(factor).reshape(1, 1, 1, 1, 1)
        return (1.0 - share) * x + share * y, ()


@dataclass(frozen=True)
class MixedSpec(FrameSpec):
    """Makes the layers of the decoder; see `FrameSpec`."""

    def make_block(self, features: int, name: str) -> Layer:
        """Makes a residual block."""
        return MixedBlock(features=features, spec=self, name=name)


class TemporalDecoder(Decoder):
    """The decoder of `kl_blocks`, and a convolution of the decoded frames over time."""

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        x, past = super().__call__(z, past)
        return convolve_time(self.channels, x.dtype, "time_conv_out")(x, None)[0], past


class SVDVAE(KLVAE):
    """The model; see `KLVAE` for its attributes."""

    projections: tuple[bool, bool] = (True, False)

    decoder_class: ClassVar[type[Decoder]] = TemporalDecoder

    @nn.nowrap
    def make_specs(self) -> tuple[FrameSpec, FrameSpec]:
        """Returns what makes the layers of the encoder and of the decoder."""
        settings = {"groups": self.groups, "dtype": self.dtype}
        return FrameSpec(**settings), MixedSpec(**settings)

    @property
    def decodes_causally(self) -> bool:
        """False: the decoder averages over all frames."""
        return False


def build(values: dict[str, Any]) -> SVDVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    check_fixed(values, {"layers_per_block": _DEPTH})
    widths = values["block_out_channels"]
    fixed = {
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "act_fn": "silu",
        "norm_num_groups": _GROUPS,
        "mid_block_add_attention": True,
        "use_quant_conv": True,
        "use_post_quant_conv": False,
    }
    return SVDVAE(**read_network(values | fixed, widths), bottleneck=read_latents(values))


def describe(model: SVDVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    kind = "AutoencoderKLTemporalDecoder"
    settings = describe_network(model) | describe_latents(model.bottleneck)
    return {"_class_name": kind} | {k: settings[k] for k in DEFAULTS[kind].keys() & settings.keys()}


FAMILY = Family(model=SVDVAE, defaults=DEFAULTS, build=build, describe=describe)
