"""Labels of the videos that both splits share, and how well they are recognised."""

import dataclasses
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from vvae.data.clips import NO_LABEL
from vvae.metrics.cards import Interval, Metric, make_metric
from vvae.metrics.classification import mean_class_accuracy, top_k_accuracy
from vvae.metrics.intervals import Units, estimate_interval, estimate_mean, resample_ratio

MIN_CLASS_VIDEOS = 2
BY_VIDEO = "over videos; features of a video's clips are averaged"
DEFINITIONS = {
    "top1": "share of videos whose class has the highest score",
    "top5": "share of videos whose class is among the five highest scores",
    "mean_class": "mean over the classes of the share of their videos that are recognised",
}


@dataclasses.dataclass(frozen=True)
class LabelledSplits:
    """The labelled videos of two splits, with classes numbered 0, ..., K-1.

    Attributes:
      train_V, test_V: bool, whether a video has a label.
      train_label_V, test_label_V: class numbers of the videos with a label.
      class_names: K names.
    """

    train_V: np.ndarray
    test_V: np.ndarray
    train_label_V: np.ndarray
    test_label_V: np.ndarray
    class_names: tuple[str, ...]


def match_labels(
    train_label_V: np.ndarray, test_label_V: np.ndarray, class_names: tuple[str, ...]
) -> LabelledSplits:
    """Finds the classes that can be learned and measured.

    Args:
      train_label_V, test_label_V: class ids of the videos, -1 for no label.
      class_names: by class id.

    Raises:
      ValueError: if no video or only one class is labelled, if a class has only one training
        video, or if a class of test videos has none.
    """
    train_V, test_V = train_label_V != NO_LABEL, test_label_V != NO_LABEL
    classes, count = np.unique(train_label_V[train_V], return_counts=True)
    if not test_V.any() or not train_V.any():
        raise ValueError(
            "classify needs labelled videos to learn from and to test on: sort them into one "
            "folder a class, or fill the column `label` of manifest.csv"
        )
    unknown = np.setdiff1d(test_label_V[test_V], classes)
    if len(unknown):
        raise ValueError(
            f"class {class_names[unknown[0]]!r} has test videos but no training video: add some, "
            "or leave the class out"
        )
    if len(classes) < 2:
        raise ValueError(
            f"all labelled training videos are of one class ({class_names[classes[0]]!r}): "
            "classify needs two or more"
        )
    if count.min() < MIN_CLASS_VIDEOS:
        raise ValueError(
            f"class {class_names[classes[count.argmin()]]!r} has one training video, too few to "
            f"learn and to choose settings: add videos until it has {MIN_CLASS_VIDEOS}, or leave "
            "the class out"
        )
    return LabelledSplits(
        train_V=train_V,
        test_V=test_V,
        train_label_V=np.searchsorted(classes, train_label_V[train_V]),
        test_label_V=np.searchsorted(classes, test_label_V[test_V]),
        class_names=tuple(class_names[c] for c in classes),
    )


def list_metrics(num_classes: int) -> tuple[str, ...]:
    """Returns the names of the metrics; the best five of five classes or fewer are always right."""
    return tuple(name for name in DEFINITIONS if name != "top5" or num_classes > 5)


def score_recognition(
    scores_VK: np.ndarray, label_V: np.ndarray, context: dict[str, Any], units: Units | None = None
) -> dict[str, Metric]:
    """Returns top1, top5 (for more than five classes) and mean_class, in [0, 1].

    Args:
      scores_VK: any scores that are higher for more probable classes.
      label_V: class numbers.
      context: further entries of every metric card.
      units: the independent units of the videos, for intervals; None for none.
    """
    confusion_KK = count_confusions(scores_VK, label_V)
    values = {
        "top1": top_k_accuracy(scores_VK, label_V, 1),
        "top5": top_k_accuracy(scores_VK, label_V, 5),
        "mean_class": mean_class_accuracy(confusion_KK),
    }
    intervals = {} if units is None else _estimate_intervals(scores_VK, label_V, units)
    return {
        name: dataclasses.replace(
            make_metric(name, values[name], "", DEFINITIONS[name], BY_VIDEO, **context),
            interval=intervals.get(name),
        )
        for name in list_metrics(scores_VK.shape[1])
    }


def _estimate_intervals(
    scores_VK: np.ndarray, label_V: np.ndarray, units: Units
) -> dict[str, Interval | None]:
    hit_V = find_hits(scores_VK, label_V, 1)
    recalls_KR = np.stack(
        [resample_ratio(units, hit_V & (label_V == k), label_V == k) for k in np.unique(label_V)]
    )
    with np.errstate(invalid="ignore"):
        missing_KR = np.isnan(recalls_KR)
        mean_R = np.where(missing_KR, 0.0, recalls_KR).sum(axis=0) / (~missing_KR).sum(axis=0)
    mean_class = mean_class_accuracy(count_confusions(scores_VK, label_V))
    return {
        "top1": estimate_mean(units, hit_V),
        "top5": estimate_mean(units, find_hits(scores_VK, label_V, 5)),
        "mean_class": estimate_interval(units, mean_class, mean_R),
    }


def find_hits(scores_VK: np.ndarray, label_V: np.ndarray, k: int = 1) -> np.ndarray:
    """Returns whether the label of each video is among its k highest scores, bool [V].

    Equal scores are ordered as by `top_k_accuracy`.
    """
    order_VK = np.argsort(-scores_VK, axis=1, kind="stable")
    return (order_VK[:, :k] == label_V[:, None]).any(axis=1)


def count_confusions(scores_VK: np.ndarray, label_V: np.ndarray) -> np.ndarray:
    """Returns the confusion matrix [K, K] of the highest scores; rows are the true classes."""
    classes_K = np.arange(scores_VK.shape[1])
    return confusion_matrix(label_V, scores_VK.argmax(axis=1), labels=classes_K)
