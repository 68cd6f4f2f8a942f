"""README tables, written from the scoreboard's files between two marks, never by hand.

<!-- scoreboard TASK -->   ...   <!-- end -->
"""

import re
from pathlib import Path

from benchmarks.results import read_board

README = Path(__file__).resolve().parent.parent / "README.md"
_MARKS = re.compile(r"(<!-- scoreboard (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_DIGITS = 3


def write_tables(results: Path, readme: Path = README) -> list[str]:
    """Fills the marked places of the README; returns the tasks that it shows.

    Raises:
      ValueError: for a mark without a file of results.
    """
    text, shown = readme.read_text(encoding="utf-8"), []

    def fill(match: re.Match) -> str:
        task = match[2]
        path = results / f"{task}.json"
        if not path.is_file():
            raise ValueError(f"{readme} shows the scoreboard {task}, and there is no {path}")
        shown.append(task)
        return f"{match[1]}{format_board(read_board(path))}{match[3]}"

    filled = _MARKS.sub(fill, text)
    if filled != text:
        readme.write_text(filled, encoding="utf-8")
    return shown


def format_board(content: dict) -> str:
    """Returns a board as Markdown: the best row first, controls last, losses included.

    A headline is bold only where its gain over every other row is above 0 over independent units,
    with 95 % confidence; a spread over training seeds is not enough.
    """
    columns, rows = content["columns"], content["rows"]
    over = f"95 % over {content.get('unit', 'units')}"
    extra = [f"{columns[0]}, {over}", f"headline's gain, {over}"]
    extra = extra if any("interval" in row for row in rows) else []
    lines = [
        " ".join([content["protocol"], f"`{content['command']}`", *_name_machines(content)]),
        "",
        f"| row | family | {' | '.join([*columns, *extra])} | seeds | parameters |",
        f"| --- | --- | {' | '.join('---:' for _ in [*columns, *extra])} | ---: | ---: |",
    ]
    sign = -1 if content.get("lower_is_better") else 1
    for row in sorted(rows, key=lambda row: _rank(row, columns[0], sign)):
        cells = _format_intervals(row) if extra else []
        bold = _is_ahead(row, rows, columns[0], sign)
        lines.append(_format_row(row, columns, cells, bold=bold))
    for known in content["published"]:
        lines.append(
            f"| {known['row']} | published | {known['value']} "
            f"{'| ' * (len(columns) + len(extra) - 1)}| | {known['source']} |"
        )
    return "\n".join([*lines, "", ""])


def _name_machines(content: dict) -> list[str]:
    machines = content.get("machines", [])
    return [f"({'; '.join(machines)})"] if machines else []


def _rank(row: dict, column: str, sign: int) -> tuple:
    value = row["metrics"].get(column, {}).get("mean")
    return (row["family"] == "control", value is None, -sign * (value or 0.0))


def _is_ahead(row: dict, rows: list[dict], column: str, sign: int) -> bool:
    """Whether the gain of a headline over every other row is known over units, and above 0.

    The sign is -1 where a lower value is better, and a gain thus negative.
    """
    worst = "low" if sign > 0 else "high"
    others = [other for other in rows if other is not row]
    measured = [other for other in others if other["metrics"][column]["mean"] is not None]
    return (
        row["headline"]
        and "interval" in row
        and all(sign * other.get("headline_gain", {}).get(worst, 0.0) > 0.0 for other in measured)
    )


def _format_row(row: dict, columns: list[str], intervals: list[str], *, bold: bool) -> str:
    name = row["row"].replace("|", "\\|")
    name = f"**{name}**" if bold else name
    family = f"{row['family']}, headline" if row["headline"] else row["family"]
    cells = [_format_metric(row["metrics"].get(column)) for column in columns]
    cells = cells if any(cells) else ["not run", *cells[1:]]
    parameters = f"{row['parameters']:,}" if row["parameters"] else ""
    joined = " | ".join([*cells, *intervals])
    return f"| {name} | {family} | {joined} | {len(row['seeds'])} | {parameters} |"


def _format_intervals(row: dict) -> list[str]:
    """Returns the interval of the first column over units, and that of the headline's gain."""
    own, gain = row.get("interval"), row.get("headline_gain")
    return [
        f"[{own['low']:.{_DIGITS}f}, {own['high']:.{_DIGITS}f}]" if own else "",
        f"{gain['mean']:.{_DIGITS}f} [{gain['low']:.{_DIGITS}f}, {gain['high']:.{_DIGITS}f}], "
        f"p = {gain['p']:.{_DIGITS}f}"
        if gain
        else "",
    ]


def _format_metric(metric: dict | None) -> str:
    if metric is None or metric["mean"] is None:
        return ""
    mean = f"{metric['mean']:.{_DIGITS}f}"
    return mean if metric["std"] is None else f"{mean} ± {metric['std']:.{_DIGITS}f}"
