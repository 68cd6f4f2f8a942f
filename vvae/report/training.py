"""Sections of the page on what was trained on what: data, curves, collapse."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from vvae.metrics.table import format_number
from vvae.report.charts import MAX_POINTS, Curve, draw_bars, draw_curves, join_charts
from vvae.report.files import RunFiles, as_mapping
from vvae.report.markup import Markup, join, tag
from vvae.report.parts import list_facts, make_disclosure, make_paragraph, make_section, make_table

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


# --- data -----------------------------------------------------------------------------------------


def show_data(run: RunFiles) -> Markup:
    """Returns the section on the data: what there is, what is broken, left out, filled up."""
    data = as_mapping(run.record.get("data"))
    settings = as_mapping(as_mapping(run.record.get("config")).get("data"))
    clips, videos = as_mapping(data.get("num_clips")), as_mapping(data.get("num_videos"))
    rows = [
        [split, _count(videos.get(split)), _count(clips.get(split))]
        for split in {**videos, **clips}
    ]
    facts = {
        "data set": settings.get("name", "unknown"),
        "folder": data.get("path", "unknown"),
        "fingerprint": data.get("fingerprint", "unknown"),
        "view": f"{settings.get('view', 'unknown')}, {data.get('num_channels', '?')} channels",
        "classes": f"{len(run.class_names)}: {', '.join(run.class_names)}"
        if run.class_names
        else "none: the videos have no labels",
    }
    return make_section(
        "data",
        "What was trained on what",
        list_facts(facts),
        make_table("Videos and clips", ["split", "videos", "clips"], rows)
        if rows
        else make_paragraph("How many videos there were was not recorded."),
        *_show_losses(data),
    )


def _count(value):
    return "-" if value is None else value


def _show_losses(data: Mapping[str, Any]):
    broken = as_mapping(data.get("broken"))
    if broken:
        shown = list(itertools.islice(broken.items(), _MAX_BROKEN))
        caption = f"{len(broken)} files that cannot be read"
        if len(shown) < len(broken):
            caption += f", the first {len(shown)} of them"
        yield make_paragraph(f"{len(broken)} files cannot be read and are left out.", "alert")
        yield make_disclosure(caption, make_table(caption, ["file", "reason"], shown))
    else:
        yield make_paragraph("Every file could be read.")
    left_out = as_mapping(data.get("left_out_splits"))
    for split, count in left_out.items():
        yield make_paragraph(f"Left out: split {split!r} with {count} videos.")
    if not left_out:
        yield make_paragraph("No split is left out.")
    padded = data.get("num_padded") or 0
    if padded:
        text = f"{padded} clips are filled up by repeating a frame; such frames count nowhere."
    else:
        text = "No clip had to be filled up."
    yield make_paragraph(text)


# --- training -------------------------------------------------------------------------------------


def show_training(run: RunFiles) -> Markup:
    """Returns the section with the curves of metrics.jsonl."""
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
    if not run.metrics:
        missing = "There are no curves: metrics.jsonl is not there or empty."
        return make_section("training", "Training", list_facts(facts), make_paragraph(missing))
    panels, rest = arrange_panels(run.metrics)
    main = [
        draw_curves(f"curve-{number}", title, curves)
        for number, (title, curves) in enumerate(panels.items())
    ]
    other = [
        draw_curves(f"more-{number}", title, curves)
        for number, (title, curves) in enumerate(rest.items())
    ]
    parts = [list_facts(facts), join_charts(main)]
    drawn = [curve for curves in [*panels.values(), *rest.values()] for curve in curves.values()]
    if any(len(curve) > MAX_POINTS for curve in drawn):
        text = f"Of curves with more than {MAX_POINTS} points about as many are drawn."
        parts.append(make_paragraph(text, "quiet"))
    if other:
        parts.append(make_disclosure(f"{len(other)} more curves", join_charts(other)))
    return make_section("training", "Training", *parts)


def collect_curve(metrics: list[dict], kind: str, name: str) -> Curve:
    """Returns the (step, value) points of a metric, without missing values."""
    rows = [row for row in metrics if row.get("kind") == kind and isinstance(row.get("step"), int)]
    return [(row["step"], row[name]) for row in rows if _is_number(row.get(name))]


def _is_number(value) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def find_levels(metrics: list[dict]) -> list[str]:
    """Returns the levels of latents that a log speaks of."""
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
                # The first steps are far below all others and would flatten the curve.
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


def show_verdict_badge(run: RunFiles) -> Markup | None:
    """Returns a mark for the head of the page."""
    collapsed, _ = find_verdict(run)
    if collapsed is None:
        return None
    if collapsed:
        return tag("span", "latents collapsed", class_="badge bad")
    return tag("span", "no collapse", class_="badge good")


def show_collapse(run: RunFiles) -> Markup:
    """Returns the section on what the latents carry."""
    collapsed, verdict = find_verdict(run)
    parts = [make_paragraph(verdict, "alert" if collapsed else "verdict")]
    parts.append(_show_levels(run))
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
            charts.append(draw_bars(f"bars-{number}-{len(charts)}", title, kl_Z, active_Z))
    parts.append(
        join_charts(charts)
        if charts
        else make_paragraph("The KL of each dimension is not known: the task density measures it.")
    )
    if charts:
        parts.append(make_paragraph("Gray bars: units that are not active.", "quiet"))
    return make_section("collapse", "Have latents collapsed?", *parts)


def _fits(kl_Z, active_Z) -> bool:
    return (
        isinstance(kl_Z, list)
        and isinstance(active_Z, list)
        and len(kl_Z) == len(active_Z) > 0
        and all(_is_number(value) for value in kl_Z)
    )


def _show_levels(run: RunFiles) -> Markup:
    columns = {
        "active units": "val_active_{}",
        "KL, nats/clip": "val_kl_{}",
        "mutual information, nats": "val_mutual_information_{}",
    }
    rows, last = [], None
    for level in find_levels(run.metrics):
        names = [name.format(level) for name in columns.values()]
        curves = [collect_curve(run.metrics, "validation", name) for name in names]
        if any(curves):
            rows.append([level, *[c[-1][1] if c else "-" for c in curves]])
            last = max(curve[-1][0] for curve in curves if curve)
    if not rows:
        return make_paragraph("No validation has measured the latents yet.")
    cells = [[row[0], *[_round(value) for value in row[1:]]] for row in rows]
    table = make_table(f"Latents at the validation of step {last}", ["level", *columns], cells)
    share = collect_curve(run.metrics, "validation", "val_error_share")
    if not share:
        return table
    text = (
        f"At step {share[-1][0]} the error of reconstructions is {share[-1][1]:.1%} of the "
        "variance about the mean frame; 98% and more would count as collapsed."
    )
    return join(table, make_paragraph(text))


def _round(value):
    if isinstance(value, str):
        return value
    return tag("td", format_number(value), class_="number", data_value=value)
