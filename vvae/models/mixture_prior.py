"""Fits the mixture prior p(w) to the posteriors of the training clips by EM.

The ELBO depends on the prior only through E_q[log p(w)]. With the component k of a clip as one more
latent, whose posterior q(k | x) is a table, that term is bounded from below by

    mean over clips of log sum_k pi_k exp(E_q[log N(w; mu_k, sigma_k^2)])

EM increases this bound in closed form: first the responsibilities for fixed components, then the
components for fixed responsibilities, where a component's variance is the mean variance of the
posteriors plus the variance between their means. Gradient steps reach the same maxima, but from
identical components they leave only one in use.

NumPy in float64 on the host: a fit does not depend on the number of devices.

References:
  Jiang et al., Variational Deep Embedding (VaDE), 2017, eq. 9 and appendix.
  Dempster, Laird and Rubin, Maximum Likelihood from Incomplete Data via the EM Algorithm, 1977.
  Arthur and Vassilvitskii, k-means++: The Advantages of Careful Seeding, 2007.
"""

import numpy as np
from scipy.special import logsumexp

from vvae.distributions import LOG_2PI, Gaussian, GaussianMixture

MIN_WEIGHT = 1e-4  # of a component, so that one without clips can gain some again
MIN_VARIANCE_SHARE = 1e-3  # smallest variance of a component, relative to the mean variance of w
NUM_STARTS = 10
MAX_ITERATIONS = 500
TOLERANCE = 1e-6  # smallest gain to continue for, in nats per clip and iteration


def fit_mixture(posterior: Gaussian, num_components: int, seed: int) -> GaussianMixture:
    """Fits a mixture from several k-means++ starts and returns the one with the highest bound.

    Args:
      posterior: q(w | x) of N clips, arrays [N, W].
      num_components: K.
      seed: of the starts.

    Returns:
      The mixture, float64; its components have weights of at least `MIN_WEIGHT`.

    Raises:
      ValueError: if there are fewer clips than components, or a posterior is not finite.
    """
    mean_NW, variance_NW = _read_posterior(posterior)
    if not 1 <= num_components <= len(mean_NW):
        raise ValueError(
            f"cannot fit a mixture of {num_components} components to {len(mean_NW)} clips"
        )
    fits = []
    for start in range(NUM_STARTS):
        random = np.random.Generator(np.random.Philox(key=[seed, start]))
        centre_KW = _draw_centres(mean_NW, num_components, random)
        nearest_N = _measure_distances(mean_NW, centre_KW).argmin(axis=1)
        share_NK = np.eye(num_components)[nearest_N]
        # A centre that coincides with another one gets no clips, and stays where it is.
        alike = GaussianMixture(np.zeros(num_components), centre_KW, np.zeros_like(centre_KW))
        fits.append(refine_mixture(_maximize(alike, share_NK, mean_NW, variance_NW), posterior))
    return max(fits, key=lambda fit: measure_bound(fit, posterior))


def refine_mixture(mixture: GaussianMixture, posterior: Gaussian) -> GaussianMixture:
    """Runs EM from a given mixture until the bound stops rising; components keep their order.

    Args:
      mixture: where EM starts, K components.
      posterior: q(w | x) of N clips, arrays [N, W].

    Returns:
      The mixture, float64.

    Raises:
      ValueError: if a posterior is not finite.
    """
    mean_NW, variance_NW = _read_posterior(posterior)
    mixture = _as_float64(mixture)
    previous = -np.inf
    for _ in range(MAX_ITERATIONS):
        joint_NK = _measure_joint(mixture, mean_NW, variance_NW)
        bound_N = logsumexp(joint_NK, axis=1)
        bound = bound_N.mean()
        if bound - previous < TOLERANCE:
            break
        previous = bound
        mixture = _maximize(mixture, np.exp(joint_NK - bound_N[:, None]), mean_NW, variance_NW)
    return mixture


def measure_bound(mixture: GaussianMixture, posterior: Gaussian) -> float:
    """Computes the bound on E_q[log p(w)] that EM increases, in nats per clip, mean over the clips.

    Args:
      mixture: K components.
      posterior: q(w | x) of N clips, arrays [N, W].
    """
    joint_NK = _measure_joint(_as_float64(mixture), *_read_posterior(posterior))
    return float(logsumexp(joint_NK, axis=1).mean())


def _read_posterior(posterior: Gaussian) -> tuple[np.ndarray, np.ndarray]:
    mean_NW = np.asarray(posterior.mean, np.float64)
    variance_NW = np.exp(np.asarray(posterior.logvar, np.float64))
    unusable = ~np.isfinite(mean_NW + variance_NW).all(axis=1)
    if unusable.any():
        raise ValueError(f"the posterior of clip {unusable.argmax()} is not finite")
    return mean_NW, variance_NW


def _as_float64(mixture: GaussianMixture) -> GaussianMixture:
    arrays = (mixture.logits_K, mixture.mean_KZ, mixture.logvar_KZ)
    return GaussianMixture(*(np.asarray(array, np.float64) for array in arrays))


def _draw_centres(mean_NW: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Draws k-means++ centres: each with probability proportional to its squared distance."""
    chosen = [random.integers(len(mean_NW))]
    for _ in range(count - 1):
        distance_N = _measure_distances(mean_NW, mean_NW[chosen]).min(axis=1)
        total = distance_N.sum()
        # If all clips are equal, any of them will do.
        chosen.append(random.choice(len(mean_NW), p=distance_N / total if total > 0 else None))
    return mean_NW[chosen]


def _measure_distances(mean_NW: np.ndarray, centre_KW: np.ndarray) -> np.ndarray:
    return np.square(mean_NW[:, None] - centre_KW[None]).sum(axis=2)


def _measure_joint(mixture: GaussianMixture, mean_NW, variance_NW) -> np.ndarray:
    """Computes log pi_k + E_q[log N_k(w)], [N, K]."""
    precision_KW = np.exp(-mixture.logvar_KZ)
    scaled_KW = mixture.mean_KZ * precision_KW
    # E_q[((w - mu) / sigma)^2] as matrix products, without an array [N, K, W].
    distance_NK = (mean_NW**2 + variance_NW) @ precision_KW.T - 2.0 * mean_NW @ scaled_KW.T
    constant_K = np.sum(LOG_2PI + mixture.logvar_KZ + mixture.mean_KZ * scaled_KW, axis=1)
    log_weight_K = mixture.logits_K - logsumexp(mixture.logits_K)
    return (log_weight_K - 0.5 * constant_K)[None] - 0.5 * distance_NK


def _maximize(mixture: GaussianMixture, share_NK, mean_NW, variance_NW) -> GaussianMixture:
    """Returns the best mixture for these responsibilities; a component without any is kept."""
    count_K = share_NK.sum(axis=0)
    used_K1 = (count_K > 0)[:, None]
    divisor_K1 = np.where(used_K1, count_K[:, None], 1.0)
    mean_KW = np.where(used_K1, share_NK.T @ mean_NW / divisor_K1, mixture.mean_KZ)
    square_KW = share_NK.T @ (mean_NW**2 + variance_NW) / divisor_K1
    variance_KW = np.where(used_K1, square_KW - mean_KW**2, np.exp(mixture.logvar_KZ))
    variance_KW = np.maximum(variance_KW, _floor_variance(mean_NW, variance_NW))
    return GaussianMixture(np.log(_fit_weights(count_K)), mean_KW, np.log(variance_KW))


def _floor_variance(mean_NW: np.ndarray, variance_NW: np.ndarray) -> float:
    total = float(np.mean(mean_NW.var(axis=0) + variance_NW.mean(axis=0)))
    return MIN_VARIANCE_SHARE * total if total > 0 else MIN_VARIANCE_SHARE


def _fit_weights(count_K: np.ndarray) -> np.ndarray:
    """Returns the weights of at least MIN_WEIGHT that maximise sum_k count_k log(weight_k)."""
    least = min(MIN_WEIGHT, 1.0 / len(count_K))
    floored_K = np.zeros(len(count_K), bool)
    while True:
        free = 1.0 - least * floored_K.sum()
        weight_K = np.where(floored_K, least, free * count_K / count_K[~floored_K].sum())
        below_K = (weight_K < least) & ~floored_K
        if not below_K.any():
            return weight_K
        floored_K |= below_K
