"""Samples clips from the frames of a video."""

import contextlib
import os
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vvae.data.views import encode_view, find_decode_factor, get_view
from vvae.video import MAX_PIXELS, VideoError, iterate_frames, read_stated_length


@dataclass(frozen=True)
class Sampling:
    """How clips are taken from a video, after every `frame_stride`-th frame has been kept.

    Attributes:
      num_frames: The number of frames in a clip, T.
      frame_stride: The step from one kept frame to the next, in frames of the file.
      mode: `windows` cuts all kept frames into consecutive clips that do not overlap, so that each
        kept frame is in exactly one clip; the last clip is padded. `whole` makes one clip of the
        frames nearest to `num_frames` equally spaced times from the first frame to the last; a
        frame that stays on screen for long may be taken more than once.
    """

    num_frames: int
    frame_stride: int = 1
    mode: Literal["windows", "whole"] = "windows"

    def __post_init__(self):
        if self.num_frames < 1:
            raise ValueError(f"data.num_frames must be at least 1, got {self.num_frames}")
        if self.frame_stride < 1:
            raise ValueError(f"data.frame_stride must be at least 1, got {self.frame_stride}")
        if self.mode not in ("windows", "whole"):
            raise ValueError(f"data.sampling must be windows or whole, got {self.mode!r}")


@dataclass(frozen=True)
class ClipFormat:
    """The format of clips: their view, their size in pixels, and how their frames are sampled."""

    view: str
    height: int
    width: int
    sampling: Sampling

    def __post_init__(self):
        get_view(self.view)
        if self.height < 1 or self.width < 1:
            raise ValueError(f"clips must be at least 1x1 pixel, got {self.height}x{self.width}")

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """The shape (T, H, W, C) of one clip."""
        channels = get_view(self.view).num_channels
        return (self.sampling.num_frames, self.height, self.width, channels)

    @property
    def clip_bytes(self) -> int:
        """The size of one clip in the cache, in bytes."""
        return int(np.prod(self.clip_shape))


@dataclass(frozen=True)
class VideoClips:
    """All clips of one video.

    Attributes:
      codes_NTHWC: uint8 codes of the view.
      mask_NT: bool; False where a frame was repeated to fill the clip, or where the view has no
        value.
      frame_NT: int32; the number of each frame in the file. Repeated frames repeat their number.
      time_NT: float64; the time of each frame in the file, s.
      num_padded: The number of clips that repeat their last frame.
      num_frames: The number of frames in the file.
      num_clipped: The number of clipped values in valid frames; see `views.encode_view`.
    """

    codes_NTHWC: np.ndarray
    mask_NT: np.ndarray
    frame_NT: np.ndarray
    time_NT: np.ndarray
    num_padded: int
    num_frames: int
    num_clipped: int


def decode_clips(
    path: str | os.PathLike, clip_format: ClipFormat, max_pixels: int = MAX_PIXELS
) -> VideoClips:
    """Decodes all clips of one video.

    The kept frames are held in memory at the size of the clips, 12 KB each at 64x64. For small
    clips of a view with flow, they are larger by a whole factor; see `views.find_decode_factor`.

    Args:
      path: The video.
      clip_format: The view, size and sampling of the clips.
      max_pixels: The largest number of pixels in a frame of the file.

    Raises:
      VideoError: If the video cannot be read to its end, or has no frame for which the view is
        defined.
    """
    sampling = clip_format.sampling
    kept, num_frames = _read_kept(path, clip_format, max_pixels)
    if sampling.mode == "whole":
        times_K = np.array([time for _, time, _ in kept])
        kept = [kept[k] for k in find_spread_frames(times_K, sampling.num_frames)]
    return _cut_clips(path, clip_format, kept, num_frames)


def decode_clip(
    path: str | os.PathLike, clip_format: ClipFormat, share: float, max_pixels: int = MAX_PIXELS
) -> VideoClips:
    """Decodes one of the N clips of a video: that of number floor(share N).

    Of gray and rgb windows, only the frames up to the end of the clip are decoded, and only its own
    are held in memory; damage after them is not noticed. N follows from the length that the header
    states, or, where it states none or too many frames, from counting.

    Args:
      path: The video.
      clip_format: The view, size and sampling of the clips.
      share: In [0, 1).
      max_pixels: The largest number of pixels in a frame of the file.

    Returns:
      One clip, as `decode_clips` gives it; `num_frames` counts the frames that were decoded.

    Raises:
      VideoError: As `decode_clips`.
    """
    sampling = clip_format.sampling
    if sampling.mode == "whole" or not get_view(clip_format.view).is_8bit:
        clips = decode_clips(path, clip_format, max_pixels)
        number = int(share * len(clips.mask_NT))
        one = slice(number, number + 1)
        arrays = ("codes_NTHWC", "mask_NT", "frame_NT", "time_NT")
        return replace(clips, **{name: getattr(clips, name)[one] for name in arrays})
    length = read_stated_length(path)
    if length is None:
        length = sum(1 for _ in iterate_frames(path, (1, 1), max_pixels))
    while True:
        window = _find_window(length, sampling, share)
        kept, num_frames = _read_kept(path, clip_format, max_pixels, window)
        if kept:
            return _cut_clips(path, clip_format, kept, num_frames)
        length = num_frames  # the header states more frames than there are


def _find_window(length: int, sampling: Sampling, share: float) -> range:
    """Returns the kept frames of a clip, in a video of `length` frames."""
    num_clips = -(-max(length, 1) // (sampling.frame_stride * sampling.num_frames))
    first = int(share * num_clips) * sampling.num_frames
    return range(first, first + sampling.num_frames)


def _read_kept(
    path: str | os.PathLike, clip_format: ClipFormat, max_pixels: int, window: range | None = None
) -> tuple[list[tuple[int, float, np.ndarray]], int]:
    """Reads every `frame_stride`-th frame, or those of them in a window, after which it ends.

    Returns:
      (number, time, frame) of those frames, and the number of frames that were read.
    """
    stride = clip_format.sampling.frame_stride
    factor = find_decode_factor(get_view(clip_format.view), clip_format.height, clip_format.width)
    size = (factor * clip_format.height, factor * clip_format.width)
    kept, num_frames = [], 0
    with contextlib.closing(iterate_frames(path, size, max_pixels)) as frames:
        for time, frame in frames:
            number, remainder = divmod(num_frames, stride)
            if remainder == 0 and (window is None or number in window):
                kept.append((num_frames, time, frame))
            num_frames += 1
            if window is not None and len(kept) == len(window):
                break
    return kept, num_frames


def _cut_clips(
    path: str | os.PathLike,
    clip_format: ClipFormat,
    kept: list[tuple[int, float, np.ndarray]],
    num_frames: int,
) -> VideoClips:
    """Encodes kept frames and cuts them into clips."""
    view = get_view(clip_format.view)
    factor = find_decode_factor(view, clip_format.height, clip_format.width)
    frames_SHWC = np.stack([frame for _, _, frame in kept])
    codes_SHWC, valid_S, num_clipped = encode_view(view, frames_SHWC, factor)
    if not valid_S.any():
        raise VideoError(path, f"{len(kept)} frame(s) are too few for the view {view.name}")
    position_NT, filled_NT = cut_sequence(len(kept), clip_format.sampling.num_frames)
    frame_S = np.array([number for number, _, _ in kept], np.int32)
    time_S = np.array([time for _, time, _ in kept], np.float64)
    return VideoClips(
        codes_NTHWC=codes_SHWC[position_NT],
        mask_NT=valid_S[position_NT] & ~filled_NT,
        frame_NT=frame_S[position_NT],
        time_NT=time_S[position_NT],
        num_padded=int(filled_NT.any(axis=1).sum()),
        num_frames=num_frames,
        num_clipped=num_clipped,
    )


def find_spread_frames(times_F: np.ndarray, num_frames: int) -> np.ndarray:
    """Finds the frames nearest to equally spaced times from the first frame to the last.

    Args:
      times_F: float64; the times of the frames, s.
      num_frames: The number of frames to choose.

    Returns:
      Indices int64 [min(F, num_frames)], in order; all frames if F is not larger than `num_frames`.
    """
    if len(times_F) <= num_frames:
        return np.arange(len(times_F))
    wanted_T = np.linspace(times_F[0], times_F[-1], num_frames)
    return np.abs(wanted_T[:, None] - times_F[None, :]).argmin(axis=1)


def cut_sequence(length: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts `length` positions into clips of `num_frames`; the last clip repeats the last position.

    Returns:
      position_NT: int64, with N = ceil(length / num_frames).
      filled_NT: bool; True where the last position was repeated.
    """
    num_clips = -(-length // num_frames)
    position_NT = np.arange(num_clips * num_frames).reshape(num_clips, num_frames)
    return np.minimum(position_NT, length - 1), position_NT >= length
