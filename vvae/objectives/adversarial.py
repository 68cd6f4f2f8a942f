"""Losses of a critic of videos, and of the model that it judges.

`real` and `fake` are the critic's scores of patches, of any shape; higher means more real.
"""

import jax
import jax.numpy as jnp

LECAM_DECAY = 0.99
_LEAST_NORM = 1e-6
_MOST_WEIGHT = 1e4


def hinge_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Computes the hinge loss that a critic minimises, halved.

    References:
      Lim and Ye, Geometric GAN, 2017, eq. 5.
    """
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))


def deceive_loss(fake: jax.Array) -> jax.Array:
    """Computes the loss that the model minimises: minus the mean score of its videos."""
    return -jnp.mean(fake)


def lecam_penalty(
    real: jax.Array, fake: jax.Array, mean_real: jax.Array, mean_fake: jax.Array
) -> jax.Array:
    """Computes the LeCam penalty, which keeps a critic's scores near past scores of the other side.

    One-sided, as is usual: scores of real patches are pulled down towards the moving average of
    fake ones, and scores of fake patches up towards that of real ones.

    Args:
      real, fake: scores.
      mean_real, mean_fake: moving averages of their means, with the decay LECAM_DECAY.

    References:
      Tseng et al., Regularizing Generative Adversarial Networks under Limited Data, 2021, eq. 4.
    """
    above = jnp.mean(jnp.square(jax.nn.relu(real - mean_fake)))
    return above + jnp.mean(jnp.square(jax.nn.relu(mean_real - fake)))


def adaptive_weight(loss_grad: jax.Array, critic_grad: jax.Array) -> jax.Array:
    """Returns the weight that scales the critic's gradient to the size of all other terms'.

    It is the ratio of the norms of the two gradients, with 1e-6 added to the denominator, and at
    most 1e4.

    Args:
      loss_grad: gradient of the other terms with respect to the decoder's last kernel.
      critic_grad: gradient of `deceive_loss` with respect to the same kernel.

    References:
      Esser et al., Taming Transformers for High-Resolution Image Synthesis, 2021, eq. 7.
    """
    norms = (jnp.sqrt(jnp.sum(jnp.square(grad))) for grad in (loss_grad, critic_grad))
    loss_norm, critic_norm = norms
    return jnp.minimum(loss_norm / (critic_norm + _LEAST_NORM), _MOST_WEIGHT)
