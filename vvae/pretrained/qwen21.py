"""The image autoencoder of Qwen-Image 2.1: a wider Wan 2.2 for single frames with transparency.

It compresses each frame 16x16 into 64 channels and sees no other frame. Frames have four channels,
red, green, blue and opacity. What remains of the steps in time are convolutions that nothing
passes through: they are read and written, and their gradients are zero.

`AutoencoderKLQwenImage21` of diffusers takes single frames alone; here a video is taken frame by
frame.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.causal_blocks import Past
from vvae.pretrained import wan
from vvae.pretrained.family import Family
from vvae.pretrained.layers import Layer, PointwiseConv, SpatialConv, frame_conv_3x3, stateless

DEFAULTS = {
    "AutoencoderKLQwenImage21": wan.DEFAULTS["AutoencoderKLWan"]
    | {
        "base_dim": 96,
        "decoder_base_dim": 144,
        "z_dim": 64,
        "dim_mult": (1, 2, 4, 8, 8),
        "temperal_downsample": (False, True, True, True),
        "is_residual": True,
        "in_channels": 4,
        "out_channels": 4,
        "scale_factor_temporal": 8,
        "scale_factor_spatial": 16,
    }
}
"""Class -> the settings that its config.json may have, with their default values.

The defaults of `latents_mean` and `latents_std` are of another length: every release states its
own.
"""


class UnusedConv(nn.Module, kw_only=True):
    """A convolution over time of no frames: of its parameters nothing depends."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, stacked: jax.Array) -> jax.Array:
        shape = (1, 1, stacked.shape[-1] // 3, self.features)
        self.param("kernel", nn.initializers.lecun_normal(), shape)
        self.param("bias", nn.initializers.zeros, (self.features,))
        return jnp.zeros((*stacked.shape[:-1], self.features), self.dtype)


@dataclass(frozen=True)
class FrameWanSpec(wan.WanSpec):
    """Makes the layers; see `WanSpec`."""

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a convolution that keeps the size."""
        settings = {"features": features, "convolve": frame_conv_3x3, "dtype": self.dtype}
        return stateless(SpatialConv(**settings, name=name))

    def make_shortcut(self, features: int, name: str) -> PointwiseConv:
        """Makes the projection of the input of a residual block that changes the channels."""
        return PointwiseConv(features=features, num_axes=2, dtype=self.dtype, name=name)

    def make_time_conv(self, features: int) -> UnusedConv:
        """Makes the convolution of a step in time."""
        return UnusedConv(features=features, dtype=self.dtype, name="time_conv")


class Qwen21VAE(wan.WanVAE):
    """The model; see `WanVAE` for its attributes. Time is not compressed."""

    projection_axes: ClassVar[int] = 2
    temporal_compression: ClassVar[int] = 1

    @nn.nowrap
    def make_spec(self) -> FrameWanSpec:
        """Returns what makes the layers."""
        return FrameWanSpec(self.dtype)

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to mean and log-variance, each as a video of one frame."""
        outputs, _ = super().run_encoder(_part(x_BTHWC), None)
        return _join(outputs, x_BTHWC), ()

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to frames, each as a video of one frame."""
        x, _ = super().run_decoder(_part(z_BthwZ), None)
        return _join(x, z_BthwZ), ()


def _part(x_BTHWC: jax.Array) -> jax.Array:
    """Returns the frames of all videos as videos of one frame."""
    return x_BTHWC.reshape(-1, 1, *x_BTHWC.shape[2:])


def _join(x_NHWC: jax.Array, like_BTHWC: jax.Array) -> jax.Array:
    return x_NHWC.reshape(*like_BTHWC.shape[:2], *x_NHWC.shape[2:])


def build(values: dict[str, Any]) -> Qwen21VAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    return Qwen21VAE(**wan.read_network(values))


def describe(model: Qwen21VAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    return wan.describe(model) | {
        "_class_name": "AutoencoderKLQwenImage21",
        "scale_factor_temporal": 2 ** sum(model.in_time),
    }


FAMILY = Family(model=Qwen21VAE, defaults=DEFAULTS, build=build, describe=describe)
