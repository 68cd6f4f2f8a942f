"""The Haar wavelet transform of videos over time, rows and columns, orthonormal."""

import math

import jax
import jax.numpy as jnp

_AXES = (1, 2, 3)  # time, rows, columns


def split_bands(x_BTHWC: jax.Array) -> list[jax.Array]:
    """Applies one level; T, H and W must be even.

    Returns:
      Eight bands [B, T / 2, H / 2, W / 2, C], low before high, time before rows before columns: the
      first holds means times sqrt(8).
    """
    bands = [x_BTHWC]
    for axis in _AXES:
        bands = [half for band in bands for half in _split_pairs(band, axis)]
    return bands


def join_bands(bands: list[jax.Array]) -> jax.Array:
    """Returns the video of eight bands: the inverse of `split_bands`."""
    for axis in reversed(_AXES):
        pairs = zip(bands[::2], bands[1::2], strict=True)
        bands = [_join_pairs(low, high, axis) for low, high in pairs]
    return bands[0]


def _split_pairs(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns (a + b) / sqrt(2) and (a - b) / sqrt(2) of neighbours a, b along an axis."""
    shape = (*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    first, second = jnp.split(x.reshape(shape), 2, axis=axis + 1)
    first, second = first.squeeze(axis + 1), second.squeeze(axis + 1)
    return (first + second) * math.sqrt(0.5), (first - second) * math.sqrt(0.5)


def _join_pairs(low: jax.Array, high: jax.Array, axis: int) -> jax.Array:
    """Returns neighbours from their (a + b) / sqrt(2) and (a - b) / sqrt(2)."""
    pairs = jnp.stack([(low + high) * math.sqrt(0.5), (low - high) * math.sqrt(0.5)], axis + 1)
    return pairs.reshape(*low.shape[:axis], 2 * low.shape[axis], *low.shape[axis + 1 :])
