"""One video of a collection: a file, a folder of images, or a member of a tar."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from vvae.data.collection import tars
from vvae.files import replacing

_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """One video of a collection, as listed; nothing of it has been read yet.

    Attributes:
      name: identifies it within the collection; with `/`, as in `action/jump.mp4`.
      path: the file, the folder of images, or the tar that holds it.
      member: where its bytes lie in a tar; None for a file or a folder of its own.
      metadata: what a manifest says beside the path, such as a caption; text by column.
    """

    name: str
    path: str
    member: tars.Member | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def read_state(source: Source) -> dict[str, int]:
    """Returns the size and the time of the last change: what tells cheaply that content changed.

    Raises:
      OSError: if the source does not exist.
    """
    if source.member is not None:
        return {"bytes": source.member.size, "mtime_ns": os.stat(source.path).st_mtime_ns}
    stats = [os.stat(path) for path in _list_files(Path(source.path))]
    return {
        "bytes": sum(stat.st_size for stat in stats),
        "mtime_ns": max((stat.st_mtime_ns for stat in stats), default=0),
    }


def digest_content(source: Source) -> str:
    """Returns the SHA-256 of the bytes of a video; for a folder, of its files and their names.

    Raises:
      OSError: if the source cannot be read.
    """
    digest = hashlib.sha256()
    if source.member is not None:
        with open(source.path, "rb") as file:
            for block in _read_member(file, source.member):
                digest.update(block)
        return digest.hexdigest()
    path = Path(source.path)
    for file_path in _list_files(path):
        if path.is_dir():
            digest.update(f"{file_path.name} {file_path.stat().st_size}\n".encode())
        with open(file_path, "rb") as file:
            while block := file.read(_COPY_BYTES):
                digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def open_path(source: Source) -> Iterator[str]:
    """Gives a path by which the video can be read; members of tars are copied out meanwhile."""
    if source.member is None:
        yield source.path
        return
    folder = tempfile.mkdtemp(prefix="vvae-")
    try:
        path = os.path.join(folder, f"video{Path(source.member.name).suffix}")
        with open(source.path, "rb") as tar, open(path, "wb") as file:
            file.writelines(_read_member(tar, source.member))
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def keep_file(source: Source, folder: Path, name: str) -> str:
    """Returns a lasting path of the video; a member of a tar is copied into a folder once.

    Raises:
      OSError: if the tar cannot be read or the folder not be written to.
    """
    if source.member is None:
        return source.path
    path = folder / f"{name}{Path(source.member.name).suffix.lower()}"
    if not path.exists() or path.stat().st_size != source.member.size:
        folder.mkdir(exist_ok=True)
        with replacing(path) as part, open(source.path, "rb") as tar, open(part, "wb") as file:
            file.writelines(_read_member(tar, source.member))
    return str(path)


def read_metadata(source: Source) -> dict[str, Any]:
    """Returns what is said about a video beside it: columns of a manifest, or .json and .txt.

    A .txt beside a video in a tar becomes its `caption`.

    Raises:
      ValueError: if a .json in a tar is no JSON object, or a text is not UTF-8.
      OSError: if the tar cannot be read.
    """
    if source.member is None:
        return dict(source.metadata)
    return source.metadata | tars.read_texts(source.path, source.member)


def read_texts(source: Source) -> dict[str, str]:
    """Returns what `read_metadata` does, as text; values that are none as JSON."""
    metadata = read_metadata(source)
    return {name: v if isinstance(v, str) else json.dumps(v) for name, v in metadata.items()}


def _read_member(file: BinaryIO, member: tars.Member) -> Iterator[bytes]:
    file.seek(member.offset)
    left = member.size
    while left:
        block = file.read(min(left, _COPY_BYTES))
        if not block:
            raise OSError(f"{member.name}: the tar ends before its end")
        left -= len(block)
        yield block


def _list_files(path: Path) -> list[Path]:
    """Lists the visible files of a folder of images; a file alone is listed itself."""
    if not path.is_dir():
        return [path]
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    return [path / name for name in names if (path / name).is_file()]
