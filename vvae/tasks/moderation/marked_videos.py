"""Which videos are marked as wanted or unwanted: by a file, or by declaring a class unwanted."""

import csv
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.tasks.csv_files import open_csv, unguard
from vvae.tasks.moderation.detector import KINDS
from vvae.tasks.result import require_split

DEFAULT_NUM_MARKS = 10


@dataclasses.dataclass(frozen=True)
class Marks:
    """Which videos are marked.

    Attributes:
      unwanted: name of a video -> True if it is not wanted, False if it is.
      unwanted_class: the class that was declared unwanted; empty if videos were marked one by one.
      text: where the marks come from, for the metric cards.
    """

    unwanted: Mapping[str, bool]
    unwanted_class: str
    text: str


def read_marks(path: str | os.PathLike, dataset: Dataset) -> Marks:
    """Reads a CSV file with the columns `path` and `label` (wanted or unwanted).

    Args:
      path: of the file; its paths are relative to the data set, as in manifest.csv.
      dataset: whose videos are marked.

    Raises:
      ValueError: if the file cannot be read, a label is another word, or a path is marked twice or
        is no video of the data set.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error
    known = {video.name for clips in dataset.splits.values() for video in clips.videos}
    unwanted: dict[str, bool] = {}
    for line, row in enumerate(rows, start=2):
        name, label = unguard((row.get("path") or "").strip()), (row.get("label") or "").strip()
        if not name or label not in KINDS:
            raise ValueError(
                f"{path}, line {line}: needs the columns path and label, wanted or unwanted; got "
                f"path {name!r} and label {label!r}"
            )
        if name in unwanted:
            raise ValueError(f"{path}, line {line}: {name!r} is marked twice")
        if name in dataset.broken:
            raise ValueError(
                f"{path}, line {line}: {name!r} cannot be read: {dataset.broken[name]}"
            )
        if name not in known:
            raise ValueError(
                f"{path}, line {line}: {name!r} is no video of {dataset.root}; paths are relative "
                "to this folder"
            )
        unwanted[name] = label == "unwanted"
    return Marks(unwanted, "", f"marks of {Path(path).name}")


def mark_class(
    dataset: Dataset, unwanted_class: str, num_marks: int, split: str, seed: int
) -> Marks:
    """Declares a class unwanted, as if few of its training videos had been marked.

    `num_marks` training videos of the class are marked unwanted, the labelled ones of other classes
    wanted; the rest of the class is not marked, so that it is not learned from. All labelled videos
    of the measured split are marked, to count by.

    Args:
      dataset: with labels.
      unwanted_class: name of the class.
      num_marks: unwanted training videos, drawn by the seed.
      split: which split is measured.
      seed: of the draw.

    Raises:
      ValueError: if there is no such class, or it has too few training videos.
    """
    if unwanted_class not in dataset.class_names:
        raise ValueError(
            f"--unwanted {unwanted_class}: no class of {dataset.root}, which has "
            f"{', '.join(dataset.class_names) or 'no labels'}"
        )
    train = find_class(require_split(dataset, "train"), dataset.class_names, unwanted_class)
    members = [name for name, is_unwanted in train.items() if is_unwanted]
    if len(members) < num_marks:
        raise ValueError(
            f"--num_marks {num_marks}: the class {unwanted_class} has only {len(members)} training "
            "videos"
        )
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    chosen = set(random.choice(members, num_marks, replace=False))
    marks = {name: flag for name, flag in train.items() if not flag or name in chosen}
    measured = find_class(require_split(dataset, split), dataset.class_names, unwanted_class)
    text = f"class {unwanted_class} unwanted, {num_marks} training videos of it marked"
    return Marks({**marks, **measured}, unwanted_class, text)


def find_class(clips: Clips, class_names: tuple[str, ...], unwanted_class: str) -> dict[str, bool]:
    """Returns name -> whether the video is of this class, for the videos of a known class."""
    return {
        video.name: class_names[label] == unwanted_class
        for video, label in zip(clips.videos, clips.label_V)
        if label >= 0
    }


def write_marks(path: str | os.PathLike, clips: Clips, marks: Marks) -> None:
    """Writes the marks of these videos as a file that `read_marks` reads."""
    with open_csv(path) as writer:
        writer.writerow(["path", "label"])
        names = [video.name for video in clips.videos if video.name in marks.unwanted]
        writer.writerows([name, KINDS[int(marks.unwanted[name])]] for name in names)


def select_marked(clips: Clips, marks: Mapping[str, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which videos are marked, bool [V], and which are marked unwanted, bool [V]."""
    marked_V = np.array([video.name in marks for video in clips.videos])
    return marked_V, np.array([marks.get(video.name, False) for video in clips.videos])
