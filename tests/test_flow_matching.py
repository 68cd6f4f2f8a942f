"""The transformer, the loss and the sampler of priors: closed forms, and two paths that agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vvae.generate import flow
from vvae.generate.network import LatentTransformer

MODEL = LatentTransformer(channels=3, num_classes=2, width=16, depth=2, heads=2)
SHAPE = (5, 2, 3)
STATS = {"mean": jnp.array([0.5, -1.0, 0.0]), "std": jnp.array([2.0, 1.0, 0.5])}


@functools.cache
def make_variables():
    """Returns variables of which none is zero, as fresh ones are."""
    z, time, label = jnp.zeros((1, *SHAPE, 3)), jnp.zeros((1, SHAPE[0])), jnp.zeros(1, jnp.int32)
    params = MODEL.init(jax.random.key(0), z, time, label)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys)]
    return {"params": jax.tree.unflatten(tree, moved), "stats": STATS}


def draw(seed: int, num_videos: int = 2):
    return jax.random.normal(jax.random.key(seed), (num_videos, *SHAPE, 3))


@functools.cache
def apply():
    return jax.jit(MODEL.apply)


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_kept_keys_and_values_equal_the_whole_video(cut):
    variables, z, label = make_variables(), draw(2), jnp.array([0, 1])
    time = jnp.tile(jnp.linspace(1.0, 0.2, 5), (2, 1))
    whole, _ = apply()(variables, z, time, label)
    first, past = apply()(variables, z[:, :cut], time[:, :cut], label)
    rest, _ = apply()(variables, z[:, cut:], time[:, cut:], label, past)
    joined = jnp.concatenate([first, rest], axis=1)
    np.testing.assert_allclose(joined, whole, atol=2e-6 * float(jnp.abs(whole).max()))


def test_no_frame_looks_ahead():
    variables, z, label = make_variables(), draw(3), jnp.array([0, 1])
    time = jnp.full((2, 5), 0.5)

    def first_frames(z):
        return MODEL.apply(variables, z, time, label)[0][:, :3].sum()

    gradient = jax.grad(first_frames)(z)
    assert np.all(np.asarray(gradient[:, 3:]) == 0)
    assert np.all(np.asarray(jnp.abs(gradient[:, :3]).sum((2, 3, 4))) > 0)


def test_time_class_row_and_column_count():
    variables, label, time = make_variables(), jnp.array([0, 1]), jnp.full((2, 5), 0.5)
    z = jnp.broadcast_to(draw(4)[:1, :, :1, :1], (2, *SHAPE, 3))  # equal at all places
    here, _ = apply()(variables, z, time, label)
    assert jnp.abs(here[0] - here[1]).max() > 1e-3
    assert jnp.abs(here[:, :, 0] - here[:, :, 1]).max() > 1e-3
    assert jnp.abs(here[:, :, :, 0] - here[:, :, :, 1]).max() > 1e-3
    later, _ = apply()(variables, z, time + 0.1, label)
    assert jnp.abs(here - later).max() > 1e-3


def test_a_fresh_network_has_the_loss_of_a_velocity_of_zero():
    """E |z - noise|^2 = 2 for normalised latents; known frames do not count."""
    model = LatentTransformer(channels=4, width=8, depth=1, heads=1)
    mean = jnp.zeros((512, 4, 2, 2, 4))
    batch = {"mean": mean + 7.0, "std": 3.0 * jnp.ones_like(mean)}
    batch |= {"label": jnp.full(512, -1), "index": jnp.arange(512)}
    params = model.init(jax.random.key(0), mean[:1], jnp.zeros((1, 4)), jnp.zeros(1, jnp.int32))
    variables = params | {"stats": {"mean": jnp.full(4, 7.0), "std": jnp.full(4, 3.0)}}
    losses = [
        flow.flow_loss(model, flow.Training(known=known), variables, batch, jax.random.key(1))[0]
        for known in (0.0, 1.0)
    ]
    np.testing.assert_allclose(losses, 2.0, atol=0.05)


def test_the_noise_of_an_example_does_not_depend_on_the_others():
    variables, training = make_variables(), flow.Training()
    batch = {"mean": draw(5, 4), "std": 0.1 * jnp.ones((4, *SHAPE, 3))}
    batch |= {"label": jnp.array([0, 1, -1, 0]), "index": jnp.array([7, 2, 9, 4])}
    losses = jax.jit(functools.partial(flow.flow_losses, MODEL, training))
    whole = losses(variables, batch, jax.random.key(0))
    half = losses(variables, jax.tree.map(lambda a: a[2:], batch), jax.random.key(0))
    np.testing.assert_allclose(half, whole[2:], rtol=1e-5)
    assert len(np.unique(np.asarray(whole))) == 4


def exact_velocity(mean: float, std: float, z, time):
    """The velocity of noise N(0, 1) to N(mean, std^2): E[z_1 - noise | z_s]."""
    variance = (1 - time) ** 2 + (time * std) ** 2
    slope = (time * std**2 - (1 - time)) / variance
    return mean + slope * (z - time * mean)


def test_the_sampler_carries_a_gaussian_to_a_gaussian():
    """The exact flow is linear, noise -> mean + std noise; the error falls as num_steps^-2."""
    noise = jnp.linspace(-2.0, 2.0, 9)
    velocity = functools.partial(exact_velocity, 3.0, 0.5)
    errors = []
    for num_steps in (16, 32, 64):
        z = flow.integrate(velocity, noise, num_steps)
        errors.append(float(jnp.abs(z - (3.0 + 0.5 * noise)).max()))
    assert errors[-1] < 2e-3
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.25), errors


def test_what_is_drawn_does_not_change_when_more_follows():
    variables = make_variables()
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    sampling = flow.Sampling(num_steps=3, window=3, piece=1)
    draw_frames = functools.partial(flow.sample_latents, MODEL, variables)
    short = draw_frames(keys, [0, 2], (3, 2, 3), sampling)
    long = draw_frames(keys, [0, 2], (6, 2, 3), sampling)
    assert long.shape == (2, 6, 2, 3, 3)
    np.testing.assert_array_equal(long[:, :3], short)
    alone = draw_frames(keys[1:], [2], (6, 2, 3), sampling)
    np.testing.assert_allclose(alone[0], long[1], atol=1e-5)


def test_guidance_of_one_is_the_velocity_of_the_class_and_none_that_of_any():
    variables, keys = make_variables(), jax.vmap(jax.random.key)(jnp.arange(1))

    def draw_with(label, guidance):
        sampling = flow.Sampling(num_steps=2, guidance=guidance)
        return flow.sample_latents(MODEL, variables, keys, [label], SHAPE, sampling)

    any_class = draw_with(2, 1.0)
    np.testing.assert_allclose(draw_with(0, 0.0), any_class, atol=1e-5)
    assert jnp.abs(draw_with(0, 1.0) - any_class).max() > 1e-3
    assert jnp.abs(draw_with(0, 3.0) - draw_with(0, 1.0)).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"window": 3, "piece": 3}, "piece=3: must be between 1 and window - 1 = 2"),
    ],
)
def test_settings_that_cannot_be_drawn_with_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        flow.Sampling(**settings)


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="width=18"):
        LatentTransformer(channels=1, width=18, heads=2)
