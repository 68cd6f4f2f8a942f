"""Reads folders of image frames and .npy arrays as videos."""

import os
import re
import tokenize
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

from vvae.video.errors import VideoError, first_line
from vvae.video.frames import NOMINAL_FPS, Frames, Size, check_pixels, resize

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")


def iterate_image_folder(folder: Path, size: Size | None, max_pixels: int) -> Frames:
    """Yields the images of a folder in natural order; see `frames.Frames`."""
    names = sorted(filter(is_image, os.listdir(folder)), key=_natural_key)
    for number, name in enumerate(names):
        try:
            with Image.open(folder / name) as opened:
                check_pixels(folder / name, opened.height, opened.width, max_pixels)
            image = iio.imread(folder / name, plugin="pillow", index=0, rotate=True)
        except VideoError:
            raise
        except (OSError, ValueError, SyntaxError) as error:
            raise VideoError(
                folder, f"frame {number} ({name}) is unreadable ({first_line(error)})"
            ) from error
        rgb_HWC = _image_to_rgb(folder / name, image)
        yield number / NOMINAL_FPS, resize(rgb_HWC, size), rgb_HWC.shape[:2]


def _image_to_rgb(path: Path, image: np.ndarray) -> np.ndarray:
    """Converts uint8, uint16 or bool [H, W] or [H, W, 1..4] to uint8 [H, W, 3]; drops alpha."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif image.dtype == bool:
        image = image.astype(np.uint8) * 255
    elif image.dtype != np.uint8:
        raise VideoError(path, f"pixels of type {image.dtype}; 8 or 16 bit can be read")
    if image.ndim == 2:
        image = image[..., None]
    gray = image.shape[-1] < 3  # one channel, or gray with alpha
    return np.repeat(image[..., :1], 3, axis=-1) if gray else np.ascontiguousarray(image[..., :3])


def iterate_npy(path: Path, size: Size | None, max_pixels: int) -> Frames:
    """Yields the frames of an array, which is mapped into memory; see `frames.Frames`."""
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError) as error:
        # NumPy's messages about a damaged header contain addresses of objects.
        reason = re.sub(r" object at 0x[0-9a-f]+", "", first_line(error))
        raise VideoError(path, f"not a readable .npy array ({reason})") from error
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise VideoError(
            path, f"{frames.dtype} {frames.shape}; expected uint8 [T, H, W] or [T, H, W, 1 or 3]"
        )
    check_pixels(path, *frames.shape[1:3], max_pixels)
    for number, frame in enumerate(frames):
        rgb_HWC = _image_to_rgb(path, np.array(frame))
        yield number / NOMINAL_FPS, resize(rgb_HWC, size), rgb_HWC.shape[:2]


def is_image(name: str) -> bool:
    """Whether a file is an image frame, by its name."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _natural_key(name: str) -> list:
    """Returns a sort key that orders digits by their value: frame2 before frame10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if part.isdigit() else part for part in parts]
