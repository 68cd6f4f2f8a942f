"""Fits clusters to training vectors, assigns other vectors to them, and compares them with labels.

Vectors are divided by one number, the root of the mean variance of the training vectors, so that
the constant that is added to variances for stability does not depend on their unit.
"""

import dataclasses

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

MAX_CLUSTERS = 20
PATIENCE = 4
COVARIANCES = ("full", "diag")
NUM_STARTS = 3
ADDED_VARIANCE = 1e-4
MAX_ITERATIONS = 300


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Fitted clusters, to which any vectors can be assigned.

    Attributes:
      fitted: the estimator of scikit-learn.
      offset_F, scale: the estimator reads (vector - offset) / scale.
      num_clusters: K; some may be empty.
      text: a description of what was fitted.
      bic: Bayesian information criterion on the training vectors, lower is better; None for
        k-means.
    """

    fitted: GaussianMixture | KMeans
    offset_F: np.ndarray
    scale: float
    num_clusters: int
    text: str
    bic: float | None


@dataclasses.dataclass(frozen=True)
class Grouping:
    """Clusters of the videos of both splits.

    Attributes:
      train_V, test_V: int64, the cluster of each video.
      rating_VK: how well each measured video fits each cluster; its own has the highest rating.
      num_clusters: K.
      text: a description of what was clustered, and how.
    """

    train_V: np.ndarray
    test_V: np.ndarray
    rating_VK: np.ndarray
    num_clusters: int
    text: str


def fit_gmm(
    train_NF: np.ndarray, num_clusters: int, seed: int, num_starts: int = NUM_STARTS
) -> Clusters:
    """Fits a mixture of num_clusters Gaussians; BIC chooses full or diagonal covariances.

    Args:
      train_NF: training vectors.
      num_clusters: K.
      seed: the seed of the starts.
      num_starts: the number of starts, of which the best is kept.

    Raises:
      ValueError: if there are fewer vectors than clusters.
    """
    _require_enough(train_NF, num_clusters)
    offset_F, scale = _fit_scale(train_NF)
    fits = [
        _fit_covariances((train_NF - offset_F) / scale, num_clusters, covariances, seed, num_starts)
        for covariances in COVARIANCES
    ]
    bic, fitted = min(fits, key=lambda fit: fit[0])
    text = f"mixture of {num_clusters} Gaussians, {fitted.covariance_type} covariances by BIC"
    return Clusters(
        fitted=fitted,
        offset_F=offset_F,
        scale=scale,
        num_clusters=num_clusters,
        text=text,
        bic=bic,
    )


def _fit_covariances(vector_NF, num_clusters: int, covariances: str, seed: int, num_starts: int):
    model = GaussianMixture(
        num_clusters,
        covariance_type=covariances,
        n_init=num_starts,
        reg_covar=ADDED_VARIANCE,
        max_iter=MAX_ITERATIONS,
        random_state=seed,
    )
    with threadpool_limits(1):
        model.fit(vector_NF)
        return float(model.bic(vector_NF)), model


def select_gmm(
    train_NF: np.ndarray, seed: int, max_clusters: int = MAX_CLUSTERS
) -> tuple[Clusters, dict[int, float]]:
    """Fits mixtures of 1, 2, ... Gaussians and returns the one with the lowest BIC.

    The search ends at max_clusters, or after 4 numbers in a row without a lower BIC.

    Args:
      train_NF: two or more training vectors.
      seed: the seed of the starts.
      max_clusters: the largest number of clusters to try.

    Returns:
      (clusters, BIC by number of clusters).
    """
    bic_by_number: dict[int, float] = {}
    best = None
    for number in range(1, min(max_clusters, len(train_NF)) + 1):
        clusters = fit_gmm(train_NF, number, seed, num_starts=1)
        bic_by_number[number] = clusters.bic
        if best is None or clusters.bic < best.bic:
            best = clusters
        if number - best.num_clusters >= PATIENCE:
            break
    text = f"{best.text}, their number by BIC among 1 to {max(bic_by_number)}"
    return dataclasses.replace(best, text=text), bic_by_number


def fit_kmeans(train_NF: np.ndarray, num_clusters: int, seed: int) -> Clusters:
    """Fits k-means; the arguments and the error are those of `fit_gmm`."""
    _require_enough(train_NF, num_clusters)
    offset_F, scale = _fit_scale(train_NF)
    with threadpool_limits(1):
        fitted = KMeans(num_clusters, n_init=10, random_state=seed)
        fitted.fit((train_NF - offset_F) / scale)
    return Clusters(
        fitted=fitted,
        offset_F=offset_F,
        scale=scale,
        num_clusters=num_clusters,
        text=f"k-means of {num_clusters} clusters, best of 10 starts",
        bic=None,
    )


def _require_enough(train_NF: np.ndarray, num_clusters: int) -> None:
    if not 1 <= num_clusters <= len(train_NF):
        raise ValueError(
            f"{num_clusters} clusters cannot be fitted to {len(train_NF)} training videos"
        )


def _fit_scale(train_NF: np.ndarray) -> tuple[np.ndarray, float]:
    train_NF = train_NF.astype(np.float64)
    scale = float(np.sqrt(train_NF.var(axis=0).mean()))
    return train_NF.mean(axis=0), scale if scale > 0 else 1.0


def rate_members(clusters: Clusters, vector_NF: np.ndarray) -> np.ndarray:
    """Returns how well each vector fits each cluster, float64 [N, K]; its own fits best.

    The rating is log pi_k + log N_k, nats, for a mixture, and minus the squared distance for
    k-means.
    """
    vector_NF = (vector_NF - clusters.offset_F) / clusters.scale
    with threadpool_limits(1):
        if isinstance(clusters.fitted, KMeans):
            return -np.square(clusters.fitted.transform(vector_NF))
        # log pi_k + log N_k(x) = log p(k | x) + log p(x).
        with np.errstate(divide="ignore"):
            log_share_NK = np.log(clusters.fitted.predict_proba(vector_NF))
        return log_share_NK + clusters.fitted.score_samples(vector_NF)[:, None]


def assign(clusters: Clusters, vector_NF: np.ndarray) -> np.ndarray:
    """Returns the cluster of each vector, int64 [N]."""
    return rate_members(clusters, vector_NF).argmax(axis=1)


# --- against labels -------------------------------------------------------------------------------


def match_clusters(cluster_N: np.ndarray, label_N: np.ndarray) -> dict[int, int]:
    """Finds the one-to-one matching of clusters and classes that the most vectors agree with.

    This is the Hungarian method. Clusters in excess of the classes are left out.

    Returns:
      cluster -> class.
    """
    counts = np.zeros((cluster_N.max() + 1, label_N.max() + 1), np.int64)
    np.add.at(counts, (cluster_N, label_N), 1)
    return {int(c): int(k) for c, k in zip(*linear_sum_assignment(counts, maximize=True))}


def find_agreement(
    class_by_cluster: dict[int, int], cluster_N: np.ndarray, label_N: np.ndarray
) -> np.ndarray:
    """Returns whether the cluster of each vector is matched to its class, bool [N]."""
    matched_N = np.array([class_by_cluster.get(int(c), -1) for c in cluster_N])
    return matched_N == label_N
