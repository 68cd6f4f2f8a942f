"""Cuts frames into tiles, each a video of its own, for models of local events.

A model of whole frames has to explain everything at once, so that what is normal elsewhere hides
what is abnormal at one place. A model of tiles has one small latent for each place.
"""

from dataclasses import replace

import numpy as np

from vvae.data.clips import Clips


def count_tiles(clips: Clips, height: int, width: int) -> tuple[int, int]:
    """Returns the numbers of rows and of columns of tiles of height x width pixels in a frame.

    Raises:
      ValueError: If the tiles do not fill the frames.
    """
    rows, cols = clips.clip_format.height, clips.clip_format.width
    if height < 1 or width < 1 or rows % height or cols % width:
        raise ValueError(f"tiles of {height}x{width} do not fill frames of {rows}x{cols} pixels")
    return rows // height, cols // width


def cut_tiles(clips: Clips, height: int, width: int) -> Clips:
    """Cuts the frames of clips into tiles that do not overlap.

    Args:
      clips: N clips of whole frames.
      height: The height of a tile, pixels.
      width: The width of a tile, pixels.

    Returns:
      N * K clips, where K is the number of tiles in a frame: for each clip in turn its tiles, row
      by row. Each tile of a video counts as a video with the name of the whole one.

    Raises:
      ValueError: If the tiles do not fill the frames.
    """
    rows, cols = count_tiles(clips, height, width)
    number = rows * cols
    corners = np.stack(np.indices((rows, cols)), axis=-1).reshape(-1, 2) * (height, width)
    video_index_NK = clips.video_index_N[:, None] * number + np.arange(number)
    return replace(
        clips,
        clip_format=replace(clips.clip_format, height=height, width=width),
        videos=tuple(video for video in clips.videos for _ in range(number)),
        video_index_N=video_index_NK.reshape(-1).astype(np.int32),
        label_N=np.repeat(clips.label_N, number),
        mask_NT=np.repeat(clips.mask_NT, number, axis=0),
        frame_NT=np.repeat(clips.frame_NT, number, axis=0),
        time_NT=np.repeat(clips.time_NT, number, axis=0),
        position_N=np.repeat(clips.position_N, number),
        codes_files=tuple(file for file in clips.codes_files for _ in range(number)),
        corner_V=(clips.corner_V[:, None] + corners).reshape(-1, 2).astype(np.int32),
    )


def join_tiles(value_NT: np.ndarray, num_rows: int, num_cols: int) -> np.ndarray:
    """Arranges values of tiles by place, [N * K, T, ...] -> [N, T, num_rows, num_cols, ...]."""
    grid = value_NT.reshape(-1, num_rows, num_cols, *value_NT.shape[1:])
    return np.moveaxis(grid, 3, 1)
