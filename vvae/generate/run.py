"""The run directory of a prior: what it was trained on, and how.

prior.json      settings, store of latents, classes, versions, device, how it was called
metrics.jsonl   one line a logged step, one a validation
checkpoints/    Orbax: the newest two and the best
samples/        videos of each class
report.html     curves and samples
"""

import json
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vvae.config import identity
from vvae.config_files import from_dict, to_dict
from vvae.files import write_json
from vvae.generate.config import GenerateConfig
from vvae.program import name_command
from vvae.run import TrainingFolder, describe_start, describe_system, is_run

RECORD = "prior.json"
_WRITTEN = ("checkpoints", "metrics.jsonl", "samples", "report.html")


@dataclass(frozen=True)
class PriorRun(TrainingFolder):
    """An opened run directory of a prior; its record is prior.json.

    Attributes:
      config: its settings.
    """

    config: GenerateConfig


def is_prior(workdir) -> bool:
    """Whether a directory holds the run of a prior."""
    return (Path(workdir) / RECORD).is_file()


def open_prior_run(workdir) -> PriorRun:
    """Reads the run directory of a prior.

    Raises:
      ValueError: if it is none, or has settings that this version lacks.
    """
    workdir = Path(workdir)
    path = workdir / RECORD
    if not path.is_file():
        raise ValueError(f"{workdir} is not the run of a prior: it has no {RECORD}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return PriorRun(workdir, from_dict(record["config"], GenerateConfig), record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def begin_prior_run(workdir, config: GenerateConfig, data: dict[str, Any]) -> PriorRun:
    """Creates the run directory, or checks that it may be continued with these settings and data.

    Args:
      workdir: the directory.
      config: the settings.
      data: facts about latents and work; those in `latents` decide whether the data are the same.

    Raises:
      ValueError: for a run of other settings or other latents.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    history = []
    if is_prior(workdir):
        run = open_prior_run(workdir)
        check_prior_settings(run, config)
        if run.record["data"]["latents"] != data["latents"]:
            raise ValueError(
                f"{workdir} was begun with other latents, or other classes or splits of them; give "
                "another --workdir"
            )
        history = run.record["history"]
    record = {"config": to_dict(config), "data": data, "history": [*history, describe_start()]}
    record |= describe_system()
    write_json(workdir / RECORD, record)
    return PriorRun(workdir, config, record)


def check_prior_settings(run: PriorRun, config: GenerateConfig) -> None:
    """Raises ValueError if a run may not be continued with these settings."""
    old, new = identity(run.config), identity(config)
    changed = [f"{name}: {old[name]!r} -> {new[name]!r}" for name in old if old[name] != new[name]]
    if changed:
        raise ValueError(
            f"{run.workdir} was begun with other settings ({'; '.join(changed)}); give another "
            "--workdir"
        )


def refuse_foreign_prior(workdir) -> None:
    """Raises ValueError for a directory that is no such run and holds what one would write."""
    workdir = Path(workdir)
    if is_prior(workdir):
        return
    if is_run(workdir):
        raise ValueError(f"{workdir} is the run of a VAE: give another --workdir for its prior")
    foreign = [name for name in _WRITTEN if (workdir / name).exists()]
    if workdir.is_file() or foreign:
        raise ValueError(
            f"{workdir} is not the run of a prior, but holds what one would write "
            f"({', '.join(foreign) or 'it is a file'}): give another --workdir"
        )


def resolve_paths(config: GenerateConfig) -> GenerateConfig:
    """Returns settings with absolute paths, so that a run can be continued from any folder."""

    def resolve(path: str | None) -> str | None:
        return None if path is None else str(Path(path).resolve())

    videos = replace(config.data, path=resolve(config.data.path))
    return replace(config, latents=resolve(config.latents), vae=resolve(config.vae), data=videos)


def name_prior_run(config: GenerateConfig) -> Path:
    """Returns the directory of a new run: runs/NAME-TIME."""
    return Path("runs") / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def list_commands(run: PriorRun) -> dict[str, str]:
    """Returns what can be done with a run -> the command that does it."""
    workdir = shlex.quote(str(run.workdir))
    return {
        "More videos": f"vvae sample {workdir} OUT --count 100",
        "Go on with this run": f"{name_command('train')} --workdir {workdir}",
    }
