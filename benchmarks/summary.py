"""The README's table of results: for each job the VAE's headline and the best rival beside it."""

import math
from dataclasses import dataclass
from pathlib import Path

from benchmarks.equal_psnr import NAMES, format_rate, measure_bd_rate, read_curves, read_intervals
from benchmarks.results import read_board
from benchmarks.tables import format_interval, format_metric


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
      job: what is done, on what.
      metric: what is measured, in words.
      task: board, of which the first column is shown; also the page in docs/results.
    """

    job: str
    metric: str
    task: str


ROWS = (
    Row("Actions of unseen drawn performers", "top-1", "performers"),
    Row("Gestures in unseen environments", "top-1", "gestures"),
    Row(
        "Clusters of drawn actions; settings chosen with labels, on this seed",
        "accuracy",
        "clusters",
    ),
    Row("Shot boundaries of joined videos", "F1", "shots"),
    Row("Anomalies, UCSD Ped2", "frame AUROC", "ped2"),
)


def format_summary(results: Path) -> str:
    """Returns the table as Markdown."""
    lines = [
        "| job | metric | vvae | best rival measured | details |",
        "| --- | --- | --- | --- | --- |",
        *(format_row(row, results) for row in ROWS),
        _format_compression(results),
    ]
    return "\n".join([*lines, ""])


def format_row(row: Row, results: Path) -> str:
    """Returns a row: the headline of the family vae, and the best row of the family baseline.

    Raises:
      ValueError: if the board has no such rows.
    """
    board = read_board(results / f"{row.task}.json")
    column, sign = board["columns"][0], -1 if board.get("lower_is_better") else 1
    measured = [r for r in board["rows"] if r["metrics"].get(column, {}).get("mean") is not None]
    ours = [r for r in measured if r["headline"] and r["family"] == "vae"]
    rivals = [r for r in measured if r["family"] == "baseline"]
    if len(ours) != 1 or not rivals:
        raise ValueError(f"the board {row.task} has no headline or no baseline with {column}")
    best = max(rivals, key=lambda r: sign * r["metrics"][column]["mean"])
    cells = [_name(found, found["metrics"][column]) for found in (ours[0], best)]
    link = f"[{row.task}](docs/results/{row.task}.md)"
    return f"| {row.job} | {row.metric} | {' | '.join(cells)} | {link} |"


def _name(found: dict, metric: dict) -> str:
    """Returns a row's name and value, with its interval over units or the spread over seeds."""
    name = found["row"].replace("|", "\\|")
    if "interval" not in found:
        return f"`{name}` {format_metric(metric)}"
    return f"`{name}` {format_metric({**metric, 'std': None})} {format_interval(found['interval'])}"


def _format_compression(results: Path) -> str:
    curves = read_curves(results)
    vae = curves.pop("vae")
    rivals = {name: curve for name, curve in curves.items() if name != "vae_prior"}
    rates = {name: measure_bd_rate(vae, curve) for name, curve in rivals.items()}
    best = max((name for name in rates if not math.isnan(rates[name])), key=rates.get)
    rate = format_rate(rates[best], read_intervals(results).get(best))
    return (
        f"| Compression, 64x64 RGB | bits at equal PSNR (BD-rate) | {rate} "
        f"| {NAMES.get(best, best)}, 0 % | [rate_distortion](docs/results/rate_distortion.md) |"
    )
