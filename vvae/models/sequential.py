"""SequentialVAE: a latent z_t for every frame, with dynamics, and one latent w for the clip.

    p(x, z, w) = p(w) prod_t p(z_t | z_<t, w) p(x_t | z_t, w)
    q(z, w | x) = q(w | x) prod_t q(z_t | x_t)        (or q(z_t | x_<=t), posterior="filter")

A convolutional network encodes each frame; w is inferred from the means and log-variances of the
frame posteriors. Nothing looks ahead: the posterior and the prior of frame t, and w inferred from
the frames up to t, depend on no later frame.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from vvae import distributions as dist
from vvae.distributions import Gaussian, GaussianMixture
from vvae.models import contract, likelihood
from vvae.models.checks import check_choice
from vvae.models.contract import Terms
from vvae.models.frame_cost import FrameCost, measure_sequential
from vvae.models.ppca import FrameSpectrum, start_at_ppca
from vvae.models.sequential_blocks import (
    ClipEncoder,
    ClipState,
    Dynamics,
    DynamicsState,
    FrameDecoder,
    FrameEncoder,
    GaussianHead,
    StaticPrior,
)

PRIORS = ("learned", "static", "standard")
CLIP_PRIORS = ("normal", "mixture")
POSTERIORS = ("frame", "filter")
LIKELIHOODS = ("gaussian", "bernoulli", "discretized_logistic")


@flax.struct.dataclass
class SequentialPosterior:
    """q(z, w | x): `frame` is a Gaussian [B, T, Z] over z, `clip` a Gaussian [B, W] over w."""

    frame: Gaussian
    clip: Gaussian


@flax.struct.dataclass
class Latents:
    """Values of the latents: `frame` [B, T, Z] and `clip` [B, W]."""

    frame: jax.Array
    clip: jax.Array


@flax.struct.dataclass
class StreamState:
    """The memory of `stream`, whose size does not depend on the number of past frames.

    Attributes:
      filter: [B, F] state of the filtering posterior, of width 0 without one.
      clip: what w is inferred from.
      dynamics: state of the prior.
      w: [B, W] mean of q(w | past frames); the prior mean at the start.
    """

    filter: jax.Array
    clip: ClipState
    dynamics: DynamicsState
    w: jax.Array


@flax.struct.dataclass
class Streamed:
    """What is known at each frame from it and the previous frames.

    Attributes:
      posterior: q(z_t | x_t), or q(z_t | x_<=t); Gaussian [B, T, Z].
      prior: p(z_t | z_<t, w_<t) at the posterior means; Gaussian [B, T, Z].
      w_BTW: mean of q(w | x_<=t).
    """

    posterior: Gaussian
    prior: Gaussian
    w_BTW: jax.Array


class SequentialVAE(nn.Module):
    """The model. Videos are [B, T, H, W, C] in [-1, 1]; see the module docstring.

    Attributes:
      shape_HWC: frame size; H and W divisible by 2 ** len(widths).
      widths: channels after each stride-2 convolution; () for dense layers only.
      hidden: width of the dense layers.
      latent_dim: Z, the size of a frame latent.
      clip_latent_dim: W, the size of the clip latent; 0 for a model without one.
      prior: p(z_t | z_<t, w) "learned", p(z_t | w) "static" or N(0, I) "standard".
      clip_prior: N(0, I) "normal", or a learned "mixture" of num_components Gaussians.
      num_components: K of the mixture.
      posterior: q(z_t | x_t) "frame", or q(z_t | x_<=t) "filter".
      linear: whether linear maps are added to the posterior mean and to the decoder, beside the
        networks. A linear VAE is PCA, and training can start there (`vvae.models.ppca`).
      likelihood: "gaussian" with one learned sigma; "discretized_logistic" with one learned scale,
        for 8-bit values; "bernoulli" for data in {-1, 1}.
      dtype: of the activations in the convolutional networks.

    Variables: "params" are learned; "stats" hold the standardisation, `mean` [H, W, C] and `std`
    (one number), both in [-1, 1] units. Gradients with respect to the stats are zero.
    """

    shape_HWC: tuple[int, int, int]
    widths: tuple[int, ...] = (32, 64, 128)
    hidden: int = 256
    latent_dim: int = 50
    clip_latent_dim: int = 5
    prior: str = "learned"
    clip_prior: str = "normal"
    num_components: int = 10
    posterior: str = "frame"
    linear: bool = True
    likelihood: str = "gaussian"
    dtype: Any = jnp.float32

    def setup(self):
        self._check_settings()
        self.encoder = FrameEncoder(self.widths, self.hidden, self.dtype)
        self.decoder = FrameDecoder(self.shape_HWC, self.widths, self.hidden, self.dtype)
        self.frame_head = GaussianHead(self.latent_dim)
        self.clip_encoder = ClipEncoder(self.clip_latent_dim)
        if self.linear:
            self.linear_encoder = nn.Dense(self.latent_dim, use_bias=False)
            self.linear_decoder = nn.Dense(math.prod(self.shape_HWC), use_bias=False)
        if self.posterior == "filter":
            self.filter = nn.RNN(nn.GRUCell(self.hidden))
        if self.prior == "learned":
            self.dynamics = Dynamics(self.latent_dim)
        elif self.prior == "static":
            self.static_prior = StaticPrior(self.latent_dim)
        if self.clip_prior == "mixture":
            self._setup_mixture()
        if self.likelihood != "bernoulli":
            self.log_sigma = self.param("log_sigma", nn.initializers.zeros, ())
        self.mean_HWC = self.variable("stats", "mean", jnp.zeros, self.shape_HWC)
        self.std = self.variable("stats", "std", jnp.ones, ())

    def _setup_mixture(self):
        shape = (self.num_components, self.clip_latent_dim)
        self.mixture_logits = self.param("mixture_logits", nn.initializers.zeros, shape[:1])
        # All components start as N(0, I), until `mixture_prior` separates them.
        self.mixture_mean = self.param("mixture_mean", nn.initializers.zeros, shape)
        self.mixture_logvar = self.param("mixture_logvar", nn.initializers.zeros, shape)

    def _check_settings(self):
        check_choice("prior", self.prior, PRIORS)
        check_choice("clip_prior", self.clip_prior, CLIP_PRIORS)
        check_choice("posterior", self.posterior, POSTERIORS)
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        scale = 2 ** len(self.widths)
        height, width, _ = self.shape_HWC
        if height % scale or width % scale:
            raise ValueError(
                f"frames of {height}x{width} cannot be halved {len(self.widths)} times: make "
                f"height and width multiples of {scale}, or model.widths shorter"
            )

    # --- inference -----------------------------------------------------------------------------

    def encode(self, x_BTHWC: jax.Array, mask_BT: jax.Array) -> SequentialPosterior:
        """Infers q(z, w | x); see `vvae.encode`."""
        frame = self._infer_frames(x_BTHWC, mask_BT)
        prefix = self.clip_encoder(frame, mask_BT)
        return SequentialPosterior(frame, jax.tree.map(lambda a: a[:, -1], prefix))

    def _infer_frames(self, x_BTHWC, mask_BT) -> Gaussian:
        return self._extend_frames(None, x_BTHWC, mask_BT)[1]

    def _extend_frames(self, filter_state, x_BTHWC, mask_BT) -> tuple[jax.Array | None, Gaussian]:
        if x_BTHWC.shape[2:] != tuple(self.shape_HWC):
            raise ValueError(
                f"the model takes frames of {self.shape_HWC} (H, W, C), got {x_BTHWC.shape[2:]}"
            )
        batch, length = x_BTHWC.shape[:2]
        x_NHWC = self._standardize(x_BTHWC).reshape(-1, *self.shape_HWC)
        h_BTF = self.encoder(x_NHWC).reshape(batch, length, -1)
        if self.posterior == "filter":
            # A masked frame carries no evidence: replace its features by zeros.
            filter_state, h_BTF = self.filter(
                jnp.where(mask_BT[..., None], h_BTF, 0.0),
                initial_carry=filter_state,
                return_carry=True,
            )
        frame = self.frame_head(h_BTF)
        if not self.linear:
            return filter_state, frame
        linear_NZ = self.linear_encoder(x_NHWC.reshape(batch * length, -1))
        return filter_state, frame.replace(mean=frame.mean + linear_NZ.reshape(frame.mean.shape))

    @staticmethod
    def posterior_mean(posterior: SequentialPosterior) -> Latents:
        """Returns the most probable latents under the posterior."""
        return Latents(posterior.frame.mean, posterior.clip.mean)

    # --- description of the latents ------------------------------------------------------------

    @property
    def smallest_video(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of a video with which every part of the model can be called."""
        return 2, *self.shape_HWC

    @staticmethod
    def level_posteriors(posterior: SequentialPosterior) -> dict[str, Gaussian]:
        """Returns the Gaussian posterior of each level."""
        return {"frame": posterior.frame, "clip": posterior.clip}

    @staticmethod
    def level_masks(mask_BT) -> dict[str, Any]:
        """Returns a mask of each level, True for latents that have a real frame."""
        return {"frame": mask_BT, "clip": mask_BT.any(axis=1)}

    @property
    def standard_priors(self) -> frozenset[str]:
        """Levels whose prior is N(0, I)."""
        frame = {"frame"} if self.prior == "standard" else set()
        return frozenset(frame | ({"clip"} if self.clip_prior == "normal" else set()))

    @nn.nowrap
    def count_numbers(self, num_frames: int) -> int:
        """Returns how many latent numbers a frame is decoded from, with the whole clip latent."""
        return self.latent_dim + self.clip_latent_dim

    # --- training ------------------------------------------------------------------------------

    @property
    def num_fitted_components(self) -> int:
        """Components of the prior that is fitted to the latents while training, 0 for none."""
        return self.num_components if self.clip_prior == "mixture" else 0

    @nn.nowrap
    def count_first_places(self) -> float:
        """Returns at how many places of a frame the first layer computes something."""
        return math.prod(self.shape_HWC[:2])

    @nn.nowrap
    def estimate_frame_cost(self) -> FrameCost:
        """Returns what a frame costs in training, by a formula."""
        return measure_sequential(self.shape_HWC, self.widths, self.hidden)

    @nn.nowrap
    def start(self, variables: dict, statistics, beta: float) -> dict:
        """Returns fresh variables, standardised by the training videos; see `contract`."""
        mean_HWC, std = statistics.by_pixel()
        params, stats = (
            variables["params"],
            {"mean": jnp.asarray(mean_HWC), "std": jnp.float32(std)},
        )
        if self.linear:
            pca = statistics.frame_pca(self.latent_dim)
            scale = (127.5 * std) ** 2  # of variances, from 8-bit to standardised units
            spectrum = FrameSpectrum(
                components_KD=pca.components_KD,
                variance_K=pca.variance_K / scale,
                residual=pca.residual / scale,
            )
            params = start_at_ppca(self, params, stats, spectrum)
        return {"params": params, "stats": stats}

    # --- priors --------------------------------------------------------------------------------

    def clip_prior_mixture(self) -> GaussianMixture:
        """Returns p(w) as a mixture; only for clip_prior="mixture"."""
        return GaussianMixture(self.mixture_logits, self.mixture_mean, self.mixture_logvar)

    def clip_prior_mean(self) -> jax.Array:
        """Returns the mean of p(w), [W]."""
        if self.clip_prior == "mixture":
            return dist.mixture_mean(self.clip_prior_mixture())
        return jnp.zeros(self.clip_latent_dim)

    def clip_log_prior(self, w: jax.Array) -> jax.Array:
        """Computes log p(w) in nats; [..., W] -> [...]."""
        if self.clip_prior == "mixture":
            return dist.mixture_log_prob(self.clip_prior_mixture(), w)
        return dist.gaussian_log_prob(dist.standard_gaussian(w.shape, w.dtype), w).sum(-1)

    def sample_clip_prior(self, key: jax.Array, num_clips: int) -> jax.Array:
        """Draws w from p(w), [num_clips, W]; the key is consumed."""
        if self.clip_prior == "mixture":
            return dist.sample_mixture(self.clip_prior_mixture(), key, num_clips)
        return jax.random.normal(key, (num_clips, self.clip_latent_dim))

    def frame_prior(self, z_BTZ: jax.Array, w_BTW: jax.Array, mask_BT: jax.Array) -> Gaussian:
        """Returns p(z_t | z_<t, w_t) for every t; w may differ from frame to frame."""
        if self.prior == "learned":
            return self.dynamics.predict(self.dynamics.scan(z_BTZ, mask_BT), w_BTW)
        if self.prior == "static":
            return self.static_prior(w_BTW)
        return dist.standard_gaussian(z_BTZ.shape, z_BTZ.dtype)

    def begin_dynamics(self, batch: int) -> DynamicsState:
        """Returns the prior's state before the first frame."""
        if self.prior == "learned":
            return self.dynamics.initial_state(batch, jnp.float32)
        return DynamicsState(jnp.zeros((batch, 0)), jnp.zeros((batch, self.latent_dim)))

    def predict_frame(self, state: DynamicsState, w_BW: jax.Array) -> Gaussian:
        """Returns p(z_t | z_<t, w) of the next frame, [B, Z]."""
        if self.prior == "learned":
            return self.dynamics.predict(state, w_BW)
        if self.prior == "static":
            return self.static_prior(w_BW)
        return dist.standard_gaussian(state.frame.shape)

    def observe_frame(self, state: DynamicsState, z_BZ: jax.Array, valid_B: jax.Array):
        """Returns the prior's state after z_t."""
        if self.prior == "learned":
            return self.dynamics.observe(state, z_BZ, valid_B)
        return DynamicsState(state.hidden, jnp.where(valid_B[:, None], z_BZ, state.frame))

    # --- streaming -----------------------------------------------------------------------------

    def begin_stream(self, batch: int) -> StreamState:
        """Returns the memory of `stream` before the first frame."""
        width = self.hidden if self.posterior == "filter" else 0
        return StreamState(
            filter=jnp.zeros((batch, width)),
            clip=self.clip_encoder.initial_state(batch, self.latent_dim, jnp.float32),
            dynamics=self.begin_dynamics(batch),
            w=jnp.broadcast_to(self.clip_prior_mean(), (batch, self.clip_latent_dim)),
        )

    def stream(
        self, state: StreamState, x_BTHWC: jax.Array, mask_BT: jax.Array
    ) -> tuple[StreamState, Streamed]:
        """Reads the next frames; see the function `stream`."""
        filtered, frame = self._extend_frames(state.filter, x_BTHWC, mask_BT)
        clip, prefix = self.clip_encoder.extend(state.clip, frame, mask_BT)
        # Before the first valid frame, w is its prior mean.
        seen = (state.clip.count[:, None] + jnp.cumsum(mask_BT, axis=1))[..., None] > 0
        w_BTW = jnp.where(seen, prefix.mean, self.clip_prior_mean()[None, None])
        earlier = jnp.concatenate([state.w[:, None], w_BTW[:, :-1]], axis=1)
        if self.prior == "learned":
            dynamics, before = self.dynamics.extend(state.dynamics, frame.mean, mask_BT)
            prior = self.dynamics.predict(before, earlier)
        else:
            dynamics, prior = state.dynamics, self.frame_prior(frame.mean, earlier, mask_BT)
        after = StreamState(
            filter=state.filter if filtered is None else filtered,
            clip=clip,
            dynamics=dynamics,
            w=w_BTW[:, -1],
        )
        return after, Streamed(frame, prior, w_BTW)

    # --- likelihood ----------------------------------------------------------------------------

    def decode(self, latents: Latents) -> jax.Array:
        """Computes the mean video of p(x | z, w); see `vvae.decode`."""
        out = self._decode_raw(latents)
        if self.likelihood == "bernoulli":
            return 2.0 * jax.nn.sigmoid(out) - 1.0
        return self._unstandardize(out)

    def _decode_raw(self, latents: Latents) -> jax.Array:
        """Computes the standardised mean [B, T, H, W, C], or logits of a Bernoulli likelihood."""
        batch, length = latents.frame.shape[:2]
        clip = jnp.broadcast_to(latents.clip[:, None], (batch, length, self.clip_latent_dim))
        z_NZ = jnp.concatenate([latents.frame, clip], axis=-1).reshape(batch * length, -1)
        out = self.decoder(z_NZ).reshape(batch, length, *self.shape_HWC)
        if self.linear:
            out = out + self.linear_decoder(latents.frame).reshape(out.shape)
        if self.likelihood != "bernoulli":
            return out
        # The data are in {-1, 1}: start from the frequency of each pixel in the training clips.
        frequency = jnp.clip(0.5 * (self._stat(self.mean_HWC) + 1.0), 0.01, 0.99)
        return out + jnp.log(frequency / (1.0 - frequency))

    def frame_log_likelihood(self, x_BTHWC: jax.Array, latents: Latents) -> jax.Array:
        """Computes log p(x_t | z_t, w) in nats per frame, [B, T], summed over pixels and channels.

        Override it in a subclass for another likelihood.

        Note:
          For a Gaussian this is a log-density over 8-bit values: log N of the standardised video
          minus log(127.5 std) per element. For the discretised logistic and the Bernoulli it is a
          log-probability.
        """
        out = self._decode_raw(latents)
        if self.likelihood == "gaussian":
            x, std = self._standardize(x_BTHWC), self._stat(self.std)
            return likelihood.gaussian_8bit_log_prob(out, self.effective_log_sigma(), x, std)
        if self.likelihood == "bernoulli":
            log_prob = dist.bernoulli_log_prob(out, 0.5 * (x_BTHWC + 1.0))
        else:
            log_scale = self.effective_log_sigma() + jnp.log(self._stat(self.std))
            log_prob = dist.discretized_logistic_log_prob(
                self._unstandardize(out), log_scale, x_BTHWC
            )
        return log_prob.sum((2, 3, 4))

    def effective_log_sigma(self) -> jax.Array:
        """Returns the standardised log noise scale, softly floored at 1/256 of the range."""
        return likelihood.floor_log_sigma(self.log_sigma, self._stat(self.std))

    def _stat(self, variable) -> jax.Array:
        return jax.lax.stop_gradient(variable.value)

    def _standardize(self, x):
        return (x - self._per_video(self.mean_HWC)) / self._stat(self.std)

    def _unstandardize(self, x):
        return x * self._stat(self.std) + self._per_video(self.mean_HWC)

    def _per_video(self, variable):
        return self._stat(variable)[None, None]

    # --- the terms of the ELBO -----------------------------------------------------------------

    def terms(self, x_BTHWC, mask_BT, key_B, num_samples: int) -> Terms:
        """Computes the terms of the ELBO; see `contract.terms`. key_B holds one key per clip."""
        posterior = self.encode(x_BTHWC, mask_BT)
        latents_KB = self._sample_posterior(posterior, key_B, num_samples)
        # Merge the samples into the batch axis for the networks, [K, B, ...] -> [K * B, ...].
        x, mask, posterior = jax.tree.map(
            lambda a: jnp.tile(a, (num_samples,) + (1,) * (a.ndim - 1)),
            (x_BTHWC, mask_BT, posterior),
        )
        latents = jax.tree.map(
            lambda a: a.reshape(math.prod(a.shape[:2]), *a.shape[2:]), latents_KB
        )
        terms = self._terms(x, mask, posterior, latents)
        return jax.tree.map(lambda a: a.reshape(num_samples, -1), terms)

    def _terms(self, x_BTHWC, mask_BT, posterior: SequentialPosterior, latents: Latents) -> Terms:
        prior = self._prior_given(latents, mask_BT)
        log_clip_prior = self.clip_log_prior(latents.clip)
        log_clip_posterior = dist.gaussian_log_prob(posterior.clip, latents.clip).sum(-1)
        log_likelihood_BT = self.frame_log_likelihood(x_BTHWC, latents)
        if self.clip_prior == "mixture":
            clip_kl = log_clip_posterior - log_clip_prior
        else:
            clip_kl = self._clip_kl_by_dim(posterior).sum(-1)
        return Terms(
            log_likelihood=jnp.sum(log_likelihood_BT * mask_BT, axis=1),
            log_prior=_sum_frames(dist.gaussian_log_prob(prior, latents.frame), mask_BT)
            + log_clip_prior,
            log_posterior=_sum_frames(
                dist.gaussian_log_prob(posterior.frame, latents.frame), mask_BT
            )
            + log_clip_posterior,
            kl_by_level={
                "frame": _sum_frames(dist.gaussian_kl(posterior.frame, prior), mask_BT),
                "clip": clip_kl,
            },
        )

    def kl_by_dim(self, x_BTHWC, mask_BT, key_B) -> dict[str, jax.Array]:
        """Computes the KL of each latent dimension; see `level_kl`."""
        posterior = self.encode(x_BTHWC, mask_BT)
        latents = jax.tree.map(lambda a: a[0], self._sample_posterior(posterior, key_B, 1))
        prior = self._prior_given(latents, mask_BT)
        frame = dist.gaussian_kl(posterior.frame, prior) * mask_BT[..., None]
        return {"frame": frame, "clip": self._clip_kl_by_dim(posterior)}

    def surprise(self, x_BTHWC, mask_BT) -> jax.Array:
        """Computes the surprise of each frame; see the function `surprise`."""
        frame = self._infer_frames(x_BTHWC, mask_BT)
        prefix = self.clip_encoder(frame, mask_BT).mean
        first = jnp.broadcast_to(self.clip_prior_mean(), prefix[:, :1].shape)
        seen = jnp.cumsum(mask_BT, axis=1)[..., None] > 0
        earlier = jnp.concatenate([first, jnp.where(seen, prefix, first)[:, :-1]], axis=1)
        prior = self.frame_prior(frame.mean, earlier, mask_BT)
        return dist.gaussian_kl(frame, prior).sum(-1) * mask_BT

    def _clip_kl_by_dim(self, posterior: SequentialPosterior) -> jax.Array:
        """Computes KL(q(w | x) || N(0, I)) by dimension, [B, W]."""
        standard = dist.standard_gaussian(posterior.clip.mean.shape, posterior.clip.mean.dtype)
        return dist.gaussian_kl(posterior.clip, standard)

    def _prior_given(self, latents: Latents, mask_BT) -> Gaussian:
        length = latents.frame.shape[1]
        w_BTW = jnp.repeat(latents.clip[:, None], length, axis=1)
        return self.frame_prior(latents.frame, w_BTW, mask_BT)

    def _sample_posterior(self, posterior, key_B, num_samples: int) -> Latents:
        """Draws latents with axes [K, B, ...], with noise from one key per clip."""

        def draw(key, shape, dtype):
            return jax.random.normal(key, (num_samples, *shape), dtype)

        def draw_clip(key, mean_TZ, mean_W):
            frame_key, clip_key = jax.random.split(key)
            return draw(frame_key, mean_TZ.shape, mean_TZ.dtype), draw(
                clip_key, mean_W.shape, mean_W.dtype
            )

        eps = jax.vmap(draw_clip, out_axes=1)(key_B, posterior.frame.mean, posterior.clip.mean)
        posterior = jax.tree.map(lambda a: a[None], posterior)
        return Latents(
            dist.sample_gaussian(posterior.frame, eps[0]),
            dist.sample_gaussian(posterior.clip, eps[1]),
        )

    # --- generation ----------------------------------------------------------------------------

    @nn.nowrap
    def sample(self, params, key, num_clips: int, num_frames: int) -> jax.Array:
        """Draws videos from the prior; see `vvae.sample`."""
        clip_key, frame_key = jax.random.split(key)
        w_BW = self.apply(params, clip_key, num_clips, method="sample_clip_prior")
        state = self.apply(params, num_clips, method="begin_dynamics")
        z_BTZ = self.roll_out(params, state, w_BW, frame_key, num_frames, 1.0)
        return contract.decode(self, params, Latents(z_BTZ, w_BW))

    @nn.nowrap
    def roll_out(
        self, params, state: DynamicsState, w_BW, key, num_frames: int, temperature: float
    ) -> jax.Array:
        """Continues the frame latents with samples from the prior.

        Args:
          params: variables of the model.
          state: the prior's state after the previous frames.
          w_BW: clip latent.
          key: consumed.
          num_frames: number of frames to draw.
          temperature: factor on the prior's standard deviation; 0 follows its mean.

        Returns:
          [B, num_frames, Z].
        """
        valid_B = jnp.ones(w_BW.shape[0], bool)

        def draw(state, t):
            prior = self.apply(params, state, w_BW, method="predict_frame")
            eps = jax.random.normal(jax.random.fold_in(key, t), prior.mean.shape)
            z_BZ = dist.sample_gaussian(prior, temperature * eps)
            return self.apply(params, state, z_BZ, valid_B, method="observe_frame"), z_BZ

        _, z_TBZ = jax.lax.scan(draw, state, jnp.arange(num_frames))
        return jnp.swapaxes(z_TBZ, 0, 1)


def replace_clip_prior(params: dict, mixture: GaussianMixture) -> dict:
    """Returns learned parameters with another mixture as p(w); only for clip_prior="mixture"."""
    return params | {
        "mixture_logits": mixture.logits_K,
        "mixture_mean": mixture.mean_KZ,
        "mixture_logvar": mixture.logvar_KZ,
    }


def level_kl(
    model: SequentialVAE, params, x_BTHWC, key, mask_BT=None, index_B=None
) -> dict[str, jax.Array]:
    """Computes the KL of each latent dimension, in nats.

    Args:
      model: the model.
      params: its variables.
      x_BTHWC: float video in [-1, 1], or uint8.
      key: consumed; one sample of z and w conditions the prior of the frame latents.
      mask_BT: bool, True for real frames; all by default.
      index_B: int index of each clip, which determines its noise; 0, ..., B-1 by default.

    Returns:
      {"frame": [B, T, Z], 0 at masked frames, "clip": [B, W]}.

    Note:
      The clip's KL is the one to N(0, I). Under a mixture prior it tells which dimensions vary, but
      is not their part of the rate.
    """
    contract.check_video(x_BTHWC)
    return _level_kl(contract.as_static(model), params, x_BTHWC, key, mask_BT, index_B)


@functools.partial(contract.jit_inline, static_argnames="model")
def _level_kl(model, params, x_BTHWC, key, mask_BT, index_B):
    mask_BT = contract.full_mask(x_BTHWC, mask_BT)
    key_B = contract.split_key(key, x_BTHWC, index_B)
    x_BTHWC = contract.as_unit_range(x_BTHWC)
    return model.apply(params, x_BTHWC, mask_BT, key_B, method="kl_by_dim")


def surprise(
    model: SequentialVAE,
    params: contract.Params,
    x_BTHWC: contract.AnyArray,
    mask_BT: contract.AnyArray | None = None,
) -> jax.Array:
    """Computes how unexpected each frame is: KL(q(z_t) || p(z_t | z_<t, w_<t)) in nats, [B, T].

    z_<t are posterior means, and w_<t is the posterior mean given the earlier frames alone (the
    prior mean at the first frame), so that no later frame changes the value. It is 0 at masked
    frames.

    Args:
      model: the model.
      params: its variables.
      x_BTHWC: float video in [-1, 1], or uint8.
      mask_BT: bool, True for real frames; all by default.
    """
    contract.check_video(x_BTHWC)
    return _surprise(contract.as_static(model), params, x_BTHWC, mask_BT)


@functools.partial(contract.jit_inline, static_argnames="model")
def _surprise(model, params, x_BTHWC, mask_BT):
    mask_BT = contract.full_mask(x_BTHWC, mask_BT)
    return model.apply(params, contract.as_unit_range(x_BTHWC), mask_BT, method="surprise")


def begin_stream(model: SequentialVAE, params, batch: int) -> StreamState:
    """Returns the memory of `stream` before the first frame of `batch` videos."""
    return _begin_stream(contract.as_static(model), params, batch)


@functools.partial(contract.jit_inline, static_argnames=("model", "batch"))
def _begin_stream(model, params, batch):
    return model.apply(params, batch, method="begin_stream")


def stream(
    model: SequentialVAE, params, state: StreamState, x_BTHWC, mask_BT=None
) -> tuple[StreamState, Streamed]:
    """Reads the next frames of videos; the values do not depend on how many are read at a time.

    Args:
      model: the model.
      params: its variables.
      state: from `begin_stream`, or from the call for the previous frames.
      x_BTHWC: the next frames, float in [-1, 1] or uint8.
      mask_BT: bool, True for real frames, all by default; a masked frame changes nothing.

    Returns:
      (state, what is known at each frame).
    """
    contract.check_video(x_BTHWC)
    return _stream(contract.as_static(model), params, state, x_BTHWC, mask_BT)


@functools.partial(contract.jit_inline, static_argnames="model")
def _stream(model, params, state, x_BTHWC, mask_BT):
    mask_BT = contract.full_mask(x_BTHWC, mask_BT)
    return model.apply(params, state, contract.as_unit_range(x_BTHWC), mask_BT, method="stream")


def predict(
    model: SequentialVAE, params, x_BTHWC, key, num_frames: int, temperature: float = 1.0
) -> jax.Array:
    """Continues videos.

    Args:
      model: the model.
      params: its variables.
      x_BTHWC: the known frames, float in [-1, 1] or uint8.
      key: consumed.
      num_frames: number of frames to add.
      temperature: factor on the standard deviation of the prior; 0 follows its mean.

    Returns:
      The mean video of the added frames, [B, num_frames, H, W, C], in [-1, 1] units.
    """
    latents = model.posterior_mean(contract.encode(model, params, x_BTHWC))
    batch = latents.frame.shape[0]
    state = model.apply(params, batch, method="begin_dynamics")
    valid_B = jnp.ones(batch, bool)

    def observe(state, z_BZ):
        return model.apply(params, state, z_BZ, valid_B, method="observe_frame"), None

    state, _ = jax.lax.scan(observe, state, jnp.swapaxes(latents.frame, 0, 1))
    z_BTZ = model.roll_out(params, state, latents.clip, key, num_frames, temperature)
    return contract.decode(model, params, Latents(z_BTZ, latents.clip))


def _sum_frames(a_BTZ: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Sums over latent dimensions and valid frames, [B, T, Z] -> [B]."""
    return jnp.sum(a_BTZ.sum(-1) * mask_BT, axis=1)
