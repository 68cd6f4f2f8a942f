"""Pictures of anomalies: scores over time, and heat maps that locate anomalies in the frames."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.data.frames import read_some
from vvae.measure.examples import measure_fps
from vvae.tasks.anomaly.intervals import Frames
from vvae.tasks.anomaly.scorer import Scorer, find_peaks
from vvae.tasks.anomaly.scores import begin_live, map_errors
from vvae.tasks.anomaly.streams import compute_streamed, stream_clips

MAX_CURVES = 12
MAX_SHOWN_VIDEOS = 4
MAX_SHOWN_FRAMES = 200
# The side of the square, pixels, over which errors of whole frames are averaged for the heat map.
HEAT_SMOOTHING = 5
# The brightest colour stands for this quantile of the heat of held-out normal videos.
HEAT_QUANTILE = 0.9995


def compute_heat(model, params, clips: Clips, batch_size: int) -> np.ndarray:
    """Computes heat maps, float32 [N, T, H, W], of the quantity that `describe_heat` names."""
    if sees_tiles(model, clips):
        surprise = compute_streamed(model, params, clips, 1, batch_size)["surprise"]
        height, width, _ = model.shape_HWC
        return surprise.repeat(height, axis=2).repeat(width, axis=3)
    side = min(HEAT_SMOOTHING, *model.shape_HWC[:2])

    @jax.jit
    def step(state, video, mask):
        state, error_BTHW = map_errors(model, params, state, video, mask)
        total = jax.lax.reduce_window(
            error_BTHW, 0.0, jax.lax.add, (1, 1, side, side), (1, 1, 1, 1), "SAME"
        )
        return state, total / side**2

    begin = functools.partial(begin_live, model, params)
    return stream_clips(step, begin, clips, batch_size)


def sees_tiles(model, clips: Clips) -> bool:
    """Returns whether the model sees tiles of these frames instead of whole frames."""
    return tuple(model.shape_HWC[:2]) != clips.clip_format.clip_shape[1:3]


def describe_heat(model, clips: Clips) -> str:
    """Returns what the heat map shows: the surprise of each tile, or the error of each pixel."""
    return "surprise" if sees_tiles(model, clips) else "squared error"


def measure_heat_scale(model, params, clips: Clips, batch_size: int) -> float:
    """Returns the heat that 1 in 2,000 pixels of normal videos exceeds; at least 1e-6."""
    chosen = clips.select(_cut_long_videos(clips, np.arange(len(clips.videos))))
    heat_NTHW = compute_heat(model, params, chosen, batch_size)
    return max(float(np.quantile(heat_NTHW[chosen.mask_NT], HEAT_QUANTILE)), 1e-6)


def _cut_long_videos(clips: Clips, videos) -> np.ndarray:
    """Returns the numbers of the first clips of each of these videos, up to 200 frames a video."""
    count = max(1, MAX_SHOWN_FRAMES // clips.mask_NT.shape[1])
    return np.concatenate([np.flatnonzero(clips.video_index_N == v)[:count] for v in videos])


@dataclasses.dataclass(frozen=True)
class Judged:
    """The frames of a split with their scores.

    Attributes:
      clips: The clips of the split.
      frames: The frames of its videos.
      score_F: float64; the smoothed headline score.
      abnormal_F: bool; whether each frame is abnormal. None if it is unknown.
      threshold: The threshold of the score.
    """

    clips: Clips
    frames: Frames
    score_F: np.ndarray
    abnormal_F: np.ndarray | None
    threshold: float

    def curve(self, chosen_F: np.ndarray) -> figures.ScoreCurve:
        """Returns the scores of some frames, bool [F], of one video."""
        return figures.ScoreCurve(
            name=self.clips.videos[self.frames.video_F[chosen_F][0]].name,
            time_F=self.frames.time_F[chosen_F],
            score_F=self.score_F[chosen_F],
            abnormal_F=None if self.abnormal_F is None else self.abnormal_F[chosen_F],
        )


def draw_scores(path: Path, judged: Judged, scorer: Scorer) -> None:
    """Draws the scores of up to 12 videos over time: those with the highest scores."""
    shaded = "called abnormal" if judged.abnormal_F is None else "known to be abnormal"
    figures.write_score_curves(
        path,
        [judged.curve(judged.frames.video_F == v) for v in _choose_videos(judged, MAX_CURVES)],
        judged.threshold,
        f"{scorer.headline}, smoothed",
        f"Anomaly scores; threshold at a false-positive rate of {scorer.rate:g}; shaded: {shaded}",
    )


def draw_video(path: Path, judged: Judged, heat: Callable, heat_text: str) -> None:
    """Draws the up to 4 videos with the highest scores, with their heat maps and scores.

    Args:
      path: The mp4 to write.
      judged: The frames and their scores.
      heat: Clips -> heat maps [N, T, H, W]; 1 is drawn in the brightest colour.
      heat_text: What the heat maps show.
    """
    clips, frames = judged.clips, judged.frames
    shown = _choose_videos(judged, MAX_SHOWN_VIDEOS)
    ids = _cut_long_videos(clips, shown)
    heat_NTHW = heat(clips.select(ids))
    pictures, heats, curves = [], [], []
    for video in shown:
        kept_F = (frames.video_F == video) & np.isin(frames.clip_F, ids)
        clip_S = np.searchsorted(ids, frames.clip_F[kept_F])
        pictures.append(_read_pictures(clips, video, frames.number_F[kept_F]))
        heats.append(heat_NTHW[clip_S, frames.position_F[kept_F]])
        curves.append(judged.curve(kept_F))
    figures.write_score_video(
        path, pictures, heats, curves, judged.threshold, measure_fps(clips), heat_text
    )


def _choose_videos(judged: Judged, count: int) -> np.ndarray:
    """Returns the numbers of the videos with the highest scores, in the order of the split."""
    peak_V = find_peaks(judged.score_F, judged.frames.video_F)
    return np.sort(np.argsort(-peak_V, kind="stable")[:count])


def _read_pictures(clips: Clips, video: int, number_F: np.ndarray) -> np.ndarray:
    """Reads frames of a video from its file at a legible size, uint8 RGB [F, H, W, 3]."""
    height, width = clips.clip_format.clip_shape[1:3]
    factor = max(1, -(-figures.SCORE_TILE_PIXELS // max(height, width)))
    wanted = {int(number) for number in number_F}
    found = read_some(clips.videos[video].path, (factor * height, factor * width), wanted)
    return np.stack([found[int(number)] for number in number_F])
