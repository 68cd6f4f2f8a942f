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

from vvae.distributions import Gaussian
from vvae.models import contract, likelihood, stem
from vvae.models.blocks import BlockBasis, TemporalTaps
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
from vvae.models.contract import Terms

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


class CausalVideoVAE(nn.Module):
    """The model. Videos are [B, T, H, W, C] in [-1, 1]; see the module docstring.

    Attributes:
      shape_HWC: size of the frames that `sample` draws, and the channels C that every video has.
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

    Variables: "params" are learned; "stats" hold the standardisation, `mean` and `std` of each
    channel [C] in [-1, 1] units. Gradients with respect to the stats are zero.
    """

    shape_HWC: tuple[int, int, int]
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

    likelihood: ClassVar[str] = "gaussian"

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
        self.log_sigma = self.param("log_sigma", nn.initializers.zeros, ())
        self.mean_C = self.variable("stats", "mean", jnp.zeros, (channels,))
        self.std_C = self.variable("stats", "std", jnp.ones, (channels,))

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
        _check_choice("temporal_compression", self.temporal_compression, (1, 2, 4, 8))
        _check_choice("spatial_compression", self.spatial_compression, (4, 8, 16, 32))
        _check_choice("stem", self.stem, STEMS)
        _check_choice("norm", self.norm, NORMS)
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
    def grid_shape(self, shape_THW: tuple[int, int, int]) -> tuple[int, int, int]:
        """Returns (t, h, w), the latents that cover a video of (T, H, W)."""
        num_frames, height, width = shape_THW
        scale = self.spatial_compression
        t = 1 + math.ceil((num_frames - 1) / self.temporal_compression)
        return t, math.ceil(height / scale), math.ceil(width / scale)

    @property
    def smallest_video(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of a video of one latent; no parameter depends on the size."""
        return 1, self.spatial_compression, self.spatial_compression, self.shape_HWC[-1]

    @nn.nowrap
    def count_numbers(self, num_frames: int) -> int:
        """Returns how many numbers there are for each frame of shape_HWC, rounded up."""
        grid = self.grid_shape((num_frames, *self.shape_HWC[:2]))
        return math.ceil(math.prod(grid) * self.bottleneck.channels / num_frames)

    @nn.nowrap
    def covered_shape(self, shape_thw: tuple[int, int, int]) -> tuple[int, int, int]:
        """Returns (T, H, W), the frames, rows and columns that a grid of latents decodes to."""
        t, h, w = shape_thw
        scale = self.spatial_compression
        return 1 + (t - 1) * self.temporal_compression, h * scale, w * scale

    @nn.nowrap
    def encoder_modules(self) -> tuple[str, ...]:
        """Names of the modules whose parameters the latents depend on."""
        return ("encoder", "linear_encoder") if self.stem == "pca" else ("encoder",)

    @nn.nowrap
    def last_kernel(self, params) -> jax.Array:
        """Kernel of the decoder's last convolution."""
        return params["decoder"]["head"]["conv"]["kernel"]

    # --- inference -----------------------------------------------------------------------------

    def encode(self, x_BTHWC: jax.Array, mask_BT: jax.Array):
        """q(z | x); see `vvae.encode`."""
        x_BTHWC = _hold_masked(x_BTHWC, mask_BT)
        covered, _, _ = self.covered_shape(self.grid_shape(x_BTHWC.shape[1:4]))
        missing = covered - x_BTHWC.shape[1]
        x_BTHWC = jnp.pad(x_BTHWC, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")
        return self.extend_encode(None, x_BTHWC)[1]

    def extend_encode(self, past: Past, x_BTHWC: jax.Array):
        """Encodes the next frames, of which there are as many as their latents cover.

        Args:
          past: what the call for the frames before has returned; None at the start.
          x_BTHWC: 1 + n f_t frames at the start, n f_t later; H and W are filled up here.

        Returns:
          (past, posterior) after these frames.

        Raises:
          ValueError: for another number of channels or frames.
        """
        channels = self.shape_HWC[-1]
        if x_BTHWC.shape[-1] != channels:
            raise ValueError(f"the model takes videos of {channels} channels, got {x_BTHWC.shape}")
        length = x_BTHWC.shape[1] - (past is None)
        if length % self.temporal_compression or x_BTHWC.shape[1] < 1:
            raise ValueError(
                f"{x_BTHWC.shape[1]} frames are no whole number of latent frames of "
                f"{self.temporal_compression}, the first of the video apart"
            )
        x_BTHWC = self.fill_up(self._standardize(x_BTHWC))
        if self.stem == "pca":
            components = self.basis.analyse(x_BTHWC, past is None)
            outputs, past = _add_paths(self.encoder, self.linear_encoder, components, past)
        else:
            folded = x_BTHWC if self.stem == "none" else stem.fold(x_BTHWC, self.stem)
            outputs, past = self.encoder(folded, past)
        return past, self.bottleneck.posterior(outputs)

    @nn.nowrap
    def fill_up(self, x_BTHWC: jax.Array) -> jax.Array:
        """Repeats the last row and column up to whole latents."""
        rows, columns = (-size % self.spatial_compression for size in x_BTHWC.shape[2:4])
        return jnp.pad(x_BTHWC, ((0, 0), (0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")

    @nn.nowrap
    def posterior_mean(self, posterior) -> jax.Array:
        """Returns the most probable latents under the posterior, [B, t, h, w, Z]."""
        return self.bottleneck.mean(posterior)

    @nn.nowrap
    def level_posteriors(self, posterior) -> dict[str, Gaussian]:
        """Returns the Gaussian posterior of each level; none where the latents are codes."""
        return {"grid": posterior} if isinstance(posterior, Gaussian) else {}

    @nn.nowrap
    def level_masks(self, mask_BT: jax.Array) -> dict[str, jax.Array]:
        """Returns which latent frames have a real frame."""
        return {"grid": self.latent_mask(mask_BT)}

    @property
    def standard_priors(self) -> frozenset[str]:
        """Levels whose prior is N(0, I)."""
        return frozenset({"grid"})

    def kl_by_dim(self, x_BTHWC, mask_BT, key_B) -> dict[str, jax.Array]:
        """KL of each latent in nats, [B, t, h, w, Z]; 0 in latent frames without a real frame."""
        kl = self.bottleneck.kl_by_dim(self.encode(x_BTHWC, mask_BT))
        return {"grid": kl * self.latent_mask(mask_BT)[..., None, None, None]}

    # --- likelihood ----------------------------------------------------------------------------

    def decode(self, z_BthwZ: jax.Array) -> jax.Array:
        """Mean of p(x | z), of all frames, rows and columns that z covers; see `vvae.decode`."""
        return self.extend_decode(None, z_BthwZ)[1]

    def extend_decode(self, past: Past, z_BthwZ: jax.Array) -> tuple[Past, jax.Array]:
        """Decodes the next latent frames: 1 + (n - 1) f_t frames at the start, n f_t later.

        Args:
          past: what the call for the latent frames before has returned; None at the start.
          z_BthwZ: n latent frames.

        Returns:
          (past, mean video in [-1, 1] units).

        Raises:
          ValueError: for another rank or number of channels.
        """
        past, outputs = self._extend_outputs(past, z_BthwZ)
        return past, self._unstandardize(outputs)

    def _extend_outputs(self, past: Past, z_BthwZ: jax.Array) -> tuple[Past, jax.Array]:
        """As `extend_decode`, standardised."""
        channels = self.bottleneck.channels
        if z_BthwZ.ndim != 5 or z_BthwZ.shape[-1] != channels or z_BthwZ.shape[1] < 1:
            raise ValueError(
                f"latents have shape [B, t, h, w, {channels}] with t at least 1, not "
                f"{z_BthwZ.shape}"
            )
        if self.stem == "pca":
            is_start = past is None
            components, past = _add_paths(self.decoder, self.linear_decoder, z_BthwZ, past)
            return past, self.basis.synthesize(components, is_start)
        outputs, past = self.decoder(z_BthwZ, past)
        return past, outputs if self.stem == "none" else stem.unfold(outputs, self.stem)

    def frame_log_likelihood(self, x_BTHWC: jax.Array, z_BthwZ: jax.Array) -> jax.Array:
        """log p(x_t | z), a density over 8-bit values, nats per frame, summed over pixels; [B, T].

        Only what is in the video counts, not what its latents cover beyond it.
        """
        mean = contract.crop(self._extend_outputs(None, z_BthwZ)[1], x_BTHWC.shape[1:4])
        return self._frame_log_prob(x_BTHWC, mean)

    def _frame_log_prob(self, x_BTHWC: jax.Array, mean: jax.Array) -> jax.Array:
        """As `frame_log_likelihood`, from the standardised mean video."""
        log_sigma = self.effective_log_sigma().reshape(1, 1, 1, 1, -1)
        x, std = self._standardize(x_BTHWC), self._per_video(self.std_C)
        return likelihood.gaussian_8bit_log_prob(mean, log_sigma, x, std).sum((2, 3, 4))

    def effective_log_sigma(self) -> jax.Array:
        """log of the noise scale of each channel in standardised units, [C], softly floored."""
        return likelihood.floor_log_sigma(self.log_sigma, self._stat(self.std_C))

    def _stat(self, variable) -> jax.Array:
        return jax.lax.stop_gradient(variable.value)

    def _per_video(self, variable) -> jax.Array:
        return self._stat(variable).reshape(1, 1, 1, 1, -1)

    def _standardize(self, x: jax.Array) -> jax.Array:
        return (x - self._per_video(self.mean_C)) / self._per_video(self.std_C)

    def _unstandardize(self, x: jax.Array) -> jax.Array:
        return x * self._per_video(self.std_C) + self._per_video(self.mean_C)

    # --- the terms of the ELBO -----------------------------------------------------------------

    def terms(self, x_BTHWC, mask_BT, key_B, num_samples: int) -> Terms:
        """See `vvae.models.contract.terms`; key_B holds one key a clip."""
        return self.terms_and_video(x_BTHWC, mask_BT, key_B, num_samples)[0]

    def terms_and_video(self, x_BTHWC, mask_BT, key_B, num_samples: int):
        """As `terms`, with the mean videos of the samples, [K * B, T, H, W, C] in [-1, 1] units."""
        posterior = self.encode(x_BTHWC, mask_BT)
        z_KBthwZ = self.bottleneck.sample(posterior, key_B, num_samples)
        valid_Bt = self.latent_mask(mask_BT)

        def sum_valid(value: jax.Array) -> jax.Array:
            by_frame = value.sum((-1, -2))
            valid = valid_Bt.reshape((1,) * (by_frame.ndim - 2) + valid_Bt.shape)
            return jnp.sum(by_frame * valid, axis=-1)

        # The samples join the batch axis, [K, B, ...] -> [K * B, ...], for the network.
        x, mask = (jnp.tile(a, (num_samples,) + (1,) * (a.ndim - 1)) for a in (x_BTHWC, mask_BT))
        outputs = self._extend_outputs(None, z_KBthwZ.reshape(-1, *z_KBthwZ.shape[2:]))[1]
        outputs = contract.crop(outputs, x.shape[1:4])
        log_likelihood_BT = self._frame_log_prob(x, outputs)
        log_likelihood_B = jnp.sum(log_likelihood_BT * mask, axis=1)
        kl_B = sum_valid(self.bottleneck.kl_by_dim(posterior).sum(-1))
        terms = Terms(
            log_likelihood=log_likelihood_B.reshape(num_samples, -1),
            log_prior=sum_valid(self.bottleneck.log_prior(z_KBthwZ)),
            log_posterior=sum_valid(self.bottleneck.log_posterior(posterior, z_KBthwZ)),
            kl_by_level={"grid": jnp.broadcast_to(kl_B, (num_samples, *kl_B.shape))},
        )
        return terms, self._unstandardize(outputs)

    @nn.nowrap
    def latent_mask(self, mask_BT: jax.Array) -> jax.Array:
        """Returns mask_Bt: True for latent frames with at least one real frame."""
        missing = -(mask_BT.shape[1] - 1) % self.temporal_compression
        later = jnp.pad(mask_BT[:, 1:], ((0, 0), (0, missing)))
        later = later.reshape(mask_BT.shape[0], -1, self.temporal_compression).any(-1)
        return jnp.concatenate([mask_BT[:, :1], later], axis=1)

    # --- generation ----------------------------------------------------------------------------

    @nn.nowrap
    def sample(self, params, key, num_clips: int, num_frames: int) -> jax.Array:
        """Prior samples of shape_HWC; see `vvae.sample`."""
        shape_THW = (num_frames, *self.shape_HWC[:2])
        z_BthwZ = self.bottleneck.sample_prior(key, (num_clips, *self.grid_shape(shape_THW)))
        return contract.decode(self, params, z_BthwZ, shape_THW)


init_variables = contract.init_variables


def _add_paths(network, linear, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
    """Adds up what a network and a linear map make of x, each with its own past."""
    before = past or (None, None)
    y, first = network(x, before[0])
    z, second = linear(x, before[1])
    return y + z, (first, second)


def _hold_masked(x_BTHWC: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Replaces a masked frame by the last real frame before it, or by zeros if there is none."""
    position_T = jnp.arange(mask_BT.shape[1])[None]
    last_BT = jax.lax.cummax(jnp.where(mask_BT, position_T, -1), axis=1)
    index = jnp.maximum(last_BT, 0)[..., None, None, None]
    held = jnp.take_along_axis(x_BTHWC, index, axis=1)
    return jnp.where(last_BT[..., None, None, None] >= 0, held, 0.0)


def _check_choice(name: str, value, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(str, choices))}")
