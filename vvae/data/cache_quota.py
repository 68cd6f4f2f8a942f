"""Keeps a cache folder within its limit, and what others use out of it."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vvae.files import TEMPORARY_SUFFIX

_LEASE_SUFFIX = ".lease"
_LOCK_FILE = ".lock"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_STALE_SECONDS = 24 * 3600
_GB = 1e9


@dataclass(frozen=True)
class Cache:
    """A cache folder and its limit.

    Attributes:
        folder: made if it is missing; may be shared by data sets, runs and machines.
        limit_bytes: most bytes of all entries. Entries of other data sets are removed to stay
            within it, the least recently opened first; those in use never are.
    """

    folder: Path
    limit_bytes: int


class Lease:
    """Says that entries of a cache are in use, for as long as this object and its process live.

    A file with their keys, which its owner has locked; the lock dies with the owner. In a folder
    that may only be read nothing is said: whoever may remove entries there is not asked.
    """

    def __init__(self, folder: Path, keys: set[str]):
        """Returns when no removal is under way that does not know of it."""
        path = folder / f"{secrets.token_hex(8)}{_LEASE_SUFFIX}"
        try:
            with _lock(folder):
                file = path.open("x")
                weakref.finalize(self, _end_lease, file, path)
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write("\n".join(sorted(keys)))
                file.flush()
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise ValueError(
                    f"cannot write to the cache folder {folder} ({error.strerror}): make room "
                    "there, or name another place with --data.cache_dir"
                ) from error


def _end_lease(file, path: Path) -> None:
    with contextlib.suppress(OSError):  # closing writes what a full disk has refused before
        path.unlink(missing_ok=True)
        file.close()


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keeps the removal of entries and the beginning of leases apart."""
    with (folder / _LOCK_FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_leases(folder: Path) -> set[str]:
    """Returns the keys that are in use; removes the leases of processes that have died."""
    keys: set[str] = set()
    for path in folder.glob(f"*{_LEASE_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                keys.update(file.read().split())
            else:
                path.unlink()
    return keys


@dataclass
class _Files:
    """The files of one key: their paths, their bytes, and when they were last opened."""

    paths: list[str] = field(default_factory=list)
    num_bytes: int = 0
    last_use: float = 0.0


class CacheRoom:
    """Room in a cache for one data set.

    Attributes:
        own_bytes: bytes of the data set's entries so far, kept by whoever adds entries.
    """

    def __init__(self, cache: Cache, keys: set[str], clip_bytes: int):
        """Looks at all entries; `keys` are those of the data set, a clip takes `clip_bytes`."""
        self._cache = cache
        self._clip_bytes = clip_bytes
        self.own_bytes = 0
        others = [(key, files) for key, files in _scan(cache.folder).items() if key not in keys]
        self._others = sorted(others, key=lambda other: other[1].last_use, reverse=True)
        self._other_bytes = sum(files.num_bytes for _, files in others)

    def reserve(self, num_videos: int) -> None:
        """Makes room for so many more videos, which take at least one clip each.

        Raises:
            ValueError: if the data set cannot fit, whatever else is removed.
        """
        needed = self.own_bytes + num_videos * self._clip_bytes
        limit = self._cache.limit_bytes
        if needed > limit:
            raise ValueError(
                f"the decoded clips take at least {needed / _GB:.3g} GB and the limit of the cache "
                f"is {limit / _GB:.3g} GB: raise --data.cache_gb, or choose smaller frames or a "
                "larger --data.frame_stride"
            )
        if self._others and needed + self._other_bytes > limit:
            with _lock(self._cache.folder):
                self._remove_oldest(needed + self._other_bytes - limit)
        if needed + self._other_bytes > limit:
            raise ValueError(
                f"the cache of {limit / _GB:.3g} GB is full: other runs use "
                f"{self._other_bytes / _GB:.3g} GB of it now, and {needed / _GB:.3g} GB more are "
                "needed: raise --data.cache_gb, or name another place with --data.cache_dir"
            )
        free = shutil.disk_usage(self._cache.folder).free
        if num_videos * self._clip_bytes > free + self._other_bytes:
            raise ValueError(
                f"the disk of {self._cache.folder} has {free / _GB:.3g} GB left and the decoded "
                f"clips take at least {num_videos * self._clip_bytes / _GB:.3g} GB more: name "
                "another place with --data.cache_dir"
            )

    def _remove_oldest(self, num_bytes: int) -> None:
        """Removes entries that nobody uses, the oldest first, until so many bytes are free."""
        in_use = _read_leases(self._cache.folder)
        kept = []
        while self._others and num_bytes > 0:
            key, oldest = self._others.pop()
            if key in in_use:
                kept.append((key, oldest))
                continue
            self._other_bytes -= oldest.num_bytes
            num_bytes -= oldest.num_bytes
            for path in oldest.paths:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        self._others += reversed(kept)


def _scan(folder: Path) -> dict[str, _Files]:
    """Returns the files of every key; removes what a killed process left half written."""
    found: dict[str, _Files] = defaultdict(_Files)
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # Another process may be at work here.
                _take_in(entry, found)
    return found


def _take_in(entry: os.DirEntry, found: dict[str, _Files]) -> None:
    status = entry.stat()
    if entry.name.endswith(TEMPORARY_SUFFIX):
        if time.time() - status.st_mtime > _STALE_SECONDS:
            os.unlink(entry.path)
    elif entry.name.endswith((".npy", ".json")):
        files = found[entry.name.split(".")[0]]
        files.paths.append(entry.path)
        files.num_bytes += status.st_size
        files.last_use = max(files.last_use, status.st_mtime)
