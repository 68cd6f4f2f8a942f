"""The model contract, tested alike for all models: pure, under jit, vmap and grad."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_causal

from vvae.inference import streaming, tiling
from vvae.models import contract, sequential
from vvae.models.sequential import SequentialVAE
from vvae.objectives.elbo import elbo
from vvae.pretrained.mochi import MochiVAE

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
} | {name: functools.partial(tiny_causal.make_named, name) for name in tiny_causal.OTHERS}


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
    # The sines of a Mochi turn 128 times per unit: they tell how pixels are rounded.
    tolerance = 1e-3 if isinstance(model, MochiVAE) else 1e-4
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
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


def test_a_posterior_in_the_place_of_latents_says_what_to_give(model_and_variables):
    model, variables = model_and_variables
    shapes = jax.eval_shape(
        functools.partial(read_all, model), variables, tiny_causal.make_video(3)
    )
    posterior = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes["posterior"])
    with pytest.raises(
        ValueError, match=r"not a posterior .*give model\.posterior_mean\(posterior\)"
    ):
        contract.decode(model, variables, posterior)
    contract.check_latents(model.posterior_mean(posterior))


@pytest.mark.parametrize("name", ["causal", "causal_codes"])
def test_a_posterior_is_refused_by_every_way_of_decoding(name):
    model, variables = MODELS[name]()
    x = tiny_causal.make_video(3)
    shapes = jax.eval_shape(functools.partial(contract.encode, model), variables, x)
    posterior = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    ways = {
        "chunk": lambda: streaming.decode_chunk(
            model, variables, streaming.begin_decode(), posterior
        ),
        "video": lambda: next(
            streaming.decode_video(model, variables, iter([posterior]), x.shape[1:4])
        ),
        "blended": lambda: tiling.decode_blended(model, variables, posterior),
    }
    for way in ways.values():
        with pytest.raises(ValueError, match=r"give model\.posterior_mean"):
            way()


READERS = {
    "encode": contract.encode,
    "reconstruct": contract.reconstruct,
    "elbo": lambda model, variables, x: elbo(model, variables, x, jax.random.key(0)),
    "surprise": sequential.surprise,
    "level_kl": lambda model, variables, x: sequential.level_kl(
        model, variables, x, jax.random.key(0)
    ),
    "stream": lambda model, variables, x: sequential.stream(
        model, variables, sequential.begin_stream(model, variables, len(x)), x
    ),
}


def read_shapes(reader, x):
    """Reads a video whose values are known, without computing anything from them."""
    model, variables = make_sequential()
    return jax.eval_shape(lambda: READERS[reader](model, variables, x))


def make_ramp(low, high):
    return np.linspace(low, high, 3 * 8 * 8 * 2, dtype=np.float32).reshape(1, 3, *SHAPE_HWC)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("high", [1, 255])
def test_a_float_video_without_negative_values_is_a_warning(reader, high):
    for x in (make_ramp(0, high), jnp.asarray(make_ramp(0, high), jnp.bfloat16)):
        with pytest.warns(UserWarning, match=rf"from 0 to {high}, .* floats in \[-1, 1\]"):
            read_shapes(reader, x)


@pytest.mark.parametrize("reader", READERS)
def test_other_videos_are_no_warning(reader):
    model, variables = make_sequential()
    ramp, ones = make_ramp(-1, 1), np.ones((1, 3, *SHAPE_HWC), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for x in (ramp, jnp.asarray(ramp), ones, -ones, 0 * ones, (255 * ones).astype(np.uint8)):
            read_shapes(reader, x)
        # Traced values are not known.
        jax.eval_shape(functools.partial(READERS[reader], model, variables), make_ramp(0, 1))


def test_the_warning_of_a_call_outside_jit_names_the_line_of_the_call():
    model, variables = make_sequential()
    with pytest.warns(UserWarning, match="from 0 to 1,") as caught:
        contract.encode(model, variables, make_ramp(0, 1))
    assert caught[0].filename == __file__
