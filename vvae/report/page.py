"""The values that the page of a run shows; templates/page.html gives them their words and order."""

from collections.abc import Mapping
from typing import Any

from vvae.report import commands, results, training
from vvae.report.files import RunFiles
from vvae.report.media import Inliner
from vvae.report.values import as_mapping


def describe_run(run: RunFiles, defaults: Mapping[str, Any], inliner: Inliner) -> dict[str, Any]:
    """Returns the values of templates/page.html.

    Args:
      run: the content of the run directory.
      defaults: settings to compare with those of the run, as nested dictionaries.
      inliner: embeds pictures and videos, in the order of the page.
    """
    return {
        "run": run,
        "version": as_mapping(run.record.get("versions")).get("vvae") or "",
        "lead": _describe_model(run.record),
        "data": training.describe_data(run),
        "training": training.describe_training(run),
        "pictures": _show_pictures(run, inliner),
        "tasks": results.describe_answers(run, inliner),
        "collapse": training.describe_collapse(run),
        "commands": commands.list_commands(run, defaults),
        "settings": commands.list_settings(run, defaults),
        "history": commands.describe_history(run),
        "inliner": inliner,
        "others": [inliner.link(path) for path in run.others],
    }


def _describe_model(record: Mapping[str, Any]) -> str:
    counts = as_mapping(as_mapping(record.get("data")).get("num_videos"))
    settings = as_mapping(as_mapping(record.get("config")).get("data"))
    videos = f"{sum(counts.values()):,} videos" if counts else "videos"
    return (
        f"A video VAE trained on {videos} ({settings.get('name', 'unknown data')}), view "
        f"{settings.get('view', 'unknown')}, {settings.get('height')}x{settings.get('width')}, "
        f"{settings.get('num_frames')} frames a clip."
    )


def _show_pictures(run: RunFiles, inliner: Inliner) -> dict[str, Any]:
    """Returns the curves and the newest reconstruction sheet, and the names of earlier sheets."""
    path, shown = run.workdir / "curves.png", {"curves": None, "sheet": None}
    if path.is_file():
        shown["curves"] = inliner.show(path, "The metrics over the training steps")
    if run.validation:
        last = run.validation[-1]
        step = last.stem.rpartition("_")[2].lstrip("0") or "0"
        caption = (
            f"Validation videos, what the model rebuilds of them, and the error, at step {step}"
        )
        shown["sheet"] = inliner.show(last, caption)
    return shown | {"earlier": [sheet.name for sheet in run.validation[:-1]]}
