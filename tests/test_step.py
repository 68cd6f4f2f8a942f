"""The training step: update, average, micro-batches, random numbers and the non-finite guard."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from tiny_vae import (
    SEED,
    assert_close,
    assert_equal,
    loss_fn,
    make_batch,
    make_state,
    make_step,
)

from vvae.training.state import variables
from vvae.training.step import apply_gradients, train_step


def test_step_descends_along_the_gradient_of_the_loss():
    tx = optax.sgd(1e-3)
    state, batch = make_state(tx), make_batch(0)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), 1), 0)

    def compute_loss(params):
        return loss_fn({"params": params, "stats": state.stats}, batch, key, 0)

    (loss, terms), grads = jax.jit(jax.value_and_grad(compute_loss, has_aux=True))(state.params)
    updated, metrics = jax.jit(make_step(tx))(state, batch)

    assert_close(updated.params, jax.tree.map(lambda p, g: p - 1e-3 * g, state.params, grads))
    assert updated.step == 1
    assert_equal(updated.stats, state.stats)
    assert_close(metrics, terms | {"loss": loss, "grad_norm": optax.tree.norm(grads), "finite": 1})


def test_average_warms_up_to_its_decay():
    tx = optax.sgd(1e-2)
    state = make_state(tx)
    assert_equal(state.ema_params, state.params)
    step = jax.jit(make_step(tx, ema_decay=0.15))
    for number, decay in enumerate((1 / 10, 0.15, 0.15)):  # (1 + 1) / (10 + 1) is above 0.15
        before = jax.tree.map(lambda e, d=decay: d * e, state.ema_params)
        state, _ = step(state, make_batch(number))
        added = jax.tree.map(lambda p, d=decay: (1 - d) * p, state.params)
        assert_close(state.ema_params, jax.tree.map(jnp.add, before, added), rtol=1e-6)
    assert variables(state)["params"] is state.params
    assert variables(state, ema=True) == {"params": state.ema_params, "stats": state.stats}


def test_parameters_without_a_gradient_keep_every_bit():
    """Also the sign of a zero, which a digest sees."""
    state = make_state(optax.sgd(0.0))
    zeros = jax.tree.map(lambda a: jnp.full_like(a, -0.0), state.params)
    state = state.replace(params=zeros, ema_params=zeros)
    updated = jax.jit(functools.partial(apply_gradients, tx=optax.adam(0.1), ema_decay=0.9))(
        state.replace(opt_state=optax.adam(0.1).init(zeros)), zeros
    )
    for leaf in jax.tree.leaves((updated.params, updated.ema_params)):
        assert jnp.signbit(leaf).all()


def test_the_loss_is_traced_once_for_all_micro_batches():
    tx, traced = optax.sgd(1e-3), []

    def count_loss(*arguments):
        traced.append(1)
        return loss_fn(*arguments)

    step = functools.partial(make_step(tx, num_micro_batches=4), loss_fn=count_loss)
    jax.eval_shape(step, make_state(tx), make_batch(0))
    assert len(traced) == 1


def test_accumulated_gradients_equal_those_of_the_whole_batch():
    """After one step, the trace of momentum is the gradient."""
    tx = optax.trace(0.9)
    state, batch = make_state(tx), make_batch(0)
    whole, whole_metrics = jax.jit(make_step(tx))(state, batch)
    split, metrics = jax.jit(make_step(tx, num_micro_batches=4))(state, batch)
    assert_close(split.opt_state.trace, whole.opt_state.trace)
    assert_close(metrics, whole_metrics)


def test_a_batch_that_micro_batches_do_not_divide_is_refused():
    tx = optax.sgd(1.0)
    with pytest.raises(ValueError, match=r"16 examples .* 3 micro-batches"):
        jax.eval_shape(make_step(tx, num_micro_batches=3), make_state(tx), make_batch(0))


def test_noise_changes_with_step_and_seed_alone():
    tx = optax.set_to_zero()
    state, batch = make_state(tx), make_batch(0)

    def draw_loss(variables, batch, key, step):
        return jax.random.normal(key), {}

    def run(seed, number):
        step = functools.partial(
            train_step, loss_fn=draw_loss, tx=tx, seed=seed, ema_decay=0.0, num_micro_batches=2
        )
        return float(step(state.replace(step=jnp.int32(number)), batch)[1]["loss"])

    assert run(0, 3) == run(0, 3)
    assert len({run(0, 3), run(0, 4), run(1, 3)}) == 3


def nan_in_one_example(variables, batch, key, step):
    loss, metrics = loss_fn(variables, batch, key, step)
    return loss + jnp.mean(jnp.where(batch["index"] == 9, jnp.nan, 0.0)), metrics


def nan_in_the_gradient_alone(variables, batch, key, step):
    loss, metrics = loss_fn(variables, batch, key, step)
    return loss + jnp.sqrt(0.0 * variables["params"]["log_sigma"]), metrics


@pytest.mark.parametrize(
    ("bad_loss", "num_micro_batches"), [(nan_in_one_example, 4), (nan_in_the_gradient_alone, 1)]
)
def test_a_value_that_is_not_finite_changes_the_step_alone(bad_loss, num_micro_batches):
    tx = optax.adam(1e-2)
    state = make_state(tx)
    step = jax.jit(functools.partial(make_step(tx, num_micro_batches), loss_fn=bad_loss))
    kept, metrics = step(state, make_batch(0))
    assert metrics["finite"] == 0
    assert_equal(kept, state.replace(step=jnp.int32(1)))
