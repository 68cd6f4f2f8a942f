"""A detector of unwanted content: a calibrated linear probe on few marked videos, and a threshold.

It reads features of windows, as NumPy arrays. The score of a video is the highest score of its
windows, so that a video is called unwanted if and only if one of its windows is.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from vvae.metrics.detection import average_precision, balance_kinds, find_threshold
from vvae.program import name_command
from vvae.task_table import TASKS
from vvae.tasks import probe as probes
from vvae.tasks.anomaly.scorer import find_peaks
from vvae.tasks.npz_files import load_fields, save_fields
from vvae.tasks.probe import Probe, Settings

DETECTOR_FILE = TASKS["moderate"].fitted
KINDS = ("wanted", "unwanted")
MIN_MARKS = 2
MAX_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Marked:
    """The windows of V videos that are marked as wanted or unwanted.

    Attributes:
      feature_NF: The features of each window.
      video_N: int; the video of each window. Each of 0, ..., V - 1 occurs.
      unwanted_V: bool; whether each video is marked unwanted.
      group_V: The group of each video. Videos of a group are never split between fitting and
        held-out data.
    """

    feature_NF: np.ndarray
    video_N: np.ndarray
    unwanted_V: np.ndarray
    group_V: np.ndarray


@dataclasses.dataclass(frozen=True)
class Detector:
    """A probe whose logit is the score, its calibration, and a threshold.

    Attributes:
      probe: A logistic regression on the pooled latents of a window with the classes wanted and
        unwanted. Its bias is corrected to equal numbers of windows of both classes.
      slope: The slope of the calibration: probability = sigmoid(slope * score + offset) if wanted
        and unwanted videos are equally frequent.
      offset: The offset of the calibration.
      threshold: Scores above it are called unwanted.
      rate: The stated false-positive rate of videos.
      num_wanted: The number of held-out wanted videos that the threshold was set by.
      unwanted_class: The class that was declared unwanted; empty if videos were marked one by one.
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
    """A fitted detector with the results of cross-validation.

    Attributes:
      detector: The detector.
      regularization: The chosen C.
      score_V: float64; the held-out score of each marked video: that of a fit without its group.
    """

    detector: Detector
    regularization: float
    score_V: np.ndarray


def score_windows(detector: Detector, feature_NF: np.ndarray) -> np.ndarray:
    """Returns the score of each window, float64 [N]: the logit of unwanted minus that of wanted."""
    return _score(detector.probe, feature_NF)


def to_probability(detector: Detector, score: np.ndarray) -> np.ndarray:
    """Returns the calibrated probability of unwanted for each score.

    Note:
      The probabilities assume that wanted and unwanted videos are equally frequent. If a share s is
      unwanted, multiply the odds by s / (1 - s).
    """
    return 0.5 * (1.0 + np.tanh(0.5 * (detector.slope * score + detector.offset)))


def _score(probe: Probe, feature_NF: np.ndarray) -> np.ndarray:
    logit_N2 = probes.predict_logits(probe, feature_NF)
    return logit_N2[:, 1] - logit_N2[:, 0]


def fit_detector(marked: Marked, rate: float, pooling: str, unwanted_class: str) -> Fit:
    """Fits a detector to marked training videos.

    Cross-validation over groups gives a held-out score for each video. These scores determine the
    regularization, by the best average precision, the calibration and, from the wanted videos, the
    threshold.

    Args:
      marked: The windows of the marked videos.
      rate: The false-positive rate of the threshold, between 0 and 1.
      pooling: The pooling of the features, which is saved in the probe.
      unwanted_class: The class that was declared unwanted, which is saved in the detector.

    Raises:
      ValueError: If fewer than two videos are marked wanted or unwanted, or they belong to too few
        groups to hold one out.
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
        probe=probe,
        slope=slope,
        offset=offset,
        threshold=threshold.value,
        rate=rate,
        num_wanted=threshold.num_normal,
        unwanted_class=unwanted_class,
    )
    return Fit(detector=detector, regularization=best, score_V=scores[best])


def split_groups(marked: Marked) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits the videos into folds; returns the (fitted, held-out) videos of each.

    No group has videos in both.

    Raises:
      ValueError: If there are too few marked videos or groups for each fit to see both kinds.
    """
    num_groups = []
    for kind, chosen_V in zip(KINDS, (~marked.unwanted_V, marked.unwanted_V)):
        if chosen_V.sum() < MIN_MARKS:
            raise ValueError(
                f"{chosen_V.sum()} training videos are marked {kind}: moderate needs at least "
                f"{MIN_MARKS} wanted and {MIN_MARKS} unwanted ones"
            )
        groups = np.unique(marked.group_V[chosen_V])
        if len(groups) < 2:
            raise ValueError(
                f"all training videos that are marked {kind} belong to one group ({groups[0]!r}), "
                "so that none can be held out: mark videos of another group"
            )
        num_groups.append(len(groups))
    splitter = StratifiedGroupKFold(min(MAX_FOLDS, *num_groups))
    folds = list(splitter.split(marked.unwanted_V, marked.unwanted_V, marked.group_V))
    for fitted, _ in folds:
        if len(np.unique(marked.unwanted_V[fitted])) < 2:
            raise ValueError(
                "the marked videos belong to too few groups: if one group is held out, the others "
                "have only wanted or only unwanted videos; mark videos of more groups"
            )
    return folds


def _fit(marked: Marked, videos: np.ndarray, settings: Settings, pooling: str) -> Probe:
    own_N = np.isin(marked.video_N, videos)
    label_N = marked.unwanted_V[marked.video_N[own_N]].astype(int)
    probe = probes.fit_probe(marked.feature_NF[own_N], label_N, settings, KINDS, pooling)
    # Corrects the bias to equal class frequencies. Otherwise, a fold that holds out many videos of
    # a class would score this class lower than other folds do.
    share = label_N.mean()
    return dataclasses.replace(probe, bias_K=probe.bias_K - [0.0, np.log(share / (1 - share))])


def _score_held_out(marked: Marked, folds, settings: Settings, pooling: str) -> np.ndarray:
    score_V = np.empty(len(marked.unwanted_V))
    for fitted, held_out in folds:
        probe = _fit(marked, fitted, settings, pooling)
        own_N = np.isin(marked.video_N, held_out)
        # `held_out` and the result of `find_peaks` are both in ascending order of the videos.
        score_V[held_out] = find_peaks(
            _score(probe, marked.feature_NF[own_N]), marked.video_N[own_N]
        )
    return score_V


def fit_calibration(score_V: np.ndarray, unwanted_V: np.ndarray) -> tuple[float, float]:
    """Fits probability = sigmoid(slope * score + offset), with equal total weight of both classes.

    The targets are (N + 1) / (N + 2) and 1 / (N + 2) instead of 1 and 0, where N is the number of
    videos of the class, so that a few well-separated videos do not give probabilities of 0 and 1.
    The slope is not negative: if unwanted videos score lower than wanted ones, it is 0, and all
    probabilities are equal.

    Args:
      score_V: The held-out score of each video.
      unwanted_V: bool; whether each video is unwanted. Both kinds must occur.

    Returns:
      The slope and the offset.

    References:
      Platt, Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized
      Likelihood Methods, 1999, section 2.2.
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
    """Writes a detector as .npz, without pickle."""
    save_fields(path, detector)


def load_detector(path: str | os.PathLike) -> Detector:
    """Reads the detector of a run, RUN/eval/moderate.npz.

    Raises:
      ValueError: If there is no such file or it does not hold a detector; the message ends with the
        command that fits one.
    """
    command = f"{name_command('evaluate moderate')} --workdir {Path(path).parent.parent}"
    remedy = f"fit one to the run's own videos: {command} --unwanted CLASS (or --marks FILE.csv)"
    return load_fields(path, Detector, "detector", remedy)
