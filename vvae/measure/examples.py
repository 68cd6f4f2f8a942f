"""Chooses clips and frames to show, and names them."""

import numpy as np

from vvae.data.clips import Clips

NUM_SHOWN_FRAMES = 8
DEFAULT_FPS = 10.0
MAX_FPS = 60.0


def choose_examples(clips: Clips, count: int) -> np.ndarray:
    """Returns the numbers of up to `count` clips to show, spread over the videos.

    Each video is represented by its clip with the most valid frames. Videos for which this clip has
    fewer valid frames than for others are left out.
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
