"""Writes the index of a collection, row by row."""

import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vvae.data.collection.tars import Member
from vvae.files import TEMPORARY_SUFFIX, write_json

FORMAT = 1
ROWS, TEXTS, INDEX = "rows.bin", "texts.bin", "index.json"
# The end of the row's text in texts.bin, the number of its tar (-1 without), where its bytes lie in
# it, and the number of its split (-1 without).
ROW = np.dtype(
    [("end", "<u8"), ("tar", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("split", "<i2")]
)
_BUFFER_ROWS = 1 << 16
_MAX_CLASSES = 100_000
_ENCODER = json.JSONEncoder(check_circular=False, separators=(",", ":"))


@contextlib.contextmanager
def write_index(parent: Path, kind: str, root: Path) -> Iterator["IndexWriter"]:
    """Gives a writer of an index in a temporary folder, which is removed unless it is renamed.

    Args:
      parent: The folder in which the temporary one is made.
      kind: What the collection is.
      root: The folder that the names are relative to.
    """
    folder = parent / f".{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"
    folder.mkdir()
    try:
        with open(folder / ROWS, "wb") as rows, open(folder / TEXTS, "wb") as texts:
            yield IndexWriter(folder, {"kind": kind, "root": str(root)}, rows, texts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class IndexWriter:
    """Writes rows; memory does not grow with their number.

    Attributes:
      folder: Where the files are.
      has_groups: Whether the list states groups; whoever adds videos sets it.
    """

    def __init__(self, folder: Path, facts: dict[str, str], rows: BinaryIO, texts: BinaryIO):
        """Begins an index.

        Args:
          folder: Where the files are.
          facts: What index.json says of the collection.
          rows: The file of rows, open to be written.
          texts: The file of texts.
        """
        self.folder, self.has_groups = folder, False
        self._facts, self._rows_file, self._texts_file = facts, rows, texts
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._texts: list[bytes] = []
        self._hash, self._end, self._count = hashlib.sha256(), 0, 0
        self._splits: dict[str, int] = {}
        self._classes: set[str] = set()
        self._tars: list[list] = []

    def add(self, name: str, columns: Mapping[str, str], split: str | None = None) -> None:
        """Adds a video of a list or of a folder, with what is said of it.

        Raises:
          ValueError: If there are more labels than classes can be.
        """
        if columns.get("label"):
            self._classes.add(columns["label"])
            if len(self._classes) > _MAX_CLASSES:
                raise ValueError(
                    f"more than {_MAX_CLASSES} labels, the last one {columns['label']!r}: a label "
                    "names a class of videos; rename the column `label`"
                )
        self._add([name, dict(columns)], (-1, 0, 0), split)

    def add_tar(self, state: list, members: list[Member], split: str | None) -> None:
        """Adds the videos of a tar, of which `state` is its name, its size and its time."""
        for member in members:
            place = (len(self._tars), member.offset, member.size)
            self._add([f"{state[0]}/{member.name}", member.texts], place, split)
        self._tars.append([*state, self._count])

    def finish(self) -> str:
        """Writes what is left and index.json; returns the digest of all rows and splits.

        Raises:
          ValueError: If there is no video.
        """
        if not self._count:
            raise ValueError("it holds no video: no row of a list, and none in a tar")
        self._flush()
        self._rows_file.flush()
        self._texts_file.flush()
        splits = list(self._splits)
        digest = hashlib.sha256(json.dumps([self._hash.hexdigest(), splits]).encode()).hexdigest()
        counted = {
            "format": FORMAT,
            "digest": digest,
            "num_videos": self._count,
            "splits": splits,
            "classes": sorted(self._classes),
            "has_groups": self.has_groups,
            "tars": self._tars,
        }
        write_json(self.folder / INDEX, self._facts | counted)
        return digest

    def _add(self, text: list, place: tuple[int, int, int], split: str | None) -> None:
        data = _ENCODER.encode(text).encode()
        self._end += len(data)
        self._count += 1
        code = -1 if split is None else self._splits.setdefault(split, len(self._splits))
        self._texts.append(data)
        self._rows.append((self._end, *place, code))
        if len(self._rows) == _BUFFER_ROWS:
            self._flush()

    def _flush(self) -> None:
        buffers = (b"".join(self._texts), np.array(self._rows, ROW).tobytes())
        for file, data in zip((self._texts_file, self._rows_file), buffers, strict=True):
            self._hash.update(data)
            file.write(data)
        self._rows, self._texts = [], []
