"""Pieces that every section of the page is made of: sections, tables, lists of facts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vvae.report.markup import Markup, tag


def make_section(identifier: str, title: str, *parts: Markup | None) -> Markup:
    """Returns a section of the page with its heading."""
    heading = tag("h2", title, id=identifier)
    return tag("section", heading, *parts, aria_labelledby=identifier)


def make_paragraph(text, class_: str | None = None) -> Markup:
    """Returns a paragraph."""
    return tag("p", text, class_=class_)


def make_disclosure(
    summary, *parts: Markup | None, identifier: str | None = None, class_: str | None = None
) -> Markup:
    """Returns a part of the page that is unfolded by its summary."""
    return tag("details", tag("summary", summary), *parts, id=identifier, class_=class_)


def make_table(
    caption: str, header: Sequence, rows: Sequence[Sequence], is_sortable: bool = True
) -> Markup:
    """Returns a table that scrolls inside its own box.

    Args:
      caption: above the table.
      header: column heads.
      rows: cells, as many as the header has; the first is the row's head. Markup that begins with
        <td is taken as the whole cell, anything else is put into one.
      is_sortable: whether a click on a column's head sorts the rows.
    """
    columns = [[_make_cell(row[k]) for row in rows] for k in range(1, len(header))]
    are_numbers = [
        bool(cells) and all(cell.startswith('<td class="number"') for cell in cells)
        for cells in columns
    ]
    heads = [
        tag("th", head, scope="col", class_="number" if is_number else None)
        for head, is_number in zip(header, [False, *are_numbers])
    ]
    body = [
        tag("tr", tag("th", first, scope="row"), *[_make_cell(cell) for cell in rest])
        for first, *rest in rows
    ]
    table = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *body),
        class_="sortable" if is_sortable else None,
    )
    # A box that scrolls must be reached by the keyboard too.
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _make_cell(cell) -> Markup:
    if isinstance(cell, Markup) and cell.startswith("<td"):
        return cell
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return tag("td", format_value(cell), class_="number", data_value=cell)
    return tag("td", cell)


def list_facts(facts: Mapping[str, Any]) -> Markup:
    """Returns names and values as a list of two columns."""
    pairs = [
        tag("div", tag("dt", key), tag("dd", format_value(value))) for key, value in facts.items()
    ]
    return tag("dl", *pairs, class_="facts")


def format_value(value) -> str:
    """Returns a JSON value as people write it."""
    if isinstance(value, Markup):
        return value
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
