"""How many labels does recognition need? Paired draws of labelled videos, the same for every row.

The classifier is linear: ridge regression onto the classes in the Gram matrix of the features, so
that one decomposition serves every weight of the penalty. Features are centred by all training
videos, and as they are or each divided by its standard deviation: like the penalty, whichever has
the least error when groups of the labelled videos are held out. Vectors then have length 1, so that
a few videos in which much happens do not decide alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits

from vvae.analysis import probe as probes

LABELS_PER_CLASS = (1, 5, 10, 50)
NUM_DRAWS = 20
CONFIDENCE = 0.95
# Penalties, in units of the mean squared length of a feature vector.
PENALTIES = tuple(float(p) for p in np.logspace(-4, 1, 6))
FIXED_PENALTY = 0.1  # where a class has one label: nothing can be held out
ALL = "all"


def draw_labelled(
    label_V: np.ndarray, labels_per_class: Sequence[int], num_draws: int, seed: int
) -> dict[int, list[np.ndarray]]:
    """Draws the training videos whose labels are known.

    Within a draw the sets are nested: five labels are the one label and four more.

    Args:
      label_V: class numbers of the training videos.
      labels_per_class: numbers of labels; those that no class exceeds are left out.
      num_draws: draws of each.
      seed: of the draws; draw d depends on seed and d alone.

    Returns:
      labels a class -> for each draw the ascending numbers of the videos; a class with fewer videos
      gives all that it has.
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
    group_V: np.ndarray,
    test_label_V: np.ndarray,
    seed: int,
) -> dict:
    """Measures top-1 accuracy by the number of labels.

    Args:
      rows: name -> features of the training videos [V, F] and of the test videos.
      train_label_V, test_label_V: class numbers 0, ..., K-1.
      group_V: group of each training video; the penalty is chosen with whole groups held out.
      seed: of the draws.

    Returns:
      `labels` (numbers a class, then "all"), `num_draws`, `definition`, and `rows`: name ->
      `top1` [S, draws], `mean`, `low`, `high` [S]; for all labels there is one fit and no interval.
      `differences`: the same for the first row minus each other one, paired by draw.
    """
    drawn = draw_labelled(train_label_V, LABELS_PER_CLASS, NUM_DRAWS, seed)
    every = np.arange(len(train_label_V))
    subsets = [*drawn.values(), [every]]
    accuracy = {
        name: _measure_row(*features, train_label_V, group_V, test_label_V, subsets)
        for name, features in rows.items()
    }
    first, *others = accuracy
    return {
        "labels": [*drawn, ALL],
        "num_draws": NUM_DRAWS,
        "definition": (
            "top-1 over videos of a ridge classifier on features centred by all training videos, "
            "each divided by its standard deviation or not, vectors of length 1; that and penalty "
            "by leave-one-group-out error on the drawn videos "
            f"({FIXED_PENALTY:g} of the mean squared length where a class has one); mean over "
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


def _measure_row(train_VF, test_VF, train_label_V, group_V, test_label_V, subsets):
    mean_F, std_F = probes.fit_standardization(train_VF)
    num_classes = int(train_label_V.max()) + 1
    with threadpool_limits(1):
        # In order of preference where nothing can be held out.
        products = []
        for scale in (1.0, std_F):
            train, test = (_normalize((x - mean_F) / scale) for x in (train_VF, test_VF))
            products.append((train @ train.T, test @ train.T))

        def recognise(chosen) -> float:
            parts = [(gram[np.ix_(chosen, chosen)], cross[:, chosen]) for gram, cross in products]
            own = (train_label_V[chosen], group_V[chosen], num_classes)
            return float(np.mean(classify_best(parts, *own) == test_label_V))

        return [np.array([recognise(chosen) for chosen in draws]) for draws in subsets]


def _normalize(vector_VF: np.ndarray) -> np.ndarray:
    """Vectors of length 1; zeros stay zeros."""
    length_V1 = np.linalg.norm(vector_VF, axis=1, keepdims=True)
    return vector_VF / np.maximum(length_V1, 1e-12)


def classify_best(
    products: Sequence[tuple[np.ndarray, np.ndarray]],
    label_N: np.ndarray,
    group_N: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """Predicts classes by the features, among these, with the least held-out error, int [U].

    Args:
      products: for each kind of features the inner products of the labelled videos [N, N], and of
        the videos to classify and those [U, N]; of equal ones the first is taken.
      label_N, group_N, num_classes: as in `classify_ridge`.
    """
    found = [classify_ridge(*parts, label_N, group_N, num_classes) for parts in products]
    return min(found, key=lambda pair: pair[1])[0]


def classify_ridge(
    gram_NN: np.ndarray,
    cross_UN: np.ndarray,
    label_N: np.ndarray,
    group_N: np.ndarray,
    num_classes: int,
) -> tuple[np.ndarray, float]:
    """Predicts classes by ridge regression onto +-1 codes of the classes.

    The penalty is the one of PENALTIES with the least squared error when each group is held out in
    turn, in closed form: with H = K (K + p I)^-1 the residuals of a held-out group g are
    (I - H_gg)^-1 (y - H y)_g. Where a class has one video or all are of one group, it is
    FIXED_PENALTY.

    Args:
      gram_NN: inner products of the labelled videos.
      cross_UN: of the videos to classify and those.
      label_N, group_N: class numbers and groups of the labelled videos.
      num_classes: K.

    Returns:
      Classes, int [U], and the squared error of the held-out groups, 0 where there are none.
    """
    code_NK = np.where(label_N[:, None] == np.arange(num_classes), 1.0, -1.0)
    offset_K = code_NK.mean(axis=0)
    target_NK = code_NK - offset_K
    value_N, vector_NN = np.linalg.eigh(gram_NN)
    value_N = np.maximum(value_N, 0.0)
    unit = max(np.trace(gram_NN) / len(gram_NN), 1e-12)
    penalty, error = FIXED_PENALTY, 0.0
    counts = np.bincount(label_N, minlength=num_classes)
    groups = [np.flatnonzero(group_N == g) for g in np.unique(group_N)]
    if counts[counts > 0].min() > 1 and len(groups) > 1:
        errors = [
            _held_out_error(value_N, vector_NN, target_NK, groups, p * unit) for p in PENALTIES
        ]
        penalty, error = PENALTIES[int(np.argmin(errors))], min(errors)
    weight_NK = vector_NN @ ((vector_NN.T @ target_NK) / (value_N + penalty * unit)[:, None])
    return (cross_UN @ weight_NK + offset_K).argmax(axis=1), error


def _held_out_error(value_N, vector_NN, target_NK, groups, penalty: float) -> float:
    shrink_N = value_N / (value_N + penalty)
    residual_NK = target_NK - vector_NN @ (shrink_N[:, None] * (vector_NN.T @ target_NK))
    error = 0.0
    for group in groups:
        rows = vector_NN[group]
        hat = (rows * shrink_N) @ rows.T
        error += np.square(np.linalg.solve(np.eye(len(group)) - hat, residual_NK[group])).sum()
    return float(error)


def _summarize(values: Sequence[np.ndarray]) -> dict:
    """Mean and confidence interval of the mean for each number of labels."""
    intervals = [estimate_interval(value_D) for value_D in values]
    mean, low, high = (np.array(column) for column in zip(*intervals))
    return {"top1": list(values), "mean": mean, "low": low, "high": high}


def estimate_interval(value_D: np.ndarray) -> tuple[float, float, float]:
    """Mean and its confidence interval by the t distribution with D - 1 degrees of freedom.

    One value has no interval: it is returned three times.
    """
    mean = float(np.mean(value_D))
    if len(value_D) < 2:
        return mean, mean, mean
    error = np.std(value_D, ddof=1) / np.sqrt(len(value_D))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(value_D) - 1) * error)
    return mean, mean - half, mean + half
