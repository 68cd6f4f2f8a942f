"""Writes the latents of every clip and frame to disk: arrays, and an index that describes the rows.

    features/
      features.npz         float32 arrays, which can be read one by one:
        frame_mean, frame_logvar   [N, T, Z]: q(z_t | x_t)
        clip_mean, clip_logvar     [N, W]: q(w | x)
        clip_pooled                [N, F]: one vector per clip, see `pooling.POOLINGS`
        video_pooled               [V, F]: the mean over the clips of each video
      index.parquet        a row per frame: row (n), step (t), path, clip, frame, time, label, split
      videos.parquet       a row per video: row (v), path, label, group, split, clips
      extraction.json      what was computed, and how many clips are done

Memory does not grow with the number of clips. During the extraction, each array is a .npy file of
its full size in the folder `unfinished`, and its rows are written part by part. A part counts as
done once extraction.json, which is written after it, says so; a resumed extraction overwrites
whatever follows the last such part. At the end the arrays are copied into features.npz, so that
they are on disk twice for a while.
"""

import collections
import functools
import itertools
import json
import math
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vvae import processes
from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.files import allocate, remove_leftovers, replacing, write_json
from vvae.measure.mapping import map_clips
from vvae.models.digest import digest_params
from vvae.tasks.options import Features
from vvae.tasks.pooling import get_pooling, make_encoder
from vvae.tasks.question import Question
from vvae.tasks.result import Result
from vvae.tasks.storage.feature_index import (
    Part,
    require_pyarrow,
    write_frame_index,
    write_video_index,
)

FOLDER = "features"
UNFINISHED = "unfinished"
RECORD = "extraction.json"
PART_CLIPS = 1024
CLIP_ARRAYS = ("frame_mean", "frame_logvar", "clip_mean", "clip_logvar", "clip_pooled")
VIDEO_ARRAY = "video_pooled"
ARRAYS = (*CLIP_ARRAYS, VIDEO_ARRAY)
ARCHIVE = "features.npz"
INDEXES = ("index.parquet", "videos.parquet")


def answer(question: Question, options: Features) -> Result:
    """Writes the latents of every clip of every split; see `store_features`."""
    del options
    return store_features(question)


def store_features(
    question: Question,
    part_clips: int = PART_CLIPS,
    on_part: Callable[[int, int], None] | None = None,
) -> Result:
    """Writes the latents of every clip of every split, or resumes an interrupted extraction.

    Parts that were written with the same parameters, data, pooling and batch size are kept; all
    others are replaced. The files are the same, byte for byte, whether the extraction was
    interrupted or not.

    Args:
      question: the model and the videos; all splits are read, one after the other.
      part_clips: clips between two saves of the progress, rounded up to whole batches.
      on_part: called with (clips done, clips) after each part.

    Raises:
      ValueError: without pyarrow, for an unknown pooling, or if there is no clip.
    """
    require_pyarrow()
    dataset, params, batch_size = question.dataset, question.params, question.batch_size
    encode = make_encoder(question.model, _read_latents(get_pooling(question.settings.pooling)))
    folder = question.folder / FOLDER
    folder.mkdir(exist_ok=True)
    parts = _plan_parts(dataset, batch_size, part_clips)
    shapes = _measure_shapes(encode, params, dataset, batch_size)
    plan = _make_plan(question, parts, shapes)
    total = plan["num_clips"]
    # The first process decides: it alone has the files.
    complete, done = processes.share(
        np.array([_is_complete(folder, plan), _read_progress(folder, plan)], np.int64)
    )
    if complete:
        _remove_unfinished(folder)
        return _describe(dataset, plan, resumed=total)
    todo = [part for part in parts if part.row >= done]
    latents = _encode_parts(functools.partial(encode, params), dataset, todo, batch_size)
    if not processes.is_first():
        collections.deque(latents, maxlen=0)  # computes its share of the batches, writes nothing
        return _describe(dataset, plan, resumed=int(done))
    if done == 0:
        _start_anew(folder, plan)
    for part, arrays in zip(todo, latents):
        _write_rows(folder, part.row, arrays)
        written = part.row + part.stop - part.start
        write_json(folder / RECORD, {**plan, "clips_done": written, "complete": False})
        if on_part is not None:
            on_part(written, total)
    _finish(folder, dataset, parts)
    write_json(folder / RECORD, {**plan, "clips_done": total, "complete": True})
    _remove_unfinished(folder)
    return _describe(dataset, plan, resumed=int(done))


def _make_plan(
    question: Question, parts: Sequence[Part], shapes: Mapping[str, list[int]]
) -> dict[str, Any]:
    """Returns what determines the files; an extraction is resumed only if all of it is the same."""
    total = sum(len(clips) for clips in question.dataset.splits.values())
    return {
        "params": digest_params(question.params).hex(),
        "data": question.dataset.fingerprint,
        "pooling": question.settings.pooling,
        "batch_size": question.batch_size,
        "part_clips": parts[0].stop if len(parts) > 1 else total,
        "num_clips": total,
        "shapes": shapes,
    }


def _finish(folder: Path, dataset: Dataset, parts: Sequence[Part]) -> None:
    """Writes the vectors of videos, the indexes and the archive, once all parts are written."""
    _write_video_vectors(folder, dataset)
    write_frame_index(folder / INDEXES[0], dataset, parts)
    write_video_index(folder / INDEXES[1], dataset)
    with replacing(folder / ARCHIVE) as target, open(target, "wb") as file:
        np.savez(file, **{name: _open_array(folder, name, "r") for name in ARRAYS})


def _read_latents(pool: Callable) -> Callable:
    """Returns a function: (posterior, mask_BT) -> {name of an array: [B, ...]}."""

    def read(posterior, mask_BT):
        return {
            "frame_mean": posterior.frame.mean,
            "frame_logvar": posterior.frame.logvar,
            "clip_mean": posterior.clip.mean,
            "clip_logvar": posterior.clip.logvar,
            "clip_pooled": pool(posterior, mask_BT),
        }

    return read


# --- parts ---------------------------------------------------------------------------------------


def _plan_parts(dataset: Dataset, batch_size: int, part_clips: int) -> list[Part]:
    if part_clips < 1 or batch_size < 1:
        raise ValueError(
            f"part_clips={part_clips}, batch_size={batch_size}: both must be greater than 0"
        )
    # Whole batches: the last bit of a clip's latents may depend on its place in the batch.
    size = math.ceil(part_clips / batch_size) * batch_size
    parts, row = [], 0
    for split, clips in dataset.splits.items():
        for start in range(0, len(clips), size):
            stop = min(start + size, len(clips))
            parts.append(Part(split, start, stop, row))
            row += stop - start
    if not parts:
        raise ValueError(f"{dataset.root} has no clip to extract features from")
    return parts


def _measure_shapes(encode, params, dataset: Dataset, batch_size: int) -> dict[str, list[int]]:
    """Returns the shape of a clip's row in each array, without computing a row."""
    clip_shape = next(iter(dataset.splits.values())).clip_format.clip_shape
    video = jax.ShapeDtypeStruct((batch_size, *clip_shape), np.uint8)
    mask = jax.ShapeDtypeStruct((batch_size, clip_shape[0]), bool)
    shapes = jax.eval_shape(encode, params, video, mask)
    return {name: list(shapes[name].shape[1:]) for name in CLIP_ARRAYS}


def _is_complete(folder: Path, plan: dict[str, Any]) -> bool:
    """Whether the folder holds a complete, undamaged extraction of this plan."""
    if not _read_record(folder, plan)[1] or any(not (folder / i).is_file() for i in INDEXES):
        return False
    try:
        with zipfile.ZipFile(folder / ARCHIVE) as archive:
            return archive.namelist() == [f"{name}.npy" for name in ARRAYS]
    except (OSError, zipfile.BadZipFile):
        return False


def _read_record(folder: Path, plan: dict[str, Any]) -> tuple[int, bool]:
    """Returns the clips that are done, and whether all work is; (0, False) for another plan."""
    try:
        record = json.loads((folder / RECORD).read_text())
        known = {name: record[name] for name in plan}
        return (record["clips_done"], record["complete"]) if known == plan else (0, False)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, False


def _read_progress(folder: Path, plan: dict[str, Any]) -> int:
    """Returns the number of clips on disk; 0 if they belong to another plan or are damaged."""
    done, _ = _read_record(folder, plan)
    try:
        found = {name: list(_open_array(folder, name, "r").shape) for name in CLIP_ARRAYS}
    except (OSError, ValueError):
        return 0
    expected = {name: [plan["num_clips"], *plan["shapes"][name]] for name in CLIP_ARRAYS}
    return done if found == expected else 0


def _start_anew(folder: Path, plan: dict[str, Any]) -> None:
    """Removes the files of another extraction, the record first, and makes empty arrays."""
    for name in (RECORD, ARCHIVE, *INDEXES):
        (folder / name).unlink(missing_ok=True)
    _remove_unfinished(folder)
    (folder / UNFINISHED).mkdir()
    for name in CLIP_ARRAYS:
        _create_array(folder, name, (plan["num_clips"], *plan["shapes"][name]))


def _remove_unfinished(folder: Path) -> None:
    """Removes the arrays beside the archive, and partial files of a killed process."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    for name in ARRAYS:  # where older versions kept them
        (folder / f"{name}.npy").unlink(missing_ok=True)
    for name in (*INDEXES, ARCHIVE, RECORD):
        remove_leftovers(folder / name)


def _encode_parts(
    encode: Callable, dataset: Dataset, parts: list[Part], batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the arrays of each part."""
    for part in parts:
        clips = dataset.splits[part.split].select(np.arange(part.start, part.stop))
        yield map_clips(lambda b: encode(b["video"], b["mask"]), clips, batch_size)


# --- arrays on disk -------------------------------------------------------------------------------


def _create_array(folder: Path, name: str, shape: tuple[int, ...]) -> np.memmap:
    path = folder / UNFINISHED / f"{name}.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    allocate(path)
    return array


def _open_array(folder: Path, name: str, mode: str) -> np.memmap:
    return np.load(folder / UNFINISHED / f"{name}.npy", mmap_mode=mode)


def _write_rows(folder: Path, first: int, latents: dict[str, np.ndarray]) -> None:
    """Writes a part into the arrays, and flushes them to disk."""
    for name in CLIP_ARRAYS:
        array = _open_array(folder, name, "r+")
        array[first : first + len(latents[name])] = latents[name]
        array.flush()


def _write_video_vectors(folder: Path, dataset: Dataset) -> None:
    """Writes the mean of the pooled vectors of each video's clips that have a valid frame."""
    pooled_NF = _open_array(folder, "clip_pooled", "r")
    num_videos = sum(len(clips.videos) for clips in dataset.splits.values())
    video_VF = _create_array(folder, VIDEO_ARRAY, (num_videos, pooled_NF.shape[1]))
    first_clip = video = 0
    for clips in dataset.splits.values():
        used_N = clips.mask_NT.any(axis=1)
        for rows in _group_by_video(clips):
            counted = first_clip + rows[used_N[rows]]
            total_F = np.zeros(pooled_NF.shape[1])
            for clip in counted:  # one at a time: a long video has many
                total_F += pooled_NF[clip]
            video_VF[video] = total_F / len(counted)
            video += 1
        first_clip += len(clips)
    video_VF.flush()


def _group_by_video(clips: Clips) -> Iterator[np.ndarray]:
    """Yields the numbers of each video's clips, which are in the order of the videos."""
    bounds = np.searchsorted(clips.video_index_N, np.arange(len(clips.videos) + 1))
    for start, stop in itertools.pairwise(bounds):
        yield np.arange(start, stop)


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
