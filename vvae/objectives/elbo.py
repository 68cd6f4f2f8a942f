"""What is maximised: the ELBO and its relatives. All values are nats per clip.

The model is passed in and used through its contract alone, so that every model has them all.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models import contract


class Bound(NamedTuple):
    """IWAE-K bound of each clip with what tells how far it can be trusted.

    Attributes:
      value: [B] logsumexp over K of the log-weights minus log K, nats per clip.
      standard_error: [B] Monte Carlo standard error of `value` (delta method), nats.
      effective_samples: [B] (sum of weights)^2 / sum of squared weights, between 1 and K.
    """

    value: jax.Array
    standard_error: jax.Array
    effective_samples: jax.Array


def beta_schedule(step: jax.Array, beta: float, warmup_steps: int) -> jax.Array:
    """Weight of the KL at a training step: linear from 0 to beta over warmup_steps."""
    if warmup_steps <= 0:
        return jnp.float32(beta)
    return beta * jnp.minimum(1.0, (step + 1) / warmup_steps).astype(jnp.float32)


def elbo_of_terms(terms) -> jax.Array:
    """ELBO of each clip, [B]: the mean over samples of log-likelihood minus every level's KL."""
    kl = sum(terms.kl_by_level.values())
    return jnp.mean(terms.log_likelihood - kl, axis=0)


def iwae_of_log_weights(log_weight_KB: jax.Array) -> Bound:
    """Importance-weighted bound from log p(x, z) - log q(z | x) (Burda et al. 2016, eq. 8).

    Args:
      log_weight_KB: K samples of B clips.
    """
    num_samples = log_weight_KB.shape[0]
    log_sum = jax.nn.logsumexp(log_weight_KB, axis=0)
    effective = jnp.exp(2.0 * log_sum - jax.nn.logsumexp(2.0 * log_weight_KB, axis=0))
    # Relative variance of the mean weight: (E w^2 / (E w)^2 - 1) / K, with E w^2 / (E w)^2 = K/ESS.
    relative = jnp.sqrt(jnp.maximum(1.0 / effective - 1.0 / num_samples, 0.0))
    return Bound(log_sum - jnp.log(num_samples), relative, effective)


def log_weights(terms) -> jax.Array:
    """log p(x, z) - log q(z | x) of each sample, [K, B]."""
    return terms.log_likelihood + terms.log_prior - terms.log_posterior


def free_bits_kl(kl_by_level: dict, floor: float) -> jax.Array:
    """Sum over levels of max(KL, floor), where KL is that of a clip; a clip's, not a batch's, so
    that it does not depend on how the batch is split over devices (Kingma et al. 2016, C.8).

    Args:
      kl_by_level: level -> [K, B] nats per clip.
      floor: nats per clip and level below which a level's KL is not pushed.
    """
    if floor <= 0.0:
        return sum(kl_by_level.values())
    return sum(jnp.maximum(kl, floor) for kl in kl_by_level.values())


def elbo(
    model, params, x_BTHWC, key, mask_BT=None, num_samples: int = 1, index_B=None
) -> jax.Array:
    """Evidence lower bound of each clip, [B], nats per clip.

    The sum over time, pixels, channels and latents; a density over 8-bit values for a Gaussian
    likelihood. Arguments as `vvae.models.contract.terms`.
    """
    return elbo_of_terms(contract.terms(model, params, x_BTHWC, key, mask_BT, num_samples, index_B))


def iwae(
    model,
    params,
    x_BTHWC,
    key,
    num_samples: int,
    mask_BT=None,
    chunk: int = 10,
    index_B=None,
) -> Bound:
    """Importance-weighted bound of each clip with exactly num_samples samples.

    Args:
      model: a vvae model.
      params: its variables.
      x_BTHWC: float video in [-1, 1], or uint8.
      key: consumed; the value depends on it and on `chunk` through the noise alone.
      num_samples: K; a multiple of chunk, or smaller than it.
      mask_BT: bool, True for real frames.
      chunk: samples that are decoded at a time, which bounds the memory.
      index_B: int number of each clip, which its noise is drawn for.

    Returns:
      Bound with arrays [B], nats per clip.

    Raises:
      ValueError: if num_samples cannot be cut into equal chunks.
    """
    chunk = min(chunk, num_samples)
    if num_samples < 1 or num_samples % chunk:
        raise ValueError(f"num_samples={num_samples} is not a positive multiple of chunk={chunk}")

    def sample_chunk(i):
        chunk_key = jax.random.fold_in(key, i)
        return log_weights(
            contract.terms(model, params, x_BTHWC, chunk_key, mask_BT, chunk, index_B)
        )

    log_weight_NKB = jax.lax.map(sample_chunk, jnp.arange(num_samples // chunk))
    return iwae_of_log_weights(log_weight_NKB.reshape(num_samples, -1))


def negative_elbo(model, params, batch: dict, key, beta=1.0, free_bits: float = 0.0):
    """The training loss: -E[log p(x | z)] + beta * KL, mean over the batch, nats per clip.

    Args:
      model: a vvae model.
      params: its variables.
      batch: "video" [B, T, H, W, C], "mask" [B, T], "index" [B].
      key: consumed; folded with each clip's index.
      beta: weight of the KL.
      free_bits: nats per clip and level below which the KL is not pushed; 0 for none.

    Returns:
      The loss and a dictionary of scalars, means over the batch in nats per clip: `elbo` (with
      beta 1 and without free bits), `log_likelihood`, `kl` and `kl_LEVEL` for every level.
    """
    terms = contract.terms(
        model, params, batch["video"], key, batch["mask"], index_B=batch["index"]
    )
    loss = jnp.mean(beta * free_bits_kl(terms.kl_by_level, free_bits) - terms.log_likelihood)
    levels = {f"kl_{level}": jnp.mean(kl) for level, kl in terms.kl_by_level.items()}
    metrics = {
        "elbo": jnp.mean(elbo_of_terms(terms)),
        "log_likelihood": jnp.mean(terms.log_likelihood),
        "kl": sum(levels.values()),
        **levels,
    }
    return raise_precision(loss), metrics
