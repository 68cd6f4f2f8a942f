"""Baseline anomaly scores that need no trained model. Pure NumPy; higher is more abnormal.

They read the same view at the same size as the model. Two of them ignore the content of a frame:
its number and its mean brightness. A model whose scores do not beat these two has learned nothing
useful for this task.
"""

import dataclasses

import numpy as np

from vvae.data.clips import Clips
from vvae.data.views import View, decode_view
from vvae.measure.pca import sample_frames

MAX_BACKGROUND_FRAMES = 500

# Score -> definition, for the metric cards.
CONTROLS = {
    "frame_difference": "mean absolute difference from the frame before, in codes of {channels}",
    "frame_difference_block": "largest mean of that over a square of {block} pixels",
    "background": "mean absolute difference from the median of training frames, in codes of "
    "{channels}",
    "background_block": "largest mean of that over a square of {block} pixels",
    "motion": "mean size of the view's motion vectors or differences",
    "motion_block": "largest mean of that over a square of {block} pixels",
    "motion_window": "largest mean over the clip's frames of the motion in a square of {block} "
    "pixels, given to all of its frames, as those scores of the model are that look at a clip",
    "motion_standardized": "largest mean of that over a square of {block} pixels, less its mean at "
    "this place in training frames, in standard deviations at this place and of all places",
    "brightness": "mean code of the intensity channels: a control that knows nothing",
    "time_index": "number of the frame in its file: a control that knows nothing",
}


@dataclasses.dataclass(frozen=True)
class Untrained:
    """Statistics of normal videos that the baselines use.

    Attributes:
      background_HWC: float32; the median frame, in codes of the view.
      motion_mean: float32 [H - block + 1, W - block + 1]; the mean motion in the square at each
        position. [1, 1] zeros for a view without motion.
      motion_scale: The spread of this motion, of the same shape; [1, 1] ones for a view without
        motion.
    """

    background_HWC: np.ndarray
    motion_mean: np.ndarray
    motion_scale: np.ndarray


def fit_untrained(train: Clips, block: int, seed: int) -> Untrained:
    """Estimates the background and the motion at each position from up to 500 training frames.

    The squared spread at a position is its variance plus the mean variance over all positions.
    Without the second term, the slightest motion would have an extreme score at a position where
    almost nothing moved in training.

    Args:
      train: The training clips.
      block: The side of a square, pixels.
      seed: The seed of the draw of the frames.

    Raises:
      ValueError: If the view has motion and the squares do not fit into the frames.
    """
    frames_FHWC = sample_frames(train, MAX_BACKGROUND_FRAMES, seed)
    background_HWC = np.median(frames_FHWC, axis=0).astype(np.float32)
    mean, scale = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    if not all(train.view.intensity_channels):
        blocks = average_blocks(measure_motion(train.view, frames_FHWC), block)
        variance = blocks.var(axis=0)
        mean = blocks.mean(axis=0).astype(np.float32)
        scale = np.sqrt(np.maximum(variance + variance.mean(), 1e-12)).astype(np.float32)
    return Untrained(background_HWC=background_HWC, motion_mean=mean, motion_scale=scale)


def score_controls(clips: Clips, untrained: Untrained, block: int) -> dict[str, np.ndarray]:
    """Scores frames by all of CONTROLS that the view allows, except `time_index`.

    The first frame of a video has no predecessor and takes the difference of the second frame.

    Args:
      clips: N clips that are consecutive windows of their videos.
      untrained: The result of `fit_untrained`.
      block: The side of a square, pixels.

    Returns:
      name -> float64 [N, T]; 0 at masked frames.

    Raises:
      ValueError: If the squares do not fit into the frames.
    """
    scores: dict[str, np.ndarray] = {}
    for video in range(len(clips.videos)):
        last_HWC = None
        for clip in np.flatnonzero(clips.video_index_N == video):
            position_S = np.flatnonzero(clips.mask_NT[clip])
            if not len(position_S):
                continue
            codes_SHWC = clips.read([clip])[0, position_S]
            own, last_HWC = score_codes(clips.view, codes_SHWC, last_HWC, untrained, block)
            for name, score_S in own.items():
                score_NT = scores.setdefault(name, np.zeros(clips.mask_NT.shape))
                score_NT[clip, position_S] = score_S
    return scores


def score_codes(
    view: View,
    codes_SHWC: np.ndarray,
    last_HWC: np.ndarray | None,
    untrained: Untrained,
    block: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores the valid frames of one clip; see `score_controls`.

    Args:
      view: The view of the codes.
      codes_SHWC: The codes of the S valid frames, S at least 1.
      last_HWC: What this function returned for the clip before; None for the first clip, whose
        first frame takes the difference of the second.
      untrained: The result of `fit_untrained`.
      block: The side of a square, pixels.

    Returns:
      name -> float64 [S], and the last frame, for the next clip.
    """
    intensity_C = np.array(view.intensity_channels)
    used_C = intensity_C if intensity_C.any() else np.ones_like(intensity_C)
    codes_SHWC = codes_SHWC.astype(np.float32)
    if last_HWC is None:
        last_HWC = codes_SHWC[min(1, len(codes_SHWC) - 1)]
    before_SHWC = np.concatenate([last_HWC[None], codes_SHWC[:-1]])
    apart = codes_SHWC - untrained.background_HWC
    maps = {
        "frame_difference": np.abs(codes_SHWC - before_SHWC)[..., used_C].mean(axis=-1),
        "background": np.abs(apart)[..., used_C].mean(axis=-1),
    }
    if not intensity_C.all():
        maps["motion"] = measure_motion(view, codes_SHWC)
    scores = {}
    for name, map_SHW in maps.items():
        blocks = average_blocks(map_SHW, block)
        scores[name] = map_SHW.mean(axis=(1, 2)).astype(np.float64)
        scores[f"{name}_block"] = blocks.max(axis=(1, 2))
        if name == "motion":
            scores["motion_window"] = np.full(len(blocks), blocks.mean(axis=0).max())
            strange = (blocks - untrained.motion_mean) / untrained.motion_scale
            scores["motion_standardized"] = strange.max(axis=(1, 2))
    if intensity_C.any():
        bright_S = codes_SHWC[..., intensity_C].mean(axis=(1, 2, 3))
        scores["brightness"] = bright_S.astype(np.float64)
    return scores, codes_SHWC[-1]


def measure_motion(view: View, codes: np.ndarray) -> np.ndarray:
    """Returns the norm over the channels that are not intensities, [..., H, W].

    It is the speed for optical flow and the absolute value for a difference, in the physical units
    of the view.
    """
    physical = decode_view(view, codes)[..., ~np.array(view.intensity_channels)]
    return np.sqrt(np.square(physical).sum(axis=-1))


def average_blocks(map_SHW: np.ndarray, block: int) -> np.ndarray:
    """Averages maps [S, H, W] over each square of block x block pixels.

    Returns:
      float64 [S, H - block + 1, W - block + 1].

    Raises:
      ValueError: If the squares do not fit into the frames.
    """
    height, width = map_SHW.shape[1:]
    if not 1 <= block <= min(height, width):
        raise ValueError(
            f"block={block!r} does not fit into frames of {height}x{width} pixels: set "
            f"evaluate.anomaly_block to 1 to {min(height, width)}"
        )
    total = np.pad(map_SHW.astype(np.float64), ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    rows = total[:, block:] - total[:, :-block]
    return (rows[:, :, block:] - rows[:, :, :-block]) / block**2
