"""Diagnoses what the latents carry: active units, mutual information, and collapsed levels.

Pure NumPy on posteriors. N is the number of frames or clips, whichever a level has one posterior
for.
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
    """Finds the latent dimensions that carry information about their input.

    A unit is active if Var_x(E z) / (Var_x(E z) + E_x Var z) > 0.05 and its KL > 0.01 nat. The
    ratio does not depend on the scale that a learned prior gives to a unit.

    Args:
      mean_NZ: The posterior means of N inputs.
      variance_NZ: The posterior variances of N inputs.
      kl_Z: The mean KL of each dimension, nats.

    Returns:
      bool [Z].
    """
    between_Z = mean_NZ.var(axis=0, dtype=np.float64)
    within_Z = variance_NZ.mean(axis=0, dtype=np.float64)
    return (between_Z > ACTIVE_SHARE * (between_Z + within_Z)) & (kl_Z > ACTIVE_KL)


def count_burda_units(mean_NZ: np.ndarray) -> int:
    """Counts the dimensions with Var_x(E z) > 0.01; meaningful under a N(0, I) prior only.

    References:
      Burda et al., "Importance Weighted Autoencoders", ICLR 2016
    """
    return int(np.sum(mean_NZ.var(axis=0, dtype=np.float64) > BURDA_VARIANCE))


def estimate_mutual_information(
    mean_NZ: np.ndarray, variance_NZ: np.ndarray, max_inputs: int, seed: int
) -> tuple[float, int]:
    """Estimates the mutual information of an input and its latent from the aggregate posterior.

    The estimate is the mean over n of log q(z_n | x_n) - log(1/N sum_m q(z_n | x_m)) with one
    sample z_n ~ q(z | x_n).

    Args:
      mean_NZ: The means of the Gaussian posteriors.
      variance_NZ: The variances of the Gaussian posteriors.
      max_inputs: The largest number of inputs; if there are more, they are drawn without
        replacement.
      seed: The seed of that draw and of the latents.

    Returns:
      (estimate in nats, N).

    Note:
      The estimate cannot exceed log N, so report N with it. It may be slightly negative.
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
    """Returns log N(z_n; mean_m, variance_m) without its constant, [N, M], by matrix products."""
    precision_MZ = 1.0 / variance_MZ
    weighted_MZ = mean_MZ * precision_MZ
    distance_NM = (z_NZ**2) @ precision_MZ.T - 2.0 * z_NZ @ weighted_MZ.T
    distance_NM += np.sum(mean_MZ * weighted_MZ, axis=1)
    return -0.5 * (distance_NM + np.log(variance_MZ).sum(axis=1))


def describe_collapse(
    active_by_level: Mapping[str, np.ndarray], mse: float, variance: float
) -> tuple[bool, str]:
    """Judges whether a level of latents has collapsed.

    Args:
      active_by_level: Level -> bool [Z].
      mse: The mean squared error of the reconstructions.
      variance: The variance of the same videos about the per-pixel training mean, in the same unit.

    Returns:
      (whether a level has collapsed, a sentence for the reader).
    """
    share = mse / variance if variance > 0 else math.inf
    reasons = [
        f"none of the {len(active)} units of the {level} latent is active"
        for level, active in active_by_level.items()
        if not active.any()
    ]
    error = f"the reconstruction error is {share:.0%} of the variance about the mean frame"
    # The negated comparison makes a NaN count as collapsed.
    if not share < COLLAPSED_ERROR:
        reasons.append(error)
    if reasons:
        cure = "train longer, or lower objective.beta, raise objective.kl_warmup or free_bits"
        return True, f"WARNING: COLLAPSED: {'; '.join(reasons)}. Try to {cure}."
    units = [f"{active.sum()} of {len(active)} {k}" for k, active in active_by_level.items()]
    if not units:  # discrete codes have a fixed cost and no Gaussian posterior
        return False, f"No collapse: {error}."
    return False, f"No collapse: {' and '.join(units)} units are active, and {error}."
