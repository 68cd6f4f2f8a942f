"""What the latents carry: active units, mutual information, and whether a level has collapsed.

Pure NumPy on posteriors; N counts whatever a level has one posterior for (frames or clips).
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import logsumexp

ACTIVE_SHARE = 0.05
ACTIVE_KL = 0.01
BURDA_VARIANCE = 0.01
COLLAPSED_ERROR = 0.98


def find_active_units(mean_NZ: np.ndarray, variance_NZ: np.ndarray, kl_Z: np.ndarray) -> np.ndarray:
    """Tells which latent dimensions carry something about their input.

    A unit is active if Var_x(E z) / (Var_x(E z) + E_x Var z) > 0.05 and its KL > 0.01 nat: the
    share does not depend on the scale that a learned prior gives a unit.

    Args:
      mean_NZ, variance_NZ: posterior means and variances of N inputs.
      kl_Z: mean KL of each dimension, nats.

    Returns:
      bool [Z].
    """
    between_Z = mean_NZ.var(axis=0, dtype=np.float64)
    within_Z = variance_NZ.mean(axis=0, dtype=np.float64)
    return (between_Z > ACTIVE_SHARE * (between_Z + within_Z)) & (kl_Z > ACTIVE_KL)


def count_burda_units(mean_NZ: np.ndarray) -> int:
    """Counts dimensions with Var_x(E z) > 0.01 (Burda et al. 2016); only under a N(0, I) prior."""
    return int(np.sum(mean_NZ.var(axis=0, dtype=np.float64) > BURDA_VARIANCE))


def estimate_mutual_information(
    mean_NZ: np.ndarray, variance_NZ: np.ndarray, max_inputs: int, seed: int
) -> tuple[float, int]:
    """Estimates the mutual information of an input and its latent from the aggregate posterior.

    The mean over n of log q(z_n | x_n) - log(1/N sum_m q(z_n | x_m)) with one z_n ~ q(z | x_n).
    It cannot exceed log N, so that N must be told with it, and may be slightly negative.

    Args:
      mean_NZ, variance_NZ: Gaussian posteriors of inputs.
      max_inputs: if there are more, so many are drawn without replacement.
      seed: of the drawing and of the latents.

    Returns:
      (nats, N).
    """
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    if len(mean_NZ) > max_inputs:
        chosen = random.choice(len(mean_NZ), max_inputs, replace=False)
        mean_NZ, variance_NZ = mean_NZ[chosen], variance_NZ[chosen]
    mean_NZ, variance_NZ = mean_NZ.astype(np.float64), variance_NZ.astype(np.float64)
    z_NZ = mean_NZ + np.sqrt(variance_NZ) * random.standard_normal(mean_NZ.shape)
    log_density_NN = _log_density(z_NZ, mean_NZ, variance_NZ)
    log_aggregate_N = logsumexp(log_density_NN, axis=1) - math.log(len(z_NZ))
    return float(np.mean(np.diagonal(log_density_NN) - log_aggregate_N)), len(z_NZ)


def _log_density(z_NZ, mean_MZ, variance_MZ) -> np.ndarray:
    """log N(z_n; mean_m, variance_m) without the constant, [N, M]; squares as matrix products."""
    precision_MZ = 1.0 / variance_MZ
    weighted_MZ = mean_MZ * precision_MZ
    distance_NM = (z_NZ**2) @ precision_MZ.T - 2.0 * z_NZ @ weighted_MZ.T
    distance_NM += np.sum(mean_MZ * weighted_MZ, axis=1)
    return -0.5 * (distance_NM + np.log(variance_MZ).sum(axis=1))


def describe_collapse(
    active_by_level: Mapping[str, np.ndarray], mse: float, variance: float
) -> tuple[bool, str]:
    """Judges whether training has lost a level of latents.

    Args:
      active_by_level: level -> bool [Z].
      mse: mean squared error of reconstructions.
      variance: of the same videos about the per-pixel training mean, in the same unit.

    Returns:
      (collapsed, a sentence for the reader).
    """
    share = mse / variance if variance > 0 else math.inf
    reasons = [
        f"none of the {len(active)} units of the {level} latent is active"
        for level, active in active_by_level.items()
        if not active.any()
    ]
    error = f"the reconstruction error is {share:.0%} of the variance about the mean frame"
    # Written so that an error that is not a number counts as collapsed.
    if not share < COLLAPSED_ERROR:
        reasons.append(error)
    if reasons:
        cure = "train longer, or lower objective.beta, raise objective.kl_warmup or free_bits"
        return True, f"WARNING: COLLAPSED: {'; '.join(reasons)}. Try to {cure}."
    units = [f"{active.sum()} of {len(active)} {k}" for k, active in active_by_level.items()]
    if not units:  # codes are not Gaussian, and always cost what they cost
        return False, f"No collapse: {error}."
    return False, f"No collapse: {' and '.join(units)} units are active, and {error}."
