"""Anomaly scores of frames and clips under a model: pure functions that can be jitted.

Higher scores are more abnormal. The scores of `score_stream` are causal: the score of a frame
depends on this frame and earlier ones, whether the frames arrive one by one (`begin_live`,
`step_live`) or many at a time. The scores of `score_windows` depend on the whole clip.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from vvae import distributions as dist
from vvae.models import contract
from vvae.models.sequential import (
    Latents,
    SequentialPosterior,
    SequentialVAE,
    Streamed,
    StreamState,
    begin_stream,
    stream,
)
from vvae.objectives.elbo import iwae

ELBO_SAMPLES = 4
IWAE_CHUNK = 5
REGRET_RATE = 0.1


# --- frame after frame ----------------------------------------------------------------------------


def score_stream(
    model: SequentialVAE, params, state: StreamState, x_BTHWC, mask_BT, block: int
) -> tuple[StreamState, dict[str, jax.Array]]:
    """Scores the next frames of B videos, each frame from itself and the frames before it.

    Args:
      model: A SequentialVAE.
      params: Its variables.
      state: The result of `begin_live`, or the state after the preceding frames.
      x_BTHWC: The next T frames, uint8 or float in [-1, 1].
      mask_BT: bool; True for real frames.
      block: The side of the squares of `reconstruction_block`, pixels.

    Returns:
      The state after these frames, and a dictionary of float32 arrays:
        reconstruction: [B, T]; the mean squared error, 8-bit^2, of the frame decoded from the means
          of q(z_t | x_t) and q(w | x_<=t).
        reconstruction_block: [B, T]; the largest mean of this error over a square.
        surprise: [B, T]; KL(q(z_t) || p(z_t | z_<t, w_<t)), nats a frame, see
          `vvae.models.sequential.surprise`.
        latent: [B, T, Z]; the posterior means in units of their standard deviations.

    Raises:
      ValueError: If the squares do not fit into the frames.
    """
    state, streamed = stream(model, params, state, x_BTHWC, mask_BT)
    error_BTHW = _squared_error(model, params, x_BTHWC, streamed)
    posterior = streamed.posterior
    return state, {
        "reconstruction": jnp.mean(error_BTHW, axis=(2, 3)),
        "reconstruction_block": max_block(error_BTHW, block),
        "surprise": dist.gaussian_kl(posterior, streamed.prior).sum(-1),
        "latent": _in_deviations(posterior),
    }


def stream_latents(
    model: SequentialVAE, params, state: StreamState, x_BTHWC, mask_BT
) -> tuple[StreamState, jax.Array]:
    """Returns the state and the `latent` [B, T, Z] of `score_stream`, without decoding."""
    state, streamed = stream(model, params, state, x_BTHWC, mask_BT)
    return state, _in_deviations(streamed.posterior)


def _in_deviations(posterior: dist.Gaussian) -> jax.Array:
    return posterior.mean * jnp.exp(-0.5 * posterior.logvar)


def map_errors(
    model: SequentialVAE, params, state: StreamState, x_BTHWC, mask_BT
) -> tuple[StreamState, jax.Array]:
    """Returns the state and the squared error of each pixel, 8-bit^2, float32 [B, T, H, W].

    The mean over the pixels is the `reconstruction` of `score_stream`.
    """
    state, streamed = stream(model, params, state, x_BTHWC, mask_BT)
    return state, _squared_error(model, params, x_BTHWC, streamed)


def begin_live(model: SequentialVAE, params, batch: int = 1) -> StreamState:
    """Returns the state before the first frame of `batch` videos: a pytree of fixed shapes."""
    return begin_stream(model, params, batch)


def step_live(
    model: SequentialVAE, params, state: StreamState, frame_BHWC, block: int
) -> tuple[StreamState, dict[str, jax.Array]]:
    """Scores the next frame of each video. Jit it with `model` and `block` static.

    Args:
      model: A SequentialVAE.
      params: Its variables.
      state: The result of `begin_live`, or the state after the preceding frame.
      frame_BHWC: The next frame in the view of the model, uint8 or float in [-1, 1].
      block: The side of the squares of `reconstruction_block`, pixels.

    Returns:
      The state after this frame, and the scores of `score_stream` without the axis T.
    """
    mask_BT = jnp.ones((frame_BHWC.shape[0], 1), bool)
    state, scores = score_stream(model, params, state, frame_BHWC[:, None], mask_BT, block)
    return state, {name: value[:, 0] for name, value in scores.items()}


def _squared_error(model, params, x_BTHWC, streamed: Streamed) -> jax.Array:
    """Returns the squared error, mean over channels, 8-bit^2, [B, T, H, W].

    Each frame is decoded with the w of the frames up to it.
    """
    z_BTZ, w_BTW = streamed.posterior.mean, streamed.w_BTW
    num_frames = z_BTZ.shape[0] * z_BTZ.shape[1]
    latents = Latents(z_BTZ.reshape(num_frames, 1, -1), w_BTW.reshape(num_frames, w_BTW.shape[-1]))
    x = contract.as_unit_range(x_BTHWC)
    mean = contract.decode(model, params, latents).reshape(x.shape)
    return jnp.mean(jnp.square(127.5 * (x - mean)), axis=-1)


def max_block(error_BTHW: jax.Array, block: int) -> jax.Array:
    """Returns the largest mean over a square of block x block pixels, [B, T].

    Raises:
      ValueError: If the squares do not fit into the frames.
    """
    height, width = error_BTHW.shape[2:]
    if not 1 <= block <= min(height, width):
        raise ValueError(
            f"block={block!r} does not fit into frames of {height}x{width} pixels: set "
            f"evaluate.anomaly_block to 1 to {min(height, width)}"
        )
    for window in ((1, 1, block, 1), (1, 1, 1, block)):
        error_BTHW = jax.lax.reduce_window(
            error_BTHW, 0.0, jax.lax.add, window, (1, 1, 1, 1), "VALID"
        )
    return jnp.max(error_BTHW, axis=(2, 3)) / block**2


# --- clip by clip ---------------------------------------------------------------------------------


def score_windows(
    model: SequentialVAE,
    params,
    key: jax.Array,
    batch: dict[str, Any],
    num_samples: int,
    regret_steps: int,
) -> dict[str, jax.Array]:
    """Scores clips. All frames of a clip share the scores that are defined for the whole clip.

    Args:
      model: A SequentialVAE.
      params: Its variables.
      key: The key of the noise; the noise of a clip depends on the key and its index only.
      batch: "video" [B, T, H, W, C], "mask" [B, T] and "index" [B].
      num_samples: The number of importance samples K of IWAE.
      regret_steps: The gradient steps of the likelihood regret; 0 omits this score.

    Returns:
      name -> float32 [B, T]:
        frame_kl: KL(q(z_t) || p(z_t | z_<t, w)), nats a frame, with sampled z_<t and w.
        clip_kl: KL(q(w) || p(w)), nats a clip; not for a model without a clip latent.
        negative_elbo: -E log p(x_t | z_t, w) + frame_kl + clip_kl / valid frames, nats a frame.
        iwae: The IWAE-K bound on -log p(x) divided by the number of valid frames, nats a frame.
        regret: The likelihood regret divided by the number of valid frames, nats a frame; see
          `measure_regret`.
    """
    x_BTHWC, mask_BT, index_B = batch["video"], batch["mask"], batch["index"]
    posterior = contract.encode(model, params, x_BTHWC, mask_BT)
    log_likelihood_BT, frame_kl_BT, clip_kl_B = _mean_terms(
        model, params, key, posterior, batch, ELBO_SAMPLES
    )
    iwae_key, regret_key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)
    chunk = next(c for c in range(IWAE_CHUNK, 0, -1) if num_samples % c == 0)
    bound = iwae(model, params, x_BTHWC, iwae_key, num_samples, mask_BT, chunk, index_B)
    count_B1 = jnp.maximum(mask_BT.sum(axis=1, keepdims=True), 1)
    spread = jnp.ones(mask_BT.shape)
    scores = {
        "frame_kl": frame_kl_BT,
        "clip_kl": clip_kl_B[:, None] * spread,
        "negative_elbo": frame_kl_BT - log_likelihood_BT + clip_kl_B[:, None] / count_B1,
        "iwae": -bound.value[:, None] / count_B1 * spread,
    }
    if model.clip_latent_dim == 0:
        del scores["clip_kl"]
    if regret_steps:
        regret_B = measure_regret(model, params, regret_key, posterior, batch, regret_steps)
        scores["regret"] = regret_B[:, None] / count_B1 * spread
    return scores


def measure_regret(
    model, params, key, posterior: SequentialPosterior, batch: dict[str, Any], num_steps: int
) -> jax.Array:
    """Computes the likelihood regret: the gain in ELBO when the posterior is fitted to each clip.

    The paper fits the encoder to each input. This function fits the means and log-variances of the
    posterior directly, by Adam with fixed noise. Means are parameterized in units of the standard
    deviations of the posterior.

    Args:
      model: A SequentialVAE.
      params: Its variables.
      key: The key of the noise; the noise of a clip depends on the key and its index only.
      posterior: The posterior of the encoder, where the fit starts.
      batch: "video" [B, T, H, W, C], "mask" [B, T] and "index" [B].
      num_steps: The number of gradient steps.

    Returns:
      float32 [B], nats a clip.

    References:
      Xiao, Yan and Amit, Likelihood Regret: An Out-of-Distribution Detection Score for Variational
      Auto-Encoder, 2020, arXiv:2003.02977, eq. 6.
    """

    def move(offset):
        return jax.tree.map(
            lambda q, d: q.replace(
                mean=q.mean + jnp.exp(0.5 * q.logvar) * d.mean, logvar=q.logvar + d.logvar
            ),
            posterior,
            offset,
            is_leaf=lambda node: isinstance(node, dist.Gaussian),
        )

    def elbo(offset):
        log_likelihood_BT, frame_kl_BT, clip_kl_B = _mean_terms(
            model, params, key, move(offset), batch, 1
        )
        return jnp.sum((log_likelihood_BT - frame_kl_BT) * batch["mask"], axis=1) - clip_kl_B

    optimizer = optax.adam(REGRET_RATE)
    start = jax.tree.map(jnp.zeros_like, posterior)

    def improve(carry, _):
        offset, opt_state = carry
        gradient = jax.grad(lambda offset: -jnp.sum(elbo(offset)))(offset)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(offset, updates), opt_state), None

    (end, _), _ = jax.lax.scan(improve, (start, optimizer.init(start)), None, length=num_steps)
    return elbo(end) - elbo(start)


def _mean_terms(
    model, params, key, posterior: SequentialPosterior, batch: dict[str, Any], num_samples: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Estimates the terms of the ELBO from samples of the posterior.

    Returns:
      E log p(x_t | z_t, w) [B, T], the KL of each frame [B, T], and the KL of the clip [B], in
      nats. Masked frames have values too; the caller must exclude them.
    """
    x_BTHWC, mask_BT = batch["video"], batch["mask"]
    key_B = contract.split_key(key, x_BTHWC, batch["index"])
    x = contract.as_unit_range(x_BTHWC)

    def draw(number):
        def draw_like(key, shape):
            frame_key, clip_key = jax.random.split(jax.random.fold_in(key, number))
            frame = jax.random.normal(frame_key, shape.frame.mean.shape)
            return frame, jax.random.normal(clip_key, shape.clip.mean.shape)

        frame_eps, clip_eps = jax.vmap(draw_like)(key_B, posterior)
        z_BTZ = dist.sample_gaussian(posterior.frame, frame_eps)
        w_BW = dist.sample_gaussian(posterior.clip, clip_eps)
        w_BTW = jnp.repeat(w_BW[:, None], z_BTZ.shape[1], axis=1)
        prior = model.apply(params, z_BTZ, w_BTW, mask_BT, method="frame_prior")
        log_likelihood = model.apply(params, x, Latents(z_BTZ, w_BW), method="frame_log_likelihood")
        frame_kl = dist.gaussian_kl(posterior.frame, prior).sum(-1)
        return log_likelihood, frame_kl, _clip_kl(model, params, posterior.clip, w_BW)

    terms = jax.lax.map(draw, jnp.arange(num_samples))
    return jax.tree.map(lambda a: jnp.mean(a, axis=0), terms)


def _clip_kl(model, params, clip: dist.Gaussian, w_BW: jax.Array) -> jax.Array:
    """Returns KL(q(w) || p(w)), nats, [B]; with a mixture prior, the estimate from the sample w."""
    if model.clip_prior == "normal":
        standard = dist.standard_gaussian(clip.mean.shape, clip.mean.dtype)
        return dist.gaussian_kl(clip, standard).sum(-1)
    log_prior_B = model.apply(params, w_BW, method="clip_log_prior")
    return dist.gaussian_log_prob(clip, w_BW).sum(-1) - log_prior_B
