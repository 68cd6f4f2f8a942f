"""Metrics of anomaly scores: AUROC under every common protocol, average precision, thresholds.

One number a frame. Papers rarely state their protocol, and for the same scores the protocols differ
by up to twenty points, so that all of them are computed and named.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

# The standard deviation of the smoothing, in frames of the file (as in Reiss and Hoshen 2022).
SMOOTHING_SIGMA = 3.0
SMOOTHING_REACH = math.ceil(4.0 * SMOOTHING_SIGMA)  # frames, on either side


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold that normal scores exceed at a stated rate.

    Attributes:
      value: The threshold; a score above it is an alarm.
      rate: The stated false-positive rate.
      num_normal: The number of scores that the threshold was set by.
      resolvable_rate: 1 / (num_normal + 1), the lowest rate that this number of scores can
        guarantee.
    """

    value: float
    rate: float
    num_normal: int
    resolvable_rate: float


def find_threshold(normal_N: np.ndarray, rate: float) -> Threshold:
    """Finds the threshold for a false-positive rate from scores of normal data.

    The threshold is the ceil((1 - rate) (N + 1))-th smallest score. A new normal score exceeds it
    with a probability of at most `rate` if it is exchangeable with these scores (conformal
    prediction). With fewer than 1 / rate - 1 scores, it is the largest score, which new scores
    exceed with a probability of up to 1 / (N + 1).

    Args:
      normal_N: Scores of held-out normal frames or videos. Scores equal to the threshold are not
        above it.
      rate: The false-positive rate, between 0 and 1.

    Raises:
      ValueError: If there is no score, a score is not finite, or the rate is not between 0 and 1.

    References:
      Vovk et al., "Algorithmic Learning in a Random World", 2005
    """
    normal_N = np.asarray(normal_N, np.float64)
    if not 0.0 < rate < 1.0:
        raise ValueError(f"false_positive_rate={rate!r} must be above 0 and below 1")
    if not len(normal_N) or not np.isfinite(normal_N).all():
        raise ValueError(f"a threshold needs finite scores of normal data, got {len(normal_N)}")
    count = len(normal_N)
    # Rounding errors of (1 - rate) (N + 1) must not move the rank: (1 - 0.7) * 10 > 3.
    rank = min(count, math.ceil((1.0 - rate) * (count + 1) - 1e-9))
    return Threshold(
        value=float(np.sort(normal_N)[rank - 1]),
        rate=rate,
        num_normal=count,
        resolvable_rate=1.0 / (count + 1),
    )


def auroc(score_F: np.ndarray, abnormal_F: np.ndarray) -> float:
    """Returns the probability that an abnormal frame scores above a normal one; ties count half.

    NaN unless both kinds of frames occur, and for NaN scores.
    """
    abnormal_F = np.asarray(abnormal_F, bool)
    if abnormal_F.all() or not abnormal_F.any() or np.isnan(score_F).any():
        return math.nan
    return float(roc_auc_score(abnormal_F, _rank(score_F)))


def average_precision(score_F: np.ndarray, abnormal_F: np.ndarray) -> float:
    """Sums precision times gained recall over thresholds.

    Equal scores are one threshold. An uninformative score reaches the share of abnormal frames. NaN
    without abnormal frames, and for NaN scores.
    """
    abnormal_F = np.asarray(abnormal_F, bool)
    if not abnormal_F.any() or np.isnan(score_F).any():
        return math.nan
    return float(average_precision_score(abnormal_F, _rank(score_F)))


def _rank(score_F: np.ndarray) -> np.ndarray:
    """Returns ranks, float64 [F], equal for equal scores: scikit-learn refuses infinite scores."""
    return stats.rankdata(score_F)


def normalize_by_video(score_F: np.ndarray, video_F: np.ndarray) -> np.ndarray:
    """Maps each video's scores to [0, 1] by their minimum and maximum; 0 for a constant video.

    Note:
      This common protocol cannot be used in practice: it needs the whole test video before it
      judges the first frame, and it raises an alarm in every video.
    """
    return _map_videos(_normalize, score_F, video_F)


def _normalize(score_T: np.ndarray) -> np.ndarray:
    span = score_T.max() - score_T.min()
    return (score_T - score_T.min()) / span if span > 0 else np.zeros_like(score_T)


def smooth_by_video(score_F: np.ndarray, video_F: np.ndarray) -> np.ndarray:
    """Smooths each video's scores over time by a Gaussian of 3 frames; it looks 12 frames ahead.

    At both ends, the weights of the existing frames are rescaled to sum to 1.
    """
    return _map_videos(_smooth, score_F, video_F)


def _smooth(score_T: np.ndarray) -> np.ndarray:
    reach = SMOOTHING_REACH
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTHING_SIGMA) ** 2)

    def convolve(values):
        return np.convolve(np.pad(values, reach), weight, mode="valid")

    return convolve(score_T) / convolve(np.ones_like(score_T))


def _map_videos(function: Callable, score_F: np.ndarray, video_F: np.ndarray) -> np.ndarray:
    """Applies a function to the scores of each video; the frames of a video are in order."""
    result = np.empty(len(score_F), np.float64)
    for video in np.unique(video_F):
        own = video_F == video
        result[own] = function(np.asarray(score_F, np.float64)[own])
    return result


def macro_auroc(
    score_F: np.ndarray, abnormal_F: np.ndarray, video_F: np.ndarray
) -> tuple[float, int]:
    """Returns the mean AUROC over the videos with normal and abnormal frames, and their number."""
    values = [
        auroc(score_F[video_F == video], abnormal_F[video_F == video])
        for video in np.unique(video_F)
    ]
    defined = [value for value in values if not math.isnan(value)]
    return (float(np.mean(defined)) if defined else math.nan), len(defined)


@dataclasses.dataclass(frozen=True)
class Protocols:
    """One score under every protocol, each in [0, 1].

    Attributes:
      values: `micro_raw`, `micro_minmax`, `macro`, `average_precision`, and each with `_smoothed`.
      num_macro_videos: The number of videos that `macro` is the mean of.
    """

    values: dict[str, float]
    num_macro_videos: int


def judge_scores(score_F: np.ndarray, abnormal_F: np.ndarray, video_F: np.ndarray) -> Protocols:
    """Computes AUROC under every protocol, and average precision, with and without smoothing.

    Args:
      score_F: The score of each frame, higher for more abnormal frames.
      abnormal_F: bool.
      video_F: The video of each frame; the frames of a video are in order.
    """
    values, num_videos = {}, 0
    smoothed_F = smooth_by_video(score_F, video_F)
    for end, variant_F in (("", np.asarray(score_F, np.float64)), ("_smoothed", smoothed_F)):
        normalized_F = normalize_by_video(variant_F, video_F)
        values[f"micro_raw{end}"] = auroc(variant_F, abnormal_F)
        values[f"micro_minmax{end}"] = auroc(normalized_F, abnormal_F)
        values[f"macro{end}"], num_videos = macro_auroc(variant_F, abnormal_F, video_F)
        values[f"average_precision{end}"] = average_precision(variant_F, abnormal_F)
    return Protocols(values, num_videos)


def measure_alarms(alarm_F: np.ndarray, abnormal_F: np.ndarray) -> dict[str, float]:
    """Computes the rates of alarms, each in [0, 1]; NaN where there is nothing to count.

    Returns:
      `false_positive_rate` (of the normal frames), `recall` (of the abnormal frames) and
      `precision` (of the alarms).
    """
    alarm_F, abnormal_F = np.asarray(alarm_F, bool), np.asarray(abnormal_F, bool)

    def share(of_F, among_F):
        return float(of_F[among_F].mean()) if among_F.any() else math.nan

    return {
        "false_positive_rate": share(alarm_F, ~abnormal_F),
        "recall": share(alarm_F, abnormal_F),
        "precision": share(abnormal_F, alarm_F),
    }


NUM_BINS = 10


def balance_kinds(unwanted_V: np.ndarray) -> np.ndarray:
    """Returns weights, float64 [V], under which each kind has the total weight one half.

    Raises:
      ValueError: If one kind is missing.
    """
    unwanted_V = np.asarray(unwanted_V, bool)
    num_unwanted, num_wanted = int(unwanted_V.sum()), int((~unwanted_V).sum())
    if not num_unwanted or not num_wanted:
        raise ValueError(f"both kinds are needed, got {num_wanted} wanted, {num_unwanted} unwanted")
    return np.where(unwanted_V, 0.5 / num_unwanted, 0.5 / num_wanted)


def measure_calibration(probability_V: np.ndarray, unwanted_V: np.ndarray) -> dict[str, float]:
    """Returns `brier` and `ece`, in [0, 1], with each kind at the total weight one half.

    `brier` is the mean of (probability - truth)^2: 0.25 for a constant 0.5. `ece` is the expected
    calibration error: over 10 bins of equal width, the weight of a bin times the distance of its
    mean probability from its share of unwanted videos. Both are NaN unless both kinds occur.

    References:
      Brier, "Verification of forecasts expressed in terms of probability", 1950
    """
    unwanted_V = np.asarray(unwanted_V, bool)
    if unwanted_V.all() or not unwanted_V.any():
        return {"brier": math.nan, "ece": math.nan}
    weight_V = balance_kinds(unwanted_V)
    distance_V = weight_V * (probability_V - unwanted_V)
    bin_V = np.minimum((probability_V * NUM_BINS).astype(int), NUM_BINS - 1)
    error_B = np.bincount(bin_V, distance_V)
    return {
        "brier": float(np.sum(weight_V * np.square(probability_V - unwanted_V))),
        "ece": round(float(np.abs(error_B).sum()), 12),  # removes rounding errors about 0
    }
