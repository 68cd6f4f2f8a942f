"""One process of a run with several: `python distributed_worker.py ID COUNT PORT DIRECTORY`.

Trains and evaluates with pmap and with mesh on two devices per process, saves a checkpoint of each
and the evaluation's results; then continues from the checkpoint before a damaged one.
"""

import os
import shutil
import sys
from pathlib import Path

from compiling import xla_flags

process_id, process_count, port = map(int, sys.argv[1:4])
directory = Path(sys.argv[4])
os.environ["XLA_FLAGS"] = xla_flags(2)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.distributed.initialize(f"127.0.0.1:{port}", process_count, process_id)

import numpy as np
from tiny_vae import make_adam, make_batch, make_state, make_step, score

from vvae import processes
from vvae.session.start import restore_state
from vvae.training.checkpoint import Checkpointer
from vvae.training.parallel import make_runner
from vvae.training.state import variables


def take_local(batch):
    size = len(batch["index"]) // process_count
    return {name: a[process_id * size : (process_id + 1) * size] for name, a in batch.items()}


def evaluate(variables, batch):
    return score(variables, batch, jax.random.key(0)) | {"index": batch["index"]}


def run(kind):
    runner = make_runner(kind)
    assert (runner.num_devices, runner.num_local_devices) == (4, 2)
    tx = make_adam()
    step = runner.compile_step(make_step(tx))
    state = runner.place_state(make_state(tx))
    with Checkpointer(directory / kind) as checkpointer:
        for number in range(3):
            batch = take_local(make_batch(number))
            state, metrics = step(state, runner.place_batch(batch))
            loss = float(runner.fetch(metrics)["loss"])
            checkpointer.save(number + 1, state, {"next_step": number + 1}, {"val_elbo": -loss})
        restored = checkpointer.restore("latest", jax.eval_shape(lambda: make_state(tx)))
        jax.tree.map(np.testing.assert_array_equal, restored.state, runner.fetch(state))
    scores = runner.map_eval(evaluate)(variables(state), take_local(make_batch(3)))
    np.savez(directory / f"{kind}_{process_id}.npz", loss=loss, **scores)


def go_back(saved):
    """Damages the newest checkpoint of a copy and continues from the one before it."""
    copy, shape = directory / "damaged", jax.eval_shape(lambda: make_state(make_adam()))

    def damage():
        shutil.copytree(saved, copy)
        (copy / "step_00000003" / "record" / "metadata").unlink()

    processes.do_first(damage)
    with Checkpointer(copy) as checkpointer:
        state = restore_state(checkpointer, shape, fallback=True)
        np.savez(directory / f"back_{process_id}.npz", step=state.step, steps=checkpointer.steps)
        checkpointer.save(3, state.replace(step=np.array(3, np.int32)), {}, {"val_elbo": 0.0})


for kind in ("pmap", "mesh"):
    run(kind)
go_back(directory / "pmap")
jax.distributed.shutdown()
