"""SequentialVAE: shapes, masks, causality by exact zeros, and two paths through its dynamics."""

import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest

from vvae.models import contract, sequential
from vvae.models.sequential import SequentialVAE

SETTINGS = {
    "default": {},
    "filter": {"posterior": "filter"},
    "static": {"prior": "static", "clip_prior": "mixture", "num_components": 3},
    "standard": {"prior": "standard", "likelihood": "discretized_logistic"},
}


def make_model(**settings):
    small = {"widths": (4, 4), "hidden": 8, "latent_dim": 3, "clip_latent_dim": 2}
    return SequentialVAE((8, 8, 1), **small, **settings)


def make_variables(model, seed=0):
    """Draws variables with a standardisation that is not the identity, and no zeros."""
    variables = jitted.init_variables(model, jax.random.key(seed))
    noise = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda a: a + 0.1 * noise.normal(size=a.shape).astype(a.dtype), variables["params"]
    )
    mean_HWC = noise.uniform(-0.3, 0.3, model.shape_HWC).astype(np.float32)
    return {"params": params, "stats": {"mean": mean_HWC, "std": np.float32(0.4)}}


def make_video(batch=2, length=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, length, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module", params=SETTINGS)
def model_and_variables(request):
    model = make_model(**SETTINGS[request.param])
    return model, make_variables(model)


def test_contract_shapes(model_and_variables):
    model, variables = model_and_variables
    x = make_video()
    shapes = jax.eval_shape(
        lambda v: (
            contract.encode(model, v, x),
            contract.reconstruct(model, v, x),
            contract.terms(model, v, x, jax.random.key(0), num_samples=5),
            contract.sample(model, v, jax.random.key(0), 4, 9),
            sequential.predict(model, v, x, jax.random.key(0), 3),
        ),
        variables,
    )
    posterior, reconstruction, terms, sample, prediction = shapes
    assert posterior.frame.mean.shape == (2, 6, 3) and posterior.clip.logvar.shape == (2, 2)
    assert reconstruction.shape == x.shape
    assert {leaf.shape for leaf in jax.tree.leaves(terms)} == {(5, 2)}
    assert sample.shape == (4, 9, 8, 8, 1) and prediction.shape == (2, 3, 8, 8, 1)


def test_posterior_and_surprise_do_not_look_ahead(model_and_variables):
    model, variables = model_and_variables
    x = make_video()
    changed = x.copy()
    changed[:, 4:] = make_video(seed=1)[:, 4:]

    @jax.jit
    def read(video):
        posterior = contract.encode(model, variables, video)
        return posterior.frame.mean, sequential.surprise(model, variables, video)

    for before, after in zip(read(x), read(changed), strict=True):
        np.testing.assert_array_equal(before[:, :4], after[:, :4])
        assert np.abs(np.asarray(before[:, 4:] - after[:, 4:])).max() > 0


def test_masked_frames_enter_no_term(model_and_variables):
    model, variables = model_and_variables
    x, mask = make_video(), np.ones((2, 6), bool)
    mask[:, 0], mask[0, 4:] = False, False
    other = np.where(mask[..., None, None, None], x, make_video(seed=1))

    @jax.jit
    def read(video):
        key = jax.random.key(3)
        terms = contract.terms(model, variables, video, key, mask, num_samples=2)
        clip = contract.encode(model, variables, video, mask).clip
        return terms, clip, sequential.surprise(model, variables, video, mask)

    for before, after in zip(jax.tree.leaves(read(x)), jax.tree.leaves(read(other)), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(read(x)[1].mean, jitted.encode(model, variables, x).clip.mean)


def test_padding_at_the_end_changes_nothing():
    model = make_model()
    variables = make_variables(model)
    x = make_video()
    mask = np.broadcast_to(np.arange(6) < 4, (2, 6))
    long = jitted.terms(model, variables, x, jax.random.key(0), mask)
    posterior_long = jitted.encode(model, variables, x, mask)
    posterior = jitted.encode(model, variables, x[:, :4])
    np.testing.assert_allclose(posterior.clip.mean, posterior_long.clip.mean, rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(long.log_likelihood))


def test_parallel_prior_equals_step_by_step():
    model = make_model()
    variables = make_variables(model)
    rng = np.random.default_rng(0)
    z = jnp.array(rng.normal(size=(2, 6, 3)), jnp.float32)
    w = jnp.array(rng.normal(size=(2, 2)), jnp.float32)
    mask = np.ones((2, 6), bool)
    mask[1, 2] = False
    w_BTW = jnp.repeat(w[:, None], 6, axis=1)
    parallel = jitted.apply(model, variables, z, w_BTW, mask, method="frame_prior")
    state = model.apply(variables, 2, method="begin_dynamics")
    for t in range(6):
        step = jitted.apply(model, variables, state, w, method="predict_frame")
        np.testing.assert_allclose(parallel.mean[:, t], step.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(parallel.logvar[:, t], step.logvar, rtol=1e-5, atol=1e-6)
        observed = z[:, t], mask[:, t]
        state = jitted.apply(model, variables, state, *observed, method="observe_frame")


def test_level_kl_sums_to_the_terms():
    model = make_model()
    variables = make_variables(model)
    x, key = make_video(), jax.random.key(5)
    mask = np.ones((2, 6), bool)
    mask[0, 5] = False
    by_dim = jitted.level_kl(model, variables, x, key, mask)
    terms = jitted.terms(model, variables, x, key, mask)
    frame, clip = by_dim["frame"].sum((1, 2)), by_dim["clip"].sum(1)
    np.testing.assert_allclose(frame, terms.kl_by_level["frame"][0], rtol=1e-5)
    np.testing.assert_allclose(clip, terms.kl_by_level["clip"][0], rtol=1e-5)


def test_gaussian_likelihood_is_a_density_over_8_bit_values():
    """log p(x) is log N of the 8-bit values 127.5 (x + 1) with scale 127.5 std sigma."""
    model = make_model()
    variables = make_variables(model)
    x = make_video()
    latents = model.posterior_mean(jitted.encode(model, variables, x))
    scaled = contract.as_unit_range(x)
    got = jitted.apply(model, variables, scaled, latents, method="frame_log_likelihood")
    mean = 127.5 * (np.asarray(jitted.decode(model, variables, latents), np.float64) + 1.0)
    log_sigma = float(jitted.apply(model, variables, method="effective_log_sigma"))
    scale = 127.5 * 0.4 * np.exp(log_sigma)
    density = -0.5 * ((x - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(got, density.sum((2, 3, 4)), rtol=1e-5)


def test_sigma_is_floored_at_one_value_of_256():
    model = make_model()
    variables = make_variables(model)
    variables["params"]["log_sigma"] = jnp.float32(-50.0)
    log_sigma = float(jitted.apply(model, variables, method="effective_log_sigma"))
    np.testing.assert_allclose(np.exp(log_sigma) * 0.4, 2 / 256, rtol=1e-5)


def test_static_prior_ignores_the_past():
    model = make_model(prior="static")
    variables = make_variables(model)
    w_BTW, mask = jnp.ones((2, 6, 2)), np.ones((2, 6), bool)
    past, other = jnp.zeros((2, 6, 3)), jnp.ones((2, 6, 3))
    a = jitted.apply(model, variables, past, w_BTW, mask, method="frame_prior")
    b = jitted.apply(model, variables, other, w_BTW, mask, method="frame_prior")
    np.testing.assert_array_equal(a.mean, b.mean)


def test_zero_temperature_follows_the_mean():
    model = make_model()
    variables = make_variables(model)
    x = make_video()
    a = sequential.predict(model, variables, x, jax.random.key(0), 3, temperature=0.0)
    b = sequential.predict(model, variables, x, jax.random.key(1), 3, temperature=0.0)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"prior": "linear"}, "prior='linear'"), ({"widths": (4, 4, 4, 4)}, "frames of 8x8")],
)
def test_impossible_models_say_why(settings, text):
    model = SequentialVAE((8, 8, 1), **({"widths": (4,)} | settings))
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(lambda key: contract.init_variables(model, key), jax.random.key(0))


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.zeros((2, 8, 8, 1), np.uint8), "must have shape"),
        (np.zeros((1, 2, 8, 8, 1), np.int32), "not int32"),
        (np.zeros((1, 2, 8, 16, 1), np.uint8), "takes frames of"),
    ],
)
def test_wrong_videos_say_why(x, text):
    model = make_model()
    with pytest.raises(ValueError, match=text):
        contract.encode(model, make_variables(model), x)


def test_a_fresh_mixture_prior_is_the_standard_normal():
    mixture, normal = make_model(clip_prior="mixture", num_components=3), make_model()
    w = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    log_prior = []
    for model in (mixture, normal):
        variables = jitted.init_variables(model, jax.random.key(0))
        log_prior.append(jitted.apply(model, variables, w, method="clip_log_prior"))
    np.testing.assert_allclose(log_prior[0], log_prior[1], rtol=1e-5)


def test_a_replaced_clip_prior_is_that_of_the_model():
    model = make_model(clip_prior="mixture", num_components=3)
    variables = make_variables(model)
    other = jitted.apply(model, make_variables(model, seed=1), method="clip_prior_mixture")
    params = sequential.replace_clip_prior(variables["params"], other)
    replaced = jitted.apply(model, {**variables, "params": params}, method="clip_prior_mixture")
    jax.tree.map(np.testing.assert_array_equal, replaced, other)
    assert {name for name in params if params[name] is not variables["params"][name]} == {
        "mixture_logits",
        "mixture_mean",
        "mixture_logvar",
    }
