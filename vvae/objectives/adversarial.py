"""Losses of a critic of videos and of the model that it judges.

`real` and `fake` are the critic's scores of patches, of any shape, higher for what looks real.
"""

import jax
import jax.numpy as jnp

LECAM_DECAY = 0.99
_LEAST_NORM = 1e-6
_MOST_WEIGHT = 1e4


def hinge_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    """What a critic minimises (Lim and Ye 2017, Geometric GAN, eq. 5), halved."""
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))


def deceive_loss(fake: jax.Array) -> jax.Array:
    """What the model minimises: minus the mean score of what it has made."""
    return -jnp.mean(fake)


def lecam_penalty(
    real: jax.Array, fake: jax.Array, mean_real: jax.Array, mean_fake: jax.Array
) -> jax.Array:
    """Keeps a critic near its past opinion of the other side (Tseng et al. 2021, eq. 4).

    One-sided, as is usual: scores of real patches are pulled down towards the moving average of
    fake ones, and the other way round.

    Args:
      real, fake: scores.
      mean_real, mean_fake: moving averages of their means, of LECAM_DECAY.
    """
    above = jnp.mean(jnp.square(jax.nn.relu(real - mean_fake)))
    return above + jnp.mean(jnp.square(jax.nn.relu(mean_real - fake)))


def adaptive_weight(loss_grad: jax.Array, critic_grad: jax.Array) -> jax.Array:
    """Weight that makes the critic's gradient as large as that of all other terms.

    The quotient of the norms of both gradients by the last kernel of the decoder (Esser et al.
    2021, Taming Transformers, eq. 7), with 1e-6 added below, at most 1e4.
    """
    norms = (jnp.sqrt(jnp.sum(jnp.square(grad))) for grad in (loss_grad, critic_grad))
    loss_norm, critic_norm = norms
    return jnp.minimum(loss_norm / (critic_norm + _LEAST_NORM), _MOST_WEIGHT)
