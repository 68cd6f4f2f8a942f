"""A run's own method beside its best rival: a paired difference, and what to try if it loses."""

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence

import numpy as np

from vvae.config_files import load_config_file
from vvae.data.clips import Clips
from vvae.metrics.cards import Metric
from vvae.metrics.intervals import Difference, Units, make_units
from vvae.metrics.verdicts import Verdict, judge_difference
from vvae.program import name_command
from vvae.tasks.question import Question

FEW_VIDEOS = 30


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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A run's own method beside its best rival.

    Attributes:
      method, rival: Rows of the table.
      metric: The compared metric; higher is better.
      values: Those of both.
      difference: Of the first value less the second.
      unit: The unit of the metric.
      highest: The highest possible value.
      remark: What kind of method the rival is.
    """

    method: str
    rival: str
    metric: str
    values: tuple[float, float]
    difference: Difference
    unit: str = ""
    highest: float = 1.0
    remark: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the method is proven to be ahead or behind."""
        difference = self.difference
        return judge_difference(difference.low, difference.high, difference.p_value)

    def as_json(self) -> dict:
        """Returns the comparison as JSON values, for `details`."""
        names = {"method": self.method, "rival": self.rival, "metric": self.metric}
        return {**names, "unit": self.unit, **vars(self.difference)}


def describe_rival(comparison: Comparison, advice: str) -> str:
    """Returns a sentence: whether a method beats its best rival, by how much, and how surely.

    `advice` follows where it does not, unless both are perfect: then nothing can be ahead.
    """
    own, metric = comparison.method, comparison.metric
    rival = f"{comparison.rival} ({comparison.remark})" if comparison.remark else comparison.rival
    if min(comparison.values) >= comparison.highest:
        return (
            f"{own} and its best rival {rival} are both perfect ({metric} "
            f"{comparison.highest:.3f}): more or harder test videos would tell them apart."
        )
    difference = comparison.difference
    sign = "+" if difference.value >= 0 else "-"
    text = f"{metric} {sign}{abs(difference.value):.3f}"
    text += f" {comparison.unit}" if comparison.unit else ""
    if not math.isnan(difference.p_value):
        p_value = f"{difference.p_value:.3f}" if difference.p_value >= 1e-3 else "below 0.001"
        text += f" [{difference.low:.3f}, {difference.high:.3f}], p {p_value}, {difference.test}"
    verdicts = {
        "ahead": "beats",
        "behind": "is beaten by",
        "open": "does not beat" if difference.value <= 0 else "is not proven to beat",
    }
    sentence = f"{own} {verdicts[comparison.verdict]} its best rival {rival}: {text}."
    return sentence if comparison.verdict == "ahead" else f"{sentence} {advice}".rstrip()


# --- what to try ----------------------------------------------------------------------------------

# Configuration -> what it is made for.
PURPOSES = {
    "actions": "made for labelled short videos",
    "surveillance": "made for a fixed camera",
}
# Views to try, in this order: what looks like the videos, what moves, and both.
VIEWS = ("gray", "rootflow", "gray+difference")


def advise(question: Question, configuration: str) -> str:
    """Returns what to try to get ahead of the best rival.

    Args:
      question: The run and its videos.
      configuration: The configuration that is made for the question.
    """
    config = question.run.config
    tries = []
    made = load_config_file(configuration)
    if (config.data.view, config.data.sampling) != (made.data.view, made.data.sampling):
        path = shlex.quote(config.data.path or "DIR")
        command = f"{name_command('train')} {configuration} --data.path {path}"
        tries.append(f"`{command}` ({PURPOSES[configuration]})")
    tries += _advise_more_steps(question)
    other = next(view for view in VIEWS if view not in (config.data.view, made.data.view))
    tries.append(f"another view (--data.view {other})")
    return _join(tries)


def advise_on_pixels(question: Question) -> str:
    """Returns what to try for better reconstructions; empty for published weights."""
    config = question.run.config
    tries = _advise_more_steps(question)
    if config.model.kind == "sequential":
        if not config.model.linear:
            tries.append("a linear path that starts as PCA (--model.linear True)")
        tries.append(f"more latents (--model.latent_dim {2 * config.model.latent_dim})")
    return _join(tries) if tries else ""


def _join(tries: Sequence[str]) -> str:
    *others, last = tries
    return f"What to try: {', '.join(others)}{', or ' if others else ''}{last}."


def _advise_more_steps(question: Question) -> list[str]:
    num_steps = question.run.record.get("data", {}).get("num_steps")
    if not num_steps:  # published weights
        return []
    return [f"more steps (--train.num_steps {2 * num_steps})"]
