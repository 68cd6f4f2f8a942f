"""Boosted trees of scikit-learn as plain arrays, which can be saved without pickle."""

import dataclasses

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier


@dataclasses.dataclass(frozen=True, eq=False)
class Trees:
    """Boosted classification trees, in the order in which their values are added up.

    Attributes:
      class_K: int, the classes, ascending.
      baseline_R: score of each class before the first tree; of the second class alone where there
        are two, since the first then scores 0.
      output_E: int, to which of the R scores each tree adds.
      root_E: int, the first node of each tree among the nodes of all trees.
      feature_M, threshold_M: which feature a node looks at; values up to the threshold go left.
      left_M, right_M: int, the next nodes; a leaf is followed by itself.
      value_M: what a leaf adds.
    """

    class_K: np.ndarray
    baseline_R: np.ndarray
    output_E: np.ndarray
    root_E: np.ndarray
    feature_M: np.ndarray
    threshold_M: np.ndarray
    left_M: np.ndarray
    right_M: np.ndarray
    value_M: np.ndarray


def take_trees(classifier: HistGradientBoostingClassifier) -> Trees:
    """Returns the trees of a fitted classifier, for features that are numbers and never missing."""
    rounds = classifier._predictors
    parts = [tree.nodes for trees in rounds for tree in trees]
    size_E = np.array([len(nodes) for nodes in parts])
    root_E = np.cumsum(size_E) - size_E
    nodes_M, first_M = np.concatenate(parts), np.repeat(root_E, size_E)
    number_M, is_leaf_M = np.arange(len(nodes_M)), nodes_M["is_leaf"].astype(bool)
    return Trees(
        class_K=classifier.classes_.astype(int),
        baseline_R=np.ravel(classifier._baseline_prediction),
        output_E=np.concatenate([np.arange(len(trees)) for trees in rounds]),
        root_E=root_E,
        feature_M=nodes_M["feature_idx"].astype(int),
        threshold_M=nodes_M["num_threshold"],
        left_M=np.where(is_leaf_M, number_M, first_M + nodes_M["left"]),
        right_M=np.where(is_leaf_M, number_M, first_M + nodes_M["right"]),
        value_M=nodes_M["value"],
    )


def predict_probabilities(trees: Trees, feature_NX: np.ndarray) -> np.ndarray:
    """Probabilities of the classes, [N, K], as `predict_proba` of the classifier gives them."""
    score_NR = np.tile(trees.baseline_R, (len(feature_NX), 1))
    for output, root in zip(trees.output_E, trees.root_E):
        score_NR[:, output] += trees.value_M[_find_leaves(trees, root, feature_NX)]
    if score_NR.shape[1] == 1:
        score_NR = np.concatenate([np.zeros_like(score_NR), score_NR], axis=1)
    weight_NK = np.exp(score_NR - score_NR.max(axis=1, keepdims=True))
    return weight_NK / weight_NK.sum(axis=1, keepdims=True)


def _find_leaves(trees: Trees, root: int, feature_NX: np.ndarray) -> np.ndarray:
    """Follows the nodes of one tree from its root to the leaf of each row, int [N]."""
    rows, node_N = np.arange(len(feature_NX)), np.full(len(feature_NX), root)
    while True:
        goes_left = feature_NX[rows, trees.feature_M[node_N]] <= trees.threshold_M[node_N]
        next_N = np.where(goes_left, trees.left_M[node_N], trees.right_M[node_N])
        if np.array_equal(next_N, node_N):
            return node_N
        node_N = next_N
