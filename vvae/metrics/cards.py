"""Metrics with cards that state exactly what was computed. Imports neither jax nor NumPy.

A `Metric` is a number with its card. Metrics with different cards refuse to be compared.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

# The only key that may differ between the cards of compared metrics: the method that was measured.
METHOD = "method"
_ABSENT = "nothing"


@dataclasses.dataclass(frozen=True)
class Interval:
    """A confidence interval of a number.

    Attributes:
      low, high: Its ends.
      text: Its confidence, method and independent units, in words.
    """

    low: float
    high: float
    text: str


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number, and a card that states exactly what was computed.

    Attributes:
      value: The number, an int for a count; not finite if it could not be computed.
      card: The name, unit, definition and aggregation, and everything else that determines the
        number (split, view, size, number of videos, ...). The key `method` names the measured
        method.
      interval: The confidence interval, or None. It is no part of the card: numbers are comparable
        whether or not they have one.
    """

    value: float
    card: Mapping[str, Any]
    interval: Interval | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns {"value", "card"} for json.dump, and "interval" if there is one.

        A value that is not finite becomes None.
        """
        value = self.value if math.isfinite(self.value) else None
        content: dict[str, Any] = {"value": value, "card": dict(self.card)}
        if self.interval is not None:
            content["interval"] = dataclasses.asdict(self.interval)
        return content


def make_metric(
    name: str, value: float, unit: str, definition: str, aggregation: str, **context: Any
) -> Metric:
    """Makes a metric; `context` is added to the card unchanged. An int stays one: it is a count."""
    card = {"name": name, "unit": unit, "definition": definition, "aggregation": aggregation}
    return Metric(value if isinstance(value, int) else float(value), {**card, **context})


def differing_keys(first: Metric, second: Metric) -> tuple[str, ...]:
    """Returns the sorted card keys that forbid comparing two metrics; `method` may differ."""
    keys = (set(first.card) | set(second.card)) - {METHOD}
    missing = object()
    return tuple(
        sorted(k for k in keys if first.card.get(k, missing) != second.card.get(k, missing))
    )


def describe_difference(first: Metric, second: Metric) -> str:
    """Returns "key (entry against entry), ..." for the keys that differ; empty if none does."""
    return ", ".join(
        f"{key} ({first.card.get(key, _ABSENT)!r} against {second.card.get(key, _ABSENT)!r})"
        for key in differing_keys(first, second)
    )


def compare(first: Metric, second: Metric) -> float:
    """Returns first.value - second.value.

    Raises:
      ValueError: If the cards differ in anything but `method`; names each key and both entries.
    """
    difference = describe_difference(first, second)
    if difference:
        raise ValueError(f"metrics with different cards are not comparable: {difference}")
    return first.value - second.value
