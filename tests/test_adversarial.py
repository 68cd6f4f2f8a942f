"""A critic of videos: losses in closed form, and updates of both sides by plain gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_causal import make_video
from tiny_vae import assert_close, assert_equal

from vvae.models.critic import PatchCritic
from vvae.objectives import adversarial
from vvae.training.adversarial_step import Adversary, adversarial_step
from vvae.training.checkpoint import Checkpointer
from vvae.training.parallel import make_runner
from vvae.training.state import init_critic, init_state
from vvae.training.step import step_key, train_step

RATE = 1e-3
LENGTH, SIZE, CHANNELS, LATENTS = 5, 8, 2, 3
NUM_PIXELS = LENGTH * SIZE * SIZE * CHANNELS


def test_losses_in_closed_form():
    real, fake = jnp.array([2.0, 0.5, -1.0]), jnp.array([-3.0, 0.0, 1.0])
    # relu(1 - real) = 0, 0.5, 2; relu(1 + fake) = 0, 1, 2
    np.testing.assert_allclose(adversarial.hinge_loss(real, fake), 0.5 * (2.5 / 3 + 1.0))
    np.testing.assert_allclose(adversarial.deceive_loss(fake), 2.0 / 3)
    # relu(real - (-1)) = 3, 1.5, 0; relu(0.5 - fake) = 3.5, 0.5, 0
    penalty = adversarial.lecam_penalty(real, fake, jnp.float32(0.5), jnp.float32(-1.0))
    np.testing.assert_allclose(penalty, (9 + 2.25) / 3 + (12.25 + 0.25) / 3)
    grads = jnp.array([[3.0, 4.0]]), jnp.array([0.0, 0.5])
    np.testing.assert_allclose(adversarial.adaptive_weight(*grads), 10.0, rtol=1e-5)
    np.testing.assert_allclose(adversarial.adaptive_weight(grads[0], 0.0 * grads[1]), 1e4)


def test_critic_scores_patches_of_each_clip_by_itself():
    critic = PatchCritic(width=4, depth=2)
    x = jnp.asarray(make_video(5, 2, (16, 15))) / 127.5 - 1.0
    params = jax.jit(critic.init)(jax.random.key(0), x)
    score = jax.jit(critic.apply)
    both = score(params, x)
    assert both.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(both[:1], score(params, x[:1]), atol=1e-5)
    # A score depends on its patch, and on the opposite corner only through the norms of the clip.
    grad = jax.jit(jax.grad(lambda x: score(params, x)[0, 0, 0, 0]))(x)
    assert np.abs(grad[0, 0, :3, :3]).max() > 10 * np.abs(grad[0, -1, -3:, -3:]).max() >= 0
    np.testing.assert_array_equal(grad[1], 0.0)
    assert float(jnp.std(both)) > 1e-3


# --- a model and a critic of a few hundred numbers ------------------------------------------------


def to_real(batch):
    return batch["video"].astype(jnp.float32) / 127.5 - 1.0


def reconstruct(variables, batch, key, step):
    """Computes the loss, metrics and reconstruction of a linear model with noise per clip."""
    params, real = variables["params"], to_real(batch)
    flat = real.reshape(len(real), -1)
    draw = jax.vmap(lambda n: jax.random.normal(jax.random.fold_in(key, n), (LATENTS,)))
    z = flat @ params["encoder"]["kernel"] + 0.3 * draw(batch["index"])
    fake = jnp.tanh(z @ params["decoder"]["kernel"])
    loss = jnp.mean(jnp.square(fake - flat).sum(1)) + (1.0 + 0.1 * step) * jnp.mean(z**2)
    return loss, {"kl": jnp.mean(z**2)}, fake.reshape(real.shape)


def score(params, video):
    return jnp.tanh(video.reshape(len(video), -1) @ params["first"]) @ params["last"]


def make_adversary(critic_tx, start=0):
    return Adversary(
        score=score,
        to_real=to_real,
        last_kernel=lambda params: params["decoder"]["kernel"],
        tx=critic_tx,
        weight=0.4,
        lecam=0.1,
        start=start,
    )


def make_step(tx, critic_tx, start=0, **settings):
    return functools.partial(
        adversarial_step,
        reconstruct_fn=reconstruct,
        adversary=make_adversary(critic_tx, start),
        tx=tx,
        seed=3,
        ema_decay=0.9,
        **settings,
    )


def make_batch(step=0, batch_size=16):
    index = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    video = make_video(LENGTH, batch_size, (SIZE, SIZE), CHANNELS, seed=step)
    return {"video": video, "index": index}


def make_state(tx, critic_tx):
    rng = np.random.default_rng(0)
    shapes = {
        "encoder": {"kernel": (NUM_PIXELS, LATENTS)},
        "decoder": {"kernel": (LATENTS, NUM_PIXELS)},
        "critic": {"first": (NUM_PIXELS, 6), "last": (6, 1)},
    }
    drawn = jax.tree.map(
        lambda shape: jnp.asarray(0.1 * rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda shape: isinstance(shape, tuple),
    )
    critic = init_critic(drawn.pop("critic"), critic_tx).replace(mean_real=jnp.float32(0.2))
    return init_state(drawn, {"mean": jnp.zeros(2)}, tx, critic)


def test_both_updates_are_the_gradients_of_their_losses():
    """Repeats the update with plain jax.grad: one step of gradient descent for each side."""
    tx, critic_tx = optax.sgd(RATE), optax.sgd(10 * RATE)
    state, batch = make_state(tx, critic_tx), make_batch()
    updated, metrics = jax.jit(make_step(tx, critic_tx))(state, batch)
    key, before = step_key(3, 0), state.critic.params

    def own_loss(params):
        return reconstruct({"params": params}, batch, key, 0)[0]

    def deceive(params):
        return -jnp.mean(score(before, reconstruct({"params": params}, batch, key, 0)[2]))

    own_grads, deceive_grads = (
        jax.jit(jax.grad(own_loss))(state.params),
        jax.jit(jax.grad(deceive))(state.params),
    )
    norms = [float(jnp.linalg.norm(g["decoder"]["kernel"])) for g in (own_grads, deceive_grads)]
    weight = 0.4 * norms[0] / (norms[1] + 1e-6)
    assert 0 < weight < 0.4 * 1e4
    np.testing.assert_allclose(metrics["critic_weight"], weight, rtol=1e-4)
    grads = jax.tree.map(lambda a, b: a + weight * b, own_grads, deceive_grads)
    expected = jax.tree.map(lambda p, g: p - RATE * g, state.params, grads)
    assert_close(updated.params, expected, rtol=1e-4)

    fake = reconstruct({"params": state.params}, batch, key, 0)[2]

    def critic_loss(params):
        real, made = score(params, to_real(batch)), score(params, fake)
        hinge = jnp.mean(jnp.maximum(0, 1 - real)) + jnp.mean(jnp.maximum(0, 1 + made))
        over, under = jnp.maximum(0, real - 0.0), jnp.maximum(0, 0.2 - made)
        return hinge / 2 + 0.1 * (jnp.mean(over**2) + jnp.mean(under**2))

    grad = jax.jit(jax.grad(critic_loss))(before)
    expected = jax.tree.map(lambda p, g: p - 10 * RATE * g, before, grad)
    assert_close(updated.critic.params, expected, rtol=1e-4)
    np.testing.assert_allclose(
        updated.critic.mean_real, 0.99 * 0.2 + 0.01 * metrics["critic_real"], rtol=1e-5
    )


def test_before_its_start_the_critic_changes_nothing_and_is_not_changed():
    tx, critic_tx = optax.adam(RATE), optax.adam(RATE)
    state, batch = make_state(tx, critic_tx), make_batch()
    updated, metrics = jax.jit(make_step(tx, critic_tx, start=1))(state, batch)
    plain = functools.partial(
        train_step, loss_fn=lambda *a: reconstruct(*a)[:2], tx=tx, seed=3, ema_decay=0.9
    )
    expected, _ = jax.jit(plain)(state, batch)
    assert metrics["critic_weight"] == 0.0
    assert_close(updated.params, expected.params, rtol=1e-5)
    assert_equal(updated.critic, state.critic)
    later, metrics = jax.jit(make_step(tx, critic_tx, start=1))(updated, batch)
    assert metrics["critic_weight"] > 0.0
    assert any(
        jax.tree.leaves(
            jax.tree.map(
                lambda a, b: bool((a != b).any()), later.critic.params, updated.critic.params
            )
        )
    )


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_devices_and_parts_do_not_change_the_update(kind):
    tx, critic_tx = optax.sgd(RATE), optax.sgd(RATE)
    state, batch = make_state(tx, critic_tx), make_batch()
    whole, metrics = jax.jit(make_step(tx, critic_tx))(state, batch)
    runner = make_runner(kind)
    step = runner.compile_step(make_step(tx, critic_tx, num_micro_batches=2))
    shared, shared_metrics = step(runner.place_state(state), runner.place_batch(batch))
    assert runner.num_devices == 8
    assert_close(runner.fetch(shared_metrics), jax.device_get(metrics), rtol=2e-3)
    assert_close(runner.fetch(shared), jax.device_get(whole), rtol=1e-3)


def test_a_step_that_is_not_finite_leaves_both_as_they_were():
    tx, critic_tx = optax.adam(RATE), optax.adam(RATE)
    state, batch = make_state(tx, critic_tx), make_batch()
    broken = jax.tree.map(lambda a: a.at[(0,) * a.ndim].set(jnp.nan), state.critic.params)
    state = state.replace(critic=state.critic.replace(params=broken))
    updated, metrics = jax.jit(make_step(tx, critic_tx))(state, batch)
    assert metrics["finite"] == 0.0 and updated.step == 1
    assert_equal(updated.replace(step=state.step), state)


def test_a_continued_run_is_bit_identical_on_both_sides(tmp_path):
    tx, critic_tx = optax.adam(RATE), optax.adam(RATE, b1=0.5)
    runner = make_runner("pmap")
    step = runner.compile_step(make_step(tx, critic_tx, start=1))

    def train(state, first, last):
        state = runner.place_state(state)
        for number in range(first, last):
            state, _ = step(state, runner.place_batch(make_batch(number)))
        return runner.fetch(state)

    whole = train(make_state(tx, critic_tx), 0, 4)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, train(make_state(tx, critic_tx), 0, 2))
    with Checkpointer(tmp_path) as checkpointer:
        abstract = jax.eval_shape(lambda: make_state(tx, critic_tx))
        restored = checkpointer.restore("latest", abstract).state
    assert_equal(train(restored, 2, 4), whole)
    assert float(np.abs(whole.critic.mean_fake)) > 0.0
