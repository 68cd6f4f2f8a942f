"""How sure one may be of a detector: calibration, and intervals of rates and of rankings."""

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NUM_BINS = 10
NUM_RESAMPLES = 1000


def balance_kinds(unwanted_V: np.ndarray) -> np.ndarray:
    """Weights, float64 [V], under which both kinds count one half; they sum to 1.

    Raises:
      ValueError: if one kind is missing.
    """
    unwanted_V = np.asarray(unwanted_V, bool)
    num_unwanted, num_wanted = int(unwanted_V.sum()), int((~unwanted_V).sum())
    if not num_unwanted or not num_wanted:
        raise ValueError(f"both kinds are needed, got {num_wanted} wanted, {num_unwanted} unwanted")
    return np.where(unwanted_V, 0.5 / num_unwanted, 0.5 / num_wanted)


def measure_calibration(probability_V: np.ndarray, unwanted_V: np.ndarray) -> dict[str, float]:
    """Returns `brier` and `ece`, in [0, 1], with both kinds weighted to one half.

    `brier` is the mean of (probability - truth)^2 (Brier 1950): 0.25 for a constant 0.5. `ece` is
    the expected calibration error: over 10 bins of equal width, the weight of a bin times the
    distance of its mean probability from its share of unwanted videos. NaN without both kinds.
    """
    unwanted_V = np.asarray(unwanted_V, bool)
    if unwanted_V.all() or not unwanted_V.any():
        return {"brier": math.nan, "ece": math.nan}
    weight_V = balance_kinds(unwanted_V)
    distance_V = weight_V * (probability_V - unwanted_V)
    bin_V = np.minimum((probability_V * NUM_BINS).astype(int), NUM_BINS - 1)
    error_B = np.bincount(bin_V, distance_V)
    return {
        "brier": float(np.sum(weight_V * np.square(probability_V - unwanted_V))),
        "ece": round(float(np.abs(error_B).sum()), 12),  # 0 where only rounding errors are left
    }


def estimate_share(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share of independent cases (Wilson 1927); NaN without a case."""
    if not total:
        return math.nan, math.nan
    z = stats.norm.ppf(0.5 + CONFIDENCE / 2)
    share, scale = count / total, 1.0 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def bootstrap_groups(
    measure: Callable[[np.ndarray, np.ndarray], float],
    score_V: np.ndarray,
    unwanted_V: np.ndarray,
    group_V: np.ndarray,
    seed: int,
) -> tuple[float, float]:
    """95 % interval by the percentiles of 1000 resamples of whole groups (Efron 1979).

    Videos of one group are alike, so that groups are drawn, not videos. Resamples for which the
    measure is not defined do not count; NaN if it is defined for none.

    Args:
      measure: (scores, unwanted) -> number.
      score_V, unwanted_V, group_V: of the videos.
      seed: of the draws.
    """
    _, group_V = np.unique(group_V, return_inverse=True)
    own_G = [np.flatnonzero(group_V == group) for group in range(group_V.max() + 1)]
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    values = []
    for _ in range(NUM_RESAMPLES):
        chosen = np.concatenate([own_G[g] for g in random.integers(len(own_G), size=len(own_G))])
        values.append(measure(score_V[chosen], unwanted_V[chosen]))
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return math.nan, math.nan
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
