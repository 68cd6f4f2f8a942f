"""A VAE of a few hundred parameters and its training, and comparisons of trees of arrays."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vvae.models.contract import init_variables
from vvae.models.sequential import SequentialVAE
from vvae.training.optimizer import make_optimizer
from vvae.training.state import TrainState, init_state
from vvae.training.step import train_step

FRAMES, SIZE, LATENTS = 2, 8, 3
SEED = 5


class TinyVAE(nn.Module):
    """Maps x [B, T, H, W, 1] to one Gaussian latent per frame, and that to the mean video."""

    def setup(self):
        self.conv = nn.Conv(4, (4, 4), strides=(2, 2))
        self.head = nn.Dense(2 * LATENTS)
        self.decoder = nn.Dense(SIZE * SIZE)
        self.log_sigma = self.param("log_sigma", nn.initializers.zeros, ())

    def __call__(self, x_BTHWC, eps_BTZ):
        hidden = nn.silu(self.conv(x_BTHWC))
        mean, logvar = jnp.split(self.head(hidden.reshape(*hidden.shape[:2], -1)), 2, axis=-1)
        z = mean + jnp.exp(0.5 * logvar) * eps_BTZ
        return self.decoder(z).reshape(x_BTHWC.shape), mean, logvar


def score(variables, batch, key):
    """Returns the terms of the negative ELBO per clip, {"distortion": [B], "kl": [B]}, in nats."""
    x = batch["video"].astype(jnp.float32) / 127.5 - 1.0
    x = (x - variables["stats"]["mean"].reshape(1, 1, 1, 1, -1)) / variables["stats"]["std"]
    shape = (x.shape[1], LATENTS)
    draw = jax.vmap(lambda index: jax.random.normal(jax.random.fold_in(key, index), shape))
    reconstruction, mean, logvar = TinyVAE().apply(
        {"params": variables["params"]}, x, draw(batch["index"])
    )
    log_sigma = variables["params"]["log_sigma"]
    error = 0.5 * ((x - reconstruction) * jnp.exp(-log_sigma)) ** 2 + log_sigma
    kl = 0.5 * (jnp.exp(logvar) + mean**2 - 1.0 - logvar)
    return {"distortion": error.sum((1, 2, 3, 4)), "kl": kl.sum((1, 2))}


def loss_fn(variables, batch, key, step):
    """The loss of a training step, with a KL weight that grows with the step."""
    terms = score(variables, batch, key)
    beta = jnp.minimum(1.0, (1 + step) / 10)
    metrics = {name: jnp.mean(term) for name, term in terms.items()}
    return metrics["distortion"] + beta * metrics["kl"], metrics


def make_batch(step, batch_size=16):
    """Returns batch number `step` of smooth random clips."""
    rng = np.random.Generator(np.random.Philox(key=[SEED, step]))
    base = rng.uniform(0, 255, (batch_size, 1, 1, SIZE, 1))
    video = np.broadcast_to(base, (batch_size, FRAMES, SIZE, SIZE, 1)).astype(np.uint8)
    index = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    return {"video": video, "index": index}


def make_adam() -> optax.GradientTransformation:
    return make_optimizer(
        optax.constant_schedule(1e-2), clip_norm=100.0, weight_decay=1e-3, fast={"log_sigma": 10.0}
    )


@functools.cache
def init_params():
    with jax.ensure_compile_time_eval():  # kept: what is traced must not be
        x = jnp.zeros((1, FRAMES, SIZE, SIZE, 1))
        init = jax.jit(TinyVAE().init)
        return init(jax.random.key(SEED), x, jnp.zeros((1, FRAMES, LATENTS)))["params"]


def make_state(tx: optax.GradientTransformation) -> TrainState:
    stats = {"mean": jnp.zeros((1,)), "std": jnp.full((), 0.5)}
    return init_state(init_params(), stats, tx)


def make_step(tx: optax.GradientTransformation, num_micro_batches: int = 1, ema_decay: float = 0.9):
    return functools.partial(
        train_step,
        loss_fn=loss_fn,
        tx=tx,
        seed=SEED,
        ema_decay=ema_decay,
        num_micro_batches=num_micro_batches,
    )


def draw_variables(model: SequentialVAE):
    """Draws variables of a SequentialVAE without zeros, as after training on half the range."""
    variables = make_variables(model, -0.1, 0.5)
    rng = np.random.default_rng(1)
    learned = jax.tree.map(
        lambda a: a + 0.1 * rng.normal(size=a.shape).astype(a.dtype), variables["params"]
    )
    return {**variables, "params": learned}


def make_variables(model: SequentialVAE, mean: float, std: float):
    """Returns fresh variables for data with this mean and standard deviation, in [-1, 1] units."""
    variables = jax.jit(functools.partial(init_variables, model))(jax.random.key(0))
    stats = {"mean": np.full(model.shape_HWC, mean, np.float32), "std": np.float32(std)}
    return {"params": variables["params"], "stats": stats}


def assert_equal(tree, expected):
    """Asserts that two trees are equal, bit by bit."""
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def assert_close(tree, expected, rtol=1e-5):
    """Asserts that each entry is equal to rtol of the largest entry of its leaf."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max()),
        tree,
        expected,
    )
