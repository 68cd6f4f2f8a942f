"""Distributions of the models: samples, log-probabilities and divergences, in nats.

Functions are elementwise unless their docstring says that an axis is summed, so that every caller
states which axes it sums. Inputs of lower precision than float32 are raised to float32; float64
stays float64.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp

LOG_2PI = math.log(2.0 * math.pi)

# Networks return standard deviations between exp(-LOGVAR_LIMIT / 2) and exp(LOGVAR_LIMIT / 2).
LOGVAR_LIMIT = 14.0


@flax.struct.dataclass
class Gaussian:
    """Diagonal Gaussian.

    Attributes:
      mean: float array of any shape.
      logvar: natural logarithm of the variance, of the same shape.
    """

    mean: jax.Array
    logvar: jax.Array


@flax.struct.dataclass
class GaussianMixture:
    """Mixture of K diagonal Gaussians over vectors of Z numbers.

    Attributes:
      logits_K: unnormalised log-weights.
      mean_KZ: component means.
      logvar_KZ: component log-variances.
    """

    logits_K: jax.Array
    mean_KZ: jax.Array
    logvar_KZ: jax.Array


def raise_precision(x: jax.Array) -> jax.Array:
    """Returns x in float32 if its precision is lower (or it holds integers); float64 is kept."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def split_gaussian(outputs: jax.Array) -> Gaussian:
    """Reads the 2Z outputs of a network [..., 2Z] as means and log-variances, at least float32.

    Log-variances are clipped to +-LOGVAR_LIMIT.
    """
    mean, logvar = jnp.split(raise_precision(outputs), 2, axis=-1)
    return Gaussian(mean, jnp.clip(logvar, -LOGVAR_LIMIT, LOGVAR_LIMIT))


def standard_gaussian(shape: tuple[int, ...], dtype=jnp.float32) -> Gaussian:
    """Returns N(0, 1) with the given shape."""
    return Gaussian(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def sample_gaussian(gaussian: Gaussian, eps: jax.Array) -> jax.Array:
    """Draws a reparametrised sample: mean + exp(logvar / 2) * eps.

    Args:
      gaussian: the distribution.
      eps: standard normal noise; leading axes before those of the distribution are samples.
    """
    return gaussian.mean + jnp.exp(0.5 * gaussian.logvar) * eps


def gaussian_log_prob(gaussian: Gaussian, x: jax.Array) -> jax.Array:
    """Computes the elementwise log N(x; mean, exp(logvar)) in nats."""
    mean, logvar = raise_precision(gaussian.mean), raise_precision(gaussian.logvar)
    return -0.5 * (LOG_2PI + logvar + jnp.square(x - mean) * jnp.exp(-logvar))


def gaussian_kl(q: Gaussian, p: Gaussian) -> jax.Array:
    """Computes the elementwise KL(q || p) of two diagonal Gaussians, in nats per dimension."""
    q_logvar, p_logvar = raise_precision(q.logvar), raise_precision(p.logvar)
    distance = jnp.square(raise_precision(q.mean) - raise_precision(p.mean))
    ratio = jnp.exp(q_logvar - p_logvar)
    return 0.5 * (p_logvar - q_logvar + ratio + distance * jnp.exp(-p_logvar) - 1.0)


def mixture_component_log_prob(mixture: GaussianMixture, x: jax.Array) -> jax.Array:
    """Computes log pi_k + log N_k(x), summed over Z.

    Args:
      mixture: K components.
      x: [..., Z].

    Returns:
      [..., K], in nats.
    """
    components = Gaussian(mixture.mean_KZ, mixture.logvar_KZ)
    lead = (1,) * (x.ndim - 1)
    components = jax.tree.map(lambda a: a.reshape(lead + a.shape), components)
    log_normal = gaussian_log_prob(components, x[..., None, :]).sum(-1)
    log_weight = jax.nn.log_softmax(raise_precision(mixture.logits_K))
    return log_weight.reshape(lead + log_weight.shape) + log_normal


def mixture_log_prob(mixture: GaussianMixture, x: jax.Array) -> jax.Array:
    """Computes log sum_k pi_k N_k(x) in nats; [..., Z] -> [...]."""
    return jax.nn.logsumexp(mixture_component_log_prob(mixture, x), axis=-1)


def mixture_responsibilities(mixture: GaussianMixture, x: jax.Array) -> jax.Array:
    """Computes the posterior probability q(k | x) of each component; [..., Z] -> [..., K]."""
    return jax.nn.softmax(mixture_component_log_prob(mixture, x), axis=-1)


def mixture_mean(mixture: GaussianMixture) -> jax.Array:
    """Returns the mean of the mixture, [Z]."""
    return jax.nn.softmax(raise_precision(mixture.logits_K)) @ mixture.mean_KZ


def sample_mixture(mixture: GaussianMixture, key: jax.Array, num_samples: int) -> jax.Array:
    """Draws [num_samples, Z]; the key is consumed."""
    component_key, noise_key = jax.random.split(key)
    k_N = jax.random.categorical(component_key, mixture.logits_K, shape=(num_samples,))
    chosen = Gaussian(mixture.mean_KZ[k_N], mixture.logvar_KZ[k_N])
    return sample_gaussian(chosen, jax.random.normal(noise_key, chosen.mean.shape))


def bernoulli_log_prob(logits: jax.Array, x: jax.Array) -> jax.Array:
    """Computes the elementwise log-probability of x under Bernoulli(sigmoid(logits)), in nats.

    Note:
      x must be 0 or 1: for values in between the result is not a log-probability.
    """
    logits = raise_precision(logits)
    return x * logits - jax.nn.softplus(logits)


def discretized_logistic_log_prob(mean: jax.Array, log_scale: jax.Array, x: jax.Array) -> jax.Array:
    """Computes the elementwise log-probability of 8-bit values under a discretised logistic.

    The logistic is integrated over 256 bins of width 2/255 with centres -1, ..., 1. The outer two
    are open, so that the probabilities sum to 1.

    Args:
      mean: location of the logistic, in the units of x.
      log_scale: natural logarithm of its scale, broadcastable to mean.
      x: values k / 127.5 - 1 for k = 0, ..., 255.

    Returns:
      An array of the broadcast shape, in nats.

    References:
      Salimans et al., PixelCNN++, 2017, eq. 2.
      Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016.
    """
    mean, log_scale = raise_precision(mean), raise_precision(log_scale)
    half_bin = 1.0 / 255.0
    inverse_scale = jnp.exp(-log_scale)
    upper = (x + half_bin - mean) * inverse_scale
    lower = (x - half_bin - mean) * inverse_scale
    width = 2.0 * half_bin * inverse_scale
    # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), without cancellation.

    inner = jax.nn.log_sigmoid(upper) + jax.nn.log_sigmoid(-lower) + jnp.log(-jnp.expm1(-width))
    tail = jnp.where(x < 0, jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower))
    return jnp.where(jnp.abs(x) > 1.0 - half_bin, tail, inner)
