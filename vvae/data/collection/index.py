"""The index of a collection: written once, read by place, about ninety bytes a video.

    ROOT-IDENTITY/
      rows.bin      one `ROW` a video
      texts.bin     for each row, JSON: [name, columns of a list, or the texts beside it in a tar]
      index.json    what it was made of, the numbers of videos, names of splits and classes, and a
                    digest of all rows. Written last

ROOT is a hash of where the collection lies, IDENTITY one of what was indexed: the names, sizes and
times of the tars or of the list. An index of other files is another index; tars that have not
changed are copied from the index before. No video is opened.
"""

import array
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from vvae.data.ahead import load_ahead
from vvae.data.collection import tars
from vvae.data.collection.index_writer import (
    FORMAT,
    INDEX,
    ROW,
    ROWS,
    TEXTS,
    IndexWriter,
    write_index,
)
from vvae.data.collection.lists import SUFFIXES, read_list
from vvae.data.collection.sources import Source
from vvae.data.listing import MANIFEST, list_videos
from vvae.data.split_names import find_main_split, unify_splits
from vvae.program import name_command

_SHOWN = 10  # classes that a description names
INDICES = "collections"  # folder of all indices, in a folder of caches
Kind = Literal["folder", "list", "tars"]


def find_kind(root: str | os.PathLike) -> Kind:
    """Returns what a path is: WebDataset tars, a list of paths, or a folder of videos.

    Raises:
      ValueError: For compressed tars, and for a folder of tars and videos without a manifest.
    """
    root = Path(root)
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        return "folder" if root.name == MANIFEST else "list"
    if (root / MANIFEST).is_file():
        return "folder"
    return "tars" if tars.find_tars(root) else "folder"


def refuse_collection(root: str | os.PathLike) -> None:
    """Raises ValueError if a path is no folder of videos or video, where these are needed."""
    kind = find_kind(root)
    if kind != "folder":
        raise ValueError(
            f"{root} is a collection ({kind}), which only train, latents and check read: give a "
            "folder of videos, with those that you want to look at unpacked"
        )


def list_sources(root: str | os.PathLike, cache: Path) -> tuple[Source, ...]:
    """Lists the videos of a collection, ordered by name; none of them is read.

    Args:
      root: A folder of videos or one video (`vvae.data.listing.list_videos`), a folder of
        WebDataset tars or one tar, or a .csv or .parquet with a column `path`.
      cache: The folder of the indices of tars and lists.

    Raises:
      ValueError: As `open_index`.
    """
    if find_kind(root) == "folder":
        sources = [_as_source(video) for video in list_videos(_find_folder(Path(root)))]
    else:
        sources = list(open_index(root, cache))
    return tuple(sorted(sources, key=lambda source: source.name))


class Index(Sequence[Source]):
    """The videos of a collection, by their number; nothing of them is in memory.

    Attributes:
      folder: Its folder.
      kind: What the collection is.
      digest: SHA-256 of all rows: names, places in tars and what a list says.
      classes: The labels that a list states, sorted.
      has_groups: Whether a list states groups.
    """

    def __init__(self, folder: Path):
        """Opens an index.

        Raises:
          OSError, ValueError, KeyError: If it is not whole.
        """
        values = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"{folder} is of another format")
        self.folder, self.kind, self.digest = folder, values["kind"], values["digest"]
        self.classes, self.has_groups = tuple(values["classes"]), values["has_groups"]
        self._root, self._tars = values["root"], values["tars"]
        self._splits = values["splits"]
        self._count = values["num_videos"]
        sizes = [(folder / name).stat().st_size for name in (ROWS, TEXTS)]
        # Read by place: mapped memory would grow with every page that a random order touches.
        self._rows, self._texts = (_open_for_good(self, folder / name) for name in (ROWS, TEXTS))
        if sizes[0] != self._count * ROW.itemsize or sizes[1] != self._read_row(-1)[1][0]:
            raise ValueError(f"{folder} is not a whole index")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Source:
        begin, (end, tar, offset, size, _) = self._read_row(number)
        name, extra = json.loads(os.pread(self._texts, end - begin, begin))
        if tar < 0:
            return Source(name, os.path.normpath(os.path.join(self._root, name)), metadata=extra)
        file = self._tars[tar][0]
        texts = {suffix: (start, length) for suffix, (start, length) in extra.items()}
        member = tars.Member(name.removeprefix(f"{file}/"), offset, size, texts)
        return Source(name, os.path.join(self._root, file), member)

    @property
    def num_files(self) -> int:
        """The number of its tars; 0 without."""
        return len(self._tars)

    def find_splits(self) -> dict[str, np.ndarray]:
        """Returns the numbers of the videos of each stated split, int64; empty if none is stated.

        Raises:
          ValueError: If two names mean one split, or if some videos have a split and others none.
        """
        if not self._splits:
            return {}
        split_of = unify_splits(self._splits, f"{self._root}, its splits")
        codes_N = np.array(np.memmap(self.folder / ROWS, ROW, mode="r")["split"])
        lacking = np.flatnonzero(codes_N < 0)
        if len(lacking):
            raise ValueError(
                f"{self[int(lacking[0])].name} and {len(lacking) - 1} others have no split, "
                f"{len(self) - len(lacking)} videos have one: state it for all, or for none"
            )
        code_of = {name: code for code, name in enumerate(self._splits)}
        return {
            split: np.flatnonzero(np.isin(codes_N, [code_of[n] for n in names]))
            for split, names in _invert(split_of).items()
        }

    def _read_row(self, number: int) -> tuple[int, tuple[int, int, int, int, int]]:
        """Returns where the text of a row begins, and the row."""
        if not -self._count <= number < self._count:
            raise IndexError(f"{number} is not one of {self._count} videos")
        number %= self._count
        first = max(number - 1, 0)
        data = os.pread(self._rows, (number - first + 1) * ROW.itemsize, first * ROW.itemsize)
        rows = np.frombuffer(data, ROW)
        return int(rows[0]["end"]) if number else 0, rows[-1].item()

    def count_rows(self) -> dict[tuple, range]:
        """Returns (name, bytes, time) of each tar -> the numbers of its videos."""
        bounds = [0, *(entry[3] for entry in self._tars)]
        return {
            tuple(entry[:3]): range(begin, entry[3]) for begin, entry in zip(bounds, self._tars)
        }


def _open_for_good(index: Index, path: Path) -> int:
    """Opens a file that is closed with the index; it stays readable if it is removed."""
    descriptor = os.open(path, os.O_RDONLY)
    weakref.finalize(index, os.close, descriptor)
    return descriptor


def describe_index(index: Index, root: str | os.PathLike) -> str:
    """Describes a collection in a few lines, for a person; none of its videos is opened."""
    files = f"tars: {index.num_files:,}" if index.num_files else "of a list"
    splits = {name: len(numbers_N) for name, numbers_N in index.find_splits().items()}
    stated = ", ".join(f"{name} {count:,}" for name, count in splits.items())
    classes = ", ".join(index.classes[:_SHOWN])
    more = f", and {len(index.classes) - _SHOWN:,} more" if len(index.classes) > _SHOWN else ""
    path = shlex.quote(str(root))
    lines = [
        f"collection  {root}: {len(index):,} videos ({files}), not opened yet",
        f"splits      {stated or 'none stated: validation and test videos are drawn'}",
        f"classes     {classes + more or 'none stated'}",
        f"to train    {name_command('train')} --data.path {path}",
        f"to encode   vvae latents --pretrained WEIGHTS --data.path {path} --out STORE",
    ]
    return "\n".join(lines)


def open_index(
    root: str | os.PathLike, cache: Path, progress: Callable[[int, int], None] | None = None
) -> Index:
    """Opens the index of a collection; writes it if it is new or its files have changed.

    A folder of videos is listed anew every time, tars and lists when their size or time changes.

    Args:
      root: WebDataset tars, a list of paths, or a folder of videos.
      cache: The folder of all indices.
      progress: A function that is called with (tars indexed, tars).

    Raises:
      ValueError: If there is no video, if a tar or a list is damaged, if a list names a video
        twice, or if the folder of indices cannot be written to.
    """
    root = Path(os.path.abspath(root))
    kind = find_kind(root)
    home = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    files = {}
    if kind != "folder":
        files = {root.name: root} if kind == "list" else tars.find_tars(root)
    states = [_identify(name, path) for name, path in sorted(files.items())]
    identity = hashlib.sha256(json.dumps([FORMAT, states]).encode()).hexdigest()
    known = _open(cache / _name(home, identity)) if files else None
    if known is not None:
        return known
    try:
        cache.mkdir(parents=True, exist_ok=True)
        base = root.parent if root.is_file() else root
        with write_index(cache, kind, base) as writer:
            if kind == "folder":
                _add_folder(writer, root)
            elif kind == "list":
                _add_list(writer, root)
            else:
                _add_tars(writer, files, states, _find_old(cache, home), progress)
            digest = writer.finish()
            return _settle(writer.folder, home, identity if files else digest)
    except OSError as error:
        if not str(error.filename).startswith(str(cache)):
            raise
        raise ValueError(
            f"cannot write the index of {root} to {cache} ({error.strerror}): choose another "
            "folder with --data.cache_dir, or set XDG_CACHE_HOME"
        ) from error
    except ValueError as error:
        raise ValueError(f"{root} cannot be indexed: {error}") from error


def _settle(written: Path, home: str, identity: str) -> Index:
    """Gives an index its place, removes older ones of the collection, and opens it."""
    place = written.parent / _name(home, identity)
    index = _open(place)
    if index is None:
        shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was faster
            written.rename(place)
        index = Index(place)
    for other in place.parent.glob(f"{home}-*"):
        if other != place:
            shutil.rmtree(other, ignore_errors=True)
    return index


def _find_folder(root: Path) -> Path:
    return root.parent if root.name == MANIFEST and root.is_file() else root


def _identify(name: str, path: Path) -> list:
    state = path.stat()
    return [name, state.st_size, state.st_mtime_ns]


def _name(home: str, identity: str) -> str:
    return f"{home}-{identity[:16]}"


def _open(folder: Path) -> Index | None:
    """Opens an index; None if it is missing, not whole or of another format."""
    try:
        return Index(folder)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _find_old(cache: Path, home: str) -> Index | None:
    return next(filter(None, map(_open, sorted(cache.glob(f"{home}-*")))), None)


def _invert(split_of: Mapping[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, split in split_of.items():
        names.setdefault(split, []).append(name)
    return names


def _as_source(video) -> Source:
    label = {} if video.label is None else {"label": video.label}
    return Source(video.name, video.path, metadata=label | video.metadata)


def _add_folder(writer: IndexWriter, root: Path) -> None:
    for video in list_videos(_find_folder(root)):
        writer.has_groups |= video.group != video.name
        writer.add(video.name, _as_source(video).metadata, video.split)


def _add_list(writer: IndexWriter, path: Path) -> None:
    hashes = array.array("Q")
    for _, row in read_list(path):
        name = Path(os.path.normpath(row.pop("path"))).as_posix()
        writer.has_groups |= bool(row.get("group"))
        writer.add(name, row, row.get("split") or None)
        hashes.append(_hash_name(name))
    _refuse_twice(path, np.frombuffer(hashes, np.uint64))


def _hash_name(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _refuse_twice(path: Path, hashes_N: np.ndarray) -> None:
    """Raises ValueError if two rows name one video."""
    values, counts = np.unique(hashes_N, return_counts=True)
    twice = {int(value) for value in values[counts > 1]}
    seen: set[str] = set()
    for where, row in read_list(path) if twice else ():
        name = Path(os.path.normpath(row["path"])).as_posix()
        if _hash_name(name) in twice:
            if name in seen:
                raise ValueError(f"{where}: {name!r} is listed twice")
            seen.add(name)


def _add_tars(
    writer: IndexWriter,
    files: Mapping[str, Path],
    states: Sequence[list],
    old: Index | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    splits = _name_splits(sorted(files))
    known = {} if old is None else old.count_rows()

    def list_members(state: list) -> list[tars.Member]:
        rows = known.get(tuple(state))
        return tars.index_tar(files[state[0]]) if rows is None else [old[k].member for k in rows]

    for number, (state, members) in enumerate(zip(states, load_ahead(list_members, states))):
        writer.add_tar(state, members, splits.get(state[0]))
        if progress is not None:
            progress(number + 1, len(states))


def _name_splits(names: Sequence[str]) -> dict[str, str]:
    """Returns name of a tar -> split, where every tar lies in a folder of a split.

    Raises:
      ValueError: If some do and others not.
    """
    folders = {name: name.partition("/")[0] if "/" in name else "" for name in names}
    stated = {name: folder for name, folder in folders.items() if find_main_split(folder)}
    others = sorted(folders.keys() - stated.keys())
    if stated and others:
        raise ValueError(
            f"{min(stated)} lies in the folder of a split, {others[0]} does not: put every tar "
            "into train, val or test, or none"
        )
    return stated
