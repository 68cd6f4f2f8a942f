"""CausalVideoVAE: a grid of latents from causal three-dimensional convolutions.

    p(x, z) = p(z) p(x | z),  z on a grid of t x h x w positions with Z channels each

With a compression of f_t in time and f_s in space a video of T frames of H x W pixels has

    t = 1 + ceil((T - 1) / f_t),  h = ceil(H / f_s),  w = ceil(W / f_s)

The first frame has a latent frame of its own, so that an image is a video of one frame, and nothing
looks ahead: latent frame i depends on the frames 0, ..., f_t i, and those frames are decoded from
the latent frames 0, ..., i. Videos of any length and size are taken. What is missing to whole
latents is filled up by repeating the last frame, row and column, and cropped after decoding (in
`vvae.decode` by its shape_THW); it enters no likelihood. A masked frame counts as missing too: it
is read as a copy of the last real frame before it, and a latent frame without any real frame enters
no term.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models import contract, stem
from vvae.models.block_pca import BlockBasis, TemporalTaps
from vvae.models.bottleneck import FiniteScalars, GaussianLatents
from vvae.models.causal_blocks import (
    NORMS,
    CausalConv,
    Extent,
    FrameAttention,
    Head,
    Past,
    ResBlock,
    SpatialDown,
    SpatialUp,
    Stage,
    TemporalDown,
    TemporalUp,
    chain,
)
from vvae.models.checks import check_choice
from vvae.models.grid import GridVideoVAE

STEMS = ("none", *stem.STEMS, "pca")

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (4, 8, 8, 8), "blocks": (1, 1)},
    "small": {"widths": (24, 48, 72, 80), "blocks": (2, 2)},
    "base": {"widths": (64, 128, 208, 232), "blocks": (2, 2)},
    "large": {"widths": (96, 192, 352, 384), "blocks": (2, 3)},
}
"""Settings of `CausalVideoVAE` for 4x8x8: tests, about 5 M, 40 M and 127 M parameters."""


@dataclass(frozen=True)
class Network:
    """What encoder and decoder have in common.

    Attributes:
      widths: channels at each resolution, the finest first.
      halvings: (in time, in space) for each step from a resolution to the next.
      norm: see `CausalVideoVAE`.
      attention: see `CausalVideoVAE`.
      dtype: of the activations.
      extent: real rows and columns at the finest resolution; see `causal_blocks`.
    """

    widths: tuple[int, ...]
    halvings: tuple[tuple[bool, bool], ...]
    norm: str
    attention: bool
    dtype: Any
    extent: Extent = None

    def extent_at(self, level: int) -> Extent:
        """Returns the real rows and columns after so many steps to coarser resolutions."""
        if self.extent is None:
            return None
        scale = 2 ** sum(in_space for _, in_space in self.halvings[:level])
        return self.extent[0] // scale, self.extent[1] // scale


def _make_middle(net: Network) -> list[nn.Module]:
    """Layers at the coarsest resolution."""
    settings = (net.norm, net.dtype, net.extent_at(len(net.halvings)))
    attention = [FrameAttention(*settings, name="attention")] if net.attention else []
    return [ResBlock(*settings, name="middle_0"), *attention, ResBlock(*settings, name="middle_1")]


class Encoder(nn.Module):
    """[B, T, H, W, C] -> [B, t, h, w, features]: stages of residual blocks, halved in between."""

    net: Network
    depth: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net = self.net
        layers = [CausalConv(net.widths[0], net.dtype, extent=net.extent, name="conv_in")]
        for level, (in_time, in_space) in enumerate(net.halvings):
            width, extent = net.widths[level + 1], net.extent_at(level)
            layers.append(Stage(self.depth, net.norm, net.dtype, extent, name=f"stage_{level}"))
            if in_space:
                layers.append(SpatialDown(width, net.dtype, extent, name=f"down_{level}"))
            if in_time:
                layers.append(TemporalDown(width, net.dtype, name=f"temporal_down_{level}"))
        last = len(net.halvings)
        extent = net.extent_at(last)
        layers.append(Stage(self.depth, net.norm, net.dtype, extent, name=f"stage_{last}"))
        layers += _make_middle(net)
        layers.append(Head(self.features, net.norm, net.dtype, extent, name="head"))
        return chain(layers, x, past)


class Decoder(nn.Module):
    """[B, t, h, w, Z] -> [B, T, H, W, features]: the mirror image of Encoder."""

    net: Network
    depth: int
    features: int

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net = self.net
        last = len(net.halvings)
        extent = net.extent_at(last)
        layers = [CausalConv(net.widths[-1], net.dtype, extent=extent, name="conv_in")]
        layers += _make_middle(net)
        layers.append(Stage(self.depth, net.norm, net.dtype, extent, name=f"stage_{last}"))
        for level in reversed(range(last)):
            in_time, in_space = net.halvings[level]
            width = net.widths[level]
            if in_time:
                layers.append(TemporalUp(width, net.dtype, name=f"temporal_up_{level}"))
            if in_space:
                coarse = net.extent_at(level + 1)
                layers.append(SpatialUp(width, net.dtype, coarse, name=f"up_{level}"))
            extent = net.extent_at(level)
            layers.append(Stage(self.depth, net.norm, net.dtype, extent, name=f"stage_{level}"))
        layers.append(Head(self.features, net.norm, net.dtype, net.extent, name="head"))
        return chain(layers, z, past)


class CausalVideoVAE(GridVideoVAE):
    """The model. Videos are [B, T, H, W, C] in [-1, 1]; see the module docstring.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      widths: channels at each resolution, the finest first; one more than there are halvings. In
        space there are log2(spatial_compression) of them, one less with a stem, from the finest on;
        in time log2(temporal_compression), up to the coarsest. None at all with the stem "pca".
      blocks: residual blocks at each resolution of the encoder and of the decoder.
      temporal_compression: f_t, 1, 2, 4 or 8.
      spatial_compression: f_s, 4, 8, 16 or 32.
      stem: halves frames before the first convolution: "patch" puts 2x2 pixels into channels,
        "wavelet" their Haar coefficients; or "none". "pca" does all the compression: principal
        components of the blocks that a latent covers, with a linear path over time beside the
        networks, which `vvae.models.ppca` starts at PCA (`vvae.models.blocks`).
      components: with the stem "pca": principal components of a block.
      attention: whether the middle blocks attend within each frame.
      norm: "position" over the channels of a position, or "frame" over groups of channels of a
        frame; never over time.
      bottleneck: `GaussianLatents(channels)`, or `FiniteScalars(levels)`.
      dtype: of the activations; norms, posterior, the last convolution and all terms are at least
        float32.
      extent: rows and columns of the videos that are real, multiples of spatial_compression, where
        more are given and are not to count (`vvae.sharding`); None for all.
    """

    widths: tuple[int, ...] = SIZES["small"]["widths"]
    blocks: tuple[int, int] = SIZES["small"]["blocks"]
    temporal_compression: int = 4
    spatial_compression: int = 8
    stem: str = "none"
    components: int = 96
    attention: bool = True
    norm: str = "position"
    bottleneck: GaussianLatents | FiniteScalars = GaussianLatents()
    dtype: Any = jnp.float32
    extent: Extent = None

    last_layer: ClassVar[tuple[str, ...]] = ("decoder", "head", "conv")

    def setup(self):
        self._check_settings()
        finest = self.extent
        if finest is not None:
            finest = finest[0] // self.stem_scale, finest[1] // self.stem_scale
        net = Network(self.widths, self.halvings, self.norm, self.attention, self.dtype, finest)
        channels = self.shape_HWC[-1]
        self.encoder = Encoder(net, self.blocks[0], self.bottleneck.num_outputs)
        self.decoder = Decoder(net, self.blocks[1], self.stem_features)
        if self.stem == "pca":
            self.basis = BlockBasis(self.block_shape, channels, self.components)
            self.linear_encoder = TemporalTaps(self.bottleneck.num_outputs)
            self.linear_decoder = TemporalTaps(self.components)
        self.setup_likelihood(log_sigma=0.0)

    @property
    def halvings(self) -> tuple[tuple[bool, bool], ...]:
        """(In time, in space) for each step from a resolution to the next."""
        if self.stem == "pca":
            return ()
        in_time = int(math.log2(self.temporal_compression))
        in_space = int(math.log2(self.spatial_compression)) - (self.stem != "none")
        count = max(in_time, in_space)
        return tuple((level >= count - in_time, level < in_space) for level in range(count))

    def _check_settings(self):
        check_choice("temporal_compression", self.temporal_compression, (1, 2, 4, 8))
        check_choice("spatial_compression", self.spatial_compression, (4, 8, 16, 32))
        check_choice("stem", self.stem, STEMS)
        check_choice("norm", self.norm, NORMS)
        if len(self.widths) != len(self.halvings) + 1 or min(self.widths) < 1:
            raise ValueError(
                f"widths={self.widths}: {len(self.halvings) + 1} positive numbers are needed, one "
                f"more than the halvings that temporal_compression={self.temporal_compression}, "
                f"spatial_compression={self.spatial_compression} and stem={self.stem!r} make"
            )
        if len(self.blocks) != 2 or min(self.blocks) < 1:
            raise ValueError(f"blocks={self.blocks}: two numbers of at least 1 are needed")

    # --- sizes ---------------------------------------------------------------------------------

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """(frames, rows, columns) that a latent covers; the first latents cover one frame."""
        scale = self.spatial_compression
        return self.temporal_compression, scale, scale

    @property
    def stem_scale(self) -> int:
        """By how much the stem shrinks rows and columns."""
        return {"none": 1, "pca": self.spatial_compression}.get(self.stem, 2)

    @property
    def stem_features(self) -> int:
        """Channels that the stem makes of the video."""
        channels = self.shape_HWC[-1]
        return {"none": channels, "pca": self.components}.get(self.stem, 4 * channels)

    @nn.nowrap
    def encoder_modules(self) -> tuple[str, ...]:
        """See `GridVideoVAE`."""
        return ("encoder", "linear_encoder") if self.stem == "pca" else ("encoder",)

    # --- networks ------------------------------------------------------------------------------

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Standardised frames -> what the bottleneck reads as a posterior."""
        if self.stem == "pca":
            components = self.basis.analyse(x_BTHWC, past is None)
            return _add_paths(self.encoder, self.linear_encoder, components, past)
        folded = x_BTHWC if self.stem == "none" else stem.fold(x_BTHWC, self.stem)
        return self.encoder(folded, past)

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Latents -> standardised frames."""
        if self.stem == "pca":
            is_start = past is None
            components, past = _add_paths(self.decoder, self.linear_decoder, z_BthwZ, past)
            return self.basis.synthesize(components, is_start), past
        outputs, past = self.decoder(z_BthwZ, past)
        return outputs if self.stem == "none" else stem.unfold(outputs, self.stem), past


init_variables = contract.init_variables


def _add_paths(network, linear, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
    """Adds up what a network and a linear map make of x, each with its own past."""
    before = past or (None, None)
    y, first = network(x, before[0])
    z, second = linear(x, before[1])
    return y + z, (first, second)
