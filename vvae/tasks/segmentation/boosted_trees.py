"""Boosted trees that are saved as their training examples and fitted again when they are loaded.

scikit-learn saves fitted trees only as pickles, and loading a pickle can run arbitrary code. skops
runs no code, but it does not check the node indices of a file, and scikit-learn reads memory out of
bounds for wrong ones. Its files also name private classes, which differ between versions of
scikit-learn. Fitting again takes seconds and gives the same trees.
"""

import dataclasses

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

NUM_BINS = 255  # the maximum of HistGradientBoostingClassifier


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The training examples of trees.

    Attributes:
      edge_XE: float64; the quantiles of each feature over the examples, ascending.
      code_NX: uint8; the number of edges below each feature. The trees see only these codes.
      label_N: int; the class of each example.
      seed: The seed of the fit.
    """

    edge_XE: np.ndarray
    code_NX: np.ndarray
    label_N: np.ndarray
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Trees:
    """Fitted trees and their training examples."""

    examples: Examples
    classifier: HistGradientBoostingClassifier


def make_examples(feature_NX: np.ndarray, label_N: np.ndarray, seed: int) -> Examples:
    """Makes training examples.

    Args:
      feature_NX: float; the features of each example.
      label_N: int; the class of each example.
      seed: The seed of the fit.
    """
    shares = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
    edge_EX = np.quantile(feature_NX, shares, axis=0, method="averaged_inverted_cdf")
    edge_XE = np.ascontiguousarray(edge_EX.T)
    code_NX = encode_features(edge_XE, feature_NX)
    return Examples(edge_XE=edge_XE, code_NX=code_NX, label_N=label_N, seed=seed)


def encode_features(edge_XE: np.ndarray, feature_NX: np.ndarray) -> np.ndarray:
    """Counts the edges below each feature, uint8 [N, X]."""
    columns = [np.searchsorted(*pair) for pair in zip(edge_XE, feature_NX.T, strict=True)]
    return np.stack(columns, axis=1).astype(np.uint8)


def fit_trees(examples: Examples) -> Trees:
    """Fits trees. The same examples give the same trees.

    Raises:
      ValueError: If the examples have fewer than two classes, or the shapes of their arrays do not
        match.
    """
    classifier = HistGradientBoostingClassifier(
        max_depth=4,
        max_iter=80,
        learning_rate=0.1,
        early_stopping=False,
        random_state=examples.seed,
    )
    # One thread needs a second; several threads on busy processors can need a minute.
    with threadpool_limits(1, user_api="openmp"):
        classifier.fit(examples.code_NX, examples.label_N)
    return Trees(examples, classifier)


def predict_probability(trees: Trees, feature_NX: np.ndarray, label: int) -> np.ndarray:
    """Returns the probability of a class for each row of features, float64 [N]."""
    with threadpool_limits(1, user_api="openmp"):
        code_NX = encode_features(trees.examples.edge_XE, feature_NX)
        probability_NK = trees.classifier.predict_proba(code_NX)
    return probability_NK[:, list(trees.classifier.classes_).index(label)]
