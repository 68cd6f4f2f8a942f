"""What a detector of unwanted content says of videos: verdicts, intervals, pictures, sentences."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.metrics.cards import Metric
from vvae.metrics.detection import (
    CONFIDENCE,
    auroc,
    average_precision,
    bootstrap_groups,
    estimate_share,
)
from vvae.tasks.anomaly.intervals import find_intervals, list_frames, write_intervals
from vvae.tasks.anomaly.scorer import find_peaks
from vvae.tasks.csv_files import open_csv
from vvae.tasks.moderation.detector import KINDS, Detector, score_windows, to_probability
from vvae.tasks.moderation.marked_videos import select_marked
from vvae.tasks.recognition.predictions import NUM_MISTAKES, write_clips
from vvae.tasks.result import Result

VERDICTS_FILE = "moderate.csv"
INTERVALS_FILE = "moderate_intervals.csv"
SCORES_FILE = "moderate.png"
MISTAKES_FILE = "moderate_mistakes.png"
HIGHEST_FILE = "moderate_highest.png"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a detector says of the videos of a split.

    Attributes:
      clips: the split, without windows that have no frame.
      score_N: of each window.
      score_V: of each video, the highest of its windows.
      called_V: bool, the videos that are called unwanted.
    """

    clips: Clips
    score_N: np.ndarray
    score_V: np.ndarray
    called_V: np.ndarray


def judge(detector: Detector, feature_NF: np.ndarray, clips: Clips) -> Judgement:
    """Scores windows and videos, and compares them with the threshold.

    Args:
      detector: of `fit_detector`.
      feature_NF: one vector a clip.
      clips: each with a valid frame.
    """
    score_N = score_windows(detector, feature_NF)
    score_V = find_peaks(score_N, clips.video_index_N)
    return Judgement(clips, score_N, score_V, score_V > detector.threshold)


def write_answer(
    detector: Detector,
    judgement: Judgement,
    truth: Mapping[str, bool],
    rows: Mapping[str, Mapping[str, Metric]],
    folder: Path,
    seed: int,
) -> Result:
    """Writes what is said of each video and of each frame, and draws it."""
    intervals = estimate_intervals(judgement, truth, seed) if truth else {}
    _write_verdicts(folder / VERDICTS_FILE, detector, judgement)
    files = [VERDICTS_FILE, SCORES_FILE]
    notes = _note_verdicts(detector, judgement)
    if judgement.clips.clip_format.sampling.mode == "windows":
        count = _write_intervals(folder / INTERVALS_FILE, detector, judgement)
        files.insert(1, INTERVALS_FILE)
        notes.append(f"Intervals above the threshold: {count} ({INTERVALS_FILE}).")
    else:
        notes.append("No intervals: the run sees a whole video at once (data.sampling=whole).")
    if rows:
        notes += _note_metrics(rows["vae"], intervals, judgement, truth)
    else:
        notes.append("Nothing is measured: it is not known which of these videos are unwanted.")
    _draw_scores(folder / SCORES_FILE, detector, judgement, truth)
    drawn = _draw_videos(folder, detector, judgement, truth)
    details = {
        "threshold": detector.threshold,
        "slope": detector.slope,
        "offset": detector.offset,
        "confidence": CONFIDENCE,
        "intervals": intervals,
        "num_called_unwanted": int(judgement.called_V.sum()),
    }
    return Result("moderate", rows, details, tuple(notes), (*files, *drawn))


def estimate_intervals(
    judgement: Judgement, truth: Mapping[str, bool], seed: int
) -> dict[str, tuple[float, float]]:
    """Returns 95 % intervals of the metrics, name -> (low, high).

    Of `precision`, `recall` and `fpr` by Wilson's formula, of `auroc` and `ap` by a bootstrap over
    groups.
    """
    known_V, unwanted_V = select_marked(judgement.clips, truth)
    unwanted_V, called_V = unwanted_V[known_V], judgement.called_V[known_V]
    group_V = np.array([video.group for video in judgement.clips.videos])[known_V]
    told = (judgement.score_V[known_V], unwanted_V, group_V, seed)
    hits = int((called_V & unwanted_V).sum())
    return {
        "auroc": bootstrap_groups(auroc, *told),
        "ap": bootstrap_groups(average_precision, *told),
        "precision": estimate_share(hits, int(called_V.sum())),
        "recall": estimate_share(hits, int(unwanted_V.sum())),
        "fpr": estimate_share(int((called_V & ~unwanted_V).sum()), int((~unwanted_V).sum())),
    }


def _write_verdicts(path: Path, detector: Detector, judgement: Judgement) -> None:
    probability_V = to_probability(detector, judgement.score_V)
    with open_csv(path) as writer:
        writer.writerow(["path", "verdict", "score", "threshold", "probability"])
        for video, called, score, probability in zip(
            judgement.clips.videos, judgement.called_V, judgement.score_V, probability_V
        ):
            numbers = (f"{x:.6f}" for x in (score, detector.threshold, probability))
            writer.writerow([video.name, KINDS[int(called)], *numbers])


def _write_intervals(path: Path, detector: Detector, judgement: Judgement) -> int:
    """Writes runs of windows above the threshold; returns how many there are."""
    frames = list_frames(judgement.clips)
    score_F = judgement.score_N[frames.clip_F]
    names = [video.name for video in judgement.clips.videos]
    found = find_intervals(score_F, score_F > detector.threshold, frames, names)
    write_intervals(path, found)
    return len(found)


def _note_verdicts(detector: Detector, judgement: Judgement) -> list[str]:
    lowest = 1.0 / (detector.num_wanted + 1)
    notes = [
        f"Called unwanted: {judgement.called_V.sum()} of {len(judgement.called_V)} videos "
        f"({VERDICTS_FILE}). The threshold is set for a false-positive rate of {detector.rate:g} "
        f"by {detector.num_wanted} wanted training videos, each scored by a fit that has not seen "
        "its group"
        + (
            f"; so few can vouch for a rate of {lowest:.2g} at best: mark more wanted ones."
            if lowest > detector.rate
            else "."
        ),
        "Probabilities hold where wanted and unwanted videos are as frequent; where a share s is "
        "unwanted, multiply the odds by s / (1 - s).",
    ]
    if detector.slope == 0:
        notes.append(
            "WARNING: held-out marks are not told apart, so that all probabilities are the same; "
            "mark more videos."
        )
    return notes


def _note_metrics(row: Mapping[str, Metric], intervals, judgement: Judgement, truth) -> list[str]:
    known_V, unwanted_V = select_marked(judgement.clips, truth)
    called_V = judgement.called_V[known_V]
    hits = int((called_V & unwanted_V[known_V]).sum())
    counts = {
        "precision": f"{hits} of {called_V.sum()}, ",
        "recall": f"{hits} of {unwanted_V.sum()}, ",
        "fpr": f"{called_V.sum() - hits} of {known_V.sum() - unwanted_V.sum()}, ",
    }
    parts = [
        f"{name} {row[name].value:.3f} ({counts.get(name, '')}{low:.3f} to {high:.3f})"
        for name, (low, high) in intervals.items()
        if not math.isnan(row[name].value)
    ]
    num_groups = len(
        {video.group for video, known in zip(judgement.clips.videos, known_V) if known}
    )
    return [
        f"vae: {'; '.join(parts)}. Intervals of {CONFIDENCE:.0%}: of auroc and ap by resampling "
        f"{num_groups} groups, of the others Wilson's, for independent videos."
    ]


# --- pictures -------------------------------------------------------------------------------------


def _draw_scores(path: Path, detector: Detector, judgement: Judgement, truth) -> None:
    """A line for each class, or for what is wanted and what is not, if videos have no classes."""
    known_V, unwanted_V = select_marked(judgement.clips, truth)
    by_class = bool(detector.unwanted_class)
    name_V = np.array(
        [
            (video.label if by_class and video.label else KINDS[int(unwanted)])
            if known
            else "not marked"
            for video, known, unwanted in zip(judgement.clips.videos, known_V, unwanted_V)
        ]
    )
    searched = sorted(set(name_V[unwanted_V]))
    order = [*searched, *sorted(set(name_V) - set(searched))]
    figures.write_score_groups(
        path,
        {name: judgement.score_V[name_V == name] for name in order},
        searched,
        detector.threshold,
        "score of a video (highest logit of its windows)",
        f"Unwanted content (red) at a stated false-positive rate of {detector.rate:g}",
    )


def _draw_videos(folder: Path, detector: Detector, judgement: Judgement, truth) -> tuple[str, ...]:
    """Draws the most confident mistakes, or the highest scores where no truth is known."""
    clips, score_V = judgement.clips, judgement.score_V
    for name in (MISTAKES_FILE, HIGHEST_FILE):
        (folder / name).unlink(missing_ok=True)
    known_V, unwanted_V = select_marked(clips, truth)
    if truth:
        file, (alarms, misses) = MISTAKES_FILE, find_mistakes(judgement, known_V, unwanted_V)
        videos = np.concatenate([alarms, misses])
        what = f"The most confident mistakes: {len(alarms)} false alarms, {len(misses)} missed"
    else:
        file, videos = HIGHEST_FILE, np.argsort(-score_V, kind="stable")[:NUM_MISTAKES]
        what = "The highest scores"
    if not len(videos):
        return ()
    labels = []
    for video in videos:
        true = f"true: {KINDS[int(unwanted_V[video])]}\n" if known_V[video] else ""
        said = KINDS[int(judgement.called_V[video])]
        labels.append(f"{true}said: {said} (score {score_V[video]:.2f})")
    # The window with the highest score stands for its video.
    ids = np.array([_find_worst_window(judgement, video) for video in videos])
    write_clips(folder / file, clips, ids, labels, f"{what}; threshold {detector.threshold:.2f}")
    return (file,)


def find_mistakes(
    judgement: Judgement, known_V: np.ndarray, unwanted_V: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns up to 4 false alarms and up to 4 missed videos, farthest from the threshold first.

    Args:
      judgement: of `judge`.
      known_V: bool, the videos whose truth is known.
      unwanted_V: bool, their truth.
    """
    alarms = np.flatnonzero(known_V & judgement.called_V & ~unwanted_V)
    misses = np.flatnonzero(known_V & ~judgement.called_V & unwanted_V)
    alarms = alarms[np.argsort(-judgement.score_V[alarms], kind="stable")]
    misses = misses[np.argsort(judgement.score_V[misses], kind="stable")]
    return alarms[: NUM_MISTAKES // 2], misses[: NUM_MISTAKES // 2]


def _find_worst_window(judgement: Judgement, video: int) -> int:
    own = np.flatnonzero(judgement.clips.video_index_N == video)
    return int(own[judgement.score_N[own].argmax()])
