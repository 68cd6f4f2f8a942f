"""Rows of a scoreboard: measured for each seed, summarised, written as JSON, read back."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
FAMILIES = ("vae", "fusion", "baseline", "control")


@dataclasses.dataclass(frozen=True)
class Board:
    """A task of the scoreboard.

    Attributes:
      task: its name, and that of its file.
      protocol: what is measured, on what, and how choices were made.
      data: the data set, in words.
      headlines: names of the rows that were chosen beforehand; one of the family vae.
      published: figures of others with their protocol and source.
      columns: metrics in the README's table, in order.
    """

    task: str
    protocol: str
    data: str
    headlines: tuple[str, ...]
    columns: tuple[str, ...]
    published: tuple[dict[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Request:
    """A request to measure a board.

    Attributes:
      data_path: folder of the data; None for built-in data.
      seed: of everything random.
      folder: for run directories.
      num_steps: training steps; None for those of the configurations.
    """

    data_path: str | None
    seed: int
    folder: Path
    num_steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One row for one seed.

    Attributes:
      row: its name.
      family: vae (quantities of a trained VAE alone), fusion (with untrained scores), baseline, or
        control (does not see the content).
      metrics: name -> value; None if not run.
      seconds: wall time of training and measuring.
      parameters: numbers fitted by gradients; 0 for none.
      frames_per_second: of training, if there is one.
      machine: what it was measured on.
    """

    row: str
    family: str
    metrics: dict[str, float | None]
    seconds: float
    parameters: int = 0
    frames_per_second: float | None = None
    machine: str = ""


def summarize(board: Board, measured: Sequence[tuple[int, Measurement]], command: str) -> dict:
    """Computes means and standard deviations over seeds, in the order of measurement.

    Args:
      board: the task.
      measured: (seed, row) pairs; rows that depend on no seed are measured once.
      command: the command that repeats the measurement.

    Raises:
      ValueError: if a headline was not measured, or the family vae has not exactly one.
    """
    by_row: dict[str, list[tuple[int, Measurement]]] = {}
    for seed, measurement in measured:
        by_row.setdefault(measurement.row, []).append((seed, measurement))
    missing = set(board.headlines) - set(by_row)
    if missing:
        raise ValueError(f"{board.task}: no row {', '.join(sorted(missing))} was measured")
    families = [by_row[name][0][1].family for name in board.headlines]
    if families.count("vae") != 1:
        raise ValueError(f"{board.task}: one headline row of the family vae, not {families}")
    return {
        "task": board.task,
        "protocol": board.protocol,
        "data": board.data,
        "command": command,
        "machines": sorted({row.machine for _, row in measured if row.machine}),
        "columns": list(board.columns),
        "rows": [_summarize_row(name, found, board) for name, found in by_row.items()],
        "published": list(board.published),
    }


def _summarize_row(name: str, found: Sequence[tuple[int, Measurement]], board: Board) -> dict:
    first = found[0][1]
    row: dict[str, Any] = {
        "row": name,
        "family": first.family,
        "headline": name in board.headlines,
        "seeds": [seed for seed, _ in found],
        "metrics": {
            metric: _spread([m.metrics[metric] for _, m in found]) for metric in first.metrics
        },
        "seconds": round(float(np.mean([m.seconds for _, m in found])), 1),
        "parameters": first.parameters,
    }
    rates = [m.frames_per_second for _, m in found if m.frames_per_second is not None]
    if rates:
        row["frames_per_second"] = round(float(np.mean(rates)))
    return row


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Returns mean and standard deviation (N - 1) over seeds.

    A single seed has no standard deviation; both are None if it was not run.
    """
    if None in values:
        return {"mean": None, "std": None}
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std}


def write_board(path: Path, content: dict) -> None:
    """Writes the file of a task; numbers that are not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_clean(content), indent=1, allow_nan=False) + "\n")


def _clean(value):
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value


def read_board(path: Path) -> dict:
    """Reads the file of a task."""
    return json.loads(path.read_text())
