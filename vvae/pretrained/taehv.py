"""TAEHV: tiny autoencoders distilled from those of video generators.

One network for the latents of HunyuanVideo (taehv), Wan 2.1 (taew2_1), Wan 2.2 (taew2_2),
HunyuanVideo 1.5 (taehv1_5), LTX-2 (taeltx) and others: convolutions of single frames, blocks that
also see the frame before, and projections that join and part frames. It remembers one frame a
block, so that it runs on streams with constant memory, exactly.

A latent frame is computed from f_t whole frames, of which the last f_t - 1 come after those that
it stands for: the encoder looks ahead by these, and the end of a video is repeated for them. The
decoder drops the f_t - 1 frames before the first, and looks at no later latents. Where the length
of a video is a multiple of f_t, the authors' code repeats nothing, and gives back fewer frames
than it got; here all come back. Its special rule for the files named taecvx (CogVideoX) is not
followed.

There is no posterior: see `PointLatents`. The latents are normalised as the generators see them.
diffusers does not have this network: `save_pretrained` writes the authors' names of the tensors
into a folder of the class `TAEHV`.

References:
  Boer Bohan, TAEHV, 2024, https://github.com/madebyollin/taehv.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vvae.models.bottleneck import PointLatents
from vvae.models.causal_blocks import Past, chain
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.family import Family, point_latents
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    average_down,
    halve_centred,
    repeat_up,
    up_conv_3x3,
)
from vvae.pretrained.tiny_blocks import (
    JoinFrames,
    Maker,
    MemoryBlock,
    PartFrames,
    apply,
    clamp,
    conv,
    number_layers,
)

_LEVELS = 3
_DEPTH = 3  # blocks of a level

DEFAULTS = {
    "TAEHV": {
        "image_channels": 3,
        "latent_channels": 16,
        "patch_size": 1,
        "encoder_time_downscale": (True, True, False),
        "decoder_time_upscale": (False, True, True),
        "encoder_width": 64,
        "decoder_widths": (256, 128, 64, 64),
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


class Encoder(nn.Module, kw_only=True):
    """Maps [B, n f_t, H, W, C] to [B, n, h, w, features]; see `TAEHV` for the attributes."""

    width: int
    in_time: tuple[bool, ...]
    patch: int
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        dtype = self.dtype
        makers = [conv(self.width, dtype), apply(nn.relu)]
        halve = conv(self.width, dtype, convolve=halve_centred, use_bias=False)
        for joins in self.in_time:
            join = make(JoinFrames, count=1 + joins, dtype=dtype)
            makers += [join, halve, *[make(MemoryBlock, dtype=dtype)] * _DEPTH]
        makers.append(conv(self.features, jnp.promote_types(dtype, jnp.float32)))
        x = move_into_channels(0.5 * (x + 1.0), self.patch)
        return chain(number_layers(makers, ""), x, past)


class Decoder(nn.Module, kw_only=True):
    """Maps [B, n, h, w, Z] to [B, n f_t, H, W, channels]; see `TAEHV` for the attributes.

    The number of levels is that of `in_time`; `widths` has one value more.
    """

    widths: tuple[int, ...]
    in_time: tuple[bool, ...]
    patch: int
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        dtype = self.dtype
        makers = [apply(clamp), conv(self.widths[0], dtype), apply(nn.relu)]
        for parts, width in zip(self.in_time, self.widths[1:], strict=True):
            makers += [make(MemoryBlock, dtype=dtype)] * _DEPTH
            # The layer that repeats pixels is part of the convolution: between them is a projection
            # of single positions, which may come first.
            makers += [apply(lambda x: x), make(PartFrames, count=1 + parts, dtype=dtype)]
            makers.append(conv(width, dtype, convolve=up_conv_3x3, use_bias=False))
        head = conv(self.channels * self.patch**2, jnp.promote_types(dtype, jnp.float32))
        x, past = chain(number_layers([*makers, apply(nn.relu), head], ""), z, past)
        return repeat_up(x, self.channels, 1, self.patch), past


def name_last_layer(widths: tuple[int, ...]) -> str:
    """Returns the name of the last convolution of a decoder of these widths."""
    per_level = _DEPTH + 3  # blocks, and the layers that repeat pixels, part frames and convolve
    return str(3 + per_level * (len(widths) - 1) + 1)


def make(layer: type[nn.Module], **settings) -> Maker:
    """Returns the maker of a layer with these settings."""
    return lambda name: layer(**settings, name=name)


def move_into_channels(x_BTHWC: jax.Array, size: int) -> jax.Array:
    """Moves squares of pixels into channels, in the order (channel, row, column)."""
    # Groups of one number: averages nothing.
    return average_down(x_BTHWC, x_BTHWC.shape[-1] * size**2, 1, size)


class TAEHV(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      encoder_width: channels of the encoder at every resolution.
      decoder_widths: channels of the decoder at each resolution, coarsest first.
      joins: whether the encoder halves time before each halving of height and width.
      parts: whether the decoder doubles time at each doubling of height and width.
      patch: side of the squares of pixels that are moved into channels; 1 for none.
      bottleneck: latents without a posterior.
      dtype: of the activations. Latents and video are at least float32.
    """

    encoder_width: int = 64
    decoder_widths: tuple[int, ...] = (256, 128, 64, 64)
    joins: tuple[bool, ...] = (True, True, False)
    parts: tuple[bool, ...] = (False, True, True)
    patch: int = 1
    bottleneck: PointLatents = point_latents(16)
    dtype: Any = jnp.float32

    def setup(self):
        common = {"patch": self.patch, "dtype": self.dtype}
        self.encoder = Encoder(
            width=self.encoder_width,
            in_time=self.joins,
            features=self.bottleneck.channels,
            **common,
        )
        self.decoder = Decoder(
            widths=self.decoder_widths,
            in_time=self.parts,
            channels=self.shape_HWC[-1],
            **common,
        )
        self.setup_likelihood(LOG_SIGMA)

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return 2 ** sum(self.joins)

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return self.patch * 2**_LEVELS

    @nn.nowrap
    def last_kernel(self, params) -> jax.Array:
        """Returns the kernel of the decoder's last convolution."""
        return params["decoder"][name_last_layer(self.decoder_widths)]["kernel"]

    @property
    def encoder_lookahead(self) -> int:
        """See `GridVideoVAE`."""
        return self.temporal_compression - 1

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to frames, without those before the first."""
        x, after = self.decoder(z_BthwZ, past)
        x = jnp.clip(2.0 * x - 1.0, -1.0, 1.0)
        return (x[:, self.temporal_compression - 1 :] if past is None else x), after


def build(values: dict[str, Any]) -> TAEHV:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    joins, parts = values["encoder_time_downscale"], values["decoder_time_upscale"]
    widths = values["decoder_widths"]
    if not len(joins) == len(parts) == len(widths) - 1 == _LEVELS or sum(joins) != sum(parts):
        raise ValueError(
            f"encoder_time_downscale={joins!r} and decoder_time_upscale={parts!r} must have "
            f"{_LEVELS} values, as many of them true, and decoder_widths={widths!r} one more"
        )
    channels = values["latent_channels"]
    return TAEHV(
        shape_HWC=(*SAMPLE_SIZE, values["image_channels"]),
        encoder_width=values["encoder_width"],
        decoder_widths=widths,
        joins=joins,
        parts=parts,
        patch=values["patch_size"],
        bottleneck=point_latents(channels),
    )


def describe(model: TAEHV) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    return {
        "_class_name": "TAEHV",
        "image_channels": model.shape_HWC[-1],
        "latent_channels": model.bottleneck.channels,
        "patch_size": model.patch,
        "encoder_time_downscale": model.joins,
        "decoder_time_upscale": model.parts,
        "encoder_width": model.encoder_width,
        "decoder_widths": model.decoder_widths,
    }


def adopt_file(tensors: dict[str, np.ndarray], image_channels: int = 3) -> dict[str, Any]:
    """Returns the config.json of the tensors of an authors' file.

    Args:
      tensors: name -> array.
      image_channels: C, which the shapes alone do not tell from the size of the patches.

    Raises:
      ValueError: if the tensors are not those of a TAEHV.
    """
    joins = [f"encoder.{2 + 5 * level}.conv.weight" for level in range(_LEVELS)]
    parts = [f"decoder.{7 + 6 * level}.conv.weight" for level in range(_LEVELS)]
    needed = [*joins, *parts, "encoder.0.weight", "encoder.17.weight", "decoder.20.weight"]
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ValueError(f"the tensors are not those of a TAEHV: there is no {missing[0]}")
    width, pixels = tensors["encoder.0.weight"].shape[:2]
    model = TAEHV(
        shape_HWC=(*SAMPLE_SIZE, image_channels),
        encoder_width=width,
        decoder_widths=(
            *(tensors[name].shape[1] for name in parts),
            tensors["decoder.20.weight"].shape[0],
        ),
        joins=tuple(tensors[name].shape[1] == 2 * width for name in joins),
        # A decoder for fewer frames has the weights for all of them.
        parts=tuple(tensors[name].shape[0] == 2 * tensors[name].shape[1] for name in parts),
        patch=math.isqrt(pixels // image_channels),
        bottleneck=point_latents(tensors["encoder.17.weight"].shape[0]),
    )
    return describe(model)


FAMILY = Family(model=TAEHV, defaults=DEFAULTS, build=build, describe=describe)
