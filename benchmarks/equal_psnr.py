"""Compares bits at equal PSNR, from the stored curves of rate and distortion.

    python -m benchmarks.equal_psnr

Prints, for every point of the VAE in benchmarks/results/rate_distortion.json, how many times the
bits of other codecs it needs at its own PSNR, and the BD-rate, over the range of PSNR that both
curves cover. The curves of x264, x265 and SVT-AV1 come from benchmarks/results/codec_curves.json.
Measures nothing anew.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator

from benchmarks.origin import RESULTS
from benchmarks.resampling import draw_values, find_interval

Curve = Sequence[tuple[float, float]]
# Name in the file -> name in the docs.
NAMES = {
    "vae_prior": "the same under its prior",
    "pca_blocks": "PCA of blocks",
    "jpeg": "JPEG",
    "svt_av1": "SVT-AV1",
}


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    curves = read_curves(RESULTS)
    vae = curves.pop("vae")
    print("bits/pixel  PSNR   times the bits of " + ", ".join(curves))
    for point in vae:
        ratios = (compare_bits(point, curve) for curve in curves.values())
        text = "  ".join(f"{ratio:10.2f}" for ratio in ratios)
        print(f"{point[0]:10.3f} {point[1]:6.2f}  {text}")
    rates = (measure_bd_rate(vae, curve) for curve in curves.values())
    print("BD-rate in %".ljust(19) + "  ".join(f"{rate:+10.1f}" for rate in rates))


def read_curves(results: Path) -> dict[str, list[tuple[float, float]]]:
    """Returns name -> curve, of rate_distortion.json and, if it is there, of codec_curves.json.

    Raises:
      ValueError: if both files are not of the same clips.
    """
    content = json.loads((results / "rate_distortion.json").read_text())
    curves = {name: [p[:2] for p in points] for name, points in content["curves"].items()}
    codecs = results / "codec_curves.json"
    if codecs.is_file():
        others = json.loads(codecs.read_text())
        if others["data"] != content["data"]:
            raise ValueError(f"the curves are of other clips: {others['data']}, {content['data']}")
        for name, points in others["curves"].items():
            curves[name] = [(p["rate"], p["psnr"]) for p in points]
    return {name: keep_rising(curve) for name, curve in curves.items()}


def keep_rising(curve: Curve) -> list[tuple[float, float]]:
    """Returns the points that no other one is better than, by rising rate and PSNR."""
    kept = []
    for rate, psnr in sorted(curve, key=lambda point: (point[0], -point[1])):
        if not kept or psnr > kept[-1][1]:
            kept.append((rate, psnr))
    return kept


def format_table(results: Path) -> str:
    """Returns the table of the docs: the VAE's rate over those of other codecs, at equal PSNR."""
    curves = read_curves(results)
    vae = curves.pop("vae")
    curves = {name: curve for name, curve in curves.items() if name != "pca_frames"}
    titles = [NAMES.get(name, name) for name in curves]
    lines = [
        "How many times the bits of others the VAE needs at its own PSNR. `python -m "
        "benchmarks.equal_psnr`",
        "",
        f"| bits/pixel | PSNR (dB) | {' | '.join(titles)} |",
        f"| ---: | ---: | {' | '.join('---:' for _ in curves)} |",
    ]
    for point in vae:
        cells = [_format_ratio(compare_bits(point, curve)) for curve in curves.values()]
        lines.append(f"| {point[0]:.3f} | {point[1]:.2f} | {' | '.join(cells)} |")
    intervals = read_intervals(results)
    rates = [
        format_rate(measure_bd_rate(vae, curve), intervals.get(name))
        for name, curve in curves.items()
    ]
    lines.append(f"| BD-rate |  | {' | '.join(rates)} |")
    return "\n".join([*lines, "", ""])


def read_intervals(results: Path) -> dict[str, dict]:
    """Returns the BD-rates of the VAE over videos by the other codec, where they were measured."""
    content = json.loads((results / "rate_distortion.json").read_text())
    return content.get("bd_rates_percent", {}).get("vae", {})


def format_rate(rate: float, over_videos: dict | None) -> str:
    """Returns a BD-rate of mean curves, or the mean over videos with its interval if known."""
    if over_videos is None:
        return f"{rate:+.0f} %"
    mean, low, high = (over_videos[name] for name in ("mean", "low", "high"))
    return f"{mean:+.0f} % [{low:+.0f}, {high:+.0f}]"


def _format_ratio(ratio: float) -> str:
    return "beyond its curve" if math.isnan(ratio) else f"{ratio:.1f}"


def compare_bits(point: tuple[float, float], curve: Curve) -> float:
    """Returns a point's rate over that of a curve at the same PSNR; NaN beyond the curve's ends.

    Between two points of the curve, the logarithm of the rate is linear in PSNR.

    Args:
      point: (rate, PSNR in dB).
      curve: Such points, both numbers rising.
    """
    rates, levels = np.array(curve).T
    log_rate = np.interp(point[1], levels, np.log(rates), left=math.nan, right=math.nan)
    return math.exp(math.log(point[0]) - float(log_rate))


def measure_bd_rate(first: Curve, second: Curve) -> float:
    """Returns the BD-rate in percent: how many more bits the first curve needs, at equal PSNR.

    The logarithms of both rates are interpolated over PSNR by monotone piecewise cubics, and their
    difference is averaged over the PSNR that both curves cover. NaN where they share none, or one
    of them has a single point.

    Args:
      first: Points (rate, PSNR in dB), both numbers rising.
      second: The curve that the first is compared with.

    References:
      Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001
      Bjontegaard, "Improvements of the BD-PSNR model", VCEG-AI11, 2008 (piecewise cubics)
      Fritsch and Carlson, "Monotone Piecewise Cubic Interpolation", 1980
    """
    if min(len(first), len(second)) < 2:
        return math.nan
    low = max(first[0][1], second[0][1])
    high = min(first[-1][1], second[-1][1])
    if low >= high:
        return math.nan
    areas = []
    for curve in (first, second):
        rates, levels = np.array(curve).T
        areas.append(float(PchipInterpolator(levels, np.log(rates)).integrate(low, high)))
    return 100.0 * math.expm1((areas[0] - areas[1]) / (high - low))


def compare_videos(first: Sequence[Curve], second: Sequence[Curve]) -> dict[str, float | int]:
    """Returns the mean BD-rate over videos in percent, with its 95 % interval over videos.

    Args:
      first: A curve for each video, in any order of its points.
      second: The curves of the other codec for the same videos.

    Returns:
      `mean`, `low`, `high`, and the numbers of videos with a BD-rate and without one (`num_videos`,
      `num_without_overlap`).

    Raises:
      ValueError: if no video has a BD-rate.
    """
    rate_V = np.array(
        [
            measure_bd_rate(keep_rising(a), keep_rising(b))
            for a, b in zip(first, second, strict=True)
        ]
    )
    known_V = rate_V[~np.isnan(rate_V)]
    if not len(known_V):
        raise ValueError("the curves of no video share a range of PSNR")
    drawn = draw_values(lambda values: values.mean(), (known_V,), np.arange(len(known_V)))
    low, high = find_interval(np.array(drawn))
    return {
        "mean": float(known_V.mean()),
        "low": low,
        "high": high,
        "num_videos": len(known_V),
        "num_without_overlap": len(rate_V) - len(known_V),
    }


if __name__ == "__main__":
    main()
