"""How anomaly scores are judged: AUROC under every protocol in use, average precision, thresholds.

One number a frame. Papers rarely say which protocol they use, and on the same scores the protocols
differ by up to twenty points, so that all are computed and named.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

# Standard deviation of the smoothing, in frames of the file (that of Reiss and Hoshen 2022).
SMOOTHING_SIGMA = 3.0
_SMOOTHING_REACH = 4.0


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold that normal scores exceed at a stated rate.

    Attributes:
      value: a score above it is an alarm.
      rate: the stated false-positive rate.
      num_normal: scores that it was set by.
      resolvable_rate: 1 / (num_normal + 1), the lowest rate that so many scores can vouch for.
    """

    value: float
    rate: float
    num_normal: int
    resolvable_rate: float


def find_threshold(normal_N: np.ndarray, rate: float) -> Threshold:
    """Finds the threshold for a false-positive rate from scores of normal data.

    It is the ceil((1 - rate) (N + 1))-th smallest score: a new normal score exceeds it with a
    probability of at most `rate`, if it is exchangeable with these (conformal prediction; Vovk et
    al. 2005). With fewer than 1 / rate - 1 scores it is the largest, which new scores exceed with a
    probability of up to 1 / (N + 1).

    Args:
      normal_N: scores of held-out normal frames or videos; of equal scores none is above.
      rate: between 0 and 1.

    Raises:
      ValueError: if there is no score, one is not finite, or the rate is not between 0 and 1.
    """
    normal_N = np.asarray(normal_N, np.float64)
    if not 0.0 < rate < 1.0:
        raise ValueError(f"false_positive_rate={rate!r} must be between 0 and 1, without them")
    if not len(normal_N) or not np.isfinite(normal_N).all():
        raise ValueError(f"a threshold needs finite scores of normal data, got {len(normal_N)}")
    count = len(normal_N)
    # Rounding errors of (1 - rate) (N + 1) must not move the rank: 0.9 * 10 is 9.000000000000002.
    rank = min(count, math.ceil((1.0 - rate) * (count + 1) - 1e-9))
    return Threshold(float(np.sort(normal_N)[rank - 1]), rate, count, 1.0 / (count + 1))


def auroc(score_F: np.ndarray, abnormal_F: np.ndarray) -> float:
    """Probability that an abnormal frame scores above a normal one, ties counted half.

    NaN if there are not both kinds of frames, or if a score is NaN.
    """
    abnormal_F = np.asarray(abnormal_F, bool)
    if abnormal_F.all() or not abnormal_F.any() or np.isnan(score_F).any():
        return math.nan
    return float(roc_auc_score(abnormal_F, _rank(score_F)))


def average_precision(score_F: np.ndarray, abnormal_F: np.ndarray) -> float:
    """Sum over thresholds of precision times the recall gained.

    Equal scores are one threshold. A score that knows nothing reaches the share of abnormal frames.
    NaN without abnormal frames, or if a score is NaN.
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

    It looks at a whole test video before the first frame is judged, and gives every video an alarm:
    a common protocol, not one that can be used.
    """
    return _map_videos(_normalize, score_F, video_F)


def _normalize(score_T: np.ndarray) -> np.ndarray:
    span = score_T.max() - score_T.min()
    return (score_T - score_T.min()) / span if span > 0 else np.zeros_like(score_T)


def smooth_by_video(score_F: np.ndarray, video_F: np.ndarray) -> np.ndarray:
    """Smooths each video's scores in time by a Gaussian of 3 frames; it looks 12 frames ahead.

    At both ends the weights of the frames that there are are scaled to sum to 1.
    """
    return _map_videos(_smooth, score_F, video_F)


def _smooth(score_T: np.ndarray) -> np.ndarray:
    reach = math.ceil(_SMOOTHING_REACH * SMOOTHING_SIGMA)
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTHING_SIGMA) ** 2)

    def convolve(values):
        return np.convolve(np.pad(values, reach), weight, mode="valid")

    return convolve(score_T) / convolve(np.ones_like(score_T))


def _map_videos(function: Callable, score_F: np.ndarray, video_F: np.ndarray) -> np.ndarray:
    """Applies a function to the scores of each video; frames of a video are in their order."""
    result = np.empty(len(score_F), np.float64)
    for video in np.unique(video_F):
        own = video_F == video
        result[own] = function(np.asarray(score_F, np.float64)[own])
    return result


def macro_auroc(
    score_F: np.ndarray, abnormal_F: np.ndarray, video_F: np.ndarray
) -> tuple[float, int]:
    """Mean AUROC over the videos that have normal and abnormal frames, and their number."""
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
      values: `micro_raw`, `micro_minmax`, `macro`, `average_precision`, and each `_smoothed`.
      num_macro_videos: videos that `macro` is the mean of.
    """

    values: dict[str, float]
    num_macro_videos: int


def judge_scores(score_F: np.ndarray, abnormal_F: np.ndarray, video_F: np.ndarray) -> Protocols:
    """Computes AUROC under every protocol, and average precision, with and without smoothing.

    Args:
      score_F: one number a frame, higher for stranger frames.
      abnormal_F: bool.
      video_F: the video of each frame; a video's frames are in their order.
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
    """Rates of alarms, each in [0, 1]; NaN where nothing is there to be counted.

    Returns:
      `false_positive_rate` (of the normal), `recall` (of the abnormal) and `precision` (of the
      alarms).
    """
    alarm_F, abnormal_F = np.asarray(alarm_F, bool), np.asarray(abnormal_F, bool)

    def share(of_F, among_F):
        return float(of_F[among_F].mean()) if among_F.any() else math.nan

    return {
        "false_positive_rate": share(alarm_F, ~abnormal_F),
        "recall": share(alarm_F, abnormal_F),
        "precision": share(abnormal_F, alarm_F),
    }


CONFIDENCE = 0.95
NUM_BINS = 10
NUM_RESAMPLES = 1000


def balance_kinds(unwanted_V: np.ndarray) -> np.ndarray:
    """Weights, float64 [V], under which both kinds count one half; they sum to 1.

    Raises:
      ValueError: if one kind is missing.
    """
    unwanted_V = np.asarray(unwanted_V, bool)
    num_unwanted, num_wanted = int(unwanted_V.sum()), int((~unwanted_V).sum())
    if not num_unwanted or not num_wanted:
        raise ValueError(f"both kinds are needed, got {num_wanted} wanted, {num_unwanted} unwanted")
    return np.where(unwanted_V, 0.5 / num_unwanted, 0.5 / num_wanted)


def measure_calibration(probability_V: np.ndarray, unwanted_V: np.ndarray) -> dict[str, float]:
    """Returns `brier` and `ece`, in [0, 1], with both kinds weighted to one half.

    `brier` is the mean of (probability - truth)^2 (Brier 1950): 0.25 for a constant 0.5. `ece` is
    the expected calibration error: over 10 bins of equal width, the weight of a bin times the
    distance of its mean probability from its share of unwanted videos. NaN without both kinds.
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
        "ece": round(float(np.abs(error_B).sum()), 12),  # 0 where only rounding errors are left
    }


def estimate_share(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share of independent cases (Wilson 1927); NaN without a case."""
    if not total:
        return math.nan, math.nan
    low, high = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


def bootstrap_groups(
    measure: Callable[[np.ndarray, np.ndarray], float],
    score_V: np.ndarray,
    unwanted_V: np.ndarray,
    group_V: np.ndarray,
    seed: int,
) -> tuple[float, float]:
    """95 % interval by the percentiles of 1000 resamples of whole groups (Efron 1979).

    Videos of one group are alike, so that groups are drawn, not videos. Resamples for which the
    measure is not defined do not count; NaN if it is defined for none.

    Args:
      measure: (scores, unwanted) -> number.
      score_V, unwanted_V, group_V: of the videos.
      seed: of the draws.
    """
    _, group_V = np.unique(group_V, return_inverse=True)
    own_G = [np.flatnonzero(group_V == group) for group in range(group_V.max() + 1)]
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    values = []
    for _ in range(NUM_RESAMPLES):
        chosen = np.concatenate([own_G[g] for g in random.integers(len(own_G), size=len(own_G))])
        values.append(measure(score_V[chosen], unwanted_V[chosen]))
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return math.nan, math.nan
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
