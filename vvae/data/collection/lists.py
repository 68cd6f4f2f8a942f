"""Lists of videos: a CSV or a Parquet file with a column `path`, read row by row."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vvae.data.manifest import read_rows
from vvae.extras import require_extra

SUFFIXES = (".csv", ".parquet")
_BATCH_ROWS = 65536


def read_list(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields where a row stands and its cells as text, by the names of columns in lower case.

    Columns of a Parquet file that hold neither text, numbers, booleans nor times (embeddings,
    images) are not read; empty cells are "".

    Args:
      path: A .csv (UTF-8, as `vvae.data.manifest` reads it) or a .parquet.

    Raises:
      ValueError: If it is no such file, lacks the column `path`, or has a row without one; for a
        .parquet, also if pyarrow is not installed.
    """
    if path.suffix.lower() == ".parquet":
        rows = _read_parquet(path)
    else:
        rows = ((f"line {line}", row) for line, row in read_rows(str(path)))
    for where, row in rows:
        if not row["path"]:
            raise ValueError(f"{path}, {where}: the cell `path` is empty")
        yield f"{path}, {where}", row


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    parquet = require_extra("pyarrow.parquet", "latents", f"{path}: a list in Parquet")
    arrow = require_extra("pyarrow", "latents", f"{path}: a list in Parquet")
    try:
        with parquet.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if _is_plain(field.type)]
            names = [name.strip().lower() for name in columns]
            if "path" not in names:
                found = ", ".join(names) or "none"
                raise ValueError(f"no column `path` of text (columns: {found})")
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"column {twice[0]!r} appears twice")
            number = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                for cells in zip(*(batch.column(name).to_pylist() for name in columns)):
                    number += 1
                    yield f"row {number}", dict(zip(names, map(_as_text, cells)))
    except (arrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{os.fspath(path)}: ")
        raise ValueError(f"{path} is not a readable Parquet list: {reason}") from error


def _is_plain(kind: Any) -> bool:
    types = require_extra("pyarrow.types", "latents", "a list in Parquet")
    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_primitive(kind) or types.is_string(kind) or types.is_large_string(kind)


def _as_text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()
