"""The Gaussian likelihood of 8-bit video: one learned scale, shared by every pixel and every batch.

A scale that were fitted to a batch would make the ELBO depend on the batch (Rybkin et al. 2021
compare the ways of choosing it).
"""

import jax
import jax.numpy as jnp

from vvae import distributions as dist
from vvae.distributions import Gaussian


def floor_log_sigma(log_sigma: jax.Array, std: jax.Array) -> jax.Array:
    """log of the noise scale in standardised units, softly floored at 1/256 of the 8-bit range.

    Args:
      log_sigma: the learned parameter.
      std: standard deviation that the video is divided by, in [-1, 1] units.

    Returns:
      The broadcast shape of both, at least float32.
    """
    floor = jnp.log(2.0 / 256.0) - jnp.log(std)
    return floor + jax.nn.softplus(dist.raise_precision(log_sigma) - floor)


def gaussian_8bit_log_prob(
    mean: jax.Array, log_sigma: jax.Array, x: jax.Array, std: jax.Array
) -> jax.Array:
    """Elementwise log-density of video over its 8-bit values, nats.

    Args:
      mean: of the standardised video.
      log_sigma: log of the noise scale in standardised units, of a shape that spreads over mean.
      x: the standardised video.
      std: what it was divided by, in [-1, 1] units, of which 127.5 a unit are 8-bit values.
    """
    noise = jnp.broadcast_to(2.0 * log_sigma, mean.shape)
    return dist.gaussian_log_prob(Gaussian(mean, noise), x) - jnp.log(127.5 * std)
