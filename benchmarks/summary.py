"""The README's table of results: for each job the VAE's headline and the best rival beside it."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.equal_psnr import measure_bd_rate, read_curves
from benchmarks.results import read_board
from benchmarks.tables import format_metric


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
      job: what is done, on what.
      metric: what is measured, in words.
      task: board.
      column: of the board.
      page: of docs/results, without its suffix.
    """

    job: str
    metric: str
    task: str
    column: str
    page: str


ROWS = (
    Row("Actions of unseen drawn performers", "top-1", "performers", "top1", "performers"),
    Row("Gestures in unseen environments", "top-1", "gestures", "top1", "gestures"),
    Row(
        "Clusters of drawn actions; settings chosen with labels",
        "accuracy",
        "clusters",
        "accuracy",
        "clusters",
    ),
    Row("Cuts in joined videos", "F1", "shots", "joined_cuts_f1_0", "shots"),
    Row("Anomalies, UCSD Ped2", "frame AUROC", "ped2", "micro_raw", "ped2"),
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
    rows, sign = board["rows"], -1 if board.get("lower_is_better") else 1
    measured = [r for r in rows if r["metrics"].get(row.column, {}).get("mean") is not None]
    ours = [r for r in measured if r["headline"] and r["family"] == "vae"]
    rivals = [r for r in measured if r["family"] == "baseline"]
    if len(ours) != 1 or not rivals:
        raise ValueError(f"the board {row.task} has no headline or no baseline with {row.column}")
    best = max(rivals, key=lambda r: sign * r["metrics"][row.column]["mean"])
    cells = [_name(found, row.column) for found in (ours[0], best)]
    link = f"[{row.page}](docs/results/{row.page}.md)"
    return f"| {row.job} | {row.metric} | {' | '.join(cells)} | {link} |"


def _name(found: dict, column: str) -> str:
    name = found["row"].replace("|", "\\|")
    return f"`{name}` {format_metric(found['metrics'][column])}"


def _format_compression(results: Path) -> str:
    curves = read_curves(results)
    rate = measure_bd_rate(curves["vae"], curves["h264"])
    return (
        f"| Compression, 64x64 RGB | bits at equal PSNR (BD-rate) | {rate:+.0f} % "
        "| H.264, 0 % | [rate_distortion](docs/results/rate_distortion.md) |"
    )
