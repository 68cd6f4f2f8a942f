"""Random variables for networks that are compared."""

import math
from collections.abc import Callable

import jax
import numpy as np

DEVIATION = np.float32(0.1)  # of biases and their like, and of what is near 1


def draw_variables(init: Callable[[jax.Array], dict]) -> dict:
    """Draws arrays for a network. None is 0 or 1, which could hide an error in the other network.

    Args:
      init: key -> variables of Flax; only their shapes are used.

    Returns:
      The same tree of NumPy arrays, float32.
    """
    rng = np.random.default_rng(1)

    def draw(path, shape):
        values, name = rng.standard_normal(shape.shape, np.float32), path[-1].key
        if name in ("kernel", "components"):
            return values / np.float32(math.sqrt(math.prod(shape.shape[:-1])))
        return (name in ("scale", "std")) + DEVIATION * values

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, jax.random.key(0)))
