"""What the page of a run is made from: the files of its directory. Imports no jax."""

import base64
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vvae.report.markup import Markup
from vvae.training.log import read_metrics

PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif"}
VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}


@dataclasses.dataclass(frozen=True)
class TaskFile:
    """A file that a task has written.

    Attributes:
      name: as the task names it.
      path: where it is; None if it cannot be shown.
      problem: why it cannot be shown; empty if it can.
    """

    name: str
    path: Path | None
    problem: str = ""

    @property
    def suffix(self) -> str:
        """Ending of the name, in small letters."""
        return Path(self.name).suffix.lower()


@dataclasses.dataclass(frozen=True)
class TaskAnswer:
    """One eval/[FOLDER/]TASK.json.

    Attributes:
      task: its name.
      videos: name of the folder of other videos that it was measured on; empty for the run's own.
      path: of the JSON file.
      rows: method -> metric name -> {"value", "card"}.
      notes: sentences.
      files: what the task names and what is there of it.
      details: whatever else the task has written.
    """

    task: str
    videos: str
    path: Path
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]]
    notes: tuple[str, ...]
    files: tuple[TaskFile, ...]
    details: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run directory holds.

    Attributes:
      workdir: as it was given, for the commands.
      record: config.json.
      class_names: in the order of their ids.
      metrics: lines of metrics.jsonl.
      checkpoints: steps, ascending.
      validation: reconstruction sheets of the validations, oldest first.
      answers: of the tasks, those on the run's own videos first.
      others: files in eval/ that no task names.
      problems: what could not be read, one sentence each.
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
        """Of the directory."""
        return self.workdir.resolve().name

    @property
    def done(self) -> int:
        """Steps that are known to be done: the newest checkpoint or logged line."""
        logged = [row["step"] for row in self.metrics if isinstance(row.get("step"), int)]
        return max((*self.checkpoints, *logged), default=0)

    @property
    def num_steps(self) -> int | None:
        """Steps of the whole training."""
        return as_mapping(self.record.get("data")).get("num_steps")

    @property
    def is_finished(self) -> bool:
        """Whether the training has a checkpoint of its last step."""
        return self.num_steps is not None and self.num_steps in self.checkpoints


# --- reading --------------------------------------------------------------------------------------


def read_run(workdir) -> RunFiles:
    """Reads what is in a run directory; parts that are missing or damaged are told in words.

    Raises:
      ValueError: if there is no run, or its config.json cannot be read.
    """
    workdir = Path(workdir)
    if not (workdir / "config.json").is_file():
        raise ValueError(f"{workdir} is not a run directory: it has no config.json")
    record = _read_json(workdir / "config.json")
    if not isinstance(record, dict):
        raise ValueError(f"{workdir / 'config.json'} holds no settings: {type(record).__name__}")
    problems: list[str] = []
    answers = _read_answers(workdir / "eval", problems)
    order = as_mapping(as_mapping(record.get("config")).get("evaluate")).get("tasks")
    answers = sort_answers(answers, order if isinstance(order, list) else [])
    return RunFiles(
        workdir,
        record,
        _read_class_names(workdir / "classes.json", problems),
        _read_metrics(workdir / "metrics.jsonl", problems),
        _list_checkpoints(workdir / "checkpoints"),
        tuple(sorted((workdir / "validation").glob("*.png"))),
        answers,
        _list_others(workdir / "eval", answers),
        tuple(problems),
    )


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _read_class_names(path: Path, problems: list[str]) -> tuple[str, ...]:
    try:
        return tuple(_read_json(path))
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


def _read_answers(folder: Path, problems: list[str]) -> tuple[TaskAnswer, ...]:
    answers = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        try:
            content = _read_json(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        # A task may write other JSON files, which are listed with the files.
        if isinstance(content, dict) and "task" in content and "rows" in content:
            videos = "" if path.parent == folder else path.parent.name
            answers.append(_read_answer(path, videos, content))
    return tuple(answers)


def sort_answers(answers: tuple[TaskAnswer, ...], order: list) -> tuple[TaskAnswer, ...]:
    """Returns the answers: the run's own videos before others, tasks as listed, others by name."""

    def find_place(answer: TaskAnswer):
        place = order.index(answer.task) if answer.task in order else len(order)
        return answer.videos, place, answer.task

    return tuple(sorted(answers, key=find_place))


def _read_answer(path: Path, videos: str, content: dict) -> TaskAnswer:
    rows = {
        method: {name: as_mapping(metric) for name, metric in as_mapping(row).items()}
        for method, row in as_mapping(content["rows"]).items()
    }
    files = tuple(find_file(path.parent, str(name)) for name in content.get("files") or ())
    notes = tuple(str(note) for note in content.get("notes") or ())
    details = as_mapping(content.get("details"))
    return TaskAnswer(str(content["task"]), videos, path, rows, notes, files, details)


def find_file(folder: Path, name: str) -> TaskFile:
    """Looks for a file that a task names; only files inside its folder are taken."""
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


def as_mapping(value) -> Mapping[str, Any]:
    """Returns a mapping as it is, and an empty one for anything else that a file may hold."""
    return value if isinstance(value, Mapping) else {}


# --- files into the page --------------------------------------------------------------------------


class Inliner:
    """Puts files into the page as data URIs, as long as there is room."""

    def __init__(self, workdir: Path, limit_bytes: int):
        """Starts with nothing in the page."""
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.inlined: list[Path] = []
        self.linked: list[Path] = []
        self._workdir = workdir

    def inline(self, path: Path) -> Markup | None:
        """Returns a file as a data URI, or None if it would take the page beyond the limit."""
        media_type = (PICTURES | VIDEOS)[path.suffix.lower()]
        size = 4 * -(-path.stat().st_size // 3)
        if self.used_bytes + size > self.limit_bytes:
            self.linked.append(path)
            return None
        self.used_bytes += size
        self.inlined.append(path)
        # Base64 has nothing to escape, and looking for it would take time.
        return Markup(f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode()}")

    def show_path(self, path: Path) -> str:
        """Returns a path relative to the run directory, for people."""
        return path.relative_to(self._workdir).as_posix()

    def link(self, path: Path) -> str:
        """Returns a path relative to the page, as a URL."""
        return quote(os.fsencode(self.show_path(path)))
