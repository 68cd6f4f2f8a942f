"""Explains the colours in which a view is shown."""

import numpy as np

from vvae import figures
from vvae.data.views import FULL_COLOR, View, get_view, view_to_rgb

WHEEL_PIXELS = 96
_FIRST = "The first frame of a video is {}, since no frame comes before it."
_TEXTS = {
    "difference": "Gray: no change since the frame before; lighter: it became brighter; darker: it "
    "became darker. " + _FIRST.format("gray"),
    "motion": "Black: no change since the frame before; lighter: more change. "
    + _FIRST.format("black"),
    "rootspeed": "Black: nothing moves; lighter: faster or larger things move. "
    + _FIRST.format("black"),
}
_FLOW_TEXT = (
    "Colour: the direction in which things move, as in this wheel. Brightness: their speed, full "
    f"from {FULL_COLOR:g} pixels per frame on; black: nothing moves. " + _FIRST.format("black")
)


def explain_view(view: View) -> figures.Legend | None:
    """Returns the legend of pictures of a view; None if they look as the videos do."""
    if view.shown in ("flow", "rootflow"):
        return figures.Legend(draw_wheel(view.shown), _FLOW_TEXT)
    text = _TEXTS.get(view.shown)
    return None if text is None else figures.Legend(None, text)


def draw_wheel(part: str) -> np.ndarray:
    """Draws every motion of up to full brightness in the colour of the view flow or rootflow.

    Returns:
      uint8 RGB [WHEEL_PIXELS, WHEEL_PIXELS, 3]: motion to the right is at the right, motion
      downwards at the bottom, no motion in the middle. Outside of the disk is white.
    """
    view = get_view(part)
    axis = np.linspace(-1.0, 1.0, WHEEL_PIXELS) * FULL_COLOR
    flow_HW2 = np.stack(np.meshgrid(axis, axis), axis=-1)
    physical = np.sign(flow_HW2) * np.sqrt(np.abs(flow_HW2)) if part == "rootflow" else flow_HW2
    codes = np.rint(physical / np.array(view.scale) + np.array(view.offset)).astype(np.uint8)
    wheel = view_to_rgb(view, codes)
    wheel[np.hypot(*np.moveaxis(flow_HW2, -1, 0)) > FULL_COLOR] = 255
    return wheel
