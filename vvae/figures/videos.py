"""Videos that show videos: side by side, or with their scores."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from vvae.figures.canvas import import_matplotlib, new_figure, rasterize, render_text
from vvae.figures.charts import ScoreCurve, draw_scores
from vvae.figures.sheets import BACKGROUND, GAP_PIXELS, compose_grid, enlarge
from vvae.video import write_video

SCORE_TILE_PIXELS = 288
SCORE_CHART_PIXELS = 96


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
      curves: For each video, its scores. The time cursor is red at frames above the threshold.
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
    """Composes the frames of one video with their heat maps, a caption and their scores."""
    plain = enlarge(frames_FHWC, SCORE_TILE_PIXELS)
    factor = frames_FHWC.shape[1] // heat_FHW.shape[1]
    heat_FHW = heat_FHW.repeat(factor, axis=1).repeat(factor, axis=2)
    heated = enlarge(overlay_heat(frames_FHWC, heat_FHW), SCORE_TILE_PIXELS)
    gap = np.full((*plain.shape[:2], GAP_PIXELS, 3), BACKGROUND, np.uint8)
    top = np.concatenate([plain, gap, heated], axis=2)
    width = top.shape[2]
    note = "shaded: abnormal" if curve.abnormal_F is not None else "not marked"
    caption = render_text(f"{curve.name}: frame, {heat_text}, score ({note})", width)
    chart = _render_scores(curve, threshold, width)
    bottom = np.repeat(chart[None], len(top), axis=0)
    for number, picture in enumerate(bottom):
        column = round(number / max(len(top) - 1, 1) * (width - 3))
        alarm = curve.score_F[number] > threshold
        picture[:, column : column + 3] = (214, 39, 40) if alarm else (31, 119, 180)
    strip = np.broadcast_to(caption, (len(top), *caption.shape))
    return np.concatenate([strip, top, bottom], axis=1)


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
