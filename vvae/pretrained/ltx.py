"""The video VAE of LTX-Video.

It starts with 4x4 patches and compresses 8x32x32 into 128 channels with convolutions, without
attention. The encoder is causal; the decoder looks ahead unless the weights say otherwise. Time is
padded by repeating frames. All channels of a position share one log-variance.

Later decoders (0.9.1 and on) also denoise: they are conditioned on a timestep, the noise level of
the latents (`Decoding.timestep`). That of 0.9.1 adds noise of its own to the activations: one value
per position for all frames and channels, times a learned scale per channel. Decoding is a function
of the latents here, so this noise is left out unless a key for it is given: `model.apply(params, z,
method="decode", rngs={"noise": key})`.

References:
  HaCohen et al., LTX-Video: Realtime Video Latent Diffusion, 2024, arXiv:2501.00103, section 2.1.
"""

import math
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import Past
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.family import (
    LATENT_SCALES,
    Family,
    check_channels,
    check_fixed,
    unscaled_latents,
)
from vvae.pretrained.layers import LOG_SIGMA, SAMPLE_SIZE
from vvae.pretrained.ltx_blocks import STEPS, BlockSpec, Decoder, Decoding, Encoder, Encoding

_FIRST, _LATER = "LTXVideoDownBlock3D", "LTXVideo095DownBlock3D"

DECODE_TIMESTEP = 0.05
"""Timestep, in [0, 1], of decoders with timestep conditioning: the value in the authors' pipelines
and in the documentation of diffusers."""

DEFAULTS = {
    "AutoencoderKLLTXVideo": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 128,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": (_FIRST,) * 4,
        "decoder_block_out_channels": (128, 256, 512, 512),
        "layers_per_block": (4, 3, 3, 3, 4),
        "decoder_layers_per_block": (4, 3, 3, 3, 4),
        "spatio_temporal_scaling": (True, True, True, False),
        "decoder_spatio_temporal_scaling": (True, True, True, False),
        "decoder_inject_noise": (False,) * 5,
        "downsample_type": ("conv",) * 4,
        "upsample_residual": (False,) * 4,
        "upsample_factor": (1,) * 4,
        "timestep_conditioning": False,
        "patch_size": 4,
        "patch_size_t": 1,
        "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0,
        "encoder_causal": True,
        "decoder_causal": False,
        "spatial_compression_ratio": None,
        "temporal_compression_ratio": None,
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


class LTXVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      encoding: see `Encoding`.
      decoding: see `Decoding`.
      patch: side of the squares of pixels that are moved into channels.
      epsilon: of the norms of shortcuts.
      borders: padding of rows and columns by the encoder and by the decoder, see `pad_borders`.
      bottleneck: latents with their published mean and standard deviation.
      dtype: of the activations. Norms, posterior and video are at least float32.
    """

    encoding: Encoding = Encoding()
    decoding: Decoding = Decoding()
    patch: int = 4
    epsilon: float = 1e-6
    borders: tuple[str, str] = ("zeros", "zeros")
    bottleneck: ScaledLatents = unscaled_latents(128)
    dtype: Any = jnp.float32

    shortcut: ClassVar[str] = "conv_shortcut.conv"

    def setup(self):
        encoder_spec = BlockSpec(
            causal=True,
            epsilon=self.epsilon,
            dtype=self.dtype,
            borders=self.borders[0],
            shortcut=self.shortcut,
        )
        self.encoder = Encoder(
            net=self.encoding,
            patch=self.patch,
            features=self.bottleneck.channels + 1,
            spec=encoder_spec,
        )
        self.decoder = Decoder(
            net=self.decoding,
            patch=self.patch,
            channels=self.shape_HWC[-1],
            spec=replace(encoder_spec, causal=self.decoding.causal, borders=self.borders[1]),
        )
        self.setup_likelihood(LOG_SIGMA)

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return count_factor(self.encoding.steps, 0)

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return self.patch * count_factor(self.encoding.steps, 1)

    @property
    def decodes_causally(self) -> bool:
        """Whether every frame is decoded without later latents."""
        return self.decoding.causal

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to means and log-variances, one log-variance per position."""
        outputs, past = self.encoder(x_BTHWC, past)
        mean, logvar = outputs[..., :-1], outputs[..., -1:]
        return jnp.concatenate([mean, jnp.broadcast_to(logvar, mean.shape)], axis=-1), past


FIXED = {"patch_size_t": 1, "scaling_factor": 1.0, "encoder_causal": True}
"""Settings of LTX-Video and LTX-2 that have one value."""


def build(values: dict[str, Any]) -> LTXVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    check_fixed(values, FIXED)
    check_channels(values)
    channels = values["latent_channels"]
    kinds = ("spatiotemporal",) * len(values["decoder_block_out_channels"])
    model = LTXVAE(
        shape_HWC=(*SAMPLE_SIZE, values["in_channels"]),
        encoding=_build_encoding(values),
        decoding=build_decoding(values, kinds),
        patch=values["patch_size"],
        epsilon=values["resnet_norm_eps"],
        bottleneck=unscaled_latents(channels),
    )
    check_factors(model, values)
    return model


def check_factors(model: LTXVAE, values: dict[str, Any]) -> None:
    """Raises ValueError unless the decoder undoes the encoder's compression."""
    decoded = (count_factor(model.decoding.steps, axis) for axis in (0, 1))
    if (model.temporal_compression, model.spatial_compression // model.patch) != tuple(decoded):
        raise ValueError(
            f"spatio_temporal_scaling={values['spatio_temporal_scaling']!r} with downsample_type="
            f"{values['downsample_type']!r} and the decoder's steps {model.decoding.steps!r} do "
            "not compress by the same factors"
        )


def count_factor(steps: tuple[str, ...], axis: int) -> int:
    """Returns the factor by which steps compress time (axis 0) or space (axis 1)."""
    return math.prod(STEPS[step][axis] for step in steps if step)


def _build_encoding(values: dict[str, Any]) -> Encoding:
    kinds = set(values["down_block_types"])
    if kinds not in ({_FIRST}, {_LATER}):
        raise ValueError(
            f"down_block_types={values['down_block_types']!r}: must be all {_FIRST} or all {_LATER}"
        )
    merged = kinds == {_LATER}
    widths = values["block_out_channels"]
    count = len(widths) - merged
    scaled = values["spatio_temporal_scaling"][:count]
    names = values["downsample_type"] if merged else ("conv",) * count
    if set(names) - STEPS.keys():
        raise ValueError(f"downsample_type={names!r}: only {', '.join(STEPS)} are known")
    if not len(scaled) == count <= len(names) or len(values["layers_per_block"]) <= count:
        raise ValueError(
            f"spatio_temporal_scaling={scaled!r}, downsample_type={names!r} and layers_per_block="
            f"{values['layers_per_block']!r} do not fit block_out_channels={widths!r}"
        )
    steps = tuple(name if step else "" for name, step in zip(names, scaled))
    layers = values["layers_per_block"]
    depths = (*layers[:count], layers[-1])
    return Encoding(widths=widths, depths=depths, steps=steps, merged=merged)


def build_decoding(values: dict[str, Any], kinds: tuple[str, ...]) -> Decoding:
    """Returns the decoder of the settings.

    Args:
      values: the settings.
      kinds: kind of each step, where decoder_spatio_temporal_scaling says that there is one.

    Raises:
      ValueError: for settings that fit no network.
    """
    widths = values["decoder_block_out_channels"]
    names = ("decoder_spatio_temporal_scaling", "upsample_residual", "upsample_factor")
    steps, residual, factors = (values[name] for name in names)
    layers = values["decoder_layers_per_block"]
    noisy = values["decoder_inject_noise"]
    lengths = {len(layers) - 1, len(noisy) - 1, *map(len, (steps, residual, factors, kinds))}
    if lengths != {len(widths)}:
        raise ValueError(
            f"decoder_layers_per_block={layers!r}, {names[0]}={steps!r}, {names[1]}={residual!r}, "
            f"{names[2]}={factors!r} and decoder_inject_noise={noisy!r} do not fit "
            f"decoder_block_out_channels={widths!r}"
        )
    if any(beside and width % 8 for beside, width in zip(residual, widths, strict=True)):
        raise ValueError(
            f"decoder_block_out_channels={widths!r} must be multiples of 8 where upsample_residual="
            f"{residual!r}"
        )
    is_conditioned = values["timestep_conditioning"]
    narrowed = tuple(width // factor for width, factor in zip(widths, factors))
    entering = (*narrowed[1:], widths[-1])
    changes = any(wide // f != width for wide, f, width in zip(entering, factors, narrowed))
    if changes and (is_conditioned or any(noisy)):
        raise ValueError(
            f"decoder_block_out_channels={widths!r} with upsample_factor={factors!r} change "
            "outside the steps, where neither timestep conditioning nor noise is possible"
        )
    return Decoding(
        widths=widths,
        depths=layers,
        steps=tuple(kind if step else "" for kind, step in zip(kinds, steps)),
        residual=residual,
        factors=factors,
        causal=values["decoder_causal"],
        noisy=noisy,
        timestep=DECODE_TIMESTEP if is_conditioned else None,
    )


def describe(model: LTXVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    encoding = model.encoding
    count = len(encoding.steps)
    return DEFAULTS["AutoencoderKLLTXVideo"] | {
        "_class_name": "AutoencoderKLLTXVideo",
        **describe_network(model),
        "block_out_channels": encoding.widths,
        "down_block_types": (_LATER if encoding.merged else _FIRST,) * count,
    }


def describe_network(model: LTXVAE) -> dict[str, Any]:
    """Returns the settings that all classes of the family have."""
    encoding, decoding = model.encoding, model.decoding
    return {
        "in_channels": model.shape_HWC[-1],
        "out_channels": model.shape_HWC[-1],
        "latent_channels": model.bottleneck.channels,
        "decoder_block_out_channels": decoding.widths,
        "layers_per_block": encoding.depths,
        "decoder_layers_per_block": decoding.depths,
        "spatio_temporal_scaling": tuple(bool(step) for step in encoding.steps),
        "decoder_spatio_temporal_scaling": tuple(bool(step) for step in decoding.steps),
        "decoder_inject_noise": decoding.noisy,
        "downsample_type": tuple(step or "conv" for step in encoding.steps),
        "upsample_residual": decoding.residual,
        "upsample_factor": decoding.factors,
        "timestep_conditioning": decoding.timestep is not None,
        "patch_size": model.patch,
        "resnet_norm_eps": model.epsilon,
        "decoder_causal": decoding.causal,
        "spatial_compression_ratio": model.spatial_compression,
        "temporal_compression_ratio": model.temporal_compression,
    }


FAMILY = Family(
    model=LTXVAE,
    defaults=DEFAULTS,
    build=build,
    describe=describe,
    buffers=LATENT_SCALES,
)
