"""The Gaussian likelihood of 8-bit video, with one learned scale for every pixel and every batch.

A scale fitted to each batch would make the ELBO depend on the batch.

References:
  Rybkin et al., Simple and Effective VAE Training with Calibrated Decoders, 2021, compares the ways
  to choose the scale.
"""

import jax
import jax.numpy as jnp

from vvae import distributions as dist
from vvae.distributions import Gaussian


def floor_log_sigma(log_sigma: jax.Array, std: jax.Array) -> jax.Array:
    """Returns the standardised log noise scale, softly floored at 1/256 of the 8-bit range.

    Args:
      log_sigma: the learned parameter.
      std: standard deviation that the video is divided by, in [-1, 1] units.

    Returns:
      An array of the broadcast shape of both, at least float32.
    """
    floor = jnp.log(2.0 / 256.0) - jnp.log(std)
    return floor + jax.nn.softplus(dist.raise_precision(log_sigma) - floor)


def gaussian_8bit_log_prob(
    mean: jax.Array, log_sigma: jax.Array, x: jax.Array, std: jax.Array
) -> jax.Array:
    """Computes the elementwise log-density of video over its 8-bit values, in nats.

    Args:
      mean: of the standardised video.
      log_sigma: log noise scale in standardised units, broadcastable to mean.
      x: the standardised video.
      std: standard deviation that the video was divided by, in [-1, 1] units.

    Note:
      One unit of [-1, 1] is 127.5 8-bit values, hence the term -log(127.5 std) per element.
    """
    noise = jnp.broadcast_to(2.0 * log_sigma, mean.shape)
    return dist.gaussian_log_prob(Gaussian(mean, noise), x) - jnp.log(127.5 * std)
