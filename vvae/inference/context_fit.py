"""Fits the probabilities of `contexts` to latents, in closed form.

The weights of values are those of least squares with a small penalty, group by group. Then the
misses of these predictions are fitted in the same way by the misses that are known before each, and
each class of predicted misses gets the scale of its mean miss.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vvae.inference.contexts import (
    BEFORE,
    LARGEST_MISS_WEIGHT,
    LARGEST_WEIGHT,
    MISS,
    MISS_WEIGHT,
    MOST_CHANNELS,
    NOW,
    NUM_CLASSES,
    NUM_KINDS,
    VALUE,
    WEIGHT,
    ContextModel,
    Past,
    Quantised,
    border,
    bound_values,
    gather,
    list_groups,
    list_near_misses,
    list_past_misses,
    list_past_values,
    measure_misses,
)

MOST_POSITIONS = 20_000  # of each kind of frame, by which the scales are fitted
_RIDGE = 100.0  # the penalty, in values of one standard deviation of the prior
_SMALLEST_MISS = 2**-9  # standard deviations of the prior
_NUM_PAST = 4  # features of the misses of the frame before


def fit(videos: Sequence[Quantised]) -> ContextModel:
    """Fits a model to the codes of videos, in closed form.

    Args:
      videos: of the same number of channels, of any length and size.

    Returns:
      The model. Kinds of frames that no video has take the weights of the kind before.

    Raises:
      ValueError: without videos, or for more than 512 channels.
    """
    videos = [video for video in videos if len(video.codes)]
    if not videos:
        raise ValueError("no latents to fit the contexts to")
    num_channels = videos[0].codes.shape[-1]
    if num_channels > MOST_CHANNELS:
        raise ValueError(
            f"latents of {num_channels} channels: contexts are exact for up to {MOST_CHANNELS}"
        )
    values = [bound_values(v.codes, np.asarray(v.steps_Z, np.int64)) for v in videos]
    weights = _fit_weights(values)
    predicted = [
        np.stack([_predict(weights[min(t, NUM_KINDS - 1)], video, t) for t in range(len(video))])
        for video in values
    ]
    inverses = _fit_inverses(values, predicted)
    kinds = [_Misses([], []) for _ in range(NUM_KINDS)]
    for video, mu in zip(values, predicted, strict=True):
        for t in range(len(video)):
            kind = kinds[min(t, NUM_KINDS - 1)]
            if sum(map(len, kind.errors)) < MOST_POSITIONS:
                features, errors = _list_misses(video, mu, t, inverses)
                kind.features.append(features)
                kind.errors.append(errors)
    scales = []
    for kind in kinds:
        scales.append(_fit_scales(kind) if kind.errors else scales[-1])
    miss_weights, thresholds, scales = (np.stack(arrays) for arrays in zip(*scales, strict=True))
    return ContextModel(*weights, inverses, miss_weights, thresholds, scales)


class _Misses(NamedTuple):
    """Of all positions of some frames: features [n, F, Z] in 2**-8, and |value - mu| [n, Z]."""

    features: list[np.ndarray]
    errors: list[np.ndarray]


def _list_values(video_thwZ: np.ndarray, t: int) -> np.ndarray:
    """Returns all values that frame t is predicted from, and its own, [h w, features + Z]."""
    now = video_thwZ[t].astype(np.float64)
    ys, xs = np.indices(now.shape[:2])
    columns = [np.full((*now.shape[:2], 1), float(VALUE)), gather(border(now, 0.0), NOW, ys, xs)]
    if t:
        earlier = video_thwZ[t - 2].astype(np.float64) if t > 1 else None
        past = Past(video_thwZ[t - 1].astype(np.float64), earlier)
        columns.append(list_past_values(past, ys, xs))
    columns.append(now)
    columns = np.concatenate(columns, axis=-1)
    return columns.reshape(-1, columns.shape[-1])


def _fit_weights(values: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the weights of each kind of frame."""
    num_channels = values[0].shape[-1]
    grams = [0.0] * NUM_KINDS
    for video in values:
        for t in range(len(video)):
            columns = _list_values(video, t) / VALUE
            grams[min(t, NUM_KINDS - 1)] += columns.T @ columns
    weights = []
    known = 1 + len(NOW) * num_channels
    for kind, gram in enumerate(grams):
        if np.ndim(gram):
            weights.append(_solve_groups(gram, num_channels))
            continue
        # No such frame was seen: past frames say nothing.
        num_past = (len(BEFORE) + kind - 1) * num_channels
        nothing = np.zeros((num_past, num_channels), np.int64)
        last = weights[0]
        weights.append(np.concatenate([last[:known], nothing, last[-num_channels:]]))
    return weights


def _solve_groups(gram: np.ndarray, num_channels: int) -> np.ndarray:
    """Returns the least-squares weights of each group from all that is known before it."""
    first = len(gram) - num_channels
    weights = np.zeros((len(gram), num_channels))
    for group in list_groups(num_channels):
        known = slice(0, first + group.start)
        own = slice(first + group.start, first + group.stop)
        penalised = gram[known, known] + _RIDGE * np.eye(known.stop)
        weights[known, group] = np.linalg.solve(penalised, gram[known, own])
    return _round(weights, WEIGHT, LARGEST_WEIGHT)


def _round(values: np.ndarray, unit: int, largest: int) -> np.ndarray:
    return np.clip(np.rint(values * unit), -largest, largest).astype(np.int64)


def _predict(weights: np.ndarray, video_thwZ: np.ndarray, t: int) -> np.ndarray:
    """Returns the prediction of all values of a frame in 2**-32, [h, w, Z], int64."""
    mu = _list_values(video_thwZ, t) @ weights.astype(np.float64)
    return mu.astype(np.int64).reshape(video_thwZ.shape[1:])


def _fit_inverses(values: list[np.ndarray], predicted: list[np.ndarray]) -> np.ndarray:
    """Returns 2**16 over the mean miss of each kind and channel, [K, Z], int64."""
    totals = np.zeros((NUM_KINDS, values[0].shape[-1]))
    counts = np.zeros((NUM_KINDS, 1))
    for video, mu in zip(values, predicted, strict=True):
        for t, miss in enumerate(np.abs(video / VALUE - mu / (VALUE * WEIGHT))):
            totals[min(t, NUM_KINDS - 1)] += miss.sum((0, 1))
            counts[min(t, NUM_KINDS - 1)] += miss[..., 0].size
    for kind in range(1, NUM_KINDS):
        if not counts[kind]:
            totals[kind], counts[kind] = totals[kind - 1], counts[kind - 1]
    return _round(1.0 / np.maximum(totals / counts, _SMALLEST_MISS), 2**16, 2**26)


def _list_misses(
    video: np.ndarray, mu: np.ndarray, t: int, inverses: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features of the misses known at all positions of a frame, and its own."""

    def measure(t: int) -> np.ndarray:
        inverse = inverses[min(t, NUM_KINDS - 1)]
        return measure_misses(video[t], mu[t], inverse).astype(np.float64)

    now = measure(t)
    ys, xs = np.indices(now.shape[:2])
    features = [np.full_like(now, float(MISS))]
    features += list_near_misses(border(now, float(MISS)), ys, xs)
    if t:
        features += list_past_misses(Past(misses=measure(t - 1)))
    else:
        features += [np.zeros_like(now)] * _NUM_PAST
    so_far = np.zeros_like(now)
    for group in list_groups(now.shape[-1]):
        so_far[..., group] = now[..., : group.start].sum(-1, keepdims=True)
    features.append(so_far)
    features = np.stack([np.broadcast_to(f, now.shape) for f in features], axis=-2)
    errors = np.abs(video[t] / VALUE - mu[t] / (VALUE * WEIGHT))
    return features.reshape(-1, *features.shape[-2:]), errors.reshape(-1, now.shape[-1])


def _fit_scales(misses: _Misses) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns miss_weights, thresholds and scales of one kind of frame."""
    features, errors = np.concatenate(misses.features), np.concatenate(misses.errors)
    num_features, num_channels = features.shape[1:]
    weights = np.zeros((num_features, num_channels))
    relative = errors / np.maximum(errors.mean(0), _SMALLEST_MISS)
    for z in range(num_channels):
        known = features[:, :, z] / MISS
        # Columns that are 0 or sums over all channels: in units of their own size.
        sizes = np.maximum(np.sqrt((known**2).mean(0)), 1e-9)
        gram = known.T @ known / np.outer(sizes, sizes)
        moment = known.T @ relative[:, z] / sizes
        weights[:, z] = np.linalg.solve(gram + np.eye(num_features), moment) / sizes
    weights = _round(weights, MISS_WEIGHT, LARGEST_MISS_WEIGHT)
    a = np.einsum("nfz,fz->nz", features, weights.astype(np.float64))
    edges = np.linspace(0, 1, NUM_CLASSES + 1)[1:-1]
    thresholds = np.ceil(np.quantile(a, edges, axis=0)).astype(np.int64)
    classes = (a[:, None] >= thresholds).sum(1)
    # A logistic distribution of scale s misses its mean by 2 s ln 2.
    scales = np.stack(
        [
            np.where(classes == c, errors, 0.0).sum(0) / np.maximum((classes == c).sum(0), 1)
            for c in range(NUM_CLASSES)
        ]
    ) / (2 * math.log(2))
    seen = np.stack([(classes == c).any(0) for c in range(NUM_CLASSES)])
    scales = np.where(seen, scales, errors.mean(0) / (2 * math.log(2)))
    return weights, thresholds, np.maximum(_round(scales, VALUE, 2**24), 2**6)
