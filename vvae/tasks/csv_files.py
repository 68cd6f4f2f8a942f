"""CSV files whose text no spreadsheet takes for a formula.

Spreadsheets evaluate a cell that begins with =, +, -, @, a tab or a carriage return, even if it is
quoted in the file. Names of files and labels can begin like this. `guard` puts an apostrophe in
front, which spreadsheets read as a mark of text, and `unguard` removes it. Numbers are not changed.
"""

import contextlib
import csv
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from vvae.files import replacing

# Some spreadsheets convert full-width characters to plain ones, and skip leading spaces.
_FORMULA = re.compile("'*[ \\n]*[=+\\-@\\t\\r＝＋－＠]")


class _Writer:
    def __init__(self, file):
        self._writer = csv.writer(file)

    def writerow(self, cells: Iterable[Any]) -> None:
        """Writes a row, with its text guarded."""
        self._writer.writerow([guard(cell) for cell in cells])

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Writes rows, with their text guarded."""
        for row in rows:
            self.writerow(row)


@contextlib.contextmanager
def open_csv(path: str | os.PathLike) -> Iterator[_Writer]:
    """Opens a CSV file for writing in UTF-8; yields a writer of rows.

    Names of files that are not UTF-8 keep their bytes. The file appears under its name once it is
    complete.
    """
    with (
        replacing(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield _Writer(file)


def guard(cell: Any) -> Any:
    """Returns a cell that no spreadsheet evaluates; numbers are unchanged, also as text."""
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _is_number(cell):
        return cell
    return f"'{cell}"


def unguard(cell: str) -> str:
    """Returns the text that `guard` turned into this cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
