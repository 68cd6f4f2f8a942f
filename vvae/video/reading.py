"""Reads videos of any kind: files, folders of image frames, and .npy arrays."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from vvae.files import map_array
from vvae.video import containers
from vvae.video.errors import VideoError
from vvae.video.frames import MAX_PIXELS, NOMINAL_FPS, SQUARE
from vvae.video.stills import count_frames, is_image, iterate_image_folder, iterate_npy

VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov",
    ".mp4", ".mpeg", ".mpg", ".mts", ".npy", ".ogv", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` measures by decoding every frame.

    Attributes:
      num_frames: The exact number of frames.
      height: The number of rows as shown, after cropping and rotation.
      width: The number of columns as shown.
      fps: The mean frame rate over the real timestamps, frames/s.
      pixel_aspect: The width of a pixel, as players show it, divided by its height; 1 if the file
        states none.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    pixel_aspect: Fraction = SQUARE


def is_video(path: str | os.PathLike) -> bool:
    """Whether `path` is a video: a file with a known suffix, or a folder of image frames."""
    path = Path(path)
    if path.is_dir():
        return any(is_image(name) for name in os.listdir(path))
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def probe(path: str | os.PathLike) -> VideoInfo:
    """Counts and measures the frames of a video by decoding all of it.

    Raises:
      VideoError: If the video cannot be decoded from the first frame to the last.
    """
    times = []
    shape = None
    for time, frame in iterate_frames(path):
        times.append(time)
        shape = frame.shape
    span = times[-1] - times[0]
    fps = round((len(times) - 1) / span, 6) if span > 0 else NOMINAL_FPS
    return VideoInfo(
        num_frames=len(times),
        height=shape[0],
        width=shape[1],
        fps=fps,
        pixel_aspect=read_pixel_aspect(path),
    )


def read_pixel_aspect(path: str | os.PathLike) -> Fraction:
    """Returns the width of a pixel, as players show it, divided by its height; 1 if none is stated.

    Raises:
      VideoError: If the first frame cannot be decoded.
    """
    path = Path(path)
    is_container = not path.is_dir() and path.suffix.lower() != ".npy"
    return containers.read_pixel_aspect(path) if is_container else SQUARE


def read_stated_length(path: str | os.PathLike) -> int | None:
    """Returns the number of frames that the header states, without decoding; None if unknown.

    For estimates only: headers can be wrong, whereas `probe` counts.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return count_frames(path)
        if path.suffix.lower() == ".npy":
            return len(map_array(path))
    except Exception:  # as `iterate_frames`, which will name the damage
        return None
    return containers.read_stated_length(path)


def read_frames(
    path: str | os.PathLike, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a whole video.

    Args:
      path: The video file, folder of image frames, or .npy array.
      size: The (height, width) to resize to; None for the video's own size.
      max_pixels: The largest number of pixels in a frame of the file.

    Returns:
      times_F: float64; seconds since the first frame.
      frames_FHWC: uint8 RGB.

    Raises:
      VideoError: See `iterate_frames`.
    """
    times, frames = zip(*iterate_frames(path, size, max_pixels))
    return np.array(times, np.float64), np.stack(frames)


def iterate_frames(
    path: str | os.PathLike, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields the real frames of a video in the order of display, one at a time.

    Frames are those that the ffmpeg program shows: cropped, rotated and mirrored as the container
    says, converted to 8-bit RGB by the stated colour matrix and range, interlaced ones with both
    fields. Alpha is dropped, so that transparent pixels have the colour that is stored for them.
    Pixels that are not square stay as they are stored: a given size covers the whole frame, and
    `VideoInfo.pixel_aspect` tells how it is shown. Frames of a variable rate keep their own
    timestamps: none is repeated or left out. Resizing is antialiased: each new pixel is the mean of
    the area that it covers (bilinear where a side grows).

    Folders of images are sorted naturally (2.png before 10.png). Every page of a TIFF and every
    frame of an animated PNG or WebP is a frame. The orientation in their EXIF data is applied, and
    any kind of pixels becomes RGB, except for floats and signed or 32-bit integers, which are
    refused. 16-bit images are scaled from 0..65535: a folder in which no value reaches 16384, such
    as one of 12-bit numbers, is refused after its last frame instead of read as nearly black. Like
    .npy arrays (uint8 [T, H, W] or [T, H, W, 1 or 3]), folders are timed at `NOMINAL_FPS`.

    A file counts as truncated

    * if a packet of its video is incomplete,
    * if a GIF lacks its end mark, or
    * if its last packet ends before the stated duration, by more than two mean frame durations and
      0.1 s. The stated duration is that of the video stream (mp4; for avi, its number of frames).
      Otherwise it is that of the file (mkv, webm), which any of its streams may reach.

    A file without a stated duration that was truncated between two frames is a shorter video.
    Frames are yielded as they are decoded, except that the last frame is held back until the file
    has proved complete, so that no invented frame is ever yielded.

    Args:
      path: The video file, folder of image frames, or .npy array.
      size: The (height, width) to resize to; None for the video's own size.
      max_pixels: The largest number of pixels in a frame of the file, rows times columns. The size
        that a header states is checked before memory is allocated for it.

    Yields:
      (seconds since the first frame, uint8 RGB [H, W, 3]).

    Raises:
      VideoError: If the file does not exist, is not a video, has no frames, is damaged or truncated
        (the message says after which frame), or if the size of its frames changes.
      FrameTooLargeError: If a frame has more than `max_pixels` pixels.
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
