"""Two train.py of two devices are one run: like one process of four, killed and continued."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiling import xla_flags
from watching import Watch

from vvae import processes
from vvae.training.checkpoint import Checkpointer
from vvae.training.log import read_metrics

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS = 12
SETTINGS = f"""--data.height 8 --data.width 8 --data.num_frames 4 --data.workers 1
    --model.widths 4 --model.hidden 8 --model.latent_dim 2 --model.clip_latent_dim 1
    --model.prior standard --model.linear false --train.batch_size 8
    --train.num_steps {NUM_STEPS} --train.log_every 1 --train.validate_every 6
    --evaluate.num_samples 2 --evaluate.tasks density features"""
TIMING = {"frames_per_second", "flop_utilization", "data_wait"}
TIMEOUT = 30
# The longest time a survivor may take to end; a hang would take longer.
HANGS = 6 * TIMEOUT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes twenty videos of noise with a moving edge: 11 frames, so that some clips are padded,
    and 23 training clips, which no batch divides."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number in range(20):
        frames = rng.integers(0, 40, (11, 8, 8, 1), dtype=np.uint8)
        for t in range(11):
            frames[t, :, (number + t) % 8] = 220
        np.save(folder / f"{number:02}.npy", frames)
    return folder


def find_free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(program, *arguments, num_devices):
    return subprocess.Popen(
        [sys.executable, str(ROOT / program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": xla_flags(num_devices)},
    )


def start_two(program, *arguments, others=()):
    """Starts two processes of one run; `others` are arguments of the second one alone."""
    shared = ["--parallel.coordinator", f"127.0.0.1:{find_free_port()}"]
    shared += ["--parallel.num_processes", 2, "--parallel.timeout", TIMEOUT]
    first = start(program, *arguments, *shared, "--parallel.process_id", 0, num_devices=2)
    second = [*arguments, *shared, *others, "--parallel.process_id", 1]
    return [first, start(program, *second, num_devices=2)]


def finish(started, status=0):
    """Waits for processes that must end with this status; returns what they printed."""
    printed = [process.communicate(timeout=300) for process in started]
    for process, (_, errors) in zip(started, printed):
        assert process.returncode == status, errors
    return printed


class Run:
    """The commands of one run with a cache of its own."""

    def __init__(self, folder, place):
        self.workdir = place / "run"
        self.arguments = [ROOT / "configs" / "tiny.py", *SETTINGS.split(), "--data.path", folder]
        self.arguments += ["--data.cache_dir", place / "cache", "--workdir", self.workdir]

    def start_two(self, others=()):
        return start_two("train.py", *self.arguments, others=others)

    def start_one(self):
        return [start("train.py", *self.arguments, num_devices=4)]

    def send_at(self, num_lines, begin, victim, number):
        """Starts processes; sends a signal to one of them when the log has `num_lines` lines."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        with Watch(self.workdir) as watch:
            started = begin()
            for name in watch.names(is_alive=lambda: started[0].poll() is None):
                if name == "metrics.jsonl" and len(self.read_lines()) >= num_lines:
                    started[victim].send_signal(number)
                    return started
        raise AssertionError(f"ended without the event: {started[0].communicate()}")

    def kill_one(self, victim):
        """Kills one of two processes after two steps; the other one must end by itself."""
        num_lines = len(self.read_lines()) + 2
        started = self.send_at(num_lines, self.start_two, victim, signal.SIGKILL)
        assert started[victim].wait() == -signal.SIGKILL
        survivor = started[1 - victim]
        _, errors = survivor.communicate(timeout=HANGS)
        assert survivor.returncode not in (0, 75), errors

    def read_lines(self):
        """Returns the lines of the log by kind and step, without timings."""
        path = self.workdir / "metrics.jsonl"
        rows = read_metrics(path) if path.exists() else []
        return {
            (row["kind"], row["step"]): {k: v for k, v in row.items() if k not in TIMING}
            for row in rows
        }

    def read_files(self):
        """Returns the digests of the whole state, and all files that the evaluation has written."""
        with Checkpointer(self.workdir / "checkpoints", read_only=True) as checkpointer:
            latest = self.workdir / "checkpoints" / f"step_{checkpointer.latest_step:08d}"
        record = json.loads((latest / "record" / "metadata").read_text())
        names = ("density.json", "features/features.npz", "features/index.parquet")
        return record, {name: (self.workdir / "eval" / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    run = Run(folder, tmp_path_factory.mktemp("two"))
    run.printed = finish(run.start_two())
    return run


def assert_trained_alike(lines, expected):
    """Checks losses, gradients and everything else that a step has reported."""
    lines = {key: row for key, row in lines.items() if key[0] == "train"}
    assert len(lines) == NUM_STEPS
    for key, row in lines.items():
        for name in row.keys() - {"kind"}:
            np.testing.assert_allclose(row[name], expected[key][name], rtol=1e-5, err_msg=name)


def test_only_the_first_process_writes(uninterrupted):
    path = uninterrupted.workdir / "metrics.jsonl"
    assert len(read_metrics(path)) == len(uninterrupted.read_lines()) == NUM_STEPS + NUM_STEPS // 6
    record = json.loads((uninterrupted.workdir / "config.json").read_text())
    assert len(record["history"]) == 1
    assert (record["device"]["count"], record["device"]["processes"]) == (4, 2)
    (said, _), (said_by_other, _) = uninterrupted.printed
    assert "report.html" in said
    # Gloo prints from several threads at once, which mixes parts of its lines.
    pieces = r"\[Gloo\] Rank|is connected to|Expected number of connected|peer ranks( is :|\.)|\d+"
    said_by_other = re.sub(pieces, "", said_by_other)
    assert said_by_other.strip() == ""


def test_evaluation_is_the_same_bit_by_bit_for_one_process_and_for_two(uninterrupted, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(uninterrupted.workdir, copy)
    shutil.rmtree(copy / "eval")
    finish([start("evaluate.py", "density", "features", "--workdir", copy, num_devices=2)])
    files = [path.relative_to(copy) for path in (copy / "eval").rglob("*.*")]
    assert len(files) >= 7
    for file in files:
        assert (copy / file).read_bytes() == (uninterrupted.workdir / file).read_bytes(), file


def test_stopped_killed_and_continued_by_as_many_or_by_one(uninterrupted, folder, tmp_path):
    """A signal to one process stops both at the same step; a kill of one ends the other."""
    run, expected = Run(folder, tmp_path), uninterrupted.read_lines()
    printed = finish(run.send_at(1, run.start_two, victim=1, number=signal.SIGTERM), status=75)
    assert f"go on: python train.py --workdir {run.workdir}" in printed[0][0]
    stop = max(step for _, step in run.read_lines())
    assert 1 <= stop < NUM_STEPS
    alone = Run(folder, tmp_path / "alone")
    shutil.copytree(run.workdir, alone.workdir)

    run.kill_one(victim=1)
    assert len(run.read_lines()) < len(expected)

    finish(run.start_two())
    lines = run.read_lines()
    assert lines.pop(("validation", stop))  # the stop added it, if it was not due
    assert lines == {key: row for key, row in expected.items() if key != ("validation", stop)}
    assert run.read_files() == uninterrupted.read_files()

    # One process of four devices continues from the same checkpoint: losses and gradients.
    finish(alone.start_one())
    assert_trained_alike(alone.read_lines(), expected)


def test_begun_by_one_process_and_continued_by_two(uninterrupted, folder, tmp_path):
    """Killing the first of two processes, to which the other is connected, ends both as well."""
    run = Run(folder, tmp_path)
    finish(run.send_at(1, run.start_one, victim=0, number=signal.SIGTERM), status=75)
    assert 1 <= max(step for _, step in run.read_lines()) < NUM_STEPS
    run.kill_one(victim=0)
    finish(run.start_two())
    assert_trained_alike(run.read_lines(), uninterrupted.read_lines())


def test_an_error_of_one_process_ends_all_with_its_message(folder, tmp_path):
    run = Run(folder, tmp_path)
    nowhere = tmp_path / "nowhere"
    started = run.start_two(others=["--data.path", nowhere])
    (_, first), (_, second) = finish(started, status=2)
    assert f"error: process 1: no such folder: {nowhere}" in first
    assert f"error: no such folder: {nowhere}" in second
    assert not (run.workdir / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--parallel.num_processes 2", "num_processes needs --parallel.coordinator"),
        ("--parallel.coordinator a:1 --workdir r", "needs --parallel.num_processes and"),
        ("--parallel.coordinator here --workdir r", "must be HOST:PORT of the first process"),
        ("--parallel.coordinator a:\u00b2 --workdir r", "must be HOST:PORT of the first process"),
        (
            "--parallel.coordinator a:1 --parallel.num_processes 2 --parallel.process-id 2 "
            "--workdir r",
            "--parallel.process_id=2: must be from 0 to 1",
        ),
        ("--parallel.coordinator auto", "several processes need the same run directory"),
        ("--parallel.coordinator auto --parallel.timeout 0 --workdir r", "at least 1 second"),
        ("--parallel.coordinater auto", "did you mean --parallel.coordinator?"),
    ],
)
def test_invalid_options_are_refused(arguments, message):
    import train

    with pytest.raises(ValueError, match=message):
        train.read_request(arguments.split())


def test_without_options_there_is_one_process():
    import train

    assert train.read_request(["--parallel.kind", "mesh"]).group is None
    tree = {"a": np.arange(3), "b": np.float64(0.1), "c": np.ones((2, 0), bool)}
    gathered = processes.gather(tree)
    assert all(gathered[name].shape == (1, *np.shape(tree[name])) for name in tree)
    assert processes.share(tree) is tree
    with pytest.raises(FileNotFoundError):
        processes.do_together(os.stat, "/no/such/file")
