"""The image autoencoder of FLUX.2: that of Stable Diffusion with latents of 2x2 positions.

It compresses each frame 16x16 into 128 channels: 8x8 into 32 channels, of which generators see 2x2
positions as one, normalised by the statistics of a batch norm. These are the latents here, and
`model.bottleneck.normalize(z)` is that batch norm; `encode` of diffusers returns them before the
positions are joined. Some releases have a narrower decoder.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import Past
from vvae.pretrained.family import Buffers, Family, check_fixed, unscaled_latents
from vvae.pretrained.folder import Absent
from vvae.pretrained.kl import KLVAE, describe_network, read_network
from vvae.pretrained.layers import average_down, repeat_up

_PATCH = 2

DEFAULTS = {
    "AutoencoderKLFlux2": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "decoder_block_out_channels": Absent(()),
        "layers_per_block": 2,
        "act_fn": "silu",
        "latent_channels": 32,
        "norm_num_groups": 32,
        "sample_size": 1024,
        "force_upcast": True,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "mid_block_add_attention": True,
        "batch_norm_eps": 1e-4,
        "batch_norm_momentum": 0.1,
        "patch_size": (_PATCH, _PATCH),
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


class Flux2VAE(KLVAE):
    """The model.

    Attributes:
      epsilon: of the batch norm.
      bottleneck: latents with the mean and standard deviation of the batch norm.
    """

    epsilon: float = 1e-4
    bottleneck: ScaledLatents = unscaled_latents(128)

    @nn.nowrap
    def count_network_latents(self) -> int:
        """Returns the number of latent channels before positions are joined."""
        return self.bottleneck.channels // _PATCH**2

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return _PATCH * super().spatial_compression

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to mean and log-variance."""
        outputs, past = super().run_encoder(x_BTHWC, past)
        # Groups of one number: moves positions into channels, averages nothing.
        return average_down(outputs, 2 * self.bottleneck.channels, 1, _PATCH), past

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to frames."""
        return super().run_decoder(
            repeat_up(z_BthwZ, self.count_network_latents(), 1, _PATCH), past
        )


def build(values: dict[str, Any]) -> Flux2VAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    check_fixed(values, {"patch_size": (_PATCH, _PATCH)})
    widths = values["decoder_block_out_channels"] or values["block_out_channels"]
    return Flux2VAE(
        **read_network(values, widths),
        epsilon=values["batch_norm_eps"],
        bottleneck=unscaled_latents(values["latent_channels"] * _PATCH**2),
    )


def describe(model: Flux2VAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    encoder, decoder = model.widths
    return {
        "_class_name": "AutoencoderKLFlux2",
        **describe_network(model),
        "decoder_block_out_channels": None if decoder == encoder else decoder,
        "batch_norm_eps": model.epsilon,
        "patch_size": (_PATCH, _PATCH),
    }


def _find_statistics(model: Flux2VAE) -> dict[str, jax.ShapeDtypeStruct]:
    values = jax.ShapeDtypeStruct((model.bottleneck.channels,), jnp.float32)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return {"bn.running_mean": values, "bn.running_var": values, "bn.num_batches_tracked": count}


def _read_statistics(model: Flux2VAE, found: dict[str, np.ndarray]):
    variance = np.float64(found["bn.running_var"]) + model.epsilon
    return found["bn.running_mean"], np.sqrt(variance)


def _write_statistics(model: Flux2VAE) -> dict[str, np.ndarray]:
    latents = model.bottleneck
    return {
        "bn.running_mean": np.float32(latents.prior_mean),
        "bn.running_var": np.float32(np.square(latents.prior_std) - model.epsilon),
        # It counts the batches of the authors' training, and nothing depends on it.
        "bn.num_batches_tracked": np.int64(0),
    }


FAMILY = Family(
    model=Flux2VAE,
    defaults=DEFAULTS,
    build=build,
    describe=describe,
    buffers=Buffers(find=_find_statistics, read=_read_statistics, write=_write_statistics),
)
