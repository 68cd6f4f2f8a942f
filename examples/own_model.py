"""Own model: a linear VAE of single frames, trained in an own loop with an own optimizer.

    python examples/own_model.py [STEPS]

A model is any hashable flax.linen module with the methods of `vvae.Model`; all functions of vvae
take it, compile themselves for it, and can be differentiated.
"""

import itertools
import math
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from own_data import draw_clips

import vvae
from vvae.distributions import (
    Gaussian,
    gaussian_kl,
    gaussian_log_prob,
    sample_gaussian,
    standard_gaussian,
)


class LinearVAE(nn.Module):
    """q(z_t | x_t), p(z_t) = N(0, I) and p(x_t | z_t), all linear; one learned sigma."""

    shape_HWC: tuple[int, int, int]
    latent_dim: int = 8

    def setup(self):
        """Declares the parameters."""
        self.encoder = nn.Dense(2 * self.latent_dim)
        self.decoder = nn.Dense(math.prod(self.shape_HWC))
        self.log_sigma = self.param("log_sigma", nn.initializers.constant(-1.0), ())

    @property
    def smallest_video(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of a video with which every part of the model can be called."""
        return 1, *self.shape_HWC

    def encode(self, x_BTHWC: jax.Array, mask_BT: jax.Array) -> Gaussian:
        """Infers q(z | x), [B, T, Z]; a frame knows no other, so that no mask is needed."""
        mean, logvar = jnp.split(self.encoder(x_BTHWC.reshape(*x_BTHWC.shape[:2], -1)), 2, axis=-1)
        return Gaussian(mean, logvar)

    @nn.nowrap
    def posterior_mean(self, posterior: Gaussian) -> jax.Array:
        """Returns the latents to decode."""
        return posterior.mean

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decodes [B, T, Z] to the mean video."""
        return self.decoder(latents).reshape(*latents.shape[:2], *self.shape_HWC)

    def terms(
        self, x_BTHWC: jax.Array, mask_BT: jax.Array, key_B: jax.Array, num_samples: int
    ) -> vvae.Terms:
        """Samples the posterior; all terms are [K, B], in nats per clip."""
        posterior = self.encode(x_BTHWC, mask_BT)
        shape = (num_samples, *posterior.mean.shape[1:])
        eps_KBTZ = jax.vmap(lambda key: jax.random.normal(key, shape), out_axes=1)(key_B)
        several = jax.tree.map(lambda a: a[None], posterior)
        z_KBTZ = sample_gaussian(several, eps_KBTZ)
        y = jax.vmap(self.decode)(z_KBTZ)
        log_prob = -0.5 * ((x_BTHWC[None] - y) * jnp.exp(-self.log_sigma)) ** 2 - self.log_sigma
        log_prob -= 0.5 * math.log(2 * math.pi) + math.log(127.5)  # as a density of 8-bit values
        prior = standard_gaussian(z_KBTZ.shape, z_KBTZ.dtype)

        def sum_valid(values_KBT: jax.Array) -> jax.Array:
            return jnp.sum(values_KBT * mask_BT[None], axis=-1)

        return vvae.Terms(
            log_likelihood=sum_valid(log_prob.sum((-1, -2, -3))),
            log_prior=sum_valid(gaussian_log_prob(prior, z_KBTZ).sum(-1)),
            log_posterior=sum_valid(gaussian_log_prob(several, z_KBTZ).sum(-1)),
            kl_by_level={"frame": sum_valid(gaussian_kl(several, prior).sum(-1))},
        )

    @nn.nowrap
    def sample(self, params, key: jax.Array, num_clips: int, num_frames: int) -> jax.Array:
        """Draws videos from the prior."""
        z_BTZ = jax.random.normal(key, (num_clips, num_frames, self.latent_dim))
        return vvae.decode(self, params, z_BTZ)


def main(num_steps: int = 300) -> tuple[float, float]:
    """Trains; returns the ELBO of new clips before and after, nats per clip."""
    vvae.prepare()
    model: vvae.Model = LinearVAE((16, 16, 1))
    optimizer = optax.adam(3e-3)
    clips = draw_clips(seed=0)
    params = vvae.start_params(model, np.stack(list(itertools.islice(clips, 8))))
    x = np.stack(list(itertools.islice(draw_clips(seed=1), 32)))
    before = float(vvae.elbo(model, params, x, jax.random.key(0)).mean())
    state = vvae.init_train_state(params, optimizer)
    step = vvae.make_train_step(model, optimizer, ema_decay=0.9)
    for number in range(num_steps):
        state, metrics = step(state, np.stack(list(itertools.islice(clips, 8))))
        if number % 100 == 0:
            print(f"step {number}: loss {float(metrics['loss']):.0f} nats per clip")
    params = vvae.averaged_params(state)
    after = float(vvae.elbo(model, params, x, jax.random.key(0)).mean())
    new = vvae.sample(model, params, jax.random.key(1), num_clips=2, num_frames=4)
    print(f"ELBO {before:.0f} -> {after:.0f} nats per clip; samples {new.shape}")
    return before, after


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
