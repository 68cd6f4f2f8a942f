"""Numbers that say what exactly was computed. Imports neither jax nor NumPy.

A `Metric` is a number with its card, and numbers whose cards differ refuse to be compared.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

# The only card key that may differ between numbers that are compared: whose result it is.
METHOD = "method"
_ABSENT = "nothing"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number and what was computed exactly.

    Attributes:
      value: the number; not finite where it could not be computed.
      card: name, unit, definition, aggregation and whatever else fixes the number (split, view,
        size, number of videos, ...); the key `method` names whose result it is.
    """

    value: float
    card: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Returns {"value", "card"} for json.dump; a value that is not finite becomes None."""
        value = float(self.value)
        return {"value": value if math.isfinite(value) else None, "card": dict(self.card)}


def make_metric(
    name: str, value: float, unit: str, definition: str, aggregation: str, **context: Any
) -> Metric:
    """Makes a metric; `context` is added to the card as it is."""
    card = {"name": name, "unit": unit, "definition": definition, "aggregation": aggregation}
    return Metric(float(value), {**card, **context})


def differing_keys(first: Metric, second: Metric) -> tuple[str, ...]:
    """Returns the card keys, sorted, that forbid comparing two metrics; `method` may differ."""
    keys = (set(first.card) | set(second.card)) - {METHOD}
    missing = object()
    return tuple(
        sorted(k for k in keys if first.card.get(k, missing) != second.card.get(k, missing))
    )


def describe_difference(first: Metric, second: Metric) -> str:
    """Returns "key (entry against entry), ..." of the keys that differ; empty if none does."""
    return ", ".join(
        f"{key} ({first.card.get(key, _ABSENT)!r} against {second.card.get(key, _ABSENT)!r})"
        for key in differing_keys(first, second)
    )


def compare(first: Metric, second: Metric) -> float:
    """Returns first.value - second.value.

    Raises:
      ValueError: if the cards differ in anything but `method`; names each key and both entries.
    """
    difference = describe_difference(first, second)
    if difference:
        raise ValueError(f"metrics with different cards are not comparable: {difference}")
    return first.value - second.value
