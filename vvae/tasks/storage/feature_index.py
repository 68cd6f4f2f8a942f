"""Parquet files that describe each row of the stored features. They need the extra pyarrow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.extras import require_extra
from vvae.files import replacing


class Part(NamedTuple):
    """Clips start, ..., stop - 1 of a split. Their rows in the arrays begin at `row`."""

    split: str
    start: int
    stop: int
    row: int


def require_pyarrow():
    """Returns the module pyarrow.

    Raises:
      ValueError: if it is not installed; the message says how to install it.
    """
    require_extra("pyarrow.parquet", "features", "the task features, which writes Parquet,")
    import pyarrow

    return pyarrow


def write_frame_index(path: Path, dataset: Dataset, parts: Sequence[Part]) -> None:
    """Writes one row per valid frame, with one row group per part."""
    pa = require_pyarrow()
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
    with replacing(path) as target, pa.parquet.ParquetWriter(target, schema) as writer:
        for part in parts:
            columns = _list_frames(dataset.splits[part.split], part)
            writer.write_table(pa.table(columns, schema=schema))


def _list_frames(clips: Clips, part: Part) -> dict[str, Any]:
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


def write_video_index(path: Path, dataset: Dataset) -> None:
    """Writes one row per video."""
    pa = require_pyarrow()
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
    with replacing(path) as target:
        pa.parquet.write_table(table, target)
