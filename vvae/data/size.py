"""Estimates the size of a data set from listings and headers, before anything is decoded."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from vvae.data.cache import identify_file
from vvae.data.listing import Video
from vvae.data.sampling import ClipFormat
from vvae.video import VideoError, read_stated_length

_MAX_HEADERS = 50


@dataclass(frozen=True)
class DataSize:
    """The result of `estimate_size`.

    Attributes:
      num_videos: The number of listed videos, unreadable ones included.
      file_bytes: The total size of their files.
      decoded_bytes: The approximate size of their clips in the cache; None if no header states the
        length of its video.
    """

    num_videos: int
    file_bytes: int
    decoded_bytes: int | None


def estimate_size(videos: Sequence[Video], clip_format: ClipFormat) -> DataSize:
    """Estimates the size of a data set from up to 50 headers, spread over its videos.

    Args:
      videos: The listed videos, one or more.
      clip_format: The view, size and sampling of the clips.
    """
    paths = [video.path for video in videos]
    file_bytes = sum(_measure(path) for path in paths)
    asked = paths[:: -(-len(paths) // _MAX_HEADERS)]
    counts = [n for path in asked if (n := _count_clips(path, clip_format)) is not None]
    decoded_bytes = None
    if counts:
        decoded_bytes = round(sum(counts) / len(counts) * len(paths) * clip_format.clip_bytes)
    return DataSize(len(paths), file_bytes, decoded_bytes)


def read_length(path: str) -> int | None:
    """Returns the number of frames that a header states; None if unknown. Reads a file once."""
    try:
        return _read_length(path, identify_file(path))
    except VideoError:
        return None


@functools.lru_cache(maxsize=2 * _MAX_HEADERS)
def _read_length(path: str, identity: tuple[int, int]) -> int | None:
    del identity  # a file that has changed is read again
    return read_stated_length(path)


def _measure(path: str) -> int:
    try:
        return identify_file(path)[0]
    except VideoError:
        return 0


def _count_clips(path: str, clip_format: ClipFormat) -> int | None:
    """Returns the number of clips of a video by its header; None if it is not stated there."""
    sampling = clip_format.sampling
    if sampling.mode == "whole":
        return 1
    length = read_length(path)
    if length is None:
        return None
    kept = -(-length // sampling.frame_stride)
    return -(-kept // sampling.num_frames)
