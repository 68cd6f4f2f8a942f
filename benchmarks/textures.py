"""Videos whose content does not matter: a moving smooth texture with noise."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vvae.video import write_video_pieces

_TILE = 16


def write_texture(
    path: Path, number: int, size: tuple[int, int], num_frames: int, fps: float
) -> None:
    """Writes the H.264 video of a number: so many frames of (height, width)."""
    write_video_pieces(path, _draw(number, size, num_frames), size, fps)


def _draw(number: int, size: tuple[int, int], num_frames: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (*(-(-side // _TILE) for side in size), 3), np.uint8)
    texture = np.kron(coarse, np.ones((_TILE, _TILE, 1), np.uint8))[: size[0], : size[1]]
    for frame in range(num_frames):
        moved = np.roll(texture, (frame, 3 * frame), axis=(0, 1))
        yield (moved // 2 + rng.integers(0, 16, moved.shape, np.uint8))[None]
