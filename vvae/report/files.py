"""Reads the files of a run directory for its page."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vvae.report.values import as_mapping
from vvae.training.log import read_metrics


@dataclasses.dataclass(frozen=True)
class TaskFile:
    """A file that a task has written.

    Attributes:
      name: the name that the task gives it.
      path: where it is; None if it cannot be shown.
      problem: why it cannot be shown; empty if it can.
    """

    name: str
    path: Path | None
    problem: str = ""

    @property
    def suffix(self) -> str:
        """The ending of the name, in lower case."""
        return Path(self.name).suffix.lower()


@dataclasses.dataclass(frozen=True)
class TaskAnswer:
    """The content of one eval/[FOLDER/]TASK.json.

    Attributes:
      task: the name of the task.
      videos: the name of the folder of other videos; empty if the task read the run's own videos.
      path: the JSON file.
      rows: method -> metric name -> {"value", "card"}.
      notes: sentences.
      files: the files that the task names.
      details: everything else that the task has written.
      tables: tables of text, each with title, header and rows.
      captions: name of a picture or video -> what is seen.
    """

    task: str
    videos: str
    path: Path
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]]
    notes: tuple[str, ...]
    files: tuple[TaskFile, ...]
    details: Mapping[str, Any]
    tables: tuple[Mapping[str, Any], ...] = ()
    captions: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """The task, and the videos if they are not the run's own."""
        return f"{self.task} on {self.videos}" if self.videos else self.task


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The content of a run directory.

    Attributes:
      workdir: the directory, as the user wrote it.
      record: the content of config.json.
      class_names: the names of the classes, in the order of their ids.
      metrics: the lines of metrics.jsonl.
      checkpoints: the steps that have a checkpoint, ascending.
      validation: the reconstruction sheets of the validations, oldest first.
      answers: the results of the tasks, those on the run's own videos first.
      others: the files in eval/ that no task names.
      problems: one sentence for each file that could not be read.
    """

    workdir: Path
    record: Mapping[str, Any]
    class_names: tuple[str, ...]
    metrics: list[dict]
    checkpoints: tuple[int, ...]
    validation: tuple[Path, ...]
    answers: tuple[TaskAnswer, ...]
    others: tuple[Path, ...]
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the directory."""
        return self.workdir.resolve().name

    @property
    def done(self) -> int:
        """The highest step that a checkpoint or a logged line proves to be done."""
        logged = [row["step"] for row in self.metrics if isinstance(row.get("step"), int)]
        return max((*self.checkpoints, *logged), default=0)

    @property
    def num_steps(self) -> int | None:
        """The number of steps of the whole training; None if it was not recorded."""
        return as_mapping(self.record.get("data")).get("num_steps")

    @property
    def is_finished(self) -> bool:
        """Whether there is a checkpoint of the last step."""
        return self.num_steps is not None and self.num_steps in self.checkpoints


# --- reading --------------------------------------------------------------------------------------


def read_run(workdir) -> RunFiles:
    """Reads a run directory; `problems` of the result names the files that are damaged.

    Raises:
      ValueError: if the directory is not a run, or its config.json cannot be read.
    """
    workdir, problems = Path(workdir), []
    record = read_record(workdir)
    order = as_mapping(as_mapping(record.get("config")).get("evaluate")).get("tasks")
    answers = _read_answers(workdir / "eval", order if isinstance(order, list) else [], problems)
    class_names = _read_class_names(workdir / "classes.json", problems)
    metrics = _read_metrics(workdir / "metrics.jsonl", problems)
    return RunFiles(
        workdir=workdir,
        record=record,
        class_names=class_names,
        metrics=metrics,
        checkpoints=_list_checkpoints(workdir / "checkpoints"),
        validation=tuple(sorted((workdir / "validation").glob("*.png"))),
        answers=answers,
        others=_list_others(workdir / "eval", answers),
        problems=tuple(problems),
    )


def read_record(workdir) -> dict[str, Any]:
    """Reads RUN/config.json: settings, data, versions and history of a run.

    Raises:
      ValueError: if the directory is not a run, or its config.json cannot be read.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} is not a run directory: it has no config.json")
    record = read_json(path)
    if not isinstance(record, dict):
        raise ValueError(f"{path} must contain a JSON object, not a {type(record).__name__}")
    return record


def read_json(path: Path):
    """Reads a JSON file.

    Raises:
      ValueError: if the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _read_class_names(path: Path, problems: list[str]) -> tuple[str, ...]:
    try:
        return tuple(read_json(path))
    except (ValueError, TypeError) as error:
        problems.append(str(error))
        return ()


def _read_metrics(path: Path, problems: list[str]) -> list[dict]:
    if not path.exists():
        return []
    try:
        return [row for row in read_metrics(path) if isinstance(row, dict)]
    except (OSError, ValueError) as error:
        problems.append(f"{path} cannot be read: {error}")
        return []


def _list_checkpoints(folder: Path) -> tuple[int, ...]:
    numbers = [path.name.removeprefix("step_") for path in folder.glob("step_*")]
    return tuple(sorted(int(number) for number in numbers if number.isdecimal()))


def _read_answers(folder: Path, order: list, problems: list[str]) -> tuple[TaskAnswer, ...]:
    """Reads eval/: the run's own videos first, then tasks in the given order, then by name."""
    answers = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        try:
            content = read_json(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        # Other JSON files belong to a task; the page lists them with the other files.
        if isinstance(content, dict) and "task" in content and "rows" in content:
            videos = "" if path.parent == folder else path.parent.name
            answers.append(_read_answer(path, videos, content))

    def find_place(answer: TaskAnswer):
        place = order.index(answer.task) if answer.task in order else len(order)
        return answer.videos, place, answer.task

    return tuple(sorted(answers, key=find_place))


def _read_answer(path: Path, videos: str, content: dict) -> TaskAnswer:
    rows = {
        method: {name: as_mapping(metric) for name, metric in as_mapping(row).items()}
        for method, row in as_mapping(content["rows"]).items()
    }
    return TaskAnswer(
        task=str(content["task"]),
        videos=videos,
        path=path,
        rows=rows,
        notes=tuple(str(note) for note in content.get("notes") or ()),
        files=tuple(find_file(path.parent, str(name)) for name in content.get("files") or ()),
        details=as_mapping(content.get("details")),
        tables=tuple(as_mapping(table) for table in content.get("tables") or ()),
        captions=as_mapping(content.get("captions")),
    )


def find_file(folder: Path, name: str) -> TaskFile:
    """Finds a file that a task names; a file outside of the task's folder is not shown."""
    try:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            return TaskFile(name, None, "outside of the task's folder, not shown")
        if not path.is_file():
            return TaskFile(name, None, "is not there")
    except (OSError, ValueError) as error:
        return TaskFile(name, None, f"cannot be opened: {error}")
    return TaskFile(name, path)


def _list_others(folder: Path, answers: tuple[TaskAnswer, ...]) -> tuple[Path, ...]:
    known = {answer.path for answer in answers}
    known |= {file.path for answer in answers for file in answer.files}
    return tuple(p for p in sorted(folder.rglob("*")) if p.is_file() and p not in known)
