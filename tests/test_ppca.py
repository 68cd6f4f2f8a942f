"""The initial linear path is probabilistic PCA: every importance weight is then log p(x)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vvae.models import contract
from vvae.models.ppca import FrameSpectrum, start_at_ppca
from vvae.models.sequential import SequentialVAE
from vvae.objectives.elbo import log_weights

NUM_PIXELS, RANK = 16, 3


def make_start(latent_dim=RANK, widths=(4,)):
    rng = np.random.default_rng(0)
    model = SequentialVAE(
        (4, 4, 1),
        widths=widths,
        hidden=8,
        latent_dim=latent_dim,
        clip_latent_dim=2,
        prior="standard",
    )
    params = contract.init_variables(model, jax.random.key(0))["params"]
    components, _ = np.linalg.qr(rng.normal(size=(NUM_PIXELS, RANK)))
    spectrum = FrameSpectrum(components.T, np.array([3.0, 2.0, 0.5]), residual=0.05)
    stats = {"mean": jnp.zeros((4, 4, 1)), "std": jnp.float32(0.5)}
    return model, start_at_ppca(model, params, stats, spectrum), stats, spectrum


def silence_networks(params):
    """Leaves only the linear path: the networks add nothing, and q(w) is its prior."""
    bias = params["frame_head"]["dense"]["bias"]
    silent = jax.tree.map(jnp.zeros_like, params)
    kept = ("linear_encoder", "linear_decoder", "log_sigma")
    silent |= {name: params[name] for name in kept}
    silent["frame_head"]["dense"]["bias"] = bias.at[: bias.size // 2].set(0.0)
    return silent


@pytest.mark.parametrize("widths", [(4,), ()], ids=["convolutions", "dense layers alone"])
def test_every_importance_weight_is_the_exact_log_probability(widths):
    model, params, stats, spectrum = make_start(widths=widths)
    variables = {"params": silence_networks(params), "stats": stats}
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (2, 3, 4, 4, 1)).astype(np.float32)
    terms = jax.jit(lambda v: contract.terms(model, v, x, jax.random.key(0), num_samples=4))(
        variables
    )
    components = spectrum.components_KD
    covariance = spectrum.residual * np.eye(NUM_PIXELS)
    gain = spectrum.variance_K - spectrum.residual
    covariance += components.T @ np.diag(gain) @ components
    standardised = x.reshape(2, 3, NUM_PIXELS) / 0.5
    square = np.einsum("btd,de,bte->bt", standardised, np.linalg.inv(covariance), standardised)
    log_p = -0.5 * (square + np.linalg.slogdet(covariance)[1] + NUM_PIXELS * np.log(2 * np.pi))
    exact = (log_p - NUM_PIXELS * np.log(127.5 * 0.5)).sum(axis=1)
    np.testing.assert_allclose(log_weights(terms), np.tile(exact, (4, 1)), rtol=1e-5, atol=1e-3)


def test_latents_beyond_the_components_begin_as_under_the_prior():
    model, params, stats, _ = make_start(latent_dim=RANK + 2)
    variables = {"params": silence_networks(params), "stats": stats}
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 4, 4, 1)).astype(np.float32)
    posterior = contract.encode(model, variables, x).frame
    np.testing.assert_array_equal(posterior.mean[..., RANK:], 0)
    np.testing.assert_array_equal(posterior.logvar[..., RANK:], 0)
