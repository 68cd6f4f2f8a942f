"""A critic that scores patches of videos: which look real?"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.causal_blocks import CausalConv, stack_frames
from vvae.models.convolutions import DownConv

_MOST_GROWTH = 8
_SLOPE = 0.2


class PatchCritic(nn.Module):
    """Strided convolutions in space and time over whole clips (Isola et al. 2017, in 3-D).

    Each score sees a window. Normalised over two groups of channels of a clip, so that no score
    depends on the rest of the batch. Made of the layers that are fast on every backend.

    Attributes:
      width: channels after the first convolution, doubled by each further one up to eight times.
      depth: convolutions that halve rows and columns; those after the first halve time too.
      dtype: of the activations; scores are at least float32.
    """

    width: int = 64
    depth: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        """Scores videos in [-1, 1]: [B, T, H, W, C] -> [B, t, h, w]."""
        x = x_BTHWC.astype(self.dtype)
        for level in range(self.depth):
            width = self.width * min(2**level, _MOST_GROWTH)
            x = _halve_frames(DownConv(width, self.dtype, name=f"down_{level}"), x)
            if level:
                x = jnp.pad(x, ((0, 0), (1, 1 + x.shape[1] % 2), (0, 0), (0, 0), (0, 0)))
                x = nn.Dense(width, dtype=self.dtype, name=f"time_{level}")(stack_frames(x, 2))
                norm = nn.GroupNorm(
                    None, max(1, width // 2), dtype=self.dtype, name=f"norm_{level}"
                )
                x = norm(x)
            x = nn.leaky_relu(x, _SLOPE)
        scores, _ = CausalConv(1, self.dtype, name="score")(x, None)
        return raise_precision(scores[..., 0])


def _halve_frames(layer: DownConv, x_BTHWC: jax.Array) -> jax.Array:
    """Halves rows and columns of each frame, odd ones filled up by a copy of the last."""
    rows, columns = (size % 2 for size in x_BTHWC.shape[2:4])
    pads = ((0, 0), (0, 0), (0, rows), (0, columns), (0, 0))
    x = jnp.pad(x_BTHWC, pads, mode="edge")
    y_NHWF = layer(x.reshape(-1, *x.shape[2:]))
    return y_NHWF.reshape(*x.shape[:2], *y_NHWF.shape[1:])
