"""The video VAE of CogVideoX, 1.0 and 1.5.

It compresses 4x8x8 into 16 channels. Its convolutions are causal, but its norms average over the
frames at hand, and the weights were made for pieces: 8 frames, or 2 latent frames, after a first
piece with one more. A frame sees all frames of its piece, and earlier pieces through the
convolutions. Here the pieces are always these, so that a video has the same latents in diffusers.

diffusers puts 5 to 7 more frames into the first piece where their number asks for it, and decodes
an even number of latent frames to more frames than were encoded. Here the last frame is repeated
until there are 1 + 8 n frames, and latents come as 1 + 2 n frames.

References:
  Yang et al., CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer, 2024,
  arXiv:2408.06072, section 2.1.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import Past, map_frames
from vvae.pretrained.family import Family, check_fixed, describe_latents, read_latents
from vvae.pretrained.folder import Absent
from vvae.pretrained.kl import KLVAE, describe_network, read_network
from vvae.pretrained.kl_blocks import FrameSpec
from vvae.pretrained.layers import (
    EdgePaddedConv,
    GroupNorm,
    Layer,
    PointwiseConv,
    SpatialResample,
    down_conv_3x3,
    up_conv_3x3,
)

_DOWN, _UP = "CogVideoXDownBlock3D", "CogVideoXUpBlock3D"
_STEPS = 2  # that change time
_PIECE = 8  # frames of a piece after the first; a quarter as many latent frames

DEFAULTS = {
    "AutoencoderKLCogVideoX": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": (_DOWN,) * 4,
        "up_block_types": (_UP,) * 4,
        "block_out_channels": (128, 256, 256, 512),
        "latent_channels": 16,
        "layers_per_block": 3,
        "act_fn": "silu",
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "temporal_compression_ratio": 4,
        "sample_height": 480,
        "sample_width": 720,
        "scaling_factor": 1.15258426,
        "shift_factor": Absent(0.0),
        "latents_mean": Absent(()),
        "latents_std": Absent(()),
        "force_upcast": True,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "invert_scale_latents": False,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


def map_later(function, x_BTHWC: jax.Array) -> jax.Array:
    """Applies a function of frames to all frames but the first of an odd number."""
    first = x_BTHWC.shape[1] % 2
    return jnp.concatenate([x_BTHWC[:, :first], function(x_BTHWC[:, first:])], axis=1)


def average_pairs(x_BTHWC: jax.Array) -> jax.Array:
    """Averages pairs of frames."""
    return 0.5 * (x_BTHWC[:, ::2] + x_BTHWC[:, 1::2])


def stretch(z_BthwC: jax.Array, shape_THW: tuple[int, int, int]) -> jax.Array:
    """Repeats frames, rows and columns, but the first of an odd number of frames."""
    num_frames, height, _ = shape_THW
    scale = height // z_BthwC.shape[2]
    z = map_frames(lambda z: z.repeat(scale, axis=1).repeat(scale, axis=2), z_BthwC)
    times = max(num_frames // 2, 1) // max(z.shape[1] // 2, 1)
    return map_later(lambda z: z.repeat(times, axis=1), z)


class LatentNorm(nn.Module, kw_only=True):
    """GroupNorm over all frames at hand, scaled and shifted by projections of the latents."""

    z_BthwZ: jax.Array
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        settings = {"features": x.shape[-1], "dtype": self.dtype}
        scale, shift = (
            stretch(PointwiseConv(**settings, name=f"{name}.conv")(self.z_BthwZ), x.shape[1:4])
            for name in ("conv_y", "conv_b")
        )
        norm = GroupNorm(groups=self.groups, over_time=True, dtype=self.dtype, name="norm_layer")
        return norm(x) * scale + shift


@dataclass(frozen=True)
class PieceSpec(FrameSpec):
    """Makes the layers of a network that sees a piece at a time; see `FrameSpec`.

    Attributes:
      z_BthwZ: the latents that a decoder's norms see; None for an encoder.
    """

    z_BthwZ: Any = None

    last_norm: ClassVar[str] = "norm_out"

    def see_latents(self, z_BthwZ: jax.Array) -> Self:
        """Returns what makes the layers of a decoder of these latents."""
        return type(self)(groups=self.groups, dtype=self.dtype, z_BthwZ=z_BthwZ)

    def make_norm(self, name: str) -> Any:
        """Makes a norm."""
        settings = {"groups": self.groups, "dtype": self.dtype}
        if self.z_BthwZ is not None:
            return LatentNorm(**settings, z_BthwZ=self.z_BthwZ, name=name)
        return GroupNorm(**settings, over_time=True, name=name)

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a convolution that keeps the size."""
        return EdgePaddedConv(features=features, dtype=self.dtype, name=name)

    def make_shortcut(self, features: int, name: str) -> PointwiseConv:
        """Makes the projection of the input of a residual block that changes the channels."""
        return PointwiseConv(features=features, dtype=self.dtype, name=name)

    def make_down(self, step: str, name: str) -> Layer:
        """Makes the step to the next coarser resolution."""
        resample = SpatialResample(convolve=down_conv_3x3, dtype=self.dtype, name=name)
        return resample if step == "space" else _change_time(average_pairs, resample)

    def make_up(self, step: str, name: str) -> Layer:
        """Makes the step to the next finer resolution."""
        resample = SpatialResample(convolve=up_conv_3x3, dtype=self.dtype, name=name)
        return resample if step == "space" else _change_time(_repeat_frames, resample)


def _repeat_frames(x_BTHWC: jax.Array) -> jax.Array:
    return x_BTHWC.repeat(2, axis=1)


def _change_time(function, resample: Layer) -> Layer:
    """Returns a step that first changes the frames after the first of an odd number."""
    return lambda x, past: resample(map_later(function, x), past)


class CogVideoXVAE(KLVAE):
    """The model; see `KLVAE` for the other attributes.

    Attributes:
      inverted: whether pipelines that begin with an image divide its latents by the scale.
    """

    depth: int = 3
    has_attention: bool = False
    projections: tuple[bool, bool] = (False, False)
    bottleneck: ScaledLatents = ScaledLatents(16, (0.0,) * 16, (1 / 1.15258426,) * 16)
    inverted: bool = False

    temporal_compression: ClassVar[int] = 2**_STEPS
    last_layer: ClassVar[tuple[str, ...]] = ("decoder", "conv_out", "conv")

    @nn.nowrap
    def make_specs(self) -> tuple[FrameSpec, FrameSpec]:
        """Returns what makes the layers of the encoder and of the decoder."""
        return (PieceSpec(groups=self.groups, dtype=self.dtype),) * 2

    @nn.nowrap
    def list_steps(self) -> tuple[tuple, tuple]:
        """Returns the steps after the levels of the encoder and of the decoder; see `Stack`."""
        count = len(self.widths[0]) - 1
        return ((*("both",) * _STEPS, *("space",) * (count - _STEPS), None),) * 2

    @property
    def encoder_lookahead(self) -> None:
        """None: how a video is cut depends on its length, and a frame sees its whole piece."""
        return None

    @property
    def decodes_causally(self) -> bool:
        """False: a frame sees its whole piece."""
        return False

    @nn.nowrap
    def grid_shape(self, shape_THW: tuple[int, int, int]) -> tuple[int, int, int]:
        """Returns (t, h, w), the shape of the latents of a video of (T, H, W)."""
        pieces = math.ceil((shape_THW[0] - 1) / _PIECE)
        later = pieces * (_PIECE // self.temporal_compression)
        return (1 + later, *super().grid_shape(shape_THW)[1:])

    @nn.nowrap
    def latent_mask(self, mask_BT: jax.Array) -> jax.Array:
        """Returns mask_Bt: True for latent frames with at least one real frame."""
        missing = -(mask_BT.shape[1] - 1) % _PIECE
        return super().latent_mask(jnp.pad(mask_BT, ((0, 0), (0, missing))))

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to mean and log-variance."""
        return run_pieces(self.encoder, x_BTHWC, _PIECE), ()

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to frames."""
        piece = _PIECE // self.temporal_compression
        if z_BthwZ.shape[1] % piece != 1:
            raise ValueError(
                f"latents of {z_BthwZ.shape[1]} frames: those of a CogVideoXVAE come as 1 + "
                f"{piece} n frames"
            )
        return run_pieces(self.decoder, z_BthwZ, piece), ()


def run_pieces(network: nn.Module, x_BTHWC: jax.Array, size: int) -> jax.Array:
    """Applies a network to a first piece of `size` + 1 frames, or to one frame, and to the others.

    Args:
      network: (frames, past) -> (outputs, past).
      x_BTHWC: 1 + n `size` frames.
      size: frames of a piece after the first.
    """
    first = min(x_BTHWC.shape[1], size + 1)
    y, past = network(x_BTHWC[:, :first], None)
    rest = x_BTHWC[:, first:]
    if not rest.shape[1]:
        return y
    pieces = jnp.moveaxis(rest.reshape(rest.shape[0], -1, size, *rest.shape[2:]), 1, 0)

    def run(network, past, piece):
        y, past = network(piece, past)
        return past, y

    scan = nn.scan(run, variable_broadcast="params", split_rngs={"params": False})
    _, later = scan(network, past, pieces)
    later = jnp.moveaxis(later, 0, 1)
    return jnp.concatenate([y, later.reshape(y.shape[0], -1, *y.shape[2:])], axis=1)


_ONLY = {
    "norm_eps": 1e-6,
    "temporal_compression_ratio": 2**_STEPS,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def build(values: dict[str, Any]) -> CogVideoXVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    check_fixed(values, _ONLY)
    widths = values["block_out_channels"]
    if len(widths) <= _STEPS:
        raise ValueError(f"block_out_channels={widths!r}: must be more than {_STEPS}")
    network = read_network(values | {"mid_block_add_attention": False}, widths, (_DOWN, _UP))
    return CogVideoXVAE(
        **network, inverted=values["invert_scale_latents"], bottleneck=read_latents(values)
    )


def describe(model: CogVideoXVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    kind = "AutoencoderKLCogVideoX"
    settings = describe_network(model, (_DOWN, _UP)) | describe_latents(model.bottleneck)
    return {k: settings[k] for k in DEFAULTS[kind].keys() & settings.keys()} | {
        "_class_name": kind,
        "invert_scale_latents": model.inverted,
    }


FAMILY = Family(model=CogVideoXVAE, defaults=DEFAULTS, build=build, describe=describe)
