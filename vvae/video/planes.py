"""Shrinks decoded frames as planes of luma and chroma, before their conversion to RGB.

Decoders return Y'CbCr with one plane for luma and two planes, mostly of half the size, for chroma.
The mean over an area and the conversion to RGB are both linear, so that their order matters only
for rounding and for colours outside RGB, which are clipped after the mean instead of before.
Shrinking first leaves a few thousand pixels to convert instead of all.
"""

import functools
from collections.abc import Callable

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

# 8-bit pixel formats of three planes -> the rows and columns that share one chroma sample.
_PLANAR = {
    "yuv420p": (2, 2),
    "yuv422p": (1, 2),
    "yuv444p": (1, 1),
    "yuvj420p": (2, 2),
    "yuvj422p": (1, 2),
    "yuvj444p": (1, 1),
}
# MatrixCoefficients of ITU-T H.273 -> (K_R, K_B). Unspecified coefficients (2) are read as BT.601,
# as in swscale.
_WEIGHTS = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114)}
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG; any other value is the limited range, 16 to 235
# Without exact rounding, means are up to one level off, and differ between kinds of processors.
_AREA = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def make_shrinker() -> Callable[[av.VideoFrame, tuple[int, int]], np.ndarray | None]:
    """Returns a function that shrinks frames by area means; use it in one thread.

    Returns:
      A function (frame, (height, width)) -> uint8 RGB [H, W, 3]. It returns None for pixel formats
      and colour matrices that it does not support, and where a plane would not shrink.
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
    """Converts Y'CbCr to RGB, both uint8 [H, W, 3], rounded to the nearest level.

    Args:
      ycc_HWC: Y', C_B and C_R.
      weights: K_R and K_B of the matrix, such as (0.299, 0.114) for BT.601.
      is_full: Whether Y' is in 0..255 instead of 16..235.

    References:
      ITU-T H.273, section 8.3
    """
    matrix, offset = _find_conversion(weights, is_full)
    rgb_HWC = ycc_HWC.astype(np.float32) @ matrix
    rgb_HWC += offset
    np.rint(rgb_HWC, out=rgb_HWC)
    return np.clip(rgb_HWC, 0, 255, out=rgb_HWC).astype(np.uint8)


@functools.cache
def _find_conversion(weights: tuple[float, float], is_full: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the matrix [Y'CbCr, RGB] and the offset [RGB] of the conversion, float32."""
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
