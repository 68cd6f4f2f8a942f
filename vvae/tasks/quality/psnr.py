"""PSNR over videos: intervals, and the model beside its best rival."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vvae.data.clips import Clips
from vvae.metrics.cards import Interval, Metric
from vvae.metrics.frames import MAX_PSNR, video_means
from vvae.metrics.intervals import (
    CONFIDENCE,
    Units,
    compare_means,
    find_percentiles,
    resample_ratio,
)
from vvae.tasks.rivals import Comparison, find_best_rival, find_units

Rows = Mapping[str, Mapping[str, Metric]]


@dataclasses.dataclass(frozen=True, eq=False)
class VideoPsnr:
    """The mean PSNR of each video under several methods, and the units of the videos."""

    mean_by_method: Mapping[str, np.ndarray]
    units: Units


def average_psnr(
    psnr: Mapping[str, np.ndarray], mask_NT: np.ndarray, clips: Clips, seed: int
) -> VideoPsnr:
    """Averages PSNR over the valid frames of each video.

    Args:
      psnr: Method -> dB [N, T].
      mask_NT: bool; the frames that count.
      clips: The N clips.
      seed: The seed of the resamples of units.
    """
    chosen_V = np.zeros(len(clips.videos), bool)
    means = {}
    for name, psnr_NT in psnr.items():
        videos, means[name] = video_means(psnr_NT, mask_NT, clips.video_index_N)
        chosen_V[videos] = True
    return VideoPsnr(means, find_units(clips, chosen_V, seed))


def add_intervals(rows: Rows, measured: VideoPsnr) -> dict[str, dict[str, Metric]]:
    """Returns rows whose `psnr` has its 95 % interval, unless there is one unit only."""
    units, found = measured.units, {name: dict(row) for name, row in rows.items()}
    for name, mean_V in measured.mean_by_method.items() if len(units) > 1 else ():
        low, high = find_percentiles(resample_ratio(units, mean_V, np.ones(len(mean_V))))
        interval = Interval(low, high, f"{CONFIDENCE:.0%}, resamples of {units.text}")
        found[name]["psnr"] = dataclasses.replace(found[name]["psnr"], interval=interval)
    return found


def compare_psnr(rows: Rows, measured: VideoPsnr, own: str, rivals: Sequence[str]) -> Comparison:
    """Compares a method with the best of its rivals."""
    rival = find_best_rival(rows, rivals, "psnr") or rivals[0]
    pair = measured.mean_by_method[own], measured.mean_by_method[rival]
    values = (rows[own]["psnr"].value, rows[rival]["psnr"].value)
    difference = compare_means(measured.units, *pair)
    return Comparison(own, rival, "psnr", values, difference, unit="dB", highest=MAX_PSNR)
