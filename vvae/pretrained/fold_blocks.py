"""Steps that move positions into channels and back, with a first frame that is alone in time.

`FoldDown` and `UnfoldUp` have a shortcut without parameters: averages of the input, or repetitions
of it.

References:
  Chen et al., Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models, 2024,
  arXiv:2410.10733, section 3.2.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models.causal_blocks import Past
from vvae.pretrained.layers import EdgePaddedConv, apply_kernel


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


def part_first(x: jax.Array, past: Past, alone: bool) -> tuple[jax.Array, jax.Array]:
    """Parts the frames that are alone in time, the first one of a video or all, from the others."""
    count = int(past is None)
    return (x, x[:, :0]) if alone else (x[:, :count], x[:, count:])


class FoldedConv(nn.Module, kw_only=True):
    """A convolution whose kernel is as large as its stride: in_time x 2 x 2.

    Repeats the first frame in front to a whole stride. Remembers nothing.

    Attributes:
      features: channels of the result.
      in_time: frames that become one.
      dtype: of the activations.
    """

    features: int
    in_time: int
    dtype: Any

    use_bias: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        if past is None:
            first = jnp.repeat(x[:, :1], self.in_time - 1, axis=1)
            x = jnp.concatenate([first, x], axis=1)
        shape = (self.in_time, 2, 2, x.shape[-1], self.features)

        def convolve(x, kernel):
            return x @ kernel.reshape(-1, self.features)

        return apply_kernel(self, fold_positions(x, self.in_time), shape, convolve), ()


class FoldDown(nn.Module, kw_only=True):
    """Moves positions of a convolution into channels, and adds averages of the input.

    The first frame has no other beside it: it fills the channels of both.

    Attributes:
      features: channels of the result.
      in_time: whether pairs of frames become one.
      alone: whether all frames are as the first one: none become one, for all that `in_time` says.
      dtype: of the activations.
    """

    features: int
    in_time: bool
    alone: bool = False
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        time, features = 1 + self.in_time, self.features
        settings = {"features": features // (4 * time), "borders": "edge", "dtype": self.dtype}
        y, after = EdgePaddedConv(**settings, name="conv")(x, past)
        if not self.in_time:
            return fold_positions(y, 1) + average_groups(fold_positions(x, 1), features), after
        (y_first, y), (x_first, x) = (part_first(a, past, self.alone) for a in (y, x))
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
      alone: whether all frames are as the first one; see `FoldDown`.
      dtype: of the activations.
    """

    features: int
    in_time: bool
    alone: bool = False
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        size, features = 4 * (1 + self.in_time), self.features
        repeats = size * features // x.shape[-1]
        settings = {"features": size * features, "borders": "edge", "dtype": self.dtype}
        y, after = EdgePaddedConv(**settings, name="conv")(x, past)
        if not self.in_time:
            return unfold_positions(y + jnp.repeat(x, repeats, axis=-1), 1), after
        (y_first, y), (x_first, x) = (part_first(a, past, self.alone) for a in (y, x))
        first = unfold_positions(y_first, 1)[..., :features]
        first = first + jnp.repeat(unfold_positions(x_first, 1), repeats // 2, axis=-1)
        rest = unfold_positions(y, 2) + jnp.repeat(unfold_positions(x, 2), repeats, axis=-1)
        return jnp.concatenate([first, rest], axis=1), after
