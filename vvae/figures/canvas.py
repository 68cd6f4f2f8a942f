"""Makes, rasterizes and saves figures of matplotlib. The only user of matplotlib."""

import os
from typing import TYPE_CHECKING

import numpy as np

from vvae.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
CAPTION_PIXELS = 24


def import_matplotlib():
    """Imports matplotlib with the first figure, so that a training starts sooner."""
    import matplotlib
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import matplotlib.image

    return matplotlib


def new_figure(pixels: tuple[int, int]) -> "Figure":
    """Returns an empty figure of (width, height) pixels."""
    return import_matplotlib().figure.Figure(figsize=(pixels[0] / DPI, pixels[1] / DPI), dpi=DPI)


def new_chart(pixels: tuple[int, int]) -> "Figure":
    """Returns an empty figure of (width, height) pixels that fits its labels automatically."""
    figure = new_figure(pixels)
    figure.set_layout_engine("constrained")
    return figure


def save(figure: "Figure", path: str | os.PathLike) -> None:
    """Writes a figure to a PNG file."""
    _add_canvas(figure)
    with replacing(path) as part:
        figure.savefig(part, dpi=DPI, format="png")


def rasterize(figure: "Figure") -> np.ndarray:
    """Returns a figure as an image, uint8 [H, W, 3]."""
    canvas = _add_canvas(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def render_text(text: str, width: int) -> np.ndarray:
    """Draws black text on white, cut at the right edge; uint8 [CAPTION_PIXELS, width, 3]."""
    figure = new_figure((width, CAPTION_PIXELS))
    figure.text(4 / width, 0.5, text, fontsize=9, va="center", ha="left")
    return rasterize(figure)


def _add_canvas(figure: "Figure"):
    return import_matplotlib().backends.backend_agg.FigureCanvasAgg(figure)
