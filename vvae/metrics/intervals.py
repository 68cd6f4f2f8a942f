"""Confidence intervals and tests over independent units: people, environments, videos.

The cases of one unit are alike. Intervals over cases, or over training seeds alone, are too narrow
for new units; here whole units are resampled.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from vvae.metrics.cards import Interval

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
    values = []
    for drawn_U in _draw(len(own_U), seed):
        chosen = np.concatenate([own_U[u] for u in drawn_U])
        values.append(measure(*(case_V[chosen] for case_V in cases)))
    return find_percentiles(np.array(values))


def _draw(num_units: int, seed: int) -> np.ndarray:
    """Draws the units of each resample, int [R, U]."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    return random.integers(max(num_units, 1), size=(NUM_RESAMPLES, num_units))


def find_percentiles(value_R: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the middle 95 % of the values that are not NaN; NaN if all are."""
    value_R = value_R[~np.isnan(value_R)]
    if not len(value_R):
        return math.nan, math.nan
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(value_R, [tail, 100 - tail])
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


# --- measures of all resamples at once ------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """The independent units of V cases, and how often each resample holds them.

    Attributes:
      index_V: int; the unit of each case, 0, ..., U - 1.
      weight_RU: float64; the draws are those of `bootstrap_units`.
      noun: What the units are, plural: videos, groups of videos.
      seed: The seed of the draws.
    """

    index_V: np.ndarray
    weight_RU: np.ndarray
    noun: str
    seed: int

    def __len__(self) -> int:
        return self.weight_RU.shape[1]

    @property
    def text(self) -> str:
        """The units in words, such as "10 groups of videos"."""
        return f"{len(self)} {self.noun}"

    def select(self, chosen_V: np.ndarray) -> "Units":
        """Returns the units of some of the cases; each unit keeps a case."""
        return make_units(self.index_V[chosen_V], self.noun, seed=self.seed)

    def add(self, value_V: np.ndarray) -> np.ndarray:
        """Returns the sum of the values over the cases of each unit, float64 [U]."""
        return np.bincount(self.index_V, np.asarray(value_V, np.float64), minlength=len(self))


def make_units(unit_V: np.ndarray, noun: str, *, seed: int) -> Units:
    """Draws the resamples of the units of V cases; `unit_V` holds any values that compare equal."""
    names_U, index_V = np.unique(unit_V, return_inverse=True)
    weight_RU = np.zeros((NUM_RESAMPLES, len(names_U)))
    np.add.at(weight_RU, (np.arange(NUM_RESAMPLES)[:, None], _draw(len(names_U), seed)), 1.0)
    return Units(index_V, weight_RU, noun, seed)


def resample_ratio(units: Units, above_V: np.ndarray, below_V: np.ndarray) -> np.ndarray:
    """Returns the ratio of two sums for each resample, float64 [R]; NaN where the second is 0."""
    above_R = units.weight_RU @ units.add(above_V)
    below_R = units.weight_RU @ units.add(below_V)
    return np.where(below_R > 0, above_R / np.where(below_R > 0, below_R, 1.0), math.nan)


def resample_auroc(units: Units, score_V: np.ndarray, positive_V: np.ndarray) -> np.ndarray:
    """Returns the AUROC of each resample, float64 [R]; NaN where one kind is missing.

    A resample with weights w has the AUROC w' C w / (w' p  w' n), where C[i, j] counts the pairs of
    a positive case of unit i above a negative case of unit j (ties half), and p and n count the
    cases. So the cases are compared once, not once a resample.
    """
    positive_V = np.asarray(positive_V, bool)
    if np.isnan(score_V).any():
        return np.full(len(units.weight_RU), math.nan)
    index_P, score_P = units.index_V[positive_V], score_V[positive_V]
    pairs_UU = np.zeros((len(units), len(units)))
    for unit in range(len(units)):
        negative = np.sort(score_V[~positive_V & (units.index_V == unit)])
        sides = (np.searchsorted(negative, score_P, side) for side in ("left", "right"))
        pairs_UU[:, unit] = np.bincount(index_P, sum(sides) / 2, minlength=len(units))
    weight_RU = units.weight_RU
    wins_R = np.einsum("ru,ru->r", weight_RU @ pairs_UU, weight_RU)
    total_R = (weight_RU @ units.add(positive_V)) * (weight_RU @ units.add(~positive_V))
    return np.where(total_R > 0, wins_R / np.where(total_R > 0, total_R, 1.0), math.nan)


def resample_average_precision(
    units: Units, score_V: np.ndarray, positive_V: np.ndarray
) -> np.ndarray:
    """Returns the average precision of each resample, float64 [R]; NaN without positive cases."""
    order = np.argsort(-score_V, kind="stable")
    positive_V, index_V = np.asarray(positive_V, bool)[order], units.index_V[order]
    # Equal scores are one threshold: only the last of them counts.
    last_V = np.append(np.diff(score_V[order]) != 0, True)
    value_R = np.empty(len(units.weight_RU))
    for row, weight_U in enumerate(units.weight_RU):
        weight_V = weight_U[index_V]
        hits_S, all_S = (np.cumsum(w)[last_V] for w in (weight_V * positive_V, weight_V))
        gained_S = np.diff(hits_S, prepend=0.0)
        total = hits_S[-1]
        precision_S = hits_S / np.maximum(all_S, 1.0)
        value_R[row] = gained_S @ precision_S / total if total else math.nan
    return value_R


def estimate_interval(units: Units, value: float, value_R: np.ndarray) -> Interval | None:
    """Returns the 95 % interval of a measure in [0, 1], from its resamples.

    Where all resamples give 0 or all give 1, percentiles would claim certainty: then the interval
    is Wilson's of a share of as many cases as there are units. None for a value that is undefined,
    and for fewer than two units, of which nothing can be resampled.
    """
    if len(units) < 2 or math.isnan(value):
        return None
    low, high = find_percentiles(value_R)
    if math.isnan(low):
        return None
    if low == high and value in (0.0, 1.0):
        low, high = estimate_share(round(value * len(units)), len(units))
        return Interval(low, high, f"{CONFIDENCE:.0%}, Wilson, {units.text}")
    return Interval(low, high, f"{CONFIDENCE:.0%}, {NUM_RESAMPLES} resamples of {units.text}")


def estimate_mean(units: Units, hit_V: np.ndarray) -> Interval | None:
    """Returns the 95 % interval of the share of hits, bool [V].

    Independent cases have Wilson's interval; others are resampled by unit.
    """
    if len(units) == len(hit_V) and len(units) > 1:
        low, high = estimate_share(int(np.sum(hit_V)), len(hit_V))
        return Interval(low, high, f"{CONFIDENCE:.0%}, Wilson, {units.text}")
    value_R = resample_ratio(units, hit_V, np.ones(len(hit_V)))
    return estimate_interval(units, float(np.mean(hit_V)), value_R)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired difference of two methods on the same cases.

    Attributes:
      value: The measure of the first method less that of the second.
      low, high: Its 95 % interval; NaN for fewer than two units.
      p_value: Two-sided, of a paired test over units; NaN for fewer than two.
      test: The test, in words.
    """

    value: float
    low: float
    high: float
    p_value: float
    test: str


def compare_means(units: Units, first_V: np.ndarray, second_V: np.ndarray) -> Difference:
    """Compares two methods by the mean over cases: the resampled difference, a sign-flip test.

    Args:
      units: The units of the cases.
      first_V, second_V: The value of each case under both methods, such as hits.
    """
    apart_V = np.asarray(first_V, np.float64) - np.asarray(second_V, np.float64)
    value = float(apart_V.mean())
    test = f"sign flips of {units.text}"
    if len(units) < 2:
        return Difference(value, math.nan, math.nan, math.nan, test)
    low, high = find_percentiles(resample_ratio(units, apart_V, np.ones(len(apart_V))))
    p_value = permute_difference(units.add(apart_V), seed=units.seed)
    return Difference(value, low, high, p_value, test)


def compare_resamples(
    units: Units, values: tuple[float, float], resampled: tuple[np.ndarray, np.ndarray]
) -> Difference:
    """Compares two methods by a measure of their resamples, which are paired.

    The p-value is twice the smaller share of resamples on one side of 0, at least 2 / (R + 1).

    Args:
      units: The units of the cases.
      values: The measure of both methods.
      resampled: The measure of both in each resample, each [R].
    """
    apart_R = resampled[0] - resampled[1]
    low, high = find_percentiles(apart_R)
    apart_R, test = apart_R[~np.isnan(apart_R)], f"paired resamples of {units.text}"
    if len(units) < 2 or not len(apart_R):
        return Difference(values[0] - values[1], math.nan, math.nan, math.nan, test)
    rarer = 1 + min(np.sum(apart_R <= 0), np.sum(apart_R >= 0))
    p_value = min(1.0, 2.0 * float(rarer) / (len(apart_R) + 1))
    return Difference(values[0] - values[1], low, high, p_value, test)


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
