"""Keeps a cache folder within its quota without removing entries that other runs use."""

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
    """A cache folder and its quota.

    Attributes:
      folder: The folder; it is created if missing. Data sets, runs and machines may share it.
      limit_bytes: The quota: the largest total size of all entries. To stay within it, entries of
        other data sets are removed, the least recently opened first, except for those in use.
    """

    folder: Path
    limit_bytes: int


class Lease:
    """Declares entries of a cache as in use, for as long as this object and its process live.

    The lease is a file that lists the keys and that its owner has locked; the lock dies with the
    owner. In a read-only folder no lease is written, so that a run with write access may remove the
    entries.
    """

    def __init__(self, folder: Path, keys: set[str]):
        """Writes the lease; waits for a removal of entries that is under way."""
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
                    f"cannot write to the cache folder {folder} ({error.strerror}): free some "
                    "space there, or choose another folder with --data.cache_dir"
                ) from error


def _end_lease(file, path: Path) -> None:
    with contextlib.suppress(OSError):  # closing flushes data that a full disk has refused
        path.unlink(missing_ok=True)
        file.close()


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keeps leases from beginning while entries are removed."""
    with (folder / _LOCK_FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_leases(folder: Path) -> set[str]:
    """Returns the keys in use; removes the leases of processes that have died."""
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
    """The files of one key: their paths, their total size, and when they were last opened."""

    paths: list[str] = field(default_factory=list)
    num_bytes: int = 0
    last_use: float = 0.0


class CacheQuota:
    """The share of a cache's quota that is left for one data set.

    Attributes:
      own_bytes: The size of the data set's entries so far; whoever adds entries updates it.
    """

    def __init__(self, cache: Cache, keys: set[str], clip_bytes: int):
        """Measures all entries of the cache.

        Args:
          cache: The cache.
          keys: The keys of the data set's entries.
          clip_bytes: The size of one clip.
        """
        self._cache = cache
        self._clip_bytes = clip_bytes
        self.own_bytes = 0
        others = [(key, files) for key, files in _scan(cache.folder).items() if key not in keys]
        self._others = sorted(others, key=lambda other: other[1].last_use, reverse=True)
        self._other_bytes = sum(files.num_bytes for _, files in others)

    def reserve(self, num_videos: int) -> None:
        """Makes sure that `num_videos` more videos, of at least one clip each, fit into the cache.

        Entries of other data sets are removed if needed.

        Raises:
          ValueError: If the data set cannot fit, whatever else is removed.
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
                "needed: raise --data.cache_gb, or choose another folder with --data.cache_dir"
            )
        free = shutil.disk_usage(self._cache.folder).free
        if num_videos * self._clip_bytes > free + self._other_bytes:
            raise ValueError(
                f"the disk of {self._cache.folder} has {free / _GB:.3g} GB left and the decoded "
                f"clips take at least {num_videos * self._clip_bytes / _GB:.3g} GB more: choose "
                "another folder with --data.cache_dir"
            )

    def _remove_oldest(self, num_bytes: int) -> None:
        """Removes unused entries, the oldest first, until `num_bytes` are free."""
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
    """Returns the files of every key; removes old files that a killed process left half-written."""
    found: dict[str, _Files] = defaultdict(_Files)
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another process may have removed it
                _add_file(entry, found)
    return found


def _add_file(entry: os.DirEntry, found: dict[str, _Files]) -> None:
    status = entry.stat()
    if entry.name.endswith(TEMPORARY_SUFFIX):
        if time.time() - status.st_mtime > _STALE_SECONDS:
            os.unlink(entry.path)
    elif entry.name.endswith((".npy", ".json")):
        files = found[entry.name.split(".")[0]]
        files.paths.append(entry.path)
        files.num_bytes += status.st_size
        files.last_use = max(files.last_use, status.st_mtime)
