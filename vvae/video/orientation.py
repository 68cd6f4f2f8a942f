"""The orientation of decoded frames: quarter turns and mirroring."""

import math
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer

from vvae.video.errors import VideoError
from vvae.video.frames import Size

_TOLERANCE = math.tan(math.radians(1.0))  # that of the ffmpeg program


@dataclass(frozen=True)
class Orientation:
    """How a decoded frame is shown: transposed or not, then mirrored along either axis.

    Attributes:
      is_transposed: Whether rows become columns.
      flips_rows: Whether the order of the rows is reversed afterwards.
      flips_columns: Whether the order of the columns is reversed afterwards.
    """

    is_transposed: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    def apply(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Returns a decoded frame as it is shown, contiguous."""
        if self.is_transposed:
            frame_HWC = frame_HWC.swapaxes(0, 1)
        rows, columns = (-1 if flips else 1 for flips in (self.flips_rows, self.flips_columns))
        return np.ascontiguousarray(frame_HWC[::rows, ::columns])

    def turn_size(self, size: Size) -> Size:
        """Returns the size after (or, equally, before) the change of orientation."""
        return size[::-1] if self.is_transposed else size


def read_orientation(path: Path, frame: av.VideoFrame) -> Orientation:
    """Returns the orientation by the display matrix of a frame.

    Raises:
      VideoError: If it is not a quarter turn, mirrored or not.
    """
    try:
        # `frame.side_data` would be a cycle of references, which keeps frames in memory.
        matrix = SideDataContainer(frame).get("DISPLAYMATRIX")
    except ValueError as error:  # a kind of side data that this version of PyAV does not know
        if frame.rotation:
            raise VideoError(path, "rotated or mirrored in a way that PyAV cannot tell") from error
        return Orientation()
    if matrix is None:
        return Orientation()
    # The point (x, y) of a frame is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if max(abs(b), abs(c)) <= _TOLERANCE * min(abs(a), abs(d)):
        return Orientation(flips_rows=d < 0, flips_columns=a < 0)
    if max(abs(a), abs(d)) <= _TOLERANCE * min(abs(b), abs(c)):
        return Orientation(is_transposed=True, flips_rows=b < 0, flips_columns=c < 0)
    raise VideoError(
        path,
        f"rotated by {frame.rotation} degrees or sheared (display matrix {a} {b} {c} {d}); only "
        "multiples of 90 degrees and mirroring can be read",
    )
