"""EM for the mixture prior: the bound never falls, planted mixtures, scikit-learn, edge cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.mixture import GaussianMixture as SklearnMixture

from vvae import distributions as dist
from vvae.distributions import Gaussian, GaussianMixture
from vvae.models import mixture_prior

CENTRES = np.array([[0.0, 0.0, 3.0], [4.0, 0.0, 0.0], [0.0, -4.0, 0.0], [-3.0, 3.0, -3.0]])
DEVIATION = np.array([[0.3, 0.5, 0.4], [0.6, 0.2, 0.5], [0.4, 0.4, 0.2], [0.5, 0.6, 0.3]])
WEIGHT = np.array([0.4, 0.3, 0.2, 0.1])


def draw_posterior(count=4000, logvar=-2.0, seed=0):
    """Draws q(w | x) of clips from a planted mixture, and the component of each clip."""
    rng = np.random.default_rng(seed)
    component = rng.choice(4, count, p=WEIGHT)
    between = np.sqrt(np.maximum(DEVIATION**2 - np.exp(logvar), 0))
    mean = CENTRES[component] + between[component] * rng.normal(size=(count, 3))
    return Gaussian(mean, np.full_like(mean, logvar)), component


def overlapping_posterior(seed=1, count=300):
    """Returns posteriors of very different widths without clusters: EM takes many iterations."""
    rng = np.random.default_rng(seed)
    return Gaussian(rng.normal(size=(count, 2)) ** 3, rng.uniform(-8, 1, (count, 2)))


def spread_mixture(num_components=5, seed=3):
    rng = np.random.default_rng(seed)
    shape = (num_components, 2)
    return GaussianMixture(rng.normal(size=shape[0]), rng.normal(size=shape), np.zeros(shape))


def test_the_bound_never_falls(monkeypatch):
    monkeypatch.setattr(mixture_prior, "MAX_ITERATIONS", 1)
    posterior, mixture = overlapping_posterior(), spread_mixture()
    bounds = [mixture_prior.measure_bound(mixture, posterior)]
    for _ in range(60):
        mixture = mixture_prior.refine_mixture(mixture, posterior)
        bounds.append(mixture_prior.measure_bound(mixture, posterior))
    assert np.diff(bounds).min() > -1e-12
    assert bounds[-1] > bounds[0] + 1


def test_the_bound_is_an_integral_for_one_component_and_below_it_for_more():
    posterior = Gaussian(np.array([[0.4]]), np.array([[-0.5]]))
    width = np.exp(-0.25)

    def expect(mixture):
        arrays = jax.tree.map(jnp.asarray, mixture)

        def integrand(w):
            log_prior = dist.mixture_log_prob(arrays, jnp.array([w]))
            return stats.norm(0.4, width).pdf(w) * float(log_prior)

        return integrate.quad(integrand, -6, 7, epsabs=1e-6)[0]

    one = GaussianMixture(np.array([0.3]), np.array([[-1.0]]), np.array([[0.7]]))
    assert mixture_prior.measure_bound(one, posterior) == pytest.approx(expect(one), abs=1e-4)
    two = GaussianMixture(np.zeros(2), np.array([[-1.0], [1.0]]), np.full((2, 1), -0.5))
    assert mixture_prior.measure_bound(two, posterior) < expect(two) - 1e-3


def test_a_maximum_of_the_bound_has_no_gradient():
    posterior = overlapping_posterior()
    fitted = mixture_prior.fit_mixture(posterior, 3, seed=0)
    bound = mixture_prior.measure_bound(fitted, posterior)
    for name in ("logits_K", "mean_KZ", "logvar_KZ"):
        array = getattr(fitted, name)
        for place in np.ndindex(array.shape):
            for step in (-0.05, 0.05):
                moved = array.copy()
                moved[place] += step
                assert mixture_prior.measure_bound(fitted.replace(**{name: moved}), posterior) < (
                    bound + 1e-6
                )


def test_a_planted_mixture_is_recovered():
    posterior, component = draw_posterior()
    fitted = mixture_prior.fit_mixture(posterior, 4, seed=0)
    distance = np.square(fitted.mean_KZ[:, None] - CENTRES[None]).sum(axis=2)
    order = distance.argmin(axis=0)
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(fitted.mean_KZ[order], CENTRES, atol=0.1)
    # No component can be narrower than exp(logvar / 2).
    expected = np.maximum(DEVIATION, np.exp(-1.0))
    np.testing.assert_allclose(np.exp(0.5 * fitted.logvar_KZ[order]), expected, rtol=0.08)
    np.testing.assert_allclose(np.exp(fitted.logits_K[order]), WEIGHT, atol=0.02)
    share = dist.mixture_responsibilities(
        jax.tree.map(jnp.asarray, fitted), jnp.asarray(posterior.mean)
    )
    assert np.mean(order[component] == np.asarray(share).argmax(axis=1)) > 0.99


def test_without_posterior_variance_it_is_the_mixture_of_scikit_learn():
    posterior = overlapping_posterior()
    posterior = posterior.replace(logvar=np.full_like(posterior.mean, -60.0))
    start = spread_mixture(3)
    reference = SklearnMixture(
        3,
        covariance_type="diag",
        reg_covar=0.0,
        tol=mixture_prior.TOLERANCE,
        max_iter=mixture_prior.MAX_ITERATIONS,
        means_init=start.mean_KZ,
        weights_init=np.exp(start.logits_K) / np.exp(start.logits_K).sum(),
        precisions_init=np.exp(-start.logvar_KZ),
    ).fit(posterior.mean)
    fitted = mixture_prior.refine_mixture(start, posterior)
    assert mixture_prior.measure_bound(fitted, posterior) == pytest.approx(
        reference.score(posterior.mean), abs=1e-3
    )
    np.testing.assert_allclose(fitted.mean_KZ, reference.means_, atol=0.05)
    np.testing.assert_allclose(np.exp(fitted.logvar_KZ), reference.covariances_, rtol=0.1)


def test_one_iteration_is_that_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(mixture_prior, "MAX_ITERATIONS", 1)
    posterior = overlapping_posterior()
    posterior = posterior.replace(logvar=np.full_like(posterior.mean, -60.0))
    start = spread_mixture(3)
    reference = SklearnMixture(3, covariance_type="diag", reg_covar=0.0)
    reference.weights_ = np.exp(start.logits_K) / np.exp(start.logits_K).sum()
    reference.means_, reference.covariances_ = start.mean_KZ, np.exp(start.logvar_KZ)
    reference.precisions_cholesky_ = np.exp(-0.5 * start.logvar_KZ)
    _, log_share = reference._e_step(posterior.mean)
    reference._m_step(posterior.mean, log_share)
    fitted = mixture_prior.refine_mixture(start, posterior)
    np.testing.assert_allclose(np.exp(fitted.logits_K), reference.weights_, rtol=1e-9)
    np.testing.assert_allclose(fitted.mean_KZ, reference.means_, rtol=1e-9)
    np.testing.assert_allclose(np.exp(fitted.logvar_KZ), reference.covariances_, rtol=1e-6)


def test_a_component_without_clips_keeps_its_place_and_the_least_weight():
    posterior, _ = draw_posterior(200)
    start = GaussianMixture(
        np.zeros(3),
        np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1e6, 0.0, 0.0]]),
        np.zeros((3, 3)),
    )
    fitted = mixture_prior.refine_mixture(start, posterior)
    assert np.exp(fitted.logits_K[2]) == pytest.approx(mixture_prior.MIN_WEIGHT)
    assert np.exp(fitted.logits_K).sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(fitted.mean_KZ[2], start.mean_KZ[2])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))


def test_clips_that_are_all_alike_are_fitted():
    posterior = Gaussian(np.full((6, 2), 0.7), np.full((6, 2), -80.0))
    fitted = mixture_prior.fit_mixture(posterior, 3, seed=0)
    np.testing.assert_allclose(fitted.mean_KZ, 0.7)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        ([3.0, 1.0], [0.75, 0.25]),
        ([1.0, 0.0], [1 - 1e-4, 1e-4]),
        # The second falls below the smallest weight only after the third was raised to it.
        ([1 - 1.00005e-4, 1.00005e-4, 0.0], [1 - 2e-4, 1e-4, 1e-4]),
    ],
)
def test_weights_are_shares_with_a_least_one(count, expected):
    weight = mixture_prior._fit_weights(np.array(count))
    np.testing.assert_allclose(weight, expected, rtol=1e-9)


def test_a_seed_gives_one_fit():
    posterior = overlapping_posterior()
    first, again = (mixture_prior.fit_mixture(posterior, 4, seed=7) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_bad_input_is_told():
    posterior, _ = draw_posterior(3)
    with pytest.raises(ValueError, match="cannot fit a mixture of 4 components to 3 clips"):
        mixture_prior.fit_mixture(posterior, 4, seed=0)
    posterior.mean[1, 2] = np.nan
    with pytest.raises(ValueError, match="the posterior of clip 1 is not finite"):
        mixture_prior.fit_mixture(posterior, 2, seed=0)
