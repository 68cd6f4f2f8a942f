"""WebDataset tars: which videos they hold and where, so that each can be read by its offset.

In a WebDataset tar, files that share a key lie side by side: `000123.mp4`, `000123.json`,
`000123.txt`. The key is the path up to the first dot of the file's name.

References:
  WebDataset, https://github.com/webdataset/webdataset: a key per sample, a suffix per part.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vvae.video import VIDEO_SUFFIXES, is_video

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_TEXTS = (".json", ".txt")


@dataclass(frozen=True)
class Member:
    """A video in a tar.

    Attributes:
      name: its path in the tar.
      offset: the position of its first byte in the tar.
      size: its bytes.
      texts: suffix -> (offset, size) of the .json and .txt files of the same key.
    """

    name: str
    offset: int
    size: int
    texts: dict[str, tuple[int, int]]


def find_tars(root: Path) -> dict[str, Path]:
    """Returns name -> tar: the root itself, or every tar below it; empty if there is none.

    Raises:
      ValueError: for compressed tars, which cannot be read by offset, and for a folder that holds
        videos beside tars.
    """
    if root.is_file():
        paths, others = {root.name: root}, []
    else:
        files = list(_walk(root))
        paths = {path.relative_to(root).as_posix(): path for path in files}
        others = [path for path in files if is_video(path)]
    for path in paths.values():
        if path.name.lower().endswith(_COMPRESSED):
            raise ValueError(
                f"{path} is compressed, so that its videos cannot be read by their offset: "
                "uncompress it first (videos hardly shrink in it)"
            )
    tars = {name: path for name, path in paths.items() if path.suffix.lower() == ".tar"}
    if tars and others:
        raise ValueError(
            f"{root} holds tars and other videos ({others[0]}): give a folder of either"
        )
    return tars


def _walk(root: Path) -> Iterator[Path]:
    """Yields the visible files below a folder."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def index_tar(path: Path) -> list[Member]:
    """Returns the videos of a tar, in its order, from its headers.

    Raises:
      ValueError: naming the tar, if it is damaged or holds two videos of one key.
    """
    videos: dict[str, tuple[str, int, int]] = {}
    texts: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        # tarfile ends quietly at a member that is cut: compare with the size of the file.
        num_bytes = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                if member.offset_data + member.size > num_bytes:
                    raise ValueError(f"{path} is cut within {member.name}")
                _sort_member(path, member, videos, texts)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is not a readable tar: {error}") from error
    return [Member(*video, texts=texts.get(key, {})) for key, video in videos.items()]


def read_texts(path: str | os.PathLike, member: Member) -> dict[str, Any]:
    """Returns the entries of a video's .json, and its .txt as `caption`.

    Raises:
      ValueError: naming the tar and the member, if they are not what they should be.
    """
    found: dict[str, Any] = {}
    with open(path, "rb") as file:
        for suffix, (offset, size) in sorted(member.texts.items()):
            file.seek(offset)
            data = file.read(size)
            try:
                text = data.decode("utf-8")
                found |= {"caption": text.strip()} if suffix == ".txt" else dict(json.loads(text))
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{path}: the {suffix} of {member.name} cannot be read: {error}"
                ) from error
    return found


def _sort_member(path: Path, member: tarfile.TarInfo, videos: dict, texts: dict) -> None:
    name = member.name.removeprefix("./")
    folder, _, file_name = name.rpartition("/")
    stem, _, rest = file_name.partition(".")
    key, suffix = f"{folder}/{stem}", f".{rest}".lower()
    if file_name.startswith("."):
        return
    if suffix in _TEXTS:
        texts.setdefault(key, {})[suffix] = (member.offset_data, member.size)
    elif Path(file_name).suffix.lower() in VIDEO_SUFFIXES:
        if key in videos:
            raise ValueError(f"{path}: {videos[key][0]} and {name} have the same key")
        videos[key] = (name, member.offset_data, member.size)
