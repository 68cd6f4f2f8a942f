"""The model contract, tested alike for all models: pure, under jit, vmap and grad."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_causal

from vvae.models import contract
from vvae.models.sequential import SequentialVAE
from vvae.objectives.elbo import elbo

SHAPE_HWC = (8, 8, 2)


@functools.cache
def make_sequential():
    model = SequentialVAE(SHAPE_HWC, widths=(4, 4), hidden=8, latent_dim=3, clip_latent_dim=2)
    return model, jax.jit(lambda key: contract.init_variables(model, key))(jax.random.key(0))


MODELS = {
    "sequential": make_sequential,
    "causal": lambda: tiny_causal.make_named("standard"),
    "causal_codes": lambda: tiny_causal.make_named("codes"),
    "wan21": lambda: tiny_causal.make_named("wan21"),
    "wan22": lambda: tiny_causal.make_named("wan22"),
    "ltx": lambda: tiny_causal.make_named("ltx"),
    "vidtok": lambda: tiny_causal.make_named("vidtok"),
}


@pytest.fixture(scope="module", params=MODELS)
def model_and_variables(request):
    return MODELS[request.param]()


@functools.partial(jax.jit, static_argnums=0)
def read(model, variables, x, mask_BT, index_B):
    """Returns everything that is inferred from videos."""
    key = jax.random.key(0)
    return {
        "posterior": contract.encode(model, variables, x, mask_BT),
        "reconstruction": contract.reconstruct(model, variables, x, mask_BT),
        "terms": contract.terms(model, variables, x, key, mask_BT, 2, index_B),
    }


def read_all(model, variables, x):
    batch, length = x.shape[:2]
    return read(model, variables, x, np.ones((batch, length), bool), np.arange(batch))


def test_shapes(model_and_variables):
    model, variables = model_and_variables
    x = tiny_causal.make_video(3)
    found = jax.eval_shape(functools.partial(read_all, model), variables, x)
    assert found["reconstruction"].shape == x.shape
    assert found["reconstruction"].dtype == jnp.float32
    assert {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(found["terms"])} == {
        ((2, 2), jnp.dtype(jnp.float32))
    }
    samples = jax.eval_shape(
        lambda v: contract.sample(model, v, jax.random.key(0), 3, 6), variables
    )
    assert samples.shape == (3, 6, *SHAPE_HWC)


def test_8_bit_video_is_the_same_video(model_and_variables):
    model, variables = model_and_variables
    x = tiny_causal.make_video(3)
    scaled = x.astype(np.float32) / np.float32(127.5) - 1
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        read_all(model, variables, x),
        read_all(model, variables, scaled),
    )


def test_a_clip_has_the_same_terms_in_any_batch(model_and_variables):
    model, variables = model_and_variables
    x, mask = tiny_causal.make_video(3), np.ones((2, 3), bool)
    together = read_all(model, variables, x)
    swapped = read(model, variables, x[::-1], mask, np.array([1, 0]))
    for a, b in zip(
        jax.tree.leaves(together["terms"]), jax.tree.leaves(swapped["terms"]), strict=True
    ):
        np.testing.assert_allclose(a, b[:, ::-1], rtol=1e-5)


def test_reconstruction_is_the_decoded_posterior_mean(model_and_variables):
    model, variables = model_and_variables
    x = tiny_causal.make_video(3)
    found = read_all(model, variables, x)
    latents = model.posterior_mean(found["posterior"])
    y = jax.jit(contract.decode, static_argnums=(0, 3))(model, variables, latents, x.shape[1:4])
    np.testing.assert_allclose(y, found["reconstruction"], rtol=1e-5, atol=1e-5)


def test_vmap_over_batches_equals_one_batch(model_and_variables):
    model, variables = model_and_variables
    x = tiny_causal.make_video(3)
    encode = jax.jit(jax.vmap(lambda x: contract.encode(model, variables, x)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:, 0], b, rtol=1e-4, atol=1e-5),
        encode(x[:, None]),
        read_all(model, variables, x)["posterior"],
    )


def test_gradient_reaches_every_parameter_and_no_statistic(model_and_variables):
    model, variables = model_and_variables
    # The initial values keep some branches at zero: draw others.
    variables = variables | {"params": jax.tree.map(lambda a: a + 0.01, variables["params"])}
    x = tiny_causal.make_video(3)

    def bound(variables):
        return elbo(model, variables, x, jax.random.key(0)).sum()

    gradient = jax.jit(jax.grad(bound))(variables)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    unused = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree.leaves_with_path(gradient["params"])
        if not np.any(leaf)
    ]
    assert unused == []
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["stats"]))


def test_wrong_masks_and_ranks_say_why(model_and_variables):
    model, variables = model_and_variables
    x = tiny_causal.make_video(3)
    with pytest.raises(ValueError, match=r"mask_BT has shape \(2, 4\)"):
        contract.encode(model, variables, x, np.ones((2, 4), bool))
    with pytest.raises(ValueError, match=r"\[B, T, H, W, C\]"):
        contract.encode(model, variables, x[0])
