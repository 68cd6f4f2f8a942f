"""What is strange in a video, for a model that has seen normal ones only?"""

import dataclasses
import functools
import math
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.data.frames import read_some
from vvae.measure.examples import measure_fps
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.metrics.detection import SMOOTHING_SIGMA, judge_scores, measure_alarms, smooth_by_video
from vvae.tasks.anomaly import scorer as scorers
from vvae.tasks.anomaly.controls import CONTROLS
from vvae.tasks.anomaly.intervals import (
    ABNORMAL,
    Frames,
    find_intervals,
    mark_frames,
    read_intervals,
    write_intervals,
)
from vvae.tasks.anomaly.scorer import MODEL_SCORES, Scorer, ScoreSettings
from vvae.tasks.anomaly.scores import begin_live, map_errors, step_live
from vvae.tasks.csv_files import open_csv
from vvae.tasks.result import Result, describe_data, require_split

MAX_CURVES = 12
MAX_SHOWN_VIDEOS = 4
MAX_SHOWN_FRAMES = 200
LIVE_FRAMES = 50
# Errors in whole frames are averaged over so many pixels around each before they are drawn.
HEAT_SMOOTHING = 5
# A place gets the brightest colour where its heat exceeds this share of held-out normal ones.
HEAT_QUANTILE = 0.9995

ALL_FRAMES = "over all frames of the split"
AGGREGATIONS = {
    "micro_raw": f"AUROC {ALL_FRAMES}, scores as they are",
    "micro_minmax": f"AUROC {ALL_FRAMES}, each video's scores scaled to [0, 1] by their own "
    "minimum and maximum (looks at the whole test video)",
    "macro": "mean AUROC over the videos with normal and abnormal frames",
    "ap": f"average precision {ALL_FRAMES}",
}
DESCRIPTION = "chance that an abnormal frame scores above a normal one, ties counted half"
AP_DESCRIPTION = "sum over thresholds of precision times the recall gained"


def anomaly(
    model,
    params,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    batch_size: int,
    split: str = "test",
    seed: int = 0,
    block: int = 16,
    headline: str = scorers.FUSION,
    false_positive_rate: float = 0.01,
    num_samples: int = 10,
    regret_steps: int = 5,
) -> Result:
    """Fits anomaly scores to normal videos, and measures, draws and writes what they find.

    The scorer is fitted to `train` and calibrated on `val`, both of normal videos; nothing of
    `split` enters it. Where the manifest has no column `abnormal`, training videos are taken to be
    normal, and the split gets scores, verdicts and intervals but no AUROC.

    Args:
      model: a SequentialVAE.
      params: its variables.
      dataset: splits `train`, `val` and `split`.
      folder: where anomaly.npz, the CSV files, pictures and the video go; must exist.
      batch_size: clips at a time.
      split: which split is measured.
      seed: of all noise.
      block: side of the squares of the block scores, pixels; not to be chosen by test videos.
      headline: the score that verdicts and intervals come from; neither.
      false_positive_rate: stated share of normal frames, and of normal videos, with an alarm.
      num_samples: K of IWAE.
      regret_steps: gradient steps of the likelihood regret; 0 leaves it out.

    Raises:
      ValueError: if a split is missing, normal ones have abnormal frames, or clips are no windows.
    """
    train, normal = (require_split(dataset, name) for name in ("train", "val"))
    require_split(dataset, split)
    for name, normal_clips in (("train", train), ("val", normal)):
        check_normal(normal_clips, name)
    if split in ("train", "val"):
        raise ValueError(
            f"anomaly cannot be measured on {split}, which it is fitted to: add videos of a split "
            "test, or name others by --data.path"
        )
    settings = ScoreSettings(block, num_samples, regret_steps, seed)
    reference = scorers.fit_reference(model, params, train, settings, batch_size)
    frames, scores = scorers.compute_scores(model, params, reference, settings, normal, batch_size)
    scorer = scorers.fit_scorer(
        reference,
        settings,
        frames,
        scores,
        headline,
        false_positive_rate,
        measure_heat_scale(model, params, normal, batch_size),
    )
    scorers.save_scorer(Path(folder) / scorers.SCORER_FILE, scorer)
    result = detect(model, params, scorer, dataset, folder, batch_size=batch_size, split=split)
    return dataclasses.replace(result, files=(scorers.SCORER_FILE, *result.files))


def detect(
    model,
    params,
    scorer: Scorer,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    batch_size: int,
    split: str,
) -> Result:
    """Applies a fitted scorer to the videos of a split, new ones or those of the run.

    Writes anomaly_intervals.csv, anomaly_videos.csv, anomaly.png and anomaly.mp4; measures AUROC
    and the rates of alarms where the manifest has a column `abnormal`. Arguments as `anomaly`.
    """
    clips = require_split(dataset, split)
    frames, scores = scorers.compute_scores(
        model, params, scorer.reference, scorer.settings, clips, batch_size
    )
    scores = scorers.complete_scores(scorer, scores)
    names = [video.name for video in clips.videos]
    abnormal_F = mark_frames(clips.videos, frames)
    smoothed_F = smooth_by_video(scores[scorer.headline], frames.video_F)
    threshold = scorer.threshold(scorer.headline, smoothed=True)
    alarm_F = smoothed_F > threshold
    peak_V = scorers.find_peaks(smoothed_F, frames.video_F)
    context = describe_data(dataset, split) | _describe_scorer(scorer, frames)
    if sees_tiles(model, clips):
        height, width, _ = model.shape_HWC
        context["tiles"] = f"{height}x{width} pixels; a frame has the largest score of its tiles"
    rows = _measure(scorer, scores, frames, abnormal_F, context)
    folder = Path(folder)
    write_intervals(
        folder / "anomaly_intervals.csv", find_intervals(smoothed_F, alarm_F, frames, names)
    )
    _write_verdicts(folder / "anomaly_videos.csv", names, peak_V, scorer.video_threshold)
    _draw(model, params, scorer, clips, frames, smoothed_F, abnormal_F, folder, batch_size)
    latency = measure_latency(model, params, clips, scorer.settings.block)
    verdicts = _judge_videos(scorer, peak_V, frames, abnormal_F, context)
    return Result(
        task="anomaly",
        rows=rows,
        details={
            "headline": scorer.headline,
            "family": {name: find_family(name) for name in rows},
            "videos": verdicts,
            "thresholds": dict(zip(scorer.name_S, scorer.threshold_S)),
            "live_milliseconds_a_frame": latency,
            "filled_frames": frames.num_filled,
        },
        notes=_write_notes(scorer, frames, alarm_F, abnormal_F, verdicts, latency),
        files=("anomaly_intervals.csv", "anomaly_videos.csv", "anomaly.png", "anomaly.mp4"),
    )


def check_normal(clips: Clips, split: str) -> None:
    """Raises ValueError, which names the video, if the manifest states abnormal frames."""
    for video in clips.videos:
        if read_intervals(video):
            raise ValueError(
                f"{video.name}, in the split {split}, has abnormal frames "
                f"({video.metadata[ABNORMAL]}): anomaly learns from normal videos only; move it to "
                "the split test and train again"
            )


def find_family(name: str) -> str:
    """Returns vae (of the model alone), fusion (with scores that know no model) or control."""
    if name in MODEL_SCORES or name == scorers.FUSION:
        return "vae"
    return "fusion" if name == scorers.FUSION_MOTION else "control"


# --- numbers --------------------------------------------------------------------------------------


def _describe_scorer(scorer: Scorer, frames: Frames) -> dict[str, Any]:
    return {
        "num_frames_judged": len(frames),
        "num_frames_filled": frames.num_filled,
        "false_positive_rate": scorer.rate,
        "normal_frames": scorer.num_frames,
        "normal_videos": scorer.num_videos,
        "smoothing": f"Gaussian, sigma {SMOOTHING_SIGMA:g} frames, where the name says smoothed",
    }


def _describe_score(name: str, scorer: Scorer, clips_view: str) -> str:
    definitions = {**MODEL_SCORES, **scorers.FUSIONS, **scorers.RANDOM_SCORES}
    definitions |= CONTROLS
    values = dataclasses.asdict(scorer.settings) | {"channels": f"the view {clips_view}"}
    return definitions[name].format(**values)


def _measure(
    scorer: Scorer, scores: Mapping[str, np.ndarray], frames: Frames, abnormal_F, context
) -> dict[str, dict[str, Metric]]:
    """One row a score, best families first; nothing but the rate of alarms without known truth."""
    known = (*scorers.FUSIONS, *MODEL_SCORES, *scorers.RANDOM_SCORES, *CONTROLS)
    order = [name for name in known if name in scores]
    rows = {}
    for name in order:
        card = {**context, METHOD: f"{name}: {_describe_score(name, scorer, context['view'])}"}
        alarm_F = scores[name] > scorer.threshold(name)
        rows[name] = _measure_alarms(alarm_F, abnormal_F, card)
        if abnormal_F is not None:
            rows[name] = _measure_protocols(scores[name], frames, abnormal_F, card) | rows[name]
    return rows


def _measure_protocols(score_F, frames: Frames, abnormal_F, card) -> dict[str, Metric]:
    protocols = judge_scores(score_F, abnormal_F, frames.video_F)
    card = {**card, "abnormal_share": float(abnormal_F.mean())}
    row = {}
    for name, value in protocols.values.items():
        kind, smoothed = name.removesuffix("_smoothed"), name.endswith("_smoothed")
        kind = "ap" if kind == "average_precision" else kind
        extra = {"num_macro_videos": protocols.num_macro_videos} if kind == "macro" else {}
        row[f"{kind}_smoothed" if smoothed else kind] = make_metric(
            f"{kind}_smoothed" if smoothed else kind,
            value,
            "",
            AP_DESCRIPTION if kind == "ap" else DESCRIPTION,
            AGGREGATIONS[kind],
            **card,
            **extra,
        )
    return row


def _measure_alarms(alarm_F, abnormal_F, card) -> dict[str, Metric]:
    at = "share of {} frames above the threshold set on held-out normal frames, not smoothed"
    if abnormal_F is None:
        definition = at.format("all")
        metric = make_metric("alarm_rate", alarm_F.mean(), "", definition, ALL_FRAMES, **card)
        return {"alarm_rate": metric}
    rates = measure_alarms(alarm_F, abnormal_F)
    return {
        "fpr": make_metric(
            "fpr", rates["false_positive_rate"], "", at.format("normal"), ALL_FRAMES, **card
        ),
        "recall": make_metric(
            "recall", rates["recall"], "", at.format("abnormal"), ALL_FRAMES, **card
        ),
    }


def _judge_videos(scorer: Scorer, peak_V, frames: Frames, abnormal_F, context) -> dict[str, Any]:
    """What the verdicts on whole videos reach, as values with cards."""
    alarm_V = peak_V > scorer.video_threshold
    found = {
        "num_alarms": int(alarm_V.sum()),
        "threshold": scorer.video_threshold,
        "resolvable_rate": scorers.describe_video_threshold(scorer).resolvable_rate,
    }
    if abnormal_F is None:
        return found
    abnormal_V = scorers.find_peaks(abnormal_F.astype(float), frames.video_F) > 0
    definition = "largest smoothed score of a video above that of held-out normal videos"
    card = {**context, METHOD: scorer.headline, "num_abnormal_videos": int(abnormal_V.sum())}
    rates = measure_alarms(alarm_V, abnormal_V)
    return found | {
        name: make_metric(f"video_{name}", value, "", definition, "over videos", **card).as_json()
        for name, value in rates.items()
    }


def measure_latency(model, params, clips: Clips, block: int) -> float:
    """Median time of scoring one frame live, milliseconds, compilation left out.

    The tiles of a frame, for a model that sees tiles, are scored together.
    """
    tiles, _ = scorers.cut_for_model(model, clips.select([0]))
    codes_KTHWC = tiles.read(np.arange(len(tiles)))
    step = jax.jit(lambda state, frame: step_live(model, params, state, frame, block))
    state, seconds = begin_live(model, params, len(tiles)), []
    for number in range(LIVE_FRAMES + 1):
        frame_BHWC = codes_KTHWC[:, number % codes_KTHWC.shape[1]]
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, frame_BHWC))
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[1:])


def _write_notes(
    scorer: Scorer, frames: Frames, alarm_F, abnormal_F, videos, latency: float
) -> tuple[str, ...]:
    resolvable = videos["resolvable_rate"]
    notes = [
        f"Verdicts come from {scorer.headline}, smoothed. At a stated false-positive rate of "
        f"{scorer.rate:g} per frame (threshold from {scorer.num_frames} held-out normal frames of "
        f"{scorer.num_videos} videos), {alarm_F.mean():.1%} of {len(frames)} frames are above it"
        + _describe_rates(alarm_F, abnormal_F)
        + ". Neighbouring frames are alike, so that so few videos may not stand for others.",
        f"Videos: {videos['num_alarms']} of {len(np.unique(frames.video_F))} are called abnormal. "
        f"The threshold rests on {scorer.num_videos} held-out normal videos, which can vouch for a "
        f"rate of {resolvable:.2g} at best"
        + (f", not for the stated {scorer.rate:g}." if resolvable > scorer.rate else "."),
        f"Live: {latency:.1f} ms a frame (reconstruction, surprise).",
    ]
    if abnormal_F is None:
        notes.append(f"AUROC is left out: the manifest has no column `{ABNORMAL}`.")
    elif abnormal_F.all() or not abnormal_F.any():
        notes.append("AUROC is not defined: all frames are of one kind.")
    if frames.num_filled:
        notes.append(
            f"{frames.num_filled} frames without a value under the view or between sampled ones "
            "take the score of their neighbour."
        )
    return tuple(notes)


def _describe_rates(alarm_F, abnormal_F) -> str:
    if abnormal_F is None:
        return ""
    rates = measure_alarms(alarm_F, abnormal_F)
    parts = [(rates["false_positive_rate"], "the normal"), (rates["recall"], "the abnormal")]
    known = [f"{value:.1%} of {what} ones" for value, what in parts if not math.isnan(value)]
    return f": {', '.join(known)}"


def _write_verdicts(path: Path, names, peak_V, threshold: float) -> None:
    with open_csv(path) as writer:
        writer.writerow(["path", "verdict", "peak_score", "threshold"])
        for name, peak in zip(names, peak_V):
            verdict = "abnormal" if peak > threshold else "normal"
            writer.writerow([name, verdict, f"{peak:.6g}", f"{threshold:.6g}"])


# --- pictures -------------------------------------------------------------------------------------


def compute_heat(model, params, clips: Clips, batch_size: int) -> np.ndarray:
    """How strange each place of a frame is, float32 [N, T, H, W], see `describe_heat`."""
    if sees_tiles(model, clips):
        surprise = scorers.compute_streamed(model, params, clips, 1, batch_size)["surprise"]
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
    return scorers.stream_clips(step, begin, clips, batch_size)


def sees_tiles(model, clips: Clips) -> bool:
    """Whether the model sees tiles of these frames, and not the whole."""
    return tuple(model.shape_HWC[:2]) != clips.clip_format.clip_shape[1:3]


def describe_heat(model, clips: Clips) -> str:
    """What the heat map shows: errors of a whole frame, or which of its tiles are surprising."""
    return "surprise" if sees_tiles(model, clips) else "squared error"


def measure_heat_scale(model, params, clips: Clips, batch_size: int) -> float:
    """Heat that all but one in 2,000 places of normal videos stay below."""
    chosen = clips.select(_cut_long_videos(clips, np.arange(len(clips.videos))))
    heat_NTHW = compute_heat(model, params, chosen, batch_size)
    return max(float(np.quantile(heat_NTHW[chosen.mask_NT], HEAT_QUANTILE)), 1e-6)


def _cut_long_videos(clips: Clips, videos) -> np.ndarray:
    """Returns the numbers of the first clips of these videos, up to 200 frames of each."""
    count = max(1, MAX_SHOWN_FRAMES // clips.mask_NT.shape[1])
    return np.concatenate([np.flatnonzero(clips.video_index_N == v)[:count] for v in videos])


def _draw(
    model, params, scorer: Scorer, clips: Clips, frames, score_F, abnormal_F, folder, batch_size
) -> None:
    threshold = scorer.threshold(scorer.headline, smoothed=True)
    videos = np.arange(len(clips.videos))
    # Where there are too many to draw, those with the highest scores are of most interest.
    peak_V = scorers.find_peaks(score_F, frames.video_F)
    ranked = videos[np.argsort(-peak_V, kind="stable")]

    def make_curve(video, frames, score_F, abnormal_F):
        own = frames.video_F == video
        marks = None if abnormal_F is None else abnormal_F[own]
        name = clips.videos[video].name
        return figures.ScoreCurve(name, frames.time_F[own], score_F[own], marks)

    note = ", abnormal intervals shaded" if abnormal_F is not None else ""
    figures.write_score_curves(
        folder / "anomaly.png",
        [make_curve(v, frames, score_F, abnormal_F) for v in np.sort(ranked[:MAX_CURVES])],
        threshold,
        f"{scorer.headline}, smoothed",
        f"Anomaly scores; threshold (dashed) at a false-positive rate of {scorer.rate:g}{note}",
    )
    shown = np.sort(ranked[:MAX_SHOWN_VIDEOS])
    ids = _cut_long_videos(clips, shown)
    part = clips.select(ids)
    heat_NTHW = compute_heat(model, params, part, batch_size) / scorer.heat_scale
    pictures, heats, curves = [], [], []
    for video in shown:
        own_F = frames.video_F == video
        kept_F = own_F & np.isin(frames.clip_F, ids)
        clip_S = np.searchsorted(ids, frames.clip_F[kept_F])
        place_S = frames.position_F[kept_F]
        pictures.append(_read_pictures(clips, video, frames.number_F[kept_F]))
        heats.append(heat_NTHW[clip_S, place_S])
        marks = None if abnormal_F is None else abnormal_F[kept_F]
        name, times_S = clips.videos[video].name, frames.time_F[kept_F]
        curves.append(figures.ScoreCurve(name, times_S, score_F[kept_F], marks))
    figures.write_score_video(
        folder / "anomaly.mp4",
        pictures,
        heats,
        curves,
        threshold,
        measure_fps(clips),
        describe_heat(model, clips),
    )


def _read_pictures(clips: Clips, video: int, number_F: np.ndarray) -> np.ndarray:
    """Frames of a video as they are in its file, large enough to be looked at, [F, H, W, 3]."""
    height, width = clips.clip_format.clip_shape[1:3]
    factor = max(1, -(-figures.SCORE_TILE_PIXELS // max(height, width)))
    wanted = {int(number) for number in number_F}
    found = read_some(clips.videos[video].path, (factor * height, factor * width), wanted)
    return np.stack([found[int(number)] for number in number_F])
