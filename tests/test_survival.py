"""Trainings that are killed at observed events and started again end as if nothing had been."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiling import xla_flags
from tiny_vae import assert_equal
from watching import Watch

from vvae import build
from vvae.data.loader import train_batches
from vvae.run import is_run, open_run
from vvae.session.start import describe_state
from vvae.session.update import make_optimizer, make_schedule
from vvae.session.watch import Interrupts
from vvae.training.checkpoint import Checkpointer
from vvae.training.log import read_metrics

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS = 16
SETTINGS = f"""--data.height 8 --data.width 8 --data.num_frames 4 --model.widths 4 --model.hidden 8
    --model.latent_dim 2 --train.batch_size 4 --train.num_steps {NUM_STEPS} --train.log_every 1
    --train.validate_every 2 --evaluate.tasks density --evaluate.num_samples 2"""
TIMING = {"frames_per_second", "flop_utilization", "data_wait"}


ODD_NAMES = (
    "with space.npy",
    'it\'s "quoted".npy',
    "line\nbreak\ttab.npy",
    "größe 動画 🎬.npy",
    "=1+1.npy",
    "-rf.npy",
    "<b>&amp;.npy",
    "%s {0} $HOME `id`.npy",
    os.fsdecode(b"caf\xe9.npy"),  # no UTF-8
    "n" * 251 + ".npy",
    "d" * 250 + "/" + "e" * 250 + "/f.npy",
    "12.NPY",
)

LOOP = os.fsdecode(b"link\xff.npy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve small clips of noise with an edge that moves, with odd names, and a link to itself."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number, name in enumerate(ODD_NAMES):
        frames = rng.integers(0, 40, (8, 8, 8, 1), dtype=np.uint8)
        for t in range(8):
            frames[t, :, (number + t) % 8] = 220
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with open(folder / name, "wb") as file:
            np.save(file, frames)
    os.symlink(LOOP, folder / LOOP)
    return folder


class Training:
    """The commands of one run with a cache of its own."""

    printed = ""

    def __init__(self, folder, place):
        self.workdir, self.cache = place / "run", place / "cache"
        self.arguments = [str(ROOT / "configs" / "tiny.py"), *SETTINGS.split()]
        self.arguments += ["--data.path", str(folder), "--data.cache_dir", str(self.cache)]
        self.arguments += ["--data.workers", "1", "--workdir", str(self.workdir)]

    def start(self, *more):
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *self.arguments, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"XLA_FLAGS": xla_flags()},
        )

    def finish(self, *more):
        process = self.start(*more)
        self.printed = process.communicate()[0]
        assert process.returncode == 0, self.printed

    def send_when(self, folder, event, number):
        """Starts the training, sends a signal when a name appears or changes in a folder that
        `event` holds for; returns the process."""
        folder.mkdir(parents=True, exist_ok=True)
        with Watch(folder) as watch:
            process = self.start()
            for name in watch.names(is_alive=lambda: process.poll() is None):
                if event(name):
                    process.send_signal(number)
                    return process
        raise AssertionError(f"ended without the event: {process.communicate()[0]}")

    def kill_when(self, folder, event):
        process = self.send_when(folder, event, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    def count_lines(self):
        path = self.workdir / "metrics.jsonl"
        return len(read_metrics(path)) if path.exists() else 0

    def has_lines(self, count):
        """Returns the event that metrics.jsonl has so many lines."""
        return lambda name: name == "metrics.jsonl" and self.count_lines() >= count

    def is_saving_again(self, name):
        """Whether a checkpoint is begun where there is one already."""
        others = os.listdir(self.workdir / "checkpoints")
        return "tmp" in name and any("tmp" not in other for other in others)

    def read_result(self):
        """The whole state with the loader's position, and the lines without what they took."""
        run = open_run(self.workdir)
        model = build.build_model(run.config)
        tx = make_optimizer(model, run.config, make_schedule(run.config.optim, run.num_steps))
        with Checkpointer(run.checkpoints, read_only=True) as checkpointer:
            abstract_state = describe_state(model, tx, run.config)
            restored = checkpointer.restore("latest", abstract_state)
        rows = [
            {name: value for name, value in row.items() if name not in TIMING}
            for row in read_metrics(run.metrics)
        ]
        return restored, rows


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    training = Training(folder, tmp_path_factory.mktemp("uninterrupted"))
    training.finish()
    return training


def assert_same_results(training, other):
    (restored, rows), (expected, expected_rows) = training.read_result(), other.read_result()
    assert restored.step == expected.step == restored.extra["next_step"] == NUM_STEPS
    assert restored.extra == expected.extra
    assert_equal(restored.state, expected.state)  # parameters, optimizer, average, statistics, step
    kinds = [(row["kind"], row["step"]) for row in expected_rows]
    assert len(kinds) == len(set(kinds)) == NUM_STEPS + NUM_STEPS // 2
    assert rows == expected_rows


def test_odd_names_are_read_and_what_cannot_be_read_is_named(uninterrupted):
    record = open_run(uninterrupted.workdir).record["data"]
    assert record["num_videos"] == {"train": 10, "val": 1, "test": 1}
    assert list(record["broken"]) == [LOOP]
    assert r"link\udcff.npy: Too many levels of symbolic links" in uninterrupted.printed
    assert (uninterrupted.workdir / "report.html").stat().st_size > 0


def test_killed_three_times_and_started_again_it_ends_the_same(uninterrupted, folder, tmp_path):
    training = Training(folder, tmp_path)
    training.kill_when(training.cache, lambda name: name.endswith(".tmp"))
    assert not is_run(training.workdir)
    training.kill_when(training.workdir / "checkpoints", training.is_saving_again)
    known = training.count_lines()
    assert 3 <= known < NUM_STEPS
    training.kill_when(training.workdir, training.has_lines(known + 2))
    training.finish()
    assert_same_results(training, uninterrupted)


def test_sigterm_saves_and_says_to_run_it_again(uninterrupted, folder, tmp_path):
    training = Training(folder, tmp_path)
    shutil.copytree(uninterrupted.cache, training.cache)
    process = training.send_when(training.workdir, training.has_lines(1), signal.SIGTERM)
    printed = process.communicate()[0]
    assert process.returncode == 75, printed
    assert f"go on: python train.py --workdir {training.workdir}" in printed
    restored, rows = training.read_result()
    assert restored.step == restored.extra["next_step"] == max(row["step"] for row in rows)
    assert 1 <= restored.step < NUM_STEPS


def test_sigterm_before_anything_can_be_saved_says_to_run_it_again():
    code = (
        "import os, signal\n"
        "from vvae import cli\n"
        "cli.run_main(lambda arguments: os.kill(os.getpid(), signal.SIGTERM) or 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 75


def test_a_second_signal_ends_at_once():
    code = (
        "import os, signal\n"
        "from vvae.session.watch import Ending, Interrupts\n"
        "with Interrupts() as interrupts:\n"
        "    assert not interrupts.requested\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert interrupts.requested and interrupts.ending is Ending.PREEMPTED\n"
        "print('stopping', flush=True)\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "finally:\n"
        "    print('never', flush=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == -signal.SIGINT, result.stderr
    assert result.stdout == "stopping\n"


def test_without_a_signal_the_handlers_are_those_from_before():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        assert not interrupts.requested
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_steps_that_are_not_finite_are_skipped_counted_and_named(folder, tmp_path):
    """So large a rate makes every loss after the first step infinite."""
    training = Training(folder, tmp_path)
    rate = "--optim.learning_rate 1e30 --optim.warmup 0 --train.validate_every 1"
    process = training.start(*rate.split(), "--train.skip_nonfinite", "3")
    printed = process.communicate()[0]
    assert process.returncode == 3, printed
    (restored, rows), run = training.read_result(), open_run(training.workdir)
    # The parameters of the first step are kept, and the steps go on.
    assert restored.step == restored.extra["next_step"] == 4
    with Checkpointer(run.checkpoints, read_only=True) as checkpointer:
        assert checkpointer.steps[-2:] == (3, 4)
        assert_equal(checkpointer.restore_variables(3), checkpointer.restore_variables(4))
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1]
    assert [row["step"] for row in rows if row["kind"] == "skipped"] == [2, 3, 4]
    [line] = [line for line in printed.splitlines() if line.startswith("error: step 5: the loss")]
    clips = build.open_data(run.config, folder).splits["train"]
    batches = train_batches(clips, 4, run.config.train.seed, start_step=4)
    _, batch = next(batches)
    batches.close()
    named = [
        f"{clips.videos[clips.video_index_N[n]].name} from frame {clips.frame_NT[n, 0]}"
        for n in sorted(batch["index"])
    ]
    # Standard error writes what no encoding knows, as of odd file names, with backslashes.
    told = ", ".join(named).encode("utf-8", "backslashreplace").decode("utf-8")
    assert f"clips of the batch: {told}; the last finite step was 1: elbo" in line
