"""The task anomaly: finds abnormal frames with a model that was trained on normal videos."""

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vvae import progress
from vvae.data.clips import Clips
from vvae.metrics.cards import METHOD, Interval, Metric, make_metric
from vvae.metrics.detection import (
    SMOOTHING_SIGMA,
    auroc,
    judge_scores,
    measure_alarms,
    normalize_by_video,
    smooth_by_video,
)
from vvae.metrics.intervals import (
    CONFIDENCE,
    Units,
    compare_resamples,
    estimate_interval,
    estimate_share,
    make_units,
    resample_auroc,
    resample_ratio,
)
from vvae.run import require_fitted
from vvae.tasks.anomaly import pictures
from vvae.tasks.anomaly import scorer as scorers
from vvae.tasks.anomaly.controls import CONTROLS
from vvae.tasks.anomaly.intervals import (
    ABNORMAL,
    Frames,
    find_intervals,
    label_frames,
    read_intervals,
    write_intervals,
)
from vvae.tasks.anomaly.scorer import MODEL_SCORES, Scorer, ScoreSettings
from vvae.tasks.anomaly.scores import begin_live, step_live
from vvae.tasks.anomaly.streams import cut_for_model
from vvae.tasks.csv_files import open_csv
from vvae.tasks.options import Anomaly
from vvae.tasks.question import Question
from vvae.tasks.result import Picture, Result, require_split
from vvae.tasks.rivals import (
    Comparison,
    advise,
    describe_rival,
    describe_units,
    find_best_rival,
    find_units,
)

INTERVALS_FILE = "anomaly_intervals.csv"
VERDICTS_FILE = "anomaly_videos.csv"
CURVES_FILE = "anomaly.png"
VIDEO_FILE = "anomaly.mp4"
FRAMES_FILE = "anomaly_frames.csv"
CURVES_CAPTION = (
    "The videos with the highest scores: frames above the dashed threshold are called abnormal; "
    "shaded are the truly abnormal intervals or, where none are known, those that are called so"
)
VIDEO_CAPTION = (
    "The videos with the highest scores, with the verdict on each frame and its time: the video, "
    "the places that stand out, and the score with the time as a vertical line"
)
LIVE_FRAMES = 50

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


def answer(question: Question, options: Anomaly) -> Result:
    """Finds abnormal frames: fits a scorer on the videos of the run, or applies it to new videos.

    Writes anomaly.npz (the scorer, for the videos of the run), anomaly_intervals.csv,
    anomaly_videos.csv and anomaly_frames.csv. The pictures are anomaly.png and anomaly.mp4.

    Raises:
      ValueError: If a split is missing, the normal videos have abnormal frames, the clips are not
        windows, or there is no saved scorer for new videos.
    """
    del options
    if question.is_new:
        scorer = scorers.load_scorer(require_fitted(question.run.workdir, "anomaly"))
        return judge(question, scorer)
    scorer = fit(question)
    scorers.save_scorer(question.folder / scorers.SCORER_FILE, scorer)
    result = judge(question, scorer)
    return dataclasses.replace(result, files=(scorers.SCORER_FILE, *result.files))


def fit(question: Question) -> Scorer:
    """Fits a scorer to `train` and calibrates it on `val`; both must have normal videos only.

    The evaluated split is not used. Without a column `abnormal` in the manifest, the videos of
    `train` and `val` are assumed to be normal.

    Raises:
      ValueError: If a split is missing or not normal, the evaluated split is `train` or `val`, the
        clips are not windows, or there is no score `evaluate.anomaly_score`.
    """
    model, params, batch_size = question.model, question.params, question.batch_size
    train, normal = (require_split(question.dataset, name) for name in ("train", "val"))
    require_split(question.dataset, question.split)
    for name, normal_clips in (("train", train), ("val", normal)):
        check_normal(normal_clips, name)
    if question.split in ("train", "val"):
        raise ValueError(
            f"anomaly cannot be measured on {question.split}, which it is fitted to: add videos "
            "with the split test, or give other videos by --data.path"
        )
    chosen = question.settings
    settings = ScoreSettings(
        block=chosen.anomaly_block, regret_steps=chosen.regret_steps, seed=question.seed
    )
    with progress.stage("anomaly: latents of training videos"):
        reference = scorers.fit_reference(model, params, train, settings, batch_size)
    with progress.stage("anomaly: scores of held-out normal videos"):
        frames, scores = scorers.compute_scores(
            model, params, reference, settings, normal, batch_size
        )
    return scorers.fit_scorer(
        reference,
        settings,
        frames,
        scores,
        headline=chosen.anomaly_score,
        rate=chosen.false_positive_rate,
        heat_scale=pictures.measure_heat_scale(model, params, normal, batch_size),
    )


def judge(question: Question, scorer: Scorer) -> Result:
    """Applies a fitted scorer to the evaluated videos, whether of the run or new.

    Writes anomaly_intervals.csv, anomaly_videos.csv and anomaly_frames.csv. Measures AUROC and the
    rates of alarms if the manifest has a column `abnormal`.

    Raises:
      ValueError: If the split is missing, the clips are not windows, or the column `abnormal`
        cannot be parsed.
    """
    model, params, clips = question.model, question.params, question.clips
    with progress.stage(f"anomaly: scores of {question.split} videos"):
        frames, scores = scorers.compute_scores(
            model, params, scorer.reference, scorer.settings, clips, question.batch_size
        )
    scores = scorers.complete_scores(scorer, scores)
    abnormal_F = label_frames(clips.videos, frames)
    judged = pictures.Judged(
        clips=clips,
        frames=frames,
        score_F=smooth_by_video(scores[scorer.headline], frames.video_F),
        abnormal_F=abnormal_F,
        threshold=scorer.threshold(scorer.headline, smoothed=True),
    )
    alarm_F = judged.score_F > judged.threshold
    peak_V = scorers.find_peaks(judged.score_F, frames.video_F)
    context = _describe(question, scorer, frames)
    units = find_units(clips, np.ones(len(clips.videos), bool), question.seed)
    measured = _Measured(
        frames, abnormal_F, make_units(units.index_V[frames.video_F], units.noun, seed=units.seed)
    )
    rows = _measure(scorer, scores, measured, context)
    comparison = _compare(scorer, rows, scores, measured)
    compared = (
        () if comparison is None else [describe_rival(comparison, advise(question, "surveillance"))]
    )
    names = [video.name for video in clips.videos]
    intervals = find_intervals(judged.score_F, alarm_F, frames, names)
    write_intervals(question.folder / INTERVALS_FILE, intervals)
    _write_verdicts(question.folder / VERDICTS_FILE, names, peak_V, scorer.video_threshold)
    write_frames(question.folder / FRAMES_FILE, judged, scores)
    latency = measure_latency(model, params, clips, scorer.settings.block)
    verdicts = _judge_videos(scorer, peak_V, frames, abnormal_F, context)
    by_unit = describe_units(len(clips.videos), units) if abnormal_F is not None else ()
    return Result(
        task="anomaly",
        rows=rows,
        details={
            "headline": scorer.headline,
            "family": {name: find_family(name) for name in rows},
            "comparison": {} if comparison is None else comparison.as_json(),
            "videos": verdicts,
            "thresholds": dict(zip(scorer.name_S, scorer.threshold_S)),
            "live_milliseconds_a_frame": latency,
            "filled_frames": frames.num_filled,
        },
        notes=(
            *_explain_columns(scorer, abnormal_F),
            *by_unit,
            *compared,
            *_write_notes(scorer, frames, alarm_F, abnormal_F, verdicts, latency),
        ),
        files=(INTERVALS_FILE, VERDICTS_FILE, FRAMES_FILE, CURVES_FILE, VIDEO_FILE),
        pictures=(
            Picture({CURVES_FILE: CURVES_CAPTION}, functools.partial(_draw_curves, judged, scorer)),
            Picture(
                {VIDEO_FILE: VIDEO_CAPTION},
                functools.partial(_draw_video, question, judged, scorer),
            ),
        ),
    )


def _draw_curves(judged: pictures.Judged, scorer: Scorer, folder: Path) -> None:
    pictures.draw_scores(folder / CURVES_FILE, judged, scorer)


def _draw_video(question: Question, judged: pictures.Judged, scorer: Scorer, folder: Path) -> None:
    model, params, batch_size = question.model, question.params, question.batch_size

    def heat(clips: Clips) -> np.ndarray:
        return pictures.compute_heat(model, params, clips, batch_size) / scorer.heat_scale

    text = pictures.describe_heat(model, judged.clips)
    pictures.draw_video(folder / VIDEO_FILE, judged, heat, text)


def check_normal(clips: Clips, split: str) -> None:
    """Checks that the manifest has no abnormal frames in a split.

    Raises:
      ValueError: If it has some; the message names the video.
    """
    for video in clips.videos:
        if read_intervals(video):
            raise ValueError(
                f"{video.name}, in the split {split}, has abnormal frames "
                f"({video.metadata[ABNORMAL]}): anomaly is fitted to normal videos only; move the "
                "video to the split test and train again"
            )


def find_family(name: str) -> str:
    """Returns the family of a score: vae (the model only), fusion (with a baseline) or control."""
    if name in MODEL_SCORES or name == scorers.FUSION:
        return "vae"
    return "fusion" if name == scorers.FUSION_MOTION else "control"


# --- numbers --------------------------------------------------------------------------------------


def _describe(question: Question, scorer: Scorer, frames: Frames) -> dict[str, Any]:
    """Returns the part of the metric cards that is the same for all scores."""
    context = question.describe_data() | {
        "num_frames_judged": len(frames),
        "num_frames_filled": frames.num_filled,
        "false_positive_rate": scorer.rate,
        "normal_frames": scorer.num_frames,
        "normal_videos": scorer.num_videos,
        "smoothing": f"Gaussian, sigma {SMOOTHING_SIGMA:g} frames, where the name says smoothed",
    }
    if pictures.sees_tiles(question.model, question.clips):
        height, width, _ = question.model.shape_HWC
        context["tiles"] = f"{height}x{width} pixels; a frame has the largest score of its tiles"
    return context


def _describe_score(name: str, scorer: Scorer, clips_view: str) -> str:
    definitions = {**MODEL_SCORES, **scorers.FUSIONS, **scorers.RANDOM_SCORES}
    definitions |= CONTROLS
    values = dataclasses.asdict(scorer.settings) | {"channels": f"the view {clips_view}"}
    return definitions[name].format(**values)


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """The frames that scores are measured on.

    Attributes:
      frames: The F frames.
      abnormal_F: bool; None if it is not known.
      units: The independent units of the frames.
    """

    frames: Frames
    abnormal_F: np.ndarray | None
    units: Units


def _measure(
    scorer: Scorer, scores: Mapping[str, np.ndarray], measured: _Measured, context
) -> dict[str, dict[str, Metric]]:
    """Measures each score; returns score -> metrics.

    The headline comes first, then fusions, model, baselines. Without labels of the frames, only the
    rate of alarms is measured.
    """
    known = (*scorers.FUSIONS, *MODEL_SCORES, *scorers.RANDOM_SCORES, *CONTROLS)
    order = dict.fromkeys((scorer.headline, *(name for name in known if name in scores)))
    rows = {}
    for name in progress.track("anomaly: intervals", list(order)):
        card = {**context, METHOD: f"{name}: {_describe_score(name, scorer, context['view'])}"}
        alarm_F = scores[name] > scorer.threshold(name)
        rows[name] = _measure_alarms(alarm_F, measured, card)
        if measured.abnormal_F is not None:
            rows[name] = _measure_protocols(scores[name], measured, card) | rows[name]
    return rows


def _measure_protocols(score_F, measured: _Measured, card) -> dict[str, Metric]:
    frames, abnormal_F = measured.frames, measured.abnormal_F
    protocols = judge_scores(score_F, abnormal_F, frames.video_F)
    intervals = estimate_protocol_intervals(score_F, measured)
    card = {**card, "abnormal_share": float(abnormal_F.mean())}
    row = {}
    for name, value in protocols.values.items():
        kind, smoothed = name.removesuffix("_smoothed"), name.endswith("_smoothed")
        kind = "ap" if kind == "average_precision" else kind
        extra = {"num_macro_videos": protocols.num_macro_videos} if kind == "macro" else {}
        short = f"{kind}_smoothed" if smoothed else kind
        metric = make_metric(
            short,
            value,
            "",
            AP_DESCRIPTION if kind == "ap" else DESCRIPTION,
            AGGREGATIONS[kind],
            **card,
            **extra,
        )
        if short in intervals:
            interval = estimate_interval(measured.units, value, intervals[short])
            metric = dataclasses.replace(metric, interval=interval)
        row[short] = metric
    return row


def estimate_protocol_intervals(score_F, measured: _Measured) -> dict[str, np.ndarray]:
    """Returns the AUROC of each resample of the units by protocol, float64 [R].

    A video keeps its own minimum, maximum and smoothing in every resample.
    """
    units, video_F, abnormal_F = measured.units, measured.frames.video_F, measured.abnormal_F
    found = {}
    for end, variant_F in (("", score_F), ("_smoothed", smooth_by_video(score_F, video_F))):
        scaled_F = normalize_by_video(variant_F, video_F)
        found[f"micro_raw{end}"] = resample_auroc(units, variant_F, abnormal_F)
        found[f"micro_minmax{end}"] = resample_auroc(units, scaled_F, abnormal_F)
        found[f"macro{end}"] = _resample_macro(units, variant_F, abnormal_F, video_F)
    return found


def _resample_macro(units: Units, score_F, abnormal_F, video_F) -> np.ndarray:
    """Returns the mean AUROC over the videos of each resample that have one, float64 [R]."""
    first_V = np.unique(video_F, return_index=True)[1]
    value_F, defined_F = np.zeros(len(video_F)), np.zeros(len(video_F))
    for first in first_V:
        own_F = video_F == video_F[first]
        value = auroc(score_F[own_F], abnormal_F[own_F])
        if not math.isnan(value):
            value_F[first], defined_F[first] = value, 1.0
    return resample_ratio(units, value_F, defined_F)


def _measure_alarms(alarm_F, measured: _Measured, card) -> dict[str, Metric]:
    at = "share of {} frames above the threshold set on held-out normal frames, not smoothed"
    kinds = {"alarm_rate": ("all", np.ones(len(alarm_F), bool))}
    if measured.abnormal_F is not None:
        kinds = {
            "fpr": ("normal", ~measured.abnormal_F),
            "recall": ("abnormal", measured.abnormal_F),
        }
    row = {}
    for name, (kind, among_F) in kinds.items():
        value = float(alarm_F[among_F].mean()) if among_F.any() else math.nan
        metric = make_metric(name, value, "", at.format(kind), ALL_FRAMES, **card)
        share_R = resample_ratio(measured.units, alarm_F & among_F, among_F)
        interval = estimate_interval(measured.units, value, share_R)
        row[name] = dataclasses.replace(metric, interval=interval)
    return row


def _compare(
    scorer: Scorer, rows, scores: Mapping[str, np.ndarray], measured: _Measured
) -> Comparison | None:
    """Compares the headline with the best score that needs no trained model, by micro_raw.

    Returns None where there is no AUROC or no such score.
    """
    metric, own = "micro_raw", scorer.headline
    if metric not in rows[own] or math.isnan(rows[own][metric].value):
        return None
    rival = find_best_rival(rows, [n for n in rows if find_family(n) == "control"], metric)
    if rival is None or find_family(own) == "control":
        return None
    abnormal_F, units = measured.abnormal_F, measured.units
    resampled = [resample_auroc(units, scores[name], abnormal_F) for name in (own, rival)]
    values = (rows[own][metric].value, rows[rival][metric].value)
    difference = compare_resamples(units, values, tuple(resampled))
    return Comparison(own, rival, metric, values, difference, remark="untrained")


def _explain_columns(scorer: Scorer, abnormal_F) -> tuple[str, ...]:
    """Explains the columns of the table, and which row the verdicts come from."""
    headline = f"First row: {scorer.headline}, the headline, which verdicts come from."
    if abnormal_F is None:
        return (f"{headline} alarm_rate: share of frames above the threshold.",)
    return (
        f"{headline} micro_raw: AUROC over all frames as they are, the number to quote; "
        "micro_minmax: each video first scaled to [0, 1], which looks at the whole test video; "
        "macro: mean of the videos' own AUROC; ap: average precision; _smoothed: over time, which "
        "looks 12 frames ahead; fpr, recall: shares of normal and abnormal frames above the "
        "threshold.",
    )


def _judge_videos(scorer: Scorer, peak_V, frames: Frames, abnormal_F, context) -> dict[str, Any]:
    """Counts the alarms for whole videos and, with labels, measures their rates, as JSON."""
    alarm_V = peak_V > scorer.video_threshold
    found = {
        "num_alarms": int(alarm_V.sum()),
        "threshold": scorer.video_threshold,
        "resolvable_rate": scorers.find_resolvable_rate(scorer),
    }
    if abnormal_F is None:
        return found
    abnormal_V = scorers.find_peaks(abnormal_F.astype(float), frames.video_F) > 0
    definition = "largest smoothed score of a video above that of held-out normal videos"
    card = {**context, METHOD: scorer.headline, "num_abnormal_videos": int(abnormal_V.sum())}
    hits = int((alarm_V & abnormal_V).sum())
    counts = {
        "false_positive_rate": (int((alarm_V & ~abnormal_V).sum()), int((~abnormal_V).sum())),
        "recall": (hits, int(abnormal_V.sum())),
        "precision": (hits, int(alarm_V.sum())),
    }
    for name, value in measure_alarms(alarm_V, abnormal_V).items():
        count, total = counts[name]
        interval = None
        if total:
            text = f"{CONFIDENCE:.0%}, Wilson, {total} videos"
            interval = Interval(*estimate_share(count, total), text)
        metric = make_metric(f"video_{name}", value, "", definition, "over videos", **card)
        found[name] = dataclasses.replace(metric, interval=interval).as_json()
    return found


def measure_latency(model, params, clips: Clips, block: int) -> float:
    """Measures the median time to score one frame live, milliseconds, without compilation.

    If the model sees tiles, all tiles of a frame are scored in one batch.
    """
    tiles, _ = cut_for_model(model, clips.select([0]))
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


def write_frames(path: Path, judged: pictures.Judged, scores: Mapping[str, np.ndarray]) -> None:
    """Writes a row for each frame as CSV, so that any measure can be computed from it.

    Its columns are path, group, frame (from 0), time_s, verdict and score (those of the smoothed
    headline), abnormal ("yes" or "no", empty if it is not known), and every score as it is.
    """
    frames, videos, words = judged.frames, judged.clips.videos, ("no", "yes")
    with open_csv(path) as writer:
        head = ("path", "group", "frame", "time_s", "verdict", "score", "abnormal")
        writer.writerow([*head, *(f"raw_{name}" for name in scores)])
        for f, number in enumerate(frames.number_F):
            video = videos[frames.video_F[f]]
            verdict = "abnormal" if judged.score_F[f] > judged.threshold else "normal"
            true = "" if judged.abnormal_F is None else words[int(judged.abnormal_F[f])]
            own = (video.name, video.group, int(number), f"{frames.time_F[f]:.3f}")
            raw = [f"{values[f]:.6g}" for values in scores.values()]
            writer.writerow([*own, verdict, f"{judged.score_F[f]:.6g}", true, *raw])


def _write_verdicts(path: Path, names, peak_V, threshold: float) -> None:
    with open_csv(path) as writer:
        writer.writerow(["path", "verdict", "peak_score", "threshold"])
        for name, peak in zip(names, peak_V):
            verdict = "abnormal" if peak > threshold else "normal"
            writer.writerow([name, verdict, f"{peak:.6g}", f"{threshold:.6g}"])
