"""Two real processes of two devices train and evaluate like one process of four."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_vae import assert_close, make_adam, make_batch, make_state, make_step, score

from vvae.training.checkpoint import Checkpointer
from vvae.training.parallel import make_runner
from vvae.training.state import variables

WORKER = Path(__file__).with_name("distributed_worker.py")


def find_free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Returns the folder that two workers have written to."""
    directory = tmp_path_factory.mktemp("distributed")
    port = find_free_port()
    workers = [
        subprocess.Popen(
            [sys.executable, WORKER, str(process_id), "2", str(port), directory],
            env=os.environ | {"PYTHONPATH": str(WORKER.parent.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process_id in range(2)
    ]
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    for worker, output in zip(workers, outputs):
        assert worker.returncode == 0, output
    return directory


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_two_processes_agree_with_one(results, kind):
    runner = make_runner(kind, jax.devices()[:4])
    tx = make_adam()
    step = runner.compile_step(make_step(tx))
    state = runner.place_state(make_state(tx))
    for number in range(3):
        state, metrics = step(state, runner.place_batch(make_batch(number)))
    expected = runner.fetch(state)
    expected_scores = jax.jit(score)(variables(state), make_batch(3), jax.random.key(0))

    with Checkpointer(results / kind, read_only=True) as checkpointer:
        restored = checkpointer.restore("latest", jax.eval_shape(lambda: make_state(tx)))
    assert restored.step == 3
    assert_close(restored.state.params, expected.params)
    assert_close(restored.state.ema_params, expected.ema_params)
    for process_id in range(2):
        with np.load(results / f"{kind}_{process_id}.npz") as saved:
            np.testing.assert_allclose(saved["loss"], metrics["loss"], rtol=1e-5)
            np.testing.assert_array_equal(saved["index"], make_batch(3)["index"])
            assert_close({name: saved[name] for name in expected_scores}, expected_scores)


def test_two_processes_go_on_from_the_checkpoint_before_a_damaged_one(results):
    for process_id in range(2):
        with np.load(results / f"back_{process_id}.npz") as saved:
            assert saved["step"] == 2
            assert saved["steps"].max() == 2
    assert (results / "damaged" / "damaged-step_00000003-1" / "state").is_dir()
    with Checkpointer(results / "damaged", read_only=True) as checkpointer:
        assert checkpointer.latest_step == 3
