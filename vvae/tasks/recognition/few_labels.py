"""How many labels does recognition need? Paired draws of labelled videos, the same for every row.

The classifier is logistic regression with one penalty for every row. Its features are centred by
all training videos and divided by their length, so that a few videos with much motion do not
dominate. A handful of labels is too few to choose settings, so that none are chosen.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from vvae.tasks import probe as probes

LABELS_PER_CLASS = (1, 5, 10, 50)
NUM_DRAWS = 20
CONFIDENCE = 0.95
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
) -> dict:
    """Measures top-1 accuracy by the number of labels.

    Args:
      rows: name -> features of the training videos [V, F] and of the test videos [U, F].
      train_label_V, test_label_V: class numbers 0, ..., K-1.
      seed: the seed of the draws.

    Returns:
      A dictionary:
        labels: S numbers of labels per class, the last of them "all".
        num_draws: draws for each number of labels; one fit for all labels.
        definition: what is measured, in words.
        rows: name -> `top1` [S, draws], `mean`, `low`, `high` [S]: accuracies in [0, 1], and the
          confidence interval of their mean as `estimate_interval` returns it.
        differences: the same for the first row minus each of the others, paired by draw.
    """
    drawn = draw_labelled(train_label_V, LABELS_PER_CLASS, NUM_DRAWS, seed)
    every = np.arange(len(train_label_V))
    subsets = [*drawn.values(), [every]]
    accuracy = {
        name: _measure_row(*features, train_label_V, test_label_V, subsets)
        for name, features in rows.items()
    }
    first, *others = accuracy
    return {
        "labels": [*drawn, ALL],
        "num_draws": NUM_DRAWS,
        "definition": (
            "top-1 over videos of logistic regression on features centred by all training videos "
            f"and divided by their length, C = {REGULARIZATION:g}; mean over "
            f"{NUM_DRAWS} nested draws of training videos, the same for every row, and the "
            f"{CONFIDENCE:.0%} confidence interval of the mean by the t distribution over draws; "
            "all labels: one fit"
        ),
        "rows": {name: _summarize(values) for name, values in accuracy.items()},
        "differences": {
            f"{first} - {name}": _summarize(
                [a - b for a, b in zip(accuracy[first], accuracy[name])]
            )
            for name in others
        },
    }


def _measure_row(train_VF, test_VF, train_label_V, test_label_V, subsets) -> list[np.ndarray]:
    mean_F = train_VF.mean(axis=0, dtype=np.float64)
    train, test = (probes.normalize_rows(x - mean_F) for x in (train_VF, test_VF))
    # One thread: more are slower for matrices this small.
    with threadpool_limits(1):
        gram_VV, cross_UV = train @ train.T, test @ train.T

        def recognise(chosen) -> float:
            gram_NN, cross_UN = gram_VV[np.ix_(chosen, chosen)], cross_UV[:, chosen]
            found = classify_by_products(gram_NN, cross_UN, train_label_V[chosen])
            return float(np.mean(found == test_label_V))

        return [np.array([recognise(chosen) for chosen in draws]) for draws in subsets]


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


def _summarize(values: Sequence[np.ndarray]) -> dict:
    """Returns the mean and its confidence interval for each number of labels."""
    intervals = [estimate_interval(value_D) for value_D in values]
    mean, low, high = (np.array(column) for column in zip(*intervals))
    return {"top1": list(values), "mean": mean, "low": low, "high": high}


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
