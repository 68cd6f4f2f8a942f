"""How much data a folder holds, told from listings and headers before anything is decoded."""

import os
from dataclasses import dataclass

from vvae.data.cache import identify_file
from vvae.data.listing import list_videos
from vvae.data.sampling import ClipFormat
from vvae.video import VideoError, read_stated_length

_MAX_HEADERS = 50


@dataclass(frozen=True)
class DataSize:
    """What `estimate_size` found.

    Attributes:
      num_videos: videos listed, unreadable ones included.
      file_bytes: of their files.
      decoded_bytes: about what their clips take in the cache; None where no header says how long
        a video is.
    """

    num_videos: int
    file_bytes: int
    decoded_bytes: int | None


def estimate_size(root: str | os.PathLike, clip_format: ClipFormat) -> DataSize:
    """Estimates the size of a data set from up to 50 headers, spread over its videos.

    Args:
      root: folder of videos, see `list_videos`.
      clip_format: what a clip is.

    Raises:
      ValueError: if the folder cannot be listed.
    """
    paths = [video.path for video in list_videos(root)]
    file_bytes = sum(_measure(path) for path in paths)
    asked = paths[:: -(-len(paths) // _MAX_HEADERS)]
    counts = [n for path in asked if (n := _count_clips(path, clip_format)) is not None]
    decoded_bytes = None
    if counts:
        decoded_bytes = round(sum(counts) / len(counts) * len(paths) * clip_format.clip_bytes)
    return DataSize(len(paths), file_bytes, decoded_bytes)


def _measure(path: str) -> int:
    try:
        return identify_file(path)[0]
    except VideoError:
        return 0


def _count_clips(path: str, clip_format: ClipFormat) -> int | None:
    """Clips of a video by its header; None where it does not say."""
    sampling = clip_format.sampling
    if sampling.mode == "whole":
        return 1
    length = read_stated_length(path)
    if length is None:
        return None
    kept = -(-length // sampling.frame_stride)
    return -(-kept // sampling.num_frames)
