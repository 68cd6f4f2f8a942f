"""Charts: curves, bars, matrices and points with axes."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np

from vvae.figures.canvas import (
    cut_text,
    import_matplotlib,
    in_legend,
    new_chart,
    save,
    set_tick_names,
    set_title,
)


def write_curves(
    path: str | os.PathLike,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    x_label: str,
    y_label: str,
    title: str,
) -> None:
    """Writes a PNG of named curves (x, y) on common axes; the labels should state units."""
    figure = new_chart((720, 420))
    axes = figure.add_subplot()
    marker = "." if max(len(x) for x, _ in curves.values()) <= 64 else None
    for name, (x, y) in curves.items():
        axes.plot(x, y, label=in_legend(name), marker=marker)
    axes.set(xlabel=x_label, ylabel=y_label)
    set_title(figure, title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    save(figure, path)


def write_training_curves(
    path: str | os.PathLike, panels: Mapping[str, Mapping], title: str
) -> None:
    """Writes a PNG with one panel for each quantity, over the training steps.

    Args:
      path: The file to write.
      panels: y label with its unit -> {curve name: (steps, values)}. Panels without a curve are
        left out.
      title: The text above everything.
    """
    panels = {y_label: curves for y_label, curves in panels.items() if curves}
    num_columns = min(2, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure = new_chart((560 * num_columns, 60 + 300 * num_rows))
    grid = figure.add_gridspec(num_rows, num_columns)
    for number, (y_label, curves) in enumerate(panels.items()):
        row, column = divmod(number, num_columns)
        # The last panel takes the rest of its row.
        axes = figure.add_subplot(
            grid[row, column:] if number == len(panels) - 1 else grid[row, column]
        )
        for name, (steps, values) in curves.items():
            marker = "." if len(steps) <= 32 else None
            axes.plot(steps, values, label=in_legend(name), marker=marker, linewidth=1.2)
        axes.set(xlabel="step", ylabel=y_label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    set_title(figure, title)
    save(figure, path)


def write_confusion_matrix(
    path: str | os.PathLike, counts_KK: np.ndarray, class_names: Sequence[str], title: str
) -> None:
    """Writes a PNG of a confusion matrix: colours are shares of the true class, texts are counts.

    Args:
      path: The file to write.
      counts_KK: int; rows are true classes, columns are predictions.
      class_names: The names of the K classes.
      title: The text above the matrix.
    """
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    num_classes = len(class_names)
    side = 200 + 44 * num_classes
    labels = 7 * max(len(name) for name in class_names)
    figure = new_chart((side + labels + 60, side + labels))
    figure.set_layout_engine("compressed")  # fits labels around cells that must stay square
    axes = figure.add_subplot()
    image = axes.imshow(share_KK, cmap="Blues", vmin=0.0, vmax=1.0)
    set_tick_names(axes.xaxis, class_names, rotation=45, ha="right")
    set_tick_names(axes.yaxis, class_names)
    axes.set(xlabel="predicted", ylabel="true")
    set_title(figure, title)
    if num_classes <= 30:
        for i, j in np.argwhere(counts_KK > 0):
            color = "white" if share_KK[i, j] > 0.5 else "black"
            axes.text(j, i, str(counts_KK[i, j]), ha="center", va="center", color=color, fontsize=9)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.04)
    save(figure, path)


def write_dimension_bars(
    path: str | os.PathLike,
    kl_by_level: Mapping[str, np.ndarray],
    active_by_level: Mapping[str, np.ndarray],
    title: str,
) -> None:
    """Writes a PNG of the KL of each latent dimension, largest first, one panel for each level.

    Args:
      path: The file to write.
      kl_by_level: Title of the panel, which states the unit of the level -> float [Z], nats.
      active_by_level: The same keys -> bool [Z]; units that are not active are gray.
      title: The text above everything.
    """
    figure = new_chart((900, 60 + 260 * len(kl_by_level)))
    for number, (level, kl_Z) in enumerate(kl_by_level.items(), start=1):
        axes = figure.add_subplot(len(kl_by_level), 1, number)
        order = np.argsort(-kl_Z, kind="stable")
        active_Z = active_by_level[level][order]
        axes.bar(range(len(order)), kl_Z[order], color=np.where(active_Z, "tab:blue", "lightgray"))
        axes.set_xticks(range(len(order)), [str(d) for d in order], fontsize=7)
        axes.set_xlim(-0.6, len(order) - 0.4)
        axes.set(xlabel="dimension", ylabel="KL in nats")
        axes.set_title(f"{level}: {active_Z.sum()} of {len(order)} units active", fontsize=10)
        axes.grid(alpha=0.3, axis="y")
    set_title(figure, title)
    save(figure, path)


def write_maps(
    path: str | os.PathLike,
    maps: Mapping[str, np.ndarray],
    colorings: Mapping[str, tuple[np.ndarray, Sequence[str]]],
    title: str,
) -> None:
    """Writes a PNG of points in the plane, with a column for each map and a row for each colouring.

    Args:
      path: The file to write.
      maps: Name of the map -> float [N, 2]; its axes have no unit.
      colorings: Meaning of the colours -> (category of each point, int [N], -1 for none; names of
        the categories). The colours repeat after ten categories, with another marker.
      title: The text above everything.
    """
    num_rows, num_columns = len(colorings), len(maps)
    longest = max(len(name) for _, names in colorings.values() for name in names)
    figure = new_chart((380 * num_columns + 60 + 8 * longest, 60 + 360 * num_rows))
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    for row, (meaning, (category_N, names)) in zip(grid, colorings.items()):
        for axes, (name, xy_N2) in zip(row, maps.items()):
            _scatter(axes, xy_N2, category_N, names)
            axes.set_title(f"{name}, by {meaning}", fontsize=10)
        row[-1].legend(
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            fontsize=8,
            ncols=1 + (len(names) - 1) // 20,
            title=meaning,
        )
    set_title(figure, title)
    save(figure, path)


def _scatter(axes, xy_N2: np.ndarray, category_N: np.ndarray, names: Sequence[str]) -> None:
    """Draws points in the colours and markers of their categories, over gray points without one."""
    colors, markers = import_matplotlib().colormaps["tab10"].colors, "o^sDvP"
    none = category_N < 0
    axes.scatter(*xy_N2[none].T, s=8, color="lightgray", linewidths=0)
    for number, name in enumerate(names):
        axes.scatter(
            *xy_N2[category_N == number].T,
            s=14,
            color=colors[number % len(colors)],
            marker=markers[number // len(colors) % len(markers)],
            linewidths=0,
            alpha=0.85,
            label=in_legend(name),
        )
    axes.set_xticks([])
    axes.set_yticks([])


@dataclasses.dataclass(frozen=True)
class ScoreCurve:
    """The anomaly scores of the frames of one video.

    Attributes:
      name: The name of the video.
      time_F: The times of the frames, s.
      score_F: The score of each frame.
      abnormal_F: bool; the frames known to be abnormal. None if nothing is known: then the frames
        above the threshold are shaded.
    """

    name: str
    time_F: np.ndarray
    score_F: np.ndarray
    abnormal_F: np.ndarray | None = None


def write_score_curves(
    path: str | os.PathLike, curves: Sequence[ScoreCurve], threshold: float, label: str, title: str
) -> None:
    """Writes a PNG with one panel for each video: scores over time, with intervals shaded.

    Args:
      path: The file to write.
      curves: One or more videos.
      threshold: The threshold, drawn as a dashed line.
      label: The label of the scores.
      title: The text above everything.
    """
    num_columns = min(3, len(curves))
    num_rows = -(-len(curves) // num_columns)
    width = max(560, 360 * num_columns)
    figure = new_chart((width, 120 + 190 * num_rows))
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
    for axes, curve in zip(panels, curves):
        draw_scores(axes, curve, threshold)
        axes.set_title(cut_text(curve.name, width / num_columns - 40, 9), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(curves) - num_columns) : len(curves)]:
        axes.set_xlabel("time in s", fontsize=9)
    figure.supylabel(label, fontsize=9)
    set_title(figure, title)
    keys = list_score_keys(curves[0])
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=9)
    save(figure, path)


TRUE_COLOR, CALLED_COLOR = "tab:red", "tab:orange"


def draw_scores(axes, curve: ScoreCurve, threshold: float) -> None:
    """Draws scores over time, the threshold as a dashed line, and intervals shaded.

    They are the intervals that are known to be abnormal (red) or, if nothing is known, those above
    the threshold (orange, hatched).
    """
    axes.plot(curve.time_F, curve.score_F, color="black", linewidth=1.2)
    axes.axhline(threshold, color="tab:blue", linestyle="--", linewidth=1.2)
    axes.margins(x=0)
    shaded_F = curve.score_F > threshold if curve.abnormal_F is None else curve.abnormal_F
    half = 0.5 * np.median(np.diff(curve.time_F)) if len(curve.time_F) > 1 else 0.5
    edges = np.flatnonzero(np.diff(np.pad(shaded_F.astype(int), 1)))
    for start, end in zip(edges[::2], edges[1::2] - 1):
        span = (curve.time_F[start] - half, curve.time_F[end] + half)
        axes.axvspan(*span, **_style_shade(curve))


def _style_shade(curve: ScoreCurve) -> dict:
    if curve.abnormal_F is None:
        style = {"facecolor": CALLED_COLOR, "edgecolor": CALLED_COLOR, "alpha": 0.3}
        return style | {"hatch": "///", "linewidth": 0}
    return {"facecolor": TRUE_COLOR, "alpha": 0.18, "linewidth": 0}


def list_score_keys(curve: ScoreCurve) -> list:
    """Returns the artists that explain `draw_scores` in a legend."""
    matplotlib = import_matplotlib()
    line, patch = matplotlib.lines.Line2D, matplotlib.patches.Patch
    text = "called abnormal" if curve.abnormal_F is None else "abnormal by the labels"
    return [
        line([], [], color="black", linewidth=1.2, label="score"),
        line([], [], color="tab:blue", linestyle="--", linewidth=1.2, label="threshold"),
        patch(**_style_shade(curve), label=text),
    ]


def write_boundary_curves(
    path: str | os.PathLike, panels: Mapping[str, tuple], threshold: float, title: str
) -> None:
    """Writes a PNG of boundary scores over the frames of videos, with the true transitions.

    Args:
      path: The file to write.
      panels: Name -> (score_F, the (first, last) frames of the transitions, those of the flashes).
      threshold: The threshold, drawn as a dashed line.
      title: The text above everything.
    """
    figure = new_chart((1100, 60 + 190 * len(panels)))
    for number, (name, (score_F, transitions, flashes)) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        for spans, color, label in (
            (transitions, "tab:green", "true boundary"),
            (flashes, "tab:orange", "flash"),
        ):
            for k, (first, last) in enumerate(spans):
                shown = {"label": label} if k == 0 else {}
                axes.axvspan(first - 0.5, last + 0.5, color=color, alpha=0.45, lw=1.5, **shown)
        axes.plot(score_F, color="tab:blue", linewidth=1.2, label="score")
        axes.axhline(threshold, color="black", linewidth=0.8, linestyle="--", label="threshold")
        axes.set(xlabel="frame", ylabel="probability", xlim=(0, len(score_F)), ylim=(0, 1.05))
        axes.set_title(name, fontsize=10)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    set_title(figure, title)
    save(figure, path)


def write_label_curves(
    path: str | os.PathLike,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    ticks: Sequence[str],
    title: str,
) -> None:
    """Writes a PNG of accuracies over numbers of labels, with intervals.

    Args:
      path: The file to write.
      curves: Name -> (mean_S, low_S, high_S), accuracies in [0, 1].
      ticks: S texts under the axis, such as numbers of labels.
      title: The text above everything.
    """
    figure = new_chart((860, 420))
    axes = figure.add_subplot()
    for number, (name, (mean_S, low_S, high_S)) in enumerate(curves.items()):
        # Slightly apart, so that the intervals do not hide each other.
        place_S = np.arange(len(ticks)) + 0.04 * (number - (len(curves) - 1) / 2)
        errors = np.stack([mean_S - low_S, high_S - mean_S])
        axes.errorbar(
            place_S, mean_S, errors, label=in_legend(name), marker="o", markersize=4, capsize=3
        )
    set_tick_names(axes.xaxis, ticks)
    axes.set(xlabel="labelled training videos a class", ylabel="top-1 accuracy")
    set_title(figure, title)
    axes.set_ylim(0.0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


def write_score_groups(
    path: str | os.PathLike,
    groups: Mapping[str, np.ndarray],
    searched: Sequence[str],
    threshold: float,
    label: str,
    title: str,
) -> None:
    """Writes a PNG of scores, with a line of points for each group, and a threshold.

    Args:
      path: The file to write.
      groups: Name -> scores; the first group is at the top.
      searched: The names of the groups whose scores should exceed the threshold, drawn red.
      threshold: The threshold, drawn as a dashed line.
      label: The label of the scores.
      title: The text above everything.
    """
    figure = new_chart((760, 110 + 36 * len(groups)))
    axes = figure.add_subplot()
    random = np.random.Generator(np.random.Philox(key=[0, 0]))
    for row, (name, score_V) in enumerate(groups.items()):
        # Slightly up or down, so that the points do not hide each other.
        place_V = row + random.uniform(-0.25, 0.25, len(score_V))
        color = "tab:red" if name in searched else "tab:blue"
        axes.plot(score_V, place_V, ".", color=color, alpha=0.6, markersize=7, markeredgewidth=0)
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1.0, label="threshold")
    set_tick_names(axes.yaxis, list(groups))
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set(xlabel=label)
    set_title(figure, title)
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save(figure, path)
