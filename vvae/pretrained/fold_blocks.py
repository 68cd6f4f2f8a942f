"""Steps that move positions into channels and back, with a first frame that is alone in time.

Each has a shortcut without parameters: averages of the input, or repetitions of it.

References:
  Chen et al., Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models, 2024,
  arXiv:2410.10733, section 3.2.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.causal_blocks import Past
from vvae.pretrained.layers import EdgePaddedConv


def fold_positions(x_BTHWC: jax.Array, in_time: int) -> jax.Array:
    """Moves in_time x 2 x 2 positions into channels, in the order (frame, row, column, channel)."""
    batch, length, height, width, channels = x_BTHWC.shape
    grid = (length // in_time, height // 2, width // 2)
    x = x_BTHWC.reshape(batch, grid[0], in_time, grid[1], 2, grid[2], 2, channels)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, *grid, 4 * in_time * channels)


def unfold_positions(y_BTHWC: jax.Array, in_time: int) -> jax.Array:
    """Moves channels back to positions: the inverse of `fold_positions`."""
    batch, length, height, width, channels = y_BTHWC.shape
    features = channels // (4 * in_time)
    y = y_BTHWC.reshape(batch, length, height, width, in_time, 2, 2, features)
    y = y.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return y.reshape(batch, length * in_time, height * 2, width * 2, features)


def average_groups(x: jax.Array, groups: int) -> jax.Array:
    """Averages neighbouring channels: [..., C] -> [..., groups]."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups).mean(-1)


def part_first(x: jax.Array, past: Past) -> tuple[jax.Array, jax.Array]:
    """Parts the first frame of a video, which is alone in time, from the others."""
    count = 1 if past is None else 0
    return x[:, :count], x[:, count:]


class FoldDown(nn.Module, kw_only=True):
    """Moves positions of a convolution into channels, and adds averages of the input.

    The first frame has no other beside it: it fills the channels of both.

    Attributes:
      features: channels of the result.
      in_time: whether pairs of frames become one.
      dtype: of the activations.
    """

    features: int
    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        time, features = 1 + self.in_time, self.features
        settings = {"features": features // (4 * time), "borders": "edge", "dtype": self.dtype}
        y, after = EdgePaddedConv(**settings, name="conv")(x, past)
        if not self.in_time:
            return fold_positions(y, 1) + average_groups(fold_positions(x, 1), features), after
        (y_first, y), (x_first, x) = part_first(y, past), part_first(x, past)
        first = jnp.tile(fold_positions(y_first, 1), (1, 1, 1, 1, 2))
        first = first + average_groups(fold_positions(x_first, 1), features)
        rest = fold_positions(y, 2) + average_groups(fold_positions(x, 2), features)
        return jnp.concatenate([first, rest], axis=1), after


class UnfoldUp(nn.Module, kw_only=True):
    """Moves channels of a convolution to positions, and adds repetitions of the input.

    The first frame becomes one frame, of the first half of its channels.

    Attributes:
      features: channels of the result.
      in_time: whether a frame becomes two.
      dtype: of the activations.
    """

    features: int
    in_time: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        size, features = 4 * (1 + self.in_time), self.features
        repeats = size * features // x.shape[-1]
        settings = {"features": size * features, "borders": "edge", "dtype": self.dtype}
        y, after = EdgePaddedConv(**settings, name="conv")(x, past)
        if not self.in_time:
            return unfold_positions(y + jnp.repeat(x, repeats, axis=-1), 1), after
        (y_first, y), (x_first, x) = part_first(y, past), part_first(x, past)
        first = unfold_positions(y_first, 1)[..., :features]
        first = first + jnp.repeat(unfold_positions(x_first, 1), repeats // 2, axis=-1)
        rest = unfold_positions(y, 2) + jnp.repeat(unfold_positions(x, 2), repeats, axis=-1)
        return jnp.concatenate([first, rest], axis=1), after
