"""Reads frames of one listed video directly, without clips and their cache."""

from collections.abc import Iterator

import numpy as np

from vvae.video import iterate_frames, probe


def read_chunks(
    path: str, size: tuple[int, int], stride: int, length: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields every stride-th frame of a video in chunks of `length` frames.

    Args:
      path: The video; see `vvae.video.iterate_frames`.
      size: The (height, width) to resize to.
      stride: The step from one frame to the next, in frames of the file.
      length: The number of frames in a chunk; the last chunk may be shorter.

    Yields:
      number_F: int64; the numbers of the frames in the file.
      time_F: float64; their times, s.
      frames_FHWC: uint8 RGB.

    Raises:
      VideoError: If the video cannot be read.
    """
    numbers, times, frames = [], [], []
    for number, (time, frame) in enumerate(iterate_frames(path, size)):
        if number % stride:
            continue
        numbers.append(number)
        times.append(time)
        frames.append(frame)
        if len(frames) == length:
            yield np.array(numbers), np.array(times), np.stack(frames)
            numbers, times, frames = [], [], []
    if frames:
        yield np.array(numbers), np.array(times), np.stack(frames)


def read_some(path: str, size: tuple[int, int], wanted: set[int]) -> dict[int, np.ndarray]:
    """Reads the frames with these numbers, uint8 RGB [H, W, 3]; stops after the last of them."""
    found = {}
    for number, (_, frame) in enumerate(iterate_frames(path, size)):
        if number in wanted:
            found[number] = frame
        if len(found) == len(wanted):
            break
    return found


def measure_size(path: str) -> tuple[int, int]:
    """Returns the (height, width) of a video."""
    info = probe(path)
    return info.height, info.width
