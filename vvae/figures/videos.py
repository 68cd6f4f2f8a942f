"""Videos that show videos: side by side, or with their scores."""

import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np

from vvae.figures.canvas import (
    CAPTION_PIXELS,
    import_matplotlib,
    new_figure,
    rasterize,
    render_line,
    render_text,
)
from vvae.figures.charts import ScoreCurve, draw_scores, list_score_keys
from vvae.figures.sheets import BACKGROUND, GAP_PIXELS, compose_grid, enlarge
from vvae.video import write_video

SCORE_TILE_PIXELS = 288
SCORE_CHART_PIXELS = 96
VERDICT_PIXELS = 88
TIME_PIXELS = 64
# Narrower legends have one key a line.
LEGEND_PIXELS = 400
MAX_TIMES = 4096
ALARM_COLOR, NORMAL_COLOR = (196, 30, 32), (31, 119, 180)


def write_grid_video(path: str | os.PathLike, rows: Mapping[str, np.ndarray], fps: float) -> None:
    """Writes an mp4 of rows of videos that play side by side, each row under its caption.

    Args:
      path: The file to write.
      rows: Caption -> uint8 RGB videos [N, T, H, W, 3], with the same T and frame size in all rows.
      fps: The frame rate, frames/s.
    """
    bands = []
    for caption, videos_NTHWC in rows.items():
        band = compose_grid(videos_NTHWC, num_columns=len(videos_NTHWC))
        strip = render_text(caption, band.shape[2])
        bands += [np.broadcast_to(strip, (len(band), *strip.shape)), band]
    write_video(path, np.concatenate(bands, axis=1), fps)


def write_score_video(
    path: str | os.PathLike,
    frames_FHWC: Sequence[np.ndarray],
    heats_FHW: Sequence[np.ndarray],
    curves: Sequence[ScoreCurve],
    threshold: float,
    fps: float,
    heat_text: str,
) -> None:
    """Writes an mp4 of videos in sequence, each as frames, frames with a heat map, and scores.

    Args:
      path: The file to write.
      frames_FHWC: For each video, uint8 RGB [F, H, W, 3], all of one size.
      heats_FHW: For each video, float [F, h, w], from 0 (nothing is drawn) to 1 and above. H and W
        are the same multiple of h and w.
      curves: For each video, its scores. Frames above the threshold are called ABNORMAL, and the
        time cursor in the scores is red there.
      threshold: The threshold, drawn as a dashed line.
      fps: The frame rate, frames/s.
      heat_text: The meaning of the heat map, for the caption.
    """
    parts = [
        _annotate(*video, threshold, heat_text)
        for video in zip(frames_FHWC, heats_FHW, curves, strict=True)
    ]
    write_video(path, np.concatenate(parts), fps)


def _annotate(
    frames_FHWC, heat_FHW, curve: ScoreCurve, threshold: float, heat_text: str
) -> np.ndarray:
    """Composes the frames of one video with their heat maps, time, verdict, scores and legend."""
    plain = enlarge(frames_FHWC, SCORE_TILE_PIXELS)
    factor = frames_FHWC.shape[1] // heat_FHW.shape[1]
    heat_FHW = heat_FHW.repeat(factor, axis=1).repeat(factor, axis=2)
    heated = enlarge(overlay_heat(frames_FHWC, heat_FHW), SCORE_TILE_PIXELS)
    gap = np.full((*plain.shape[:2], GAP_PIXELS, 3), BACKGROUND, np.uint8)
    top = np.concatenate([plain, gap, heated], axis=2)
    width = top.shape[2]
    text = f"Left: the video. Right: its {heat_text}, from red to yellow where it is high."
    chart = _render_scores(curve, threshold, width)
    bottom = np.repeat(chart[None], len(top), axis=0)
    for number, picture in enumerate(bottom):
        column = round(number / max(len(top) - 1, 1) * (width - 3))
        alarm = curve.score_F[number] > threshold
        picture[:, column : column + 3] = ALARM_COLOR if alarm else NORMAL_COLOR
    caption, legend = (
        np.broadcast_to(still, (len(top), *still.shape))
        for still in (render_text(text, width), _render_legend(curve, width))
    )
    head = _render_heads(curve, threshold, width)
    return np.concatenate([head, top, caption, bottom, legend], axis=1)


def _render_heads(curve: ScoreCurve, threshold: float, width: int) -> np.ndarray:
    """Draws the verdict, the time and the name above each frame, uint8 [F, h, width, 3]."""
    name_width = width - VERDICT_PIXELS - TIME_PIXELS
    name = render_line(curve.name, name_width)
    rows = []
    for time, score in zip(curve.time_F, curve.score_F):
        verdict = _render_verdict(bool(score > threshold))
        rows.append(np.concatenate([verdict, _render_time(f"{time:.1f} s"), name], axis=1))
    return np.stack(rows)


@functools.lru_cache(2)
def _render_verdict(is_alarm: bool) -> np.ndarray:
    text, color = ("ABNORMAL", ALARM_COLOR) if is_alarm else ("normal", NORMAL_COLOR)
    background = "#{:02x}{:02x}{:02x}".format(*color)
    return render_text(text, VERDICT_PIXELS, color="white", background=background)


@functools.lru_cache(MAX_TIMES)
def _render_time(text: str) -> np.ndarray:
    return render_text(text, TIME_PIXELS)


def _render_legend(curve: ScoreCurve, width: int) -> np.ndarray:
    """Explains the lines, the shades and the time cursor of the scores."""
    columns = 3 if width >= LEGEND_PIXELS else 1
    keys = list_score_keys(curve)
    figure = new_figure((width, CAPTION_PIXELS * -(-len(keys) // columns)))
    figure.legend(handles=keys, loc="center", ncols=columns, fontsize=9, frameon=False)
    return rasterize(figure)


def overlay_heat(frames_FHWC: np.ndarray, heat_FHW: np.ndarray) -> np.ndarray:
    """Blends heat into frames, uint8 [F, H, W, 3]: clear at 0, red, then yellow from 1 on."""
    share = np.clip(heat_FHW, 0.0, 1.0)
    colors = import_matplotlib().colormaps["autumn"](share)[..., :3] * 255
    weight = 0.75 * share[..., None]
    return np.rint((1.0 - weight) * frames_FHWC + weight * colors).astype(np.uint8)


def _render_scores(curve: ScoreCurve, threshold: float, width: int) -> np.ndarray:
    """Draws scores from the first frame at the left edge to the last at the right edge."""
    figure = new_figure((width, SCORE_CHART_PIXELS))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    draw_scores(axes, curve, threshold)
    axes.set_axis_off()
    axes.margins(y=0.1)
    return rasterize(figure)
