"""The schedule and AdamW against their closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vvae.training.optimizer import make_optimizer, make_schedule


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (5, 0.001),
        (10, 0.002),
        (35, 0.002 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 25 / 100)))),
        (60, 0.002 * (0.1 + 0.9 * 0.5)),
        (110, 0.0002),
        (500, 0.0002),
    ],
)
def test_schedule_is_linear_then_cosine(step, expected):
    schedule = make_schedule(0.002, warmup_steps=10, total_steps=110, final_fraction=0.1)
    np.testing.assert_allclose(schedule(step), expected, rtol=1e-6, atol=1e-12)


def test_schedule_without_warmup_and_decay_is_constant():
    schedule = make_schedule(0.01, warmup_steps=0, total_steps=10, final_fraction=1.0)
    np.testing.assert_allclose([schedule(step) for step in (0, 3, 10, 20)], 0.01, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": 10, "total_steps": 10, "final_fraction": 0.0}, "warmup_steps is 10"),
        ({"warmup_steps": -1, "total_steps": 10, "final_fraction": 0.0}, "warmup_steps is -1"),
        ({"warmup_steps": 0, "total_steps": 10, "final_fraction": 1.5}, "final_fraction is 1.5"),
    ],
)
def test_schedule_refuses_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(0.1, **settings)


def _adamw_by_hand(params, grads, *, rate, decay, b1, b2, num_steps):
    """Computes AdamW in float64.

    References:
      Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, algorithm 2.
    """
    mean, square = np.zeros_like(params), np.zeros_like(params)
    for step in range(1, num_steps + 1):
        grad = grads[step - 1]
        mean = b1 * mean + (1 - b1) * grad
        square = b2 * square + (1 - b2) * grad**2
        direction = (mean / (1 - b1**step)) / (np.sqrt(square / (1 - b2**step)) + 1e-8)
        params = params - rate(step - 1) * (direction + decay * params)
    return params


def test_three_steps_follow_adamw():
    """Decay on the kernel only, a factor on log_sigma only, both after the moments."""
    rng = np.random.default_rng(0)
    start = {
        "layer": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=(2,))},
        "prior_mean": rng.normal(size=(2, 2)),
        "log_sigma": np.float64(0.3),
    }
    grads = [jax.tree.map(lambda p: rng.normal(size=p.shape), start) for _ in range(3)]
    schedule = make_schedule(0.1, warmup_steps=2, total_steps=6, final_fraction=0.0)
    tx = make_optimizer(schedule, weight_decay=0.05, b1=0.8, b2=0.95, fast={"log_sigma": 7.0})

    params = jax.tree.map(jnp.float32, start)
    opt_state = tx.init(params)
    for grad in grads:
        updates, opt_state = tx.update(jax.tree.map(jnp.float32, grad), opt_state, params)
        params = optax.apply_updates(params, updates)

    def expect(leaf, leaf_grads, decay=0.0, multiplier=1.0):
        def rate(step):
            return multiplier * float(schedule(step))

        return _adamw_by_hand(
            leaf, leaf_grads, rate=rate, decay=decay, b1=0.8, b2=0.95, num_steps=3
        )

    expected = {
        "layer": {
            "kernel": expect(
                start["layer"]["kernel"], [g["layer"]["kernel"] for g in grads], decay=0.05
            ),
            "bias": expect(start["layer"]["bias"], [g["layer"]["bias"] for g in grads]),
        },
        "prior_mean": expect(start["prior_mean"], [g["prior_mean"] for g in grads]),
        "log_sigma": expect(start["log_sigma"], [g["log_sigma"] for g in grads], multiplier=7.0),
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), params, expected)


def test_clipping_scales_the_whole_gradient_to_the_norm():
    tx = make_optimizer(optax.constant_schedule(1.0), clip_norm=1.0)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
    _, opt_state = tx.update(grads, tx.init(params), params)
    first_moment = optax.tree.get(opt_state, "mu")
    np.testing.assert_allclose(first_moment["a"], [0.1 * 0.6], rtol=1e-6)
    np.testing.assert_allclose(first_moment["b"], [0.1 * 0.8], rtol=1e-6)


def test_a_multiplier_for_no_parameter_is_refused():
    tx = make_optimizer(optax.constant_schedule(1.0), fast={"log_sgima": 10.0})
    with pytest.raises(ValueError, match=r"log_sgima, which is not a parameter.*log_sigma"):
        tx.init({"log_sigma": jnp.zeros(())})
