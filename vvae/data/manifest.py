"""Reads the rows of a manifest.csv, as editors, spreadsheets and pandas write it."""

import codecs
import csv
from collections.abc import Iterator
from typing import TextIO

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_HOW_TO_SAVE = "save it as CSV in UTF-8"


def read_rows(manifest: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the line number and the stripped cells of every row that is not blank.

    Cells are separated by commas, or by the semicolons or tabs of a spreadsheet: whichever gives a
    column `path`. The names of columns come in lower case. Rows and nameless columns whose cells
    are all empty are left out.

    Args:
      manifest: The path of the file, in UTF-8 with or without a byte-order mark.

    Raises:
      ValueError: If the file is not such a table; names the line where there is one.
    """
    _refuse_utf16(manifest)
    try:
        # newline="" leaves line breaks within quoted cells to the reader.
        with open(manifest, encoding="utf-8-sig", newline="") as lines:
            yield from _parse(manifest, lines)
    except UnicodeDecodeError:
        raise ValueError(_describe_encoding(manifest)) from None


def _parse(manifest: str, lines: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    separator = _find_separator(lines.readline())
    lines.seek(0)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        columns = _name_columns(manifest, next(reader, []))
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                where = f"{manifest}, line {reader.line_num}"
                yield reader.line_num, _make_row(where, columns, cells, separator)
    except csv.Error as error:
        raise ValueError(
            f"{manifest}, line {reader.line_num}: not a row of a CSV file ({error})"
        ) from error


def _refuse_utf16(manifest: str) -> None:
    with open(manifest, "rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError(f"{manifest}: not a CSV file in UTF-8 but in UTF-16: {_HOW_TO_SAVE}")


def _describe_encoding(manifest: str) -> str:
    """Names the first line that is not UTF-8."""
    with open(manifest, "rb") as file:
        for line, data in enumerate(file, start=1):
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                return (
                    f"{manifest}, line {line}: not a CSV file in UTF-8 ({error.reason}, byte "
                    f"0x{data[error.start]:02x}): {_HOW_TO_SAVE}"
                )
    return f"{manifest}: not a CSV file in UTF-8: {_HOW_TO_SAVE}"


def _find_separator(header: str) -> str:
    """Returns the separator by which the first line has a column `path`; a comma by default."""
    header = header.rstrip("\r\n").lower()
    for separator in _SEPARATORS:
        if "path" in [cell.strip(' "') for cell in header.split(separator)]:
            return separator
    return ","


def _name_columns(manifest: str, header: list[str]) -> list[str]:
    """Returns the names of the columns in lower case, "" for those without one."""
    columns = [column.strip().lower() for column in header]
    named = [column for column in columns if column]
    if "path" not in named:
        raise ValueError(
            f"{manifest}: no column `path` (columns: {', '.join(named) or 'none'}): the first "
            "line must name the columns, one of them `path`"
        )
    twice = sorted({column for column in named if named.count(column) > 1})
    if twice:
        raise ValueError(f"{manifest}: column {twice[0]!r} appears twice")
    return columns


def _make_row(where: str, columns: list[str], cells: list[str], separator: str) -> dict[str, str]:
    extra = [cell for cell in cells[len(columns) :] if cell]
    if extra:
        raise ValueError(
            f"{where}: {len(extra)} more cells than columns ({', '.join(map(repr, extra))}); put "
            f"quotes around text that contains a {_SEPARATORS[separator]}"
        )
    row = dict.fromkeys(filter(None, columns), "")
    for number, (column, cell) in enumerate(zip(columns, cells), start=1):
        if column:
            row[column] = cell
        elif cell:
            raise ValueError(
                f"{where}: the cell {cell!r} is in column {number}, which has no name: name it in "
                "the first line, or remove it (in pandas: to_csv(..., index=False))"
            )
    return row
