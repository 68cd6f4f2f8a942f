"""The trace of some steps, the speed in the log, and out-of-memory errors."""

import gzip
import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vvae.config import Train
from vvae.session.start import count_steps
from vvae.session.watch import Report, _describe_speed, _describe_values, explain_memory
from vvae.training.log import Progress
from vvae.training.parallel import Lookahead
from vvae.training.profile import StepProfile


def read_steps(folder):
    """Returns the numbers of the steps in a trace as Perfetto reads it."""
    (path,) = folder.rglob("*.trace.json.gz")
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    return [int(e["args"]["step_num"]) for e in events if e.get("name") == "train"]


@pytest.mark.parametrize(
    ("steps", "done", "traced"),
    [((3, 4), 6, [3, 4]), ((1, 1), 2, [1]), ((2, 9), 4, [2, 3, 4]), (None, 4, [])],
)
def test_a_profile_holds_the_steps_that_were_asked_for(steps, done, traced, tmp_path):
    """Even if the loop ends before the last of them."""
    compute = jax.jit(lambda x: x @ x)
    written = []
    profile = StepProfile(steps, tmp_path)
    for step in range(1, done + 1):
        with profile.step(step):
            compute(np.eye(4, dtype=np.float32)).block_until_ready()
        if profile.is_due(step):
            written.append((step, profile.write()))
    profile.close()
    assert written == ([(steps[1], tmp_path)] if steps and steps[1] <= done else [])
    assert bool(list(tmp_path.rglob("*.xplane.pb"))) == bool(traced)
    assert not traced or read_steps(tmp_path) == traced


def test_a_profile_beyond_the_training_is_refused():
    train = Train(num_steps=10, profile="9:11")
    with pytest.raises(ValueError, match=r"train.profile='9:11': the training has 10 steps"):
        count_steps(train, num_clips=0)
    assert count_steps(Train(num_steps=11, profile="9:11"), num_clips=0) == 11


def make_report():
    """Returns a report of which only the clock is used."""
    report = Report.__new__(Report)
    report._progress = Progress(0, 10, disable=True)
    report._progress.advance("", "")
    return report


def test_only_time_in_which_no_step_runs_is_waiting():
    """A long computation still runs when the first batch is ready, but not when the second is."""
    multiply = jax.jit(lambda a: jax.lax.fori_loop(0, 200, lambda _, b: a @ b, a))
    report = make_report()
    metrics = {"loss": multiply(jnp.full((512, 512), 1 / 512))}
    batches = Lookahead(iter([5, 6, 7]))
    report._fetch_batch(batches, metrics)
    assert batches.current == 6
    report._progress.advance("", "")
    assert report._progress.waiting_share == 0
    jax.block_until_ready(metrics)
    report._fetch_batch(batches, metrics)
    assert batches.current == 7
    assert 0 < report._progress.waiting_share < 1


def test_want_of_memory_names_the_settings_and_keeps_the_message():
    sizes = "data.height=32, data.width=32"
    allocate = jax.jit(lambda: jnp.ones(1 << 50))
    settings = r"data.height=32, data.width=32 or train.batch_size=24, .* train.accumulate above 3"
    message = r"RESOURCE_EXHAUSTED: Out of memory allocating 4503599627370496 bytes"
    with (
        pytest.raises(MemoryError, match=f"{settings}.*{message}"),
        explain_memory(sizes, batch_size=24, num_micro_batches=3),
    ):
        allocate().block_until_ready()


def test_other_errors_of_the_runtime_stay_as_they_are():
    def fail(_):
        raise KeyError("not about memory")

    shape = jax.ShapeDtypeStruct((), np.float32)
    compute = jax.jit(lambda x: jax.pure_callback(fail, shape, x))
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="not about memory"),
        explain_memory("", batch_size=1, num_micro_batches=1),
    ):
        compute(np.float32(0)).block_until_ready()


def test_the_line_of_progress_fits_80_columns_and_begins_with_the_loss():
    stream = io.StringIO()
    progress = Progress(598, 600, disable=False, file=stream)
    speed = _describe_speed(frames_per_second=434.5, flop_utilization=0.45, data_wait=0.1)
    values = _describe_values({"loss": 91051.2, "kl": 815.64, "elbo": 1.0})
    for _ in range(2):
        progress.advance(values, speed)
    progress.close()
    line = stream.getvalue().split("\r")[-1].strip()
    assert re.search(r"600/600 .*, loss 91051 KL 815.6, 434 fps, 45% FLOP/s, wait 10%", line)
    assert len(line) - len(" " * 10) + 3 <= 80  # the bar of 10 columns is the first to shrink
