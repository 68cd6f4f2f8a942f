"""Blocks of pixels as whitened principal components, and linear maps of them over time.

Latent frame 0 covers frame 0, and latent frame i the frames (i - 1) f_t + 1, ..., i f_t; each
latent covers f_s x f_s pixels of them. The first frame is repeated to a block of f_t frames, so
that all blocks share one basis.

Arrays are [B, t, h, w, K]: K components of each block, with a variance of about 1. Whitening makes
a linear map of them quick to learn. Pixels are strongly correlated, so a gradient step of one
weight on pixels would change all of them.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.causal_blocks import Past, prepend_past

# Latent frames that a linear map sees: all five of a 17-frame video at f_t = 4.
NUM_TAPS = 5


def split_blocks(x_BTHWC, block_shape: tuple[int, int, int]):
    """Cuts frames into blocks of (frames, rows, columns).

    Args:
      x_BTHWC: JAX or NumPy array, whose T, H and W are multiples of those of a block.
      block_shape: frames, rows and columns of a block.

    Returns:
      [B, T / frames, H / rows, W / columns, frames * rows * columns * C].
    """
    frames, rows, columns = block_shape
    batch, length, height, width, channels = x_BTHWC.shape
    shape = (batch, length // frames, frames, height // rows, rows, width // columns, columns)
    blocks = x_BTHWC.reshape(*shape, channels).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return blocks.reshape(*blocks.shape[:4], math.prod(block_shape) * channels)


def join_blocks(blocks_BthwD, block_shape: tuple[int, int, int]):
    """Joins blocks to frames: the inverse of `split_blocks`."""
    frames, rows, columns = block_shape
    batch, t, h, w, size = blocks_BthwD.shape
    channels = size // math.prod(block_shape)
    blocks = blocks_BthwD.reshape(batch, t, h, w, *block_shape, channels)
    x = blocks.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, t * frames, h * rows, w * columns, channels)


class BlockBasis(nn.Module):
    """Principal components of blocks: untrained, in the collection `stats`.

    Attributes:
      block_shape: (frames, rows, columns) of a block.
      channels: C of the videos.
      num_components: K.

    Variables: `mean` [D] of a standardised block; `components` [K, D], orthonormal rows; and
    `scale` [K], the standard deviation along each component.
    """

    block_shape: tuple[int, int, int]
    channels: int
    num_components: int

    def setup(self):
        size = math.prod(self.block_shape) * self.channels
        if not 1 <= self.num_components <= size:
            raise ValueError(
                f"components={self.num_components}: must be between 1 and {size}, the size of a "
                f"block of {self.block_shape} frames, rows and columns, {self.channels} channels"
            )
        self.mean_D = self.variable("stats", "mean", jnp.zeros, (size,))
        self.components_KD = self.variable(
            "stats", "components", jnp.eye, self.num_components, size
        )
        self.scale_K = self.variable("stats", "scale", jnp.ones, (self.num_components,))

    def analyse(self, x_BTHWC: jax.Array, is_start: bool) -> jax.Array:
        """Returns the whitened components of the next frames, [B, t, h, w, K].

        Args:
          x_BTHWC: standardised frames. H and W are whole blocks; T too, apart from the first frame
            of the video.
          is_start: whether the first frame is that of the video.
        """
        frames = self.block_shape[0]
        if is_start:
            first = jnp.repeat(x_BTHWC[:, :1], frames, axis=1)
            x_BTHWC = jnp.concatenate([first, x_BTHWC[:, 1:]], axis=1)
        blocks = split_blocks(x_BTHWC, self.block_shape) - _lift(self._stat(self.mean_D))
        return blocks @ self._stat(self.components_KD).T / _lift(self._stat(self.scale_K))

    def synthesize(self, c_BthwK: jax.Array, is_start: bool) -> jax.Array:
        """Returns frames from whitened components.

        The first frame of a video is the mean over the frames of its block.
        """
        blocks = (c_BthwK * _lift(self._stat(self.scale_K))) @ self._stat(self.components_KD)
        x = join_blocks(blocks + _lift(self._stat(self.mean_D)), self.block_shape)
        if not is_start:
            return x
        frames = self.block_shape[0]
        first = jnp.mean(x[:, :frames], axis=1, keepdims=True)
        return jnp.concatenate([first, x[:, frames:]], axis=1)

    def _stat(self, variable) -> jax.Array:
        return jax.lax.stop_gradient(variable.value)


def _lift(vector: jax.Array) -> jax.Array:
    return vector.reshape(1, 1, 1, 1, -1)


class TemporalTaps(nn.Module):
    """A linear map of each position over the last NUM_TAPS latent frames, newest first.

    The first latent frame, which has no predecessor, has a map of its own. Remembers its last
    NUM_TAPS - 1 inputs.
    """

    features: int

    @nn.compact
    def __call__(self, x_BthwC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        length = x_BthwC.shape[1]
        x = prepend_past(x_BthwC, past, NUM_TAPS - 1)
        starts = range(NUM_TAPS - 1, -1, -1)
        stacked = jnp.concatenate([x[:, k : k + length] for k in starts], axis=-1)
        # Without a dtype, Dense keeps the precision of its input: float32 or float64.
        y = nn.Dense(self.features, name="later")(stacked)
        if past is None:
            first = nn.Dense(self.features, name="first")(x_BthwC[:, :1])
            y = jnp.concatenate([first, y[:, 1:]], axis=1)
        return y, x[:, -(NUM_TAPS - 1) :]
