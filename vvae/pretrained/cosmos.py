"""The continuous video tokenizer of Cosmos 1, of which Cosmos-Predict 1 has the 8x8x8 one.

It compresses 8x8x8 (or 4x8x8, 8x16x16) into 16 channels. Two levels of a Haar wavelet transform
move blocks of 4x4x4 pixels into channels, before a network of convolutions in space and in time,
norms over single frames, and in the middle an attention within the frame and one to earlier frames.
It is causal in both directions and streams exactly; the attention over time remembers the keys and
values of all latent frames.

It has no posterior. The mean and the standard deviation of its latents were published for each of
the first 16 latent frames, see `FrameScaledLatents`; generators see latents that are normalised by
them and multiplied by `sigma_data` of their scheduler.

References:
  NVIDIA, Cosmos World Foundation Model Platform for Physical AI, 2025, arXiv:2501.03575, section 4.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.bottleneck import FrameScaledLatents, PointLatents, pool_frame_scales
from vvae.models.causal_blocks import Past, chain, stack_frames
from vvae.models.haar import join_bands, split_bands
from vvae.pretrained.causal_attention import CausalAttention, attend_over_time
from vvae.pretrained.family import Family, check_channels, check_fixed, point_latents
from vvae.pretrained.folder import Absent
from vvae.pretrained.kl import KLVAE
from vvae.pretrained.kl_blocks import FrameAttention, FrameSpec
from vvae.pretrained.layers import (
    SAMPLE_SIZE,
    GroupNorm,
    Layer,
    PointwiseConv,
    SpatialConv,
    TemporalConv,
    average_down,
    down_conv_3x3,
    filter_time,
    frame_conv_3x3,
    repeat_before,
    repeat_later,
    repeat_up,
    up_conv_3x3,
)

_METHODS = ("haar", "rearrange")
_RESCALE = math.sqrt(8.0)  # an orthonormal level makes means this many times larger

DEFAULTS = {
    "AutoencoderKLCosmos": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 16,
        "encoder_block_out_channels": (128, 256, 512, 512),
        "decode_block_out_channels": (256, 512, 512, 512),
        "attention_resolutions": (32,),
        "resolution": 1024,
        "num_layers": 2,
        "patch_size": 4,
        "patch_type": "haar",
        "scaling_factor": 1.0,
        "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 8,
        "latents_mean": Absent(()),
        "latents_std": Absent(()),
    }
}
"""Class -> the settings that its config.json may have, with their default values."""


@dataclass(frozen=True)
class Patch:
    """Moves blocks of pixels into channels and back.

    Attributes:
      size: of a block, in frames, rows and columns; a power of two.
      method: "haar" for the coefficients of the wavelet, "rearrange" for the pixels.
    """

    size: int = 4
    method: str = "haar"

    def fold(self, x_BTHWC: jax.Array) -> jax.Array:
        """Moves pixels into channels."""
        if self.method == "rearrange":
            features = x_BTHWC.shape[-1] * self.size**3
            return average_down(x_BTHWC, features, self.size, self.size)
        for _ in range(int(math.log2(self.size))):
            x_BTHWC = jnp.concatenate(split_bands(x_BTHWC), axis=-1) / _RESCALE
        return x_BTHWC

    def unfold(self, y_BTHWC: jax.Array) -> jax.Array:
        """Moves channels into pixels: the inverse of `fold`."""
        if self.method == "rearrange":
            features = y_BTHWC.shape[-1] // self.size**3
            return repeat_up(y_BTHWC, features, self.size, self.size)
        for _ in range(int(math.log2(self.size))):
            y_BTHWC = join_bands(jnp.split(y_BTHWC, 8, axis=-1)) * _RESCALE
        return y_BTHWC


class FactoredConv(nn.Module, kw_only=True):
    """A convolution of each frame, then one of a frame and the two before it."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        settings = {"features": self.features, "dtype": self.dtype}
        x = SpatialConv(convolve=frame_conv_3x3, num_axes=1, **settings, name="conv_s")(x)
        return filter_time(TemporalConv(**settings, name="conv_t"), x, past)


class Down(nn.Module, kw_only=True):
    """Halves space, time or both: convolutions, to which averages are added.

    Attributes:
      in_space: whether rows and columns are halved.
      in_time: whether frames are: 1 + 2n become 1 + n, and 2n later ones n.
      dtype: of the activations.
    """

    in_space: bool
    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        settings, after = {"features": x.shape[-1], "dtype": self.dtype}, ()
        if self.in_space:
            conv = SpatialConv(convolve=down_conv_3x3, num_axes=1, **settings, name="conv1")
            x = conv(x) + average_down(x, x.shape[-1], 1, 2)
        if self.in_time:
            x, after = repeat_before(x, past), x[:, -1:]
            averages = 0.5 * (x[:, 1::2] + x[:, 2::2])
            x = TemporalConv(**settings, name="conv2")(stack_frames(x, stride=2)) + averages
        return PointwiseConv(**settings, name="conv3")(x), after


class Up(nn.Module, kw_only=True):
    """Doubles time, space or both: repeats, and adds convolutions of the repetitions.

    Attributes:
      in_space, in_time, dtype: see `Down`, whose inverse it is in size.
    """

    in_space: bool
    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        settings, after = {"features": x.shape[-1], "dtype": self.dtype}, ()
        if self.in_time:
            x = repeat_later(x, past)
            y, after = filter_time(TemporalConv(**settings, name="conv1"), x, past)
            x = x + y
        if self.in_space:
            conv = SpatialConv(convolve=up_conv_3x3, num_axes=1, **settings, name="conv2")
            x = conv(x) + repeat_up(x, x.shape[-1], 1, 2)
        return PointwiseConv(**settings, name="conv3")(x), after


@dataclass(frozen=True)
class CosmosSpec(FrameSpec):
    """Makes the layers; see `FrameSpec`. A step is (in space, in time)."""

    last_norm: ClassVar[str] = "norm_out"
    attention_norm: ClassVar[str] = "norm"
    attention_axes: ClassVar[int] = 3

    def make_norm(self, name: str) -> GroupNorm:
        """Makes a norm."""
        return GroupNorm(groups=self.groups, dtype=self.dtype, name=f"{name}.norm")

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a convolution that keeps the size."""
        return FactoredConv(features=features, dtype=self.dtype, name=name)

    def make_shortcut(self, features: int, name: str) -> PointwiseConv:
        """Makes the projection of the input of a residual block that changes the channels."""
        return PointwiseConv(features=features, dtype=self.dtype, name=name)

    def make_attention(self, name: str) -> Layer:
        """Makes the attentions in the middle: within a frame, and of a position over time."""
        over_time = CausalAttention(
            make_norm=lambda: self.make_norm(self.attention_norm),
            num_axes=self.attention_axes,
            out="to_out.0",
            attend=attend_over_time,
            dtype=self.dtype,
            name=f"temp_{name}",
        )
        return functools.partial(chain, [FrameAttention(spec=self, name=name), over_time])

    def make_down(self, step: tuple[bool, bool], name: str) -> Layer:
        """Makes the step to the next coarser resolution."""
        return Down(in_space=step[0], in_time=step[1], dtype=self.dtype, name=name)

    def make_up(self, step: tuple[bool, bool], name: str) -> Layer:
        """Makes the step to the next finer resolution."""
        return Up(in_space=step[0], in_time=step[1], dtype=self.dtype, name=name)


class CosmosVAE(KLVAE):
    """The model; see `KLVAE` for the other attributes.

    Attributes:
      patch: what moves blocks of pixels into channels.
      halvings: number of steps in space and in time beside the patch.
      bottleneck: points, with their published scale.
    """

    groups: int = 1
    patch: Patch = Patch()
    halvings: tuple[int, int] = (1, 1)
    bottleneck: PointLatents = point_latents(16)

    projection_axes: ClassVar[int] = 3
    last_layer: ClassVar[tuple[str, ...]] = ("decoder", "conv_out", "conv_t")

    @nn.nowrap
    def make_specs(self) -> tuple[FrameSpec, FrameSpec]:
        """Returns what makes the layers of the encoder and of the decoder."""
        return (CosmosSpec(groups=self.groups, dtype=self.dtype),) * 2

    @nn.nowrap
    def list_steps(self) -> tuple[tuple, tuple]:
        """Returns the steps after the levels of the encoder and of the decoder; see `Stack`."""
        (in_space, in_time), last = self.halvings, len(self.widths[0]) - 1
        down = [(i < in_space, i < in_time) for i in range(last)]
        up = [(0 < i <= in_time or in_time < in_space > i, 0 < i <= in_time) for i in range(last)]
        return tuple((*(step if any(step) else None for step in side), None) for side in (down, up))

    @nn.nowrap
    def count_network_channels(self) -> int:
        """Returns the number of channels of the blocks that the decoder returns."""
        return self.shape_HWC[-1] * self.patch.size**3

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return self.patch.size * 2 ** self.halvings[1]

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return self.patch.size * 2 ** self.halvings[0]

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to latents; repeats the first frame to a whole block."""
        if past is None:
            first = jnp.repeat(x_BTHWC[:, :1], self.patch.size - 1, axis=1)
            x_BTHWC = jnp.concatenate([first, x_BTHWC], axis=1)
        return super().run_encoder(self.patch.fold(x_BTHWC), past)

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to frames, without the repetitions of the first one."""
        y, after = super().run_decoder(z_BthwZ, past)
        return self.patch.unfold(y)[:, self.patch.size - 1 if past is None else 0 :], after


def build(values: dict[str, Any]) -> CosmosVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    check_channels(values)
    check_fixed(values, {"scaling_factor": 1.0})
    if values["patch_type"] not in _METHODS:
        raise ValueError(f"patch_type={values['patch_type']!r}: only {', '.join(_METHODS)}")
    encoder, decoder = values["encoder_block_out_channels"], values["decode_block_out_channels"]
    if not len(encoder) == len(decoder) > 2:
        raise ValueError(
            f"encoder_block_out_channels={encoder!r} and decode_block_out_channels={decoder!r}: "
            "must have the same number of values, 3 or more"
        )
    _refuse_attention(values, len(encoder) - 1)
    model = CosmosVAE(
        shape_HWC=(*SAMPLE_SIZE, values["in_channels"]),
        widths=(encoder[1:], decoder[:-1]),
        entries=(encoder[0], decoder[-1]),
        depth=values["num_layers"],
        patch=Patch(values["patch_size"], values["patch_type"]),
        halvings=_read_halvings(values),
        bottleneck=_read_latents(values),
    )
    for side in model.list_steps():
        if tuple(sum(step[i] for step in side if step) for i in (0, 1)) != model.halvings:
            raise ValueError(
                f"{len(encoder)} values of encoder_block_out_channels are too few for "
                f"spatial_compression_ratio={values['spatial_compression_ratio']} and "
                f"temporal_compression_ratio={values['temporal_compression_ratio']}"
            )
    return model


def _refuse_attention(values: dict[str, Any], num_levels: int) -> None:
    """Raises ValueError for an attention beside those in the middle, which no release has."""
    sizes = [values["resolution"] // values["patch_size"] // 2**i for i in range(num_levels)]
    found = set(sizes) & set(values["attention_resolutions"])
    if found:
        raise ValueError(
            f"attention_resolutions={values['attention_resolutions']!r}: the network has levels of "
            f"{sizes}, and attention in the middle alone can be read"
        )


def _read_halvings(values: dict[str, Any]) -> tuple[int, int]:
    """Returns the number of steps in space and in time beside the patch."""
    names = ("spatial_compression_ratio", "temporal_compression_ratio")
    counts = [math.log2(values[name] / values["patch_size"]) for name in names]
    if not math.log2(values["patch_size"]).is_integer() or any(
        count < 0 or not count.is_integer() for count in counts
    ):
        raise ValueError(
            f"spatial_compression_ratio={values[names[0]]}, temporal_compression_ratio="
            f"{values[names[1]]} and patch_size={values['patch_size']}: must be powers of two, the "
            "last one the smallest"
        )
    return int(counts[0]), int(counts[1])


def _read_latents(values: dict[str, Any]) -> PointLatents:
    """Returns the latents, with a scale for each frame where it was published."""
    channels, scales = values["latent_channels"], (values["latents_mean"], values["latents_std"])
    if None in scales:
        return point_latents(channels)
    if len(scales[0]) != len(scales[1]) or len(scales[0]) % channels or not scales[0]:
        raise ValueError(
            f"latents_mean with {len(scales[0])} values and latents_std with {len(scales[1])}: "
            f"must be as many for each of {channels} channels"
        )
    # Channel by channel, the frames of each.
    means, stds = (
        [scale[i :: len(scale) // channels] for i in range(len(scale) // channels)]
        for scale in scales
    )
    return pool_frame_scales(means, stds)


def describe(model: CosmosVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    latents, channels = model.bottleneck, model.shape_HWC[-1]
    is_scaled = isinstance(latents, FrameScaledLatents)
    scales = (latents.frame_means, latents.frame_stds) if is_scaled else (None, None)
    mean, std = (None if a is None else tuple(n for c in zip(*a) for n in c) for a in scales)
    return {
        "_class_name": "AutoencoderKLCosmos",
        "in_channels": channels,
        "out_channels": channels,
        "latent_channels": latents.channels,
        "encoder_block_out_channels": (model.entries[0], *model.widths[0]),
        "decode_block_out_channels": (*model.widths[1], model.entries[1]),
        "attention_resolutions": (),
        "num_layers": model.depth,
        "patch_size": model.patch.size,
        "patch_type": model.patch.method,
        "scaling_factor": 1.0,
        "spatial_compression_ratio": model.spatial_compression,
        "temporal_compression_ratio": model.temporal_compression,
        "latents_mean": mean,
        "latents_std": std,
    }


FAMILY = Family(model=CosmosVAE, defaults=DEFAULTS, build=build, describe=describe)
