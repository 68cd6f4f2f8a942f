"""CSV files that a spreadsheet can open: no text in them is taken for a formula.

Spreadsheets run a cell that begins with =, +, -, @, a tab or a carriage return, whatever quotes are
around it in the file; names of files and labels may begin so. Such text gets an apostrophe in
front, by which spreadsheets know text, and `unguard` takes it off; numbers stay as they are.
"""

import contextlib
import csv
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from vvae.files import replacing

# The wide forms are folded to the plain ones by some spreadsheets; leading spaces are skipped.
_FORMULA = re.compile("'*[ \\n]*[=+\\-@\\t\\r＝＋－＠]")


class _Writer:
    def __init__(self, file):
        self._writer = csv.writer(file)

    def writerow(self, cells: Iterable[Any]) -> None:
        """Writes a row, text in it guarded."""
        self._writer.writerow([guard(cell) for cell in cells])

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Writes rows, text in them guarded."""
        for row in rows:
            self.writerow(row)


@contextlib.contextmanager
def open_csv(path: str | os.PathLike) -> Iterator[_Writer]:
    """Opens a CSV file in UTF-8 for writing, with a writer of rows.

    Names of files that are not UTF-8 are written with their own bytes. The file appears under its
    name when it is complete.
    """
    with (
        replacing(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield _Writer(file)


def guard(cell: Any) -> Any:
    """Returns a cell that no spreadsheet runs; numbers, in digits too, stay as they are."""
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _is_number(cell):
        return cell
    return f"'{cell}"


def unguard(cell: str) -> str:
    """Returns the text of a cell that `guard` has written."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
