"""Probabilities of latent codes from those that are known: past frames, neighbours, other channels.

A code is the nearest multiple of the step of its channel to a value. The values that are known
before it predict its own, and how far they missed theirs says how far this prediction may miss:

    mu = sum over known values of weight x value
    a  = sum over known misses of weight x |value - mu| / (mean |value - mu| of the channel)
    P(code) = mass of a logistic distribution about mu in its bin, its scale by the class of a

Latent frames follow each other. Within a frame, positions (y, x) follow in waves of equal x + 2 y,
each of which needs only earlier waves; at a position, groups of channels follow each other. Known
are the 3x3 neighbours in the frame before, the same position in the frame before that, the four
earlier neighbours, and the earlier groups at the position. The first frame, the second and all
later ones have weights of their own. No side information is coded.

**Exactness.** Everything that a probability depends on is computed in integers: int64, or float64
sums of products of integers that stay below 2**53, which are exact in every order of summation.
Whoever decodes thus has the probabilities of whoever encoded, on any machine.

References:
  Wu and Memon, Context-Based, Adaptive, Lossless Image Coding (CALIC), 1997: the scale of a
  prediction's error from earlier errors nearby.
  Meyer and Tischer, Glicbawls: Grey Level Image Compression by Adaptive Weighted Least Squares,
  2001: least-squares weights of many neighbours.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

PRECISION = 24  # bits: frequencies add up to 2**24
NUM_KINDS = 3  # the first frame, the second, all later ones
NUM_GROUPS = 4
NUM_CLASSES = 16
MOST_CHANNELS = 512  # with which the largest sums stay below 2**53

NOW = ((0, -1), (-1, -1), (-1, 0), (-1, 1))  # rows and columns of the known neighbours
_MISS_SHARES = (2, 1, 2, 1)  # of their misses
BEFORE = tuple(itertools.product((-1, 0, 1), (-1, 0, 1)))

VALUE = 2**16  # a value of 1 standard deviation of the prior
WEIGHT = 2**16  # a weight of 1
_LARGEST_VALUE, LARGEST_WEIGHT, LARGEST_MISS_WEIGHT = 2**21, 2**18, 2**24
MISS, _LARGEST_MISS = 2**8, 2**12  # the mean miss of a channel, and the largest that counts
MISS_WEIGHT = 2**20
_PHASES = 16  # of the prediction within a bin


@dataclasses.dataclass(frozen=True, eq=False)
class ContextModel:
    """Weights and scales, all int64; K kinds of frames, Z channels. See `fit`.

    Attributes:
      weights_first, weights_second, weights_later: [1 + known values + Z, Z] in 2**-16. The first
        row belongs to a constant; the last Z rows, of which those of later groups are 0, to the
        channels at the same position.
      inverses: [K, Z], 2**16 over the mean miss of a channel, in standard deviations of the prior.
      miss_weights: [K, features, Z] in 2**-20.
      thresholds: [K, classes - 1, Z], between the classes of a.
      scales: [K, classes, Z] of the logistic distribution, in 2**-16.
    """

    weights_first: np.ndarray
    weights_second: np.ndarray
    weights_later: np.ndarray
    inverses: np.ndarray
    miss_weights: np.ndarray
    thresholds: np.ndarray
    scales: np.ndarray

    @property
    def num_channels(self) -> int:
        """Z."""
        return self.weights_first.shape[1]

    @functools.cached_property
    def weights(self) -> tuple[np.ndarray, ...]:
        """The weights of each kind, float64."""
        all_weights = (self.weights_first, self.weights_second, self.weights_later)
        return tuple(weights.astype(np.float64) for weights in all_weights)

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of all numbers: what encodes and what decodes must agree in it."""
        digest = hashlib.sha256()
        for field in dataclasses.fields(self):
            array = np.ascontiguousarray(getattr(self, field.name), "<i8")
            digest.update(f"{field.name} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.digest()


class Past(NamedTuple):
    """What is known of earlier latent frames.

    Attributes:
      before: values of the frame before [h, w, Z], or None.
      earlier: those of the frame before it, or None.
      misses: of the frame before [h, w, Z], or None.
    """

    before: np.ndarray | None = None
    earlier: np.ndarray | None = None
    misses: np.ndarray | None = None

    @property
    def kind(self) -> int:
        """0 for the first frame, 1 for the second, 2 for all later ones."""
        return (self.before is not None) + (self.earlier is not None)


class Symbols(NamedTuple):
    """Codes of one group of channels at the positions of a wave, all arrays [n, Zg].

    Attributes:
      positions: rows and columns, each [n].
      channels: the channels, a slice.
      levels: index of the scale in units of the step, see `tabulate`.
      phases: where in its bin the prediction lies, in sixteenths.
      centres: the code of that bin.
    """

    positions: tuple[np.ndarray, np.ndarray]
    channels: slice
    levels: np.ndarray
    phases: np.ndarray
    centres: np.ndarray


# What is done with symbols: they are counted, encoded or decoded; returns the codes [n, Zg].
Exchange = Callable[[Symbols], np.ndarray]


# --- one frame -----------------------------------------------------------------------------------


def visit_frame(
    model: ContextModel,
    steps_Z: Sequence[int],
    size: tuple[int, int],
    past: Past,
    exchange: Exchange,
) -> tuple[np.ndarray, Past]:
    """Visits the codes of one latent frame in their order.

    Args:
      model: of the probabilities.
      steps_Z: of the channels, in units of 2**-16 standard deviations of the prior.
      size: rows and columns of the latent frame.
      past: what is known of earlier frames.
      exchange: is given the symbols of each wave and group, and returns their codes.

    Returns:
      The codes [h, w, Z], int32, and what is known for the next frame.
    """
    height, width = size
    num_channels, kind = model.num_channels, past.kind
    steps = np.asarray(steps_Z, np.int64)
    levels = find_levels(model.scales[kind], steps)
    seen = _see_past(model, past, size)
    # With a border of one position, so that neighbours outside the frame are known too.
    values = np.zeros((height + 2, width + 2, num_channels))
    misses = np.full((height + 2, width + 2, num_channels), float(MISS))
    codes = np.zeros((height, width, num_channels), np.int32)
    groups = list_groups(num_channels)
    for ys, xs in waves(height, width):
        mu = seen.mu[ys, xs] + gather(values, NOW, ys, xs) @ seen.weights_now
        a = seen.a[ys, xs] + _sum_near_misses(misses, ys, xs, seen.miss_weights)
        for group in groups:
            classes = (a[:, None, group] >= model.thresholds[kind][:, group]).sum(1)
            predicted = mu[:, group].astype(np.int64)
            centres, phases = place_in_bins(predicted, steps[group])
            symbols = Symbols(
                positions=(ys, xs),
                channels=group,
                levels=levels[classes, np.arange(group.start, group.stop)],
                phases=phases,
                centres=centres,
            )
            found = exchange(symbols)
            codes[ys, xs, group] = found
            value = bound_values(found, steps[group])
            miss = measure_misses(value, predicted, model.inverses[kind][group])
            values[ys + 1, xs + 1, group] = value
            misses[ys + 1, xs + 1, group] = miss
            later = slice(group.stop, num_channels)
            mu[:, later] += value.astype(np.float64) @ seen.weights_same[group, later]
            a[:, later] += miss.sum(1, keepdims=True) * seen.miss_weights[-1][later]
    inner = np.s_[1:-1, 1:-1]
    return codes, Past(values[inner].copy(), past.before, misses[inner].copy())


class _Seen(NamedTuple):
    """What past frames say about all positions, and the weights of what is not yet known.

    Attributes:
      mu: [h, w, Z] in 2**-32.
      a: [h, w, Z].
      weights_now: of the neighbours in the frame.
      weights_same: of the channels at the position.
      miss_weights: [features, Z].
    """

    mu: np.ndarray
    a: np.ndarray
    weights_now: np.ndarray
    weights_same: np.ndarray
    miss_weights: np.ndarray


def _see_past(model: ContextModel, past: Past, size: tuple[int, int]) -> _Seen:
    num_channels = model.num_channels
    weights = model.weights[past.kind]
    miss_weights = model.miss_weights[past.kind].astype(np.float64)
    known = 1 + len(NOW) * num_channels
    mu = np.broadcast_to(VALUE * weights[0], (*size, num_channels))
    if past.before is not None:
        ys, xs = np.indices(size)
        features = list_past_values(past, ys, xs)
        mu = mu + features @ weights[known : len(weights) - num_channels]
    a = np.broadcast_to(MISS * miss_weights[0], (*size, num_channels))
    if past.misses is not None:
        for feature, weight in zip(list_past_misses(past), miss_weights[3:-1], strict=True):
            a = a + feature * weight
    return _Seen(mu, a, weights[1:known], weights[len(weights) - num_channels :], miss_weights)


def waves(height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rows and columns of the positions with equal x + 2 y, in order."""
    rows = np.arange(height)
    for wave in range(width + 2 * (height - 1)):
        ys = rows[(wave - 2 * rows >= 0) & (wave - 2 * rows < width)]
        yield ys, wave - 2 * ys


def list_groups(num_channels: int) -> list[slice]:
    """Returns the groups of channels that follow each other, of nearly equal size."""
    count = min(NUM_GROUPS, num_channels)
    edges = [num_channels * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def gather(bordered: np.ndarray, offsets, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Returns the values of a bordered array at offsets from positions, [..., offsets x Z]."""
    return np.concatenate([bordered[ys + 1 + y, xs + 1 + x] for y, x in offsets], axis=-1)


def list_past_values(past: Past, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Returns the known values of earlier frames, [..., features]."""
    features = [gather(border(past.before, 0.0), BEFORE, ys, xs)]
    if past.earlier is not None:
        features.append(past.earlier[ys, xs])
    return np.concatenate(features, axis=-1)


def list_past_misses(past: Past) -> list[np.ndarray]:
    """Returns four features of the misses of the frame before, [h, w, Z] or [h, w, 1]."""
    near = border(past.misses, float(MISS))
    height, width, _ = past.misses.shape
    around = sum(near[1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in BEFORE)
    return [
        past.misses,
        around,
        past.misses.sum(-1, keepdims=True),
        around.sum(-1, keepdims=True),
    ]


def list_near_misses(misses: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> list[np.ndarray]:
    """Returns the misses of earlier neighbours: of the same channel, and of all."""
    near = sum(
        share * misses[ys + 1 + y, xs + 1 + x]
        for share, (y, x) in zip(_MISS_SHARES, NOW, strict=True)
    )
    return [near, near.sum(-1, keepdims=True)]


def _sum_near_misses(misses, ys, xs, miss_weights) -> np.ndarray:
    own, all_channels = list_near_misses(misses, ys, xs)
    return own * miss_weights[1] + all_channels * miss_weights[2]


def border(values: np.ndarray, outside: float) -> np.ndarray:
    """Returns values [h, w, Z] with a border of one position that holds another value."""
    return np.pad(values, ((1, 1), (1, 1), (0, 0)), constant_values=outside)


def bound_values(codes: np.ndarray, steps_Z: np.ndarray) -> np.ndarray:
    """Returns the values of codes in 2**-16, int64, at most 32 standard deviations."""
    return np.clip(codes.astype(np.int64) * steps_Z, -_LARGEST_VALUE, _LARGEST_VALUE)


def measure_misses(values: np.ndarray, mu: np.ndarray, inverses_Z: np.ndarray) -> np.ndarray:
    """Returns by how much predictions in 2**-32 missed, in 2**-8 of the channel's mean, int64."""
    miss = np.minimum(np.abs(values * WEIGHT - mu) >> 16, 2**24)
    return np.minimum((miss * inverses_Z) >> 24, _LARGEST_MISS)


def place_in_bins(mu: np.ndarray, steps_Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the code whose bin holds a prediction, and where in it, in sixteenths of the bin."""
    sixteenths = (2 * _PHASES * mu + (steps_Z << 16)) // (steps_Z << 17)
    shifted = sixteenths + _PHASES // 2
    return shifted // _PHASES, shifted % _PHASES


# --- tables --------------------------------------------------------------------------------------

# Scales in units of the step: 2**(level / 4 - 4).
NUM_LEVELS = 49
_QUARTERS = (65536, 77936, 92682, 110218)  # 2**(i / 4) in 2**-16
_LEVEL_SCALES = np.array(
    [_QUARTERS[level % 4] * 2 ** (level // 4) for level in range(NUM_LEVELS)], np.int64
)  # in 2**-20
# Half way between two levels, in 2**-20.
_LEVEL_EDGES = (_LEVEL_SCALES[1:] + _LEVEL_SCALES[:-1]) // 2
LEVELS_PER_TABLE = 8
ESCAPE_BITS = 32


def find_levels(scales: np.ndarray, steps_Z: np.ndarray) -> np.ndarray:
    """Returns the level of each scale [classes, Z], both in 2**-16."""
    return np.searchsorted(_LEVEL_EDGES, (scales << 20) // steps_Z, side="right")


@functools.lru_cache(maxsize=NUM_LEVELS)
def tabulate(level: int) -> np.ndarray:
    """Returns the frequencies of the codes about a prediction, int64 [16, 2 reach + 2].

    Row i is for a prediction (i - 8) / 16 bins above the middle of its bin. Symbol j is the code
    j - reach above that bin's; the last one stands for all other codes. All are positive and add up
    to 2**24.
    """
    reach = find_reach(level)
    # Edges of bins minus the prediction, in 1/32 of a step.
    edges = 32 * np.arange(-reach, reach + 2) - 16
    offsets = 2 * np.arange(_PHASES) - _PHASES
    below = _logistic((edges[None, :] - offsets[:, None]) * (2**45 // _LEVEL_SCALES[level]))
    masses = np.diff(below, axis=1)
    beyond = _ONE - masses.sum(1, keepdims=True)
    masses = np.concatenate([masses, beyond], axis=1)
    free = 2**PRECISION - masses.shape[1]
    frequencies = 1 + ((masses * free) >> _BITS)
    # What rounding down leaves.
    frequencies[:, reach] += 2**PRECISION - frequencies.sum(1)
    return frequencies


def find_reach(level: int) -> int:
    """Returns how many codes above and below have a symbol, the same for eight levels."""
    last = min(level - level % LEVELS_PER_TABLE + LEVELS_PER_TABLE, NUM_LEVELS) - 1
    return math.ceil(12 * int(_LEVEL_SCALES[last]) / 2**20) + 2


_BITS = 30
_ONE = 2**_BITS
_LN2 = 744261118  # ln 2 in 2**-30


def _logistic(x: np.ndarray) -> np.ndarray:
    """Computes 1 / (1 + exp(-x)) in 2**-30, for integers x in 2**-30; in integers alone."""
    magnitude = np.abs(x)
    halvings = magnitude // _LN2
    rest = magnitude - halvings * _LN2
    # exp(-rest) by its series; 13 terms are below 2**-30.
    term = total = np.full_like(x, _ONE)
    for i in range(1, 14):
        term = -(term * rest >> _BITS) // i
        total = total + term
    decay = total >> np.minimum(halvings, 62)
    small = (decay << _BITS) // (_ONE + decay)
    return np.where(x < 0, small, _ONE - small)


@functools.cache
def _stack_tables(width: int) -> np.ndarray:
    """Returns the probabilities of the levels with tables of one width, [levels, 16, codes]."""
    first = width * LEVELS_PER_TABLE
    levels = range(first, min(first + LEVELS_PER_TABLE, NUM_LEVELS))
    return np.stack([tabulate(level) for level in levels]) / 2.0**PRECISION


class Tabled(NamedTuple):
    """Symbols whose tables have the same width.

    Attributes:
      here: which of the symbols, bool [n, Zg].
      tables: probabilities, [levels, 16, 2 reach + 2].
      rows: the level and the phase of each of them, which index `tables`.
      reach: of the tables.
    """

    here: np.ndarray
    tables: np.ndarray
    rows: tuple[np.ndarray, np.ndarray]
    reach: int

    @property
    def escape(self) -> int:
        """The symbol of all codes out of reach."""
        return 2 * self.reach + 1


def look_up(symbols: Symbols) -> Iterator[Tabled]:
    """Yields the symbols of each width of tables."""
    widths, levels = np.divmod(symbols.levels, LEVELS_PER_TABLE)
    for width in np.flatnonzero(np.bincount(widths.ravel())):
        here, tables = widths == width, _stack_tables(int(width))
        rows = levels[here], symbols.phases[here]
        yield Tabled(here, tables, rows, tables.shape[-1] // 2 - 1)


def count_bits(symbols: Symbols, codes: np.ndarray) -> float:
    """Returns -log2 P of codes [n, Zg]; 32 more for each that is out of reach."""
    bits = 0.0
    for part in look_up(symbols):
        found = find_symbols((codes - symbols.centres)[part.here], part.reach)
        bits -= float(np.log2(part.tables[(*part.rows, found)]).sum())
        bits += ESCAPE_BITS * int((found == part.escape).sum())
    return bits


def find_symbols(codes: np.ndarray, reach: int) -> np.ndarray:
    """Returns the symbols of codes relative to their centres, the indices in a table."""
    return np.where(np.abs(codes) <= reach, codes + reach, 2 * reach + 1)


# --- quantisation --------------------------------------------------------------------------------

DEAD_ZONE = 0.15
"""Steps by which values are moved towards their prediction before they are rounded."""


def choose_codes(
    model: ContextModel, values_hwZ: np.ndarray, steps_Z: Sequence[int], past: Past
) -> tuple[np.ndarray, float, Past]:
    """Quantises a latent frame towards its predictions, which costs fewer bits at equal error.

    Args:
      model: of the probabilities.
      values_hwZ: in standard deviations of the prior.
      steps_Z: in 2**-16 of them.
      past: what is known of earlier frames.

    Returns:
      The codes [h, w, Z], int32, each at most 0.65 steps from its value, their -log2 P, and what is
      known for the next frame.

    References:
      Sullivan, Efficient Scalar Quantization of Exponential and Laplacian Random Variables, 1996:
      why a zone in which values become what is expected is wider than a step.
    """
    values = np.asarray(values_hwZ, np.float64) * VALUE / np.asarray(steps_Z)
    bits = 0.0

    def exchange(symbols: Symbols) -> np.ndarray:
        nonlocal bits
        found = values[*symbols.positions, symbols.channels]
        predicted = symbols.centres + (symbols.phases - _PHASES // 2) / _PHASES
        miss = found - predicted
        moved = predicted + np.sign(miss) * np.maximum(np.abs(miss) - DEAD_ZONE, 0.0)
        chosen = np.rint(moved).astype(np.int64)
        bits += count_bits(symbols, chosen)
        return chosen

    codes, past = visit_frame(model, steps_Z, values.shape[:2], past, exchange)
    return codes, bits, past


# --- whole videos --------------------------------------------------------------------------------


class Quantised(NamedTuple):
    """Codes [t, h, w, Z] of a video, and the steps of the channels in 2**-16."""

    codes: np.ndarray
    steps_Z: tuple[int, ...]


def count_video_bits(model: ContextModel, video: Quantised) -> float:
    """Returns -log2 P of the codes of a video from its first frame on."""
    bits, past = 0.0, Past()
    for codes_hwZ in video.codes:

        def exchange(symbols: Symbols, codes_hwZ=codes_hwZ) -> np.ndarray:
            nonlocal bits
            codes = take_codes(codes_hwZ, symbols)
            bits += count_bits(symbols, codes)
            return codes

        _, past = visit_frame(model, video.steps_Z, codes_hwZ.shape[:2], past, exchange)
    return bits


def take_codes(codes_hwZ: np.ndarray, symbols: Symbols) -> np.ndarray:
    """Returns the codes of symbols from those of a frame, int64 [n, Zg]."""
    return codes_hwZ[*symbols.positions, symbols.channels].astype(np.int64)
