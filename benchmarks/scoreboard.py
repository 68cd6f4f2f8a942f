"""Measures a task's rows over seeds, writes benchmarks/results/TASK.json and the docs' tables.

    python -m benchmarks.scoreboard TASK [--data.path FOLDER] [--seeds 5]
    python -m benchmarks.scoreboard tables

TASK is ped2, gestures, performers, moderation, clusters, shots or digits; ped2, gestures and digits
(MNIST's t10k) need the folder of the data.
Rows are measured by the commands that a user types, seed by seed. A task that was stopped continues
where it was if it is started again with the same --folder. `tables` writes the tables of
README and docs/results from the existing files.
"""

import argparse
import dataclasses
import importlib
import json
import sys
import time
from pathlib import Path

from benchmarks.origin import RESULTS, describe_origin
from benchmarks.results import Measurement, Request, summarize, write_board
from benchmarks.tables import write_all

TASKS = ("ped2", "gestures", "performers", "moderation", "clusters", "shots", "digits")
NEED_DATA = ("ped2", "gestures", "digits")


def main(arguments: list[str]) -> int:
    """Reads the command line and measures. Returns the exit status."""
    options = _read_options(arguments)
    if options.task != "tables":
        measure_task(options)
    if options.out == RESULTS:
        print(f"tables: {', '.join(write_all(RESULTS)) or 'none'}")
    return 0


def _read_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=(*TASKS, "tables"))
    parser.add_argument("--data.path", dest="data_path", help="folder of the data")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (5)")
    parser.add_argument("--steps", type=int, help="training steps, to try it out; needs --out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs") / "scoreboard", help="for run directories"
    )
    options = parser.parse_args(arguments)
    if options.task in NEED_DATA and options.data_path is None:
        parser.error(f"{options.task} needs --data.path FOLDER")
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds}: must be at least 1")
    if options.steps is not None and options.out == RESULTS:
        parser.error("figures of a trial are not for the docs: give --out with --steps")
    return options


def measure_task(options: argparse.Namespace) -> dict:
    """Measures all seeds of a task, writes its file and returns it."""
    module = importlib.import_module(f"benchmarks.boards.{options.task}")
    options.folder.mkdir(parents=True, exist_ok=True)
    start, measured = time.perf_counter(), []
    for seed in range(options.seeds):
        rows = _measure_seed(module, options, seed)
        measured += [(seed, row) for row in rows]
        minutes = (time.perf_counter() - start) / 60
        headline = next(row for row in rows if row.row == module.BOARD.headlines[0])
        values = ", ".join(f"{k} {headline.metrics[k]:.3f}" for k in module.BOARD.columns[:3])
        print(
            f"{options.task}: seed {seed}: {headline.row}: {values} ({minutes:.1f} min)", flush=True
        )
    data = "" if options.data_path is None else f" --data.path {options.task.upper()}"
    command = f"python -m benchmarks.scoreboard {options.task}{data} --seeds {options.seeds}"
    content = summarize(module.BOARD, measured, command)
    write_board(options.out / f"{options.task}.json", content)
    print(f"{options.out / options.task}.json")
    return content


def _measure_seed(module, options: argparse.Namespace, seed: int) -> list[Measurement]:
    """Measures a seed, or reads the measurements of an earlier start."""
    known = options.folder / f"{options.task}-{seed}.json"
    if known.is_file():
        return [Measurement(**row) for row in json.loads(known.read_text())]
    request = Request(options.data_path, seed, options.folder, options.steps)
    rows = module.measure(request)
    origin = describe_origin()
    rows = [dataclasses.replace(row, origin=origin) for row in rows]
    known.write_text(json.dumps([dataclasses.asdict(row) for row in rows]))
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
