"""The answer of a task, and how it is written, printed and drawn."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vvae import figures, progress
from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.files import write_json
from vvae.metrics.cards import Metric
from vvae.metrics.table import format_metrics, format_table


@dataclasses.dataclass(frozen=True)
class Picture:
    """Pictures of an answer that are drawn together, once the answer is on disk.

    Attributes:
      captions: the names of their files -> what is seen, for a person who has not read the code.
      draw: a function of the folder, which writes the files into it. All processes call it, so that
        it may use `map_clips`.
    """

    captions: Mapping[str, str]
    draw: Callable[[Path], None]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files."""
        return tuple(self.captions)


@dataclasses.dataclass(frozen=True)
class TextTable:
    """A table of text, such as the clips that a search has found.

    Attributes:
      title: what it lists.
      header: the names of the columns.
      rows: the cells.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Result:
    """The answer of one task.

    Attributes:
      task: the name of the task.
      rows: method -> name of a metric -> metric; metrics of one name are comparable.
      details: curves, matrices, lists of names; written to JSON but not printed.
      notes: sentences for the reader, such as verdicts and numbers of videos left out.
      files: the names of all files of the answer, pictures included.
      pictures: the pictures to draw.
      tables: tables of text, printed below that of the metrics.
    """

    task: str
    rows: Mapping[str, Mapping[str, Metric]]
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[TextTable, ...] = ()


def record_options(result: Result, options: Mapping[str, Any]) -> Result:
    """Records the options of an answer, for the command in the report.

    Args:
      result: the answer.
      options: option -> value; options that are None are left out.
    """
    words = [str(word) for option in options.items() if option[1] is not None for word in option]
    return dataclasses.replace(result, details={**result.details, "options": words})


def publish(result: Result, folder: str | os.PathLike) -> None:
    """Writes a result, prints it, then draws its pictures.

    The numbers are on disk before the first picture is drawn. If a picture fails, a warning is
    printed. Files of the previous answer that this one does not have are removed.
    """
    folder = Path(folder)
    previous = _read_files(folder / f"{result.task}.json")
    write_result(result, folder)
    _remove(folder, previous - set(result.files))
    print(f"\n{format_result(result)}", flush=True)
    with progress.stage(f"{result.task}: pictures", is_logged=False):
        failed = {
            name
            for picture in progress.count(result.pictures, len(result.pictures))
            if not figures.try_to_draw(picture.names, functools.partial(picture.draw, folder))
            for name in picture.names
        }
    if failed:
        files = tuple(name for name in result.files if name not in failed)
        write_result(dataclasses.replace(result, files=files), folder)
        _remove(folder, failed)


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _read_files(path: Path) -> set[str]:
    """Returns the files of an answer that lie beside it; none if there is no answer."""
    try:
        names = json.loads(path.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if Path(name).name == name and (path.parent / name).is_file()}


def write_result(result: Result, folder: str | os.PathLike) -> Path:
    """Writes FOLDER/TASK.json, with a card for each value, and returns its path.

    Numbers that are not finite become null. The folder must exist. The file is replaced as a whole.
    """
    path = Path(folder) / f"{result.task}.json"
    rows = {
        method: {name: metric.as_json() for name, metric in row.items()}
        for method, row in result.rows.items()
    }
    content = {"task": result.task, "rows": rows, "notes": result.notes, "files": result.files}
    captions = {n: text for picture in result.pictures for n, text in picture.captions.items()}
    if captions:
        content["captions"] = captions
    if result.tables:
        content["tables"] = [dataclasses.asdict(table) for table in result.tables]
    write_json(path, as_json({**content, "details": result.details}))
    return path


def format_result(result: Result) -> str:
    """Formats the table of a result, if it has rows, its other tables and its notes as text."""
    table = [format_metrics(result.task, result.rows)] if result.rows else []
    others = [f"{t.title}\n{format_table(t.header, t.rows)}" for t in result.tables]
    return "\n".join([*table, *others, *result.notes])


def as_json(value: Any) -> Any:
    """Converts a value to the types of JSON: arrays to lists, non-finite numbers to None."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return as_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def describe_data(dataset: Dataset, split: str) -> dict[str, Any]:
    """Returns the part of a metric card that describes the measured videos."""
    clips = dataset.splits[split]
    clip_format = clips.clip_format
    return {
        "data": dataset.fingerprint,
        "split": split,
        "view": clip_format.view,
        "frame_size": f"{clip_format.height}x{clip_format.width}",
        "num_frames": clip_format.sampling.num_frames,
        "frame_stride": clip_format.sampling.frame_stride,
        "sampling": clip_format.sampling.mode,
        **describe_clips(clips),
    }


def describe_clips(clips: Clips) -> dict[str, int]:
    """Returns the part of a metric card that counts videos, clips and valid frames."""
    return {
        "num_videos": len(clips.videos),
        "num_clips": len(clips),
        "num_valid_frames": int(clips.mask_NT.sum()),
    }


def require_split(dataset: Dataset, split: str) -> Clips:
    """Returns the clips of a split.

    Raises:
      ValueError: if the data set has no such split; the message names its splits.
    """
    if split not in dataset.splits:
        raise ValueError(
            f"{dataset.root} has no split {split!r} to evaluate on; it has "
            f"{', '.join(dataset.splits)}"
        )
    return dataset.splits[split]
