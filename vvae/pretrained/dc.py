"""DC-AE, the deep compression autoencoder of SANA, SANA-Video and PRX, frame by frame.

It compresses each frame 32x32 or more into 32 channels or more. Steps move positions into channels
and back; the coarsest resolutions have linear attention, over the whole frame and over
neighbourhoods mixed into its queries, keys and values. It sees no other frame.

There is no posterior: see `PointLatents`. Weights whose decoder has batch norms are refused.

References:
  Chen et al., Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models, 2024,
  arXiv:2410.10733.
  Cai et al., EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction, 2023,
  arXiv:2205.14756.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.bottleneck import PointLatents
from vvae.models.causal_blocks import Past, chain
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.dc_blocks import ChannelNorm, Down, Side, Up
from vvae.pretrained.family import Family, describe_latents, point_latents, read_latents
from vvae.pretrained.fold_blocks import average_groups
from vvae.pretrained.folder import Either
from vvae.pretrained.layers import (
    LOG_SIGMA,
    SAMPLE_SIZE,
    Layer,
    SpatialConv,
    frame_conv_3x3,
    stateless,
)

_WIDTHS = (128, 256, 512, 512, 1024, 1024)
_SCALES = ((), (), (), (5,), (5,), (5,))
_BLOCKS = {"ResBlock": False, "EfficientViTBlock": True}  # -> whether it has attention
_STEPS = {"encoder": ("pixel_unshuffle", "conv"), "decoder": ("pixel_shuffle", "interpolate")}

DEFAULTS = {
    "AutoencoderDC": {
        "in_channels": 3,
        "latent_channels": 32,
        "attention_head_dim": 32,
        "encoder_block_types": Either("ResBlock", ()),
        "decoder_block_types": Either("ResBlock", ()),
        "encoder_block_out_channels": _WIDTHS,
        "decoder_block_out_channels": _WIDTHS,
        "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
        "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
        "encoder_qkv_multiscales": _SCALES,
        "decoder_qkv_multiscales": _SCALES,
        "upsample_block_type": "pixel_shuffle",
        "downsample_block_type": "pixel_unshuffle",
        "decoder_norm_types": Either("rms_norm", ()),
        "decoder_act_fns": Either("silu", ()),
        "encoder_out_shortcut": True,
        "decoder_in_shortcut": True,
        "decoder_conv_act_fn": "relu",
        "scaling_factor": 1.0,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


def _conv(features: int, dtype, name: str) -> Layer:
    conv = SpatialConv(features=features, convolve=frame_conv_3x3, dtype=dtype, name=name)
    return stateless(conv)


class Encoder(nn.Module, kw_only=True):
    """Maps [B, T, H, W, C] to [B, T, h, w, features]."""

    side: Side
    head: int
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        side, dtype = self.side, self.dtype
        common = {"shifts": side.shifts, "dtype": dtype}
        if side.depths[0]:
            layers = [_conv(side.widths[0], dtype, "conv_in")]
        else:
            settings = {"features": side.widths[1], "shortcut": False}
            layers = [Down(**settings, **common, name="conv_in")]
        for level, depth in enumerate(side.depths):
            names = [f"down_blocks.{level}.{i}" for i in range(depth)]
            layers += side.make_blocks(level, names, self.head, dtype)
            if depth and level < len(side.depths) - 1:
                name = f"down_blocks.{level}.{depth}"
                layers.append(Down(features=side.widths[level + 1], **common, name=name))
        h, past = chain(layers, x, past)
        dtype = jnp.promote_types(dtype, jnp.float32)
        y, _ = _conv(self.features, dtype, "conv_out")(h, None)
        return (y + average_groups(h, self.features) if side.shortcut else y), past


class Decoder(nn.Module, kw_only=True):
    """Maps [B, T, h, w, Z] to [B, T, H, W, channels]."""

    side: Side
    head: int
    channels: int
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        side, dtype, width = self.side, self.dtype, self.side.widths[-1]
        x, _ = _conv(width, dtype, "conv_in")(z, None)
        if side.shortcut:
            x = x + jnp.repeat(z, width // z.shape[-1], axis=-1).astype(x.dtype)
        common, layers = {"shifts": side.shifts, "dtype": dtype}, []
        for level, depth in reversed(list(enumerate(side.depths))):
            has_step = depth > 0 and level < len(side.depths) - 1
            if has_step:
                name = f"up_blocks.{level}.0"
                layers.append(Up(features=side.widths[level], **common, name=name))
            names = [f"up_blocks.{level}.{has_step + i}" for i in range(depth)]
            layers += side.make_blocks(level, names, self.head, dtype)
        x, past = chain(layers, x, past)
        dtype = jnp.promote_types(dtype, jnp.float32)
        x = getattr(nn, self.activation)(ChannelNorm(dtype=dtype, name="norm_out")(x))
        if side.depths[0]:
            return _conv(self.channels, dtype, "conv_out")(x, None)[0], past
        settings = {"features": self.channels, "shortcut": False, "shifts": side.shifts}
        return Up(**settings, dtype=dtype, name="conv_out")(x, None)[0], past


class DCVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      sides: settings of the encoder and of the decoder.
      head: channels of a head of the attention.
      activation: before the last convolution, "relu" or "silu".
      bottleneck: latents without a posterior.
      dtype: of the activations. Norms, latents and video are at least float32.
    """

    sides: tuple[Side, Side] = (Side(), Side(depths=(3,) * 6))
    head: int = 32
    activation: str = "relu"
    bottleneck: PointLatents = point_latents(32)
    dtype: Any = jnp.float32

    temporal_compression: ClassVar[int] = 1

    def setup(self):
        encoder, decoder = self.sides
        common = {"head": self.head, "dtype": self.dtype}
        self.encoder = Encoder(side=encoder, features=self.bottleneck.channels, **common)
        self.decoder = Decoder(
            side=decoder, channels=self.shape_HWC[-1], activation=self.activation, **common
        )
        self.setup_likelihood(LOG_SIGMA)

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return 2 ** (len(self.sides[0].widths) - 1)

    @nn.nowrap
    def last_kernel(self, params) -> jax.Array:
        """Returns the kernel of the decoder's last convolution."""
        last = params["decoder"]["conv_out"]
        return last.get("conv", last)["kernel"]


def _read_side(values: dict[str, Any], side: str) -> dict[str, Any]:
    """Returns the attributes of a `Side`."""
    widths = values[f"{side}_block_out_channels"]
    count = len(widths)

    def repeat(name: str) -> tuple:
        value = values[name]
        value = (value,) * count if isinstance(value, str) else value
        if len(value) != count:
            raise ValueError(f"{name}={value!r} does not fit {count} resolutions")
        return value

    kinds, depths = repeat(f"{side}_block_types"), repeat(f"{side}_layers_per_block")
    if set(kinds) - _BLOCKS.keys() or min(depths[1:]) < 1 or depths[0] < 0:
        raise ValueError(
            f"{side}_block_types={kinds!r} must be among {', '.join(_BLOCKS)} and "
            f"{side}_layers_per_block={depths!r} be at least 1, or 0 for the first"
        )
    return {
        "widths": widths,
        "depths": depths,
        "attends": tuple(_BLOCKS[kind] for kind in kinds),
        "scales": repeat(f"{side}_qkv_multiscales"),
    }


def build(values: dict[str, Any]) -> DCVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network, or batch norms.
    """
    encoder, decoder = _read_side(values, "encoder"), _read_side(values, "decoder")
    if len(encoder["widths"]) != len(decoder["widths"]):
        raise ValueError(
            f"encoder_block_out_channels={encoder['widths']!r} and decoder_block_out_channels="
            f"{decoder['widths']!r} have different lengths"
        )
    norms, activations = values["decoder_norm_types"], values["decoder_act_fns"]
    if {norms} != {"rms_norm"} and set(norms) != {"rms_norm"}:
        raise ValueError(f"decoder_norm_types={norms!r}: only rms_norm can be read")
    if isinstance(activations, str):
        activations = (activations,) * len(decoder["widths"])
    final = values["decoder_conv_act_fn"]
    if {*activations, final} - {"silu", "relu"} or len(activations) != len(decoder["widths"]):
        raise ValueError(
            f"decoder_act_fns={activations!r} and decoder_conv_act_fn={final!r} must be silu or "
            "relu"
        )
    shifts = {}
    for side, name in (("encoder", "downsample_block_type"), ("decoder", "upsample_block_type")):
        known, step = _STEPS[side], values[name].lower()
        if step not in known:
            raise ValueError(f"{name}={values[name]!r}: only {', '.join(known)} are known")
        shifts[side] = step == known[0]
    latents = read_latents(values)
    for name, widths in (("encoder", encoder["widths"]), ("decoder", decoder["widths"])):
        if widths[-1] % latents.channels:
            raise ValueError(
                f"{name}_block_out_channels={widths!r}: the last must be a multiple of "
                f"latent_channels={latents.channels}"
            )
    return DCVAE(
        shape_HWC=(*SAMPLE_SIZE, values["in_channels"]),
        sides=(
            Side(
                **encoder,
                activations=("silu",) * len(encoder["widths"]),
                shifts=shifts["encoder"],
                shortcut=values["encoder_out_shortcut"],
            ),
            Side(
                **decoder,
                activations=activations,
                shifts=shifts["decoder"],
                shortcut=values["decoder_in_shortcut"],
            ),
        ),
        head=values["attention_head_dim"],
        activation=final,
        bottleneck=PointLatents(latents.channels, latents.prior_mean, latents.prior_std),
    )


def describe(model: DCVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    names = {attends: name for name, attends in _BLOCKS.items()}
    record: dict[str, Any] = {
        "_class_name": "AutoencoderDC",
        "in_channels": model.shape_HWC[-1],
        "latent_channels": model.bottleneck.channels,
        "attention_head_dim": model.head,
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": model.sides[1].activations,
        "decoder_conv_act_fn": model.activation,
        "encoder_out_shortcut": model.sides[0].shortcut,
        "decoder_in_shortcut": model.sides[1].shortcut,
        "scaling_factor": describe_latents(model.bottleneck)["scaling_factor"],
    }
    steps = ("downsample_block_type", "upsample_block_type")
    for name, step, side in zip(("encoder", "decoder"), steps, model.sides, strict=True):
        record |= {
            f"{name}_block_types": tuple(names[attends] for attends in side.attends),
            f"{name}_block_out_channels": side.widths,
            f"{name}_layers_per_block": side.depths,
            f"{name}_qkv_multiscales": side.scales,
            step: _STEPS[name][0 if side.shifts else 1],
        }
    return record


FAMILY = Family(model=DCVAE, defaults=DEFAULTS, build=build, describe=describe)
