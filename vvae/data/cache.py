"""Decoded clips on disk, so that each video is decoded once.

A video has one entry of two files: `KEY.npy`, uint8 [N, T, H, W, C], from which clips are read, and
`KEY.json`, which holds the numbers, times and masks of the frames, or the reason why the video is
broken. The key is a hash of the file's identity and the clip format. Both files are written under
temporary names and then renamed; the .json file comes last and makes the entry valid. It holds the
SHA-256 of the .npy file, which is checked when a process first reads that file.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vvae.data.cache_quota import Cache, CacheQuota, Lease
from vvae.data.sampling import ClipFormat, decode_clips
from vvae.data.views import get_view
from vvae.data.workers import WorkerError, run_in_workers
from vvae.files import map_array, replacing
from vvae.video import MAX_PIXELS, FrameTooLargeError, VideoError

# 2: Frames are resized as Y'CbCr planes, before their conversion to RGB.
# 3: Frames are mirrored and cropped as the file says, interlaced ones are not resized by fields,
#    chroma of more than 8 bits is enlarged as by ffmpeg, images are RGB whatever their mode, and
#    every page of an image is a frame.
FORMAT_VERSION = 3
_MAX_OPEN_FILES = 512


@dataclass(frozen=True)
class Limits:
    """What decoding one video may take.

    Attributes:
      max_pixels: The largest number of pixels in a frame of the file.
      seconds: The largest decoding time in a worker process, in s; None for no limit.
    """

    max_pixels: int = MAX_PIXELS
    seconds: float | None = None


NO_TIME_LIMIT = Limits()


@dataclass(frozen=True)
class CodesFile:
    """The cached array of one video.

    Attributes:
      path: The .npy file, uint8 [N, T, H, W, C].
      digest: Its SHA-256, in hexadecimal; None if it is unknown.
      lease: Keeps other runs from removing the file.
    """

    path: str
    digest: str | None = None
    lease: Lease | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Entry:
    """The clips of one video in the cache.

    Attributes:
      codes: The cached array.
      mask_NT, frame_NT, time_NT: As in `sampling.VideoClips`.
      num_padded: The number of clips that repeat their last frame because the video is too short.
      num_frames: The number of frames in the video file.
      num_bytes: The size of both files.
      num_clipped: The number of clipped values in valid frames; see `views.encode_view`.
    """

    codes: CodesFile
    mask_NT: np.ndarray
    frame_NT: np.ndarray
    time_NT: np.ndarray
    num_padded: int
    num_frames: int
    num_bytes: int
    num_clipped: int = 0


@dataclass(frozen=True)
class Broken:
    """Takes the place of the entry of an unusable video; `reason` does not name the video."""

    reason: str
    num_bytes: int = 0


@dataclass(frozen=True)
class _Job:
    """A video to decode, and where its entry goes."""

    path: str
    key: str
    folder: Path
    clip_format: ClipFormat
    max_pixels: int

    @property
    def codes_path(self) -> Path:
        return self.folder / f"{self.key}.npy"

    @property
    def details_path(self) -> Path:
        return self.folder / f"{self.key}.json"


def identify_file(path: str) -> tuple[int, int]:
    """Returns the size in bytes and the modification time in ns of a video.

    For a folder of frames, these are the sum of the sizes and the latest of the times.

    Raises:
      VideoError: If the file does not exist or cannot be accessed.
    """
    try:
        if not os.path.isdir(path):
            status = os.stat(path)
            return status.st_size, status.st_mtime_ns
        with os.scandir(path) as entries:
            statuses = [entry.stat() for entry in entries]
        return (
            sum(status.st_size for status in statuses),
            max([os.stat(path).st_mtime_ns, *(status.st_mtime_ns for status in statuses)]),
        )
    except OSError as error:
        raise VideoError(path, _describe_os_error(error)) from error


def cache_videos(
    paths: Sequence[str],
    clip_format: ClipFormat,
    cache: Cache,
    *,
    num_workers: int = 0,
    limits: Limits = NO_TIME_LIMIT,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Entry | Broken, bool]]:
    """Yields `(position, entry, decoded)` for every video; decodes those that the cache lacks.

    Args:
      paths: The absolute paths of the videos.
      clip_format: The view, size and sampling of the clips.
      cache: The folder of the entries and its quota.
      num_workers: The number of worker processes that decode; 0 decodes in this process.
      limits: What decoding one video may take; a video that exceeds them counts as broken until the
        limits are raised.
      progress: A function that is called with (videos decoded so far, videos to decode).

    Yields:
      The position of the video in `paths`, its entry, and whether it was decoded just now. Cached
      videos come first, then the others as they are completed. No other run removes an entry while
      it, or clips made from it, are in memory.

    Raises:
      ValueError: If the clips do not fit into the cache. This is raised before decoding where it is
        certain by then, otherwise as soon as it is.
    """
    _make_folder(cache.folder)
    jobs, unidentified = _make_jobs(paths, clip_format, cache.folder, limits)
    keys = {job.key for job in jobs.values()}
    lease = Lease(cache.folder, keys)
    known = {position: entry for position, job in jobs.items() if (entry := _load_entry(job))}
    missing = [position for position in jobs if position not in known]
    quota = CacheQuota(cache, keys, clip_format.clip_bytes)
    quota.own_bytes = sum(entry.num_bytes for entry in known.values())
    quota.reserve(len(missing))
    for position, entry in (unidentified | known).items():
        yield position, _attach_lease(entry, lease), False
    results = run_in_workers(
        _fill_entry, [jobs[position] for position in missing], num_workers, limits.seconds
    )
    with contextlib.closing(results):
        for num_done, (index, entry) in enumerate(results, start=1):
            if isinstance(entry, WorkerError):
                entry = Broken(str(entry))
            quota.own_bytes += entry.num_bytes
            quota.reserve(len(missing) - num_done)
            if progress is not None:
                progress(num_done, len(missing))
            yield missing[index], _attach_lease(entry, lease), True


def _attach_lease(entry: Entry | Broken, lease: Lease) -> Entry | Broken:
    if isinstance(entry, Broken):
        return entry
    return replace(entry, codes=replace(entry.codes, lease=lease))


@functools.lru_cache(maxsize=_MAX_OPEN_FILES)
def open_codes(path: str, digest: str | None = None) -> np.ndarray:
    """Maps the clips of one video into memory, uint8 [N, T, H, W, C], read-only.

    The most recently used maps stay open; their number stays below the limits of the system.

    Args:
      path: The .npy file.
      digest: Its SHA-256, which is checked; None skips the check.

    Raises:
      FileNotFoundError: If the entry was removed after the data set was opened.
      ValueError: If the file differs from what was written; the entry is removed.
    """
    with _explain_lost_entry(path):
        if digest is not None:
            _check_digest(path, digest)
        return map_array(path)


def read_clip(file: CodesFile, number: int, corner: tuple[int, int], out_THWC: np.ndarray) -> None:
    """Reads one clip of a video, or one region of its frames.

    Args:
      file: The cached array of the video.
      number: The number of the clip in the video.
      corner: The first row and the first column to read.
      out_THWC: A contiguous uint8 array, which is filled with the region of its size at `corner`.

    Raises:
      FileNotFoundError: If the entry was removed after the data set was opened.
      ValueError: If the file differs from what was written.
    """
    (y, x), (height, width) = corner, out_THWC.shape[1:3]
    offset, shape = _find_layout(file.path, file.digest)
    if shape[1:] != out_THWC.shape:
        mapped_THWC = open_codes(file.path, file.digest)[number]
        out_THWC[:] = mapped_THWC[:, y : y + height, x : x + width]
        return
    # Ten times faster than mapping the file, which data sets of many files would repeat.
    with _explain_lost_entry(file.path), open(file.path, "rb", buffering=0) as handle:
        handle.seek(offset + number * out_THWC.nbytes)
        if handle.readinto(memoryview(out_THWC).cast("B")) != out_THWC.nbytes:
            raise ValueError(f"{file.path} is damaged: it ends within clip {number}")


@functools.cache
def _find_layout(path: str, digest: str | None) -> tuple[int, tuple[int, ...]]:
    """Returns the offset of the array in its file, in bytes, and its shape."""
    mapped = open_codes(path, digest)
    return mapped.offset, mapped.shape


@contextlib.contextmanager
def _explain_lost_entry(path: str) -> Iterator[None]:
    """Adds the remedy to the error of an entry that was removed while in use."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} was removed from the cache while in use: start again, and raise "
            "--data.cache_gb if other runs share this cache"
        ) from error


@functools.cache
def _check_digest(path: str, digest: str) -> None:
    """Checks a whole file, once per process."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        with contextlib.suppress(OSError):
            Path(path).with_suffix(".json").unlink()
        raise ValueError(
            f"{path} is damaged: its SHA-256 differs from the recorded one. The entry is "
            "removed; the same command decodes the video again"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot create the cache folder {folder} ({_describe_os_error(error)}): choose "
            "another one with --data.cache_dir"
        ) from error


def _make_jobs(
    paths: Sequence[str], clip_format: ClipFormat, folder: Path, limits: Limits
) -> tuple[dict[int, _Job], dict[int, Broken]]:
    """Returns, by position, the videos to decode and those whose file cannot be accessed."""
    jobs, unidentified = {}, {}
    for position, path in enumerate(paths):
        try:
            jobs[position] = _Job(
                path=path,
                key=_compute_key(path, clip_format),
                folder=folder,
                clip_format=clip_format,
                max_pixels=limits.max_pixels,
            )
        except VideoError as error:
            unidentified[position] = Broken(_strip_path(error, path))
    return jobs, unidentified


def _compute_key(path: str, clip_format: ClipFormat) -> str:
    versions = get_view(clip_format.view).versions
    identity = [path, *identify_file(path), asdict(clip_format), FORMAT_VERSION, *versions]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:40]


def _fill_entry(job: _Job) -> Entry | Broken:
    """Decodes one video into the cache, unless another process has done so in the meantime."""
    entry = _load_entry(job)
    if entry is not None:
        return entry
    try:
        clips = decode_clips(job.path, job.clip_format, job.max_pixels)
    except FrameTooLargeError as error:
        # Not stored: the limit is a setting of this run, not a property of the video.
        return Broken(_strip_path(error, job.path))
    except VideoError as error:
        details = {"error": _strip_path(error, job.path)}
    else:
        digest = hashlib.sha256()
        _write_atomically(
            job.codes_path, lambda file: _write_array(file, clips.codes_NTHWC, digest)
        )
        details = {
            "digest": digest.hexdigest(),
            "mask": clips.mask_NT.tolist(),
            "frame": clips.frame_NT.tolist(),
            "time": clips.time_NT.tolist(),
            "num_padded": clips.num_padded,
            "num_frames": clips.num_frames,
            "num_clipped": clips.num_clipped,
            "codes_bytes": job.codes_path.stat().st_size,
        }
    text = json.dumps(details).encode()
    _write_atomically(job.details_path, lambda file: file.write(text))
    return _load_entry(job)


def _load_entry(job: _Job) -> Entry | Broken | None:
    """Returns the entry and marks it as used now; None if it is missing or incomplete."""
    try:
        text = job.details_path.read_bytes()
        entry = _parse_entry(job, json.loads(text), len(text))
        codes_bytes = entry.num_bytes - len(text)
        if isinstance(entry, Entry) and job.codes_path.stat().st_size != codes_bytes:
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    with contextlib.suppress(OSError):  # the cache may be read-only
        os.utime(job.details_path)
    return entry


def _parse_entry(job: _Job, details: dict, num_bytes: int) -> Entry | Broken:
    if "error" in details:
        return Broken(str(details["error"]), num_bytes)
    return Entry(
        codes=CodesFile(str(job.codes_path), str(details["digest"])),
        mask_NT=np.array(details["mask"], bool),
        frame_NT=np.array(details["frame"], np.int32),
        time_NT=np.array(details["time"], np.float64),
        num_padded=details["num_padded"],
        num_frames=details["num_frames"],
        num_bytes=details["codes_bytes"] + num_bytes,
        num_clipped=details.get("num_clipped", 0),  # entries older than the view flow lack it
    )


def _write_array(file: BinaryIO, array: np.ndarray, digest) -> None:
    """Writes an .npy file and adds its bytes to a digest."""
    # np.save would hide that the disk is full.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    for part in (header.getbuffer(), np.ascontiguousarray(array).data):
        digest.update(part)
        file.write(part)


def _write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    try:
        with replacing(path) as part, open(part, "wb") as file:
            write(file)
    except OSError as error:
        raise ValueError(
            f"cannot write to the cache folder {path.parent} ({_describe_os_error(error)}): free "
            "some space there, or choose another folder with --data.cache_dir"
        ) from error


def _strip_path(error: VideoError, path: str) -> str:
    return str(error).removeprefix(f"{path}: ")


def _describe_os_error(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
