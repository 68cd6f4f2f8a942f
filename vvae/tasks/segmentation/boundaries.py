"""Detects shot boundaries as change points in a sequence of vectors, and scores detections.

Two kinds of features describe each frame t:

* The change at t: the median of a few frames from t on minus the median of as many frames before t,
  for several widths and gaps. Wide medians ignore a flash, all medians change at a cut, and those
  with a gap also change at a fade. The features are the length of the change, its Mahalanobis
  length under the changes *within* scenes, and both relative to their median over the neighbouring
  frames, which adapts the detector to the motion in a video.
* The separation at t: the least distance between any of a few frames before t and any of a few
  frames from t on. Medians do not locate a boundary to the frame, and they also change with
  oscillating motion. During motion and flashes, similar frames exist on both sides of t, so that
  the separation is small. At a cut it is large, and one frame beside the cut it is small again.

Small boosted trees map these features to the probability of a boundary. Everything is fitted to
joined training videos; the segmented videos are not used for fitting.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from vvae.tasks.npz_files import load_fields, save_fields
from vvae.tasks.segmentation.boosted_trees import (
    Examples,
    Trees,
    fit_trees,
    make_examples,
    predict_probability,
)
from vvae.tasks.segmentation.boundary_counts import count_matches
from vvae.tasks.segmentation.joined_videos import Transition

# (width, gap): medians over the frames [t + gap, t + gap + width) and [t - gap - width, t - gap).
SCALES = ((1, 0), (2, 0), (4, 0), (8, 0), (2, 3), (3, 6), (3, 10))
# (width, gap): distances from the frames [t - gap - width, t - gap) to [t + gap, t + gap + width).
SPANS = (
    *((1, 0), (2, 0), (4, 0), (8, 0), (16, 0)),
    *((4, 2), (4, 5), (8, 3), (8, 6), (12, 2)),
)
NEIGHBOURHOOD = 20  # frames on each side
PEAK_REACH = 3  # frames on each side with which the separation of a frame is compared
MIN_DISTANCE = 8  # least number of frames from one boundary to the next
MARGIN = 3  # frames on each side of a fade that are not used for training
MAX_PRECISION_SIZE = 512  # Z; longer vectors have no Mahalanobis length
RIDGE = 0.01  # the share of the mean variance that is added to the covariance
FLOOR = 1e-3  # added to variances and, times Z, to squared lengths before the logarithm
THRESHOLDS = np.arange(0.02, 0.99, 0.02)
SLACK = 0.01  # the loss of F1 that is accepted for fewer false boundaries
TOLERANCES = (0, 2)  # frames
NONE, CUT, FADE = 0, 1, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """A fitted detector.

    Attributes:
      precision_SZZ: float64; for each scale, the inverse covariance of the changes within scenes.
        [S, 0, 0] for vectors of more than 512 numbers, whose Mahalanobis lengths are not used.
      trees: The trees, which map features to the probabilities of NONE, CUT and FADE.
      threshold: The least probability of a boundary. It is the largest threshold whose F1, averaged
        over both tolerances, is within 0.01 of the best on held-out training videos.
    """

    precision_SZZ: np.ndarray
    trees: Trees
    threshold: float


def measure_change(z_FZ: np.ndarray, width: int, gap: int) -> np.ndarray:
    """Computes the change at each frame t: the difference of the medians after and before t.

    It is the median over [t + gap, t + gap + width) minus that over [t - gap - width, t - gap).

    Args:
      z_FZ: One vector for each frame. The first and the last one are repeated beyond the ends.
      width: The number of frames on each side.
      gap: The number of frames that are omitted on each side.

    Returns:
      float64 [F, Z].
    """
    num_frames, reach = len(z_FZ), width + gap
    padded = np.pad(z_FZ.astype(np.float64), ((reach, reach), (0, 0)), mode="edge")
    windows = [padded[k : len(padded) - width + 1 + k] for k in range(width)]
    # median_SZ[s] is the median over the frames s - reach, ..., s - reach + width - 1.
    median_SZ = np.median(np.stack(windows), axis=0) if width > 1 else windows[0]
    after = median_SZ[reach + gap : reach + gap + num_frames]
    return after - median_SZ[:num_frames]


def measure_separation(z_FZ: np.ndarray) -> np.ndarray:
    """Computes the least squared distance between a frame before t and a frame from t on.

    Args:
      z_FZ: One vector for each frame.

    Returns:
      float64 [S, F], for each of SPANS and each frame t; inf where one side has no frames, such as
      at the first frame.
    """
    num_frames = len(z_FZ)
    z_FZ = z_FZ.astype(np.float64)
    longest = max(2 * (width + gap) - 1 for width, gap in SPANS)
    square_KF = np.full((longest + 1, num_frames), np.inf)  # from frame t - k to frame t
    for lag in range(1, min(longest + 1, num_frames)):
        square_KF[lag, lag:] = np.square(z_FZ[lag:] - z_FZ[:-lag]).sum(axis=1)
    least_SF = np.full((len(SPANS), num_frames), np.inf)
    for least_F, (width, gap) in zip(least_SF, SPANS):
        for after in range(gap, min(gap + width, num_frames)):
            lags = slice(after + gap + 1, after + gap + width + 1)
            nearest_F = square_KF[lags, after:].min(axis=0)
            inner_F = least_F[: num_frames - after]
            np.minimum(inner_F, nearest_F, out=inner_F)
    return least_SF


def fit_precisions(
    videos: Sequence[tuple[np.ndarray, Sequence[Transition]]],
) -> np.ndarray:
    """Returns the inverse covariance of the changes within scenes for each scale, [S, Z, Z].

    [S, 0, 0] for vectors of more than 512 numbers.
    """
    if videos[0][0].shape[1] > MAX_PRECISION_SIZE:
        return np.zeros((len(SCALES), 0, 0))
    return np.stack([_fit_precision(videos, width, gap) for width, gap in SCALES])


def _fit_precision(videos, width: int, gap: int) -> np.ndarray:
    changes = []
    for z_FZ, transitions in videos:
        inside_F = find_inside(len(z_FZ), transitions, width + gap)
        changes.append(measure_change(z_FZ, width, gap)[inside_F])
    change_NZ = np.concatenate(changes)
    covariance = change_NZ.T @ change_NZ / max(len(change_NZ), 1)
    size = len(covariance)
    ridge = RIDGE * np.trace(covariance) / size + FLOOR
    return np.linalg.inv(covariance + ridge * np.eye(size))


def find_inside(num_frames: int, transitions: Sequence[Transition], reach: int) -> np.ndarray:
    """Returns bool [F]: True for frames more than `reach` frames from transitions and ends."""
    inside_F = np.ones(num_frames, bool)
    inside_F[:reach] = False
    inside_F[max(num_frames - reach, 0) :] = False
    for transition in transitions:
        inside_F[max(transition.first - reach, 0) : transition.last + reach + 1] = False
    return inside_F


def describe_frames(z_FZ: np.ndarray, precision_SZZ: np.ndarray) -> np.ndarray:
    """Computes the features of each frame.

    They are, in this order:

    1. For each scale, the logarithm of the squared length of the change, and the same minus its
       median over 20 frames on each side. Then both for the squared Mahalanobis length, unless the
       precisions are empty.
    2. For each span, the logarithm of the separation, the same minus its median over 20 frames on
       each side, and, for spans without a gap, the same minus its maximum over 3 frames on each
       side. Then all of them for the Mahalanobis distance of the first scale, unless the precisions
       are empty.

    Args:
      z_FZ: One vector for each frame.
      precision_SZZ: The result of `fit_precisions`.

    Returns:
      float64 [F, X].

    Raises:
      ValueError: If the precisions belong to other scales or to vectors of another length.
    """
    size = z_FZ.shape[1]
    if precision_SZZ.shape not in ((len(SCALES), size, size), (len(SCALES), 0, 0)):
        raise ValueError(
            f"the detector of boundaries was fitted to {len(precision_SZZ)} scales and vectors of "
            f"{precision_SZZ.shape[-1]} numbers, not to {len(SCALES)} and {size}"
        )
    columns = []
    for (width, gap), precision_ZZ in zip(SCALES, precision_SZZ):
        change_FZ = measure_change(z_FZ, width, gap)
        squares = [np.square(change_FZ).sum(axis=1)]
        if precision_ZZ.size:
            squares.append(np.sum(change_FZ @ precision_ZZ * change_FZ, axis=1))
        for square_F in squares:
            log_F = np.log(square_F + FLOOR * size)
            columns += [log_F, log_F - _measure_neighbourhood(log_F)]
    columns += _describe_separation(z_FZ)
    if precision_SZZ.size:
        columns += _describe_separation(z_FZ @ np.linalg.cholesky(precision_SZZ[0]))
    return np.stack(columns, axis=1)


def _describe_separation(z_FZ: np.ndarray) -> list[np.ndarray]:
    """Returns the features of the separation, each [F]."""
    columns = []
    for least_F, (_, gap) in zip(measure_separation(z_FZ), SPANS):
        defined_F = np.isfinite(least_F)
        log_F = np.log(np.where(defined_F, least_F, 0.0) + FLOOR * z_FZ.shape[1])
        # Undefined separations, near the ends, take the median.
        log_F[~defined_F] = np.median(log_F[defined_F]) if defined_F.any() else 0.0
        columns += [log_F, log_F - _measure_neighbourhood(log_F)]
        if gap == 0:
            columns.append(log_F - _find_largest_beside(log_F))
    return columns


def _find_largest_beside(value_F: np.ndarray) -> np.ndarray:
    """Returns the maximum over PEAK_REACH frames on each side, without the frame itself, [F]."""
    padded = np.pad(value_F, PEAK_REACH, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * PEAK_REACH + 1)
    return np.delete(windows, PEAK_REACH, axis=1).max(axis=1)


def _measure_neighbourhood(value_F: np.ndarray) -> np.ndarray:
    """Returns the median over NEIGHBOURHOOD frames on each side (fewer at the ends), [F]."""
    padded = np.pad(value_F, NEIGHBOURHOOD, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURHOOD + 1)
    return np.nanmedian(windows, axis=1)


def fit_detector(videos: Sequence[tuple[np.ndarray, Sequence[Transition]]], seed: int) -> Detector:
    """Fits a detector to videos with known transitions.

    Args:
      videos: For each training video, its vectors [F, Z] and its transitions.
      seed: The seed of the trees.

    Raises:
      ValueError: If fewer than two videos have a transition.
    """
    num_usable = sum(bool(transitions) for _, transitions in videos)
    if num_usable < 2:
        raise ValueError(
            f"{num_usable} of {len(videos)} training videos have shot boundaries: a detector needs "
            "at least two"
        )
    # Videos with transitions come first, so that both halves below contain some.
    videos = sorted(videos, key=lambda video: not video[1])
    precision_SZZ = fit_precisions(videos)
    features = [describe_frames(z_FZ, precision_SZZ) for z_FZ, _ in videos]
    references = [transitions for _, transitions in videos]
    threshold = _choose_threshold(features, references, seed)
    return Detector(precision_SZZ, _fit_trees(features, references, seed), threshold)


def _fit_trees(features, references, seed: int) -> Trees:
    labels = [label_frames(len(f), transitions) for f, transitions in zip(features, references)]
    feature_NX = np.concatenate([f[label >= 0] for f, label in zip(features, labels)])
    label_N = np.concatenate([label[label >= 0] for label in labels])
    return fit_trees(make_examples(feature_NX, label_N, seed))


def _choose_threshold(features, references, seed: int) -> float:
    """Returns the largest threshold whose mean F1 is within SLACK of the best.

    Each half of the videos is scored by trees that are fitted to the other half. The largest
    threshold is chosen because a third of the joined videos have only fades, whereas real videos
    have few, so that uncertain detections are boundaries less often there.
    """
    peaks = [[] for _ in features]
    for half in range(2):
        trees = _fit_trees(features[1 - half :: 2], references[1 - half :: 2], seed)
        peaks[half::2] = [find_peaks(score_features(trees, f)) for f in features[half::2]]
    values = [
        np.mean([_f1_at(peaks, references, threshold, tolerance) for tolerance in TOLERANCES])
        for threshold in THRESHOLDS
    ]
    return float(THRESHOLDS[np.flatnonzero(np.array(values) >= max(values) - SLACK)[-1]])


def _f1_at(peaks, references, threshold: float, tolerance: int) -> float:
    found = [[frame for frame, score in video if score >= threshold] for video in peaks]
    return count_matches(found, references, tolerance).f1


def label_frames(num_frames: int, transitions: Sequence[Transition]) -> np.ndarray:
    """Labels frames NONE, CUT, FADE, or -1 for frames that are not used for training.

    The middle of a fade and one frame on each side are FADE; its other frames and MARGIN frames on
    each side are -1. The frames beside a cut are NONE, so that cuts are detected to the frame.

    Returns:
      int [F].
    """
    label_F = np.full(num_frames, NONE)
    for transition in transitions:
        if transition.first < transition.last:
            label_F[max(transition.first - MARGIN, 0) : transition.last + MARGIN + 1] = -1
    for transition in transitions:
        if transition.first == transition.last:
            label_F[transition.first] = CUT
        else:
            middle = (transition.first + transition.last) // 2
            label_F[middle - 1 : middle + 2] = FADE
    return label_F


def score_features(trees: Trees, feature_FX: np.ndarray) -> np.ndarray:
    """Returns the probability of a boundary at each frame from its features, float64 [F]."""
    return 1.0 - predict_probability(trees, feature_FX, NONE)


def score_frames(detector: Detector, z_FZ: np.ndarray) -> np.ndarray:
    """Returns the probability that a new shot begins at each frame, float64 [F].

    It is set to 0 at frame 0, which is not a boundary.

    Raises:
      ValueError: If the detector was fitted to vectors of another length.
    """
    score_F = score_features(detector.trees, describe_frames(z_FZ, detector.precision_SZZ))
    score_F[0] = 0.0
    return score_F


def find_peaks(score_F: np.ndarray) -> list[tuple[int, float]]:
    """Returns (frame, score) of the local maxima, ascending, at least MIN_DISTANCE frames apart.

    Of maxima that are closer, the larger one is kept.
    """
    left, right = np.roll(score_F, 1), np.roll(score_F, -1)
    left[0] = right[-1] = -np.inf
    candidates = np.flatnonzero((score_F >= left) & (score_F >= right) & (score_F > 0))
    kept: list[int] = []
    for frame in candidates[np.argsort(-score_F[candidates], kind="stable")]:
        if all(abs(frame - other) >= MIN_DISTANCE for other in kept):
            kept.append(int(frame))
    return [(frame, float(score_F[frame])) for frame in sorted(kept)]


def detect_boundaries(detector: Detector, z_FZ: np.ndarray) -> list[int]:
    """Returns the numbers of the frames at which a new shot begins, ascending, without frame 0.

    Raises:
      ValueError: If the detector was fitted to vectors of another length.
    """
    peaks = find_peaks(score_frames(detector, z_FZ))
    return [frame for frame, score in peaks if score >= detector.threshold]


# --- on disk --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Saved:
    """A detector in its file: it holds the training examples instead of the trees."""

    precision_SZZ: np.ndarray
    examples: Examples
    threshold: float


def save_detector(path: str | os.PathLike, detector: Detector) -> None:
    """Writes a detector as .npz, without pickle."""
    save_fields(path, _Saved(detector.precision_SZZ, detector.trees.examples, detector.threshold))


def load_detector(path: str | os.PathLike) -> Detector:
    """Reads a detector and fits its trees again.

    Raises:
      ValueError: If there is no such file or it does not hold a detector.
    """
    what, remedy = "detector of boundaries", "run the task segment on the videos of the run first"
    saved = load_fields(path, _Saved, what, remedy)
    try:
        trees = fit_trees(saved.examples)
        score_features(trees, np.zeros((1, saved.examples.code_NX.shape[1])))
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{path} holds no {what} ({error}); {remedy}") from error
    return Detector(saved.precision_SZZ, trees, saved.threshold)
