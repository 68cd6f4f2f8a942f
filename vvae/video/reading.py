"""Reads videos: exact frames with their times, or a VideoError that names the file."""

import os
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vvae.video import containers
from vvae.video.errors import VideoError
from vvae.video.frames import MAX_PIXELS, NOMINAL_FPS
from vvae.video.stills import is_image, iterate_image_folder, iterate_npy

VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".npy", ".webm")


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` found by decoding every frame.

    Attributes:
      num_frames: Exact number of frames.
      height: Rows after rotation, pixels.
      width: Columns after rotation, pixels.
      fps: Mean frame rate over the real timestamps, frames per second.
    """

    num_frames: int
    height: int
    width: int
    fps: float


def is_video(path: str | os.PathLike) -> bool:
    """Tells whether `path` is a video: a file by suffix, or a folder that holds image frames."""
    path = Path(path)
    if path.is_dir():
        return any(is_image(name) for name in os.listdir(path))
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def probe(path: str | os.PathLike) -> VideoInfo:
    """Counts and measures a video by decoding all of it.

    Raises:
      VideoError: if it cannot be decoded from the first frame to the last.
    """
    times = []
    shape = None
    for time, frame in iterate_frames(path):
        times.append(time)
        shape = frame.shape
    span = times[-1] - times[0]
    fps = round((len(times) - 1) / span, 6) if span > 0 else NOMINAL_FPS
    return VideoInfo(len(times), shape[0], shape[1], fps)


def read_stated_length(path: str | os.PathLike) -> int | None:
    """Returns how many frames a video has by its header, without decoding it; None if unknown.

    For estimates only: headers can be wrong, and `probe` counts.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return sum(map(is_image, os.listdir(path)))
        if path.suffix.lower() == ".npy":
            return len(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError):
        return None
    return containers.read_stated_length(path)


def read_frames(
    path: str | os.PathLike, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a whole video.

    Args:
      path: Video file, folder of image frames, or .npy array.
      size: (height, width) to resize to, or None for the video's own size.
      max_pixels: most pixels of a frame of the file.

    Returns:
      times_F float64, seconds since the first frame; frames_FHWC uint8 RGB.

    Raises:
      VideoError: see `iterate_frames`.
    """
    times, frames = zip(*iterate_frames(path, size, max_pixels))
    return np.array(times, np.float64), np.stack(frames)


def iterate_frames(
    path: str | os.PathLike, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields the real frames of a video in the order of display, one at a time.

    Rotation is applied; alpha is dropped; any bit depth and chroma format becomes 8-bit RGB. Frames
    of a variable rate keep their own timestamps: none is repeated or left out. Resizing is
    antialiased: each new pixel is the mean of the area that it covers (bilinear where a side
    grows). Folders of images are sorted naturally (2.png before 10.png) and, like .npy arrays
    ([T, H, W] or [T, H, W, 1 or 3] uint8), timed at `NOMINAL_FPS`.

    A file counts as cut when a packet of its video is there only in part, when a GIF lacks its end
    mark, or when the last packet ends before the duration that the header states, by more than two
    mean frame durations and 0.1 s: the duration of the video stream (mp4; in avi by its number of
    frames), else of the file, to which then any of its streams may reach (mkv, webm). A file that
    states no duration and is cut between two frames is a shorter video. Frames are handed out as
    they come, but the last one only when the file has proved whole: no frame is ever invented.

    Args:
      path: Video file, folder of image frames, or .npy array.
      size: (height, width) to resize to, or None for the video's own size.
      max_pixels: most pixels of a frame of the file, rows times columns; what a header promises
        is looked at before memory for it is asked for.

    Yields:
      (seconds since the first frame, uint8 [H, W, 3] RGB).

    Raises:
      VideoError: no such file, not a video, no frames, damaged or cut in the middle (the message
        says after which frame), a size that changes.
      FrameTooLargeError: frames of more than `max_pixels`.
    """
    path = Path(path)
    if not path.exists():
        raise VideoError(path, "no such file or folder")
    if path.is_dir():
        frames = iterate_image_folder(path, size, max_pixels)
    elif path.suffix.lower() == ".npy":
        frames = iterate_npy(path, size, max_pixels)
    else:
        frames = containers.iterate_file(path, size, max_pixels)
    number, shape = -1, None
    for number, (time, frame, own_shape) in enumerate(frames):
        if shape not in (None, own_shape):
            raise VideoError(path, f"frame {number} is {own_shape}, others {shape}")
        shape = own_shape
        yield time, frame
    if number < 0:
        raise VideoError(path, "holds no video frames")
