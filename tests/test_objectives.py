"""ELBO and IWAE against closed forms and for consistency."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sequential import make_model, make_variables, make_video

from vvae import distributions as dist
from vvae.distributions import Gaussian
from vvae.models import contract
from vvae.models.contract import Terms
from vvae.objectives.elbo import (
    beta_schedule,
    elbo,
    free_bits_kl,
    iwae,
    iwae_of_log_weights,
    log_weights,
    negative_elbo,
)


class LinearGaussianVAE(nn.Module):
    """x = 0.8 z_1 + 0.5 z_2 + noise for every pixel, with a posterior that is wrong on purpose."""

    num_pixels: int = 6
    repeat: int = 1

    def weights(self):
        """Returns [2, pixels] loadings and the noise's standard deviation."""
        rng = np.random.default_rng(0)
        return jnp.array(rng.normal(size=(2, self.num_pixels)), jnp.float32), 0.7

    @nn.nowrap
    def exact_log_prob(self, x_BD):
        loadings, sigma = self.weights()
        loadings = np.asarray(loadings, np.float64)
        cov = loadings.T @ loadings + sigma**2 * np.eye(self.num_pixels)
        _, logdet = np.linalg.slogdet(cov)
        square = np.einsum("bd,de,be->b", x_BD, np.linalg.inv(cov), x_BD)
        return -0.5 * (self.num_pixels * np.log(2 * np.pi) + logdet + square)

    def terms(self, x_BTHWC, mask_BT, key_B, num_samples):
        loadings, sigma = self.weights()
        x_BD = x_BTHWC.reshape(x_BTHWC.shape[0], -1)
        # The exact posterior mean plus an offset, and too large a variance.
        small_BD = x_BTHWC[:, 0, :: self.repeat, :: self.repeat, 0].reshape(x_BD.shape[0], -1)
        precision = loadings @ loadings.T / sigma**2 + jnp.eye(2)
        mean = small_BD @ loadings.T / sigma**2 @ jnp.linalg.inv(precision) + 0.5
        q = Gaussian(mean, jnp.full(mean.shape, -1.0))
        eps = jax.vmap(lambda key: jax.random.normal(key, (num_samples, 2)), out_axes=1)(key_B)
        z_KBZ = q.mean[None] + jnp.exp(0.5 * q.logvar)[None] * eps
        # One row of pixels, each repeated in both directions.
        row = jnp.repeat(z_KBZ @ loadings, self.repeat, axis=-1)
        decoded = jnp.tile(row, self.repeat)
        noise = jnp.full(decoded.shape, 2 * jnp.log(sigma))
        standard = dist.standard_gaussian(z_KBZ.shape)
        broadcast = Gaussian(*(jnp.broadcast_to(a, z_KBZ.shape) for a in (q.mean, q.logvar)))
        x_KBD = jnp.broadcast_to(x_BD, decoded.shape)
        return Terms(
            log_likelihood=dist.gaussian_log_prob(Gaussian(decoded, noise), x_KBD).sum(-1),
            log_prior=dist.gaussian_log_prob(standard, z_KBZ).sum(-1),
            log_posterior=dist.gaussian_log_prob(broadcast, z_KBZ).sum(-1),
            kl_by_level={"clip": dist.gaussian_kl(broadcast, standard).sum(-1)},
        )


def make_linear(batch=4):
    model = LinearGaussianVAE()
    rng = np.random.default_rng(1)
    loadings, sigma = model.weights()
    x_BD = rng.normal(size=(batch, 2)) @ np.asarray(loadings) + sigma * rng.normal(size=(batch, 6))
    return (
        model,
        jnp.array(x_BD, jnp.float32).reshape(batch, 1, 1, 6, 1),
        model.exact_log_prob(x_BD),
    )


def test_iwae_reaches_the_exact_log_probability():
    model, x, exact = make_linear()
    lower = elbo(model, {}, x, jax.random.key(0), num_samples=2000)
    assert (exact - lower).min() >= 1.0, "the posterior must be wrong by at least 1 nat"
    bound = iwae(model, {}, x, jax.random.key(0), num_samples=5000, chunk=1000)
    np.testing.assert_allclose(bound.value, exact, atol=0.05)
    assert np.all(bound.effective_samples < 5000) and np.all(bound.standard_error < 0.05)


def test_iwae_subsets_never_exceed_the_whole_in_the_mean():
    """The mean over leave-one-out subsets is at most the full estimate.

    References:
      Burda et al., Importance Weighted Autoencoders, 2016, theorem 1.
    """
    model, x, _ = make_linear()
    log_weight = log_weights(contract.terms(model, {}, x, jax.random.key(2), num_samples=12))
    whole = iwae_of_log_weights(log_weight).value
    parts = [iwae_of_log_weights(jnp.delete(log_weight, k, axis=0)).value for k in range(12)]
    assert np.all(np.mean(parts, axis=0) <= np.asarray(whole))


def test_standard_error_predicts_the_spread():
    model, x, _ = make_linear(batch=2)
    compute = jax.jit(lambda key: iwae(model, {}, x, key, 400, chunk=400))
    bounds = [compute(jax.random.key(seed)) for seed in range(60)]
    spread = np.std([b.value for b in bounds], axis=0)
    stated = np.mean([b.standard_error for b in bounds], axis=0)
    np.testing.assert_allclose(stated, spread, rtol=0.35)


def test_iwae_with_one_sample_is_the_sampled_elbo():
    model, x, _ = make_linear()
    key = jax.random.key(0)
    bound = iwae(model, {}, x, key, num_samples=1)
    terms = contract.terms(model, {}, x, jax.random.fold_in(key, 0))
    expected = terms.log_likelihood + terms.log_prior - terms.log_posterior
    np.testing.assert_allclose(bound.value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(bound.effective_samples, 1.0)


def test_iwae_refuses_uneven_chunks():
    model, x, _ = make_linear()
    with pytest.raises(ValueError, match="num_samples=15"):
        iwae(model, {}, x, jax.random.key(0), num_samples=15, chunk=10)


def test_repeating_pixels_multiplies_the_likelihood_and_leaves_the_kl():
    """Terms are sums, not means: repeating every pixel 2x2 multiplies the log-likelihood by 4."""
    model, x, _ = make_linear()
    big = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
    one = contract.terms(model, {}, x, jax.random.key(0), num_samples=3)
    four = contract.terms(LinearGaussianVAE(repeat=2), {}, big, jax.random.key(0), num_samples=3)
    np.testing.assert_allclose(four.log_likelihood, 4 * one.log_likelihood, rtol=1e-6)
    np.testing.assert_allclose(four.kl_by_level["clip"], one.kl_by_level["clip"], rtol=1e-6)


def make_batch(**kwargs):
    x = make_video(**kwargs)
    return {
        "video": x,
        "mask": np.ones(x.shape[:2], bool),
        "index": np.arange(x.shape[0], dtype=np.int32) + 7,
    }


def test_a_clips_elbo_does_not_depend_on_its_batch():
    model = make_model()
    variables, batch, key = make_variables(model), make_batch(batch=3), jax.random.key(1)
    compute = jax.jit(lambda x, index_B: elbo(model, variables, x, key, index_B=index_B))
    together = compute(batch["video"], batch["index"])
    for i in range(3):
        alone = compute(batch["video"][i : i + 1], batch["index"][i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-6)


def test_elbo_is_likelihood_minus_every_kl():
    model = make_model()
    variables, batch = make_variables(model), make_batch()
    loss, metrics = negative_elbo(model, variables, batch, jax.random.key(0))
    expected = metrics["log_likelihood"] - metrics["kl_frame"] - metrics["kl_clip"]
    np.testing.assert_allclose(metrics["elbo"], expected, rtol=1e-6)
    np.testing.assert_allclose(loss, -expected, rtol=1e-6)


def test_derivative_with_respect_to_beta_is_the_kl():
    model = make_model()
    variables, batch = make_variables(model), make_batch()

    def loss(beta):
        return negative_elbo(model, variables, batch, jax.random.key(0), beta)

    gradient, metrics = jax.grad(loss, has_aux=True)(0.3)
    np.testing.assert_allclose(gradient, metrics["kl"], rtol=1e-5)


def test_free_bits_act_on_a_clip_and_leave_the_reported_elbo():
    kl = {"frame": jnp.array([[1.0, 5.0]]), "clip": jnp.array([[3.0, 0.5]])}
    np.testing.assert_array_equal(free_bits_kl(kl, 2.0), [[5.0, 7.0]])
    np.testing.assert_array_equal(free_bits_kl(kl, 0.0), [[4.0, 5.5]])
    model = make_model()
    variables, batch, key = make_variables(model), make_batch(), jax.random.key(0)
    plain, metrics = negative_elbo(model, variables, batch, key)
    floored, same = negative_elbo(model, variables, batch, key, free_bits=1e4)
    assert float(floored) > float(plain)
    assert float(metrics["elbo"]) == float(same["elbo"])


def test_beta_grows_linearly_and_stays():
    values = [float(beta_schedule(jnp.int32(s), 2.0, 4)) for s in range(6)]
    np.testing.assert_allclose(values, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    assert float(beta_schedule(jnp.int32(0), 2.0, 0)) == 2.0


def test_statistics_receive_no_gradient():
    model = make_model()
    variables, batch = make_variables(model), make_batch()
    gradient = jax.grad(lambda v: negative_elbo(model, v, batch, jax.random.key(0))[0])(variables)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient["stats"]))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient["params"]))
