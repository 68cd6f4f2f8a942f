"""Losses on the decoded video: closed forms, masks, and the ELBO without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_causal import make_named, make_video

from vvae.models.haar import join_bands, split_bands
from vvae.objectives import reconstruction
from vvae.objectives.elbo import negative_elbo


def draw(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_haar_keeps_the_energy_and_sees_a_constant_in_the_means_alone():
    x = draw((2, 4, 6, 8, 3))
    low, details = reconstruction.transform_haar(x)
    assert low.shape == (2, 2, 3, 4, 3) and details.shape == (2, 2, 3, 4, 3, 7)
    energy = jnp.square(low).sum() + jnp.square(details).sum()
    np.testing.assert_allclose(energy, jnp.square(x).sum(), rtol=1e-5)
    low, details = reconstruction.transform_haar(jnp.full((1, 2, 2, 2, 1), 0.5))
    np.testing.assert_allclose(low, 0.5 * np.sqrt(8), rtol=1e-6)
    np.testing.assert_allclose(details, 0.0, atol=1e-7)


def test_haar_bands_are_joined_to_the_video_again():
    x = draw((2, 4, 6, 8, 3))
    np.testing.assert_allclose(join_bands(split_bands(x)), x, rtol=0, atol=1e-6)


def test_haar_of_an_odd_video_keeps_its_first_frame_apart():
    x = draw((1, 5, 3, 3, 1))
    low, details = reconstruction.transform_haar(x)
    changed, _ = reconstruction.transform_haar(x.at[:, 1:].add(1.0))
    assert low.shape == (1, 3, 2, 2, 1) and details.shape == (1, 3, 2, 2, 1, 7)
    np.testing.assert_array_equal(changed[:, 0], low[:, 0])
    assert np.abs(changed[:, 1:] - low[:, 1:]).min() > 0.5


def test_wavelet_error_of_a_constant_difference():
    """A difference d in 8 x 8 x 8 elements: 64 means of d 8^0.5, 8 of d 8, 1 of d 8^1.5."""
    x, d = draw((1, 8, 8, 8, 1)), 0.25
    expected = d * (64 * 8**0.5 + 8 * 8 + 8**1.5) / 3
    np.testing.assert_allclose(reconstruction.wavelet_error(x + d, x), [expected], rtol=1e-4)
    np.testing.assert_array_equal(reconstruction.wavelet_error(x, x), [0.0])


def make_batch(length=5):
    mask = np.ones((2, length), bool)
    mask[1, 3:] = False
    video = make_video(length)
    return {"video": video, "mask": mask, "index": np.arange(2, dtype=np.int32)}


def measure(weights, batch, beta=0.7, perceive=None):
    model, variables = make_named("local")

    @jax.jit
    def compute(variables, batch):
        key = jax.random.key(1)
        judges = reconstruction.Judges(perceive)
        return reconstruction.reconstruction_loss(
            model, variables, batch, key, beta, weights, judges
        )

    return compute(variables, batch)


def test_without_further_terms_it_is_the_negative_elbo():
    model, variables = make_named("local")
    batch = make_batch()
    loss, metrics, _ = measure(reconstruction.Weights(free_bits=2.0), batch)
    expected, scalars = jax.jit(negative_elbo, static_argnums=(0, 5))(
        model, variables, batch, jax.random.key(1), 0.7, 2.0
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert metrics.keys() == scalars.keys()
    for name, value in scalars.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6)


def test_every_term_is_a_sum_over_the_valid_elements_of_a_clip():
    batch = make_batch()
    base, _, fake = measure(reconstruction.Weights(), batch)
    real = batch["video"].astype(np.float32) / 127.5 - 1.0
    error = np.where(batch["mask"][..., None, None, None], np.asarray(fake) - real, 0.0)
    assert np.abs(error[1, :3]).max() > 0.1
    np.testing.assert_allclose(fake[1, 3:], real[1, 3:], atol=1e-6)

    def perceive(x, y):
        return jnp.square(x - y).max((-3, -2, -1))

    frame_elements = real[0, 0].size
    expected = {
        "l1": np.abs(error).sum() / 2,
        "mse": np.square(error).sum() / 2,
        "lpips": frame_elements * np.square(error).max((2, 3, 4)).sum() / 2,
        "wavelet": float(np.mean(reconstruction.wavelet_error(jnp.asarray(error), 0.0 * error))),
    }
    for name, value in expected.items():
        loss, metrics, _ = measure(reconstruction.Weights(**{name: 3.0}), batch, perceive=perceive)
        np.testing.assert_allclose(loss - base, 3.0 * value, rtol=1e-3)
        count = batch["mask"].sum() / 2 * frame_elements
        np.testing.assert_allclose(metrics[name], value / count, rtol=1e-4)


def test_weight_of_the_likelihood():
    batch = make_batch()
    whole, metrics, _ = measure(reconstruction.Weights(), batch)
    half, _, _ = measure(reconstruction.Weights(likelihood=0.5), batch)
    np.testing.assert_allclose(half - whole, 0.5 * metrics["log_likelihood"], rtol=1e-4)


@pytest.mark.parametrize("name", ["l1", "wavelet"])
def test_masked_frames_enter_no_term(name):
    batch = make_batch()
    changed = batch["video"].copy()
    changed[1, 3:] = 255 - changed[1, 3:]
    weights = reconstruction.Weights(**{name: 1.0})
    first, _, _ = measure(weights, batch)
    second, _, _ = measure(weights, batch | {"video": changed})
    assert first == second
