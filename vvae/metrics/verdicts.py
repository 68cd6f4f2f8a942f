"""Is a difference of two methods proven? Imports neither jax nor NumPy."""

from typing import Literal

SIGNIFICANCE = 0.05

Verdict = Literal["ahead", "behind", "open"]


def judge_difference(low: float | None, high: float | None, p_value: float | None) -> Verdict:
    """Says whether the first of two methods is proven to be ahead of, or behind, the second.

    It is proven if the paired test rejects that they are alike at the level of 0.05 and the 95 %
    interval of the difference excludes 0. Few units can prove nothing: sign flips of five have a
    p-value of at least 0.06.

    Args:
      low, high: The interval of the first method's measure less the second's; higher is better.
      p_value: Two-sided, of a paired test. None or NaN if there is none: then nothing is proven.
    """
    if low is None or high is None or p_value is None or not p_value < SIGNIFICANCE:
        return "open"
    return "ahead" if low > 0 else "behind" if high < 0 else "open"
