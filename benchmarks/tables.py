"""The numbers of README and docs, written from result files between marks, never by hand.

<!-- scoreboard TASK -->   <!-- end -->          the table of a board
<!-- value TASK ROW COLUMN -->   <!-- end -->    one of its values
<!-- summary -->   <!-- end -->                  the README's table: one row a board
<!-- rate_distortion -->   <!-- end -->          bits at equal PSNR
<!-- recorded NAME -->   <!-- end -->            a table of recorded.json
<!-- zoo -->   <!-- end -->                      published families at their published sizes
<!-- weights NAME -->   <!-- end -->             published weights on real videos, of NAME.json
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.results import read_board

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = (README, *sorted((DOCS / "results").glob("*.md")))
PAGES += (DOCS / "published.md", DOCS / "published_models.md")
_MARKS = re.compile(
    r"<!-- (scoreboard|value|summary|rate_distortion|recorded|zoo|weights)"
    r"((?: [^\s>]+)*?) -->.*?<!-- end -->",
    re.DOTALL,
)
_DIGITS = 3


def write_all(results: Path) -> list[str]:
    """Fills the marked places of README and docs; returns the tasks that they show."""
    return [task for page in PAGES for task in write_tables(results, page)]


def write_tables(results: Path, page: Path) -> list[str]:
    """Fills the marked places of a page; returns the tasks whose boards it shows.

    Raises:
      ValueError: for a mark without a file of results, row or column.
    """
    text = page.read_text(encoding="utf-8")
    filled = fill_marks(text, results, page)
    if filled != text:
        page.write_text(filled, encoding="utf-8")
    return [match[2].strip() for match in _MARKS.finditer(text) if match[1] == "scoreboard"]


def fill_marks(text: str, results: Path, page: Path) -> str:
    """Returns the text of a page with its marked places filled."""

    def fill(match: re.Match) -> str:
        kind, words = match[1], match[2].split()
        try:
            content = _WRITERS[kind](results, *words)
        except FileNotFoundError as error:
            raise ValueError(f"{page} shows {' '.join([kind, *words])}: {error}") from error
        return f"<!-- {kind}{match[2]} -->{content}<!-- end -->"

    return _MARKS.sub(fill, text)


def _write_board(results: Path, task: str) -> str:
    return f"\n{format_board(_read(results, task))}"


def _write_value(results: Path, task: str, row: str, column: str) -> str:
    """Returns one value; the words of a row's name are joined by `_` in the mark."""
    rows = {found["row"].replace(" ", "_"): found for found in _read(results, task)["rows"]}
    if row not in rows or column not in rows[row]["metrics"]:
        raise ValueError(f"the board {task} has no value {row} {column}")
    return format_metric(rows[row]["metrics"][column])


def _write_summary(results: Path) -> str:
    from benchmarks.summary import format_summary

    return f"\n\n{format_summary(results)}\n"


def _write_rate_distortion(results: Path) -> str:
    from benchmarks.equal_psnr import format_table

    return f"\n{format_table(results)}"


def _write_recorded(results: Path, name: str) -> str:
    recorded = json.loads((results / "recorded.json").read_text(encoding="utf-8"))
    if name not in recorded:
        raise ValueError(f"{results / 'recorded.json'} has no table {name}")
    return f"\n{format_recorded(recorded[name])}"


def _write_zoo(results: Path) -> str:
    from benchmarks.zoo import format_table

    return f"\n{format_table(results)}"


def _write_weights(results: Path, name: str) -> str:
    from benchmarks.published_weights import format_tables

    return f"\n{format_tables(results / f'{name}.json')}"


_WRITERS: dict[str, Callable[..., str]] = {
    "scoreboard": _write_board,
    "value": _write_value,
    "summary": _write_summary,
    "rate_distortion": _write_rate_distortion,
    "recorded": _write_recorded,
    "zoo": _write_zoo,
    "weights": _write_weights,
}


def _read(results: Path, task: str) -> dict:
    path = results / f"{task}.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    return read_board(path)


def format_recorded(table: dict) -> str:
    """Returns a table that was recorded by hand: its note and command, then its rows."""
    columns = table["columns"]
    marks = " | ".join(["---", *("---:" for _ in columns[1:])])
    lines = [f"{table['note']} `{table['command']}`", "", f"| {' | '.join(columns)} |"]
    lines += [f"| {marks} |", *(f"| {' | '.join(row)} |" for row in table["rows"])]
    return "\n".join([*lines, "", ""])


def format_board(content: dict) -> str:
    """Returns a board as Markdown: the best row first, controls last, losses included.

    A headline is bold only where its gain over every other row is above 0 over independent units,
    with 95 % confidence; a spread over training seeds is not enough.
    """
    columns, rows = content["columns"], content["rows"]
    over = f"95 % over {content.get('unit', 'units')}"
    difference = "headline less row" if content.get("lower_is_better") else "headline's gain"
    extra = [f"{columns[0]}, {over}", f"{difference}, {over}"]
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
    cells = [format_metric(row["metrics"].get(column)) for column in columns]
    cells = cells if any(cells) else ["not run", *cells[1:]]
    parameters = f"{row['parameters']:,}" if row["parameters"] else ""
    joined = " | ".join([*cells, *intervals])
    return f"| {name} | {family} | {joined} | {len(row['seeds'])} | {parameters} |"


def _format_intervals(row: dict) -> list[str]:
    """Returns the interval of the first column over units, and that of the headline's gain."""
    own, gain = row.get("interval"), row.get("headline_gain")
    return [
        format_interval(own) if own else "",
        f"{gain['mean']:.{_DIGITS}f} {format_interval(gain)}, {_format_p_value(gain['p'])}"
        if gain
        else "",
    ]


def format_interval(interval: dict) -> str:
    """Returns the ends of an interval, `[low, high]`."""
    return f"[{interval['low']:.{_DIGITS}f}, {interval['high']:.{_DIGITS}f}]"


def _format_p_value(p: float) -> str:
    least = 10**-_DIGITS
    return f"p < {least}" if p < least else f"p = {p:.{_DIGITS}f}"


def format_metric(metric: dict | None) -> str:
    """Returns mean ± standard deviation over seeds; nothing for what was not run."""
    if metric is None or metric["mean"] is None:
        return ""
    mean = f"{metric['mean']:.{_DIGITS}f}"
    return mean if metric["std"] is None else f"{mean} ± {metric['std']:.{_DIGITS}f}"
