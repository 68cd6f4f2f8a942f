"""JSON values as text, and tables of them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Label:
    """The head of a column or a row, with a unit if it has one, and a note on what it is."""

    text: str
    unit: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table, which may link to an id in the page.

    `key` is the number to sort by, "" if it is missing; None if the cell is not a number.
    """

    text: str
    key: float | str | None = None
    target: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: (label, whether all are numbers) for each column, (label, cells) for each row."""

    caption: str
    header: Sequence[tuple[Label, bool]]
    rows: Sequence[tuple[Label, Sequence[Cell]]]


def make_table(caption: str, header: Sequence, rows: Sequence[Sequence]) -> Table:
    """Returns a table.

    Args:
      caption: text above the table.
      header: column heads, each a Label or text.
      rows: as many values as the header has; the first is the head of the row (a Label or text),
        the others are Cells or JSON values.
    """
    body = [(_make_label(head), [_make_cell(value) for value in rest]) for head, *rest in rows]
    columns = [[cells[k] for _, cells in body] for k in range(len(header) - 1)]
    are_numbers = [bool(body) and all(c.key is not None for c in cells) for cells in columns]
    heads = [_make_label(head) for head in header]
    return Table(caption, list(zip(heads, [False, *are_numbers])), body)


def _make_label(value) -> Label:
    return value if isinstance(value, Label) else Label(_format_plain(value))


def _make_cell(value) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(format_value(value), key=value)
    return Cell(_format_plain(value))


def _format_plain(value) -> str:
    return "" if value is None else str(value)


def format_value(value) -> str:
    """Returns a JSON value as people write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.10g}" if math.isfinite(value) else "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {format_value(item)}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_value(item) for item in value) or "none"
    return str(value)


def format_bytes(size: int) -> str:
    """Returns a size in kB or MB (powers of 1000)."""
    if size < 1_000_000:
        return f"{max(1, round(size / 1000))} kB"
    return f"{size / 1e6:.1f} MB" if size < 1e7 else f"{size / 1e6:.0f} MB"


def as_mapping(value) -> Mapping[str, Any]:
    """Returns a mapping as it is, and an empty one for anything else that a file may hold."""
    return value if isinstance(value, Mapping) else {}
