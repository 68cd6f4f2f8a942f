"""A critic that scores how real patches of videos look."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.causal_blocks import CausalConv, map_frames, stack_frames
from vvae.models.convolutions import DownConv

_MOST_GROWTH = 8
_NEGATIVE_SLOPE = 0.2


class PatchCritic(nn.Module):
    """Convolutions over whole clips, strided in space and time, with one score per patch.

    A three-dimensional PatchGAN discriminator: each score has a limited receptive field. GroupNorm
    with two channels per group normalises each clip by itself, so no score depends on the rest of
    the batch.

    Attributes:
      width: channels after the first convolution; each further one doubles them, up to eight times
        the width.
      depth: number of convolutions that halve rows and columns; all but the first halve time too.
      dtype: of the activations; scores are at least float32.

    References:
      Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, 2017.
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
            x = _halve_frames(DownConv(features=width, dtype=self.dtype, name=f"down_{level}"), x)
            if level:
                x = jnp.pad(x, ((0, 0), (1, 1 + x.shape[1] % 2), (0, 0), (0, 0), (0, 0)))
                x = nn.Dense(width, dtype=self.dtype, name=f"time_{level}")(stack_frames(x, 2))
                norm = nn.GroupNorm(
                    None, max(1, width // 2), dtype=self.dtype, name=f"norm_{level}"
                )
                x = norm(x)
            x = nn.leaky_relu(x, _NEGATIVE_SLOPE)
        scores, _ = CausalConv(features=1, dtype=self.dtype, name="score")(x, None)
        return raise_precision(scores[..., 0])


def _halve_frames(layer: DownConv, x_BTHWC: jax.Array) -> jax.Array:
    """Halves rows and columns of each frame; pads an odd number with a copy of the last."""
    rows, columns = (size % 2 for size in x_BTHWC.shape[2:4])
    pads = ((0, 0), (0, 0), (0, rows), (0, columns), (0, 0))
    x = jnp.pad(x_BTHWC, pads, mode="edge")
    return map_frames(layer, x)
