"""Rows of a scoreboard: measured for each seed, summarised, written as JSON, read back."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.origin import describe_machine, write_result
from benchmarks.resampling import find_interval, find_p_value
from vvae.metrics.intervals import bootstrap_units, permute_difference


@dataclasses.dataclass(frozen=True)
class Board:
    """A task of the scoreboard.

    Attributes:
      task: its name, and that of its file.
      protocol: what is measured, on what, and how choices were made.
      data: the data set, in words.
      headlines: names of the rows that were chosen beforehand; one of the family vae.
      published: figures of others with their protocol and source.
      columns: metrics in the table of the docs, in order.
      unit: what the independent units of `Measurement.hits` and `draws` are, in the plural.
      lower_is_better: whether the first column is, such as bits.
    """

    task: str
    protocol: str
    data: str
    headlines: tuple[str, ...]
    columns: tuple[str, ...]
    published: tuple[dict[str, str], ...] = ()
    unit: str = "units"
    lower_is_better: bool = False


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
      parameters: of the network that training fits by gradients; 0 for none.
      frames_per_second: of training, if there is one.
      hits: independent unit (a person, an environment) -> (hits, cases) of the first column, if
        they are known.
      draws: values of the first column on resampled units (`benchmarks.resampling`), for a column
        that is not a share of hits; None if they are not known.
      num_units: of `draws`.
      origin: see `benchmarks.origin.describe_origin`; None if it was not recorded.
    """

    row: str
    family: str
    metrics: dict[str, float | None]
    parameters: int = 0
    frames_per_second: float | None = None
    hits: dict[str, tuple[float, int]] | None = None
    draws: list[float] | None = None
    num_units: int = 0
    origin: dict[str, Any] | None = None


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
    origins = {seed: row.origin for seed, row in measured if row.origin}
    rows = [_summarize_row(name, found, board) for name, found in by_row.items()]
    headline = next(name for name in board.headlines if by_row[name][0][1].family == "vae")
    _add_intervals(rows, headline)
    _add_drawn_intervals(rows, by_row, board, headline)
    return {
        "task": board.task,
        "protocol": board.protocol,
        "data": board.data,
        "command": command,
        "machines": sorted({describe_machine(origin) for origin in origins.values()}),
        "origins": origins,
        "unit": board.unit,
        "columns": list(board.columns),
        "lower_is_better": board.lower_is_better,
        "rows": rows,
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
        "parameters": first.parameters,
    }
    if all(m.hits for _, m in found):
        row["units"] = {
            unit: [float(np.mean([m.hits[unit][0] for _, m in found])), count]
            for unit, (_, count) in first.hits.items()
        }
    rates = [m.frames_per_second for _, m in found if m.frames_per_second is not None]
    if rates:
        row["frames_per_second"] = round(float(np.mean(rates)))
    return row


def _add_intervals(rows: Sequence[dict], headline: str) -> None:
    """Adds intervals over units to the rows that have them: of the share of hits, and of the gain.

    Hits are averaged over seeds first. The gain is that of the headline row over the row.
    """
    known = {row["row"]: np.array(list(row["units"].values())) for row in rows if "units" in row}
    best = next((row for row in rows if row["row"] == headline and "units" in row), None)
    for row in rows:
        if row["row"] not in known:
            continue
        hits_U, count_U = known[row["row"]].T
        units_U = np.arange(len(hits_U))
        interval = bootstrap_units(share_hits, (hits_U, count_U), units_U, seed=0)
        row["interval"] = {"low": interval[0], "high": interval[1], "num_units": len(hits_U)}
        if best is None or row is best:
            continue
        if list(row["units"]) != list(best["units"]):
            raise ValueError(f"{row['row']} and {headline} were not measured on the same units")
        gain_U = known[headline][:, 0] - hits_U
        low, high = bootstrap_units(share_hits, (gain_U, count_U), units_U, seed=0)
        row["headline_gain"] = {
            "mean": share_hits(gain_U, count_U),
            "low": low,
            "high": high,
            "p": permute_difference(gain_U, seed=0),
        }


def _add_drawn_intervals(rows: Sequence[dict], by_row, board: Board, headline: str) -> None:
    """Adds intervals over units to the rows that were measured on resampled units.

    The values of a resample are averaged over seeds first. The gain is that of the headline row.
    """
    column = board.columns[0]
    drawn = {
        name: np.mean([m.draws for _, m in found], axis=0)
        for name, found in by_row.items()
        if all(m.draws for _, m in found)
    }
    for row in rows:
        name = row["row"]
        if name not in drawn:
            continue
        first = by_row[name][0][1]
        low, high = find_interval(drawn[name])
        row["interval"] = {"low": low, "high": high, "num_units": first.num_units}
        if headline not in drawn or name == headline:
            continue
        if first.num_units != by_row[headline][0][1].num_units:
            raise ValueError(f"{name} and {headline} were not measured on the same units")
        gain_R = drawn[headline] - drawn[name]
        low, high = find_interval(gain_R)
        best = next(other for other in rows if other["row"] == headline)
        row["headline_gain"] = {
            "mean": best["metrics"][column]["mean"] - row["metrics"][column]["mean"],
            "low": low,
            "high": high,
            "p": find_p_value(gain_R),
        }


def count_hits(unit_V: Sequence[str], hit_V: Sequence[bool]) -> dict[str, tuple[float, int]]:
    """Returns unit -> (hits, cases), as `Measurement.hits`, in the order of the units' names."""
    total = Counter(unit_V)
    hits = Counter(unit for unit, hit in zip(unit_V, hit_V, strict=True) if hit)
    return {unit: (float(hits[unit]), total[unit]) for unit in sorted(total)}


def share_hits(hits_U: np.ndarray, count_U: np.ndarray) -> float:
    """Returns the share of hits among the cases of all units."""
    return float(hits_U.sum() / count_U.sum())


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
    write_result(path, _clean(content))


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
