"""Fixed, lossless 2x2 transforms between pixels and channels, which halve the frame size.

Both are orthonormal, so that the transpose is the inverse, and both act on each frame alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Rows are outputs; columns are the pixels (0, 0), (0, 1), (1, 0) and (1, 1) of a square.
_HAAR = 0.5 * np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float32)
STEMS = {"patch": np.eye(4, dtype=np.float32), "wavelet": _HAAR}


def fold(x_BTHWC: jax.Array, stem: str) -> jax.Array:
    """Moves squares of 2x2 pixels into channels.

    Args:
      x_BTHWC: [B, T, H, W, C]; H and W even.
      stem: "patch" keeps the pixels as they are; "wavelet" takes their Haar coefficients: the mean
        and the horizontal, vertical and diagonal differences, times two.

    Returns:
      [B, T, H / 2, W / 2, 4 C], in the order (coefficient, channel).
    """
    batch, length, height, width, channels = x_BTHWC.shape
    squares = x_BTHWC.reshape(batch, length, height // 2, 2, width // 2, 2, channels)
    squares = jnp.moveaxis(squares, 3, 4).reshape(
        batch, length, height // 2, width // 2, 4, channels
    )
    y = jnp.einsum("kp,...pc->...kc", STEMS[stem].astype(x_BTHWC.dtype), squares)
    return y.reshape(*y.shape[:4], 4 * channels)


def unfold(y_BThwC: jax.Array, stem: str) -> jax.Array:
    """Moves channels back into squares of pixels: the inverse of `fold`."""
    batch, length, height, width, channels = y_BThwC.shape
    coefficients = y_BThwC.reshape(batch, length, height, width, 4, channels // 4)
    squares = jnp.einsum("kp,...kc->...pc", STEMS[stem].astype(y_BThwC.dtype), coefficients)
    squares = squares.reshape(batch, length, height, width, 2, 2, channels // 4)
    x = jnp.moveaxis(squares, 4, 3)
    return x.reshape(batch, length, 2 * height, 2 * width, channels // 4)
