"""Does a long training grow? Memory, open files, threads and steps per second of a real train.py.

    python -m benchmarks.soak [--steps 20000]

Trains configs/tiny.py on noise with a validation and a checkpoint every hundredth of the way, and
looks at the process (/proc, so Linux) whenever metrics.jsonl has new lines. Prints the medians of
the second and of the last quarter of the way and the growth between them; the first quarter is
warm-up, the evaluation at the end is not looked at. Writes benchmarks/results/soak.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.results import RESULTS
from vvae.training.log import read_metrics

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 0.2
UNITS = {"memory": "MB", "open_files": "", "threads": "", "steps_per_second": "1/s"}


def main() -> None:
    """Trains, looks on, prints what has grown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    steps = parser.parse_args().steps
    if steps < 400:
        parser.error(f"--steps {steps}: needs at least 400 for the medians to mean anything")
    with tempfile.TemporaryDirectory() as folder:
        samples = _watch_training(Path(folder), steps)
    rows = compare_quarters(samples, steps)
    for name, row in rows.items():
        print(
            f"{name:17} {row['second_quarter']:10.4g} -> {row['last_quarter']:10.4g} "
            f"{UNITS[name]:4} {row['growth']:+.2%}"
        )
    content = {"command": f"python -m benchmarks.soak --steps {steps}", "cores": os.cpu_count()}
    content |= {"steps": steps, "samples": len(samples), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "soak.json").write_text(json.dumps(content, indent=2) + "\n")


def compare_quarters(samples: list[dict[str, float]], steps: int) -> dict[str, dict[str, float]]:
    """Returns medians of the second and the last quarter of the steps, and the growth.

    Args:
      samples: in order: "step", "time" in s, "memory" in MB, "open_files", "threads".
      steps: of the whole training.
    """
    quarters = []
    for first, last in ((0.25, 0.5), (0.75, 1.0)):
        inside = [s for s in samples if first * steps <= s["step"] <= last * steps]
        names = ("memory", "open_files", "threads")
        medians = {name: statistics.median(s[name] for s in inside) for name in names}
        span = inside[-1]["time"] - inside[0]["time"]
        medians["steps_per_second"] = (inside[-1]["step"] - inside[0]["step"]) / span
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
    return {
        "memory": int(status["VmRSS"].split()[0]) / 1e3,
        "open_files": len(os.listdir(process / "fd")),
        "threads": int(status["Threads"]),
    }


def _tail(folder: Path) -> str:
    return (folder / "printed").read_text()[-2000:]


if __name__ == "__main__":
    main()
