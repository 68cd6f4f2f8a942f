"""pmap and mesh: equal to one device and to each other, donating, and lowering everywhere."""

import functools

import jax
import numpy as np
import optax
import pytest
from tiny_vae import (
    assert_close,
    assert_equal,
    make_adam,
    make_batch,
    make_state,
    make_step,
    score,
)

from vvae.models.contract import init_variables
from vvae.models.sequential import SequentialVAE
from vvae.objectives.elbo import negative_elbo
from vvae.training.parallel import export_step, make_runner, prefetch, run_ahead
from vvae.training.state import init_state, variables
from vvae.training.step import train_step

KINDS = ("pmap", "mesh")


@functools.cache
def compute_gradient():
    """Returns gradient and metrics of the whole batch, without any runner."""
    tx = optax.trace(0.9)
    state, metrics = jax.jit(make_step(tx))(make_state(tx), make_batch(0))
    return state.opt_state.trace, metrics


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_devices", "num_micro_batches"), [(1, 1), (8, 1), (1, 4), (4, 4)])
def test_gradients_do_not_depend_on_devices_and_accumulation(kind, num_devices, num_micro_batches):
    runner = make_runner(kind, jax.devices()[:num_devices])
    assert runner.num_devices == runner.num_local_devices == num_devices
    tx = optax.trace(0.9)
    step = runner.compile_step(make_step(tx, num_micro_batches))
    state, metrics = step(runner.place_state(make_state(tx)), runner.place_batch(make_batch(0)))
    gradient, expected_metrics = compute_gradient()
    assert_close(runner.fetch(state.opt_state.trace), gradient)
    assert_close(runner.fetch(metrics), expected_metrics)


def train(runner, num_steps):
    tx = make_adam()
    step = runner.compile_step(make_step(tx))
    state = runner.place_state(make_state(tx))
    for number in range(num_steps):
        state, _ = step(state, runner.place_batch(make_batch(number)))
    return runner.fetch(state)


def test_pmap_and_mesh_train_alike():
    pmap, mesh = (train(make_runner(kind), 5) for kind in KINDS)
    assert pmap.step == mesh.step == 5
    assert_close(pmap.params, mesh.params)
    assert_close(pmap.ema_params, mesh.ema_params)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_donated_and_what_was_placed_is_not(kind):
    runner = make_runner(kind)
    tx = make_adam()
    step = runner.compile_step(make_step(tx))
    source = make_state(tx)
    before = runner.fetch(source)
    state = runner.place_state(source)
    for number in range(2):
        donated, batch = state, runner.place_batch(make_batch(number))
        state, _ = step(donated, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((batch, state)))
    assert_equal(source, before)


@pytest.mark.parametrize("kind", KINDS)
def test_every_device_gets_its_part_of_the_batch(kind):
    runner = make_runner(kind)
    placed = runner.place_batch(make_batch(0))
    for leaf in jax.tree.leaves(placed):
        parts = {shard.device: shard.data.size for shard in leaf.addressable_shards}
        assert parts == dict.fromkeys(jax.devices(), leaf.size // 8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_devices_do_not_divide_is_refused(kind):
    with pytest.raises(ValueError, match=r"12 examples .* 8 devices"):
        make_runner(kind).place_batch(make_batch(0, batch_size=12))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'pmpa': choose pmap or mesh"):
        make_runner("pmpa")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_devices", [1, 8])
def test_evaluation_returns_all_examples_in_order(kind, num_devices):
    runner = make_runner(kind, jax.devices()[:num_devices])
    key = jax.random.key(0)
    batch = make_batch(3) | {"valid": np.arange(16) < 13}

    def evaluate(variables, batch):
        return score(variables, batch, key) | {"index": batch["index"], "valid": batch["valid"]}

    state = make_state(optax.identity())
    placed = runner.place_state(variables(state, ema=True))
    result = runner.map_eval(evaluate)(placed, batch)
    assert all(isinstance(leaf, np.ndarray) for leaf in result.values())
    np.testing.assert_array_equal(result["index"], batch["index"])
    np.testing.assert_array_equal(result["valid"], batch["valid"])
    assert_close(result, jax.jit(evaluate)(variables(state), batch))


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_lowers_for_every_platform(kind):
    runner = make_runner(kind)
    tx = make_adam()
    step = runner.compile_step(make_step(tx, num_micro_batches=2))
    exported = export_step(step, make_state(tx), runner.place_batch(make_batch(0)))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.nr_devices == 8


def make_sequential(tx, num_micro_batches=1):
    """Returns state, step and batch of a small SequentialVAE with train.py's loss."""
    model = SequentialVAE(
        (8, 8, 1), widths=(4,), hidden=8, latent_dim=3, clip_latent_dim=2, prior="learned"
    )
    fresh = jax.jit(functools.partial(init_variables, model))(jax.random.key(2))

    def compute_loss(variables, batch, key, step):
        del step
        return negative_elbo(model, variables, batch, key)

    step = functools.partial(
        train_step,
        loss_fn=compute_loss,
        tx=tx,
        seed=3,
        ema_decay=0.9,
        num_micro_batches=num_micro_batches,
    )
    random = np.random.default_rng(4)
    video = random.integers(0, 256, (8, 3, 8, 8, 1), dtype=np.uint8)
    mask = np.arange(3) < random.integers(1, 4, (8, 1))
    batch = {"video": video, "mask": mask, "index": np.arange(8, dtype=np.int32)}
    return init_state(fresh["params"], fresh["stats"], tx), step, batch


@functools.cache
def compute_sequential_gradient():
    tx = optax.trace(0.9)
    state, step, batch = make_sequential(tx)
    after, metrics = jax.jit(step)(state, batch)
    return after.opt_state.trace, metrics


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_devices", "num_micro_batches"), [(8, 1), (2, 4)])
def test_gradients_of_the_elbo_do_not_depend_on_devices_and_accumulation(
    kind, num_devices, num_micro_batches
):
    tx = optax.trace(0.9)
    state, step, batch = make_sequential(tx, num_micro_batches)
    runner = make_runner(kind, jax.devices()[:num_devices])
    after, metrics = runner.compile_step(step)(runner.place_state(state), runner.place_batch(batch))
    gradient, expected_metrics = compute_sequential_gradient()
    assert_close(runner.fetch(after.opt_state.trace), gradient)
    assert_close(runner.fetch(metrics), expected_metrics)


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_of_sequential_vae_lowers_for_every_platform(kind):
    tx = make_adam()
    state, step, batch = make_sequential(tx, num_micro_batches=1)
    runner = make_runner(kind)
    exported = export_step(runner.compile_step(step), state, runner.place_batch(batch))
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_prefetch_keeps_the_order_and_places_two_ahead():
    placed = []

    def place(item):
        placed.append(item)
        return -item

    items = prefetch(iter(range(5)), place)
    assert next(items) == 0
    assert placed == [0, 1, 2]
    assert list(items) == [-1, -2, -3, -4]


def test_what_runs_ahead_raises_where_it_is_asked_for():
    def fail(size):
        raise MemoryError(size)

    ahead = run_ahead(fail, 7)
    with pytest.raises(MemoryError, match="7"):
        ahead.result()
