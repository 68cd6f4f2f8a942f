"""Recommends a configuration for a folder of videos, by its labels, lengths and first frames."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vvae.data.listing import Video
from vvae.data.size import read_length
from vvae.video import VideoError, iterate_frames

# Videos of at most this many frames, 20 s of 30 frames/s, are seen as a whole.
_SHORT = 600
# Videos that are looked at, spread over the folder.
_MAX_HEADERS = 50
_MAX_PICTURES = 8
# The first frames of one camera agree but for what moves: this share of pixels, within this many
# gray levels of their median over the videos. 0.95 for UCSD Ped2; 0.20 to 0.83 for EgoGestAR, where
# the camera is worn, within each of its places.
_SAME_SHARE = 0.9
_SAME_LEVELS = 16
_SIZE = (24, 32)
_ABNORMAL = "abnormal"  # column of a manifest


@dataclass(frozen=True)
class Recommendation:
    """A configuration that fits a folder of videos.

    Attributes:
      config: The name of the configuration.
      reason: What was found, in words.
    """

    config: str
    reason: str


def recommend(videos: Sequence[Video]) -> Recommendation:
    """Recommends a configuration; reads up to 50 headers and 8 first frames.

    Args:
      videos: The listed videos, in the order of their names.
    """
    classes = {video.label for video in videos if video.label is not None}
    labelled = sum(video.label is not None for video in videos)
    if len(classes) > 1 and 2 * labelled > len(videos):
        length = _find_median_length(videos)
        text = f"{labelled} videos of {len(classes)} classes"
        if length is None:
            return Recommendation("actions", text)
        text += f", with a median of {length} frames"
        if length <= _SHORT:
            return Recommendation("actions", f"{text}: short enough to be seen as a whole")
        return Recommendation("default", f"{text}: too long to be seen as a whole")
    return _recommend_unlabelled(videos)


def _recommend_unlabelled(videos: Sequence[Video]) -> Recommendation:
    if any(video.metadata.get(_ABNORMAL) for video in videos):
        return Recommendation("surveillance", "the manifest states abnormal frames")
    if is_one_camera(videos):
        text = f"{len(videos)} videos of one fixed camera, without classes"
        if any(video.split is None for video in videos):
            text += "; all of them must be normal, since no splits are stated"
        return Recommendation("surveillance", text)
    return Recommendation("default", f"{len(videos)} videos without classes")


def is_one_camera(videos: Sequence[Video]) -> bool:
    """Whether the first frames of several videos show one background."""
    pictures = []
    for video in _spread(videos, _MAX_PICTURES):
        frames = iterate_frames(video.path, _SIZE)
        with contextlib.suppress(VideoError), contextlib.closing(frames):
            pictures.append(next(frames)[1].mean(axis=-1))
    if len(pictures) < 3:
        return False
    pictures_NHW = np.stack(pictures)
    distance_NHW = np.abs(pictures_NHW - np.median(pictures_NHW, axis=0))
    return bool(np.mean(distance_NHW <= _SAME_LEVELS) >= _SAME_SHARE)


def _find_median_length(videos: Sequence[Video]) -> int | None:
    """Returns the median number of frames by headers; None if no header states it."""
    lengths = [read_length(video.path) for video in _spread(videos, _MAX_HEADERS)]
    known = [length for length in lengths if length is not None]
    return round(float(np.median(known))) if known else None


def _spread(videos: Sequence[Video], count: int) -> Sequence[Video]:
    return videos[:: max(1, -(-len(videos) // count))]
