"""Densities and divergences against closed forms, SciPy and sums over all values."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from vvae import distributions as dist
from vvae.distributions import Gaussian, GaussianMixture


def make_gaussian(seed, shape=(4, 3)):
    rng = np.random.default_rng(seed)
    return Gaussian(jnp.array(rng.normal(size=shape)), jnp.array(rng.normal(size=shape)))


def test_gaussian_log_prob_is_scipys():
    q = make_gaussian(0)
    x = np.random.default_rng(1).normal(size=(4, 3))
    expected = stats.norm(q.mean, np.exp(0.5 * np.asarray(q.logvar))).logpdf(x)
    np.testing.assert_allclose(dist.gaussian_log_prob(q, jnp.array(x)), expected, rtol=1e-5)


def test_gaussian_kl_is_its_integral():
    q, p = Gaussian(jnp.array(0.3), jnp.array(-0.7)), Gaussian(jnp.array(-1.1), jnp.array(0.4))

    def integrand(x):
        log_q = dist.gaussian_log_prob(q, jnp.array(x))
        return float(jnp.exp(log_q) * (log_q - dist.gaussian_log_prob(p, jnp.array(x))))

    expected = integrate.quad(integrand, -8, 8)[0]
    np.testing.assert_allclose(dist.gaussian_kl(q, p), expected, rtol=1e-4)


def test_gaussian_kl_is_zero_only_at_itself():
    q = make_gaussian(2)
    np.testing.assert_array_equal(dist.gaussian_kl(q, q), np.zeros((4, 3)))
    assert float(dist.gaussian_kl(q, make_gaussian(3)).min()) > 0


def test_mixture_of_equal_components_is_a_gaussian():
    mixture = GaussianMixture(jnp.array([0.3, -2.0]), jnp.ones((2, 3)), jnp.full((2, 3), 0.5))
    x = jnp.array(np.random.default_rng(0).normal(size=(5, 3)))
    single = Gaussian(jnp.ones(3), jnp.full(3, 0.5))
    expected = jax.vmap(lambda row: dist.gaussian_log_prob(single, row).sum())(x)
    np.testing.assert_allclose(dist.mixture_log_prob(mixture, x), expected, rtol=1e-5)
    weights = np.exp([0.3, -2.0]) / np.exp([0.3, -2.0]).sum()
    responsibilities = dist.mixture_responsibilities(mixture, x)
    np.testing.assert_allclose(responsibilities, np.tile(weights, (5, 1)), rtol=1e-5)


def test_mixture_samples_have_its_mean():
    mixture = GaussianMixture(
        jnp.log(jnp.array([0.25, 0.75])), jnp.array([[-2.0], [2.0]]), jnp.full((2, 1), -4.0)
    )
    samples = dist.sample_mixture(mixture, jax.random.key(0), 4000)
    np.testing.assert_allclose(dist.mixture_mean(mixture), [1.0], rtol=1e-6)
    np.testing.assert_allclose(samples.mean(), 1.0, atol=0.1)


def test_bernoulli_probabilities_sum_to_one():
    logits = jnp.linspace(-30, 30, 7)
    total = jnp.exp(dist.bernoulli_log_prob(logits, jnp.zeros(7)))
    total += jnp.exp(dist.bernoulli_log_prob(logits, jnp.ones(7)))
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)


def test_discretized_logistic_sums_to_one_over_all_values():
    values = jnp.arange(256) / 127.5 - 1.0
    for mean in (-1.4, -0.2, 0.0, 0.998, 1.0):
        for log_scale in (-6.0, -3.0, 0.0):
            log_p = dist.discretized_logistic_log_prob(
                jnp.full(256, mean), jnp.full(256, log_scale), values
            )
            np.testing.assert_allclose(jnp.exp(log_p).sum(), 1.0, rtol=2e-4)


def test_discretized_logistic_is_a_difference_of_cdfs():
    k = np.array([3, 100, 200])
    x = k / 127.5 - 1.0
    logistic = stats.logistic(loc=0.1, scale=0.2)
    expected = np.log(logistic.cdf(x + 1 / 255) - logistic.cdf(x - 1 / 255))
    got = dist.discretized_logistic_log_prob(
        jnp.full(3, 0.1), jnp.log(jnp.full(3, 0.2)), jnp.array(x)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_bfloat16_is_raised_and_gradients_stay_finite():
    log_p = dist.discretized_logistic_log_prob(
        jnp.zeros(1, jnp.bfloat16), jnp.full(1, -12.0, jnp.bfloat16), jnp.ones(1)
    )
    assert log_p.dtype == jnp.float32
    gradient = jax.grad(
        lambda m: dist.discretized_logistic_log_prob(m, jnp.float32(-7.0), jnp.float32(0.9))
    )(jnp.float32(-0.9))
    assert np.isfinite(gradient)
