"""What was trained on what: the data, the curves, and whether the latents have collapsed."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from vvae.metrics.table import format_number
from vvae.report.charts import MAX_POINTS, Chart, Curve, plot_bars, plot_curves
from vvae.report.files import RunFiles
from vvae.report.values import Cell, Table, as_mapping, make_table

_MAX_BROKEN = 200

# Title -> {curve: (kind of line, name)}; {level} stands for each level of latents.
_PANELS = {
    "ELBO, nats/clip": {
        "training": ("train", "elbo"),
        "validation": ("validation", "val_elbo"),
    },
    "KL, nats/clip": {"{level}, training": ("train", "kl_{level}")},
    "active units (validation)": {"{level}": ("validation", "val_active_{level}")},
    "error as a share of the variance (validation)": {
        "all pixels": ("validation", "val_error_share")
    },
}

# Column of the table of levels -> name in the log.
_COUNT = "val_active_{}"
_LEVEL_COLUMNS = {
    "active units": _COUNT,
    "KL, nats/clip": "val_kl_{}",
    "mutual information, nats": "val_mutual_information_{}",
}


# --- data -----------------------------------------------------------------------------------------


def describe_data(run: RunFiles) -> dict[str, Any]:
    """Returns the data of a run: facts, counts, and the files that are broken or left out."""
    data = as_mapping(run.record.get("data"))
    settings = as_mapping(as_mapping(run.record.get("config")).get("data"))
    clips, videos = as_mapping(data.get("num_clips")), as_mapping(data.get("num_videos"))
    rows = [
        [split, _count(videos.get(split)), _count(clips.get(split))]
        for split in {**videos, **clips}
    ]
    names = run.class_names
    classes = f"{len(names)}: {', '.join(names)}" if names else "none: the videos have no labels"
    broken = as_mapping(data.get("broken"))
    return {
        "facts": {
            "data set": settings.get("name", "unknown"),
            "folder": data.get("path", "unknown"),
            "fingerprint": data.get("fingerprint", "unknown"),
            "view": f"{settings.get('view', 'unknown')}, {data.get('num_channels', '?')} channels",
            "classes": classes,
        },
        "counts": make_table("Videos and clips", ["split", "videos", "clips"], rows),
        "num_broken": len(broken),
        "broken": _list_broken(broken),
        "left_out": as_mapping(data.get("left_out_splits")),
        "num_padded": data.get("num_padded") or 0,
    }


def _count(value):
    return "-" if value is None else value


def _list_broken(broken: Mapping[str, Any]) -> Table:
    shown = list(itertools.islice(broken.items(), _MAX_BROKEN))
    caption = f"{len(broken)} files that cannot be read"
    if len(shown) < len(broken):
        caption += f", the first {len(shown)} of them"
    return make_table(caption, ["file", "reason"], shown)


# --- training -------------------------------------------------------------------------------------


def describe_training(run: RunFiles) -> dict[str, Any]:
    """Returns the facts of a training and the curves of metrics.jsonl."""
    config = as_mapping(run.record.get("config"))
    optim, train = as_mapping(config.get("optim")), as_mapping(config.get("train"))
    facts = {
        "steps": f"{run.done:,} of {run.num_steps or 0:,}, {train.get('batch_size')} clips each",
        "learning rate": optim.get("learning_rate"),
        "seed": train.get("seed"),
        "checkpoints": run.checkpoints or "none",
        "device": as_mapping(run.record.get("device")) or "unknown",
    }
    if rates := collect_curve(run.metrics, "train", "frames_per_second"):
        facts["speed"] = f"{rates[-1][1]:,.0f} frames/s at the end"
    panels, rest = arrange_panels(run.metrics)
    drawn = [curve for curves in [*panels.values(), *rest.values()] for curve in curves.values()]
    return {
        "facts": facts,
        "charts": _plot_panels("curve", panels),
        "more": _plot_panels("more", rest),
        "max_points": MAX_POINTS,
        "is_thinned": any(len(curve) > MAX_POINTS for curve in drawn),
    }


def _plot_panels(prefix: str, panels: Mapping[str, Mapping[str, Curve]]) -> list[Chart]:
    return [
        plot_curves(f"{prefix}-{number}", title, curves)
        for number, (title, curves) in enumerate(panels.items())
    ]


def collect_curve(metrics: list[dict], kind: str, name: str) -> Curve:
    """Returns the (step, value) points of a metric, without missing values."""
    rows = [row for row in metrics if row.get("kind") == kind and isinstance(row.get("step"), int)]
    return [(row["step"], row[name]) for row in rows if _is_number(row.get(name))]


def _is_number(value) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def find_levels(metrics: list[dict]) -> list[str]:
    """Returns the names of the levels of latents that a log contains."""
    prefix = "val_active_"
    names = {name for row in metrics for name in row}
    found = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return sorted(found | {n.removeprefix("kl_") for n in names if n.startswith("kl_")})


def arrange_panels(metrics: list[dict]) -> tuple[dict, dict]:
    """Returns the curves that matter most, and all others, each as title -> {name: curve}."""
    panels, used = {}, set()
    for title, curves in _PANELS.items():
        panel = {}
        for label, (kind, name) in curves.items():
            for level in find_levels(metrics) if "{level}" in name else [""]:
                full = name.replace("{level}", level)
                curve = collect_curve(metrics, kind, full)
                used.add((kind, full))
                # The first point is far below all others and would flatten the curve.
                if (kind, full) == ("train", "elbo") and len(curve) > 1:
                    curve = curve[1:]
                if curve:
                    panel[label.replace("{level}", level)] = curve
        if panel:
            panels[title] = panel
    rest = {}
    for kind, name in {(row.get("kind"), name): None for row in metrics for name in row}:
        is_known = name == "step" or (kind, name) in used
        if not is_known and (curve := collect_curve(metrics, kind, name)):
            rest[f"{name} ({kind})"] = {str(kind): curve}
    return panels, rest


# --- collapse -------------------------------------------------------------------------------------


def describe_collapse(run: RunFiles) -> dict[str, Any]:
    """Returns the verdict on collapse and what every level of latents carries."""
    collapsed, verdict = find_verdict(run)
    share = collect_curve(run.metrics, "validation", "val_error_share")
    return {
        "collapsed": collapsed,
        "verdict": verdict,
        "levels": _tabulate_levels(run.metrics),
        "error_share": {"step": share[-1][0], "text": f"{share[-1][1]:.1%}"} if share else None,
        "charts": _plot_dimensions(run),
    }


def find_verdict(run: RunFiles) -> tuple[bool | None, str]:
    """Returns whether a level of latents has collapsed, None if unknown, and a sentence on it."""
    for answer in run.answers:
        if not answer.videos and isinstance(answer.details.get("collapsed"), bool):
            collapsed = answer.details["collapsed"]
            verdict = next((n for n in answer.notes if "collapse" in n.lower()), "")
            return collapsed, verdict or ("Collapsed." if collapsed else "No collapse.")
    active = {
        level: curve[-1]
        for level in find_levels(run.metrics)
        if (curve := collect_curve(run.metrics, "validation", f"val_active_{level}"))
    }
    if not active:
        return None, "Whether latents have collapsed is not known: nothing was measured yet."
    counts = ", ".join(f"{count:.0f} {level}" for level, (_, count) in active.items())
    step = next(iter(active.values()))[0]
    collapsed = any(count == 0 for _, count in active.values())
    verdict = "A level of latents has no active unit" if collapsed else "Every level is active"
    return collapsed, f"{verdict} at the validation of step {step}: {counts} units."


def _tabulate_levels(metrics: list[dict]) -> Table | None:
    rows, last = [], None
    for level in find_levels(metrics):
        names = [name.format(level) for name in _LEVEL_COLUMNS.values()]
        counts = [_COUNT.format(level)]
        curves = [collect_curve(metrics, "validation", name) for name in names]
        if any(curves):
            values = [curve[-1][1] if curve else None for curve in curves]
            # The log writes counts as floats.
            values = [int(v) if v is not None and n in counts else v for n, v in zip(names, values)]
            cells = [Cell("-") if v is None else Cell(format_number(v), key=v) for v in values]
            rows.append([level, *cells])
            last = max(curve[-1][0] for curve in curves if curve)
    caption = f"Latents at the validation of step {last}"
    return make_table(caption, ["level", *_LEVEL_COLUMNS], rows) if rows else None


def _plot_dimensions(run: RunFiles) -> list[Chart]:
    charts = []
    for number, answer in enumerate(run.answers):
        kl_by_level = as_mapping(answer.details.get("kl_by_dimension"))
        active_by_level = as_mapping(answer.details.get("active_units"))
        for level, kl_Z in kl_by_level.items():
            active_Z = active_by_level.get(level)
            if not _fits(kl_Z, active_Z):
                continue
            of = f" on {answer.videos}" if answer.videos else ""
            title = f"KL of each {level} dimension, nats{of}: {sum(active_Z)} of {len(kl_Z)} active"
            charts.append(plot_bars(f"bars-{number}-{len(charts)}", title, kl_Z, active_Z))
    return charts


def _fits(kl_Z, active_Z) -> bool:
    return (
        isinstance(kl_Z, list)
        and isinstance(active_Z, list)
        and len(kl_Z) == len(active_Z) > 0
        and all(_is_number(value) for value in kl_Z)
    )
