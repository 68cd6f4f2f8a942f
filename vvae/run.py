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
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.export

from vvae.config import Config, difference
from vvae.config_files import from_dict, to_dict
from vvae.files import write_json

PACKAGES = ("vvae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "imageio", "av")
PACKAGES += ("opencv-python-headless",)


@dataclass(frozen=True)
class Run:
    """An opened run directory.

    Attributes:
      workdir: the directory.
      config: its settings.
      record: config.json as it stands, with versions, device and data fingerprint.
      class_names: in the order of the label ids.
    """

    workdir: Path
    config: Config
    record: dict[str, Any]
    class_names: tuple[str, ...]

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
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    record = {"config": to_dict(config), "data": data, "history": []} | describe_system()
    write_json(workdir / "classes.json", list(class_names))
    run = Run(workdir, config, record, tuple(class_names))
    return record_start(run, config, data["path"])


def record_start(run: Run, config: Config, data_path: str) -> Run:
    """Adds a start to the history in config.json, with its settings and the place of its data.

    Paths are absolute, so that the run can be continued from any folder.
    """
    if config.data.path is not None:
        config = replace(config, data=replace(config.data, path=data_path))
    start = {"command": sys.argv, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")} | describe_system()
    record = run.record | {
        "config": to_dict(config),
        "data": run.record["data"] | {"path": data_path},
        "history": [*run.record["history"], start],
    }
    write_json(run.workdir / "config.json", record)
    return replace(run, config=config, record=record)


def check_identity(run: Run, config: Config, fingerprint: str) -> None:
    """Raises ValueError if a run would be continued with other settings or other data."""
    changed = difference(run.config, config)
    if changed:
        text = "; ".join(f"{name}: {old!r} -> {new!r}" for name, (old, new) in changed.items())
        raise ValueError(
            f"{run.workdir} was begun with other settings ({text}); use another --workdir"
        )
    known = run.record["data"]["fingerprint"]
    if known != fingerprint:
        raise ValueError(
            f"{run.workdir} was begun with other data (fingerprint {known[:12]}, now "
            f"{fingerprint[:12]}); use another --workdir"
        )


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


def describe_system() -> dict[str, Any]:
    """Describes this process: `versions` of packages, `device` of JAX, and `git_commit`."""
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
