"""Shot boundaries from change points in a sequence of vectors, and how well they are found.

A frame t is described by how much the vectors change there: the median of a few frames after t
minus the median of as many before it, over several widths and gaps. A flash is forgotten by the
wider medians, a cut is seen by all of them, and a fade by those with a gap alone. Each change is
measured by its length and by its Mahalanobis length under the changes that happen *within* scenes,
and both beside their median over the neighbourhood, which makes the threshold adaptive.

Medians say which scene it is, but not to the frame where it begins, and motion that swings moves
them too. So a frame is described as well by the least distance between any of a few frames before
it and any of a few frames from it on. Across motion and flashes two frames that are alike are found
on both sides; across a cut there are none, and one frame beside the cut there are already.

Small boosted trees turn these numbers into the probability of a boundary. Everything is fitted to
joined training videos; nothing is looked up in the videos that are segmented.
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
from vvae.tasks.segmentation.joined_videos import Transition

# (width, gap): medians over [t + gap, t + gap + width) and [t - gap - width, t - gap).
SCALES = ((1, 0), (2, 0), (4, 0), (8, 0), (2, 3), (3, 6), (3, 10))
# (width, gap): one frame of [t - gap - width, t - gap), the other of [t + gap, t + gap + width).
SPANS = (
    *((1, 0), (2, 0), (4, 0), (8, 0), (16, 0)),
    *((4, 2), (4, 5), (8, 3), (8, 6), (12, 2)),
)
NEIGHBOURHOOD = 20  # frames on each side
PEAK_REACH = 3  # frames on each side that a cut is told from
MIN_DISTANCE = 8  # frames between two boundaries
MARGIN = 3  # frames about a fade that train neither as boundary nor as none
MAX_PRECISION_SIZE = 512
RIDGE = 0.01  # share of the mean variance that is added to the covariance
FLOOR = 1e-3
THRESHOLDS = np.arange(0.02, 0.99, 0.02)
SLACK = 0.01  # of F1, given up for fewer false boundaries
TOLERANCES = (0, 2)  # frames
NONE, CUT, FADE = 0, 1, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """A fitted detector.

    Attributes:
      precision_SZZ: for each scale the inverse covariance of changes within scenes; [S, 0, 0] for
        vectors of more than 512 numbers, whose changes are measured by their length alone.
      trees: features -> probabilities of none, cut and fade.
      threshold: least probability of a boundary, the largest whose mean F1 over both tolerances
        is within 0.01 of the best, on training videos that the trees scoring them have not seen.
    """

    precision_SZZ: np.ndarray
    trees: Trees
    threshold: float


def measure_change(z_FZ: np.ndarray, width: int, gap: int) -> np.ndarray:
    """Median of `width` frames from t + gap on, minus that of `width` frames up to t - gap.

    Args:
      z_FZ: one vector a frame; the first and the last one are repeated beyond the ends.
      width: frames on each side.
      gap: frames left out on each side.

    Returns:
      float64 [F, Z].
    """
    num_frames, reach = len(z_FZ), width + gap
    padded = np.pad(z_FZ.astype(np.float64), ((reach, reach), (0, 0)), mode="edge")
    windows = [padded[k : len(padded) - width + 1 + k] for k in range(width)]
    # median_SZ[s] is the median of the frames s - reach, ..., s - reach + width - 1.
    median_SZ = np.median(np.stack(windows), axis=0) if width > 1 else windows[0]
    after = median_SZ[reach + gap : reach + gap + num_frames]
    return after - median_SZ[:num_frames]


def measure_separation(z_FZ: np.ndarray) -> np.ndarray:
    """Least squared distance between a frame before t and one from t on, for each span.

    Args:
      z_FZ: one vector a frame.

    Returns:
      float64 [spans, F]; inf where the span has no two frames, as at the first frame.
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
    """Returns the inverse covariances of the changes within scenes, one a scale, [S, Z, Z]."""
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
    """True for frames over `reach` frames away from transitions and ends, bool [F]."""
    inside_F = np.ones(num_frames, bool)
    inside_F[:reach] = False
    inside_F[max(num_frames - reach, 0) :] = False
    for transition in transitions:
        inside_F[max(transition.first - reach, 0) : transition.last + reach + 1] = False
    return inside_F


def describe_frames(z_FZ: np.ndarray, precision_SZZ: np.ndarray) -> np.ndarray:
    """Describes how much every frame differs from those before it, float64 [F, features].

    For each scale: the logarithms of the squared length of the change and of its squared
    Mahalanobis length (where there is a precision), and both minus their median over 20 frames on
    each side. Then, in both measures, the logarithm of the separation for each span, the same minus
    its median, and for spans without a gap minus the largest of 3 frames on each side.

    Raises:
      ValueError: if the precisions are those of other scales or of vectors of another length.
    """
    size = z_FZ.shape[1]
    if precision_SZZ.shape not in ((len(SCALES), size, size), (len(SCALES), 0, 0)):
        raise ValueError(
            f"the detector of boundaries is made for {len(precision_SZZ)} scales and vectors of "
            f"{precision_SZZ.shape[-1]} numbers, not for {len(SCALES)} and {size}"
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
    """Features of the separation at each frame, each [F]."""
    columns = []
    for least_F, (_, gap) in zip(measure_separation(z_FZ), SPANS):
        defined_F = np.isfinite(least_F)
        log_F = np.log(np.where(defined_F, least_F, 0.0) + FLOOR * z_FZ.shape[1])
        # Where there are no two frames nothing is known: the usual value.
        log_F[~defined_F] = np.median(log_F[defined_F]) if defined_F.any() else 0.0
        columns += [log_F, log_F - _measure_neighbourhood(log_F)]
        if gap == 0:
            columns.append(log_F - _find_largest_beside(log_F))
    return columns


def _find_largest_beside(value_F: np.ndarray) -> np.ndarray:
    """Largest value of PEAK_REACH frames on each side, without the frame itself."""
    padded = np.pad(value_F, PEAK_REACH, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * PEAK_REACH + 1)
    return np.delete(windows, PEAK_REACH, axis=1).max(axis=1)


def _measure_neighbourhood(value_F: np.ndarray) -> np.ndarray:
    """Median over NEIGHBOURHOOD frames on each side, fewer at the ends."""
    padded = np.pad(value_F, NEIGHBOURHOOD, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURHOOD + 1)
    return np.nanmedian(windows, axis=1)


def fit_detector(videos: Sequence[tuple[np.ndarray, Sequence[Transition]]], seed: int) -> Detector:
    """Fits a detector to videos whose transitions are known.

    Args:
      videos: vectors [F, Z] of each training video, and its transitions.
      seed: of the trees.

    Raises:
      ValueError: if fewer than two videos have a transition.
    """
    if sum(bool(transitions) for _, transitions in videos) < 2:
        raise ValueError("a detector of boundaries needs two training videos that have some")
    # Those with transitions first, so that each half has some.
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
    """Returns the largest threshold of nearly the best mean F1.

    Each half of the videos is scored by trees of the other half. A third of the joined videos have
    nothing but fades, other videos have few: what is doubtful is less often a boundary there.
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
    """Labels frames NONE, CUT or FADE; -1 for those of a fade and close to it. int [F]

    The boundary of a fade is the middle of it and one frame on each side. The frames beside a cut
    are NONE: it is found to the frame.
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
    """Probability that a boundary is at each frame, [F]."""
    return 1.0 - predict_probability(trees, feature_FX, NONE)


def score_frames(detector: Detector, z_FZ: np.ndarray) -> np.ndarray:
    """Probability that a new shot begins at each frame, [F]; 0 at the first, which always does."""
    score_F = score_features(detector.trees, describe_frames(z_FZ, detector.precision_SZZ))
    score_F[0] = 0.0
    return score_F


def find_peaks(score_F: np.ndarray) -> list[tuple[int, float]]:
    """Returns (frame, score) of the largest scores that are at least MIN_DISTANCE frames apart."""
    left, right = np.roll(score_F, 1), np.roll(score_F, -1)
    left[0] = right[-1] = -np.inf
    candidates = np.flatnonzero((score_F >= left) & (score_F >= right) & (score_F > 0))
    kept: list[int] = []
    for frame in candidates[np.argsort(-score_F[candidates], kind="stable")]:
        if all(abs(frame - other) >= MIN_DISTANCE for other in kept):
            kept.append(int(frame))
    return [(frame, float(score_F[frame])) for frame in sorted(kept)]


def detect_boundaries(detector: Detector, z_FZ: np.ndarray) -> list[int]:
    """Returns the frames at which a new shot begins, ascending; frame 0 is not among them."""
    peaks = find_peaks(score_frames(detector, z_FZ))
    return [frame for frame, score in peaks if score >= detector.threshold]


# --- on disk --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Saved:
    """What is kept of a detector: what its trees are fitted to, instead of the trees."""

    precision_SZZ: np.ndarray
    examples: Examples
    threshold: float


def save_detector(path: str | os.PathLike, detector: Detector) -> None:
    """Writes a detector as .npz; no pickle."""
    save_fields(path, _Saved(detector.precision_SZZ, detector.trees.examples, detector.threshold))


def load_detector(path: str | os.PathLike) -> Detector:
    """Reads a detector and fits its trees again.

    Raises:
      ValueError: if there is no such file or it does not hold a detector.
    """
    what, remedy = "detector of boundaries", "run the task segment on the videos of the run first"
    saved = load_fields(path, _Saved, what, remedy)
    try:
        trees = fit_trees(saved.examples)
        score_features(trees, np.zeros((1, saved.examples.code_NX.shape[1])))
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{path} holds no {what} ({error}); {remedy}") from error
    return Detector(saved.precision_SZZ, trees, saved.threshold)


# --- how well boundaries are found ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Counts:
    """Boundaries over some videos: `matched` of `num_found` and of `num_true`."""

    matched: int
    num_found: int
    num_true: int

    @property
    def f1(self) -> float:
        """2 matched / (found + true), in [0, 1]; NaN if there is neither."""
        total = self.num_found + self.num_true
        return 2.0 * self.matched / total if total else float("nan")

    @property
    def precision(self) -> float:
        """Share of the found boundaries that are true; NaN if none is found."""
        return self.matched / self.num_found if self.num_found else float("nan")

    @property
    def recall(self) -> float:
        """Share of the true boundaries that are found; NaN if there is none."""
        return self.matched / self.num_true if self.num_true else float("nan")


def match_boundaries(
    found: Sequence[int], transitions: Sequence[Transition], tolerance: int
) -> int:
    """Counts the pairs of a largest one-to-one matching.

    A found frame may be paired with a transition if it lies within [first - tolerance,
    last + tolerance]. Transitions do not overlap, so taking them in order, each with the earliest
    frame that is left and fits, gives the largest matching.
    """
    frames, matched, next_frame = sorted(found), 0, 0
    for transition in sorted(transitions, key=lambda t: t.last):
        while next_frame < len(frames) and frames[next_frame] < transition.first - tolerance:
            next_frame += 1
        if next_frame < len(frames) and frames[next_frame] <= transition.last + tolerance:
            matched += 1
            next_frame += 1
    return matched


def count_matches(
    found: Sequence[Sequence[int]], references: Sequence[Sequence[Transition]], tolerance: int
) -> Counts:
    """Adds up the matches of several videos."""
    matched = sum(match_boundaries(f, r, tolerance) for f, r in zip(found, references))
    return Counts(matched, sum(map(len, found)), sum(map(len, references)))


def count_flash_alarms(found: Sequence[int], flashes: Sequence[tuple[int, int]]) -> int:
    """Counts the flashes with a found boundary from their first frame to the one after them."""
    return sum(any(first <= frame <= last + 1 for frame in found) for first, last in flashes)
