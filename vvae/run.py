"""A run directory: what is in it, and who may write to it.

config.json     settings, versions, device, git commit, data fingerprint, how it was called
classes.json    class names in the order of their ids
metrics.jsonl   one line a logged step, one a validation
checkpoints/    Orbax: the newest two and the best
validation/     a reconstruction sheet from every validation
eval/           TASK.json, pictures and videos of evaluate.py
"""

import contextlib
import fcntl
import json
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from vvae.config import Config, difference, find_length_settings
from vvae.config_files import from_dict, to_dict
from vvae.files import write_json
from vvae.program import name_command
from vvae.task_table import TASKS

PACKAGES = ("vvae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "imageio", "av")
PACKAGES += ("opencv-python-headless",)


@dataclass(frozen=True)
class TrainingFolder:
    """A directory of a training, of whatever it is.

    Attributes:
      workdir: the directory.
      config: its settings, with a section `train`.
      record: the JSON file that describes it, as it stands.
    """

    workdir: Path
    config: Any
    record: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.workdir / "checkpoints"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl."""
        return self.workdir / "metrics.jsonl"

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self.record["data"]["num_steps"]


@dataclass(frozen=True)
class Run(TrainingFolder):
    """An opened run directory of a model.

    Attributes:
      workdir: the directory.
      config: its settings.
      record: config.json as it stands, with versions, device and data fingerprint.
      class_names: in the order of the label ids.
    """

    config: Config
    class_names: tuple[str, ...]


def is_run(workdir) -> bool:
    """Whether a directory holds a run."""
    return (Path(workdir) / "config.json").is_file()


def open_run(workdir) -> Run:
    """Reads a run directory.

    Raises:
      ValueError: if it is not a run directory, or has settings that this version lacks.
    """
    workdir = Path(workdir)
    if not is_run(workdir):
        raise ValueError(f"{workdir} is not a run directory: it has no config.json")
    record = _read_json(workdir / "config.json")
    path = workdir / "config.json"
    lacking = {"config", "data", "history"} - set(record if isinstance(record, dict) else ())
    if lacking:
        raise ValueError(f"{path} is not the record of a run: it lacks {min(lacking)!r}")
    try:
        config = from_dict(record["config"])
    except ValueError as error:
        raise ValueError(
            f"{path}, written by vvae {_find_version(record)}: {error}. This is vvae "
            f"{_version('vvae')}: if the setting was renamed or removed since, use that version, "
            "or edit the file (rename the setting, or remove its line for the default)"
        ) from error
    return Run(workdir, config, record, tuple(_read_json(workdir / "classes.json")))


def create_run(workdir, config: Config, data: dict[str, Any], class_names) -> Run:
    """Writes config.json and classes.json of a new run.

    Args:
      workdir: the directory; made if missing.
      config: the settings.
      data: facts about the data and the work: path, fingerprint, num_channels, num_steps,
        num_parameters, numbers of clips.
      class_names: in the order of the label ids.

    Raises:
      ValueError: if the directory holds other classes than those of a start that was cut off.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    record = {"config": to_dict(config), "data": data, "history": []} | describe_system()
    classes = workdir / "classes.json"
    if classes.exists() and _read_json(classes) != list(class_names):
        raise ValueError(f"{classes} is not of this run: give another --workdir")
    write_json(classes, list(class_names))
    run = Run(workdir, config, record, tuple(class_names))
    return record_start(run, config, data)


def record_start(run: Run, config: Config, data: dict[str, Any]) -> Run:
    """Adds a start to the history in config.json.

    Args:
      run: the run.
      config: the settings of the start.
      data: facts of which the path and the number of steps may be others than before. Paths are
        absolute, so that the run can be continued from any folder.
    """
    if config.data.path is not None:
        config = replace(config, data=replace(config.data, path=data["path"]))
    known = {name: data[name] for name in ("path", "num_steps") if name in data}
    record = run.record | {
        "config": to_dict(config),
        "data": run.record["data"] | known,
        "history": [*run.record["history"], describe_start()],
    }
    write_json(run.workdir / "config.json", record)
    return replace(run, config=config, record=record)


def check_settings(run: Run, config: Config) -> None:
    """Checks that a run may be continued with these settings.

    It may become longer if the length of the training decides nothing but its end.

    Raises:
      ValueError: if it may not; the message ends with what to do instead.
    """
    changed = difference(run.config, config)
    if not changed:
        return
    if set(changed) <= _LENGTHS:
        bound = find_length_settings(run.config)
        if bound:
            raise ValueError(_refuse_length(run, config, bound))
        return
    text = "; ".join(f"{name}: {old!r} -> {new!r}" for name, (old, new) in changed.items())
    if any(name.startswith(_OF_NETWORK) for name in changed):
        remedy = "give another --workdir"
    else:
        given = [word for name, (_, new) in changed.items() for word in _write_option(name, new)]
        remedy = f"begin a new run from its parameters: {_write_command(run, given)}"
    raise ValueError(f"{run.workdir} was begun with other settings ({text}); {remedy}")


def check_data(run: Run, fingerprint: str) -> None:
    """Raises ValueError if a run would be continued with other data."""
    known = run.record["data"]["fingerprint"]
    if known != fingerprint:
        raise ValueError(
            f"{run.workdir} was begun with other data (fingerprint {known[:12]}, now "
            f"{fingerprint[:12]}); use another --workdir"
        )


_LENGTHS = {"train.num_steps", "train.num_epochs"}
# Settings without which the parameters of a run do not fit.
_OF_NETWORK = ("model.", "causal.", "data.view", "data.height", "data.width", "data.tile")


def _refuse_length(run: Run, config: Config, bound: tuple[str, ...]) -> str:
    more = (config.train.num_steps or 0) - run.num_steps
    option = ["--train.num_steps", str(more)] if more > 0 else []
    return (
        f"{run.workdir} is a training of {run.num_steps} steps, and {', '.join(bound)} count in "
        "parts of it, so that another length would be another training; train its parameters "
        f"further in a new run: {_write_command(run, option)}"
    )


def _write_command(run: Run, options: list[str]) -> str:
    return f"{name_command('train')} {shlex.join(['--init_from', str(run.workdir), *options])}"


def _write_option(name: str, value) -> list[str]:
    values = value if isinstance(value, tuple) else [value]
    return [f"--{name}", *(str(item) for item in values)]


def require_fitted(workdir, task: str) -> Path:
    """Returns the path of the file that a task has fitted to the videos of a run.

    Raises:
      ValueError: if there is none; the message has the command that fits it.
    """
    path = Path(workdir) / "eval" / TASKS[task].fitted
    if not path.exists():
        words = f"{name_command(f'evaluate {task}')} --workdir {workdir} {TASKS[task].fit_options}"
        raise ValueError(
            f"{path} is missing, which {task} fits to the run's own videos: run "
            f"`{words.strip()}` first"
        )
    return path


def refuse_foreign(workdir) -> None:
    """Raises ValueError for a directory that is no run and holds files that a run would write."""
    workdir = Path(workdir)
    if is_run(workdir):
        return
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir {workdir} is a file: name a directory")
    # A start that was cut off has left the lock, and at most the classes.
    names = _WRITTEN if (workdir / ".lock").exists() else ("classes.json", *_WRITTEN)
    foreign = [name for name in names if _holds_something(workdir / name)]
    if foreign:
        raise ValueError(
            f"{workdir} is not a run (it has no config.json), but holds what a run would write "
            f"({', '.join(foreign)}): give another --workdir"
        )


def _holds_something(path: Path) -> bool:
    """Whether a file exists, or a directory that is not empty."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


_WRITTEN = ("metrics.jsonl", "checkpoints", "validation", "eval", "curves.png", "report.html")


@contextlib.contextmanager
def lock(workdir):
    """Locks a run directory for writing inside the context; the lock dies with the process.

    A directory that was made for the lock is removed again if it has stayed empty.

    Raises:
      ValueError: if another process is writing to it.
    """
    workdir = Path(workdir)
    is_new = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir / ".lock"
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is writing to {workdir}; wait for it or end it"
            ) from error
        try:
            yield
        finally:
            if is_new and list(workdir.iterdir()) == [file]:
                file.unlink()
                workdir.rmdir()


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def describe_start() -> dict[str, Any]:
    """Describes a start of a training: `command`, `time`, and the system."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {"command": sys.argv, "time": now} | describe_system()


def describe_system() -> dict[str, Any]:
    """Describes this process: `versions` of packages, `device` of JAX, and `git_commit`."""
    import jax  # here, so that a run is opened without it

    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES},
        "device": {"kind": device.device_kind, "platform": device.platform}
        | {"count": jax.device_count(), "processes": jax.process_count()},
        "git_commit": _git_commit(),
    }


def _find_version(record: dict[str, Any]) -> str:
    versions = record.get("versions")
    return str(versions.get("vvae", "unknown")) if isinstance(versions, dict) else "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the checkout that vvae runs from, with + if it was changed; None if it is none."""
    folder = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
