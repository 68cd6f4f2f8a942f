"""Draws arrays into PNG and mp4 files.

Images are uint8 RGB. Small frames are enlarged by whole factors.
"""

from vvae.figures.attempt import try_to_draw
from vvae.figures.charts import (
    ScoreCurve,
    write_boundary_curves,
    write_confusion_matrix,
    write_curves,
    write_dimension_bars,
    write_label_curves,
    write_maps,
    write_score_curves,
    write_score_groups,
    write_training_curves,
)
from vvae.figures.sheets import (
    TILE_PIXELS,
    Legend,
    color_error,
    compose_grid,
    enlarge,
    write_sheet,
    write_strips,
)
from vvae.figures.videos import (
    SCORE_TILE_PIXELS,
    overlay_heat,
    write_grid_video,
    write_score_video,
)

__all__ = [
    "SCORE_TILE_PIXELS",
    "TILE_PIXELS",
    "Legend",
    "ScoreCurve",
    "color_error",
    "compose_grid",
    "enlarge",
    "overlay_heat",
    "try_to_draw",
    "write_boundary_curves",
    "write_confusion_matrix",
    "write_curves",
    "write_dimension_bars",
    "write_grid_video",
    "write_label_curves",
    "write_maps",
    "write_score_curves",
    "write_score_groups",
    "write_score_video",
    "write_sheet",
    "write_strips",
    "write_training_curves",
]
