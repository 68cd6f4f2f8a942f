"""Shrinks decoded frames while they are planes of brightness and colour, before they become RGB.

Decoders give Y'CbCr with one plane for brightness and two, mostly of half the size, for colour. The
mean over an area and the matrix that makes RGB of it are both linear, so their order does not
matter but for rounding and for colours outside RGB, which are clipped after the mean instead of
before. Shrinking first leaves a few thousand pixels to convert instead of all.
"""

import functools
from collections.abc import Callable

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

# Pixel formats of three planes of 8 bits -> rows and columns that share a colour.
_PLANAR = {
    "yuv420p": (2, 2),
    "yuv422p": (1, 2),
    "yuv444p": (1, 1),
    "yuvj420p": (2, 2),
    "yuvj422p": (1, 2),
    "yuvj444p": (1, 1),
}
# ITU-T H.273, MatrixCoefficients -> (K_R, K_B). What is not stated (2) is read as BT.601, as
# swscale does.
_WEIGHTS = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114)}
_FULL_RANGE = 2  # of AVColorRange; anything else is the range of television, 16 to 235
# Without exact rounding, areas are up to one level off, and differently on each kind of processor.
_AREA = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def make_shrinker() -> Callable[[av.VideoFrame, tuple[int, int]], np.ndarray | None]:
    """Returns (frame, (height, width)) -> uint8 RGB [H, W, 3], area means; for one thread.

    It answers None where this is not the way: for another pixel format or matrix of colours, and
    where a plane would not shrink.
    """
    reformat = functools.partial(VideoReformatter().reformat, interpolation=_AREA, threads=1)

    def shrink(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray | None:
        name, weights = frame.format.name, _WEIGHTS.get(int(frame.colorspace))
        if name not in _PLANAR or weights is None or not _shrinks(frame, size):
            return None
        prefix = "yuvj" if name.startswith("yuvj") else "yuv"
        small = reformat(frame, width=size[1], height=size[0], format=f"{prefix}444p")
        is_full = prefix == "yuvj" or int(frame.color_range) == _FULL_RANGE
        return convert_to_rgb(np.stack(list(map(_read, small.planes)), axis=-1), weights, is_full)

    return shrink


def _shrinks(frame: av.VideoFrame, size: tuple[int, int]) -> bool:
    rows, columns = _PLANAR[frame.format.name]
    return size[0] * rows <= frame.height and size[1] * columns <= frame.width


def _read(plane) -> np.ndarray:
    padded = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return padded[:, : plane.width]


def convert_to_rgb(ycc_HWC: np.ndarray, weights: tuple[float, float], is_full: bool) -> np.ndarray:
    """Converts Y'CbCr to RGB, uint8 [H, W, 3] both, rounded to the nearest.

    Args:
     ycc_HWC: Y', C_B and C_R.
     weights: K_R and K_B of the matrix, such as (0.299, 0.114) of BT.601.
     is_full: whether Y' is from 0 to 255, not from 16 to 235.
    """
    matrix, offset = _find_conversion(weights, is_full)
    rgb_HWC = ycc_HWC.astype(np.float32) @ matrix
    rgb_HWC += offset
    np.rint(rgb_HWC, out=rgb_HWC)
    return np.clip(rgb_HWC, 0, 255, out=rgb_HWC).astype(np.uint8)


@functools.cache
def _find_conversion(weights: tuple[float, float], is_full: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns matrix [Y'CbCr, RGB] and offset [RGB], float32 (ITU-T H.273, section 8.3)."""
    red, blue = weights
    green = 1.0 - red - blue
    from_red, from_blue = 2 * (1 - red), 2 * (1 - blue)
    matrix = np.array(
        [
            [1.0, 1.0, 1.0],
            [0.0, -from_blue * blue / green, from_blue],
            [from_red, -from_red * red / green, 0.0],
        ]
    )
    low, span_y, span_c = (0.0, 255.0, 255.0) if is_full else (16.0, 219.0, 224.0)
    matrix *= 255.0 / np.array([[span_y], [span_c], [span_c]])
    offset = -np.array([low, 128.0, 128.0]) @ matrix
    return matrix.astype(np.float32), offset.astype(np.float32)
