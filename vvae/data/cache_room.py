"""Keeps a cache folder within its limit."""

import contextlib
import os
import shutil
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
_STALE_SECONDS = 24 * 3600
_GB = 1e9


@dataclass(frozen=True)
class Cache:
    """A cache folder and its limit.

    Attributes:
        folder: made if it is missing; may be shared by data sets, runs and machines.
        limit_bytes: most bytes of all entries. Entries of other data sets are removed to stay
            within it, the least recently opened first; those being opened never are.
    """

    folder: Path
    limit_bytes: int


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
        others = [files for key, files in _scan(cache.folder).items() if key not in keys]
        self._others = sorted(others, key=lambda files: files.last_use, reverse=True)
        self._other_bytes = sum(files.num_bytes for files in others)

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
        while self._others and needed + self._other_bytes > limit:
            self._remove_oldest()
        free = shutil.disk_usage(self._cache.folder).free
        if num_videos * self._clip_bytes > free + self._other_bytes:
            raise ValueError(
                f"the disk of {self._cache.folder} has {free / _GB:.3g} GB left and the decoded "
                f"clips take at least {num_videos * self._clip_bytes / _GB:.3g} GB more: name "
                "another place with --data.cache_dir"
            )

    def _remove_oldest(self) -> None:
        oldest = self._others.pop()
        self._other_bytes -= oldest.num_bytes
        for path in oldest.paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


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
