"""README tables, written from the scoreboard's files between two marks, never by hand.

<!-- scoreboard TASK -->   ...   <!-- end -->
"""

import re
from pathlib import Path

from benchmarks.results import FAMILIES, read_board

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
    """Returns a board as Markdown: headlines bold and first in their family, losses included."""
    columns = content["columns"]
    lines = [
        " ".join([content["protocol"], f"`{content['command']}`", *_name_machines(content)]),
        "",
        f"| row | family | {' | '.join(columns)} | seeds | seconds | parameters |",
        f"| --- | --- | {' | '.join('---:' for _ in columns)} | ---: | ---: | ---: |",
    ]
    order = sorted(content["rows"], key=lambda row: _rank(row, columns[0]))
    lines += [_format_row(row, columns) for row in order]
    for known in content["published"]:
        lines.append(
            f"| {known['row']} | published | {known['value']} "
            f"{'| ' * (len(columns) - 1)}| | | {known['source']} |"
        )
    return "\n".join([*lines, "", ""])


def _name_machines(content: dict) -> list[str]:
    machines = content.get("machines", [])
    return [f"({'; '.join(machines)})"] if machines else []


def _rank(row: dict, column: str) -> tuple:
    value = row["metrics"].get(column, {}).get("mean")
    return (FAMILIES.index(row["family"]), not row["headline"], -(value or 0.0))


def _format_row(row: dict, columns: list[str]) -> str:
    name = row["row"].replace("|", "\\|")
    name = f"**{name}**" if row["headline"] else name
    cells = [_format_metric(row["metrics"].get(column)) for column in columns]
    cells = cells if any(cells) else ["not run", *cells[1:]]
    parameters = f"{row['parameters']:,}" if row["parameters"] else ""
    return (
        f"| {name} | {row['family']} | {' | '.join(cells)} | {len(row['seeds'])} | "
        f"{row['seconds']:.0f} | {parameters} |"
    )


def _format_metric(metric: dict | None) -> str:
    if metric is None or metric["mean"] is None:
        return ""
    mean = f"{metric['mean']:.{_DIGITS}f}"
    return mean if metric["std"] is None else f"{mean} ± {metric['std']:.{_DIGITS}f}"
