"""Maps a function over all clips of a split, on one or several processes."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vvae import processes, progress
from vvae.data.clips import Clips
from vvae.data.loader import eval_batches


def map_clips(function: Callable[[dict[str, np.ndarray]], Any], clips: Clips, batch_size: int):
    """Applies a function to every clip, in batches of one fixed size.

    With several processes, each computes every P-th batch and all return the whole result. It is
    bit-equal to that of one process, since the batches are the same.

    Args:
      function: A function from a batch (see `vvae.data.loader.eval_batches`) to a pytree of arrays
        [B, ...]. The caller jits it, so that it is compiled once.
      clips: One or more clips.
      batch_size: B. The last batch is padded, and the padding is removed from the result.

    Returns:
      The pytree with NumPy arrays [N, ...], in the order of the clips.
    """
    own = eval_batches(clips, batch_size * processes.count(), processes.index(), processes.count())
    num_batches = -(-len(clips) // (batch_size * processes.count()))
    parts = [jax.device_get(function(batch)) for batch in progress.count(own, num_batches)]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *parts)
    # [P, own batches, B, ...] -> [own batches, P, B, ...], the order of the clips.
    return jax.tree.map(
        # An explicit size: -1 is undefined for empty arrays, such as differences of one frame.
        lambda a: a.swapaxes(0, 1).reshape(math.prod(a.shape[:3]), *a.shape[3:])[: len(clips)],
        processes.gather(stacked),
    )


def map_clips_here(function: Callable[[dict[str, np.ndarray]], Any], clips: Clips, batch_size: int):
    """Applies a function to every clip as `map_clips` does, in this process alone."""
    parts = [jax.device_get(function(batch)) for batch in eval_batches(clips, batch_size)]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(clips)], *parts)


def map_clips_on_all(function, clips: Clips, batch_size: int):
    """Applies a function that all devices of all processes compute together to every clip.

    Args:
      function: A function from this process's part of a batch to a pytree of arrays [B, ...] for
        the whole batch, as `Runner.map_eval` makes them.
      clips: One or more clips.
      batch_size: B. The last batch is padded, and the padding is removed from the result.

    Returns:
      The pytree with NumPy arrays [N, ...], in the order of the clips.
    """
    processes.wait_for_all()
    own = eval_batches(clips, batch_size, processes.index(), processes.count())
    parts = [function(batch) for batch in own]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(clips)], *parts)
