"""A detector of unwanted content: a probe on few marks, calibrated, with a threshold.

Pure NumPy on features of windows. A video is as unwanted as its worst window: its score is the
highest of theirs, so that it is called unwanted exactly where a window of it is.
"""

import dataclasses
import os

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from vvae.metrics.detection import average_precision, balance_kinds, find_threshold
from vvae.tasks import probe as probes
from vvae.tasks.anomaly.scorer import find_peaks
from vvae.tasks.npz_files import load_fields, save_fields
from vvae.tasks.probe import Probe, Settings

DETECTOR_FILE = "moderate.npz"
KINDS = ("wanted", "unwanted")
MIN_MARKS = 2
MAX_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Marked:
    """Windows of marked videos.

    Attributes:
      feature_NF: one vector a window.
      video_N: the video of each, 0, ..., V-1, each of which occurs.
      unwanted_V: bool, the marks.
      group_V: what must not be on both sides of a fit.
    """

    feature_NF: np.ndarray
    video_N: np.ndarray
    unwanted_V: np.ndarray
    group_V: np.ndarray


@dataclasses.dataclass(frozen=True)
class Detector:
    """A probe whose logit is the score, what makes it a probability, and a threshold.

    Attributes:
      probe: logistic regression on pooled latents of a window, classes wanted and unwanted; its
        bias is that for as many windows of either.
      slope, offset: probability = sigmoid(slope * score + offset), if both kinds are as frequent.
      threshold: a score above it is called unwanted.
      rate: the stated false-positive rate of videos.
      num_wanted: held-out wanted videos that the threshold was set by.
      unwanted_class: the class that was declared unwanted; empty if videos were marked one by one.
    """

    probe: Probe
    slope: float
    offset: float
    threshold: float
    rate: float
    num_wanted: int
    unwanted_class: str


@dataclasses.dataclass(frozen=True)
class Fit:
    """A detector, and what was seen on the way.

    Attributes:
      detector: the result.
      regularization: the chosen C.
      score_V: of the marked videos, each by a fit that has not seen its group.
    """

    detector: Detector
    regularization: float
    score_V: np.ndarray


def score_windows(detector: Detector, feature_NF: np.ndarray) -> np.ndarray:
    """Returns the score of each window, the probe's logit of unwanted, float64 [N]."""
    return _score(detector.probe, feature_NF)


def to_probability(detector: Detector, score: np.ndarray) -> np.ndarray:
    """Returns calibrated probabilities that what has these scores is unwanted.

    They hold where wanted and unwanted videos are as frequent; where a share s is unwanted,
    multiply the odds by s / (1 - s).
    """
    return 0.5 * (1.0 + np.tanh(0.5 * (detector.slope * score + detector.offset)))


def _score(probe: Probe, feature_NF: np.ndarray) -> np.ndarray:
    logit_N2 = probes.predict_logits(probe, feature_NF)
    return logit_N2[:, 1] - logit_N2[:, 0]


def fit_detector(marked: Marked, rate: float, pooling: str, unwanted_class: str) -> Fit:
    """Fits a detector to marked training videos.

    Each video is scored by a fit without its group; from these scores come the regularization (the
    best average precision), the calibration, and the threshold (those of wanted videos).

    Args:
      marked: windows of marked videos.
      rate: stated false-positive rate, between 0 and 1.
      pooling: which features these are.
      unwanted_class: goes into the detector.

    Raises:
      ValueError: if there are fewer than two marks of a kind, or they are of one group.
    """
    folds = split_groups(marked)
    scores = {
        c: _score_held_out(marked, folds, Settings(c, "each"), pooling)
        for c in probes.REGULARIZATIONS
    }
    best = max(scores, key=lambda c: average_precision(scores[c], marked.unwanted_V))
    probe = _fit(marked, np.arange(len(marked.unwanted_V)), Settings(best, "each"), pooling)
    slope, offset = fit_calibration(scores[best], marked.unwanted_V)
    threshold = find_threshold(scores[best][~marked.unwanted_V], rate)
    detector = Detector(
        probe, slope, offset, threshold.value, rate, threshold.num_normal, unwanted_class
    )
    return Fit(detector, best, scores[best])


def split_groups(marked: Marked) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (fitted, held-out) videos of each fold; no group is on both sides.

    Raises:
      ValueError: if there are too few marks or groups of a kind for both to be fitted to each time.
    """
    num_groups = []
    for kind, chosen_V in zip(KINDS, (~marked.unwanted_V, marked.unwanted_V)):
        if chosen_V.sum() < MIN_MARKS:
            raise ValueError(
                f"{chosen_V.sum()} training videos are marked {kind}: moderate needs at least "
                f"{MIN_MARKS} of each kind"
            )
        groups = np.unique(marked.group_V[chosen_V])
        if len(groups) < 2:
            raise ValueError(
                f"all training videos that are marked {kind} are of one group ({groups[0]!r}), so "
                "that none can be held out: mark videos of another group"
            )
        num_groups.append(len(groups))
    splitter = StratifiedGroupKFold(min(MAX_FOLDS, *num_groups))
    folds = list(splitter.split(marked.unwanted_V, marked.unwanted_V, marked.group_V))
    for fitted, _ in folds:
        if len(np.unique(marked.unwanted_V[fitted])) < 2:
            raise ValueError(
                "the marks are of too few groups: where one is held out, no mark of one kind is "
                "left; mark videos of more groups"
            )
    return folds


def _fit(marked: Marked, videos: np.ndarray, settings: Settings, pooling: str) -> Probe:
    own_N = np.isin(marked.video_N, videos)
    label_N = marked.unwanted_V[marked.video_N[own_N]].astype(int)
    probe = probes.fit_probe(marked.feature_NF[own_N], label_N, settings, KINDS, pooling)
    # Without this a fold with many held-out marks of a kind would score that kind lower.
    share = label_N.mean()
    return dataclasses.replace(probe, bias_K=probe.bias_K - [0.0, np.log(share / (1 - share))])


def _score_held_out(marked: Marked, folds, settings: Settings, pooling: str) -> np.ndarray:
    score_V = np.empty(len(marked.unwanted_V))
    for fitted, held_out in folds:
        probe = _fit(marked, fitted, settings, pooling)
        own_N = np.isin(marked.video_N, held_out)
        # Both are in ascending order of the videos.
        score_V[held_out] = find_peaks(
            _score(probe, marked.feature_NF[own_N]), marked.video_N[own_N]
        )
    return score_V


def fit_calibration(score_V: np.ndarray, unwanted_V: np.ndarray) -> tuple[float, float]:
    """Fits probability = sigmoid(slope * score + offset), both kinds weighted to one half.

    Targets are (N + 1) / (N + 2) and 1 / (N + 2) instead of 1 and 0 (Platt 1999, section 2.2), so
    that a few marks that are told apart do not make it certain. Calibration reverses no ranking:
    where held-out scores are the wrong way round, the slope is 0 and all probabilities are equal.
    """
    num_unwanted, num_wanted = int(unwanted_V.sum()), int((~unwanted_V).sum())
    target_V = np.where(unwanted_V, (num_unwanted + 1) / (num_unwanted + 2), 1 / (num_wanted + 2))
    weight_V = len(score_V) * balance_kinds(unwanted_V)
    centre, scale = float(score_V.mean()), max(float(score_V.std()), 1e-12)
    inputs = np.tile((score_V - centre) / scale, 2)[:, None]
    weights = np.concatenate([weight_V * target_V, weight_V * (1 - target_V)])
    model = LogisticRegression(C=1e6, max_iter=probes.MAX_ITERATIONS)
    model.fit(inputs, np.repeat([1, 0], len(score_V)), sample_weight=weights)
    slope = float(model.coef_[0, 0]) / scale
    if slope <= 0:
        share = float(np.average(target_V, weights=weight_V))
        return 0.0, float(np.log(share / (1 - share)))
    return slope, float(model.intercept_[0]) - slope * centre


def save_detector(path: str | os.PathLike, detector: Detector) -> None:
    """Writes a detector as .npz; no pickle."""
    save_fields(path, detector)


def load_detector(path: str | os.PathLike) -> Detector:
    """Reads a detector.

    Raises:
      ValueError: if there is no such file or it does not hold a detector.
    """
    remedy = "run the task moderate on the videos of the run first"
    return load_fields(path, Detector, "detector", remedy)
