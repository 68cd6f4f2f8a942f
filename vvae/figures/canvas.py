"""Makes, rasterizes and saves figures of matplotlib. The only user of matplotlib."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from vvae.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
CAPTION_PIXELS = 24
# matplotlib leaves names that begin with "_" out of legends. This mark in front of a name, a space
# without width, is removed when the figure is drawn.
_MARK = "\u200b"


def import_matplotlib():
    """Imports matplotlib with the first figure, so that a training starts sooner."""
    import matplotlib
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import matplotlib.image
    import matplotlib.text

    return matplotlib


def new_figure(pixels: tuple[int, int]) -> "Figure":
    """Returns an empty figure of (width, height) pixels."""
    return import_matplotlib().figure.Figure(figsize=(pixels[0] / DPI, pixels[1] / DPI), dpi=DPI)


def new_chart(pixels: tuple[int, int]) -> "Figure":
    """Returns an empty figure of (width, height) pixels that fits its labels automatically."""
    figure = new_figure(pixels)
    figure.set_layout_engine("constrained")
    return figure


def in_legend(name: str) -> str:
    """Returns a name as the label of an artist that appears in a legend, whatever the name."""
    return _MARK + name


def set_tick_names(axis, names: Sequence[str], places: Sequence[float] | None = None, **options):
    """Labels the ticks of an axis with names, at 0, 1, ... or at the given places."""
    places = range(len(names)) if places is None else places
    axis.set_ticks(places, [_make_drawable(name) for name in names], **options)


def save(figure: "Figure", path: str | os.PathLike) -> None:
    """Writes a figure to a PNG file."""
    with _drawing(figure), replacing(path) as part:
        figure.savefig(part, dpi=DPI, format="png")


def rasterize(figure: "Figure") -> np.ndarray:
    """Returns a figure as an image, uint8 [H, W, 3]."""
    with _drawing(figure) as canvas:
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def render_text(text: str, width: int) -> np.ndarray:
    """Draws black text on white, cut at the right edge; uint8 [CAPTION_PIXELS, width, 3]."""
    figure = new_figure((width, CAPTION_PIXELS))
    figure.text(4 / width, 0.5, text, fontsize=9, va="center", ha="left")
    return rasterize(figure)


@contextmanager
def _drawing(figure: "Figure") -> Iterator:
    """Gives a figure a canvas, and draws all of its texts as they are.

    Texts are often names of files or classes: `$` in them does not begin a formula, and characters
    that cannot be drawn become boxes or question marks.
    """
    matplotlib = import_matplotlib()
    canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    for text in figure.findobj(matplotlib.text.Text):
        text.set_parse_math(False)
        text.set_text(_make_drawable(text.get_text()))
    # Labels of ticks may be made while drawing.
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield canvas


def _make_drawable(text: str) -> str:
    """Replaces the surrogates of names that are not UTF-8, which fonts refuse."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text.removeprefix(_MARK))
