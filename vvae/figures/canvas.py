"""Makes, rasterizes and saves figures of matplotlib. The only user of matplotlib."""

import functools
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
CAPTION_SIZE = 9  # points
TITLE_SIZE = 11
# matplotlib leaves names that begin with "_" out of legends. This mark in front of a name, a space
# without width, is removed when the figure is drawn.
_MARK = "\u200b"


def import_matplotlib():
    """Imports matplotlib with the first figure, so that a training starts sooner."""
    import matplotlib
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import matplotlib.font_manager
    import matplotlib.image
    import matplotlib.lines
    import matplotlib.patches
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


def set_title(figure: "Figure", title: str) -> None:
    """Writes a title above everything in a figure, on as many lines as its width needs."""
    width = figure.get_figwidth() * DPI
    figure.suptitle(wrap_text(title, width - 32, TITLE_SIZE), fontsize=TITLE_SIZE)


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


def render_text(
    text: str, width: int, color: str = "black", background: str = "white"
) -> np.ndarray:
    """Draws text of as many lines as it needs; uint8 [lines * CAPTION_PIXELS, width, 3]."""
    lines = wrap_text(text, width - 8, CAPTION_SIZE).split("\n")
    height = CAPTION_PIXELS * len(lines)
    figure = new_figure((width, height))
    figure.set_facecolor(background)
    for number, line in enumerate(lines):
        middle = 1 - (number + 0.5) * CAPTION_PIXELS / height
        figure.text(4 / width, middle, line, fontsize=CAPTION_SIZE, color=color, va="center")
    return rasterize(figure)


def render_line(text: str, width: int) -> np.ndarray:
    """Draws one line of text, cut from the left if it is too long: the name of a file ends it."""
    return render_text(cut_text(" ".join(text.split("\n")), width - 8, CAPTION_SIZE), width)


def measure_text(text: str, font_size: float) -> float:
    """Returns the width of one line of text in pixels; `font_size` is in points."""
    font = import_matplotlib().font_manager.FontProperties(size=font_size)
    with _ignoring_missing_glyphs():
        measure = _make_renderer().get_text_width_height_descent
        return measure(_make_drawable(text), font, ismath=False)[0]


@functools.lru_cache(1)
def _make_renderer():
    return import_matplotlib().backends.backend_agg.RendererAgg(1, 1, DPI)


def wrap_text(text: str, pixels: float, font_size: float) -> str:
    """Breaks lines of text between words so that none is wider than `pixels`.

    A word that is wider alone, such as the path of a file, is broken where the line ends.
    """
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and measure_text(longer, font_size) > pixels:
                lines.append(line)
                longer = word
            while len(longer) > 1 and measure_text(longer, font_size) > pixels:
                fits = _count_fitting(longer, pixels, font_size)
                lines.append(longer[:fits])
                longer = longer[fits:]
            line = longer
        lines.append(line)
    return "\n".join(lines)


def cut_text(text: str, pixels: float, font_size: float) -> str:
    """Cuts a line of text from the left, behind "...", so that it is not wider than `pixels`."""
    if measure_text(text, font_size) <= pixels:
        return text
    room = pixels - measure_text("...", font_size)
    return "..." + text[::-1][: _count_fitting(text[::-1], room, font_size)][::-1]


def _count_fitting(text: str, pixels: float, font_size: float) -> int:
    """Returns how many of the first characters fit into a width, at least 1."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if measure_text(text[:middle], font_size) <= pixels:
            low = middle
        else:
            high = middle - 1
    return low


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
    with matplotlib.rc_context({"text.parse_math": False}), _ignoring_missing_glyphs():
        yield canvas


@contextmanager
def _ignoring_missing_glyphs() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s)Glyph .* missing from font", UserWarning)
        yield


def _make_drawable(text: str) -> str:
    """Replaces the surrogates of names that are not UTF-8, which fonts refuse."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text.removeprefix(_MARK))
