"""Reads folders of image frames and .npy arrays as videos."""

import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vvae.files import map_array
from vvae.video.errors import VideoError, first_line
from vvae.video.frames import NOMINAL_FPS, Frames, Size, check_pixels, make_size_error, resize

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # by content, whatever the suffix
# Tags of TIFF.
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC = 254, 258, 262
_NOT_A_PICTURE = 0b101  # bits of the subfile type: a thumbnail of another page, a transparency mask
_WHITE_IS_ZERO = 0
_DARK = 2**14 >> 8  # the brightest level of 14-bit numbers that are stored as 16 bits
_pillow_lock = threading.Lock()


def iterate_image_folder(folder: Path, size: Size | None, max_pixels: int) -> Frames:
    """Yields the images of a folder in natural order; see `frames.Frames`."""
    number, brightest = 0, None
    for name in sorted(filter(is_image, os.listdir(folder)), key=_natural_key):
        try:
            for rgb_HWC, is_deep in _iterate_pages(folder / name, max_pixels):
                if is_deep:
                    brightest = max(brightest or 0, int(rgb_HWC.max()))
                yield number / NOMINAL_FPS, resize(rgb_HWC, size), rgb_HWC.shape[:2]
                number += 1
        except VideoError:
            raise
        except Exception as error:  # whatever Pillow raises is an error of this video alone
            raise VideoError(
                folder, f"frame {number} ({name}) is unreadable ({first_line(error)})"
            ) from error
    if brightest is not None and brightest < _DARK:
        raise VideoError(
            folder,
            "16-bit frames without a value of 16384 or above: numbers of 14 bits or fewer would be "
            "nearly black; scale them to 0..65535, or save 8-bit frames",
        )


def count_frames(folder: Path) -> int:
    """Estimates the number of frames in a folder from its first image, without decoding."""
    names = sorted(filter(is_image, os.listdir(folder)), key=_natural_key)
    with _open(folder / names[0]) as image:
        return len(names) * len(_list_pages(image))


def _iterate_pages(path: Path, max_pixels: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Yields the pages of an image file, uint8 [H, W, 3], and whether they have 16 bits."""
    with contextlib.ExitStack() as stack:
        with _limit_pixels(path, max_pixels):
            image = stack.enter_context(_open(path))
            pages = _list_pages(image)
        for page in pages:
            with _limit_pixels(path, max_pixels):
                image.seek(page)
                if _is_thumbnail(image):
                    continue
                check_pixels(path, image.height, image.width, max_pixels)
                converted = _convert(path, image)
            yield converted


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    with _BoundedFile(io.FileIO(path)) as file, Image.open(file, formats=_FORMATS) as image:
        yield image


class _BoundedFile(io.BufferedReader):
    """A file that takes no memory for bytes beyond its end, however many a header promises."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > 0:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


@contextlib.contextmanager
def _limit_pixels(path: Path, max_pixels: int) -> Iterator[None]:
    """Replaces Pillow's own limit on the size of images; raises FrameTooLargeError above it."""
    # The limit and the filters of warnings belong to the process.
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            pixels = int(re.search(r"\d+", str(error)).group())
            raise make_size_error(path, f"{pixels / 1e6:.0f} megapixels", max_pixels) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _list_pages(image: Image.Image) -> range:
    """Returns the numbers of the pages, or of the frames of an animation."""
    if image.format == "MPO":  # a JPEG with previews or other views of the same moment
        return range(1)
    # The first picture of an animated PNG may stand in for the animation, which then lacks it.
    first = int(getattr(image, "default_image", False))
    return range(first, getattr(image, "n_frames", 1))


def _is_thumbnail(image: Image.Image) -> bool:
    """Whether a page of a TIFF is a thumbnail or a mask of another page."""
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(_SUBFILE_TYPE, 0) & _NOT_A_PICTURE)


def _convert(path: Path, image: Image.Image) -> tuple[np.ndarray, bool]:
    """Decodes the current page to RGB; see `_iterate_pages`."""
    is_deep = image.format in ("PNG", "TIFF") and ";16" in str([tile[3] for tile in image.tile])
    tags = getattr(image, "tag_v2", {})
    bits, photometric = tags.get(_BITS, (16,))[0], tags.get(_PHOTOMETRIC)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        gray_HW = np.asarray(image).astype(np.uint16)
        if photometric == _WHITE_IS_ZERO:
            gray_HW = 2**bits - 1 - gray_HW
        gray_HW = (gray_HW >> (bits - 8)).astype(np.uint8)
        return np.repeat(gray_HW[..., None], 3, axis=-1), is_deep and bits == 16
    if image.mode.startswith(("I", "F")):
        raise VideoError(path, f"pixels of mode {image.mode}; 8 bits or unsigned 16 can be read")
    image.info.pop("transparency", None)  # alpha is dropped, also that of a palette
    return np.array(image.convert("RGB")), is_deep


def iterate_npy(path: Path, size: Size | None, max_pixels: int) -> Frames:
    """Yields the frames of an array, which is mapped into memory; see `frames.Frames`."""
    try:
        frames = map_array(path)
    except Exception as error:  # whatever NumPy raises is an error of this file alone
        # NumPy's messages about a damaged header contain addresses of objects.
        reason = re.sub(r" object at 0x[0-9a-f]+", "", first_line(error))
        raise VideoError(path, f"not a readable .npy array ({reason})") from error
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise VideoError(
            path, f"{frames.dtype} {frames.shape}; expected uint8 [T, H, W] or [T, H, W, 1 or 3]"
        )
    if 0 in frames.shape:
        raise VideoError(path, f"holds no pixels: its shape is {frames.shape}")
    check_pixels(path, *frames.shape[1:3], max_pixels)
    for number, frame in enumerate(frames):
        rgb_HWC = np.array(np.broadcast_to(frame, (*frame.shape[:2], 3)))
        yield number / NOMINAL_FPS, resize(rgb_HWC, size), rgb_HWC.shape[:2]


def is_image(name: str) -> bool:
    """Whether a file is an image frame, by its name."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _natural_key(name: str) -> tuple[list, str]:
    """Returns a sort key that orders digits by their value: frame2 before frame10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if part.isdecimal() else part for part in parts], name
