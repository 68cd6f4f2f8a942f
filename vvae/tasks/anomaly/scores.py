"""Scores of frames and clips from a model: pure functions that work under jit, and live.

Higher is stranger. The scores of `score_stream` are causal: those of a frame depend on it and the
frames before it, whether frames come one at a time (`begin_live`, `step_live`) or many. The scores
of `score_windows` are those of a clip, and look at all of it.
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
    """Scores the next frames of videos by what is known up to each of them.

    Args:
      model: a SequentialVAE.
      params: its variables.
      state: of `begin_live`, or what the call for the frames before has returned.
      x_BTHWC: the next frames, uint8 or float in [-1, 1].
      mask_BT: bool, True for real frames.
      block: side, in pixels, of the squares whose mean error is compared.

    Returns:
      The state after these frames, and name -> [B, T]:
        reconstruction: mean squared error, 8-bit^2, of decoding the means of q(z_t | x_t) and
          q(w | x_<=t).
        reconstruction_block: the largest mean of that error over a square.
        surprise: KL(q(z_t) || p(z_t | z_<t, w_<t)), nats, see `vvae.models.sequential.surprise`.
      and `latent` [B, T, Z], posterior means in units of their standard deviations.
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
    """Returns the state and the `latent` [B, T, Z] of `score_stream` alone: nothing is decoded."""
    state, streamed = stream(model, params, state, x_BTHWC, mask_BT)
    return state, _in_deviations(streamed.posterior)


def _in_deviations(posterior: dist.Gaussian) -> jax.Array:
    return posterior.mean * jnp.exp(-0.5 * posterior.logvar)


def map_errors(
    model: SequentialVAE, params, state: StreamState, x_BTHWC, mask_BT
) -> tuple[StreamState, jax.Array]:
    """Returns the state and the squared error of each pixel, 8-bit^2 [B, T, H, W]; see above."""
    state, streamed = stream(model, params, state, x_BTHWC, mask_BT)
    return state, _squared_error(model, params, x_BTHWC, streamed)


def begin_live(model: SequentialVAE, params, batch: int = 1) -> StreamState:
    """Returns the state before the first frame of `batch` videos, a pytree of fixed size."""
    return begin_stream(model, params, batch)


def step_live(
    model: SequentialVAE, params, state: StreamState, frame_BHWC, block: int
) -> tuple[StreamState, dict[str, jax.Array]]:
    """Scores one more frame of each video; jit it with `model` and `block` fixed.

    Args:
      model, params, state, block: as in `score_stream`.
      frame_BHWC: the next frame under the model's view, uint8 or float in [-1, 1].

    Returns:
      (state, name -> [B]).
    """
    mask_BT = jnp.ones((frame_BHWC.shape[0], 1), bool)
    state, scores = score_stream(model, params, state, frame_BHWC[:, None], mask_BT, block)
    return state, {name: value[:, 0] for name, value in scores.items()}


def _squared_error(model, params, x_BTHWC, streamed: Streamed) -> jax.Array:
    """8-bit^2, mean over channels, [B, T, H, W]; every frame is decoded with its own w."""
    z_BTZ, w_BTW = streamed.posterior.mean, streamed.w_BTW
    num_frames = z_BTZ.shape[0] * z_BTZ.shape[1]
    latents = Latents(z_BTZ.reshape(num_frames, 1, -1), w_BTW.reshape(num_frames, w_BTW.shape[-1]))
    x = contract.as_unit_range(x_BTHWC)
    mean = contract.decode(model, params, latents).reshape(x.shape)
    return jnp.mean(jnp.square(127.5 * (x - mean)), axis=-1)


def max_block(error_BTHW: jax.Array, block: int) -> jax.Array:
    """Largest mean over the squares of `block` pixels that fit into the frame, [B, T].

    Raises:
      ValueError: if none fits.
    """
    height, width = error_BTHW.shape[2:]
    if not 1 <= block <= min(height, width):
        raise ValueError(f"block={block!r} does not fit into frames of {height}x{width}")
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
    """Scores clips; those of a clip as a whole are given to all of its frames.

    Args:
      model: a SequentialVAE.
      params: its variables.
      key: of the noise, which depends on the key and the clip's index alone.
      batch: "video" [B, T, H, W, C], "mask" [B, T] and "index" [B].
      num_samples: K of IWAE.
      regret_steps: gradient steps of the likelihood regret; 0 leaves it out.

    Returns:
      name -> [B, T]:
        frame_kl: KL(q(z_t) || p(z_t | z_<t, w)), nats a frame, with sampled z_<t and w.
        clip_kl: KL(q(w) || p(w)), nats a clip.
        negative_elbo: -E log p(x_t | z_t, w) + frame_kl + clip_kl / valid frames, nats a frame.
        iwae: -log p(x) by IWAE-K divided by the clip's valid frames, nats a frame.
        regret: likelihood regret divided by the valid frames, nats a frame (`measure_regret`).
    """
    x_BTHWC, mask_BT, index_B = batch["video"], batch["mask"], batch["index"]
    posterior = contract.encode(model, params, x_BTHWC, mask_BT)
    log_likelihood_BT, frame_kl_BT, clip_kl_B = _mean_terms(
        model, params, key, posterior, x_BTHWC, mask_BT, index_B, ELBO_SAMPLES
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
    if regret_steps:
        regret_B = measure_regret(
            model, params, regret_key, posterior, x_BTHWC, mask_BT, index_B, regret_steps
        )
        scores["regret"] = regret_B[:, None] / count_B1 * spread
    return scores


def measure_regret(
    model, params, key, posterior: SequentialPosterior, x_BTHWC, mask_BT, index_B, num_steps: int
) -> jax.Array:
    """Likelihood regret: by how much the ELBO of a clip grows as its own posterior is fitted to it.

    Xiao, Yan and Amit 2020 (arXiv:2003.02977, eq. 6) fit the encoder to each input; here the means
    and log-variances of its posterior are fitted themselves, by `num_steps` steps of Adam with the
    noise held fixed. Means move in units of the posterior's standard deviations.

    Returns:
      [B], nats a clip.
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
            model, params, key, move(offset), x_BTHWC, mask_BT, index_B, 1
        )
        return jnp.sum((log_likelihood_BT - frame_kl_BT) * mask_BT, axis=1) - clip_kl_B

    optimizer = optax.adam(REGRET_RATE)
    start = jax.tree.map(jnp.zeros_like, posterior)

    def improve(carry, _):
        offset, opt_state = carry
        slope = jax.grad(lambda offset: -jnp.sum(elbo(offset)))(offset)
        updates, opt_state = optimizer.update(slope, opt_state)
        return (optax.apply_updates(offset, updates), opt_state), None

    (end, _), _ = jax.lax.scan(improve, (start, optimizer.init(start)), None, length=num_steps)
    return elbo(end) - elbo(start)


def _mean_terms(
    model, params, key, posterior: SequentialPosterior, x_BTHWC, mask_BT, index_B, num_samples: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """E log p(x_t | z_t, w) and KL of each frame [B, T], and KL of the clip [B]; means of samples.

    Masked frames have values too, which the caller leaves out.
    """
    key_B = contract.split_key(key, x_BTHWC, index_B)
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
    """KL(q(w) || p(w)) in nats, [B]; under a mixture prior the estimate from the sample w."""
    if model.clip_prior == "normal":
        standard = dist.standard_gaussian(clip.mean.shape, clip.mean.dtype)
        return dist.gaussian_kl(clip, standard).sum(-1)
    log_prior_B = model.apply(params, w_BW, method="clip_log_prior")
    return dist.gaussian_log_prob(clip, w_BW).sum(-1) - log_prior_B
