"""The video VAE of LTX-2: that of LTX-Video, wider, with steps of their own in time and in space.

It compresses 8x32x32 into 128 channels. The encoder is causal and streams; the decoder is causal if
the weights say so (`decoder_causal`), and mirrors frames at their borders where the encoder pads
them with zeros. The encoders of LTX-2.3 and 2.5 are the same, down to their weights: latents of one
serve all.

In diffusers `encode` and `decode` take `causal` as an argument too, and the compression that the
class states is wrong where config.json does not state it; here it follows from the network.

References:
  HaCohen et al., LTX-Video: Realtime Video Latent Diffusion, 2024, arXiv:2501.00103, section 2.1.
"""

from typing import Any, ClassVar

from vvae.pretrained.family import (
    LATENT_SCALES,
    Family,
    check_channels,
    check_fixed,
    unscaled_latents,
)
from vvae.pretrained.layers import SAMPLE_SIZE
from vvae.pretrained.ltx import FIXED, LTXVAE, build_decoding, check_factors, describe_network
from vvae.pretrained.ltx_blocks import STEPS, Encoding

_BLOCK = "LTX2VideoDownBlock3D"
# Name in config.json -> padding of rows and columns.
_BORDERS = {"zeros": "zeros", "replicate": "edge", "reflect": "reflect"}

DEFAULTS = {
    "AutoencoderKLLTX2Video": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 128,
        "block_out_channels": (256, 512, 1024, 2048),
        "down_block_types": (_BLOCK,) * 4,
        "decoder_block_out_channels": (256, 512, 1024),
        "layers_per_block": (4, 6, 6, 2, 2),
        "decoder_layers_per_block": (5, 5, 5, 5),
        "spatio_temporal_scaling": (True,) * 4,
        "decoder_spatio_temporal_scaling": (True,) * 3,
        "decoder_inject_noise": (False,) * 4,
        "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        "upsample_type": ("spatiotemporal",) * 3,
        "upsample_residual": (True,) * 3,
        "upsample_factor": (2,) * 3,
        "timestep_conditioning": False,
        "patch_size": 4,
        "patch_size_t": 1,
        "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0,
        "encoder_causal": True,
        "decoder_causal": True,
        "encoder_spatial_padding_mode": "zeros",
        "decoder_spatial_padding_mode": "reflect",
        "spatial_compression_ratio": None,
        "temporal_compression_ratio": None,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


class LTX2VAE(LTXVAE):
    """The model; see `LTXVAE` for its attributes."""

    borders: tuple[str, str] = ("zeros", "reflect")

    shortcut: ClassVar[str] = "conv_shortcut"


def build(values: dict[str, Any]) -> LTX2VAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    check_fixed(values, FIXED)
    check_channels(values)
    modes = tuple(values[f"{side}_spatial_padding_mode"] for side in ("encoder", "decoder"))
    if set(modes) - _BORDERS.keys():
        raise ValueError(f"spatial_padding_mode={modes!r}: only {', '.join(_BORDERS)} are known")
    channels = values["latent_channels"]
    model = LTX2VAE(
        shape_HWC=(*SAMPLE_SIZE, values["in_channels"]),
        encoding=_build_encoding(values),
        # The one setting of the decoder that is coarsest resolution first.
        decoding=build_decoding(values, _read_steps(values, "upsample_type")[::-1]),
        patch=values["patch_size"],
        epsilon=values["resnet_norm_eps"],
        borders=tuple(_BORDERS[mode] for mode in modes),
        bottleneck=unscaled_latents(channels),
    )
    check_factors(model, values)
    return model


def _read_steps(values: dict[str, Any], name: str) -> tuple[str, ...]:
    steps = values[name]
    if set(steps) - (STEPS.keys() - {"conv"}):
        raise ValueError(f"{name}={steps!r}: only spatial, temporal and spatiotemporal are known")
    return steps


def _build_encoding(values: dict[str, Any]) -> Encoding:
    widths, depths = values["block_out_channels"], values["layers_per_block"]
    steps, scaled = _read_steps(values, "downsample_type"), values["spatio_temporal_scaling"]
    if values["down_block_types"] != (_BLOCK,) * len(widths):
        raise ValueError(
            f"down_block_types={values['down_block_types']!r}: must be {_BLOCK!r}, {len(widths)} "
            "times"
        )
    if not len(steps) == len(scaled) == len(widths) == len(depths) - 1 or not all(scaled):
        raise ValueError(
            f"spatio_temporal_scaling={scaled!r}, all true, downsample_type={steps!r} and "
            f"layers_per_block={depths!r} must fit block_out_channels={widths!r}"
        )
    # The first convolution has as many channels as there are latents.
    widths = (values["latent_channels"], *widths)
    return Encoding(widths=widths, depths=depths, steps=steps, merged=True)


def describe(model: LTX2VAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    steps = tuple(step or "spatiotemporal" for step in model.decoding.steps[::-1])
    modes = {borders: mode for mode, borders in _BORDERS.items()}
    return DEFAULTS["AutoencoderKLLTX2Video"] | {
        "_class_name": "AutoencoderKLLTX2Video",
        **describe_network(model),
        "block_out_channels": model.encoding.widths[1:],
        "down_block_types": (_BLOCK,) * len(model.encoding.steps),
        "upsample_type": steps,
        "encoder_spatial_padding_mode": modes[model.borders[0]],
        "decoder_spatial_padding_mode": modes[model.borders[1]],
    }


FAMILY = Family(
    model=LTX2VAE, defaults=DEFAULTS, build=build, describe=describe, buffers=LATENT_SCALES
)
