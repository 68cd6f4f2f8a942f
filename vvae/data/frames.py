"""The frames of one listed video, outside clips and their cache: for what reads whole files."""

from collections.abc import Iterator

import numpy as np

from vvae.video import iterate_frames, probe


def read_chunks(
    path: str, size: tuple[int, int], stride: int, length: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields every stride-th frame of a video, `length` of them at a time.

    Args:
      path: the file, see `vvae.video.iterate_frames`.
      size: (height, width) to resize to.
      stride: every stride-th frame of the file is used.
      length: frames in a chunk; the last one may be shorter.

    Yields:
      number_F int64, numbers in the file; time_F float64, s; frames_FHWC uint8 RGB.

    Raises:
      VideoError: if the file cannot be read.
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
    """Reads the frames of these numbers, uint8 RGB [H, W, 3]; stops after the last of them."""
    found = {}
    for number, (_, frame) in enumerate(iterate_frames(path, size)):
        if number in wanted:
            found[number] = frame
        if len(found) == len(wanted):
            break
    return found


def measure_size(path: str) -> tuple[int, int]:
    """Returns (height, width) of a video."""
    info = probe(path)
    return info.height, info.width
