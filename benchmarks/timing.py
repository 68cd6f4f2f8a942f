"""Times steps of several programs in one process, in turn."""

import argparse
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.origin import describe_command, stamp, write_result


def make_parser(description: str) -> argparse.ArgumentParser:
    """Returns the command line of a program that times steps: repeats, threads, json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=9, help="runs of each step (default 9)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def write_results(path: Path | None, results: list[dict]) -> None:
    """Writes figures as JSON, with their command and origin, if there is a path."""
    if path is None:
        return
    write_result(path, stamp({"results": results}, describe_command()))


def pin(num_cores: int) -> list[str]:
    """Returns the words before a command that keep it on so many cores (Linux)."""
    cores = sorted(os.sched_getaffinity(0))[:num_cores]
    return ["taskset", "-c", ",".join(map(str, cores))]


def read_peak_mb() -> float:
    """Returns the peak of this process's resident memory in MB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e3


@dataclass(frozen=True)
class Timing:
    """Median seconds of a step: wall time, and processor time over all threads."""

    wall_s: float
    cpu_s: float


def measure(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, Timing]:
    """Times each step; each repeat runs all of them in turn."""
    for run in steps.values():
        run()
    timings: dict[str, list[Timing]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, run in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            timings[name].append(Timing(time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Timing(median(t.wall_s for t in times), median(t.cpu_s for t in times))
        for name, times in timings.items()
    }


def find_peer(timings: dict[str, Timing]) -> Timing:
    """Returns the timing of the faster memory layout of eager PyTorch."""
    eager = [timing for name, timing in timings.items() if name.startswith("PyTorch")]
    return min(eager, key=lambda timing: timing.wall_s)
