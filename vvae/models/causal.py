"""CausalVideoVAE: a grid of latents from causal three-dimensional convolutions.

    p(x, z) = p(z) p(x | z),  z on a grid of t x h x w positions with Z channels each

With a compression of f_t in time and f_s in space, a video of T frames of H x W pixels has

    t = 1 + ceil((T - 1) / f_t),  h = ceil(H / f_s),  w = ceil(W / f_s)

The first frame has its own latent frame, so that an image is a video of one frame, and nothing
looks ahead: latent frame i depends on the frames 0, ..., f_t i, and those frames are decoded from
the latent frames 0, ..., i.

The model takes videos of any length and size. It pads them to whole latents by repeating the last
frame, row and column, and the decoded video is cropped again (in `vvae.decode` by its shape_THW);
padding enters no likelihood. A masked frame counts as missing too: it is replaced by the last real
frame before it, and a latent frame without any real frame enters no term.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models import stem
from vvae.models.block_pca import BlockBasis, TemporalTaps
from vvae.models.bottleneck import FiniteScalars, GaussianLatents
from vvae.models.causal_blocks import (
    NORMS,
    CausalConv,
    Extent,
    Head,
    LayerSpec,
    Past,
    ResBlock,
    SpatialAttention,
    SpatialDown,
    SpatialUp,
    Stage,
    TemporalDown,
    TemporalUp,
    chain,
)
from vvae.models.checks import check_choice
from vvae.models.frame_cost import FrameCost, GridNetwork, measure_grid
from vvae.models.grid import GridVideoVAE
from vvae.models.ppca import start_blocks_at_ppca, whiten_blocks

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
    """Settings that the encoder and the decoder share.

    Attributes:
      widths: channels at each resolution, finest first.
      halvings: (in time, in space) for each step from a resolution to the next coarser one.
      attention: see `CausalVideoVAE`.
      spec: of the layers at the finest resolution.
    """

    widths: tuple[int, ...]
    halvings: tuple[tuple[bool, bool], ...]
    attention: bool
    spec: LayerSpec

    def spec_at(self, level: int) -> LayerSpec:
        """Returns the spec of the layers at a resolution; level 0 is the finest."""
        if self.spec.extent is None:
            return self.spec
        scale = 2 ** sum(in_space for _, in_space in self.halvings[:level])
        rows, columns = self.spec.extent
        return replace(self.spec, extent=(rows // scale, columns // scale))


def _make_middle(net: Network) -> list[nn.Module]:
    """Makes the layers at the coarsest resolution."""
    spec = net.spec_at(len(net.halvings))
    attention = [SpatialAttention(spec, name="attention")] if net.attention else []
    return [ResBlock(spec, name="middle_0"), *attention, ResBlock(spec, name="middle_1")]


def _make_conv_in(features: int, spec: LayerSpec) -> CausalConv:
    return CausalConv(features=features, dtype=spec.dtype, extent=spec.extent, name="conv_in")


class Encoder(nn.Module, kw_only=True):
    """Maps [B, T, H, W, C] to [B, t, h, w, features]: residual stages with halvings in between."""

    net: Network
    depth: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net = self.net
        layers = [_make_conv_in(net.widths[0], net.spec)]
        for level, (in_time, in_space) in enumerate(net.halvings):
            width, spec = net.widths[level + 1], net.spec_at(level)
            layers.append(Stage(depth=self.depth, spec=spec, name=f"stage_{level}"))
            if in_space:
                layers.append(SpatialDown(features=width, spec=spec, name=f"down_{level}"))
            if in_time:
                name = f"temporal_down_{level}"
                layers.append(TemporalDown(features=width, spec=spec, name=name))
        last = len(net.halvings)
        spec = net.spec_at(last)
        layers.append(Stage(depth=self.depth, spec=spec, name=f"stage_{last}"))
        layers += _make_middle(net)
        layers.append(Head(features=self.features, spec=spec, name="head"))
        return chain(layers, x, past)


class Decoder(nn.Module, kw_only=True):
    """Maps [B, t, h, w, Z] to [B, T, H, W, features]: the mirror image of Encoder."""

    net: Network
    depth: int
    features: int

    @nn.compact
    def __call__(self, z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        net = self.net
        last = len(net.halvings)
        spec = net.spec_at(last)
        layers = [_make_conv_in(net.widths[-1], spec), *_make_middle(net)]
        layers.append(Stage(depth=self.depth, spec=spec, name=f"stage_{last}"))
        for level in reversed(range(last)):
            in_time, in_space = net.halvings[level]
            width, coarse = net.widths[level], net.spec_at(level + 1)
            if in_time:
                name = f"temporal_up_{level}"
                layers.append(TemporalUp(features=width, spec=coarse, name=name))
            if in_space:
                layers.append(SpatialUp(features=width, spec=coarse, name=f"up_{level}"))
            spec = net.spec_at(level)
            layers.append(Stage(depth=self.depth, spec=spec, name=f"stage_{level}"))
        layers.append(Head(features=self.features, spec=net.spec, name="head"))
        return chain(layers, z, past)


class CausalVideoVAE(GridVideoVAE):
    """The model. Videos are [B, T, H, W, C] in [-1, 1]; see the module docstring.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      widths: channels at each resolution, finest first; one more than there are halvings. Space is
        halved log2(spatial_compression) times (once less with a stem), beginning at the finest
        resolution; time log2(temporal_compression) times, ending at the coarsest. The stem "pca"
        needs no halvings.
      blocks: residual blocks at each resolution of the encoder and of the decoder.
      temporal_compression: f_t, 1, 2, 4 or 8.
      spatial_compression: f_s, 4, 8, 16 or 32.
      stem: halves frames before the first convolution: "patch" moves 2x2 pixels into channels,
        "wavelet" their Haar coefficients; or "none". "pca" does all the compression: it takes the
        principal components of the blocks that a latent covers (`vvae.models.block_pca`), and adds
        to the networks a linear path over time that `vvae.models.ppca` initialises with PCA.
      components: principal components of a block, with the stem "pca".
      attention: whether the middle blocks attend within each frame.
      norm: "position" for RMSNorm over the channels of each position, "frame" for GroupNorm over
        each frame; never over time.
      bottleneck: `GaussianLatents(channels)` or `FiniteScalars(levels)`.
      dtype: of the activations. Norms, posterior, the last convolution and all terms are at least
        float32.
      extent: rows and columns of the videos that are real, multiples of spatial_compression, where
        the videos are padded further (`vvae.inference.sharding`); None for all.
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
        net = Network(
            widths=self.widths,
            halvings=self.halvings,
            attention=self.attention,
            spec=LayerSpec(norm=self.norm, dtype=self.dtype, extent=finest),
        )
        encoder_depth, decoder_depth = self.blocks
        self.encoder = Encoder(net=net, depth=encoder_depth, features=self.bottleneck.num_outputs)
        self.decoder = Decoder(net=net, depth=decoder_depth, features=self.stem_features)
        if self.stem == "pca":
            self.basis = BlockBasis(self.block_shape, self.shape_HWC[-1], self.components)
            self.linear_encoder = TemporalTaps(self.bottleneck.num_outputs)
            self.linear_decoder = TemporalTaps(self.components)
        self.setup_likelihood(log_sigma=0.0)

    @property
    def halvings(self) -> tuple[tuple[bool, bool], ...]:
        """(In time, in space) for each step from a resolution to the next coarser one."""
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
                f"widths={self.widths}: must be {len(self.halvings) + 1} positive numbers, one "
                f"more than the halvings for temporal_compression={self.temporal_compression}, "
                f"spatial_compression={self.spatial_compression} and stem={self.stem!r}"
            )
        if len(self.blocks) != 2 or min(self.blocks) < 1:
            raise ValueError(f"blocks={self.blocks}: must be two numbers of at least 1")

    # --- sizes ---------------------------------------------------------------------------------

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """(frames, rows, columns) that a latent covers; the first latents cover one frame."""
        scale = self.spatial_compression
        return self.temporal_compression, scale, scale

    @property
    def stem_scale(self) -> int:
        """Factor by which the stem shrinks rows and columns."""
        return {"none": 1, "pca": self.spatial_compression}.get(self.stem, 2)

    @property
    def stem_features(self) -> int:
        """Channels after the stem."""
        channels = self.shape_HWC[-1]
        return {"none": channels, "pca": self.components}.get(self.stem, 4 * channels)

    @nn.nowrap
    def encoder_modules(self) -> tuple[str, ...]:
        """See `GridVideoVAE`."""
        return ("encoder", "linear_encoder") if self.stem == "pca" else ("encoder",)

    # --- training ------------------------------------------------------------------------------

    @nn.nowrap
    def count_first_places(self) -> float:
        """Returns at how many places of a frame the first layer computes something."""
        frames = self.temporal_compression if self.stem == "pca" else 1
        return math.prod(self.shape_HWC[:2]) / (self.stem_scale**2 * frames)

    @nn.nowrap
    def estimate_frame_cost(self) -> FrameCost:
        """Returns what a frame costs in training, by a formula."""
        network = GridNetwork(
            pixels=math.prod(self.shape_HWC),
            finest=self.count_first_places(),
            features=self.stem_features,
            widths=self.widths,
            blocks=self.blocks,
            halvings=self.halvings,
        )
        return measure_grid(network)

    @nn.nowrap
    def start(self, variables: dict, statistics, beta: float) -> dict:
        """Returns fresh variables, standardised by the training videos; see `contract`."""
        mean_C, std_C = statistics.by_channel()
        params = variables["params"]
        stats = {"mean": jnp.asarray(mean_C), "std": jnp.asarray(std_C)}
        if self.stem == "pca":
            pca = statistics.block_pca(self.block_shape)
            stats, variance_D = whiten_blocks(pca, stats, self.components)
            if isinstance(self.bottleneck, GaussianLatents):
                params = start_blocks_at_ppca(self, params, stats, variance_D, beta)
        return {"params": params, "stats": stats}

    # --- networks ------------------------------------------------------------------------------

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps standardised frames to the outputs that the bottleneck reads as a posterior."""
        if self.stem == "pca":
            components = self.basis.analyse(x_BTHWC, past is None)
            return _add_paths(self.encoder, self.linear_encoder, components, past)
        folded = x_BTHWC if self.stem == "none" else stem.fold(x_BTHWC, self.stem)
        return self.encoder(folded, past)

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to standardised frames."""
        if self.stem == "pca":
            is_start = past is None
            components, past = _add_paths(self.decoder, self.linear_decoder, z_BthwZ, past)
            return self.basis.synthesize(components, is_start), past
        outputs, past = self.decoder(z_BthwZ, past)
        return outputs if self.stem == "none" else stem.unfold(outputs, self.stem), past


def _add_paths(network, linear, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
    """Adds the outputs of a network and of a linear map of x, each with its own past."""
    before = past or (None, None)
    y, first = network(x, before[0])
    z, second = linear(x, before[1])
    return y + z, (first, second)
