"""Videos with known shot boundaries: scenes joined by cuts or fades, optionally with flashes.

The scenes are frames of real videos or are drawn. All random numbers come from a generator that the
caller passes in. Pure NumPy.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from vvae.data import drawing
from vvae.data.drawing import Limb
from vvae.data.frames import read_chunks
from vvae.data.listing import Video

KINDS = ("cuts", "fades", "flashes")
# The ranges (minimum, maximum) that random numbers are drawn from.
SCENE_FRAMES = (24, 48)  # frames that show one scene only
FADE_FRAMES = (4, 12)  # frames that mix two scenes
FLASH_FRAMES = (1, 3)
FLASH_STRENGTH = (0.6, 1.0)  # share of white
FLASH_MARGIN = 6  # least number of frames between a flash and either end of its scene
DRAWN_SIZE = 64
DRAWN_FPS = 10.0
NOISE = 3.0  # standard deviation of the noise of drawn scenes, 8-bit units


@dataclasses.dataclass(frozen=True)
class Transition:
    """The transition from one scene to the next.

    Attributes:
      first: The number of the first frame that does not show the old scene only.
      last: The number of the first frame that shows the new scene only; equal to `first` for a cut.
    """

    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class JoinedVideo:
    """A video with known shot boundaries.

    Attributes:
      frames_THWC: uint8 RGB.
      transitions: The transitions between its scenes, in order.
      flashes: The first and the last frame of each flash. Flashes are not boundaries.
    """

    frames_THWC: np.ndarray
    transitions: tuple[Transition, ...]
    flashes: tuple[tuple[int, int], ...] = ()


# Renders a scene of any length: number of frames T -> uint8 RGB [T, H, W, 3].
Scene = Callable[[int], np.ndarray]


def loop_scene(frames_FHWC: np.ndarray) -> Scene:
    """Returns a scene that plays frames forwards and backwards in turn, so that it never jumps."""

    def play(length: int) -> np.ndarray:
        return frames_FHWC[find_loop_frames(len(frames_FHWC), length)]

    return play


def find_loop_frames(num_frames: int, length: int) -> np.ndarray:
    """Returns the frame numbers 0, 1, ..., F-1, F-2, ..., 1, 0, 1, ..., int64 [length]."""
    period = max(2 * (num_frames - 1), 1)
    position_T = np.arange(length) % period
    return np.minimum(position_T, period - position_T) if num_frames > 1 else position_T * 0


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draws a scene: three moving bodies before a wall of waves, seen by a moving camera.

    Args:
      rng: The source of random numbers.
      size: (height, width). Scenes are drawn at 64x64 and resized by nearest neighbours.
    """
    longest = SCENE_FRAMES[1] + 2 * FADE_FRAMES[1]
    time_T = np.arange(longest) / DRAWN_FPS
    shift_T2 = time_T[:, None] * rng.uniform(-8.0, 8.0, 2)
    canvas_CTHW = drawing.draw_background(shift_T2, time_T, DRAWN_SIZE, rng)
    drawing.paint(canvas_CTHW, [_draw_body(time_T, rng) for _ in range(3)])
    codes_CTHW = 255 * canvas_CTHW + rng.normal(0.0, NOISE, canvas_CTHW.shape)
    frames_CTHW = np.clip(np.rint(codes_CTHW), 0, 255).astype(np.uint8)
    rows, columns = (np.arange(side) * DRAWN_SIZE // side for side in size)
    return loop_scene(np.moveaxis(frames_CTHW, 0, -1)[:, rows[:, None], columns])


def _draw_body(time_T: np.ndarray, rng: np.random.Generator) -> Limb:
    """Draws the parameters of a thick line whose two ends oscillate about random positions."""
    ends = []
    for _ in range(2):
        place_2, swing_2 = rng.uniform(10.0, 54.0, 2), rng.uniform(-12.0, 12.0, 2)
        turns_T = np.sin(2 * np.pi * (rng.uniform(0.2, 1.0) * time_T + rng.uniform()))
        ends.append(place_2 + turns_T[:, None] * swing_2)
    return Limb(
        start_T2=ends[0],
        end_T2=ends[1],
        radii=(rng.uniform(3.0, 9.0), rng.uniform(3.0, 9.0)),
        color=drawing.draw_color(rng, 0.1, 0.9),
        print_color=drawing.draw_color(rng, 0.1, 0.9),
        texture=(rng.uniform(0.0, 4.0), rng.uniform(0.0, 3.0), rng.uniform(0.2, 0.9)),
        nearness=rng.uniform(),
    )


def read_scene(video: Video, size: tuple[int, int], stride: int) -> Scene:
    """Reads the first frames of a video as a scene.

    Args:
      video: A video of a data set.
      size: The (height, width) to which its frames are resized.
      stride: Every stride-th frame is used.

    Raises:
      VideoError: If the video cannot be read.
    """
    _, _, frames_FHWC = next(read_chunks(video.path, size, stride, SCENE_FRAMES[1]))
    return loop_scene(frames_FHWC)


def join_scenes(scenes: Sequence[Scene], kind: str, rng: np.random.Generator) -> JoinedVideo:
    """Joins scenes into one video.

    Args:
      scenes: Two or more scenes with the same frame size.
      kind: "cuts"; "fades", where each transition is a dissolve or a fade through black; or
        "flashes", which are cuts with one white flash within each scene.
      rng: The source of random numbers.

    Raises:
      ValueError: If there is no such kind, or there are fewer than two scenes.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
    if len(scenes) < 2:
        raise ValueError(f"a boundary needs two scenes, got {len(scenes)}")
    parts, transitions, flashes = [], [], []
    # `length` counts the frames so far, `lead` those of the next scene that a fade already showed.
    length, lead = 0, 0
    for number, scene in enumerate(scenes):
        pure = int(rng.integers(*SCENE_FRAMES, endpoint=True))
        fades = kind == "fades" and number + 1 < len(scenes)
        tail = int(rng.integers(*FADE_FRAMES, endpoint=True)) if fades else 0
        frames = scene(lead + pure + tail)
        own = frames[lead : lead + pure]
        if kind == "flashes":
            own, flash = _add_flash(own, rng)
            flashes.append((length + flash[0], length + flash[1]))
        parts.append(own)
        length += pure
        if number + 1 == len(scenes):
            break
        if tail:
            mix = _dissolve if rng.random() < 0.5 else _fade_through_black
            parts.append(mix(frames[lead + pure :], scenes[number + 1](tail)))
        transitions.append(Transition(length, length + tail))
        length, lead = length + tail, tail
    return JoinedVideo(np.concatenate(parts), tuple(transitions), tuple(flashes))


def _dissolve(old_NHWC: np.ndarray, new_NHWC: np.ndarray) -> np.ndarray:
    weight_N = np.arange(1, len(old_NHWC) + 1) / (len(old_NHWC) + 1)
    return _mix(old_NHWC, new_NHWC, weight_N)


def _fade_through_black(old_NHWC: np.ndarray, new_NHWC: np.ndarray) -> np.ndarray:
    """Darkens the old scene in the first half and brightens the new one in the second half."""
    count = len(old_NHWC)
    # -1 stands for the old scene, 0 for black and 1 for the new scene.
    place_N = np.linspace(-1.0, 1.0, count + 2)[1:-1]
    shown = np.where((place_N < 0)[:, None, None, None], old_NHWC, new_NHWC)
    return _mix(np.zeros_like(shown), shown, np.abs(place_N))


def _add_flash(frames_THWC: np.ndarray, rng: np.random.Generator):
    """Adds one flash; returns the frames, and the numbers of its first and last frame."""
    count = int(rng.integers(*FLASH_FRAMES, endpoint=True))
    first = int(rng.integers(FLASH_MARGIN, len(frames_THWC) - FLASH_MARGIN - count, endpoint=True))
    flash = slice(first, first + count)
    weight_N = np.full(count, rng.uniform(*FLASH_STRENGTH))
    frames_THWC = frames_THWC.copy()
    white = np.full_like(frames_THWC[flash], 255)
    frames_THWC[flash] = _mix(frames_THWC[flash], white, weight_N)
    return frames_THWC, (first, first + count - 1)


def _mix(a_NHWC: np.ndarray, b_NHWC: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """Returns a + weight * (b - a), rounded to uint8."""
    weight_N111 = weight_N[:, None, None, None]
    return np.rint(a_NHWC + weight_N111 * (b_NHWC.astype(float) - a_NHWC)).astype(np.uint8)
