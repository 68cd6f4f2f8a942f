"""What all readers share: the type of their output, the limit on frame sizes, and resizing."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from vvae.video.errors import FrameTooLargeError

Size = tuple[int, int]  # (height, width)
# (seconds since the first frame, uint8 RGB [H, W, 3] of the requested size, size in the file)
Frames = Iterator[tuple[float, np.ndarray, Size]]

# Twice an 8K frame; reading frames of this size takes about 0.9 GB. A header may state any size.
MAX_PIXELS = 64_000_000
SQUARE = Fraction(1)  # the aspect of square pixels
NOMINAL_FPS = 25.0  # for videos without times: folders of images, .npy arrays, a single frame


def check_pixels(path: Path, height: int, width: int, max_pixels: int) -> None:
    """Raises FrameTooLargeError if a frame has more than `max_pixels` pixels."""
    if height * width > max_pixels:
        size = f"{width}x{height}, {height * width / 1e6:.0f} megapixels,"
        raise make_size_error(path, size, max_pixels)


def make_size_error(path: Path, size: str, max_pixels: int) -> FrameTooLargeError:
    """Returns the error about frames of a size, described in words, that is too large."""
    return FrameTooLargeError(
        path,
        f"frames of {size} are more than the {max_pixels / 1e6:.0f} that data.max_megapixels "
        "allows",
    )


def resize(frame: np.ndarray, size: Size | None) -> np.ndarray:
    """Resizes uint8 [H, W, 3]: the area mean where it shrinks, bilinear where a side grows."""
    if size is None or frame.shape[:2] == tuple(size):
        return frame
    height, width = size
    grows = height > frame.shape[0] or width > frame.shape[1]
    # swscale's area filter is faster, but it turns white into 253 and shifts the mean by up to 0.5.
    method = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
    return np.asarray(Image.fromarray(frame).resize((width, height), method))
