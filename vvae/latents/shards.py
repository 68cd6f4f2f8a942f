"""The files of a latent store: safetensors shards, and the parts that become shards.

A shard holds, for each clip, the tensors `KEY.mean` and `KEY.std`, [t, h, w, Z], and two tensors of
bytes: `records`, a JSON list with the record of each clip, and `sources`, a JSON list of the videos
that the shard answers for, also of those that could not be read. Any reader of safetensors opens
it. Shards are written here rather than by the package, which writes from memory alone.

A part holds the latents of one video until its shard is complete.
"""

import contextlib
import json
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from vvae.files import replacing
from vvae.inference.statistics import ChannelMoments
from vvae.latents.record import describe_statistics
from vvae.latents.safetensors_files import MAX_HEADER, make_header

ARRAYS = ("mean", "std")
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_PART_MARK = b"vvaepar1"
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class StoredClip:
    """The record of a clip, and where its arrays lie: the names of ARRAYS -> Stretch."""

    record: dict[str, Any]
    arrays: dict[str, Stretch]


@dataclass(frozen=True)
class StoredSource:
    """What is stored about one video.

    Attributes:
      entry: `name`, `sha256`, `bytes`, `mtime_ns`, `clips` (their number), `left_out` (frames that
        filled no clip), and `error`: why it could not be encoded, or null.
      clips: its clips in order.
    """

    entry: dict[str, Any]
    clips: tuple[StoredClip, ...]


# --- parts ----------------------------------------------------------------------------------------


class PartWriter:
    """Writes the clips of one video piece by piece; the file is there once it is committed."""

    def __init__(self, path: Path, dtype: str):
        """Takes the path of the part, and the dtype of the latents."""
        self._path, self._dtype = path, DTYPES[dtype]
        self._stack = contextlib.ExitStack()
        self._clips: list[dict[str, Any]] = []

    def __enter__(self) -> "PartWriter":
        path = self._stack.enter_context(replacing(self._path))
        self._file = self._stack.enter_context(open(path, "w+b"))
        # The deviations wait here until all means of a clip are written.
        self._later = self._stack.enter_context(tempfile.TemporaryFile(dir=self._path.parent))
        self._start()
        return self

    def __exit__(self, *exception) -> bool | None:
        return self._stack.__exit__(*exception)

    def _start(self) -> None:
        self._begin = self._file.tell()
        self._later.seek(0)
        self._later.truncate()
        self._shape, self._written = (), 0

    def append(self, mean_thwZ: np.ndarray, std_thwZ: np.ndarray) -> None:
        """Appends latent frames to the clip.

        Raises:
          ValueError: if they are not finite.
        """
        for array in (mean_thwZ, std_thwZ):
            if not np.isfinite(array).all():
                raise ValueError("the latents are not finite")
        self._shape = mean_thwZ.shape[1:]
        self._file.write(mean_thwZ.tobytes())
        self._later.write(std_thwZ.tobytes())
        self._written += len(mean_thwZ)

    def end_clip(self, record: dict[str, Any], num_latents: int | None = None) -> None:
        """Ends the clip after its first num_latents frames, by default after all.

        Args:
          record: its record without what follows from the arrays: shape, statistics and crc32.
          num_latents: at most as many as were appended.
        """
        count = self._written if num_latents is None else num_latents
        size = count * int(np.prod(self._shape)) * self._dtype.itemsize
        self._file.truncate(self._begin + size)
        self._file.seek(self._begin + size)
        self._later.seek(0)
        for block in _read_blocks(self._later, size):
            self._file.write(block)
        stretches = {name: [self._begin + k * size, size] for k, name in enumerate(ARRAYS)}
        checks, statistics = self._measure(stretches)
        record = {
            **record,
            "shape": [count, *map(int, self._shape)],
            "statistics": statistics,
            "crc32": checks,
        }
        self._clips.append({"record": record, "arrays": stretches})
        self._file.seek(0, os.SEEK_END)
        self._start()

    def drop_clip(self) -> None:
        """Forgets what was appended since the last clip."""
        self._file.truncate(self._begin)
        self._file.seek(self._begin)
        self._start()

    def _measure(self, stretches) -> tuple[dict[str, int], dict[str, Any]]:
        """Returns the checksums of the arrays, and the statistics of the means."""
        checks, moments = {}, ChannelMoments()
        frame = int(np.prod(self._shape)) * self._dtype.itemsize
        for name, (offset, size) in stretches.items():
            self._file.seek(offset)
            check = 0
            for block in _read_blocks(self._file, size, frame):
                check = zlib.crc32(block, check)
                if name == "mean":
                    moments.add(np.frombuffer(block, self._dtype).reshape(-1, self._shape[-1]))
            checks[name] = check
        return checks, describe_statistics(moments)

    def commit(self, entry: dict[str, Any]) -> None:
        """Completes the part; `entry` is that of StoredSource."""
        footer = json.dumps({"entry": entry, "clips": self._clips}).encode()
        self._file.write(footer + struct.pack("<Q", len(footer)) + _PART_MARK)
        self._file.close()


def read_part(path: Path) -> StoredSource | None:
    """Reads what a part holds; None if there is none, or if it is not whole."""
    try:
        with open(path, "rb") as file:
            file.seek(-16, os.SEEK_END)
            end = file.tell()
            tail = file.read()
            if tail[8:] != _PART_MARK:
                return None
            (length,) = struct.unpack("<Q", tail[:8])
            file.seek(end - length)
            footer = json.loads(file.read(length))
        clips = tuple(
            StoredClip(
                clip["record"],
                {name: Stretch(path, *place) for name, place in clip["arrays"].items()},
            )
            for clip in footer["clips"]
        )
        return StoredSource(footer["entry"], clips)
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- shards ---------------------------------------------------------------------------------------


def write_shard(path: Path, sources: Sequence[StoredSource], metadata: dict[str, str]) -> None:
    """Writes a shard; it appears under its name when it is whole and on the disk.

    Clips of equal content have equal keys; their arrays are stored once.

    Raises:
      ValueError: naming the clip, if the bytes of a part or an older shard are damaged.
    """
    clips = [clip for source in sources for clip in source.clips]
    unique = {clip.record["key"]: clip for clip in clips}
    texts = {
        "records": json.dumps([clip.record for clip in clips]).encode(),
        "sources": json.dumps([source.entry for source in sources]).encode(),
    }
    with replacing(path) as part, open(part, "wb") as file:
        numbers = {"clips": str(len(clips)), "videos": str(len(sources))}
        file.write(make_header(_list_tensors(unique.values(), texts), metadata | numbers))
        for clip in unique.values():
            for name, stretch in clip.arrays.items():
                _copy_checked(stretch, file, clip.record, name)
        file.writelines(texts.values())
        file.flush()
        os.fsync(file.fileno())


def _list_tensors(clips: Iterable[StoredClip], texts: dict[str, bytes]) -> Iterator[tuple]:
    for clip in clips:
        for name in clip.arrays:
            record = clip.record
            yield f"{record['key']}.{name}", DTYPES[record["dtype"]], record["shape"]
    for name, text in texts.items():
        yield name, np.dtype(np.uint8), [len(text)]


def _copy_checked(stretch: Stretch, target: BinaryIO, record: dict[str, Any], name: str) -> None:
    check = 0
    with open(stretch.path, "rb") as file:
        file.seek(stretch.offset)
        for block in _read_blocks(file, stretch.size):
            check = zlib.crc32(block, check)
            target.write(block)
    if check != record["crc32"][name]:
        raise ValueError(
            f"{stretch.path}: the {name} of {record['source']['name']}, clip {record['clip']}, is "
            "damaged: remove this file and run the same command again"
        )


def _read_blocks(file: BinaryIO, size: int, block_size: int = _COPY_BYTES) -> Iterator[bytes]:
    while size > 0:
        block = file.read(min(size, block_size))
        if not block:
            return
        size -= len(block)
        yield block


class Shard:
    """A shard on disk, of which nothing but the header is in memory."""

    def __init__(self, path: Path):
        """Reads the header.

        Raises:
          ValueError: naming the file, if it is not a whole shard.
        """
        self.path = Path(path)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                (length,) = struct.unpack("<Q", file.read(8))
                if length > min(size, MAX_HEADER):
                    raise ValueError("the length of its header is wrong")
                header = json.loads(file.read(length))
            self.metadata = header.pop("__metadata__")
            self._begin = 8 + length
            self._tensors = header
            end = self._begin + max(entry["data_offsets"][1] for entry in header.values())
            if end != size or not {"records", "sources"} <= header.keys():
                raise ValueError(f"it has {size} bytes and should have {end}")
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise ValueError(
                f"{path} is not a whole shard of latents ({error}): remove it and encode again"
            ) from error
        self._map: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}  # other processes map the file themselves

    def read_records(self) -> list[dict[str, Any]]:
        """Reads the records of the clips, in order."""
        return json.loads(self._read_text("records"))

    def read_entries(self) -> list[dict[str, Any]]:
        """Reads the entries of the videos, in order."""
        return json.loads(self._read_text("sources"))

    def read_sources(self) -> list[StoredSource]:
        """Returns what is stored about each video, without its arrays."""
        records, sources = iter(self.read_records()), []
        for entry in self.read_entries():
            clips = tuple(self._locate(next(records)) for _ in range(entry["clips"]))
            sources.append(StoredSource(entry, clips))
        return sources

    def read_array(self, record: dict[str, Any], name: str, frames: slice = slice(None)):
        """Reads `mean` or `std` of a clip, [t, h, w, Z], or some of its latent frames.

        The checksum is compared where the whole array is read.

        Raises:
          ValueError: naming file and clip, if the bytes are damaged.
        """
        stretch = self._place(f"{record['key']}.{name}")
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = memoryview(self._map)[stretch.offset : stretch.offset + stretch.size]
        if frames == slice(None) and zlib.crc32(data) != record["crc32"][name]:
            raise ValueError(
                f"{self.path}: the {name} of {record['source']['name']}, clip {record['clip']}, is "
                "damaged: remove this file and encode again"
            )
        array = np.frombuffer(data, DTYPES[record["dtype"]]).reshape(record["shape"])
        return array[frames].copy()  # what refers to mapped memory would keep the file open

    def _locate(self, record: dict[str, Any]) -> StoredClip:
        return StoredClip(record, {name: self._place(f"{record['key']}.{name}") for name in ARRAYS})

    def _place(self, name: str) -> Stretch:
        begin, end = self._tensors[name]["data_offsets"]
        return Stretch(self.path, self._begin + begin, end - begin)

    def _read_text(self, name: str) -> bytes:
        stretch = self._place(name)
        with open(self.path, "rb") as file:
            file.seek(stretch.offset)
            return file.read(stretch.size)
