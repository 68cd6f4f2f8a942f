"""Arrays -> PNG and mp4 files. Images are uint8 RGB; small frames are enlarged by whole factors."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vvae.files import replacing
from vvae.video import write_video

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
TILE_PIXELS = 96
VIDEO_TILE_PIXELS = 128
SCORE_TILE_PIXELS = 288
SCORE_CHART_PIXELS = 96
GAP_PIXELS = 4
GROUP_GAP_PIXELS = 16
BACKGROUND = 255
# Width of a character of the labels, which decides how much room they get.
CHARACTER_PIXELS = 8
CAPTION_PIXELS = 24
STRIPS_PER_ROW = 3


# --- images ------------------------------------------------------------------------------------


def enlarge(images: np.ndarray, min_pixels: int) -> np.ndarray:
    """Repeats pixels until the longer side has at least `min_pixels`.

    Args:
      images: uint8 [..., H, W, C].
      min_pixels: wanted length of the longer side; longer images stay as they are.

    Returns:
      uint8 [..., sH, sW, C] with a whole factor s >= 1.
    """
    factor = max(1, -(-min_pixels // max(images.shape[-3:-1])))
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)


def color_error(error: np.ndarray, full_scale: float) -> np.ndarray:
    """Shows errors as colours, black for 0 to pale yellow for `full_scale` and above.

    Args:
      error: float [..., H, W], at least 0.
      full_scale: error that gets the brightest colour.

    Returns:
      uint8 [..., H, W, 3].
    """
    colors = _matplotlib().colormaps["magma"](np.clip(error / full_scale, 0.0, 1.0))
    return np.rint(colors[..., :3] * 255).astype(np.uint8)


def compose_grid(videos_NTHWC: np.ndarray, num_columns: int) -> np.ndarray:
    """Arranges N videos of one size on a grid, row by row.

    Args:
      videos_NTHWC: uint8 RGB.
      num_columns: tiles in a row; missing tiles of the last row are white.

    Returns:
      uint8 [T, rows, columns, 3].
    """
    tiles = enlarge(videos_NTHWC, VIDEO_TILE_PIXELS)
    num_rows = -(-len(tiles) // num_columns)
    grid = [tiles[r * num_columns : (r + 1) * num_columns] for r in range(num_rows)]
    return np.stack(
        [_compose([[tile[t] for tile in row] for row in grid], 1) for t in range(tiles.shape[1])]
    )


def _compose(rows: Sequence[Sequence[np.ndarray]], rows_per_group: int) -> np.ndarray:
    """One image of rows of equal tiles, with gaps; rows may be of different lengths."""
    height, width, channels = rows[0][0].shape
    tops = _row_offsets(len(rows), height, rows_per_group)
    num_columns = max(len(row) for row in rows)
    canvas_width = num_columns * (width + GAP_PIXELS) - GAP_PIXELS
    canvas = np.full((tops[-1] + height, canvas_width, channels), BACKGROUND, np.uint8)
    for top, row in zip(tops, rows):
        for column, tile in enumerate(row):
            left = column * (width + GAP_PIXELS)
            canvas[top : top + height, left : left + width] = tile
    return canvas


def _row_offsets(num_rows: int, height: int, rows_per_group: int) -> list[int]:
    extra = GROUP_GAP_PIXELS - GAP_PIXELS if rows_per_group > 1 else 0
    return [r * (height + GAP_PIXELS) + r // rows_per_group * extra for r in range(num_rows)]


# --- pictures ----------------------------------------------------------------------------------


def write_sheet(
    path: str | os.PathLike,
    rows: Sequence[np.ndarray],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    rows_per_group: int = 1,
) -> None:
    """Writes a PNG of labelled rows of images.

    Args:
      path: the file to write.
      rows: for each row uint8 images [K, H, W, 3] of one size; K may differ.
      row_labels: text left of each row, of one line or more.
      column_labels: text above each column.
      title: one line or more above everything.
      rows_per_group: rows that belong together; a wider gap follows them.

    Raises:
      ValueError: if there is not one label a row.
    """
    if len(rows) != len(row_labels):
        raise ValueError(f"{len(rows)} rows of images, but {len(row_labels)} row labels")
    tiles = [enlarge(row, TILE_PIXELS) for row in rows]
    canvas = _compose(tiles, rows_per_group)
    height, width = tiles[0].shape[1:3]
    longest = max(len(line) for label in row_labels for line in label.split("\n"))
    left = 16 + CHARACTER_PIXELS * longest
    top = 30 + 20 * (1 + title.count("\n"))
    pixels = (left + canvas.shape[1] + 16, top + canvas.shape[0] + 16)
    figure = _new_figure(pixels)
    axes = figure.add_axes(
        (
            left / pixels[0],
            16 / pixels[1],
            canvas.shape[1] / pixels[0],
            canvas.shape[0] / pixels[1],
        )
    )
    axes.imshow(canvas, interpolation="nearest")
    tops = _row_offsets(len(rows), height, rows_per_group)
    axes.set_yticks([offset + height / 2 for offset in tops], row_labels)
    centres = [k * (width + GAP_PIXELS) + width / 2 for k in range(len(column_labels))]
    axes.set_xticks(centres, column_labels)
    axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.text(
        16 / pixels[0], 1 - 10 / pixels[1], title, fontsize=11, va="top", ha="left", wrap=False
    )
    _save(figure, path)


def write_curves(
    path: str | os.PathLike,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    x_label: str,
    y_label: str,
    title: str,
) -> None:
    """Writes a PNG of named curves (x, y) on common axes, with units in the axis labels."""
    figure = _new_chart((720, 420))
    axes = figure.add_subplot()
    marker = "." if max(len(x) for x, _ in curves.values()) <= 64 else None
    for name, (x, y) in curves.items():
        axes.plot(x, y, label=name, marker=marker)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    _save(figure, path)


def write_training_curves(
    path: str | os.PathLike, panels: Mapping[str, Mapping], title: str
) -> None:
    """Writes a PNG with one panel a quantity, over the training steps.

    Args:
      path: the file to write.
      panels: y label (with its unit) -> {curve name: (steps, values)}; those without a curve are
        left out.
      title: above everything.
    """
    panels = {y_label: curves for y_label, curves in panels.items() if curves}
    num_columns = min(2, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure = _new_chart((560 * num_columns, 60 + 300 * num_rows))
    for number, (y_label, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(num_rows, num_columns, number)
        for name, (steps, values) in curves.items():
            marker = "." if len(steps) <= 32 else None
            axes.plot(steps, values, label=name, marker=marker, linewidth=1.2)
        axes.set(xlabel="step", ylabel=y_label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.suptitle(title)
    _save(figure, path)


def write_confusion_matrix(
    path: str | os.PathLike, counts_KK: np.ndarray, class_names: Sequence[str], title: str
) -> None:
    """Writes a PNG of a confusion matrix: colour is the share of the true class, text the count.

    Args:
      path: the file to write.
      counts_KK: int; rows are true classes, columns predictions.
      class_names: K names.
      title: above the matrix.
    """
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    num_classes = len(class_names)
    side = 200 + 44 * num_classes
    labels = 7 * max(len(name) for name in class_names)
    figure = _new_chart((side + labels + 60, side + labels))
    axes = figure.add_subplot()
    image = axes.imshow(share_KK, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(num_classes), class_names, rotation=45, ha="right")
    axes.set_yticks(range(num_classes), class_names)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if num_classes <= 30:
        for i, j in np.argwhere(counts_KK > 0):
            color = "white" if share_KK[i, j] > 0.5 else "black"
            axes.text(j, i, str(counts_KK[i, j]), ha="center", va="center", color=color, fontsize=9)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.04)
    _save(figure, path)


def write_dimension_bars(
    path: str | os.PathLike,
    kl_by_level: Mapping[str, np.ndarray],
    active_by_level: Mapping[str, np.ndarray],
    title: str,
) -> None:
    """Writes a PNG of the KL of each latent dimension, one panel a level, largest first.

    Args:
      path: the file to write.
      kl_by_level: panel title, which states the unit of the level -> float [Z] nats.
      active_by_level: the same keys -> bool [Z]; units that are not active are drawn gray.
      title: above everything.
    """
    figure = _new_chart((900, 60 + 260 * len(kl_by_level)))
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
    figure.suptitle(title)
    _save(figure, path)


def write_maps(
    path: str | os.PathLike,
    maps: Mapping[str, np.ndarray],
    colorings: Mapping[str, tuple[np.ndarray, Sequence[str]]],
    title: str,
) -> None:
    """Writes a PNG of points in the plane: a column a map, a row a way of colouring them.

    Args:
      path: the file to write.
      maps: name of the map -> float [N, 2]; its axes have no unit.
      colorings: what the colours say -> (category of each point, int [N], -1 for none; names of
        the categories). Colours repeat after ten, with another marker.
      title: above everything.
    """
    num_rows, num_columns = len(colorings), len(maps)
    longest = max(len(name) for _, names in colorings.values() for name in names)
    figure = _new_chart((380 * num_columns + 60 + 8 * longest, 60 + 360 * num_rows))
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
    figure.suptitle(title)
    _save(figure, path)


def _scatter(axes, xy_N2: np.ndarray, category_N: np.ndarray, names: Sequence[str]) -> None:
    """Draws points in the colours and markers of their categories; those of none first, gray."""
    colors, markers = _matplotlib().colormaps["tab10"].colors, "o^sDvP"
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
            label=name,
        )
    axes.set_xticks([])
    axes.set_yticks([])


def write_grid_video(path: str | os.PathLike, rows: Mapping[str, np.ndarray], fps: float) -> None:
    """Writes an mp4 of rows of videos that play side by side, each row under its caption.

    Args:
      path: the file to write.
      rows: caption -> uint8 RGB videos [N, T, H, W, 3]; the same T and frame size in all rows.
      fps: frames per second.
    """
    bands = []
    for caption, videos_NTHWC in rows.items():
        band = compose_grid(videos_NTHWC, num_columns=len(videos_NTHWC))
        strip = _render_text(caption, band.shape[2])
        bands += [np.broadcast_to(strip, (len(band), *strip.shape)), band]
    write_video(path, np.concatenate(bands, axis=1), fps)


@dataclasses.dataclass(frozen=True)
class ScoreCurve:
    """The anomaly scores of the frames of one video.

    Attributes:
      name: of the video.
      time_F: s.
      score_F: one number a frame.
      abnormal_F: bool, frames that are known to be abnormal; None if nothing is known.
    """

    name: str
    time_F: np.ndarray
    score_F: np.ndarray
    abnormal_F: np.ndarray | None = None


def write_score_curves(
    path: str | os.PathLike, curves: Sequence[ScoreCurve], threshold: float, label: str, title: str
) -> None:
    """Writes a PNG with one panel a video: scores over time, true intervals shaded.

    Args:
      path: the file to write.
      curves: one or more videos.
      threshold: drawn as a dashed line.
      label: of the scores.
      title: above everything.
    """
    num_columns = min(3, len(curves))
    num_rows = -(-len(curves) // num_columns)
    figure = _new_chart((max(560, 360 * num_columns), 90 + 190 * num_rows))
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
    for axes, curve in zip(panels, curves):
        _draw_scores(axes, curve, threshold)
        axes.set_title(curve.name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    figure.supxlabel("time in s", fontsize=9)
    figure.supylabel(label, fontsize=9)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _draw_scores(axes, curve: ScoreCurve, threshold: float) -> None:
    axes.plot(curve.time_F, curve.score_F, color="black", linewidth=1.2)
    axes.axhline(threshold, color="tab:blue", linestyle="--", linewidth=1.2)
    axes.margins(x=0)
    if curve.abnormal_F is not None:
        half = 0.5 * np.median(np.diff(curve.time_F)) if len(curve.time_F) > 1 else 0.5
        edges = np.flatnonzero(np.diff(np.pad(curve.abnormal_F.astype(int), 1)))
        for start, end in zip(edges[::2], edges[1::2] - 1):
            span = (curve.time_F[start] - half, curve.time_F[end] + half)
            axes.axvspan(*span, color="tab:red", alpha=0.18, linewidth=0)


def write_score_video(
    path: str | os.PathLike,
    frames_FHWC: Sequence[np.ndarray],
    heats_FHW: Sequence[np.ndarray],
    curves: Sequence[ScoreCurve],
    threshold: float,
    fps: float,
    heat_text: str,
) -> None:
    """Writes an mp4 of videos one after the other: frame, frame under its heat map, score curve.

    Args:
      path: the file to write.
      frames_FHWC: for each video uint8 RGB [F, H, W, 3], of one size.
      heats_FHW: for each video float [F, h, w], from 0 (nothing is drawn) to 1 and more; H and W
        are the same multiple of h and w.
      curves: for each video its scores; the line of a frame above the threshold is red.
      threshold: a dashed line.
      fps: frames per second.
      heat_text: what the heat map shows.
    """
    parts = [
        _annotate(*video, threshold, heat_text)
        for video in zip(frames_FHWC, heats_FHW, curves, strict=True)
    ]
    write_video(path, np.concatenate(parts), fps)


def _annotate(
    frames_FHWC, heat_FHW, curve: ScoreCurve, threshold: float, heat_text: str
) -> np.ndarray:
    plain = enlarge(frames_FHWC, SCORE_TILE_PIXELS)
    factor = frames_FHWC.shape[1] // heat_FHW.shape[1]
    heat_FHW = heat_FHW.repeat(factor, axis=1).repeat(factor, axis=2)
    heated = enlarge(overlay_heat(frames_FHWC, heat_FHW), SCORE_TILE_PIXELS)
    gap = np.full((*plain.shape[:2], GAP_PIXELS, 3), BACKGROUND, np.uint8)
    top = np.concatenate([plain, gap, heated], axis=2)
    width = top.shape[2]
    note = "shaded: abnormal" if curve.abnormal_F is not None else "not marked"
    caption = _render_text(f"{curve.name}: frame, {heat_text}, score ({note})", width)
    chart = _render_scores(curve, threshold, width)
    bottom = np.repeat(chart[None], len(top), axis=0)
    for number, picture in enumerate(bottom):
        column = round(number / max(len(top) - 1, 1) * (width - 3))
        alarm = curve.score_F[number] > threshold
        picture[:, column : column + 3] = (214, 39, 40) if alarm else (31, 119, 180)
    strip = np.broadcast_to(caption, (len(top), *caption.shape))
    return np.concatenate([strip, top, bottom], axis=1)


def overlay_heat(frames_FHWC: np.ndarray, heat_FHW: np.ndarray) -> np.ndarray:
    """Draws heat over frames, uint8 [F, H, W, 3]: clear at 0, yellow over red at 1 and above."""
    share = np.clip(heat_FHW, 0.0, 1.0)
    colors = _matplotlib().colormaps["autumn"](share)[..., :3] * 255
    weight = 0.75 * share[..., None]
    return np.rint((1.0 - weight) * frames_FHWC + weight * colors).astype(np.uint8)


def _render_scores(curve: ScoreCurve, threshold: float, width: int) -> np.ndarray:
    """A chart whose left and right edges are the first and the last frame, uint8 [H, width, 3]."""
    figure = _new_figure((width, SCORE_CHART_PIXELS))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    _draw_scores(axes, curve, threshold)
    axes.set_axis_off()
    axes.margins(y=0.1)
    return _rasterize(figure)


def _rasterize(figure: "Figure") -> np.ndarray:
    canvas = _add_canvas(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_strips(
    path: str | os.PathLike, strips: Sequence[np.ndarray], captions: Sequence[str], title: str
) -> None:
    """Writes a PNG of strips of frames side by side, each under its caption, three strips a row.

    Args:
      path: the file to write.
      strips: uint8 RGB [K, H, W, 3], all of one shape.
      captions: one a strip; cut from the left where they are too long.
      title: above everything.
    """
    tiles = []
    for strip, caption in zip(strips, captions):
        row = _compose([list(enlarge(strip, TILE_PIXELS))], 1)
        longest = row.shape[1] // 7
        text = caption if len(caption) <= longest else "..." + caption[3 - longest :]
        tiles.append(np.concatenate([_render_text(text, row.shape[1]), row]))
    columns = min(STRIPS_PER_ROW, len(tiles))
    gap = np.full((tiles[0].shape[0], GROUP_GAP_PIXELS, 3), BACKGROUND, np.uint8)
    empty = np.full_like(tiles[0], BACKGROUND)
    tiles += [empty] * (-len(tiles) % columns)
    lines = []
    for start in range(0, len(tiles), columns):
        parts = [part for tile in tiles[start : start + columns] for part in (gap, tile)]
        lines.append(np.concatenate([*parts, gap], axis=1))
    heading = _render_text(title, lines[0].shape[1])
    _matplotlib().image.imsave(path, np.concatenate([heading, *lines]), dpi=DPI)


def write_boundary_curves(
    path: str | os.PathLike, panels: Mapping[str, tuple], threshold: float, title: str
) -> None:
    """Writes a PNG of scores over the frames of videos, with what is true.

    Args:
      path: the file to write.
      panels: name -> (score_F, (first, last) frame of each transition, the same of each flash).
      threshold: drawn as a line.
      title: above everything.
    """
    figure = _new_chart((1100, 60 + 190 * len(panels)))
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
    figure.suptitle(title)
    _save(figure, path)


def write_label_curves(
    path: str | os.PathLike,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    ticks: Sequence[str],
    title: str,
) -> None:
    """Writes a PNG of accuracies over numbers of labels, with intervals.

    Args:
      path: the file to write.
      curves: name -> (mean_S, low_S, high_S), accuracies in [0, 1].
      ticks: S texts under the axis, such as numbers of labels.
      title: above everything.
    """
    figure = _new_chart((860, 420))
    axes = figure.add_subplot()
    for number, (name, (mean_S, low_S, high_S)) in enumerate(curves.items()):
        # A little apart, so that intervals do not hide each other.
        place_S = np.arange(len(ticks)) + 0.04 * (number - (len(curves) - 1) / 2)
        errors = np.stack([mean_S - low_S, high_S - mean_S])
        axes.errorbar(place_S, mean_S, errors, label=name, marker="o", markersize=4, capsize=3)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set(xlabel="labelled training videos a class", ylabel="top-1 accuracy", title=title)
    axes.set_ylim(0.0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def write_score_groups(
    path: str | os.PathLike,
    groups: Mapping[str, np.ndarray],
    searched: Sequence[str],
    threshold: float,
    label: str,
    title: str,
) -> None:
    """Writes a PNG of scores, a line of points a group, with a threshold.

    Args:
      path: the file to write.
      groups: name -> scores; the first is the uppermost.
      searched: names of the groups whose scores ought to be above the threshold, drawn red.
      threshold: a dashed line.
      label: of the scores.
      title: above everything.
    """
    figure = _new_chart((760, 110 + 36 * len(groups)))
    axes = figure.add_subplot()
    random = np.random.Generator(np.random.Philox(key=[0, 0]))
    for row, (name, score_V) in enumerate(groups.items()):
        # A little up or down, so that points do not hide each other.
        place_V = row + random.uniform(-0.25, 0.25, len(score_V))
        color = "tab:red" if name in searched else "tab:blue"
        axes.plot(score_V, place_V, ".", color=color, alpha=0.6, markersize=7, markeredgewidth=0)
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1.0, label="threshold")
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set(xlabel=label, title=title)
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path)


def _render_text(text: str, width: int) -> np.ndarray:
    """Returns uint8 [CAPTION_PIXELS, width, 3]: black text on white, cut at the right edge."""
    figure = _new_figure((width, CAPTION_PIXELS))
    figure.text(4 / width, 0.5, text, fontsize=9, va="center", ha="left")
    return _rasterize(figure)


def _matplotlib():
    """The library, imported with the first picture: a training begins sooner without it."""
    import matplotlib
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import matplotlib.image

    return matplotlib


def _add_canvas(figure: "Figure"):
    return _matplotlib().backends.backend_agg.FigureCanvasAgg(figure)


def _new_figure(pixels: tuple[int, int]) -> "Figure":
    return _matplotlib().figure.Figure(figsize=(pixels[0] / DPI, pixels[1] / DPI), dpi=DPI)


def _new_chart(pixels: tuple[int, int]) -> "Figure":
    """A figure that makes room for its labels by itself."""
    figure = _new_figure(pixels)
    figure.set_layout_engine("constrained")
    return figure


def _save(figure: "Figure", path: str | os.PathLike) -> None:
    _add_canvas(figure)
    with replacing(path) as part:
        figure.savefig(part, dpi=DPI, format="png")
