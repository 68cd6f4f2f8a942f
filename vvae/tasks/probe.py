"""Classifiers on frozen features: a linear probe and nearest neighbours.

A fitted probe consists of a few arrays. It is saved without pickle, and NumPy suffices to apply it.
"""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from vvae.task_table import TASKS
from vvae.tasks.npz_files import load_fields, save_fields

PROBE_FILE = TASKS["classify"].fitted
REGULARIZATIONS = tuple(float(c) for c in np.logspace(-4, 0, 5))
SCALINGS = ("each", "one")
MAX_FOLDS = 4
MAX_NEIGHBOURS = 20
NEIGHBOUR_TEMPERATURE = 0.07
MAX_ITERATIONS = 2000
# The largest gradient at the end of a fit that is only compared with others.
COARSE_TOLERANCE = 1e-3
# Smallest squared length of a direction, relative to the largest, in the span of the vectors.
MIN_VARIANCE = 1e-13


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a probe is fitted.

    Attributes:
      regularization: C, the inverse weight of the squared norm, as in scikit-learn.
      scaling: "each" divides each feature by its standard deviation; "one" divides all features
        by the root of their mean variance, so that weak features stay weak.
    """

    regularization: float
    scaling: str


@dataclasses.dataclass(frozen=True)
class Probe:
    """Standardisation and multinomial logistic regression.

    Attributes:
      mean_F, scale_F: features enter as (feature - mean) / scale.
      weight_FK, bias_K: logits are features @ weight + bias.
      class_names: K names.
      pooling: the pooling of the features.
    """

    mean_F: np.ndarray
    scale_F: np.ndarray
    weight_FK: np.ndarray
    bias_K: np.ndarray
    class_names: tuple[str, ...]
    pooling: str


def fit_probe(
    feature_VF: np.ndarray,
    label_V: np.ndarray,
    settings: Settings,
    class_names: tuple[str, ...],
    pooling: str,
) -> Probe:
    """Fits a probe.

    Args:
      feature_VF: one vector per video.
      label_V: class numbers 0, ..., K-1, each of which occurs.
      settings: regularization and scaling.
      class_names: K names.
      pooling: the pooling of the features.
    """
    rotated = _rotate(feature_VF, settings.scaling)
    with threadpool_limits(1):
        model = _make_classifier(settings.regularization).fit(rotated.inputs_VR, label_V)
        weight_FK = rotated.to_features(model.coef_.T)
    bias_K = model.intercept_
    if weight_FK.shape[1] == 1:  # two classes: scikit-learn has one logit, of the second
        weight_FK = np.concatenate([np.zeros_like(weight_FK), weight_FK], axis=1)
        bias_K = np.concatenate([[0.0], bias_K])
    return Probe(
        mean_F=rotated.mean_F,
        scale_F=rotated.scale_F,
        weight_FK=weight_FK,
        bias_K=bias_K,
        class_names=tuple(class_names),
        pooling=pooling,
    )


def _make_classifier(regularization: float, **options) -> LogisticRegression:
    return LogisticRegression(C=regularization, max_iter=MAX_ITERATIONS, **options)


@dataclasses.dataclass(frozen=True, eq=False)
class _Rotated:
    """Standardised vectors in a basis of their span, which has no more axes than vectors.

    The weights of a regularised fit lie in the span of the inputs, and their norm does not depend
    on the basis. So the fit to the coordinates is the same, and cheaper.

    Attributes:
      mean_F, scale_F: vectors are standardised as (feature - mean) / scale.
      inputs_VR: the coordinates of the vectors.
      basis_FR: orthonormal columns; None if the coordinates are the standardised vectors.
    """

    mean_F: np.ndarray
    scale_F: np.ndarray
    inputs_VR: np.ndarray
    basis_FR: np.ndarray | None

    def to_features(self, weight_RK: np.ndarray) -> np.ndarray:
        """Returns the weights of the standardised features, [F, K]."""
        return weight_RK if self.basis_FR is None else self.basis_FR @ weight_RK

    def apply(self, feature_VF: np.ndarray) -> np.ndarray:
        """Returns the coordinates of other vectors, [V, R]."""
        inputs_VF = (feature_VF - self.mean_F) / self.scale_F
        return inputs_VF if self.basis_FR is None else inputs_VF @ self.basis_FR


def _rotate(feature_VF: np.ndarray, scaling: str) -> _Rotated:
    """Standardises vectors, and rotates them if there are fewer vectors than features.

    The basis comes from the eigenvectors of the Gram matrix, which is faster than a singular value
    decomposition. Directions whose variance is lost in the rounding of that matrix are left out.
    """
    mean_F, scale_F = fit_standardization(feature_VF)
    if scaling == "one":
        spread = np.sqrt(np.mean(feature_VF.var(axis=0, dtype=np.float64)))
        scale_F = np.full_like(scale_F, spread if spread > 0.0 else 1.0)
    inputs_VF = (feature_VF - mean_F) / scale_F
    if len(inputs_VF) >= inputs_VF.shape[1]:
        return _Rotated(mean_F, scale_F, inputs_VF, None)
    with threadpool_limits(1):  # more are slower for matrices this small
        square_V, vector_VV = np.linalg.eigh(inputs_VF @ inputs_VF.T)
        kept_V = square_V > MIN_VARIANCE * max(square_V[-1], MIN_VARIANCE)
        length_R, vector_VR = np.sqrt(square_V[kept_V]), vector_VV[:, kept_V]
        basis_FR = inputs_VF.T @ (vector_VR / length_R)
    return _Rotated(mean_F, scale_F, vector_VR * length_R, basis_FR)


def fit_standardization(feature_VF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the scale of each feature, float64.

    The scale is the standard deviation, or 1 if the feature is constant.
    """
    feature_VF = feature_VF.astype(np.float64)
    mean_F, std_F = feature_VF.mean(axis=0), feature_VF.std(axis=0)
    constant_F = std_F <= 1e-6 * (np.abs(mean_F) + 1e-6)
    return mean_F, np.where(constant_F, 1.0, std_F)


def predict_logits(probe: Probe, feature_VF: np.ndarray) -> np.ndarray:
    """Returns the logits of the classes, float64 [V, K].

    Raises:
      ValueError: if the vectors are not as long as those that the probe was fitted to.
    """
    if feature_VF.shape[1] != len(probe.mean_F):
        raise ValueError(
            f"the probe reads {len(probe.mean_F)} features ({probe.pooling}), "
            f"got {feature_VF.shape[1]}"
        )
    return (feature_VF - probe.mean_F) / probe.scale_F @ probe.weight_FK + probe.bias_K


def predict_scores(probe: Probe, feature_VF: np.ndarray) -> np.ndarray:
    """Returns class probabilities, float64 [V, K]. Raises ValueError as `predict_logits` does."""
    return softmax(predict_logits(probe, feature_VF), axis=1)


def select_settings(
    feature_VF: np.ndarray, label_V: np.ndarray, group_V: np.ndarray
) -> tuple[Settings, float]:
    """Chooses regularization and scaling by cross-validation that keeps groups together.

    Args:
      feature_VF: training vectors.
      label_V: class numbers.
      group_V: the group of each video.

    Returns:
      The settings among `SCALINGS` and `REGULARIZATIONS` with the highest mean accuracy over the
      folds (the first of equals), and that accuracy, in [0, 1]. The standardisation is fitted
      within each fold, too.

    Raises:
      ValueError: if there is only one group.
    """
    num_folds = min(MAX_FOLDS, len(np.unique(group_V)))
    if num_folds < 2:
        raise ValueError(
            f"all training videos are of one group ({group_V[0]!r}), so that cross-validation "
            "cannot choose settings: state at least two groups in manifest.csv"
        )
    folds = list(GroupKFold(num_folds).split(feature_VF, label_V, group_V))
    parts = [(scaling, fold) for scaling in SCALINGS for fold in folds]
    # NumPy lets other threads run while it computes.
    with threadpool_limits(1), ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as threads:
        scored = threads.map(lambda part: _score_fold(feature_VF, label_V, *part), parts)
        accuracy_SFC = np.reshape(list(scored), (len(SCALINGS), len(folds), len(REGULARIZATIONS)))
    choices = [Settings(c, scaling) for scaling in SCALINGS for c in REGULARIZATIONS]
    accuracies = accuracy_SFC.mean(axis=1).ravel()
    best = int(np.argmax(accuracies))
    return choices[best], float(accuracies[best])


def _score_fold(feature_VF, label_V, scaling: str, fold) -> list[float]:
    """Returns the held-out accuracy of each regularization; each fit starts from the one before.

    These fits are only compared with each other: float32 and a coarse tolerance are enough.
    """
    fitted, held_out = fold
    classes, label = np.unique(label_V[fitted], return_inverse=True)
    if len(classes) < 2:
        share = float(np.mean(label_V[held_out] == classes[0]))
        return [share] * len(REGULARIZATIONS)
    rotated = _rotate(feature_VF[fitted], scaling)
    inputs_VR = rotated.inputs_VR.astype(np.float32)
    held_VR = rotated.apply(feature_VF[held_out]).astype(np.float32)
    model = _make_classifier(REGULARIZATIONS[0], warm_start=True, tol=COARSE_TOLERANCE)
    accuracies = []
    for regularization in REGULARIZATIONS:
        model.set_params(C=regularization).fit(inputs_VR, label)
        predicted = classes[model.predict(held_VR)]
        accuracies.append(float(np.mean(predicted == label_V[held_out])))
    return accuracies


def knn_scores(
    train_VF: np.ndarray, train_label_V: np.ndarray, test_VF: np.ndarray, num_classes: int
) -> np.ndarray:
    """Scores classes by the nearest training videos.

    Features are standardised by the training videos and compared by cosine. Each of the 20 nearest
    training videos (or of all, if there are fewer) votes for its class with weight
    exp(cosine / 0.07).

    Returns:
      Scores [V, num_classes]; each row sums to 1.

    References:
      Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018
    """
    mean_F, scale_F = fit_standardization(train_VF)
    train, test = (normalize_rows((x - mean_F) / scale_F) for x in (train_VF, test_VF))
    cosine = test @ train.T
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :MAX_NEIGHBOURS]
    weight = np.exp((np.take_along_axis(cosine, nearest, axis=1) - 1.0) / NEIGHBOUR_TEMPERATURE)
    scores = np.zeros((len(test), num_classes))
    rows = np.arange(len(test))[:, None]
    np.add.at(scores, (rows, train_label_V[nearest]), weight)
    return scores / scores.sum(axis=1, keepdims=True)


def normalize_rows(x_VF: np.ndarray) -> np.ndarray:
    """Scales vectors [V, F] to length 1; zeros stay zeros."""
    return x_VF / np.maximum(np.linalg.norm(x_VF, axis=1, keepdims=True), 1e-12)


def save_probe(path: str | os.PathLike, probe: Probe) -> None:
    """Writes a probe as .npz; no pickle."""
    save_fields(path, probe)


def load_probe(path: str | os.PathLike) -> Probe:
    """Reads a probe.

    Raises:
      ValueError: if the file is missing or does not hold a probe.
    """
    return load_fields(path, Probe, "probe", "run the task classify on labelled videos first")
