"""Small charts as inline SVG: curves, bars, and a line without axes. Colours come from the page."""

import math
from collections.abc import Mapping, Sequence

from vvae.report.markup import Markup, join, tag

WIDTH, HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 10, 10, 24
# Points of a curve that are drawn; of longer ones, as many at equal distances.
MAX_POINTS = 600

Curve = Sequence[tuple[float, float]]


def draw_curves(identifier: str, title: str, curves: Mapping[str, Curve]) -> Markup:
    """Draws named curves over the training steps on common axes, with a legend.

    Args:
      identifier: of the SVG's title in the page.
      title: what is drawn, with its unit.
      curves: name -> (step, value) points, ascending, at least one in all.
    """
    points = [point for curve in curves.values() for point in curve]
    last = max(step for step, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    if low == high:
        low, high = low - max(abs(low), 1.0) * 0.1, high + max(abs(high), 1.0) * 0.1

    def place(step: float, value: float) -> str:
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * step / max(last, 1)
        y = _TOP + (HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    marks = []
    for tick in find_ticks(low, high):
        _, y = place(0, tick).split(",")
        marks.append(tag("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y))
        label = format_tick(tick, low, high)
        marks.append(tag("text", label, x=_LEFT - 6, y=y, dy="0.35em", text_anchor="end"))
    for step in sorted({0, last}):
        x, _ = place(step, low).split(",")
        anchor = "start" if step == 0 else "end"
        label = f"step {step:,}" if step else "0"
        marks.append(tag("text", label, x=x, y=HEIGHT - 6, text_anchor=anchor))
    for number, curve in enumerate(curves.values()):
        curve = thin_out(curve, MAX_POINTS)
        path = " ".join(place(*point) for point in curve)
        if len(curve) > 1:
            marks.append(tag("polyline", points=path, class_=f"series series-{number % 6}"))
        if len(curve) <= 24:
            for point in curve:
                x, y = place(*point).split(",")
                marks.append(tag("circle", cx=x, cy=y, r=2.5, class_=f"dot series-{number % 6}"))
    ends = "; ".join(
        f"{name}: {curve[-1][1]:.6g} at step {curve[-1][0]}"
        for name, curve in curves.items()
        if curve
    )
    svg = tag(
        "svg",
        tag("title", f"{title} over the training steps; {ends}", id=identifier),
        *marks,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=identifier,
    )
    legend = [
        tag("span", tag("i", class_=f"key series-{number % 6}"), name)
        for number, name in enumerate(curves)
    ]
    caption = tag("figcaption", tag("strong", title), tag("span", *legend, class_="legend"))
    return tag("figure", caption, svg, class_="chart")


def draw_bars(identifier: str, title: str, values: Sequence[float], marked: Sequence[bool]):
    """Draws a bar a value, largest first; those that are not marked are gray."""
    order = sorted(range(len(values)), key=lambda k: -values[k])
    top = max(max(values, default=0.0), 1e-12)
    step = (WIDTH - _LEFT - _RIGHT) / max(len(values), 1)
    floor = HEIGHT - _BOTTOM
    bars = []
    for tick in find_ticks(0.0, top):
        y = f"{floor - (floor - _TOP) * tick / top:.1f}"
        bars.append(tag("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y))
        label = format_tick(tick, 0.0, top)
        bars.append(tag("text", label, x=_LEFT - 6, y=y, dy="0.35em", text_anchor="end"))
    for place, index in enumerate(order):
        height = (floor - _TOP) * max(values[index], 0.0) / top
        bars.append(
            tag(
                "rect",
                tag("title", f"dimension {index}: {values[index]:.4g}"),
                x=f"{_LEFT + place * step + step * 0.1:.1f}",
                y=f"{floor - height:.1f}",
                width=f"{step * 0.8:.1f}",
                height=f"{height:.1f}",
                class_="bar" if marked[index] else "bar idle",
            )
        )
    caption = f"{len(values)} dimensions, largest first"
    bars.append(tag("text", caption, x=_LEFT, y=HEIGHT - 6, text_anchor="start"))
    svg = tag(
        "svg",
        tag("title", f"{title}; {caption}", id=identifier),
        *bars,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=identifier,
    )
    return tag("figure", tag("figcaption", tag("strong", title)), svg, class_="chart")


def draw_line(values: Sequence[float]) -> Markup:
    """Draws numbers as a line without axes, which a text beside it describes."""
    values = [y for _, y in thin_out(list(enumerate(values)), 200)]
    low, span = min(values), (max(values) - min(values)) or 1.0
    width = 120 / max(len(values) - 1, 1)
    points = [(k * width, 22 - 20 * (value - low) / span) for k, value in enumerate(values)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = tag("polyline", points=path, class_="series series-0")
    return tag("svg", line, viewBox="-1 0 122 24", class_="spark", aria_hidden="true")


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
    """Returns about `count` points at most, at equal distances, the first and the last included."""
    if len(points) <= count:
        return points
    stride = -(-len(points) // count)
    kept = list(points[::stride])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def join_charts(charts: Sequence[Markup]) -> Markup:
    """Returns charts side by side where there is room."""
    return tag("div", join(*charts), class_="charts")
