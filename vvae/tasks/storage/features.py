"""Latents of every clip and frame on disk: arrays, and an index that says what each row is.

    features/
      features.npz         float32 arrays, read by name without the others:
        frame_mean, frame_logvar   [N, T, Z]: q(z_t | x_t)
        clip_mean, clip_logvar     [N, W]: q(w | x)
        clip_pooled                [N, F]: one vector a clip, see `features.POOLINGS`
        video_pooled               [V, F]: the mean over the clips of each video
      index.parquet        a row a frame: row (n), step (t), path, clip, frame, time, label, split
      videos.parquet       a row a video: row (v), path, label, group, split, clips
      extraction.json      what was computed, and how far it is

Memory does not grow with the number of clips: each array is a .npy file of its own that is appended
to part by part, and a part counts once extraction.json, which is written after it, says so. What an
interrupted extraction has left is overwritten from the last such part on. At the end the arrays go,
as they are, into features.npz; on the way there the disk holds them twice.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from vvae import processes
from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.extras import require_extra
from vvae.files import remove_leftovers, replacing, write_json
from vvae.measure.mapping import map_clips
from vvae.models import contract
from vvae.models.digest import digest_params
from vvae.tasks.pooling import get_pooling
from vvae.tasks.result import Result

FOLDER = "features"
RECORD = "extraction.json"
PART_CLIPS = 1024
_COPY_BYTES = 2**20
CLIP_ARRAYS = ("frame_mean", "frame_logvar", "clip_mean", "clip_logvar", "clip_pooled")
VIDEO_ARRAY = "video_pooled"
ARRAYS = (*CLIP_ARRAYS, VIDEO_ARRAY)
ARCHIVE = "features.npz"
INDEXES = ("index.parquet", "videos.parquet")


def require_pyarrow() -> None:
    """Raises ValueError, which says what to install, where pyarrow is missing."""
    require_extra("pyarrow.parquet", "features", "the task features, which writes Parquet,")


@dataclasses.dataclass(frozen=True)
class _Part:
    """Clips start, ..., stop - 1 of a split, which are rows row, row + 1, ... of the arrays."""

    split: str
    start: int
    stop: int
    row: int


def store_features(
    model,
    params,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    batch_size: int,
    pooling: str = "dynamics",
    part_clips: int = PART_CLIPS,
    on_part: Callable[[int, int], None] | None = None,
) -> Result:
    """Writes the latents of every clip of every split, or goes on where it was interrupted.

    What was written with the same parameters, data, pooling and batch size is kept; anything else
    in the folder's arrays is replaced. The files are the same, byte for byte, whether the
    extraction was interrupted or not.

    Args:
      model: a SequentialVAE.
      params: its variables.
      dataset: all its splits are read, one after the other.
      folder: where the folder `features` goes; must exist.
      batch_size: clips at a time.
      pooling: how the latents of a clip become one vector, see `features.POOLINGS`.
      part_clips: clips after which progress is kept, rounded up to whole batches.
      on_part: called with (clips done, clips) after each part.

    Raises:
      ValueError: without pyarrow, for an unknown pooling, or if there is no clip.
    """
    require_pyarrow()
    encode = make_encoder(model, pooling)
    folder = Path(folder) / FOLDER
    folder.mkdir(exist_ok=True)
    parts = _plan_parts(dataset, batch_size, part_clips)
    total = sum(len(clips) for clips in dataset.splits.values())
    plan = {
        "params": digest_params(params).hex(),
        "data": dataset.fingerprint,
        "pooling": pooling,
        "batch_size": batch_size,
        "part_clips": parts[0].stop if len(parts) > 1 else total,
        "num_clips": total,
        "shapes": _measure_shapes(encode, params, dataset, batch_size),
    }
    # What the first process has, it alone writes.
    complete, done = processes.share(
        np.array([_is_complete(folder, plan), _read_progress(folder, plan)], np.int64)
    )
    if complete:
        _remove_arrays(folder)
        return _describe(dataset, plan, resumed=total)
    latents = _encode_parts(
        functools.partial(encode, params), dataset, parts, int(done), batch_size
    )
    if not processes.is_first():
        collections.deque(latents, maxlen=0)  # its share of the work
        return _describe(dataset, plan, resumed=int(done))
    if done == 0:
        _start_anew(folder, plan)
    with _open_arrays(folder, plan, int(done)) as files:
        for written, arrays in latents:
            _append(files, arrays)
            write_json(folder / RECORD, {**plan, "clips_done": written, "complete": False})
            if on_part is not None:
                on_part(written, total)
    _write_video_vectors(folder, dataset)
    _write_index(folder / INDEXES[0], dataset, parts)
    _write_video_index(folder / INDEXES[1], dataset)
    _pack(folder)
    write_json(folder / RECORD, {**plan, "clips_done": total, "complete": True})
    _remove_arrays(folder)
    return _describe(dataset, plan, resumed=int(done))


def make_encoder(model, pooling: str) -> Callable:
    """Returns a jitted function (params, batch) -> {array name: [B, ...]}.

    Raises:
      ValueError: for an unknown pooling.
    """
    pool = get_pooling(pooling)

    @jax.jit
    def encode(params, video_BTHWC, mask_BT):
        posterior = contract.encode(model, params, video_BTHWC, mask_BT)
        return {
            "frame_mean": posterior.frame.mean,
            "frame_logvar": posterior.frame.logvar,
            "clip_mean": posterior.clip.mean,
            "clip_logvar": posterior.clip.logvar,
            "clip_pooled": pool(posterior, mask_BT),
        }

    return encode


# --- parts ---------------------------------------------------------------------------------------


def _plan_parts(dataset: Dataset, batch_size: int, part_clips: int) -> list[_Part]:
    if part_clips < 1 or batch_size < 1:
        raise ValueError(
            f"part_clips={part_clips}, batch_size={batch_size}: both must be greater than 0"
        )
    # Whole batches: a clip's latents may depend, in the last bit, on where in a batch it stands.
    size = math.ceil(part_clips / batch_size) * batch_size
    parts, row = [], 0
    for split, clips in dataset.splits.items():
        for start in range(0, len(clips), size):
            stop = min(start + size, len(clips))
            parts.append(_Part(split, start, stop, row))
            row += stop - start
    if not parts:
        raise ValueError(f"{dataset.root} has no clip to extract features from")
    return parts


def _measure_shapes(encode, params, dataset: Dataset, batch_size: int) -> dict[str, list[int]]:
    """Shapes of one clip's row in each array, without computing it."""
    clip_shape = next(iter(dataset.splits.values())).clip_format.clip_shape
    video = jax.ShapeDtypeStruct((batch_size, *clip_shape), np.uint8)
    mask = jax.ShapeDtypeStruct((batch_size, clip_shape[0]), bool)
    shapes = jax.eval_shape(encode, params, video, mask)
    return {name: list(shapes[name].shape[1:]) for name in CLIP_ARRAYS}


def _is_complete(folder: Path, plan: dict[str, Any]) -> bool:
    """Whether the folder holds all of an extraction of this plan, undamaged."""
    if not _read_record(folder, plan)[1] or any(not (folder / i).is_file() for i in INDEXES):
        return False
    try:
        with zipfile.ZipFile(folder / ARCHIVE) as archive:
            return archive.namelist() == [f"{name}.npy" for name in ARRAYS]
    except (OSError, zipfile.BadZipFile):
        return False


def _read_record(folder: Path, plan: dict[str, Any]) -> tuple[int, bool]:
    """Returns how many clips are done, and whether all is; (0, False) for another plan."""
    try:
        record = json.loads((folder / RECORD).read_text())
        known = {name: record[name] for name in plan}
        return (record["clips_done"], record["complete"]) if known == plan else (0, False)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, False


def _read_progress(folder: Path, plan: dict[str, Any]) -> int:
    """Returns how many clips are on disk already; 0 if they are of another plan, or damaged."""
    done, _ = _read_record(folder, plan)
    enough = all(
        (folder / f"{name}.npy").is_file()
        and (folder / f"{name}.npy").stat().st_size >= _find_offset(plan, name, done)
        for name in CLIP_ARRAYS
    )
    return done if enough else 0


def _start_anew(folder: Path, plan: dict[str, Any]) -> None:
    """Removes what the folder holds of another extraction, the record first, writes headers."""
    for name in (RECORD, ARCHIVE, *INDEXES, *(f"{name}.npy" for name in ARRAYS)):
        (folder / name).unlink(missing_ok=True)
    for name in CLIP_ARRAYS:
        with open(folder / f"{name}.npy", "wb") as file:
            _write_header(file, (plan["num_clips"], *plan["shapes"][name]))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Writes the header of a .npy file of float32; until all rows follow, np.load refuses it."""
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _find_offset(plan: dict[str, Any], name: str, row: int) -> int:
    """Returns where a row begins in its file, bytes."""
    shape = (plan["num_clips"], *plan["shapes"][name])
    return _header_bytes(shape) + 4 * row * math.prod(shape[1:])


def _header_bytes(shape: tuple[int, ...]) -> int:
    class Counter:
        size = 0

        def write(self, data):
            self.size += len(data)

    counter = Counter()
    _write_header(counter, shape)
    return counter.size


@contextlib.contextmanager
def _open_arrays(folder: Path, plan: dict[str, Any], done: int) -> Iterator[dict[str, BinaryIO]]:
    """Opens the arrays for appending, without what follows the last part that counts."""
    with contextlib.ExitStack() as stack:
        files = {}
        for name in CLIP_ARRAYS:
            file = stack.enter_context(open(folder / f"{name}.npy", "r+b"))
            file.truncate(_find_offset(plan, name, done))
            file.seek(0, os.SEEK_END)
            files[name] = file
        yield files


def _encode_parts(
    encode: Callable, dataset: Dataset, parts: list[_Part], done: int, batch_size: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields (clips done with it, arrays of the part) for the parts that are to do."""
    for part in parts:
        if part.row >= done:
            clips = dataset.splits[part.split].select(np.arange(part.start, part.stop))
            arrays = map_clips(lambda b: encode(b["video"], b["mask"]), clips, batch_size)
            yield part.row + len(clips), arrays


def _append(files: dict[str, BinaryIO], latents: dict[str, np.ndarray]) -> None:
    """Adds a part to the arrays and makes sure that it is on disk."""
    for name, file in files.items():
        file.write(np.ascontiguousarray(latents[name], "<f4").tobytes())
    for file in files.values():
        file.flush()
        os.fsync(file.fileno())


# --- videos and indexes ---------------------------------------------------------------------------


def _write_video_vectors(folder: Path, dataset: Dataset) -> None:
    """Writes the mean of the pooled vectors of each video's clips that have a valid frame."""
    pooled_NF = np.load(folder / "clip_pooled.npy", mmap_mode="r")
    num_videos = sum(len(clips.videos) for clips in dataset.splits.values())
    with replacing(folder / f"{VIDEO_ARRAY}.npy") as part, open(part, "wb") as file:
        _write_header(file, (num_videos, pooled_NF.shape[1]))
        row = 0
        for clips in dataset.splits.values():
            used_N = clips.mask_NT.any(axis=1)
            for rows in _group_by_video(clips):
                counted = row + rows[used_N[rows]]
                total_F = np.zeros(pooled_NF.shape[1])
                for clip in counted:  # one at a time: a long video has many
                    total_F += pooled_NF[clip]
                file.write((total_F / len(counted)).astype("<f4").tobytes())
            row += len(clips)


def _pack(folder: Path) -> None:
    """Writes all arrays into one archive, uncompressed, a block of bytes at a time."""
    with replacing(folder / ARCHIVE) as part, zipfile.ZipFile(part, "w") as archive:
        for name in ARRAYS:
            # The default date is fixed, so that the same arrays make the same file.
            entry = zipfile.ZipInfo(f"{name}.npy")
            with (
                open(folder / entry.filename, "rb") as source,
                archive.open(entry, "w", force_zip64=True) as target,
            ):
                shutil.copyfileobj(source, target, _COPY_BYTES)


def _remove_arrays(folder: Path) -> None:
    """Removes the files that the archive holds, and what a killed process left half written."""
    for name in ARRAYS:
        (folder / f"{name}.npy").unlink(missing_ok=True)
    for name in (f"{VIDEO_ARRAY}.npy", *INDEXES, ARCHIVE, RECORD):
        remove_leftovers(folder / name)


def _group_by_video(clips: Clips) -> Iterator[np.ndarray]:
    """Yields the numbers of each video's clips; they stand together, in the order of the videos."""
    bounds = np.searchsorted(clips.video_index_N, np.arange(len(clips.videos) + 1))
    for start, stop in itertools.pairwise(bounds):
        yield np.arange(start, stop)


def _write_index(path: Path, dataset: Dataset, parts: list[_Part]) -> None:
    """Writes a row a valid frame, a group of rows a part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("step", pa.int32()),
            ("path", pa.string()),
            ("clip", pa.int32()),
            ("frame", pa.int32()),
            ("time", pa.float64()),
            ("label", pa.string()),
            ("split", pa.string()),
        ]
    )
    with replacing(path) as part_path, pq.ParquetWriter(part_path, schema) as writer:
        for part in parts:
            columns = _list_frames(dataset.splits[part.split], part)
            writer.write_table(pa.table(columns, schema=schema))


def _list_frames(clips: Clips, part: _Part) -> dict[str, Any]:
    own = slice(part.start, part.stop)
    clip_F, step_F = np.nonzero(clips.mask_NT[own])
    videos = [clips.videos[v] for v in clips.video_index_N[own][clip_F]]
    return {
        "row": part.row + clip_F,
        "step": step_F.astype(np.int32),
        "path": [video.name for video in videos],
        "clip": clips.position_N[own][clip_F],
        "frame": clips.frame_NT[own][clip_F, step_F],
        "time": clips.time_NT[own][clip_F, step_F],
        "label": [video.label for video in videos],
        "split": [part.split] * len(videos),
    }


def _write_video_index(path: Path, dataset: Dataset) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        (video, split, int(count))
        for split, clips in dataset.splits.items()
        for video, count in zip(
            clips.videos, np.bincount(clips.video_index_N, minlength=len(clips.videos))
        )
    ]
    table = pa.table(
        {
            "row": pa.array(range(len(rows)), pa.int64()),
            "path": pa.array([video.name for video, _, _ in rows], pa.string()),
            "label": pa.array([video.label for video, _, _ in rows], pa.string()),
            "group": pa.array([video.group for video, _, _ in rows], pa.string()),
            "split": pa.array([split for _, split, _ in rows], pa.string()),
            "clips": pa.array([count for _, _, count in rows], pa.int32()),
        }
    )
    with replacing(path) as part_path:
        pq.write_table(table, part_path)


def _describe(dataset: Dataset, plan: dict[str, Any], resumed: int) -> Result:
    masked = sum(int((~clips.mask_NT).sum()) for clips in dataset.splits.values())
    frames = sum(int(clips.mask_NT.sum()) for clips in dataset.splits.values())
    videos = sum(len(clips.videos) for clips in dataset.splits.values())
    notes = [
        f"{videos} videos, {plan['num_clips']} clips, {frames} frames of the split(s) "
        f"{', '.join(dataset.splits)}; vectors of videos by pooling {plan['pooling']}."
    ]
    if masked:
        notes.append(
            f"{masked} frames are not in the index: they fill up a clip, or have no value under "
            f"the view {dataset.view.name}."
        )
    if resumed:
        notes.append(f"{resumed} of the clips were there already.")
    names = [ARCHIVE, *INDEXES, RECORD]
    return Result(
        task="features",
        rows={},
        details={name: plan[name] for name in ("pooling", "num_clips", "shapes", "params")},
        notes=tuple(notes),
        files=tuple(f"{FOLDER}/{name}" for name in names),
    )
