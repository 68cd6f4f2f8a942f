"""The answers of the tasks: tables, metric cards, pictures, files and details.

Nothing here knows which tasks exist: an answer is shown by the content of its JSON file.
"""

import csv
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vvae.report.charts import plot_line
from vvae.report.files import RunFiles, TaskAnswer, TaskFile
from vvae.report.headlines import describe_headline, find_unit, format_metric
from vvae.report.media import PICTURES, VIDEOS, Inliner
from vvae.report.values import Cell, Label, Table, as_mapping, format_value, make_table

_MAX_PREVIEW = 10
_MAX_COLUMNS = 12
_MAX_ITEMS = 12
_MAX_DEPTH = 4
# Entries of a metric card that stay beside its value even if all cards share them.
_OWN_KEYS = ("name", "unit", "definition", "aggregation", "method")


def describe_answers(run: RunFiles, inliner: Inliner) -> list[dict[str, Any]]:
    """Returns the sections of the tasks, in their order on the page."""
    return [_describe_answer(number, answer, inliner) for number, answer in enumerate(run.answers)]


def _describe_answer(number: int, answer: TaskAnswer, inliner: Inliner) -> dict[str, Any]:
    return {
        "identifier": f"task-{number}-{re.sub('[^a-z0-9]+', '-', answer.task.lower()).strip('-')}",
        "title": answer.title,
        "notes": answer.notes,
        "headline": describe_headline(answer),
        "text_tables": [_tabulate_text(table) for table in answer.tables],
        **_describe_metrics(number, answer),
        **_describe_files(answer, inliner),
        "details": describe_value(answer.details) if answer.details else None,
        "link": inliner.link(answer.path),
    }


def _tabulate_text(table: Mapping[str, Any]) -> Table:
    header = [str(name) for name in table.get("header") or ()]
    rows = [_fit([str(cell) for cell in row], len(header)) for row in table.get("rows") or ()]
    return make_table(str(table.get("title", "")), header, rows)


# --- tables and metric cards ----------------------------------------------------------------------


def _describe_metrics(number: int, answer: TaskAnswer) -> dict[str, Any]:
    """Returns the table of an answer (None without values), its cards, and what they share."""
    units: dict[str, str] = {}
    for row in answer.rows.values():
        for name, metric in row.items():
            units.setdefault(name, find_unit(metric))
    cards = [as_mapping(m.get("card")) for row in answer.rows.values() for m in row.values()]
    shared = find_shared(cards) if len(cards) > 1 else {}
    columns = list(units)
    return {
        "table": _tabulate_metrics(number, answer, units) if cards else None,
        "shared": shared,
        "cards": [
            {
                "identifier": _name_card(number, i, columns.index(name)),
                "method": method,
                "name": name,
                "unit": find_unit(metric),
                "text": format_metric(metric),
                "is_finite": metric.get("value") is not None,
                "facts": _list_facts(metric, shared),
            }
            for i, (method, row) in enumerate(answer.rows.items())
            for name, metric in row.items()
        ],
    }


def _tabulate_metrics(number: int, answer: TaskAnswer, units: Mapping[str, str]) -> Table:
    labels = [Label(name, unit) for name, unit in units.items()]
    comparison = as_mapping(answer.details.get("comparison"))
    roles = {comparison.get("rival"): "best rival", comparison.get("method"): "this run"}
    rows = []
    for i, (method, row) in enumerate(answer.rows.items()):
        cells = [_link_card(row.get(n), _name_card(number, i, k)) for k, n in enumerate(units)]
        rows.append([Label(method, note=roles.get(method, "")), *cells])
    header = ["method", *labels]
    if len(rows) == 1:
        # One method with many metrics reads down the page.
        header, *rows = zip(["metric", *labels], rows[0])
    return make_table(f"{answer.title}: every value leads to its metric card", header, rows)


def _link_card(metric: Mapping[str, Any] | None, target: str) -> Cell:
    if metric is None:
        return Cell("-", key="")
    value = metric.get("value")
    return Cell(format_metric(metric), key="" if value is None else value, target=target)


def _name_card(number: int, row: int, column: int) -> str:
    return f"card-{number}-{row}-{column}"


def _list_facts(metric: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    card, value = as_mapping(metric.get("card")), metric.get("value")
    own = {key: entry for key, entry in card.items() if key not in shared}
    if "interval" in metric:
        own = {"interval": metric["interval"]} | own
    return own if value is None else {"value": value} | own


def find_shared(cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the entries that all metric cards have in common, except those of _OWN_KEYS."""
    first = cards[0]
    return {
        key: value
        for key, value in first.items()
        if key not in _OWN_KEYS and all(key in c and c[key] == value for c in cards)
    }


# --- files ----------------------------------------------------------------------------------------


def _describe_files(answer: TaskAnswer, inliner: Inliner) -> dict[str, Any]:
    """Returns the pictures and videos of an answer, its other files, and previews of CSV files."""
    media, plain = [], []
    for file in answer.files:
        is_media = file.path is not None and file.suffix in PICTURES | VIDEOS
        (media if is_media else plain).append(file)
    # A video and the picture of the same name stand side by side.
    places = {Path(file.name).stem: place for place, file in reversed(list(enumerate(media)))}
    media.sort(key=lambda file: (places[Path(file.name).stem], file.suffix not in VIDEOS))
    found = [file for file in plain if file.path is not None]
    return {
        "media": [inliner.show(file.path, _make_caption(answer, file)) for file in media],
        "files": [(file, inliner.link(file.path) if file.path else None) for file in plain],
        "previews": [preview_csv(f.path, f.name) for f in found if f.suffix == ".csv"],
    }


def _make_caption(answer: TaskAnswer, file: TaskFile) -> str:
    """Returns what is seen, or for answers of older versions the words of the file's name."""
    words = Path(file.name).stem.replace("_", " ") + (", playing" if file.suffix in VIDEOS else "")
    return str(answer.captions.get(file.name) or words[:1].upper() + words[1:])


def preview_csv(path: Path, name: str) -> dict[str, Any]:
    """Returns the first rows of a CSV file as a table, or a sentence if there is none to show."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(itertools.islice(filter(None, csv.reader(file)), _MAX_PREVIEW + 1))
            more = sum(1 for _ in file)
    except (OSError, csv.Error) as error:
        return {"problem": f"{name} cannot be shown: {error}"}
    if not rows:
        return {"problem": f"{name} is empty."}
    header, *body = [row[:_MAX_COLUMNS] for row in rows]
    cut = " and columns" if any(len(row) > _MAX_COLUMNS for row in rows) else ""
    caption = f"{name}: the first {len(body)} rows{cut}" if more or cut else f"{name}, whole"
    table = make_table(caption, header, [_fit(row, len(header)) for row in body])
    return {"problem": "", "name": name, "table": table}


def _fit(row: Sequence[str], length: int) -> list[str]:
    return [*row, *[""] * (length - len(row))][:length]


# --- details --------------------------------------------------------------------------------------


def describe_value(value, depth: int = 0) -> str | dict[str, Any]:
    """Returns a JSON value in short: text, or a mapping with the `kind` that results.html draws.

    Numbers become a line with their range; long lists and deep mappings are cut.
    """
    if isinstance(value, Mapping):
        return _describe_mapping(value, depth)
    if not isinstance(value, list):
        return format_value(value)
    numbers = [v for v in value if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) == len(value) > 2:
        ends = f"{len(value)} numbers, {min(numbers):.4g} to {max(numbers):.4g}"
        return {"kind": "numbers", "line": plot_line(numbers), "text": ends}
    if value and all(isinstance(row, list) and row for row in value):
        return _describe_matrix(value)
    if value and all(isinstance(item, bool) for item in value):
        return f"{sum(value)} of {len(value)} are true"
    shown, rest = value[:_MAX_ITEMS], max(len(value) - _MAX_ITEMS, 0)
    if any(isinstance(item, Mapping) for item in value):
        members = [describe_value(item, depth + 1) for item in shown]
        return {"kind": "list", "members": members, "num_more": rest}
    text = ", ".join(format_value(item) for item in shown)
    return f"{text}, and {rest} more" if rest else text or "none"


def _describe_mapping(value: Mapping[str, Any], depth: int) -> str | dict[str, Any]:
    if depth >= _MAX_DEPTH:
        return f"{len(value)} entries: see the JSON file"
    if not value:
        return "empty"
    shown = itertools.islice(value.items(), 2 * _MAX_ITEMS)
    return {
        "kind": "mapping",
        "pairs": [(key, describe_value(item, depth + 1)) for key, item in shown],
        "num_more": max(len(value) - 2 * _MAX_ITEMS, 0),
    }


def _describe_matrix(rows: list[list]) -> str | dict[str, Any]:
    shape = f"{len(rows)} rows of {len(rows[0])}"
    if len(rows) > 2 * _MAX_ITEMS or any(len(row) > 2 * _MAX_ITEMS for row in rows):
        return f"{shape}: see the JSON file"
    width = max(len(row) for row in rows)
    body = [[str(k), *_fit([format_value(v) for v in row], width)] for k, row in enumerate(rows)]
    return {"kind": "table", "table": make_table(shape, ["", *map(str, range(width))], body)}
