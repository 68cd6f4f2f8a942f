"""Runs a function over all clips of a split, and chooses clips to show."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vvae import processes
from vvae.data.clips import Clips
from vvae.data.loader import eval_batches

NUM_SHOWN_FRAMES = 8
DEFAULT_FPS = 10.0
MAX_FPS = 60.0


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
    parts = [jax.device_get(function(batch)) for batch in own]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *parts)
    # [P, own batches, B, ...] -> [own batches, P, B, ...], the order of the clips.
    return jax.tree.map(
        # An explicit size: -1 is undefined for empty arrays, such as differences of one frame.
        lambda a: a.swapaxes(0, 1).reshape(math.prod(a.shape[:3]), *a.shape[3:])[: len(clips)],
        processes.gather(stacked),
    )


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


def choose_examples(clips: Clips, count: int) -> np.ndarray:
    """Returns the numbers of up to `count` clips to show, spread over the videos.

    Each video is represented by its clip with the most valid frames. Videos whose clips are all
    padded more than others are shown only if there are no others.
    """
    order = np.lexsort((-clips.mask_NT.sum(axis=1), clips.video_index_N))
    _, first = np.unique(clips.video_index_N[order], return_index=True)
    best_V = order[first]
    length_V = clips.mask_NT[best_V].sum(axis=1)
    longest = best_V[length_V == length_V.max()]
    return spread_evenly(longest, count)


def spread_evenly(items: np.ndarray, count: int) -> np.ndarray:
    """Returns up to `count` evenly spaced items: the middle ones of as many equal parts."""
    count = min(count, len(items))
    return items[((np.arange(count) + 0.5) * len(items) / count).astype(int)]


def choose_frames(num_frames: int) -> np.ndarray:
    """Returns up to 8 frame numbers to show, evenly spaced, including the first and the last."""
    return np.unique(np.linspace(0, num_frames - 1, NUM_SHOWN_FRAMES).round().astype(int))


def name_clips(clips: Clips) -> list[str]:
    """Returns the name of each clip's video."""
    return [clips.videos[video].name for video in clips.video_index_N]


def measure_fps(clips: Clips) -> float:
    """Returns the frame rate at which the clips play in real time, frames/s.

    It is the inverse of the median time step, between 1 and 60; 10 for clips of one frame.
    """
    steps = np.diff(clips.time_NT, axis=1)
    steps = steps[steps > 0]
    return float(np.clip(1.0 / np.median(steps), 1.0, MAX_FPS)) if len(steps) else DEFAULT_FPS
