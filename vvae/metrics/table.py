"""Formats aligned plain-text tables."""

import math
from collections.abc import Mapping, Sequence

from vvae.metrics.cards import Metric


def format_number(value: float) -> str:
    """Formats four significant digits, at most four of them decimals; "-" if not finite.

    Counts, which are of type int, are written in full.
    """
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return "-"
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    digits = math.floor(math.log10(abs(value))) + 1 if value else 0
    return f"{value:.{min(4, max(0, 4 - digits))}f}"


def format_metric(metric: Metric) -> str:
    """Formats the value of a metric, and its interval if it has one: `0.8767 [0.817, 0.924]`."""
    value, interval = format_number(metric.value), metric.interval
    return value if interval is None else f"{value} [{interval.low:.3f}, {interval.high:.3f}]"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns lines of text: the first column is aligned left, the others right.

    Args:
      header: The names of the columns.
      rows: The cells, as many in each row as the header has.
    """
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[k]) for row in table) for k in range(len(header))]
    lines = ["  ".join(_pad(row, widths)).rstrip() for row in table]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _pad(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [row[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:])]


def format_metrics(title: str, rows: Mapping[str, Mapping[str, Metric]]) -> str:
    """Returns a table of methods and metrics with units, and "-" where a method lacks a metric.

    The more numerous of the two, methods or metrics, are the rows.

    Args:
      title: The head of the first column.
      rows: Method -> metric name -> metric.
    """
    units = {name: metric.card["unit"] for row in rows.values() for name, metric in row.items()}
    header = [title] + [f"{name} ({unit})" if unit else name for name, unit in units.items()]
    body = [
        [method] + [format_metric(row[name]) if name in row else "-" for name in units]
        for method, row in rows.items()
    ]
    if len(units) > len(rows):
        header, *body = zip(header, *body)
    return format_table(header, body)
