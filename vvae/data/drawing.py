"""Draws figures of thick line segments over a drifting background, under swinging lamps.

A limb is the set of points within a radius of a line segment; the radius changes linearly from one
end to the other. Its edge is one pixel soft; its mask is hard. Images are float32 [C, T, H, W] in
[0, 1] while they are drawn.

References:
  The distance to a segment: https://iquilezles.org/articles/distfunctions2d
"""

from dataclasses import dataclass

import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_NUM_WAVES = 3
_LIGHT_SWING = 0.26  # amplitude of the log of the light, for each of its parts and sine waves
_LIGHT_RATE = (0.3, 2.5)  # 1/s


@dataclass(frozen=True)
class Limb:
    """A thick line segment.

    Attributes:
      start_T2: The column and row of one end, pixels.
      end_T2: The column and row of the other end, pixels.
      radii: The radii at the two ends, pixels.
      color: RGB in [0, 1].
      print_color: RGB of the print on the limb.
      texture: The print: (waves along the limb, waves across it, strength in [0, 1]).
      nearness: A limb of larger nearness hides the others.
    """

    start_T2: np.ndarray
    end_T2: np.ndarray
    radii: tuple[float, float]
    color: np.ndarray
    print_color: np.ndarray
    texture: tuple[float, float, float]
    nearness: float


def draw_color(
    rng: np.random.Generator, low: float, high: float, vividness: float = 0.9
) -> np.ndarray:
    """Draws an RGB colour of a random hue.

    Args:
      rng: The source of randomness; it is advanced.
      low: The smallest luma, above 0.
      high: The largest luma, below 1.
      vividness: The largest share of the chroma that this luma allows.

    Returns:
      float64 [3] in [0, 1].
    """
    chroma = rng.uniform(0.0, 1.0, 3)
    chroma = chroma - _LUMA @ chroma
    luma = rng.uniform(low, high)
    strongest = np.min(np.where(chroma > 0, 1.0 - luma, luma) / np.abs(chroma))
    return luma + vividness * rng.uniform(0.3, 1.0) * strongest * chroma


def draw_background(
    shift_T2: np.ndarray, time_T: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws a wall of two colours in drifting waves, and a floor.

    Args:
      shift_T2: The shift of the image by the movement of the camera: columns and rows, pixels.
      time_T: The times of the frames, s.
      size: The number of rows and of columns, pixels.
      rng: The source of the pattern and its colours; it is advanced.

    Returns:
      float32 [3, T, H, W].
    """
    column_T1W = (np.arange(size) + 0.5 - shift_T2[:, :1])[:, None, :] / size
    row_TH1 = (np.arange(size) + 0.5 - shift_T2[:, 1:])[:, :, None] / size
    waves_THW = np.float32(0.0)
    for _ in range(_NUM_WAVES):
        angle, cycles = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.8)
        drift, start = rng.uniform(-0.25, 0.25), rng.uniform(0, 1)
        across_T1W = cycles * np.cos(angle) * column_T1W + drift * time_T[:, None, None] + start
        down_TH1 = cycles * np.sin(angle) * row_TH1
        phase_THW = across_T1W.astype(np.float32) + down_TH1.astype(np.float32)
        waves_THW = waves_THW + np.sin(np.float32(2 * np.pi) * phase_THW)
    mix_THW = 0.5 + 0.5 * np.tanh(waves_THW)
    dark, light = draw_color(rng, 0.10, 0.25, 0.5), draw_color(rng, 0.56, 0.76, 0.5)
    floor_TH1 = 1 / (1 + np.exp((rng.uniform(0.78, 0.86) - row_TH1) * 60))
    shadow_TH1 = (1.0 - rng.uniform(0.2, 0.4) * floor_TH1).astype(np.float32)
    ends = zip(dark.astype(np.float32), light.astype(np.float32))
    return np.stack([shadow_TH1 * (low + (high - low) * mix_THW) for low, high in ends])


def light(canvas_CTHW: np.ndarray, time_T: np.ndarray, rng: np.random.Generator) -> None:
    """Lights the image in place by swinging lamps: brighter, darker, from the sides and from above.

    The light is a factor exp(a_t + b_t x + c_t y) that is the same for figure and background. It
    changes every pixel from frame to frame, but in three directions only: it drowns the movement
    for a method that mixes all pixels, while a model that knows how images vary can separate the
    two.

    Args:
      canvas_CTHW: float32 [3, T, H, W]; it is changed.
      time_T: The times of the frames, s.
      rng: The source of the swinging; it is advanced.
    """
    rate_3K1, phase_3K1 = rng.uniform(*_LIGHT_RATE, (3, 2, 1)), rng.uniform(0, 2 * np.pi, (3, 2, 1))
    swing_3T = np.sin(2 * np.pi * rate_3K1 * time_T + phase_3K1).sum(axis=1)
    even_T11, across_T11, down_T11 = (_LIGHT_SWING * swing_3T)[:, :, None, None]
    height, width = canvas_CTHW.shape[2:]
    column_W = (2 * np.arange(width) + 1) / width - 1
    row_H1 = ((2 * np.arange(height) + 1) / height - 1)[:, None]
    factor_THW = np.exp(even_T11 + across_T11 * column_W + down_T11 * row_H1)
    canvas_CTHW *= factor_THW.astype(np.float32)


def paint(canvas_CTHW: np.ndarray, limbs: list[Limb]) -> np.ndarray:
    """Draws limbs over the canvas in place, the nearest last.

    Args:
      canvas_CTHW: float32 [3, T, H, W]; it is changed.
      limbs: The limbs, in any order.

    Returns:
      mask_THW: bool; True where a limb covers the centre of the pixel.
    """
    mask_THW = np.zeros(canvas_CTHW.shape[1:], bool)
    for limb in sorted(limbs, key=lambda limb: limb.nearness):
        box, distance_THW, axes = _measure(limb, canvas_CTHW.shape[2:])
        mask_THW[box] |= distance_THW < 0
        alpha_THW = np.clip(0.5 - distance_THW, 0.0, 1.0)
        for canvas_THW, color_THW in zip(canvas_CTHW, _shade(limb, axes)):
            canvas_THW[box] += alpha_THW * (color_THW - canvas_THW[box])
    return mask_THW


def _measure(limb: Limb, shape_HW: tuple[int, int]):
    """Measures the pixels around a limb.

    Returns:
      box: The index of the part of [T, H, W] that the limb can touch.
      distance_THW: The distance to its surface in pixels, negative inside, within the box.
      axes: Three arrays over the box: the position along the limb in [0, 1], and the offset from
        its axis to the right and downwards, in radii.
    """
    ends_T2 = np.concatenate([limb.start_T2, limb.end_T2])
    margin = max(limb.radii) + 1
    limit = (shape_HW[1], shape_HW[0])
    low = np.clip(np.floor(ends_T2.min(axis=0) - margin), 0, limit).astype(int)
    high = np.clip(np.ceil(ends_T2.max(axis=0) + margin), 0, limit).astype(int)
    box = (slice(None), slice(low[1], high[1]), slice(low[0], high[0]))
    start_2T11 = limb.start_T2.T[:, :, None, None].astype(np.float32)
    bone_2T11 = limb.end_T2.T[:, :, None, None].astype(np.float32) - start_2T11
    right = np.arange(low[0], high[0], dtype=np.float32) + 0.5 - start_2T11[0]
    down = np.arange(low[1], high[1], dtype=np.float32)[:, None] + 0.5 - start_2T11[1]
    squared_length = np.maximum((bone_2T11**2).sum(axis=0), 1e-6)  # a disk has no length
    along = np.clip((right * bone_2T11[0] + down * bone_2T11[1]) / squared_length, 0.0, 1.0)
    right = right - along * bone_2T11[0]
    down = down - along * bone_2T11[1]
    radius = limb.radii[0] + (limb.radii[1] - limb.radii[0]) * along
    return box, np.sqrt(right**2 + down**2) - radius, (along, right / radius, down / radius)


def _shade(limb: Limb, axes) -> list[np.ndarray]:
    """Colours the pixels of a limb, lit from the upper left; an array [T, H, W] per channel."""
    along, right, down = axes
    light = 1.0 - 0.12 * right - 0.14 * down
    waves_along, waves_across, strength = limb.texture
    phase = 2 * np.pi * (waves_along * along + 0.5 * waves_across * right)
    mix = strength * (0.5 + 0.5 * np.sin(phase)) if strength else 0.0
    channels = zip(limb.color.astype(np.float32), limb.print_color.astype(np.float32))
    return [light * (plain + mix * (printed - plain)) for plain, printed in channels]
