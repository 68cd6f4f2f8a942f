"""Clusters of vectors, fitted to training vectors and applied to others; and how good they are.

Vectors enter divided by one number, the root of the mean variance of the training vectors, so that
what is added to the variances for stability means the same whatever their unit.
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
    """Clusters that any vectors can be assigned to.

    Attributes:
      fitted: of scikit-learn.
      offset_F, scale: vectors enter it as (vector - offset) / scale.
      num_clusters: K; some may be empty.
      text: what was fitted, in words.
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
      train_V, test_V: int64 cluster of each video.
      rating_VK: how well each measured video suits each cluster; the highest is its own.
      num_clusters: K.
      text: what was clustered, and how, in words.
    """

    train_V: np.ndarray
    test_V: np.ndarray
    rating_VK: np.ndarray
    num_clusters: int
    text: str


def fit_gmm(
    train_NF: np.ndarray, num_clusters: int, seed: int, num_starts: int = NUM_STARTS
) -> Clusters:
    """Fits a mixture of num_clusters Gaussians, full or diagonal covariances by BIC.

    Args:
      train_NF: training vectors.
      num_clusters: K.
      seed: of the starts.
      num_starts: the best of so many is taken.

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
    return Clusters(fitted, offset_F, scale, num_clusters, text, bic)


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
    """Fits mixtures of 1, 2, ... Gaussians and returns the one of the lowest BIC.

    The search ends at max_clusters, or when BIC has not improved for 4 numbers in a row.

    Args:
      train_NF: two or more training vectors.
      seed: of the starts.
      max_clusters: the largest number that is tried.

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
    """Fits k-means; arguments as `fit_gmm`."""
    _require_enough(train_NF, num_clusters)
    offset_F, scale = _fit_scale(train_NF)
    with threadpool_limits(1):
        fitted = KMeans(num_clusters, n_init=10, random_state=seed)
        fitted.fit((train_NF - offset_F) / scale)
    text = f"k-means of {num_clusters} clusters, best of 10 starts"
    return Clusters(fitted, offset_F, scale, num_clusters, text, None)


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
    """Returns how well each vector suits each cluster, float64 [N, K]; the highest is its own.

    For a mixture log pi_k + log N_k in nats, for k-means minus the squared distance.
    """
    vector_NF = (vector_NF - clusters.offset_F) / clusters.scale
    with threadpool_limits(1):
        if isinstance(clusters.fitted, KMeans):
            return -np.square(clusters.fitted.transform(vector_NF))
        # Up to a number for each vector, log p(k | x) is log pi_k + log N_k(x).
        with np.errstate(divide="ignore"):
            log_share_NK = np.log(clusters.fitted.predict_proba(vector_NF))
        return log_share_NK + clusters.fitted.score_samples(vector_NF)[:, None]


def assign(clusters: Clusters, vector_NF: np.ndarray) -> np.ndarray:
    """Returns the cluster of each vector, int64 [N]."""
    return rate_members(clusters, vector_NF).argmax(axis=1)


# --- against labels -------------------------------------------------------------------------------


def match_clusters(cluster_N: np.ndarray, label_N: np.ndarray) -> dict[int, int]:
    """Finds the one-to-one assignment of clusters to classes that the most vectors agree with.

    The Hungarian method. Where there are more clusters than classes, some have none.

    Returns:
      cluster -> class.
    """
    counts = np.zeros((cluster_N.max() + 1, label_N.max() + 1), np.int64)
    np.add.at(counts, (cluster_N, label_N), 1)
    return {int(c): int(k) for c, k in zip(*linear_sum_assignment(counts, maximize=True))}


def score_matching(
    class_by_cluster: dict[int, int], cluster_N: np.ndarray, label_N: np.ndarray
) -> float:
    """Share, in [0, 1], of vectors whose cluster is matched to their class."""
    matched_N = np.array([class_by_cluster.get(int(c), -1) for c in cluster_N])
    return float(np.mean(matched_N == label_N))
