"""Views: pure functions from RGB frames to the uint8 codes that a model sees, and back.

A view is one part (`rgb`, `gray`, `difference`, `motion`, `flow`, `rootflow`, `rootspeed`, `otsu`)
or a stack of parts joined by `+`, such as `gray+flow`, whose channels follow one another. Every
channel is stored as uint8 with an affine code, `physical = (code - offset) * scale`, so that all
views share one cache and one loader.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vvae.data.flow import MIN_SIDE, compute_flow, find_flow_factor


@dataclass(frozen=True)
class View:
    """A named representation of videos.

    Attributes:
      name: The names of the parts, joined by `+`.
      num_channels: The number of channels of the codes, C.
      offset: The code of physical zero, for each channel.
      scale: The size of one code step in physical units, for each channel.
    """

    name: str
    num_channels: int
    offset: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts, in the order of channels."""
        return tuple(self.name.split("+"))

    @property
    def shown(self) -> str:
        """The part that pictures show: the first that is an image, or else the first."""
        return next((part for part in self.parts if part not in _HISTORY), self.parts[0])

    @property
    def is_8bit(self) -> bool:
        """Whether every code is an 8-bit intensity, so that bits/dim is meaningful."""
        return all(self.intensity_channels)

    @property
    def intensity_channels(self) -> tuple[bool, ...]:
        """For each channel, whether it is a gray or colour intensity in 0..255."""
        return tuple(
            part in _INTENSITY_PARTS
            for part in self.parts
            for _ in range(_PARTS[part].num_channels)
        )

    @property
    def history(self) -> int:
        """The number of preceding frames that the codes of a frame depend on."""
        return max(_HISTORY.get(part, 0) for part in self.parts)

    @property
    def num_flow_channels(self) -> int:
        """The number of channels that are computed from flow."""
        return sum(_PARTS[part].num_channels for part in self.parts if part in _LEAST_SIDE)

    @property
    def flow_channels(self) -> tuple[bool, ...]:
        """For each channel, whether it is flow or the root of flow."""
        return tuple(
            part in _FLOW_PARTS for part in self.parts for _ in range(_PARTS[part].num_channels)
        )

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """The versions of those parts whose codes have changed since they were introduced."""
        return tuple((part, _VERSIONS[part]) for part in self.parts if part in _VERSIONS)


def _make_part(name: str, num_channels: int, *, offset: float, scale: float) -> View:
    """Makes the view of one part, whose channels share their offset and scale."""
    return View(
        name=name,
        num_channels=num_channels,
        offset=(offset,) * num_channels,
        scale=(scale,) * num_channels,
    )


_PARTS = {
    part.name: part
    for part in (
        _make_part("rgb", 3, offset=0.0, scale=1.0),
        _make_part("gray", 1, offset=0.0, scale=1.0),
        _make_part("difference", 1, offset=128.0, scale=2.0),
        _make_part("motion", 1, offset=0.0, scale=1.0),
        _make_part("flow", 2, offset=128.0, scale=1 / 16),
        _make_part("rootflow", 2, offset=128.0, scale=1 / 40),
        _make_part("rootspeed", 1, offset=0.0, scale=1 / 100),
        _make_part("otsu", 1, offset=0.0, scale=1 / 255),
    )
}
_INTENSITY_PARTS = ("rgb", "gray")
_FLOW_PARTS = ("flow", "rootflow")
# The smallest side of frames that flow is computed from, for each part that is derived from flow:
# the speed of single pedestrians needs finer frames than the motion of a hand that fills the frame.
_LEAST_SIDE = {"flow": MIN_SIDE, "rootflow": MIN_SIDE, "rootspeed": 2 * MIN_SIDE}
# Speed is averaged over the frame and those before it, SPEED_FRAMES in all, and over squares of
# SPEED_SIDE pixels of the clip.
SPEED_FRAMES = 4
SPEED_SIDE = 3
_HISTORY = {"difference": 1, "motion": 1, "flow": 1, "rootflow": 1, "rootspeed": SPEED_FRAMES}
# Raise the version of a part whenever its codes change, so that cached clips are decoded again.
_VERSIONS: dict[str, int] = {}
FULL_COLOR = 2.0  # the flow, in pixels per frame, that is shown at full brightness
# The codes of flow are symmetric about 128, so that a mirrored clip has exact codes.
_FLOW_REACH = 127


def get_view(name: str) -> View:
    """Returns the view with this name, such as `gray` or `gray+difference`.

    Raises:
      ValueError: If a part is unknown (the message names the closest known one) or repeated.
    """
    parts = name.split("+")
    for part in parts:
        if part not in _PARTS:
            close = difflib.get_close_matches(part, _PARTS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"unknown view {part!r}: {hint}the views are {', '.join(_PARTS)}, and stacks of "
                "them such as gray+difference"
            )
    if len(set(parts)) != len(parts):
        raise ValueError(f"view {name!r} names a part twice: name each part once")
    return View(
        name=name,
        num_channels=sum(_PARTS[part].num_channels for part in parts),
        offset=tuple(value for part in parts for value in _PARTS[part].offset),
        scale=tuple(value for part in parts for value in _PARTS[part].scale),
    )


def find_decode_factor(view: View, height: int, width: int) -> int:
    """Returns the factor by which frames for `encode_view` must be larger than height x width.

    It is 1 for views without flow; flow from very small frames is inaccurate.
    """
    sides = [_LEAST_SIDE[part] for part in view.parts if part in _LEAST_SIDE]
    return find_flow_factor(height, width, max(sides)) if sides else 1


def encode_view(
    view: View, frames_FHWC: np.ndarray, factor: int = 1
) -> tuple[np.ndarray, np.ndarray, int]:
    """Encodes the frames of one video under a view.

    Args:
      view: The view.
      frames_FHWC: uint8 RGB [F, factor * H, factor * W, 3]; the sampled frames of the video in
        order, F >= 1.
      factor: Flow is computed from the frames as they are and then averaged over squares of factor
        x factor pixels; all other parts are computed from frames averaged in this way.

    Returns:
      codes_FHWC: uint8 [F, H, W, view.num_channels].
      valid_F: bool; False where the view is undefined (for the first frame of a difference, of
        motion or of flow).
      num_clipped: The number of values in codes_FHWC that are clipped, because the flow exceeds the
        range of its code.

    Raises:
      ValueError: If the frames are not uint8 [F, H, W, 3], the factor does not divide their sides,
        or OpenCV, which flow needs, is not installed.
    """
    if frames_FHWC.dtype != np.uint8 or frames_FHWC.ndim != 4 or frames_FHWC.shape[-1] != 3:
        raise ValueError(
            f"frames must be uint8 [F, H, W, 3], got {frames_FHWC.dtype} {frames_FHWC.shape}"
        )
    if frames_FHWC.shape[1] % factor or frames_FHWC.shape[2] % factor:
        raise ValueError(f"frames {frames_FHWC.shape} cannot be divided by the factor {factor}")
    small_FHWC = _shrink_frames(frames_FHWC, factor)
    encoders = {
        "rgb": lambda: small_FHWC,
        "gray": lambda: _compute_gray(small_FHWC),
        "difference": lambda: _encode_difference(_compute_gray(small_FHWC)),
        "motion": lambda: _encode_motion(_compute_gray(small_FHWC)),
        "otsu": lambda: _binarize(_compute_gray(small_FHWC)),
    }
    flows = _encode_flows(view, frames_FHWC, factor)
    encoders |= {part: lambda part=part: flows[part][0] for part in flows}
    codes_FHWC = np.concatenate([encoders[part]() for part in view.parts], axis=-1)
    valid_F = np.ones(len(frames_FHWC), dtype=bool)
    valid_F[:1] = view.history == 0
    return codes_FHWC, valid_F, sum(num_clipped for _, num_clipped in flows.values())


def decode_view(view: View, codes: np.ndarray) -> np.ndarray:
    """Returns the physical values of codes [..., C], float32: `(code - offset) * scale`.

    Note:
      The unit depends on the part. gray and rgb: 8-bit intensities. difference and motion: 8-bit
      intensities per sampled frame. flow (right, down): pixels of the clip per sampled frame.
      rootflow: signed square roots of flow. rootspeed: square roots of speed in pixels of the clip
      per sampled frame. otsu: 0 or 1.
    """
    offset = np.asarray(view.offset, np.float32)
    return (codes.astype(np.float32) - offset) * np.asarray(view.scale, np.float32)


def mirror_codes(view: View, codes: np.ndarray) -> np.ndarray:
    """Returns the codes of the horizontally mirrored video; uint8 [..., H, W, C].

    Columns are reversed, and flow to the right becomes flow to the left.
    """
    mirrored = codes[..., ::-1, :]
    channels = dict(_slice_parts(view))
    rights = [channels[part].start for part in view.parts if part in _FLOW_PARTS]
    if rights:
        mirrored = mirrored.copy()
        # The codes are symmetric about 128 and never 0, so that 256 - code fits into uint8.
        mirrored[..., rights] = 256 - mirrored[..., rights].astype(np.int16)
    return mirrored


def view_to_rgb(view: View, codes: np.ndarray) -> np.ndarray:
    """Returns codes uint8 [..., H, W, C] as an image, RGB uint8 [..., H, W, 3].

    A stack is shown by its first part that is an image. A difference alone is shown around mid gray
    (128: no change), motion and rootspeed as light on black, and flow and rootflow as colours on
    black: the hue is the direction (right red, down yellow-green, left cyan, up violet), and the
    brightness grows with the square root of the flow up to 2 pixels per frame.
    """
    channels = dict(_slice_parts(view))
    picture = codes[..., channels[view.shown]]
    if view.shown in _FLOW_PARTS:
        physical = decode_view(_PARTS[view.shown], picture)
        return _color_flow(physical, is_root=view.shown == "rootflow")
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:-1], 3)))


def _slice_parts(view: View) -> Iterator[tuple[str, slice]]:
    """Yields the name of each part and the slice of its channels."""
    start = 0
    for part in view.parts:
        stop = start + _PARTS[part].num_channels
        yield part, slice(start, stop)
        start = stop


def _compute_gray(frames_FHWC: np.ndarray) -> np.ndarray:
    """Computes the luma of ITU-R BT.601 in integers, so that gray input keeps its exact values."""
    weighted = frames_FHWC.astype(np.uint32) * np.array([299, 587, 114], np.uint32)
    return ((weighted.sum(axis=-1, keepdims=True) + 500) // 1000).astype(np.uint8)


def _encode_difference(gray_FHWC: np.ndarray) -> np.ndarray:
    """Encodes d = gray_t - gray_{t-1} as 128 + d / 2; 128 for the first frame.

    Halves are rounded to even, which is symmetric about 128, so that rounding adds no drift.
    """
    codes_FHWC = np.full_like(gray_FHWC, 128)
    steps = np.diff(gray_FHWC.astype(np.float32), axis=0)
    codes_FHWC[1:] = np.clip(np.rint(128 + steps / 2), 0, 255)
    return codes_FHWC


def _encode_motion(gray_FHWC: np.ndarray) -> np.ndarray:
    """Encodes |gray_t - gray_{t-1}|; 0 for the first frame.

    A linear map can average this quantity over moving edges, unlike the difference.
    """
    codes_FHWC = np.zeros_like(gray_FHWC)
    codes_FHWC[1:] = np.abs(np.diff(gray_FHWC.astype(np.int16), axis=0))
    return codes_FHWC


def _shrink_frames(frames_FHWC: np.ndarray, factor: int) -> np.ndarray:
    """Averages frames over squares of factor x factor pixels, rounded to uint8."""
    if factor == 1:
        return frames_FHWC
    return np.rint(_average_squares(frames_FHWC, factor)).astype(np.uint8)


def _average_squares(array_FHWC: np.ndarray, factor: int) -> np.ndarray:
    """Averages [F, factor * H, factor * W, C] -> [F, H, W, C]; float32 from uint8 and float32."""
    frames, height, width, channels = array_FHWC.shape
    squares = array_FHWC.reshape(
        frames, height // factor, factor, width // factor, factor, channels
    )
    return squares.mean(axis=(2, 4), dtype=np.float32)


def _encode_flows(
    view: View, frames_FHWC: np.ndarray, factor: int
) -> dict[str, tuple[np.ndarray, int]]:
    """Returns, for each part that is derived from flow, its codes and how many of them are clipped.

    The root, which is taken of the averaged flow, gives fine codes to slow motion without clipping
    fast motion: most of a video moves little, if at all, and a few places move by pixels.
    """
    parts = [part for part in view.parts if part in _LEAST_SIDE]
    if not parts:
        return {}
    fine_FHWC = compute_flow(_compute_gray(frames_FHWC)[..., 0])
    flow_FHWC = _average_squares(fine_FHWC, factor) / factor
    encoders = {
        "flow": lambda: _encode_symmetric(_PARTS["flow"], flow_FHWC),
        "rootflow": lambda: _encode_symmetric(
            _PARTS["rootflow"], np.sign(flow_FHWC) * np.sqrt(np.abs(flow_FHWC))
        ),
        "rootspeed": lambda: _encode_rootspeed(fine_FHWC, factor),
    }
    return {part: encoders[part]() for part in parts}


def _encode_rootspeed(fine_FHWC: np.ndarray, factor: int) -> tuple[np.ndarray, int]:
    """Encodes the root of speed as 100 sqrt(speed); also returns how many values are clipped.

    The code is 0 for the first frame. The speed at a pixel is the mean magnitude of the flow over
    the frame and the 3 frames before it (fewer at the beginning of the video), and over 3x3 pixels
    of the clip (fewer at the borders). It is larger for larger and for faster objects, and does not
    depend on their direction.
    """
    size_FHW = _average_squares(np.hypot(fine_FHWC[..., :1], fine_FHWC[..., 1:]), factor)[..., 0]
    recent_FHW = _average_past(size_FHW[1:] / factor, SPEED_FRAMES)
    speed_FHW = _average_neighbours(recent_FHW, SPEED_SIDE)
    codes_FHWC = np.zeros((*size_FHW.shape, 1), np.uint8)
    steps = np.rint(np.sqrt(speed_FHW) / _PARTS["rootspeed"].scale[0])
    codes_FHWC[1:, ..., 0] = np.minimum(steps, 255)
    return codes_FHWC, int((steps > 255).sum())


def _average_past(array_FHW: np.ndarray, length: int) -> np.ndarray:
    """Averages each frame with the length - 1 frames before it, or with as many as there are."""
    total_FHW = np.cumsum(array_FHW, axis=0, dtype=np.float64)
    total_FHW[length:] -= total_FHW[:-length].copy()
    count_F = np.minimum(np.arange(1, len(array_FHW) + 1), length)
    return total_FHW / count_F[:, None, None]


def _average_neighbours(array_FHW: np.ndarray, side: int) -> np.ndarray:
    """Averages a square of side x side pixels around each pixel, or its part inside the frame."""
    reach = side // 2
    for axis in (1, 2):
        ones = np.ones_like(array_FHW[:1])
        array_FHW, count = (_add_neighbours(a, axis, reach) for a in (array_FHW, ones))
        array_FHW = array_FHW / count
    return array_FHW


def _add_neighbours(array_FHW: np.ndarray, axis: int, reach: int) -> np.ndarray:
    """Sums the pixels up to `reach` away along one axis."""
    padding = [(reach, reach) if k == axis else (0, 0) for k in range(array_FHW.ndim)]
    padded = np.pad(array_FHW, padding)
    size = array_FHW.shape[axis]
    return sum(np.take(padded, range(k, k + size), axis) for k in range(2 * reach + 1))


def _encode_symmetric(part: View, value_FHWC: np.ndarray) -> tuple[np.ndarray, int]:
    """Encodes values as 128 + value / scale; also returns how many are clipped."""
    steps = np.rint(value_FHWC / np.asarray(part.scale, np.float32))
    num_clipped = int((np.abs(steps) > _FLOW_REACH).sum())
    return (128 + np.clip(steps, -_FLOW_REACH, _FLOW_REACH)).astype(np.uint8), num_clipped


def _color_flow(value: np.ndarray, is_root: bool) -> np.ndarray:
    """Maps flow in pixels per frame, or its signed roots, float [..., 2], to uint8 [..., 3]."""
    flow = value * np.abs(value) if is_root else value
    right, down = np.moveaxis(flow, -1, 0)
    turn = np.arctan2(down, right)[..., None] / (2 * np.pi)  # in turns, clockwise on the screen
    brightness = np.sqrt(np.minimum(np.hypot(right, down) / FULL_COLOR, 1))[..., None]
    # Hue to RGB: each channel is a trapezium over the circle of hues.
    distance = np.abs((turn - np.array([0, 1 / 3, 2 / 3], np.float32) + 0.5) % 1 - 0.5)
    color = np.clip(2 - 6 * distance, 0, 1)
    return np.rint(255 * brightness * color).astype(np.uint8)


def _binarize(gray_FHWC: np.ndarray) -> np.ndarray:
    """Returns 255 above the Otsu threshold of the whole video, and 0 elsewhere."""
    return np.where(gray_FHWC > find_otsu_threshold(gray_FHWC), 255, 0).astype(np.uint8)


def find_otsu_threshold(gray: np.ndarray) -> int:
    """Finds the threshold that maximises the variance between the two classes that it makes.

    Args:
      gray: uint8 values of any shape.

    Returns:
      The smallest best threshold in 0..255; values above it are the bright class. For constant
      values it is that constant, so that nothing is bright.

    References:
      N. Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on
      Systems, Man, and Cybernetics 9(1), 1979, equation 18.
    """
    count = np.bincount(gray.ravel(), minlength=256).astype(np.float64)
    share_dark = np.cumsum(count) / count.sum()
    mean_dark = np.cumsum(count * np.arange(256)) / count.sum()
    spread = share_dark * (1 - share_dark)
    separates = spread > 1e-12
    if not separates.any():
        return int(gray.flat[0])
    between = np.where(
        separates,
        (mean_dark[-1] * share_dark - mean_dark) ** 2 / np.where(separates, spread, 1),
        0,
    )
    return int(np.argmax(between))
