"""Videos that are marked as wanted or unwanted, by a CSV file or by declaring a class unwanted."""

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

# As many marks as a person makes in a few minutes.
DEFAULT_NUM_MARKS, NUM_WANTED = 10, 30


@dataclasses.dataclass(frozen=True)
class Marks:
    """The marks of videos: wanted or unwanted.

    Attributes:
      unwanted: Name of a video -> whether it is marked unwanted. Other videos are not marked.
      unwanted_class: The class that was declared unwanted; empty if videos were marked one by one.
      text: Where the marks come from, for the metric cards.
      left_out: The training videos that are known to be wanted but not marked.
    """

    unwanted: Mapping[str, bool]
    unwanted_class: str
    text: str
    left_out: tuple[str, ...] = ()


def read_marks(path: str | os.PathLike, dataset: Dataset) -> Marks:
    """Reads marks from a CSV file with the columns `path` and `label` (wanted or unwanted).

    Args:
      path: The CSV file. Its paths are relative to the data set, as in manifest.csv.
      dataset: The data set of the marked videos.

    Raises:
      ValueError: If the file cannot be read, a label is neither wanted nor unwanted, a video is
        marked twice, or a path is not a readable video of the data set.
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
                f"{path}, line {line}: needs a path, and a label that is wanted or unwanted, in "
                f"the columns path and label; got path {name!r} and label {label!r}"
            )
        if name in unwanted:
            raise ValueError(f"{path}, line {line}: {name!r} is marked twice")
        if name in dataset.broken:
            raise ValueError(
                f"{path}, line {line}: {name!r} cannot be read: {dataset.broken[name]}"
            )
        if name not in known:
            raise ValueError(
                f"{path}, line {line}: {name!r} is not a video of {dataset.root}; paths are "
                "relative to this folder"
            )
        unwanted[name] = label == "unwanted"
    return Marks(unwanted, "", f"marks of {Path(path).name}")


def mark_class(
    dataset: Dataset, unwanted_class: str, num_marks: int | None, split: str, seed: int
) -> Marks:
    """Marks videos by declaring a class unwanted.

    `num_marks` training videos of the class are marked unwanted, and up to 30 labelled training
    videos of other classes wanted, as if a person had looked for them. The other training videos
    are not marked and hence not used. All labelled videos of the evaluated split are marked, to
    measure the detector.

    Args:
      dataset: A data set with labels.
      unwanted_class: The name of the class.
      num_marks: The number of training videos that are marked unwanted, drawn at random; None for
        10, or all if there are fewer.
      split: The evaluated split.
      seed: The seed of the draw.

    Raises:
      ValueError: If there is no such class, it has too few training videos, or a split is missing.
    """
    if unwanted_class not in dataset.class_names:
        raise ValueError(
            f"--unwanted {unwanted_class} is not a class of {dataset.root}, which has "
            f"{', '.join(dataset.class_names) or 'no labels'}"
        )
    train = find_class(require_split(dataset, "train"), dataset.class_names, unwanted_class)
    members = [name for name, is_unwanted in train.items() if is_unwanted]
    if num_marks is None:
        num_marks = min(DEFAULT_NUM_MARKS, len(members))
    if len(members) < num_marks:
        raise ValueError(
            f"--num_marks {num_marks}: the class {unwanted_class} has only {len(members)} training "
            "videos"
        )
    others = [name for name, is_unwanted in train.items() if not is_unwanted]
    num_wanted = min(NUM_WANTED, len(others))
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    marks = dict.fromkeys(map(str, random.choice(members, num_marks, replace=False)), True)
    marks |= dict.fromkeys(map(str, random.choice(others, num_wanted, replace=False)), False)
    measured = find_class(require_split(dataset, split), dataset.class_names, unwanted_class)
    text = (
        f"class {unwanted_class} unwanted, {num_marks} training videos of it and {num_wanted} of "
        "other classes marked"
    )
    left_out = tuple(name for name in others if name not in marks)
    return Marks({**marks, **measured}, unwanted_class, text, left_out)


def find_class(clips: Clips, class_names: tuple[str, ...], unwanted_class: str) -> dict[str, bool]:
    """Returns name -> whether the video belongs to a class, for the labelled videos of clips."""
    return {
        video.name: class_names[label] == unwanted_class
        for video, label in zip(clips.videos, clips.label_V)
        if label >= 0
    }


def write_marks(path: str | os.PathLike, clips: Clips, marks: Marks) -> None:
    """Writes the marks of the videos of clips as a CSV file that `read_marks` can read."""
    with open_csv(path) as writer:
        writer.writerow(["path", "label"])
        names = [video.name for video in clips.videos if video.name in marks.unwanted]
        writer.writerows([name, KINDS[int(marks.unwanted[name])]] for name in names)


def select_marked(clips: Clips, marks: Mapping[str, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Returns whether each video is marked, and whether it is marked unwanted, each bool [V].

    Args:
      clips: Clips of V videos.
      marks: Name of a video -> whether it is unwanted.
    """
    marked_V = np.array([video.name in marks for video in clips.videos])
    return marked_V, np.array([marks.get(video.name, False) for video in clips.videos])
