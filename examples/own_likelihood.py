"""Own likelihood: a SequentialVAE whose frames have a Laplace distribution.

    python examples/own_likelihood.py [STEPS]

One method of a subclass says what log p(x_t | z_t, w) is; the ELBO, IWAE and training use it.
"""

import itertools
import math
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from own_data import draw_clips

import vvae


class LaplaceVAE(vvae.SequentialVAE):
    """SequentialVAE with p(x | z, w) = Laplace(decoded mean, scale), one learned scale."""

    def setup(self):
        """Declares the scale beside the parameters of SequentialVAE."""
        super().setup()
        self.log_scale = self.param("log_scale", nn.initializers.constant(-1.0), ())

    def frame_log_likelihood(self, x_BTHWC: jax.Array, latents) -> jax.Array:
        """Computes log p(x_t | z_t, w) in nats per frame, [B, T], as a density of 8-bit values."""
        error = jnp.abs(x_BTHWC - self.decode(latents))
        log_prob = -error * jnp.exp(-self.log_scale) - self.log_scale - math.log(2.0)
        # x is in [-1, 1]: a step of the 8-bit codes is 1 / 127.5.
        return (log_prob - math.log(127.5)).sum((2, 3, 4))


def main(num_steps: int = 300) -> tuple[float, float]:
    """Trains both models; returns the ELBO of new clips under the Gaussian and the Laplace one."""
    vvae.prepare()
    x = np.stack(list(itertools.islice(draw_clips(seed=1), 32)))
    bounds = []
    for kind in (vvae.SequentialVAE, LaplaceVAE):
        model = kind((16, 16, 1), widths=(8, 16), hidden=32, latent_dim=8)
        params = vvae.train(model, draw_clips(seed=0), num_steps=num_steps)
        bounds.append(float(vvae.elbo(model, params, x, jax.random.key(0)).mean()))
        print(f"{kind.__name__}: ELBO {bounds[-1]:.0f} nats per clip after {num_steps} steps")
    return bounds[0], bounds[1]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
