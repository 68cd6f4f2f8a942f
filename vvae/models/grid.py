"""What models with a grid of latents share: sizes, chunks in time, likelihood and terms.

A model defines its encoder, its decoder and how much they compress. Everything else follows: videos
of any length and size, streaming, the terms of the ELBO and samples.
"""

import functools
import math
import operator
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import Gaussian
from vvae.models import contract, likelihood
from vvae.models.causal_blocks import Past
from vvae.models.contract import Terms
from vvae.models.frame_cost import FrameCost


class GridVideoVAE(nn.Module):
    """Base of models with latents on a grid of t x h x w positions. Videos are [B, T, H, W, C].

    A subclass defines `temporal_compression` f_t, `spatial_compression` f_s and `bottleneck`. Its
    `setup` makes the modules `encoder` and `decoder`, both (input, past) -> (output, past) as in
    `causal_blocks`, and calls `setup_likelihood`.

    Attributes:
      shape_HWC: size of the frames that `sample` draws, and the number of channels C of every
        video.

    Variables: "params" are learned; "stats" hold the standardisation, `mean` and `std` of each
    channel [C] in [-1, 1] units. Gradients with respect to the stats are zero.
    """

    shape_HWC: tuple[int, int, int]

    likelihood: ClassVar[str] = "gaussian"
    num_fitted_components: ClassVar[int] = 0  # of a prior fitted while training
    last_layer: ClassVar[tuple[str, ...]] = ("decoder", "conv_out", "conv")

    def setup_likelihood(self, log_sigma: float) -> None:
        """Declares the noise scale, initialised to exp(log_sigma), and the standardisation."""
        channels = self.shape_HWC[-1]
        self.log_sigma = self.param("log_sigma", nn.initializers.constant(log_sigma), ())
        self.mean_C = self.variable("stats", "mean", jnp.zeros, (channels,))
        self.std_C = self.variable("stats", "std", jnp.ones, (channels,))

    @property
    def encoder_lookahead(self) -> int | None:
        """How many frames after its own a latent frame depends on; None for all of the video."""
        return 0

    @property
    def first_frames(self) -> int:
        """How many frames the first latent frame covers; each later one covers f_t."""
        return 1

    @property
    def decodes_causally(self) -> bool:
        """Whether every frame is decoded without later latents."""
        return True

    @nn.nowrap
    def encoder_modules(self) -> tuple[str, ...]:
        """Returns the names of the modules whose parameters the latents depend on."""
        return ("encoder",)

    @nn.nowrap
    def last_kernel(self, params) -> jax.Array:
        """Returns the kernel of the decoder's last convolution, at the path `last_layer`."""
        return functools.reduce(operator.getitem, (*self.last_layer, "kernel"), params)

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps standardised frames to the outputs that the bottleneck reads as a posterior."""
        return self.encoder(x_BTHWC, past)

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to standardised frames."""
        return self.decoder(z_BthwZ, past)

    # --- sizes ---------------------------------------------------------------------------------

    @nn.nowrap
    def grid_shape(self, shape_THW: tuple[int, int, int]) -> tuple[int, int, int]:
        """Returns (t, h, w), the shape of the latents of a video of (T, H, W)."""
        num_frames, height, width = shape_THW
        scale = self.spatial_compression
        later = max(num_frames - self.first_frames, 0)
        t = 1 + math.ceil(later / self.temporal_compression)
        return t, math.ceil(height / scale), math.ceil(width / scale)

    @property
    def smallest_video(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of a video of one latent; no parameter depends on the video's size."""
        return 1, self.spatial_compression, self.spatial_compression, self.shape_HWC[-1]

    @nn.nowrap
    def count_numbers(self, num_frames: int) -> int:
        """Returns the number of latent numbers per frame of shape_HWC, rounded up."""
        grid = self.grid_shape((num_frames, *self.shape_HWC[:2]))
        return math.ceil(math.prod(grid) * self.bottleneck.channels / num_frames)

    @nn.nowrap
    def covered_shape(self, shape_thw: tuple[int, int, int]) -> tuple[int, int, int]:
        """Returns (T, H, W), the frames, rows and columns that latents of (t, h, w) decode to."""
        t, h, w = shape_thw
        scale = self.spatial_compression
        num_frames = self.first_frames + (t - 1) * self.temporal_compression
        return num_frames, h * scale, w * scale

    # --- training ------------------------------------------------------------------------------

    @nn.nowrap
    def count_first_places(self) -> float:
        """Returns at how many places of a frame the first layer computes something."""
        return math.prod(self.shape_HWC[:2])

    @nn.nowrap
    def estimate_frame_cost(self) -> FrameCost | None:
        """Returns what a frame costs in training; None where there is no formula."""
        return None

    @nn.nowrap
    def start(self, variables: dict, statistics, beta: float) -> dict:
        """Returns the variables: published weights take videos as they are; see `contract`."""
        return variables

    # --- inference -----------------------------------------------------------------------------

    def encode(self, x_BTHWC: jax.Array, mask_BT: jax.Array):
        """Infers q(z | x); see `vvae.encode`."""
        x_BTHWC = _hold_masked(x_BTHWC, mask_BT)
        covered, _, _ = self.covered_shape(self.grid_shape(x_BTHWC.shape[1:4]))
        missing = covered + (self.encoder_lookahead or 0) - x_BTHWC.shape[1]
        x_BTHWC = jnp.pad(x_BTHWC, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")
        return self.extend_encode(None, x_BTHWC)[1]

    def extend_encode(self, past: Past, x_BTHWC: jax.Array):
        """Encodes the next frames, exactly as many as fill whole latent frames.

        Args:
          past: what the call for the previous frames returned; None at the start.
          x_BTHWC: `first_frames` + n f_t frames at the start, and the `encoder_lookahead` after
            them; n f_t later; in [-1, 1]. H and W are padded here.

        Returns:
          (past, posterior) after these frames.

        Raises:
          ValueError: for another number of channels or frames.
        """
        channels = self.shape_HWC[-1]
        if x_BTHWC.shape[-1] != channels:
            raise ValueError(f"the model takes videos of {channels} channels, got {x_BTHWC.shape}")
        alone = self.first_frames + (self.encoder_lookahead or 0) if past is None else 0
        length = x_BTHWC.shape[1] - alone
        if length % self.temporal_compression or length < 0 or x_BTHWC.shape[1] < 1:
            raise ValueError(
                f"{x_BTHWC.shape[1]} frames do not fill whole latent frames of "
                f"{self.temporal_compression} (the first latent frame of the video takes {alone})"
            )
        outputs, past = self.run_encoder(self.fill_up(self._standardize(x_BTHWC)), past)
        return past, self.bottleneck.posterior(outputs)

    @nn.nowrap
    def fill_up(self, x_BTHWC: jax.Array) -> jax.Array:
        """Pads rows and columns to whole latents, by repeating the last ones."""
        rows, columns = (-size % self.spatial_compression for size in x_BTHWC.shape[2:4])
        return jnp.pad(x_BTHWC, ((0, 0), (0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")

    @nn.nowrap
    def posterior_mean(self, posterior) -> jax.Array:
        """Returns the most probable latents under the posterior, [B, t, h, w, Z]."""
        return self.bottleneck.mean(posterior)

    @nn.nowrap
    def level_posteriors(self, posterior) -> dict[str, Gaussian]:
        """Returns the Gaussian posterior of each level; empty if the latents are codes."""
        return {"grid": posterior} if isinstance(posterior, Gaussian) else {}

    @nn.nowrap
    def level_masks(self, mask_BT: jax.Array) -> dict[str, jax.Array]:
        """Returns a mask of the latent frames that have a real frame."""
        return {"grid": self.latent_mask(mask_BT)}

    @property
    def standard_priors(self) -> frozenset[str]:
        """Levels whose prior is N(0, I)."""
        return frozenset({"grid"} if self.bottleneck.has_standard_prior else ())

    def kl_by_dim(self, x_BTHWC, mask_BT, key_B) -> dict[str, jax.Array]:
        """Returns the KL of each latent in nats, [B, t, h, w, Z].

        It is 0 in latent frames without a real frame.
        """
        kl = self.bottleneck.kl_by_dim(self.encode(x_BTHWC, mask_BT))
        return {"grid": kl * self.latent_mask(mask_BT)[..., None, None, None]}

    # --- likelihood ----------------------------------------------------------------------------

    def decode(self, z_BthwZ: jax.Array) -> jax.Array:
        """Computes the mean of p(x | z), uncropped; see `vvae.decode`."""
        return self.extend_decode(None, z_BthwZ)[1]

    def extend_decode(self, past: Past, z_BthwZ: jax.Array) -> tuple[Past, jax.Array]:
        """Decodes the next latent frames: `first_frames` + (n - 1) f_t frames, n f_t later.

        Args:
          past: what the call for the previous latent frames returned; None at the start.
          z_BthwZ: n latent frames.

        Returns:
          (past, mean video in [-1, 1] units).

        Raises:
          ValueError: for another rank or number of channels.
        """
        past, outputs = self._extend_outputs(past, z_BthwZ)
        return past, self._unstandardize(outputs)

    def _extend_outputs(self, past: Past, z_BthwZ: jax.Array) -> tuple[Past, jax.Array]:
        """Decodes as `extend_decode`, but returns standardised frames."""
        channels = self.bottleneck.channels
        if z_BthwZ.ndim != 5 or z_BthwZ.shape[-1] != channels or z_BthwZ.shape[1] < 1:
            raise ValueError(
                f"latents must have shape [B, t, h, w, {channels}] with t at least 1, not "
                f"{z_BthwZ.shape}"
            )
        outputs, past = self.run_decoder(z_BthwZ, past)
        return past, outputs

    def frame_log_likelihood(self, x_BTHWC: jax.Array, z_BthwZ: jax.Array) -> jax.Array:
        """Computes log p(x_t | z) in nats per frame, [B, T], summed over pixels and channels.

        The padding that the latents cover beyond the video does not count.

        Note:
          It is a log-density over 8-bit values, not over values in [-1, 1].
        """
        mean = contract.crop(self._extend_outputs(None, z_BthwZ)[1], x_BTHWC.shape[1:4])
        return self.frame_log_prob(x_BTHWC, mean)

    def frame_log_prob(self, x_BTHWC: jax.Array, mean: jax.Array) -> jax.Array:
        """Computes `frame_log_likelihood` from the standardised mean video of p(x | z).

        Override it in a subclass for another likelihood.
        """
        x, std_C = self._standardize(x_BTHWC), self._stat(self.std_C)
        return likelihood.gaussian_8bit_log_prob(mean, self.effective_log_sigma(), x, std_C)

    def effective_log_sigma(self) -> jax.Array:
        """Returns the log noise scale of each channel, [C], standardised and softly floored."""
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
        """Computes the terms of the ELBO; see `contract.terms`. key_B holds one key per clip."""
        return self.terms_and_video(x_BTHWC, mask_BT, key_B, num_samples)[0]

    def terms_and_video(self, x_BTHWC, mask_BT, key_B, num_samples: int):
        """Computes `terms`, and the mean videos of the samples, [K * B, T, H, W, C] in [-1, 1]."""
        posterior = self.encode(x_BTHWC, mask_BT)
        z_KBthwZ = self.bottleneck.sample(posterior, key_B, num_samples)
        valid_Bt = self.latent_mask(mask_BT)

        def sum_valid(value: jax.Array) -> jax.Array:
            by_frame = value.sum((-1, -2))
            valid = valid_Bt.reshape((1,) * (by_frame.ndim - 2) + valid_Bt.shape)
            return jnp.sum(by_frame * valid, axis=-1)

        # Merge the samples into the batch axis for the network, [K, B, ...] -> [K * B, ...].
        x, mask = (jnp.tile(a, (num_samples,) + (1,) * (a.ndim - 1)) for a in (x_BTHWC, mask_BT))
        outputs = self._extend_outputs(None, z_KBthwZ.reshape(-1, *z_KBthwZ.shape[2:]))[1]
        outputs = contract.crop(outputs, x.shape[1:4])
        log_likelihood_BT = self.frame_log_prob(x, outputs)
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
        covered, _, _ = self.covered_shape(self.grid_shape((mask_BT.shape[1], 1, 1)))
        mask_BT = jnp.pad(mask_BT, ((0, 0), (0, covered - mask_BT.shape[1])))
        first, later = jnp.split(mask_BT, [self.first_frames], axis=1)
        later = later.reshape(mask_BT.shape[0], -1, self.temporal_compression).any(-1)
        return jnp.concatenate([first.any(1, keepdims=True), later], axis=1)

    # --- generation ----------------------------------------------------------------------------

    @nn.nowrap
    def sample(self, params, key, num_clips: int, num_frames: int) -> jax.Array:
        """Draws videos of shape_HWC from the prior; see `vvae.sample`."""
        shape_THW = (num_frames, *self.shape_HWC[:2])
        z_BthwZ = self.bottleneck.sample_prior(key, (num_clips, *self.grid_shape(shape_THW)))
        return contract.decode(self, params, z_BthwZ, shape_THW)


def _hold_masked(x_BTHWC: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Replaces each masked frame by the last real frame before it, or by zeros if there is none."""
    position_T = jnp.arange(mask_BT.shape[1])[None]
    last_BT = jax.lax.cummax(jnp.where(mask_BT, position_T, -1), axis=1)
    index = jnp.maximum(last_BT, 0)[..., None, None, None]
    held = jnp.take_along_axis(x_BTHWC, index, axis=1)
    return jnp.where(last_BT[..., None, None, None] >= 0, held, 0.0)
