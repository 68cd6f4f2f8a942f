"""Soak tests of the real train.py: does a long training grow, and does it survive being killed?

    python -m benchmarks.soak [--steps 20000]
    python -m benchmarks.soak --kills 100 [--at_once 2]

The first trains configs/tiny.py on noise, with a validation and a checkpoint after every hundredth
of the steps, and inspects the process (/proc, so Linux) whenever metrics.jsonl has new lines:
memory, open files, threads, steps per second, and the processor time per step, which depends less
on other programs. Prints the medians of the second and of the last quarter of the steps and the
growth between them; the first quarter is warm-up, and the final evaluation is not measured.

The second trains a smaller network once without a kill, then repeatedly: each training is killed
(SIGKILL) at random moments and restarted until it is finished. It compares the SHA-256 of every
array of the last checkpoint, every line of metrics.jsonl without its timings, and the evaluation.

Both write their part of benchmarks/results/soak.json.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.origin import RESULTS, stamp, write_result
from vvae.training.log import read_metrics

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 0.2
UNITS = {"memory": "MB", "steps_per_second": "1/s", "processor_ms_per_step": "ms"}


def main() -> int:
    """Runs one of the two. Returns the exit status: 1 if a killed run differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--kills", type=int, help="kill trainings so many times instead")
    parser.add_argument("--at_once", type=int, default=2, help="trainings beside each other")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.kills is not None:
            return _report_kills(kill_trainings(Path(folder), options.kills, options.at_once))
        if options.steps < 400:
            parser.error(f"--steps {options.steps}: needs 400 for the medians to mean anything")
        _report_growth(_watch_training(Path(folder), options.steps), options.steps)
    return 0


def _report_growth(samples: list[dict[str, float]], steps: int) -> None:
    rows = compare_quarters(samples, steps)
    for name, row in rows.items():
        print(
            f"{name:21} {row['second_quarter']:10.4g} -> {row['last_quarter']:10.4g} "
            f"{UNITS.get(name, ''):4} {row['growth']:+.2%}"
        )
    every = max(1, len(samples) // 40)
    course = [[sample["step"], round(sample["memory"])] for sample in samples[::every]]
    content = {"steps": steps, "samples": len(samples), "rows": rows, "memory_by_step": course}
    _store(stamp(content, f"python -m benchmarks.soak --steps {steps}"))


def _store(part: dict) -> None:
    """Merges the new measurements into the file."""
    path = RESULTS / "soak.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    write_result(path, known | part)


def compare_quarters(samples: list[dict[str, float]], steps: int) -> dict[str, dict[str, float]]:
    """Returns medians of the second and the last quarter of the steps, and the growth.

    Args:
      samples: in order: "step", "time" in s, "memory" in MB, "open_files", "threads", and
        "processor" in s, since the start.
      steps: of the whole training.
    """
    quarters = []
    for first, last in ((0.25, 0.5), (0.75, 1.0)):
        inside = [s for s in samples if first * steps <= s["step"] <= last * steps]
        names = ("memory", "open_files", "threads")
        medians = {name: statistics.median(s[name] for s in inside) for name in names}
        begin, end = inside[0], inside[-1]
        done, seconds, busy = (end[name] - begin[name] for name in ("step", "time", "processor"))
        medians["steps_per_second"] = done / seconds
        medians["processor_ms_per_step"] = 1e3 * busy / done
        quarters.append(medians)
    second, last = quarters
    return {
        name: {
            "second_quarter": second[name],
            "last_quarter": last[name],
            "growth": last[name] / second[name] - 1,
        }
        for name in second
    }


def _watch_training(folder: Path, steps: int) -> list[dict[str, float]]:
    workdir = folder / "run"
    command = [sys.executable, str(ROOT / "train.py"), str(ROOT / "configs" / "tiny.py")]
    command += ["--data.path", str(_write_videos(folder / "videos")), "--workdir", str(workdir)]
    command += ["--data.cache_dir", str(folder / "cache"), "--evaluate.tasks", "density"]
    command += ["--train.num_steps", str(steps), "--train.log_every", str(max(1, steps // 1000))]
    command += ["--train.validate_every", str(max(1, steps // 100))]
    with open(folder / "printed", "w") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        samples, step = [], 0
        while process.poll() is None:
            time.sleep(SECONDS)
            known = _find_step(workdir / "metrics.jsonl")
            if step < known < steps:
                step = known
                samples.append({"step": step, "time": time.monotonic()} | _look_at(process.pid))
    if process.returncode:
        raise RuntimeError(f"train.py ended with {process.returncode}:\n{_tail(folder)}")
    return samples


def _write_videos(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        np.save(folder / f"{number}.npy", rng.integers(0, 256, (32, 16, 16, 1), dtype=np.uint8))
    return folder


def _find_step(metrics: Path) -> int:
    rows = read_metrics(metrics) if metrics.exists() else []
    return rows[-1]["step"] if rows else 0


def _look_at(pid: int) -> dict[str, float]:
    process = Path("/proc") / str(pid)
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    # The program's name, in brackets, may hold spaces; user and system time are fields 14 and 15.
    times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    return {
        "processor": sum(map(int, times)) / os.sysconf("SC_CLK_TCK"),
        "memory": int(status["VmRSS"].split()[0]) / 1e3,
        "open_files": len(os.listdir(process / "fd")),
        "threads": int(status["Threads"]),
    }


def _tail(folder: Path) -> str:
    return (folder / "printed").read_text()[-2000:]


# --- kills ----------------------------------------------------------------------------------------

KILL_STEPS = 200
KILL_SETTINGS = f"""--data.height 8 --data.width 8 --data.num_frames 4 --data.workers 1
    --model.widths 4 --model.hidden 8 --model.latent_dim 2 --model.clip_latent_dim 1
    --model.prior standard --model.linear false --train.batch_size 4
    --train.num_steps {KILL_STEPS} --train.log_every 1 --train.validate_every 10
    --evaluate.tasks density --evaluate.num_samples 2"""
TIMING = ("frames_per_second", "flop_utilization", "data_wait")


def kill_trainings(folder: Path, num_kills: int, at_once: int) -> dict:
    """Kills trainings, and returns the outcome.

    Args:
      folder: an empty one.
      num_kills: over all trainings, each of which finishes after the kill that completes the
        number.
      at_once: number of concurrent trainings.
    """
    videos = _write_videos(folder / "videos")
    started = time.monotonic()
    if _start(folder / "whole", videos).wait():
        raise RuntimeError(f"train.py failed:\n{_tail(folder / 'whole')}")
    expected = _read_result(folder / "whole" / "run")
    killer = _Killer(num_kills, time.monotonic() - started)
    with ThreadPoolExecutor(at_once) as threads:
        tasks = [
            threads.submit(_train_killed, folder / f"run{n}", videos, killer, expected)
            for n in range(at_once)
        ]
        runs = [run for task in tasks for run in task.result()]
    steps = sorted(step for run in runs for step in run["killed_at_steps"])
    return {
        "kills": num_kills,
        "trainings": len(runs),
        "identical": sum(run["identical"] for run in runs),
        "killed_before_the_first_step": steps.count(0),
        "killed_at_steps": steps,
        "steps": KILL_STEPS,
    }


def _report_kills(found: dict) -> int:
    print(
        f"{found['kills']} kills in {found['trainings']} trainings of {found['steps']} steps: "
        f"{found['identical']} ended as the one without a kill"
    )
    command = f"python -m benchmarks.soak --kills {found['kills']}"
    _store({"killed": stamp(found, command)})
    return found["identical"] != found["trainings"]


class _Killer:
    """Decides when to kill: a given number of times, at moments uniform over a whole run."""

    def __init__(self, num_kills: int, seconds: float):
        self._left, self._seconds = num_kills, seconds
        self._lock = threading.Lock()
        self._random = np.random.default_rng(0)

    def draw(self) -> float | None:
        """Returns the seconds until the kill of the next start; None if all kills are done."""
        with self._lock:
            if self._left == 0:
                return None
            self._left -= 1
            return self._random.uniform(0, self._seconds)

    def give_back(self) -> None:
        """Reports that the last kill came too late: the training had finished."""
        with self._lock:
            self._left += 1


def _train_killed(folder: Path, videos: Path, killer: _Killer, expected: dict) -> list[dict]:
    """Trains from start to finish until no kill is left; each training is killed."""
    runs = []
    for number in itertools.count():
        place, steps = folder.with_name(f"{folder.name}_{number}"), []
        while (seconds := killer.draw()) is not None:
            process = _start(place, videos)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
            if process.wait() == 0:
                killer.give_back()
                break
            if process.returncode != -signal.SIGKILL:
                raise RuntimeError(f"ended with {process.returncode}:\n{_tail(place)}")
            steps.append(_find_step(place / "run" / "metrics.jsonl"))
        if seconds is None and not steps:
            return runs
        if seconds is None and _start(place, videos).wait():
            raise RuntimeError(f"did not go on:\n{_tail(place)}")
        identical = _read_result(place / "run") == expected
        runs.append({"identical": identical, "killed_at_steps": steps})
        print(f"{'identical' if identical else 'DIFFERS'}: killed at steps {steps}", flush=True)


def _start(place: Path, videos: Path) -> subprocess.Popen:
    place.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "train.py"), str(ROOT / "configs" / "tiny.py")]
    command += [*KILL_SETTINGS.split(), "--data.path", str(videos), "--workdir", str(place / "run")]
    command += ["--data.cache_dir", str(place / "cache")]
    with open(place / "printed", "w") as printed:
        return subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)


def _read_result(workdir: Path) -> dict:
    """Returns the result of a finished training."""
    latest = max((workdir / "checkpoints").glob("step_*"))
    record = json.loads((latest / "record" / "metadata").read_text())
    rows = [
        {name: value for name, value in row.items() if name not in TIMING}
        for row in read_metrics(workdir / "metrics.jsonl")
    ]
    density = (workdir / "eval" / "density.json").read_text()
    return {"step": latest.name, "record": record, "rows": rows, "density": density}


if __name__ == "__main__":
    sys.exit(main())
