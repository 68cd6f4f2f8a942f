"""Small charts as plain values: chart.html draws them as inline SVG, report.css colours them."""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any

# Points of a curve that are drawn; a longer curve is thinned out to about as many.
MAX_POINTS = 600
_MAX_DOTS = 24

Curve = Sequence[tuple[float, float]]


# The size of a chart and the edges of its axes, in SVG units.
FRAME = types.SimpleNamespace(width=360, height=200, left=62, right=350, top=10, bottom=176)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart of curves or of bars, with coordinates as text.

    Attributes:
      identifier: id of the SVG's title in the page.
      title: caption, with the unit.
      description: what a screen reader says.
      ticks: (y, label) of the horizontal grid lines.
      labels: (x, text-anchor, text) below the axis.
      series: (name, points of the line, dots) of each curve; a single point has no line.
      bars: title, x, y, width, height, is_idle of each bar; idle bars are gray.
    """

    identifier: str
    title: str
    description: str
    ticks: Sequence[tuple[str, str]]
    labels: Sequence[tuple[str, str, str]]
    series: Sequence[tuple[str, str, Sequence[tuple[str, str]]]] = ()
    bars: Sequence[Mapping[str, Any]] = ()


def plot_curves(identifier: str, title: str, curves: Mapping[str, Curve]) -> Chart:
    """Returns a chart of named curves over the training steps, on common axes.

    Args:
      identifier: id of the SVG's title in the page.
      title: what the curves show, with its unit.
      curves: name -> (step, value) points in ascending order; at least one point in all.
    """
    points = [point for curve in curves.values() for point in curve]
    last = max(step for step, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    if low == high:
        low, high = low - max(abs(low), 1.0) * 0.1, high + max(abs(high), 1.0) * 0.1

    def place_step(step: float) -> str:
        return f"{FRAME.left + (FRAME.right - FRAME.left) * step / max(last, 1):.1f}"

    series = []
    for name, curve in curves.items():
        thin = thin_out(curve, MAX_POINTS)
        dots = [(place_step(step), _place_value(value, low, high)) for step, value in thin]
        line = " ".join(f"{x},{y}" for x, y in dots) if len(dots) > 1 else ""
        series.append((name, line, dots if len(dots) <= _MAX_DOTS else ()))
    ends = [f"{n}: {c[-1][1]:.6g} at step {c[-1][0]}" for n, c in curves.items() if c]
    return Chart(
        identifier=identifier,
        title=title,
        description=f"{title} over the training steps; {'; '.join(ends)}",
        ticks=_make_ticks(low, high),
        labels=[
            (place_step(step), "end" if step else "start", f"step {step:,}" if step else "0")
            for step in sorted({0, last})
        ],
        series=series,
    )


def plot_bars(
    identifier: str, title: str, values: Sequence[float], marked: Sequence[bool]
) -> Chart:
    """Returns a chart with one bar per value, largest first; bars that are not marked are idle."""
    high = max(max(values, default=0.0), 1e-12)
    step = (FRAME.right - FRAME.left) / max(len(values), 1)
    bars = []
    for place, index in enumerate(sorted(range(len(values)), key=lambda k: -values[k])):
        height = (FRAME.bottom - FRAME.top) * max(values[index], 0.0) / high
        bar = {
            "title": f"dimension {index}: {values[index]:.4g}",
            "x": f"{FRAME.left + place * step + step * 0.1:.1f}",
            "y": f"{FRAME.bottom - height:.1f}",
            "width": f"{step * 0.8:.1f}",
            "height": f"{height:.1f}",
            "is_idle": not marked[index],
        }
        bars.append(bar)
    caption = "1 dimension" if len(values) == 1 else f"{len(values)} dimensions, largest first"
    return Chart(
        identifier=identifier,
        title=title,
        description=f"{title}; {caption}",
        ticks=_make_ticks(0.0, high),
        labels=[(str(FRAME.left), "start", caption)],
        bars=bars,
    )


def plot_line(values: Sequence[float]) -> str:
    """Returns the points of a line without axes, 120 units wide and 20 high."""
    values = [y for _, y in thin_out(list(enumerate(values)), 200)]
    low, span = min(values), (max(values) - min(values)) or 1.0
    width = 120 / max(len(values) - 1, 1)
    points = [(k * width, 22 - 20 * (value - low) / span) for k, value in enumerate(values)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _place_value(value: float, low: float, high: float) -> str:
    return f"{FRAME.top + (FRAME.bottom - FRAME.top) * (high - value) / (high - low):.1f}"


def _make_ticks(low: float, high: float) -> list[tuple[str, str]]:
    ticks = find_ticks(low, high)
    return [(_place_value(tick, low, high), format_tick(tick, low, high)) for tick in ticks]


def find_ticks(low: float, high: float) -> list[float]:
    """Returns a few round numbers, at least three, between low and high, low < high."""
    power = 10.0 ** math.floor(math.log10(high - low))
    for step in (power, power / 2, power / 5, power / 10):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first >= 2:
            break
    return [k * step for k in range(first, last + 1)]


def format_tick(value: float, low: float, high: float) -> str:
    """Returns a number with as many decimals as the range between low and high needs."""
    largest, span = max(abs(low), abs(high)), high - low
    if largest >= 1e7 or span < 1e-4:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 1 - math.floor(math.log10(span)))}f}"


def thin_out(points: Sequence, count: int) -> Sequence:
    """Returns at most about `count` points at equal distances, with the first and the last."""
    if len(points) <= count:
        return points
    stride = -(-len(points) // count)
    kept = list(points[::stride])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]
