"""TAESD: tiny autoencoders distilled from those of image generators, frame by frame.

TAESD, TAESDXL, TAESD3, TAEF1 and TAEF2 compress each frame 8x8 into the latents of Stable Diffusion
1 and 2, SDXL, Stable Diffusion 3, FLUX.1 and FLUX.2 with 64 channels at every resolution.
`AutoencoderTiny` of diffusers is the same network, but for the statistics of whole frames in
TAEF2's coarsest blocks, which it lacks; TAEF2 is written as a folder of the class `TAESD`, which
only vvae reads.

There is no posterior: see `PointLatents`. The latents are those that the generators see, already
scaled. `forward` of diffusers also rounds latents to 8 bits, as a picture stores them; here
`encode` and `decode` do not.

References:
  Boer Bohan, TAESD, 2023, https://github.com/madebyollin/taesd.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vvae.models.bottleneck import PointLatents
from vvae.models.causal_blocks import Past, chain
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.family import (
    Family,
    check_channels,
    check_fixed,
    describe_latents,
    point_latents,
    read_latents,
)
from vvae.pretrained.layers import LOG_SIGMA, SAMPLE_SIZE, halve_centred, up_conv_3x3
from vvae.pretrained.tiny_blocks import Block, Maker, apply, clamp, conv, number_layers

_WIDTH = 64
_DEPTHS = (1, 3, 3, 3)

_SETTINGS = {
    "in_channels": 3,
    "out_channels": 3,
    "encoder_block_out_channels": (_WIDTH,) * 4,
    "decoder_block_out_channels": (_WIDTH,) * 4,
    "block_out_channels": (_WIDTH,) * 4,
    "act_fn": "relu",
    "upsample_fn": "nearest",
    "latent_channels": 4,
    "upsampling_scaling_factor": 2,
    "num_encoder_blocks": _DEPTHS,
    "num_decoder_blocks": _DEPTHS[::-1],
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "force_upcast": False,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
}
DEFAULTS = {"AutoencoderTiny": _SETTINGS, "TAESD": _SETTINGS | {"use_midblock_gn": True}}
"""Class -> the settings that its config.json may have, with their default values."""


class Encoder(nn.Module, kw_only=True):
    """Maps [B, T, H, W, C] to [B, T, h, w, features]; see `TinyVAE` for the attributes."""

    width: int
    depths: tuple[int, ...]
    pooled: bool
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        makers: list[Maker] = []
        for level, depth in enumerate(self.depths):
            halve = {"convolve": halve_centred, "use_bias": False} if level else {}
            makers.append(conv(self.width, self.dtype, **halve))
            is_last = level == len(self.depths) - 1
            makers += [make_block(self.pooled and is_last, self.dtype)] * depth
        makers.append(conv(self.features, jnp.promote_types(self.dtype, jnp.float32)))
        return chain(number_layers(makers, "layers."), 0.5 * (x + 1.0), past)


class Decoder(nn.Module, kw_only=True):
    """Maps [B, T, h, w, Z] to [B, T, H, W, channels]; see `TinyVAE` for the attributes."""

    width: int
    depths: tuple[int, ...]
    pooled: bool
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        makers = [conv(self.width, self.dtype), apply(nn.relu)]
        for level, depth in enumerate(self.depths):
            makers += [make_block(self.pooled and not level, self.dtype)] * depth
            if level < len(self.depths) - 1:
                # The layer that repeats pixels is part of the convolution after it.
                double = conv(self.width, self.dtype, convolve=up_conv_3x3, use_bias=False)
                makers += [apply(lambda x: x), double]
        makers.append(conv(self.channels, jnp.promote_types(self.dtype, jnp.float32)))
        y, past = chain(number_layers(makers, "layers."), clamp(z), past)
        return 2.0 * y - 1.0, past


def make_block(pooled: bool, dtype) -> Maker:
    """Returns the maker of a residual block."""
    return lambda name: Block(pooled=pooled, dtype=dtype, name=name)


class TinyVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      width: channels at every resolution.
      depths: residual blocks at each resolution of the encoder, finest first, and of the decoder,
        coarsest first.
      pooled: whether the blocks at the coarsest resolution see statistics of the whole frame.
      bottleneck: latents without a posterior.
      dtype: of the activations. Norms, latents and video are at least float32.
    """

    width: int = _WIDTH
    depths: tuple[tuple[int, ...], tuple[int, ...]] = (_DEPTHS, _DEPTHS[::-1])
    pooled: bool = False
    bottleneck: PointLatents = point_latents(4)
    dtype: Any = jnp.float32

    temporal_compression: ClassVar[int] = 1

    def setup(self):
        common = {"width": self.width, "pooled": self.pooled, "dtype": self.dtype}
        encoder, decoder = self.depths
        self.encoder = Encoder(depths=encoder, features=self.bottleneck.channels, **common)
        self.decoder = Decoder(depths=decoder, channels=self.shape_HWC[-1], **common)
        self.setup_likelihood(LOG_SIGMA)

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return 2 ** (len(self.depths[0]) - 1)

    @nn.nowrap
    def last_kernel(self, params) -> jax.Array:
        """Returns the kernel of the decoder's last convolution."""
        layers = params["decoder"]
        return layers[max(layers, key=lambda name: int(name.split(".")[1]))]["kernel"]


_ONLY = {
    "act_fn": "relu",
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
    "use_midblock_gn": True,
}


def build(values: dict[str, Any]) -> TinyVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    check_fixed(values, _ONLY)
    check_channels(values)
    widths = values["encoder_block_out_channels"] + values["decoder_block_out_channels"]
    depths = values["num_encoder_blocks"], values["num_decoder_blocks"]
    if len(set(widths)) != 1 or not len(widths) == 2 * len(depths[0]) == 2 * len(depths[1]):
        raise ValueError(
            f"encoder_block_out_channels={values['encoder_block_out_channels']!r} and "
            f"decoder_block_out_channels={values['decoder_block_out_channels']!r} must be one "
            f"number of channels for each of num_encoder_blocks={depths[0]!r} and "
            f"num_decoder_blocks={depths[1]!r}"
        )
    latents = read_latents(values)
    return TinyVAE(
        shape_HWC=(*SAMPLE_SIZE, values["in_channels"]),
        width=widths[0],
        depths=depths,
        pooled=values.get("use_midblock_gn", False),
        bottleneck=PointLatents(latents.channels, latents.prior_mean, latents.prior_std),
    )


def describe(model: TinyVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    widths = (model.width,) * len(model.depths[0])
    latents = describe_latents(model.bottleneck)
    kind, pooled = ("TAESD", {"use_midblock_gn": True}) if model.pooled else ("AutoencoderTiny", {})
    return pooled | {
        "_class_name": kind,
        "in_channels": model.shape_HWC[-1],
        "out_channels": model.shape_HWC[-1],
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "block_out_channels": widths,
        "latent_channels": model.bottleneck.channels,
        "num_encoder_blocks": model.depths[0],
        "num_decoder_blocks": model.depths[1],
        "scaling_factor": latents["scaling_factor"],
        "shift_factor": latents["shift_factor"] or 0.0,
    }


def adopt_files(encoder: dict[str, np.ndarray], decoder: dict[str, np.ndarray]):
    """Reads the tensors of the authors' two files, numbered as in their sequences.

    Returns:
      (config.json, {name of a tensor in the folder: array}).

    Raises:
      ValueError: if the tensors are not those of a TAESD that compresses 8x8.
    """
    last = encoder.get("14.weight")
    if last is None or "0.weight" not in encoder or "19.weight" not in decoder:
        raise ValueError("the tensors are not numbered as in a TAESD that compresses 8x8")
    pooled = "11.pool.0.weight" in encoder
    width = encoder["0.weight"].shape[0]
    model = TinyVAE(
        shape_HWC=(*SAMPLE_SIZE, encoder["0.weight"].shape[1]),
        width=width,
        pooled=pooled,
        bottleneck=point_latents(last.shape[0]),
    )
    tensors = {f"encoder.layers.{name}": array for name, array in encoder.items()}
    for name, array in decoder.items():
        number, _, rest = name.partition(".")
        # The authors count the limit of the latents as the first layer.
        tensors[f"decoder.layers.{int(number) - 1}.{rest}"] = array
    return describe(model), tensors


FAMILY = Family(model=TinyVAE, defaults=DEFAULTS, build=build, describe=describe)
