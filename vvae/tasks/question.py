"""The input of a task: a run, its model, the measured videos, and the folder for the answer."""

import contextlib
import dataclasses
import functools
import importlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn

from vvae import build, processes, progress
from vvae.config import Evaluate
from vvae.data.clips import Clips
from vvae.data.dataset import UNSPLIT, Dataset, Video, describe_flaws
from vvae.measure.pca import FramePCA, fit_frame_pca
from vvae.models.contract import Params
from vvae.run import Run
from vvae.task_table import TASKS
from vvae.tasks import answer_folder
from vvae.tasks.options import TaskOptions
from vvae.tasks.result import Result, describe_data, require_split


@dataclass(frozen=True, eq=False)
class Question:
    """The input of a task.

    Attributes:
      run: the run, with its settings.
      model: its model.
      params: variables of the model.
      dataset: the videos.
      split: the split that is measured.
      folder: the folder for the answer; it exists.
      is_new: whether the videos are others than those of the run.
    """

    run: Run
    model: nn.Module
    params: Params
    dataset: Dataset
    split: str
    folder: Path
    is_new: bool = False

    @property
    def clips(self) -> Clips:
        """The measured clips; raises ValueError if the split is missing."""
        return require_split(self.dataset, self.split)

    @property
    def train(self) -> Clips:
        """The training clips; raises ValueError if there is no such split."""
        return require_split(self.dataset, "train")

    @property
    def batch_size(self) -> int:
        """Clips per batch."""
        return self.run.config.train.batch_size

    @property
    def seed(self) -> int:
        """The seed of everything random."""
        return self.run.config.train.seed

    @property
    def settings(self) -> Evaluate:
        """The settings of the tasks."""
        return self.run.config.evaluate

    @functools.cached_property
    def frame_pca(self) -> FramePCA:
        """PCA of single training frames, of as many numbers as a frame is decoded from."""
        num_frames = self.train.clip_format.clip_shape[0]
        return fit_frame_pca(self.train, self.model.count_numbers(num_frames), self.seed)

    def describe_data(self) -> dict[str, Any]:
        """Returns the part of a metric card that describes the measured videos."""
        return describe_data(self.dataset, self.split)

    def add_training(self) -> "Question":
        """Returns the question with the training clips of the run, if it has none."""
        if "train" in self.dataset.splits:
            return self
        known = _open_known(self.run)
        splits = {"train": known.splits["train"], **self.dataset.splits}
        return dataclasses.replace(self, dataset=dataclasses.replace(self.dataset, splits=splits))

    def cut_tiles(self) -> "Question":
        """Returns the question with clips cut into tiles, if the run trains on tiles."""
        return dataclasses.replace(self, dataset=build.cut_data(self.run.config, self.dataset))

    def open_file(self, path: str) -> Clips:
        """Opens a video file as clips."""
        opened = build.open_new_data(self.run.config, path, self.run.class_names)
        return opened.splits[UNSPLIT]


def answer(question: Question, task: str, options: TaskOptions) -> Result:
    """Runs a task of `vvae.task_table`. Its module is imported here, so that others are not."""
    row = TASKS[task]
    module = importlib.import_module(f"vvae.tasks.{row.module}")
    return module.answer(question.add_training() if row.training_clips else question, options)


@contextlib.contextmanager
def open_question(
    run: Run, data_path: str | None, which: str | int, *, videos: Sequence[Video] | None = None
) -> Iterator[Question]:
    """Opens the model of a run, the videos and the folder for the answers.

    Args:
      run: the run.
      data_path: a folder of other videos, which are all measured; None for the run's test split.
      which: the checkpoint: "best", "latest" or a step.
      videos: the listed videos of that folder; None where they are not listed yet.

    Raises:
      ValueError: if the checkpoint or the data cannot be read.
    """
    model, params = build.load(run, which)
    dataset, split = processes.do_together(lambda: open_videos(run, data_path, videos))
    with _open_folder(run, data_path) as folder:
        yield Question(
            run=run,
            model=model,
            params=params,
            dataset=dataset,
            split=split,
            folder=folder,
            is_new=data_path is not None,
        )


def open_videos(
    run: Run, data_path: str | None, videos: Sequence[Video] | None = None
) -> tuple[Dataset, str]:
    """Opens the videos of a run, or new ones, and prints the flaws of the new ones.

    Returns:
      The data set, and the name of the split to measure.
    """
    if data_path is None:
        known = _open_known(run)
        _warn_of_other_data(run, known)
        return known, choose_split(known)
    with progress.stage("videos decoded"):
        new = build.open_new_data(
            run.config, data_path, run.class_names, progress.show, videos=videos
        )
    for line in describe_flaws(new):
        print(line)
    return new, UNSPLIT


def _open_known(run: Run) -> Dataset:
    """Opens the videos of a run; those that the cache has lost are decoded again."""
    with progress.stage("videos decoded"):
        return build.open_data(run.config, run.record["data"]["path"], progress.show)


def _warn_of_other_data(run: Run, dataset: Dataset) -> None:
    if run.record["data"].get("fingerprint", dataset.fingerprint) != dataset.fingerprint:
        print(
            f"WARNING: {dataset.root} is not as it was when {run.workdir} was trained: videos, "
            "labels or splits differ, so that measured videos may have been trained on; train "
            "again, or state the splits in manifest.csv"
        )


def choose_split(dataset: Dataset) -> str:
    """Returns the split to measure: test, or val (with a note) if there is no test split."""
    if "test" in dataset.splits:
        return "test"
    print("note: the data have no test split; the validation split is measured")
    return "val"


@contextlib.contextmanager
def _open_folder(run: Run, data_path: str | None) -> Iterator[Path]:
    """Yields the folder for the answers; that of all processes but the first is temporary."""
    if processes.is_first():
        yield choose_folder(run, data_path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def choose_folder(run: Run, data_path: str | None) -> Path:
    """Makes the folder for the answers; prints a note if the name of the videos is taken."""
    folder = run.workdir / "eval"
    folder.mkdir(exist_ok=True)
    if data_path is None:
        return folder
    name = Path(data_path).resolve().name
    chosen = answer_folder.open_folder(folder, data_path)
    if name not in ("", chosen.name):
        other = answer_folder.read_source(folder / name) or "unknown videos"
        print(f"note: {folder / name} holds answers about {other}: these go to {chosen}")
    return chosen
