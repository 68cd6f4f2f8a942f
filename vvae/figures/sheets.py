"""Sheets: grids of frames in one image."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from vvae.figures.canvas import (
    DPI,
    TITLE_SIZE,
    import_matplotlib,
    new_figure,
    render_line,
    render_text,
    save,
    set_tick_names,
    wrap_text,
)

TILE_PIXELS = 96
VIDEO_TILE_PIXELS = 128
GAP_PIXELS = 4
GROUP_GAP_PIXELS = 16
BACKGROUND = 255
# The width of a character, by which space for the labels is reserved.
CHARACTER_PIXELS = 8
STRIPS_PER_ROW = 3


def enlarge(images: np.ndarray, min_pixels: int) -> np.ndarray:
    """Enlarges images by repeating pixels until the longer side has at least `min_pixels`.

    Args:
      images: uint8 [..., H, W, C].
      min_pixels: The requested length of the longer side; larger images stay as they are.

    Returns:
      uint8 [..., sH, sW, C] with a whole factor s >= 1.
    """
    factor = max(1, -(-min_pixels // max(images.shape[-3:-1])))
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)


def color_error(error: np.ndarray, full_scale: float) -> np.ndarray:
    """Maps errors to colours, from black for 0 to pale yellow for `full_scale` and above.

    Args:
      error: float [..., H, W], at least 0.
      full_scale: The error that gets the brightest colour.

    Returns:
      uint8 [..., H, W, 3].
    """
    colors = import_matplotlib().colormaps["magma"](np.clip(error / full_scale, 0.0, 1.0))
    return np.rint(colors[..., :3] * 255).astype(np.uint8)


def compose_grid(videos_NTHWC: np.ndarray, num_columns: int) -> np.ndarray:
    """Arranges N videos of one size on a grid, row by row.

    Args:
      videos_NTHWC: uint8 RGB.
      num_columns: The number of tiles in a row; missing tiles of the last row are white.

    Returns:
      uint8 [T, rows, columns, 3].
    """
    tiles = enlarge(videos_NTHWC, VIDEO_TILE_PIXELS)
    num_rows = -(-len(tiles) // num_columns)
    grid = [tiles[r * num_columns : (r + 1) * num_columns] for r in range(num_rows)]
    return np.stack(
        [compose([[tile[t] for tile in row] for row in grid], 1) for t in range(tiles.shape[1])]
    )


def compose(rows: Sequence[Sequence[np.ndarray]], rows_per_group: int) -> np.ndarray:
    """Composes one image from rows of equal tiles, with gaps; rows may differ in length."""
    height, width, channels = rows[0][0].shape
    tops = _row_offsets(len(rows), height, rows_per_group)
    num_columns = max(len(row) for row in rows)
    canvas_width = num_columns * (width + GAP_PIXELS) - GAP_PIXELS
    canvas = np.full((tops[-1] + height, canvas_width, channels), BACKGROUND, np.uint8)
    for top, row in zip(tops, rows):
        for column, tile in enumerate(row):
            left = column * (width + GAP_PIXELS)
            canvas[top : top + height, left : left + width] = tile
    return canvas


def _row_offsets(num_rows: int, height: int, rows_per_group: int) -> list[int]:
    """Returns the first pixel row of each row of tiles."""
    extra = GROUP_GAP_PIXELS - GAP_PIXELS if rows_per_group > 1 else 0
    return [r * (height + GAP_PIXELS) + r // rows_per_group * extra for r in range(num_rows)]


@dataclasses.dataclass(frozen=True)
class Legend:
    """Explains the colours of a sheet.

    Attributes:
      picture: uint8 RGB [H, W, 3], shown beside the text; None for text alone.
      text: What the colours mean.
    """

    picture: np.ndarray | None
    text: str


def write_sheet(
    path: str | os.PathLike,
    rows: Sequence[np.ndarray],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    rows_per_group: int = 1,
    *,
    legend: Legend | None = None,
) -> None:
    """Writes a PNG of labelled rows of images.

    Args:
      path: The file to write.
      rows: For each row, uint8 images [K, H, W, 3] of one size; K may differ.
      row_labels: The text to the left of each row, of one line or more.
      column_labels: The text above each column.
      title: The text above everything; lines that are too long are broken.
      rows_per_group: The number of rows that belong together; a wider gap follows them.
      legend: Explains the colours, below everything.

    Raises:
      ValueError: If the number of row labels differs from the number of rows.
    """
    if len(rows) != len(row_labels):
        raise ValueError(f"{len(rows)} rows of images, but {len(row_labels)} row labels")
    tiles = [enlarge(row, TILE_PIXELS) for row in rows]
    canvas = compose(tiles, rows_per_group)
    height, width = tiles[0].shape[1:3]
    longest = max(len(line) for label in row_labels for line in label.split("\n"))
    left = 16 + CHARACTER_PIXELS * longest
    title = wrap_text(title, left + canvas.shape[1] - 16, TITLE_SIZE)
    top = 30 + 20 * (1 + title.count("\n"))
    strip = None if legend is None else _render_legend(legend, left + canvas.shape[1] - 16)
    bottom = 16 if strip is None else 32 + strip.shape[0]
    pixels = (left + canvas.shape[1] + 16, top + canvas.shape[0] + bottom)
    figure = new_figure(pixels)
    axes = figure.add_axes(
        (
            left / pixels[0],
            bottom / pixels[1],
            canvas.shape[1] / pixels[0],
            canvas.shape[0] / pixels[1],
        )
    )
    axes.imshow(canvas, interpolation="nearest")
    tops = _row_offsets(len(rows), height, rows_per_group)
    set_tick_names(axes.yaxis, row_labels, [offset + height / 2 for offset in tops])
    centres = [k * (width + GAP_PIXELS) + width / 2 for k in range(len(column_labels))]
    set_tick_names(axes.xaxis, column_labels, centres)
    axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.text(16 / pixels[0], 1 - 10 / pixels[1], title, fontsize=TITLE_SIZE, va="top", ha="left")
    if strip is not None:
        figure.figimage(strip, 16, 16)
    save(figure, path)


def _render_legend(legend: Legend, width: int) -> np.ndarray:
    """Draws the picture of a legend with its text to the right, uint8 RGB [h, width, 3]."""
    if legend.picture is None:
        return render_text(legend.text, width)
    picture_width = legend.picture.shape[1]
    text = render_text(legend.text, width - picture_width - GROUP_GAP_PIXELS)
    height = max(legend.picture.shape[0], text.shape[0])
    strip = np.full((height, width, 3), BACKGROUND, np.uint8)
    for image, column in ((legend.picture, 0), (text, picture_width + GROUP_GAP_PIXELS)):
        row = (height - image.shape[0]) // 2
        strip[row : row + image.shape[0], column : column + image.shape[1]] = image
    return strip


def write_strips(
    path: str | os.PathLike, strips: Sequence[np.ndarray], captions: Sequence[str], title: str
) -> None:
    """Writes a PNG of strips of frames under their captions, three strips in a row.

    Args:
      path: The file to write.
      strips: uint8 RGB [K, H, W, 3], all of one shape.
      captions: The caption of each strip; it is cut from the left if it is too long.
      title: The text above everything.
    """
    tiles = []
    for strip, caption in zip(strips, captions):
        row = compose([list(enlarge(strip, TILE_PIXELS))], 1)
        tiles.append(np.concatenate([render_line(caption, row.shape[1]), row]))
    columns = min(STRIPS_PER_ROW, len(tiles))
    gap = np.full((tiles[0].shape[0], GROUP_GAP_PIXELS, 3), BACKGROUND, np.uint8)
    empty = np.full_like(tiles[0], BACKGROUND)
    tiles += [empty] * (-len(tiles) % columns)
    lines = []
    for start in range(0, len(tiles), columns):
        parts = [part for tile in tiles[start : start + columns] for part in (gap, tile)]
        lines.append(np.concatenate([*parts, gap], axis=1))
    heading = render_text(title, lines[0].shape[1])
    import_matplotlib().image.imsave(path, np.concatenate([heading, *lines]), dpi=DPI)
