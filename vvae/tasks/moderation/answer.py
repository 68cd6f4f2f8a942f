"""The answer of a detector of unwanted content: verdicts, intervals, notes and pictures."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.metrics.cards import Interval, Metric
from vvae.metrics.detection import auroc, average_precision
from vvae.metrics.intervals import (
    CONFIDENCE,
    Units,
    estimate_interval,
    estimate_share,
    resample_auroc,
    resample_average_precision,
)
from vvae.tasks.anomaly.intervals import find_intervals, list_frames, write_intervals
from vvae.tasks.anomaly.scorer import find_peaks
from vvae.tasks.csv_files import open_csv
from vvae.tasks.moderation.detector import KINDS, Detector, score_windows, to_probability
from vvae.tasks.moderation.marked_videos import select_marked
from vvae.tasks.recognition.predictions import NUM_MISTAKES, write_clips
from vvae.tasks.result import Picture, Result

VERDICTS_FILE = "moderate.csv"
INTERVALS_FILE = "moderate_intervals.csv"
SCORES_TABLE = "moderate_scores.csv"
SCORES_FILE = "moderate.png"
MISTAKES_FILE = "moderate_mistakes.png"
HIGHEST_FILE = "moderate_highest.png"
SCORES_CAPTION = (
    "The score of each video, as a point: those to the right of the dashed threshold are called "
    "unwanted; groups in red should be there"
)
SHOWN_CAPTIONS = {
    MISTAKES_FILE: "Videos that got the wrong verdict",
    HIGHEST_FILE: "The videos with the highest scores",
}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The scores and verdicts of a detector for the videos of a split.

    Attributes:
      clips: The N windows of the split that have a valid frame.
      score_N: float64; the score of each window.
      score_V: float64; the score of each video, which is the highest score of its windows.
      called_V: bool; whether each video is called unwanted.
    """

    clips: Clips
    score_N: np.ndarray
    score_V: np.ndarray
    called_V: np.ndarray


def judge(detector: Detector, feature_NF: np.ndarray, clips: Clips) -> Judgement:
    """Scores windows and videos, and compares the videos with the threshold.

    Args:
      detector: The detector.
      feature_NF: The features of each window.
      clips: The windows, each with a valid frame.
    """
    score_N = score_windows(detector, feature_NF)
    score_V = find_peaks(score_N, clips.video_index_N)
    return Judgement(
        clips=clips, score_N=score_N, score_V=score_V, called_V=score_V > detector.threshold
    )


def write_answer(
    detector: Detector,
    judgement: Judgement,
    *,
    truth: Mapping[str, bool],
    rows: Mapping[str, Mapping[str, Metric]],
    folder: Path,
) -> Result:
    """Writes the verdicts on the videos and the intervals of frames above the threshold.

    Intervals are written only if the clips are windows. The pictures are moderate.png and either
    moderate_mistakes.png or, if no truth is known, moderate_highest.png.

    Args:
      detector: The detector.
      judgement: Its scores and verdicts.
      truth: Name of a video -> whether it is unwanted, for the videos for which this is known.
      rows: Method -> metric name -> metric; empty if nothing was measured.
      folder: The folder of the answer.
    """
    _write_verdicts(folder / VERDICTS_FILE, detector, judgement)
    files = [VERDICTS_FILE]
    notes = _note_verdicts(detector, judgement)
    if judgement.clips.clip_format.sampling.mode == "windows":
        count = _write_intervals(folder / INTERVALS_FILE, detector, judgement)
        files.append(INTERVALS_FILE)
        notes.append(f"Intervals above the threshold: {count} ({INTERVALS_FILE}).")
    else:
        notes.append("No intervals: the run sees a whole video at once (data.sampling=whole).")
    if rows:
        notes.append(_note_counts(judgement, truth))
    else:
        notes.append("Nothing is measured: it is not known which of these videos are unwanted.")
    # An earlier answer may have left one of these.
    for name in (MISTAKES_FILE, HIGHEST_FILE):
        (folder / name).unlink(missing_ok=True)
    pictures = _list_pictures(detector, judgement, truth)
    details = {
        "threshold": detector.threshold,
        "slope": detector.slope,
        "offset": detector.offset,
        "num_called_unwanted": int(judgement.called_V.sum()),
    }
    return Result(
        task="moderate",
        rows=rows,
        details=details,
        notes=tuple(notes),
        files=(*files, *(name for picture in pictures for name in picture.names)),
        pictures=pictures,
    )


def estimate_intervals(
    judgement: Judgement, truth: Mapping[str, bool], units: Units
) -> dict[str, Interval | None]:
    """Estimates 95 % confidence intervals of the metrics.

    Those of `precision`, `recall` and `fpr` are Wilson intervals, for independent videos; those of
    `auroc` and `ap` come from resamples of units.

    Args:
      judgement: The scores and verdicts.
      truth: Name of a video -> whether it is unwanted, for the videos for which this is known.
      units: The independent units of the videos for which it is known.
    """
    known_V, unwanted_V = select_marked(judgement.clips, truth)
    unwanted_V, called_V = unwanted_V[known_V], judgement.called_V[known_V]
    score_V = judgement.score_V[known_V]
    hits = int((called_V & unwanted_V).sum())
    ranked = {
        "auroc": (auroc, resample_auroc),
        "ap": (average_precision, resample_average_precision),
    }
    shares = {
        "precision": (hits, int(called_V.sum())),
        "recall": (hits, int(unwanted_V.sum())),
        "fpr": (int((called_V & ~unwanted_V).sum()), int((~unwanted_V).sum())),
    }
    intervals: dict[str, Interval | None] = {
        name: estimate_interval(
            units, measure(score_V, unwanted_V), resample(units, score_V, unwanted_V)
        )
        for name, (measure, resample) in ranked.items()
    }
    for name, (count, total) in shares.items():
        text = f"{CONFIDENCE:.0%}, Wilson, {total} videos"
        intervals[name] = Interval(*estimate_share(count, total), text) if total else None
    return intervals


def write_scores(
    path: Path, judgements: Mapping[str, Judgement], truth: Mapping[str, bool]
) -> None:
    """Writes the scores and verdicts of all methods for the videos for which the truth is known.

    One row a video: path, group, unwanted (yes or no), then `score_METHOD` and `called_METHOD`.

    Args:
      path: The file.
      judgements: Method -> its judgement of the same videos.
      truth: Name of a video -> whether it is unwanted.
    """
    columns = [f"{column}_{name}" for name in judgements for column in ("score", "called")]
    videos = next(iter(judgements.values())).clips.videos
    with open_csv(path) as writer:
        writer.writerow(["path", "group", "unwanted", *columns])
        for number, video in enumerate(videos):
            if video.name not in truth:
                continue
            cells = [
                cell
                for judgement in judgements.values()
                for cell in (float(judgement.score_V[number]), _say(judgement.called_V[number]))
            ]
            writer.writerow([video.name, video.group, _say(truth[video.name]), *cells])


def _say(is_true: bool) -> str:
    return "yes" if is_true else "no"


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
    """Writes the intervals of frames above the threshold; returns their number."""
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


def _note_counts(judgement: Judgement, truth: Mapping[str, bool]) -> str:
    """Counts the videos that the rates of the detector are shares of."""
    known_V, unwanted_V = select_marked(judgement.clips, truth)
    called_V, unwanted_V = judgement.called_V[known_V], unwanted_V[known_V]
    hits = int((called_V & unwanted_V).sum())
    return (
        f"vae: found {hits} of {unwanted_V.sum()} unwanted videos, with {called_V.sum() - hits} "
        f"false alarms among {(~unwanted_V).sum()} wanted ones."
    )


# --- pictures -------------------------------------------------------------------------------------


def _list_pictures(
    detector: Detector, judgement: Judgement, truth: Mapping[str, bool]
) -> tuple[Picture, ...]:
    """Returns the picture of all scores, and that of some videos if there are any to show."""
    draw_scores = functools.partial(_draw_scores, detector, judgement, truth)
    scores = Picture({SCORES_FILE: SCORES_CAPTION}, draw_scores)
    shown = _choose_shown(judgement, truth)
    if not len(shown.videos):
        return (scores,)
    draw_videos = functools.partial(_draw_videos, detector, judgement, truth, shown)
    return scores, Picture({shown.file: SHOWN_CAPTIONS[shown.file]}, draw_videos)


def _draw_scores(detector: Detector, judgement: Judgement, truth, folder: Path) -> None:
    """Draws the scores of videos, grouped by class if one was declared unwanted, else by mark."""
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
        folder / SCORES_FILE,
        {name: judgement.score_V[name_V == name] for name in order},
        searched,
        detector.threshold,
        "score of a video (highest logit of its windows)",
        f"Unwanted content (red) at a stated false-positive rate of {detector.rate:g}",
    )


@dataclasses.dataclass(frozen=True)
class _Shown:
    """A picture of some videos.

    Attributes:
      file: The name of the picture.
      videos: The numbers of the videos that it shows.
      title: The beginning of its title.
    """

    file: str
    videos: np.ndarray
    title: str


def _choose_shown(judgement: Judgement, truth: Mapping[str, bool]) -> _Shown:
    """Chooses the most confident mistakes or, if no truth is known, the highest scores."""
    if not truth:
        videos = np.argsort(-judgement.score_V, kind="stable")[:NUM_MISTAKES]
        return _Shown(HIGHEST_FILE, videos, "The highest scores")
    alarms, misses = find_mistakes(judgement, *select_marked(judgement.clips, truth))
    title = f"The most confident mistakes: {len(alarms)} false alarms, {len(misses)} missed"
    return _Shown(MISTAKES_FILE, np.concatenate([alarms, misses]), title)


def _draw_videos(
    detector: Detector, judgement: Judgement, truth, shown: _Shown, folder: Path
) -> None:
    """Draws the window with the highest score of each video."""
    known_V, unwanted_V = select_marked(judgement.clips, truth)
    labels = []
    for video in shown.videos:
        true = f"true: {KINDS[int(unwanted_V[video])]}\n" if known_V[video] else ""
        said = KINDS[int(judgement.called_V[video])]
        labels.append(f"{true}said: {said} (score {judgement.score_V[video]:.2f})")
    ids = np.array([_find_highest_window(judgement, video) for video in shown.videos])
    title = f"{shown.title}; threshold {detector.threshold:.2f}"
    write_clips(folder / shown.file, judgement.clips, ids, labels, title)


def find_mistakes(
    judgement: Judgement, known_V: np.ndarray, unwanted_V: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds up to 4 false alarms and up to 4 misses, those farthest from the threshold first.

    Args:
      judgement: The scores and verdicts.
      known_V: bool; the videos for which the truth is known.
      unwanted_V: bool; the videos that are unwanted.

    Returns:
      The numbers of the false alarms and of the misses.
    """
    alarms = np.flatnonzero(known_V & judgement.called_V & ~unwanted_V)
    misses = np.flatnonzero(known_V & ~judgement.called_V & unwanted_V)
    alarms = alarms[np.argsort(-judgement.score_V[alarms], kind="stable")]
    misses = misses[np.argsort(judgement.score_V[misses], kind="stable")]
    return alarms[: NUM_MISTAKES // 2], misses[: NUM_MISTAKES // 2]


def _find_highest_window(judgement: Judgement, video: int) -> int:
    own = np.flatnonzero(judgement.clips.video_index_N == video)
    return int(own[judgement.score_N[own].argmax()])
