"""Runs train.py and evaluate.py as a user would, and reads what they wrote."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import Request

ROOT = Path(__file__).resolve().parents[2]
# The run of the tables on the performers; the network of configs/default.py is narrower, for speed.
PERFORMERS_RUN = ("--model.widths", "32", "64", "128", "--evaluate.tasks", "density")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run: its directory, its size, and the speed of its training."""

    workdir: Path
    parameters: int
    frames_per_second: float | None

    def read_task(self, task: str) -> dict:
        """Returns what a task of evaluate.py wrote."""
        return json.loads((self.workdir / "eval" / f"{task}.json").read_text())


def train(request: Request, name: str, arguments: Sequence[str]) -> Trained:
    """Trains and evaluates by `python train.py ARGUMENTS`, unless it is done already.

    Raises:
      RuntimeError: if the program fails; the end of what it said.
    """
    workdir = request.folder / f"{name}-{request.seed}"
    command = [*arguments, "--train.seed", str(request.seed), "--workdir", str(workdir)]
    if request.data_path is not None:
        command += ["--data.path", request.data_path]
    if request.num_steps is not None:
        steps = str(request.num_steps)
        command += ["--train.num_steps", steps, "--train.validate_every", steps]
    _run([str(ROOT / "train.py"), *command])
    return Trained(workdir, _count_parameters(workdir), _read_rate(workdir))


def evaluate(run: Trained, tasks: Sequence[str], arguments: Sequence[str] = ()) -> None:
    """Runs tasks of evaluate.py on a run."""
    command = [*tasks, "--workdir", str(run.workdir), *arguments]
    _run([str(ROOT / "evaluate.py"), *command])


def _run(command: Sequence[str]) -> None:
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")


def _count_parameters(workdir: Path) -> int:
    import jax

    from vvae import build

    _, variables = build.load(workdir)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def _read_rate(workdir: Path) -> float | None:
    """Frames a second of the last steps that were logged; None if none was."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line).get("frames_per_second") for line in lines]
    rates = [rate for rate in rates if rate]
    return rates[-1] if rates else None
