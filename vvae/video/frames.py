"""What all readers of videos share: the size of frames, its limit, and resizing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vvae.video.errors import FrameTooLargeError

Size = tuple[int, int]  # (height, width)
# (seconds since the first frame, uint8 RGB [H, W, 3] of the size asked for, size in the file)
Frames = Iterator[tuple[float, np.ndarray, Size]]

# Twice an 8K frame; reading frames of this size takes about 0.9 GB. A header may promise any size.
MAX_PIXELS = 64_000_000
NOMINAL_FPS = 25.0  # of what carries no time: folders of images, .npy arrays, a single frame


def check_pixels(path: Path, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise FrameTooLargeError(
            path,
            f"frames of {width}x{height}, {height * width / 1e6:.0f} megapixels, are more than the "
            f"{max_pixels / 1e6:.0f} that data.max_megapixels allows",
        )


def resize(frame: np.ndarray, size: Size | None) -> np.ndarray:
    """Resizes uint8 [H, W, 3]: area mean where it shrinks, bilinear where it grows."""
    if size is None or frame.shape[:2] == tuple(size):
        return frame
    height, width = size
    grows = height > frame.shape[0] or width > frame.shape[1]
    # swscale's "area" was faster but turned white into 253 and lost up to 0.5 of the mean.
    method = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
    return np.asarray(Image.fromarray(frame).resize((width, height), method))
