"""The image autoencoder of Stable Diffusion 1 to 3, SDXL, FLUX.1 and many others.

It compresses each frame 8x8 into 4 or 16 channels and sees no other frame: a video is encoded and
decoded frame by frame, in pieces of any length.

diffusers runs it in float32 where `force_upcast` says so: in float16 the activations of SDXL's
weights overflow. Here activations are float32, or bfloat16, whose range suffices.

References:
  Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022, section 3.1.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import Past
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.family import (
    Family,
    check_channels,
    check_fixed,
    describe_latents,
    read_latents,
)
from vvae.pretrained.folder import Absent
from vvae.pretrained.kl_blocks import Decoder, Encoder, FrameSpec, Stack
from vvae.pretrained.layers import LOG_SIGMA, SAMPLE_SIZE, PointwiseConv

_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"

DEFAULTS = {
    "AutoencoderKL": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": (_DOWN,),
        "up_block_types": (_UP,),
        "block_out_channels": (64,),
        "layers_per_block": 1,
        "act_fn": "silu",
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 32,
        "scaling_factor": 0.18215,
        "shift_factor": Absent(0.0),
        "latents_mean": Absent(()),
        "latents_std": Absent(()),
        "force_upcast": True,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "mid_block_add_attention": True,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class KLVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      widths: channels at each resolution of the encoder and of the decoder, finest first.
      depth: residual blocks at each resolution of the encoder; the decoder has one more.
      groups: of the norms.
      has_attention: whether encoder and decoder have an attention within frames.
      projections: whether the encoder's outputs and the decoder's inputs are projected.
      entries: channels of the first convolution of the encoder and of the decoder, where they are
        not those of the level beside it.
      bottleneck: latents with their published mean and standard deviation.
      dtype: of the activations. Norms, posterior and video are at least float32.
    """

    widths: tuple[tuple[int, ...], tuple[int, ...]] = ((128, 256, 512, 512),) * 2
    depth: int = 2
    groups: int = 32
    has_attention: bool = True
    projections: tuple[bool, bool] = (True, True)
    entries: tuple[int | None, int | None] = (None, None)
    bottleneck: ScaledLatents = ScaledLatents(4, (0.0,) * 4, (1 / 0.18215,) * 4)
    dtype: Any = jnp.float32

    temporal_compression: ClassVar[int] = 1
    last_layer: ClassVar[tuple[str, ...]] = ("decoder", "conv_out")

    projection_axes: ClassVar[int] = 2
    decoder_class: ClassVar[type[Decoder]] = Decoder

    def setup(self):
        specs = self.make_specs()
        depths = self.depth, self.depth + 1
        common = {"has_attention": self.has_attention, "middle": self.count_middle_blocks()}
        stacks = [
            Stack(widths=widths, steps=steps, depth=depth, entry=entry, **common)
            for widths, steps, depth, entry in zip(
                self.widths, self.list_steps(), depths, self.entries, strict=True
            )
        ]
        channels = self.count_network_latents()
        outputs = channels * self.bottleneck.num_outputs // self.bottleneck.channels
        self.encoder = Encoder(stack=stacks[0], features=outputs, spec=specs[0])
        self.decoder = self.decoder_class(
            stack=stacks[1], channels=self.count_network_channels(), spec=specs[1]
        )
        settings = {"num_axes": self.projection_axes, "dtype": self.dtype}
        if self.projections[0]:
            self.quant_conv = PointwiseConv(features=outputs, **settings)
        if self.projections[1]:
            self.post_quant_conv = PointwiseConv(features=channels, **settings)
        self.setup_likelihood(LOG_SIGMA)

    @nn.nowrap
    def make_specs(self) -> tuple[FrameSpec, FrameSpec]:
        """Returns what makes the layers of the encoder and of the decoder."""
        return (FrameSpec(groups=self.groups, dtype=self.dtype),) * 2

    @nn.nowrap
    def list_steps(self) -> tuple[tuple, tuple]:
        """Returns the steps after the levels of the encoder and of the decoder; see `Stack`."""
        return ((*("space",) * (len(self.widths[0]) - 1), None),) * 2

    @nn.nowrap
    def count_middle_blocks(self) -> int:
        """Returns the number of residual blocks in the middle."""
        return 2

    @nn.nowrap
    def count_network_latents(self) -> int:
        """Returns the number of latent channels between encoder and decoder."""
        return self.bottleneck.channels

    @nn.nowrap
    def count_network_channels(self) -> int:
        """Returns the number of channels of the frames that the decoder returns."""
        return self.shape_HWC[-1]

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return 2 ** (len(self.widths[0]) - 1)

    @nn.nowrap
    def encoder_modules(self) -> tuple[str, ...]:
        """See `GridVideoVAE`."""
        return ("encoder", "quant_conv") if self.projections[0] else ("encoder",)

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to mean and log-variance."""
        outputs, past = self.encoder(x_BTHWC, past)
        return (self.quant_conv(outputs) if self.projections[0] else outputs), past

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to frames."""
        return self.decoder(self.post_quant_conv(z_BthwZ) if self.projections[1] else z_BthwZ, past)


def read_network(
    values: dict[str, Any],
    decoder_widths: tuple[int, ...],
    kinds: tuple[str, str] = (_DOWN, _UP),
) -> dict[str, Any]:
    """Returns the attributes of a `KLVAE` that settings of diffusers describe.

    Args:
      values: the settings.
      decoder_widths: channels of the decoder, finest resolution first.
      kinds: names of the classes of the blocks of the encoder and of the decoder.

    Raises:
      ValueError: for settings that fit no network.
    """
    widths, groups = values["block_out_channels"], values["norm_num_groups"]
    kinds = {"down_block_types": kinds[0], "up_block_types": kinds[1]}
    for name, kind in kinds.items():
        if values[name] != (kind,) * len(widths):
            raise ValueError(f"{name}={values[name]!r}: must be {kind!r}, {len(widths)} times")
    check_fixed(values, {"act_fn": "silu"})
    check_channels(values)
    if len(decoder_widths) != len(widths):
        raise ValueError(
            f"decoder_block_out_channels={decoder_widths!r} and block_out_channels={widths!r} have "
            "different lengths"
        )
    check_groups((*widths, *decoder_widths), groups)
    return {
        "shape_HWC": (*SAMPLE_SIZE, values["in_channels"]),
        "widths": (widths, decoder_widths),
        "depth": values["layers_per_block"],
        "groups": groups,
        "has_attention": values["mid_block_add_attention"],
        "projections": (values["use_quant_conv"], values["use_post_quant_conv"]),
    }


def check_groups(widths: tuple[int, ...], groups: int) -> None:
    """Raises ValueError unless the channels of every width form whole groups."""
    if any(width % groups for width in widths):
        raise ValueError(
            f"norm_num_groups={groups}: does not divide the channels, block_out_channels={widths!r}"
        )


def describe_network(model: KLVAE, kinds: tuple[str, str] = (_DOWN, _UP)) -> dict[str, Any]:
    """Returns the settings that `read_network` reads, but for the widths of the decoder."""
    count = len(model.widths[0])
    return {
        "in_channels": model.shape_HWC[-1],
        "out_channels": model.shape_HWC[-1],
        "down_block_types": (kinds[0],) * count,
        "up_block_types": (kinds[1],) * count,
        "block_out_channels": model.widths[0],
        "layers_per_block": model.depth,
        "act_fn": "silu",
        "norm_num_groups": model.groups,
        "latent_channels": model.count_network_latents(),
        "mid_block_add_attention": model.has_attention,
        "use_quant_conv": model.projections[0],
        "use_post_quant_conv": model.projections[1],
    }


def build(values: dict[str, Any]) -> KLVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    network = read_network(values, values["block_out_channels"])
    return KLVAE(**network, bottleneck=read_latents(values))


def describe(model: KLVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    return {
        "_class_name": "AutoencoderKL",
        **describe_network(model),
        **describe_latents(model.bottleneck),
    }


def rename(name: str) -> str:
    """Returns the name that diffusers gives today to the layers of an attention."""
    *path, layer, kind = name.split(".")
    if path[-2:-1] == ["attentions"]:
        layer = _OLD_NAMES.get(layer, layer)
    return ".".join([*path, layer, kind])


FAMILY = Family(model=KLVAE, defaults=DEFAULTS, build=build, describe=describe, rename=rename)
