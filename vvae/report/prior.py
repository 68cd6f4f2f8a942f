"""The page of a prior: its data, its curves, and videos that it has drawn."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vvae.files import write_text
from vvae.report.charts import plot_curves
from vvae.report.media import Inliner
from vvae.report.write import LIMIT_BYTES, NAME, render_page
from vvae.training.log import read_metrics


def write_prior_page(workdir: Path, record: Mapping[str, Any], commands: Mapping[str, str]) -> Path:
    """Writes RUN/report.html of a prior and returns its path.

    Args:
      workdir: the run directory.
      record: prior.json.
      commands: what they do -> commands to show.
    """
    inliner = Inliner(workdir, LIMIT_BYTES)
    rows = read_metrics(workdir / "metrics.jsonl")
    latents, data = record["data"]["latents"], record["data"]
    counts = ", ".join(f"{split}: {count:,}" for split, count in latents["num_clips"].items())
    view = {
        "name": workdir.resolve().name,
        "version": record["versions"].get("vvae") or "",
        "done": max((row["step"] for row in rows), default=0),
        "num_steps": data["num_steps"],
        "facts": {
            "latents": record["config"]["latents"],
            "clips": counts,
            "shape of a clip": "x".join(map(str, latents["shape"])),
            "classes": ", ".join(latents["class_names"]) or "none",
            "parameters": f"{data['num_parameters']:,}",
            "VAE": record["config"]["vae"] or "none was named: latents alone",
        },
        "charts": _plot(rows),
        "samples": [
            inliner.show(path, path.stem.replace("_", " "))
            for path in sorted((workdir / "samples").glob("*.mp4"))
        ],
        "commands": commands,
        "inliner": inliner,
    }
    path = workdir / NAME
    write_text(path, render_page("prior.html", view))
    return path


def _plot(rows: list[dict[str, Any]]) -> list:
    """Returns the chart of the loss; none before the first step is logged."""
    curves = {
        "training": [(r["step"], r["loss"]) for r in rows if r.get("loss") is not None],
        "validation": [(r["step"], r["val_loss"]) for r in rows if r.get("val_loss") is not None],
    }
    curves = {name: curve for name, curve in curves.items() if curve}
    title = "squared error of the velocity"
    return [plot_curves("loss", title, curves)] if curves else []
