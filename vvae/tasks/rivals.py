"""A run's own method beside its best rival: a paired difference, and what to try if it loses."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vvae.data.clips import Clips
from vvae.metrics.cards import Metric
from vvae.metrics.intervals import Difference, Units, make_units

FEW_VIDEOS = 30
WHAT_TO_TRY = (
    "try more steps (--train.num_steps), another view (--data.view), or a configuration made for "
    "such videos"
)


def find_units(clips: Clips, chosen_V: np.ndarray, seed: int) -> Units:
    """Returns the independent units of some of the videos of clips: their groups.

    Args:
      clips: Clips of V videos.
      chosen_V: bool; the videos that are measured.
      seed: The seed of the resamples.
    """
    group_V = np.array([video.group for video in clips.videos])[chosen_V]
    noun = "videos" if len(np.unique(group_V)) == len(group_V) else "groups of videos"
    return make_units(group_V, noun, seed=seed)


def describe_units(num_videos: int, units: Units) -> tuple[str, ...]:
    """Returns sentences on what the intervals of a table rest on, and whether that is little."""
    if len(units) < 2:
        text = f"n = {num_videos} videos of a single group: no interval can be given."
    else:
        resampled = "" if units.noun == "videos" else f", resampled by their {len(units)} groups"
        text = f"n = {num_videos} videos{resampled}; [low, high] is a 95 % interval."
    few = (
        f"FEW TEST VIDEOS: {num_videos}, fewer than {FEW_VIDEOS}; read the intervals, not the "
        "digits, and add test videos before you choose by such a table."
    )
    return (text, few) if num_videos < FEW_VIDEOS else (text,)


def find_best_rival(
    rows: Mapping[str, Mapping[str, Metric]], rivals: Sequence[str], metric: str
) -> str | None:
    """Returns the rival with the highest value of a metric (the first of equals); None if none."""
    known = [name for name in rivals if not math.isnan(rows[name][metric].value)]
    return max(known, key=lambda name: rows[name][metric].value, default=None)


def describe_rival(own: str, rival: str, metric: str, difference: Difference) -> str:
    """Returns a sentence: whether a method beats its best rival, by how much, and how surely."""
    sign = "+" if difference.value >= 0 else "-"
    text = f"{metric} {sign}{abs(difference.value):.3f}"
    if not math.isnan(difference.p_value):
        p_value = f"{difference.p_value:.3f}" if difference.p_value >= 1e-3 else "below 0.001"
        text += f" [{difference.low:.3f}, {difference.high:.3f}], p {p_value}, {difference.test}"
    if difference.low > 0:
        return f"{own} beats its best rival {rival}: {text}."
    verdict = "is beaten by" if difference.high < 0 else "does not beat"
    return f"{own} {verdict} its best rival {rival}: {text}. What to do: {WHAT_TO_TRY}."


def as_json(own: str, rival: str, metric: str, difference: Difference) -> dict:
    """Returns a comparison as JSON values."""
    return {"method": own, "rival": rival, "metric": metric, **vars(difference)}
