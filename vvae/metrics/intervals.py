"""Confidence intervals and tests over independent units: people, environments, videos.

The cases of one unit are alike. Intervals over cases, or over training seeds alone, are too narrow
for new units; here whole units are resampled.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NUM_RESAMPLES = 1000
MAX_EXACT_UNITS = 16
NUM_PERMUTATIONS = 20_000


def estimate_share(count: int, total: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share of independent cases (Wilson 1927); NaN for none."""
    if not total:
        return math.nan, math.nan
    low, high = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


def bootstrap_units(
    measure: Callable[..., float],
    cases: Sequence[np.ndarray],
    unit_V: np.ndarray,
    *,
    seed: int,
) -> tuple[float, float]:
    """Returns the 95 % interval of a measure by the percentiles of 1000 resamples of whole units.

    Resamples for which the measure is undefined are left out; the interval is NaN if it is
    undefined for all. For a paired comparison of two methods on the same cases, pass the cases of
    both and a measure that returns a difference: `bootstrap_difference`.

    Args:
      measure: A function of as many arrays as `cases` has, such as `auroc` (scores, abnormal),
        `f1_from_counts` (hits, false alarms, misses) or a mean; NaN where it is undefined.
      cases: Arrays whose first axis is that of the V cases.
      unit_V: The unit of each case; any values that compare equal within a unit.
      seed: The seed of the draws.

    Note:
      With few units (about 10), percentile intervals cover less than 95 %.

    References:
      Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979
      Cameron, Gelbach, Miller, "Bootstrap-Based Improvements for Inference with Clustered Errors",
      2008
    """
    _, unit_V = np.unique(unit_V, return_inverse=True)
    own_U = [np.flatnonzero(unit_V == unit) for unit in range(unit_V.max() + 1)]
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    values = []
    for _ in range(NUM_RESAMPLES):
        chosen = np.concatenate([own_U[u] for u in random.integers(len(own_U), size=len(own_U))])
        values.append(measure(*(case_V[chosen] for case_V in cases)))
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return math.nan, math.nan
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_difference(
    measure: Callable[[np.ndarray, np.ndarray], float],
    scores: tuple[np.ndarray, np.ndarray],
    truth_V: np.ndarray,
    unit_V: np.ndarray,
    *,
    seed: int,
) -> tuple[float, float]:
    """Returns the 95 % interval of the first method's measure less the second's, on the same cases.

    Both methods are measured on the same resample each time, so that what makes a unit hard for
    both cancels.

    Args:
      measure: A function (scores, truth) -> number.
      scores: The scores of both methods, each [V].
      truth_V: What the scores are measured against.
      unit_V: The unit of each case.
      seed: The seed of the draws.
    """

    def subtract(first_V, second_V, truth_V):
        return measure(first_V, truth_V) - measure(second_V, truth_V)

    return bootstrap_units(subtract, (*scores, truth_V), unit_V, seed=seed)


def permute_difference(difference_U: np.ndarray, *, seed: int) -> float:
    """Returns the two-sided p-value of a sign-flip permutation test of two methods on U units.

    Under the hypothesis that both methods are alike, they may be swapped in any unit, which flips
    the sign of its difference. All 2^U sign patterns are tried for up to 16 units; for more, 20,000
    are drawn, and the pattern as measured counts as one of them.

    Args:
      difference_U: One number per unit, such as the hits of the first method less those of the
        second.
      seed: The seed of the draws.

    Raises:
      ValueError: If there is no unit or a difference is not finite.

    References:
      Fisher, "The Design of Experiments", 1935
    """
    difference_U = np.asarray(difference_U, np.float64)
    if not len(difference_U) or not np.isfinite(difference_U).all():
        raise ValueError(f"a permutation test needs finite differences, got {difference_U}")
    exact = len(difference_U) <= MAX_EXACT_UNITS
    if exact:
        sign_PU = np.array(list(itertools.product((1, -1), repeat=len(difference_U))), np.int8)
    else:
        random = np.random.Generator(np.random.Philox(key=[seed, 1]))
        sign_PU = 1 - 2 * random.integers(2, size=(NUM_PERMUTATIONS, len(difference_U)), dtype=int)
    # Rounding errors of the sums must not break ties with the sum as measured.
    smallest = abs(difference_U.sum()) - 1e-9 * np.abs(difference_U).sum()
    extreme = int((np.abs(sign_PU @ difference_U) >= smallest).sum())
    return extreme / len(sign_PU) if exact else (extreme + 1) / (len(sign_PU) + 1)
