"""Compares bits at equal PSNR, from the curves of benchmarks/results/rate_distortion.json.

    python -m benchmarks.equal_psnr

Prints, for every point of the VAE, how many times the bits of H.264, PCA and JPEG it needs at its
own PSNR, and the mean over the range of PSNR that both curves cover (the rate of Bjontegaard, with
straight lines instead of cubics). Measures nothing anew.
"""

import argparse
import json
import math
from collections.abc import Sequence

import numpy as np

from benchmarks.origin import RESULTS

Curve = Sequence[tuple[float, float]]
# Name in the file -> name in the docs.
RIVALS = {"h264": "H.264", "pca_blocks": "PCA of blocks", "jpeg": "JPEG"}


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    curves = json.loads((RESULTS / "rate_distortion.json").read_text())["curves"]
    curves = {name: [(rate, psnr) for rate, psnr, _ in points] for name, points in curves.items()}
    vae = sorted(curves.pop("vae"))
    print("bits/pixel  PSNR   times the bits of " + ", ".join(curves))
    for point in vae:
        ratios = (compare_bits(point, curve) for curve in curves.values())
        text = "  ".join(f"{ratio:10.2f}" for ratio in ratios)
        print(f"{point[0]:10.3f} {point[1]:6.2f}  {text}")
    means = (average_bits(vae, curve) for curve in curves.values())
    print("mean over equal PSNR".ljust(19) + "  ".join(f"{mean:10.2f}" for mean in means))


def format_table(content: dict) -> str:
    """Returns the table of the docs: the VAE's rate over those of other codecs, at equal PSNR.

    Args:
      content: of rate_distortion.json.
    """
    curves = {
        name: sorted((p[0], p[1]) for p in points) for name, points in content["curves"].items()
    }
    vae, titles = curves["vae"], [f"times the bits of {name}" for name in RIVALS.values()]
    lines = [
        f"Bits of the VAE over those of others at its PSNR. `{content['command']}`",
        "",
        f"| bits/pixel | PSNR (dB) | {' | '.join(titles)} |",
        f"| ---: | ---: | {' | '.join('---:' for _ in RIVALS)} |",
    ]
    for point in vae:
        cells = [_format_ratio(compare_bits(point, curves[name])) for name in RIVALS]
        lines.append(f"| {point[0]:.3f} | {point[1]:.2f} | {' | '.join(cells)} |")
    means = [_format_ratio(average_bits(vae, curves[name])) for name in RIVALS]
    lines.append(f"| mean over equal PSNR |  | {' | '.join(means)} |")
    return "\n".join([*lines, "", ""])


def _format_ratio(ratio: float) -> str:
    return "beyond its curve" if math.isnan(ratio) else f"{ratio:.1f}"


def compare_bits(point: tuple[float, float], curve: Curve) -> float:
    """Returns a point's rate over that of a curve at the same PSNR; NaN beyond the curve's ends.

    Between two points of the curve, the logarithm of the rate is linear in PSNR.

    Args:
      point: (rate, PSNR in dB).
      curve: Such points, both numbers rising.
    """
    return math.exp(math.log(point[0]) - _log_rate(curve, point[1]))


def average_bits(first: Curve, second: Curve) -> float:
    """Returns the geometric mean of the first curve's rate over the second's, over equal PSNR.

    NaN if no PSNR is on both curves.

    References:
      Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001
    """
    low = max(first[0][1], second[0][1])
    high = min(first[-1][1], second[-1][1])
    if low >= high:
        return math.nan
    inner = [psnr for _, psnr in (*first, *second) if low < psnr < high]
    grid = np.array(sorted({low, high, *inner}))  # the difference is linear in between
    difference = [_log_rate(first, psnr) - _log_rate(second, psnr) for psnr in grid]
    return math.exp(np.trapezoid(difference, grid) / (high - low))


def _log_rate(curve: Curve, psnr: float) -> float:
    rates, levels = np.array(curve).T
    return float(np.interp(psnr, levels, np.log(rates), left=math.nan, right=math.nan))


if __name__ == "__main__":
    main()
