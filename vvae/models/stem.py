"""Fixed 2x2 transforms between pixels and channels, which halve a frame without losing anything.

Both are orthonormal, so that each is undone by its transpose, and both act on one frame at a time.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Rows are outputs, columns the pixels (0, 0), (0, 1), (1, 0), (1, 1) of a square.
_HAAR = 0.5 * np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float32)
STEMS = {"patch": np.eye(4, dtype=np.float32), "wavelet": _HAAR}


def fold(x_BTHWC: jax.Array, stem: str) -> jax.Array:
    """Turns squares of 2x2 pixels into channels.

    Args:
      x_BTHWC: [B, T, H, W, C]; H and W even.
      stem: "patch" takes the pixels as they are, "wavelet" their Haar coefficients: mean,
        horizontal, vertical and diagonal difference, times two.

    Returns:
      [B, T, H / 2, W / 2, 4 C], coefficients before colours.
    """
    batch, length, height, width, channels = x_BTHWC.shape
    squares = x_BTHWC.reshape(batch, length, height // 2, 2, width // 2, 2, channels)
    squares = jnp.moveaxis(squares, 3, 4).reshape(
        batch, length, height // 2, width // 2, 4, channels
    )
    y = jnp.einsum("kp,...pc->...kc", STEMS[stem].astype(x_BTHWC.dtype), squares)
    return y.reshape(*y.shape[:4], 4 * channels)


def unfold(y_BThwC: jax.Array, stem: str) -> jax.Array:
    """The inverse of `fold`."""
    batch, length, height, width, channels = y_BThwC.shape
    coefficients = y_BThwC.reshape(batch, length, height, width, 4, channels // 4)
    squares = jnp.einsum("kp,...kc->...pc", STEMS[stem].astype(y_BThwC.dtype), coefficients)
    squares = squares.reshape(batch, length, height, width, 2, 2, channels // 4)
    x = jnp.moveaxis(squares, 4, 3)
    return x.reshape(batch, length, 2 * height, 2 * width, channels // 4)
