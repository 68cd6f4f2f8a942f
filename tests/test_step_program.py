"""The compiled program of a training step of configs/tiny.py.

It is compiled once, fed only by the batch, exchanges gradients once, and does the same work on each
device for any number of devices.
"""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from vvae import build
from vvae.config_files import load_config_file
from vvae.models.contract import init_variables
from vvae.session.preview import count_micro_batches, count_parameters
from vvae.session.update import make_optimizer, make_schedule, make_step
from vvae.training.cost import measure_step
from vvae.training.estimate import estimate_bytes
from vvae.training.parallel import make_runner
from vvae.training.state import init_state

CLIPS_PER_DEVICE = 16
NUM_STEPS = 5
BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}


@functools.cache
def read_config(name="tiny", batch_size=None):
    config = load_config_file(f"configs/{name}.py")
    if batch_size is None:
        return config
    # One micro-batch, since the compiler counts the body of a loop over micro-batches once.
    train = dataclasses.replace(config.train, batch_size=batch_size, accumulate=1)
    return dataclasses.replace(config, train=train)


def make_program(config, kind, num_devices):
    """Returns runner, compiled step, its placed state, and a function: seed -> NumPy batch."""
    runner = make_runner(kind, jax.devices()[:num_devices])
    frames, size = config.data.num_frames, config.train.batch_size
    shape_HWC = build.clip_format(config).clip_shape[1:]
    model = build.build_model(config)
    tx = make_optimizer(model, config, make_schedule(config.optim, NUM_STEPS))
    counts = {
        "num_steps": NUM_STEPS,
        "num_micro_batches": count_micro_batches(config, model, runner),
    }
    step = runner.compile_step(make_step(model, tx, config, **counts))
    fresh = jax.jit(functools.partial(init_variables, model))(jax.random.key(0))
    state = runner.place_state(init_state(fresh["params"], fresh["stats"], tx))

    def draw(seed):
        video = np.random.default_rng(seed).integers(0, 256, (size, frames, *shape_HWC), np.uint8)
        mask = np.ones((size, frames), bool)
        return {"video": video, "mask": mask, "index": np.arange(size, dtype=np.int32)}

    return runner, step, state, draw


@functools.cache
def compile_for(kind, num_devices):
    """Returns the executable for a number of devices with equal shares, and the state."""
    config = read_config(batch_size=CLIPS_PER_DEVICE * num_devices)
    runner, step, state, draw = make_program(config, kind, num_devices)
    return step.lower(state, runner.place_batch(draw(0))).compile(), state


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_five_steps_compile_once_and_move_the_batch_alone(kind):
    config = read_config(batch_size=16)
    runner, step, state, draw = make_program(config, kind, 8)
    compiled = []

    def listen(name, *_, **__):
        if "backend_compile" in name:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for seed in range(NUM_STEPS):
            batch = runner.place_batch(draw(seed))
            with jax.transfer_guard("disallow"):
                state, metrics = step(state, batch)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == 1
    assert int(runner.fetch(state.step)) == NUM_STEPS
    assert np.isfinite(runner.fetch(metrics)["loss"])


def find_collectives(executable):
    """Returns (name, bytes of the results) of every collective in the program."""
    names = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    pattern = rf"= (.*?) ({names})(?:-start)?\("
    return [
        (name, sum(count_bytes(*shape) for shape in re.findall(r"(\w+)\[([\d,]*)\]", result)))
        for result, name in re.findall(pattern, executable.as_text())
    ]


def count_bytes(dtype, shape):
    return BYTES[dtype] * int(np.prod([int(n) for n in shape.split(",") if n], dtype=np.int64))


def test_devices_exchange_the_gradient_once_and_the_metrics():
    executable, state = compile_for("pmap", 8)
    gradient = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    metrics = ("elbo", "kl", "kl_clip", "kl_frame", "log_likelihood", "loss")
    assert find_collectives(executable) == [("all-reduce", gradient + 4 * len(metrics))]


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
@pytest.mark.parametrize("name", ["flops", "bytes accessed"])
def test_the_work_of_a_device_does_not_depend_on_their_number(kind, name):
    """Except for the exchange of gradients, which is a few operations per parameter."""
    alone, two, eight = (compile_for(kind, n)[0].cost_analysis()[name] for n in (1, 2, 8))
    assert eight == pytest.approx(alone, rel=0.02)
    assert eight == pytest.approx(two, rel=0.002)


@pytest.mark.parametrize("name", ["tiny", "default", "causal_tiny"])
def test_the_estimate_of_memory_is_right_within_a_quarter(name):
    config = read_config(name)
    runner, step, state, draw = make_program(config, "pmap", 1)
    cost = measure_step(step, state, runner.place_batch(draw(0)))
    model = build.build_model(config)
    clips = config.train.batch_size // count_micro_batches(config, model, runner)
    frames, frame_cost = clips * config.data.num_frames, model.estimate_frame_cost()
    estimate = estimate_bytes(frame_cost, count_parameters(model), frames)
    assert estimate == pytest.approx(cost.bytes, rel=0.25)
