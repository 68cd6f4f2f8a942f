"""How many labels does recognition need? Paired draws of labelled videos, the same for every row.

The classifier is logistic regression with one penalty for every row. Its features are centred by
all training videos and divided by their length, so that a few videos with much motion do not
dominate. A handful of labels is too few to choose settings, so that none are chosen. With all
labels there is one number, that of the table, whose settings are chosen by cross-validation.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from vvae.metrics.intervals import CONFIDENCE, Units, find_percentiles, make_units, resample_ratio
from vvae.tasks import probe as probes

LABELS_PER_CLASS = (1, 5, 10, 50)
NUM_DRAWS = 20
# The inverse weight of the squared norm, as in scikit-learn: weak for vectors of length 1.
REGULARIZATION = 10.0
MAX_ITERATIONS = 500
ALL = "all"


def draw_labelled(
    label_V: np.ndarray, labels_per_class: Sequence[int], num_draws: int, seed: int
) -> dict[int, list[np.ndarray]]:
    """Draws the training videos whose labels are known.

    Within a draw the sets are nested: five labels are the one label and four more.

    Args:
      label_V: class numbers of the training videos.
      labels_per_class: numbers of labels; those that no class exceeds are left out.
      num_draws: draws for each number of labels.
      seed: the seed of the draws; draw d depends on seed and d alone.

    Returns:
      labels per class -> for each draw, the numbers of the videos in ascending order. A class with
      fewer videos contributes all of them.
    """
    classes, count_K = np.unique(label_V, return_counts=True)
    orders = []
    for draw in range(num_draws):
        rng = np.random.Generator(np.random.Philox(key=[seed, draw]))
        orders.append([rng.permutation(np.flatnonzero(label_V == k)) for k in classes])
    return {
        count: [np.sort(np.concatenate([order[:count] for order in draw])) for draw in orders]
        for count in labels_per_class
        if count < count_K.max()
    }


def measure_few_labels(
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
    train_label_V: np.ndarray,
    test_label_V: np.ndarray,
    seed: int,
    units: Units | None = None,
) -> dict:
    """Measures top-1 accuracy by the number of labels.

    Args:
      rows: name -> features of the training videos [V, F] and of the test videos [U, F].
      train_label_V, test_label_V: class numbers 0, ..., K-1.
      seed: the seed of the draws.
      units: the independent units of the test videos; None if each video is one.

    Returns:
      A dictionary:
        labels: S numbers of labels per class.
        num_draws: draws for each number of labels.
        definition: what is measured, in words.
        rows: name -> `top1` [S, draws], `mean`, `low`, `high` [S]: accuracies in [0, 1], and the
          95 % interval of their mean over the draws, by resampling the units of the test videos.
        differences: the same for the first row minus each of the others, paired by draw and video.
    """
    drawn = draw_labelled(train_label_V, LABELS_PER_CLASS, NUM_DRAWS, seed)
    if units is None:
        units = make_units(np.arange(len(test_label_V)), "videos", seed=seed)
    hits = {
        name: _measure_row(*features, train_label_V, test_label_V, list(drawn.values()))
        for name, features in rows.items()
    }
    return {
        "labels": list(drawn),
        "num_draws": NUM_DRAWS,
        "definition": (
            "top-1 over videos of logistic regression on features centred by all training videos "
            f"and divided by their length, C = {REGULARIZATION:g}, nothing is chosen; mean over "
            f"{NUM_DRAWS} nested draws of training videos, the same for every row, and the "
            f"{CONFIDENCE:.0%} interval of this mean by resampling {units.text} of the test split"
        ),
        **_summarize_rows(hits, units),
    }


def append_all_labels(few_labels: dict, hits: Mapping[str, np.ndarray], units: Units) -> dict:
    """Appends the table's linear probe, which learns from all labels, to `measure_few_labels`.

    Args:
      few_labels: the result of `measure_few_labels`.
      hits: name of a row -> whether the probe recognises each test video, bool [U].
      units: the independent units of the test videos.
    """
    whole = _summarize_rows({name: [hit_U[None]] for name, hit_U in hits.items()}, units)

    def append(values, more):
        return [*values, *more] if isinstance(values, list) else np.concatenate([values, more])

    def join(kind: str) -> dict:
        return {
            name: {key: append(values, whole[kind][name][key]) for key, values in row.items()}
            for name, row in few_labels[kind].items()
        }

    return few_labels | {
        "labels": [*few_labels["labels"], ALL],
        "definition": few_labels["definition"]
        + "; all labels: the linear probe of the table, whose settings are chosen",
        "rows": join("rows"),
        "differences": join("differences"),
    }


def _measure_row(train_VF, test_VF, train_label_V, test_label_V, subsets) -> list[np.ndarray]:
    """Returns whether each test video is recognised, bool [draws, U] for each number of labels."""
    mean_F = train_VF.mean(axis=0, dtype=np.float64)
    train, test = (probes.normalize_rows(x - mean_F) for x in (train_VF, test_VF))
    # One thread a fit: more are slower for matrices this small.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        gram_VV, cross_UV = train @ train.T, test @ train.T

        def recognise(chosen) -> np.ndarray:
            gram_NN, cross_UN = gram_VV[np.ix_(chosen, chosen)], cross_UV[:, chosen]
            found = classify_by_products(gram_NN, cross_UN, train_label_V[chosen])
            return found == test_label_V

        return [np.stack(list(threads.map(recognise, draws))) for draws in subsets]


def classify_by_products(
    gram_NN: np.ndarray, cross_UN: np.ndarray, label_N: np.ndarray
) -> np.ndarray:
    """Predicts classes by logistic regression on vectors that are given by their inner products.

    The weights of a penalised fit lie in the span of the training vectors. So the N coordinates of
    each vector in a basis of the span give the same fit as its features.

    Args:
      gram_NN: inner products of the labelled videos.
      cross_UN: inner products of the videos to classify with the labelled ones.
      label_N: class numbers of the labelled videos.

    Returns:
      Class numbers, int [U].
    """
    value_N, vector_NN = np.linalg.eigh(gram_NN)
    length_N = np.sqrt(np.maximum(value_N, 1e-10 * max(value_N[-1], 1e-12)))
    basis_NN = vector_NN / length_N
    model = LogisticRegression(C=REGULARIZATION, max_iter=MAX_ITERATIONS)
    return model.fit(gram_NN @ basis_NN, label_N).predict(cross_UN @ basis_NN)


def _summarize_rows(hits: Mapping[str, Sequence[np.ndarray]], units: Units) -> dict:
    """Returns `rows` and `differences` of hits [draws, U], one array for each number of labels."""
    first, *others = hits
    apart = {
        f"{first} - {name}": [a.astype(int) - b for a, b in zip(hits[first], hits[name])]
        for name in others
    }
    return {
        "rows": {name: _summarize(values, units) for name, values in hits.items()},
        "differences": {name: _summarize(values, units) for name, values in apart.items()},
    }


def _summarize(values: Sequence[np.ndarray], units: Units) -> dict:
    """Returns accuracies by draw, their mean and its interval, for each number of labels."""
    ones = np.ones(len(units.index_V))
    ends = [find_percentiles(resample_ratio(units, v.mean(axis=0), ones)) for v in values]
    return {
        "top1": [v.mean(axis=1) for v in values],
        "mean": np.array([v.mean() for v in values]),
        "low": np.array([low for low, _ in ends]),
        "high": np.array([high for _, high in ends]),
    }


def estimate_interval(value_D: np.ndarray) -> tuple[float, float, float]:
    """Returns (mean, low, high): the confidence interval of the mean by the t distribution.

    The distribution has D - 1 degrees of freedom. A single value has no interval: it is returned
    three times.
    """
    mean = float(np.mean(value_D))
    if len(value_D) < 2:
        return mean, mean, mean
    error = np.std(value_D, ddof=1) / np.sqrt(len(value_D))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(value_D) - 1) * error)
    return mean, mean - half, mean + half
