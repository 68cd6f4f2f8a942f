"""Values of a measure on resampled units, the same resamples for every row of a table.

Two rows are compared on the same resamples, so that what makes a unit hard for both cancels.
"""

from collections.abc import Callable, Sequence

import numpy as np

from vvae.metrics.intervals import bootstrap_units, find_percentiles


def draw_values(
    measure: Callable[..., float], cases: Sequence[np.ndarray], unit_V: np.ndarray
) -> list[float]:
    """Returns the values of a measure on the 1000 resamples of whole units of `bootstrap_units`.

    The resamples depend on the number of units alone: rows with the same units share them.

    Args:
      measure: A function of as many arrays as `cases` has; NaN where it is undefined.
      cases: Arrays whose first axis is that of the V cases.
      unit_V: The unit of each case.
    """
    values = []

    def record(*chosen) -> float:
        values.append(float(measure(*chosen)))
        return values[-1]

    bootstrap_units(record, cases, unit_V, seed=0)
    return values


def find_interval(value_R: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of drawn values by their percentiles, undefined ones left out.

    Raises:
      ValueError: If no value is defined.
    """
    if np.isnan(value_R).all():
        raise ValueError("the measure is undefined on every resample")
    return find_percentiles(value_R)


def find_p_value(difference_R: np.ndarray) -> float:
    """Returns the two-sided p-value of a paired bootstrap: how often a difference changes sign.

    At least 2 / (R + 1), since R resamples cannot show less.

    References:
      Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 15
    """
    defined = difference_R[~np.isnan(difference_R)]
    fewer = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (fewer + 1) / (len(defined) + 1)))
