"""Accuracies of classifiers."""

import math

import numpy as np


def top_k_accuracy(scores_VK: np.ndarray, label_V: np.ndarray, k: int) -> float:
    """Returns the share, in [0, 1], of rows whose label is among the k highest scores.

    Of equal scores, the class with the lower number comes first, so that a constant score is not
    always right.
    """
    order_VK = np.argsort(-scores_VK, axis=1, kind="stable")
    return float(np.mean((order_VK[:, :k] == label_V[:, None]).any(axis=1)))


def mean_class_accuracy(confusion_KK: np.ndarray) -> float:
    """Returns the mean recall, in [0, 1], of the classes that occur."""
    count_K = confusion_KK.sum(axis=1)
    occurs = count_K > 0
    return float(np.mean(np.diagonal(confusion_KK)[occurs] / count_K[occurs]))


def f1_from_counts(hit_V: np.ndarray, false_V: np.ndarray, missed_V: np.ndarray) -> float:
    """Returns F1, in [0, 1], of all cases together; NaN if nothing was there and nothing was found.

    Args:
      hit_V: The true positives of each case.
      false_V: The false positives.
      missed_V: The false negatives.
    """
    total = 2 * np.sum(hit_V) + np.sum(false_V) + np.sum(missed_V)
    return float(2 * np.sum(hit_V) / total) if total else math.nan
