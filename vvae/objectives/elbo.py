"""The ELBO and related bounds. All values are in nats per clip.

Functions take the model and use it through its contract alone, so they work for every model.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models import contract
from vvae.models.contract import AnyArray, Model, Params


class Bound(NamedTuple):
    """IWAE-K bound of each clip, with measures of its reliability.

    Attributes:
      value: [B] logsumexp over K of the log-weights minus log K, in nats per clip.
      standard_error: [B] Monte Carlo standard error of `value` (delta method), in nats.
      effective_samples: [B] (sum of weights)^2 / sum of squared weights, between 1 and K.
    """

    value: jax.Array
    standard_error: jax.Array
    effective_samples: jax.Array


def beta_schedule(step: jax.Array, beta: float, warmup_steps: int) -> jax.Array:
    """Returns the weight of the KL at a training step: linear from 0 to beta over warmup_steps."""
    if warmup_steps <= 0:
        return jnp.float32(beta)
    return beta * jnp.minimum(1.0, (step + 1) / warmup_steps).astype(jnp.float32)


def elbo_of_terms(terms) -> jax.Array:
    """Returns the ELBO of each clip, [B]: the mean over samples of log-likelihood minus all KLs."""
    kl = sum(terms.kl_by_level.values())
    return jnp.mean(terms.log_likelihood - kl, axis=0)


def iwae_of_log_weights(log_weight_KB: jax.Array) -> Bound:
    """Computes the importance-weighted bound from log p(x, z) - log q(z | x).

    Args:
      log_weight_KB: K samples of B clips.

    References:
      Burda et al., Importance Weighted Autoencoders, 2016, eq. 8.
    """
    num_samples = log_weight_KB.shape[0]
    log_sum = jax.nn.logsumexp(log_weight_KB, axis=0)
    effective = jnp.exp(2.0 * log_sum - jax.nn.logsumexp(2.0 * log_weight_KB, axis=0))
    # Relative variance of the mean weight: (E w^2 / (E w)^2 - 1) / K, with E w^2 / (E w)^2 = K/ESS.
    relative = jnp.sqrt(jnp.maximum(1.0 / effective - 1.0 / num_samples, 0.0))
    return Bound(log_sum - jnp.log(num_samples), relative, effective)


def log_weights(terms) -> jax.Array:
    """Returns log p(x, z) - log q(z | x) of each sample, [K, B]."""
    return terms.log_likelihood + terms.log_prior - terms.log_posterior


def free_bits_kl(kl_by_level: dict, floor: float) -> jax.Array:
    """Sums max(KL, floor) over levels.

    The floor applies to the KL of each clip, not to the mean of a batch, so that the result does
    not depend on how the batch is split over devices.

    Args:
      kl_by_level: level -> [K, B], in nats per clip.
      floor: nats per clip and level below which the KL of a level is not reduced.

    References:
      Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016, C.8.
    """
    floored = (jnp.maximum(kl, floor) if floor > 0.0 else kl for kl in kl_by_level.values())
    return functools.reduce(operator.add, floored)


def elbo(
    model: Model,
    params: Params,
    x_BTHWC: AnyArray,
    key: jax.Array,
    mask_BT: AnyArray | None = None,
    num_samples: int = 1,
    index_B: AnyArray | None = None,
) -> jax.Array:
    """Computes the evidence lower bound of each clip, [B], in nats per clip.

    Args:
      model: a vvae model.
      params: its variables.
      x_BTHWC: float video in [-1, 1], or uint8.
      key: consumed.
      mask_BT: bool, True for real frames; all by default.
      num_samples: number of posterior samples whose mean is taken.
      index_B: int index of each clip, which determines its noise; 0, ..., B-1 by default.

    Note:
      It is summed over time, pixels, channels and latents. With a Gaussian likelihood it is a
      log-density over 8-bit values.
    """
    contract.check_video(x_BTHWC)
    model = contract.as_static(model)
    return _elbo(model, params, x_BTHWC, key, mask_BT, num_samples, index_B)


@functools.partial(contract.jit_inline, static_argnames=("model", "num_samples"))
def _elbo(model, params, x_BTHWC, key, mask_BT, num_samples, index_B):
    return elbo_of_terms(contract.terms(model, params, x_BTHWC, key, mask_BT, num_samples, index_B))


def iwae(
    model: Model,
    params: Params,
    x_BTHWC: AnyArray,
    key: jax.Array,
    num_samples: int,
    mask_BT: AnyArray | None = None,
    chunk: int = 10,
    index_B: AnyArray | None = None,
) -> Bound:
    """Computes the importance-weighted bound of each clip with exactly num_samples samples.

    Args:
      model: a vvae model.
      params: its variables.
      x_BTHWC: float video in [-1, 1], or uint8.
      key: consumed; key and `chunk` change the value only through the noise.
      num_samples: K; a multiple of chunk, or smaller than it.
      mask_BT: bool, True for real frames; all by default.
      chunk: samples decoded at a time, which bounds the memory.
      index_B: int index of each clip, which determines its noise; 0, ..., B-1 by default.

    Returns:
      Bound with arrays [B], in nats per clip.

    Raises:
      ValueError: if num_samples cannot be divided into equal chunks.
    """
    chunk = min(chunk, num_samples)
    if num_samples < 1 or num_samples % chunk:
        raise ValueError(f"num_samples={num_samples} is not a positive multiple of chunk={chunk}")
    contract.check_video(x_BTHWC)
    model = contract.as_static(model)
    return _iwae(model, params, x_BTHWC, key, num_samples, mask_BT, chunk, index_B)


@functools.partial(contract.jit_inline, static_argnames=("model", "num_samples", "chunk"))
def _iwae(model, params, x_BTHWC, key, num_samples, mask_BT, chunk, index_B):
    def sample_chunk(i):
        chunk_key = jax.random.fold_in(key, i)
        return log_weights(
            contract.terms(model, params, x_BTHWC, chunk_key, mask_BT, chunk, index_B)
        )

    log_weight_NKB = jax.lax.map(sample_chunk, jnp.arange(num_samples // chunk))
    return iwae_of_log_weights(log_weight_NKB.reshape(num_samples, -1))


def negative_elbo(model, params, batch: dict, key, beta=1.0, free_bits: float = 0.0):
    """Computes the training loss: -E[log p(x | z)] + beta * KL, mean over the batch.

    Args:
      model: a vvae model.
      params: its variables.
      batch: "video" [B, T, H, W, C], "mask" [B, T], "index" [B].
      key: consumed; folded with each clip's index.
      beta: weight of the KL.
      free_bits: nats per clip and level below which the KL is not reduced; 0 for none.

    Returns:
      The loss in nats per clip, and a dictionary of scalars, means over the batch in nats per clip:
      `elbo` (with beta 1 and without free bits), `log_likelihood`, `kl`, and `kl_LEVEL` for every
      level.
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
