"""CausalVideoVAE: exact causality, any length and size, masks, dtypes, terms by closed forms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_causal import (
    IMPORTED,
    LOOKING_AHEAD,
    NAMES,
    make_exact,
    make_model,
    make_named,
    make_video,
)

from vvae.models import causal, causal_blocks, contract, stem
from vvae.models.bottleneck import FiniteScalars, GaussianLatents
from vvae.models.causal import CausalVideoVAE


@functools.partial(jax.jit, static_argnums=0)
def encode_mean(model, variables, x):
    return model.posterior_mean(contract.encode(model, variables, x))


decode = jax.jit(contract.decode, static_argnums=(0, 3))
encode = jax.jit(contract.encode, static_argnums=0)
compute_terms = jax.jit(contract.terms, static_argnums=(0, 5))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_looks_ahead(name):
    """A change of the frames after k leaves the latents of frames <= k unchanged, bit by bit."""
    model, variables = make_named(name)
    step = model.temporal_compression
    x, other = make_video(1 + 2 * step), make_video(1 + 2 * step, seed=1)
    z = encode_mean(model, variables, x)
    assert z.shape == (2, 3, 2, 2, model.bottleneck.channels)
    y = decode(model, variables, z)
    assert y.shape == x.shape
    for latent in (0, 1):
        last = latent * step  # the last frame of this latent frame
        changed = x.copy()
        changed[:, last + 1 :] = other[:, last + 1 :]
        z_changed = encode_mean(model, variables, changed)
        np.testing.assert_array_equal(z[:, : latent + 1], z_changed[:, : latent + 1])
        assert np.abs(z - z_changed)[:, latent + 1].max() > 0
        moved = z.at[:, latent + 1 :].add(1.0)
        y_moved = decode(model, variables, moved)
        np.testing.assert_array_equal(y[:, : last + 1], y_moved[:, : last + 1])
        # The very next frame may change, and does.
        assert np.abs(y - y_moved)[:, last + 1].max() > 0


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_an_encoder_may_be_causal_alone(name):
    model, variables = make_named(name)
    step = model.temporal_compression
    x, other = make_video(1 + 2 * step), make_video(1 + 2 * step, seed=1)
    z = encode_mean(model, variables, x)
    changed = np.concatenate([x[:, : step + 1], other[:, step + 1 :]], axis=1)
    z_changed = encode_mean(model, variables, changed)
    np.testing.assert_array_equal(z[:, :2], z_changed[:, :2])
    assert np.abs(z - z_changed)[:, 2].max() > 0
    # The frames of latent frame 1 see latent frame 2.
    assert not model.decodes_causally
    y, moved = decode(model, variables, z), decode(model, variables, z.at[:, 2:].add(1.0))
    assert y.shape == x.shape and np.abs(y - moved)[:, : step + 1].max() > 0


@pytest.mark.parametrize("name", ["local", "standard", *IMPORTED, *LOOKING_AHEAD])
def test_every_earlier_frame_is_seen(name):
    """The converse of causality: latent frame 1 depends on each of its frames, even the last."""
    model, variables = make_named(name)
    x = contract.as_unit_range(make_video(1 + model.temporal_compression, batch=1))

    @jax.jit
    def gradient(x):
        return jax.grad(lambda x: encode_mean(model, variables, x)[:, 1].sum())(x)

    assert np.all(np.abs(gradient(x)).max((0, 2, 3, 4)) > 0)


@pytest.mark.parametrize(
    ("length", "size"), [(1, (8, 8)), (2, (5, 9)), (4, (1, 1)), (5, (4, 3)), (6, (1, 12))]
)
def test_any_length_and_size_comes_back_whole(length, size):
    model, variables = make_named("standard")
    x = jax.ShapeDtypeStruct((2, length, *size, 2), jnp.uint8)
    shapes = jax.eval_shape(
        lambda x: (
            contract.encode(model, variables, x),
            contract.reconstruct(model, variables, x),
            contract.terms(model, variables, x, jax.random.key(0), num_samples=3),
        ),
        x,
    )
    posterior, reconstruction, terms = shapes
    grid = (1 + math.ceil((length - 1) / 4), math.ceil(size[0] / 4), math.ceil(size[1] / 4))
    assert posterior.mean.shape == posterior.logvar.shape == (2, *grid, 3)
    assert reconstruction.shape == x.shape
    assert {leaf.shape for leaf in jax.tree.leaves(terms)} == {(3, 2)}


@pytest.mark.parametrize(
    ("f_t", "f_s", "stem_name"),
    [
        (1, 4, "patch"),
        (2, 8, "wavelet"),
        (4, 16, "none"),
        (8, 32, "wavelet"),
        (8, 4, "patch"),
        (8, 4, "none"),
        (1, 32, "none"),
    ],
)
def test_every_compression(f_t, f_s, stem_name):
    in_space = int(math.log2(f_s)) - (stem_name != "none")
    widths = (2,) * (1 + max(in_space, int(math.log2(f_t))))
    model = make_model(
        widths=widths, temporal_compression=f_t, spatial_compression=f_s, stem=stem_name
    )
    variables = jax.eval_shape(lambda key: contract.init_variables(model, key), jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, f_t + 2, f_s + 1, f_s, 2), jnp.uint8)
    z, y = jax.eval_shape(
        lambda v, x: (contract.encode(model, v, x).mean, contract.reconstruct(model, v, x)),
        variables,
        x,
    )
    assert z.shape == (1, 3, 2, 1, 3) and y.shape == x.shape


def test_missing_frames_rows_and_columns_are_repetitions():
    """7 frames of 5x6 are padded to 9 frames of 8x8 by repeating the last ones."""
    model, variables = make_named("standard")
    x = make_video(7, size=(5, 6))
    full = np.pad(x, ((0, 0), (0, 2), (0, 3), (0, 2), (0, 0)), mode="edge")
    z, z_full = encode_mean(model, variables, x), encode_mean(model, variables, full)
    np.testing.assert_array_equal(z, z_full)
    whole = decode(model, variables, z)
    np.testing.assert_array_equal(decode(model, variables, z, (7, 5, 6)), whole[:, :7, :5, :6])


@pytest.mark.parametrize("name", ["standard", "codes"])
def test_masked_frames_enter_no_term(name):
    model, variables = make_named(name)
    x, mask = make_video(9), np.ones((2, 9), bool)
    mask[0, 3:], mask[1, 0], mask[1, 6] = False, False, False
    other = np.where(mask[..., None, None, None], x, make_video(9, seed=1))

    @jax.jit
    def read(x, mask):
        terms = contract.terms(model, variables, x, jax.random.key(0), mask, num_samples=2)
        return terms, contract.encode(model, variables, x, mask)

    jax.tree.map(np.testing.assert_array_equal, read(x, mask), read(other, mask))
    full = read(x, np.ones_like(mask))[0]
    assert np.all(full.log_likelihood != read(x, mask)[0].log_likelihood)


@pytest.mark.parametrize("name", ["standard", "codes"])
def test_a_masked_end_equals_a_shorter_video(name):
    model, variables = make_named(name)
    x, key = make_video(9), jax.random.key(0)
    mask = np.broadcast_to(np.arange(9) < 6, (2, 9))
    kl = compute_terms(model, variables, x, key, mask).kl_by_level["grid"]
    kl_short = compute_terms(model, variables, x[:, :6], key).kl_by_level["grid"]
    np.testing.assert_allclose(kl, kl_short, rtol=1e-5)
    z = model.posterior_mean(encode(model, variables, x, mask))
    z_short = encode_mean(model, variables, x[:, :6])
    count = z_short.shape[1]
    np.testing.assert_allclose(z[:, :count], z_short, rtol=1e-5, atol=1e-6)
    valid = np.asarray(model.latent_mask(jnp.asarray(mask)))
    np.testing.assert_array_equal(valid, np.arange(valid.shape[1])[None].repeat(2, 0) < count)


def test_terms_are_the_closed_forms():
    """Likelihood in 8-bit units, densities and KL equal those of NumPy in float64."""
    model, variables = make_named("local")
    x = make_video(6, size=(5, 7))
    posterior = encode(model, variables, x)
    key = jax.random.key(3)
    terms = compute_terms(model, variables, x, key, None, 2)
    key_B = contract.split_key(key, x, None)
    z_K = model.bottleneck.sample(posterior, key_B, 2)
    log_sigma = np.asarray(model.apply(variables, method="effective_log_sigma"), np.float64)
    scale = 127.5 * np.asarray(variables["stats"]["std"], np.float64) * np.exp(log_sigma)
    mean, logvar = (np.asarray(a, np.float64) for a in (posterior.mean, posterior.logvar))
    for k, z in enumerate(z_K):
        y = 127.5 * (np.asarray(decode(model, variables, z, (6, 5, 7)), np.float64) + 1)
        density = -0.5 * ((x - y) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(terms.log_likelihood[k], density.sum((1, 2, 3, 4)), rtol=1e-5)
        z = np.asarray(z, np.float64)
        log_prior = -0.5 * (z**2 + np.log(2 * np.pi))
        np.testing.assert_allclose(terms.log_prior[k], log_prior.sum((1, 2, 3, 4)), rtol=1e-5)
        log_q = -0.5 * ((z - mean) ** 2 / np.exp(logvar) + logvar + np.log(2 * np.pi))
        np.testing.assert_allclose(terms.log_posterior[k], log_q.sum((1, 2, 3, 4)), rtol=1e-5)
        kl = 0.5 * (np.exp(logvar) + mean**2 - 1 - logvar)
        np.testing.assert_allclose(terms.kl_by_level["grid"][k], kl.sum((1, 2, 3, 4)), rtol=1e-5)


def test_sigma_is_floored_at_one_value_of_256_in_every_channel():
    model, variables = make_named("local")
    variables = variables | {"params": variables["params"] | {"log_sigma": jnp.float32(-50.0)}}
    log_sigma = model.apply(variables, method="effective_log_sigma")
    floor = np.log(2 / 256) - np.log(variables["stats"]["std"])
    np.testing.assert_allclose(log_sigma, floor, rtol=1e-6)


# --- finite scalars ------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(2,), (3,), (5,), (8,), (8, 5, 2)])
def test_every_level_is_reached_and_no_other(levels):
    codes = FiniteScalars(levels)
    outputs = np.repeat(np.linspace(-9, 9, 4001, dtype=np.float32)[:, None], len(levels), axis=1)
    values = np.asarray(codes.posterior(jnp.asarray(outputs)).values)
    index = np.asarray(codes.indices(values))
    for channel, count in enumerate(levels):
        assert list(np.unique(index[:, channel])) == list(range(count))
        assert np.all(np.diff(index[:, channel]) >= 0)
        # The values of Mentzer et al.: integers around 0, divided by L // 2.
        expected = (np.arange(count) - count // 2) / (count // 2)
        np.testing.assert_allclose(np.unique(values[:, channel]), expected, atol=1e-6)


def test_the_gradient_passes_the_rounding():
    """It is the gradient of the bounding tanh, which the values follow to within half a level."""
    codes = FiniteScalars((5,))
    outputs = jnp.linspace(-1.5, 1.5, 13)[:, None]
    gradient = jax.grad(lambda o: codes.posterior(o).values.sum())(outputs)
    expected = (1 - np.tanh(outputs) ** 2) * 2.0 * 1.001 / 2
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_codes_cost_the_logarithm_of_their_number():
    model, variables = make_named("codes")
    x = make_video(3)
    terms = compute_terms(model, variables, x, jax.random.key(0))
    nats = 3 * 2 * 2 * np.log(9 * 8 * 2)
    np.testing.assert_allclose(terms.kl_by_level["grid"], nats, rtol=1e-6)
    np.testing.assert_allclose(terms.log_posterior - terms.log_prior, nats, rtol=1e-6)
    prior = model.bottleneck.sample_prior(jax.random.key(0), (200,))
    index = np.asarray(model.bottleneck.indices(prior))
    assert [list(np.unique(column)) for column in index.T] == [[*range(9)], [*range(8)], [0, 1]]


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes(dtype):
    """Activations in the given dtype; parameters, posterior, video and terms in float32."""
    model = make_model(dtype=dtype)
    variables = jax.eval_shape(lambda key: contract.init_variables(model, key), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    x = jax.ShapeDtypeStruct((1, 5, 8, 8, 2), jnp.uint8)

    def read(variables, x):
        past, posterior = model.apply(
            variables, None, contract.as_unit_range(x), method="extend_encode"
        )
        terms = contract.terms(model, variables, x, jax.random.key(0))
        return past, posterior, terms, contract.reconstruct(model, variables, x)

    past, *results = jax.eval_shape(read, variables, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(past)} == {jnp.dtype(dtype)}


def test_norms_are_computed_in_float32():
    """Large bfloat16 values whose squares need more than 8 bits are normalised as in float32."""
    x = jnp.asarray(np.random.default_rng(0).normal(300, 1, (1, 1, 2, 2, 64)), jnp.bfloat16)
    for kind in causal_blocks.NORMS:
        norm = causal_blocks.Norm(causal_blocks.LayerSpec(norm=kind))
        variables = norm.init(jax.random.key(0), x)
        exact = norm.apply(variables, x.astype(jnp.float32))
        np.testing.assert_array_equal(norm.apply(variables, x), exact)


def test_gradient_equals_finite_differences():
    """For the ELBO along a random direction, in float64; and zero for the standardisation."""
    with jax.enable_x64(True):
        model, variables = make_exact("standard")
        x = np.float64(contract.as_unit_range(make_video(5)))

        @jax.jit
        def elbo(variables):
            terms = contract.terms(model, variables, x, jax.random.key(0))
            return (terms.log_likelihood - terms.kl_by_level["grid"]).mean()

        gradient = jax.jit(jax.grad(elbo))(variables)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient["stats"]))
        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda a: rng.normal(size=a.shape), variables["params"])

        def move(size):
            params = jax.tree.map(lambda a, d: a + size * d, variables["params"], direction)
            return float(elbo(variables | {"params": params}))

        numeric = (move(1e-6) - move(-1e-6)) / 2e-6
        pairs = zip(jax.tree.leaves(gradient["params"]), jax.tree.leaves(direction), strict=True)
        assert sum(np.vdot(g, d) for g, d in pairs) == pytest.approx(numeric, rel=1e-6)


def test_stems_are_orthonormal():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 6, 2)), jnp.float32)
    for name in stem.STEMS:
        y = stem.fold(x, name)
        assert y.shape == (2, 3, 2, 3, 8)
        np.testing.assert_allclose(jnp.sum(y**2), jnp.sum(x**2), rtol=1e-6)
        np.testing.assert_allclose(stem.unfold(y, name), x, rtol=1e-6, atol=1e-6)
    mean = x.reshape(2, 3, 2, 2, 3, 2, 2).sum((3, 5)) / 2
    np.testing.assert_allclose(stem.fold(x, "wavelet")[..., :2], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(stem.fold(x, "patch")[..., 2:4], x[:, :, ::2, 1::2])


@pytest.mark.parametrize(
    ("size", "millions"), [("tiny", 0.055), ("small", 5.0), ("base", 40.0), ("large", 127.0)]
)
def test_sizes(size, millions):
    model = CausalVideoVAE((64, 64, 3), **causal.SIZES[size])
    shapes = jax.eval_shape(lambda key: contract.init_variables(model, key), jax.random.key(0))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
    assert count / 1e6 == pytest.approx(millions, rel=0.03)
    assert (model.temporal_compression, model.spatial_compression) == (4, 8)
    assert model.bottleneck == GaussianLatents(16)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"temporal_compression": 3}, "temporal_compression=3 is not one of 1, 2, 4, 8"),
        ({"spatial_compression": 2}, "spatial_compression=2"),
        ({"stem": "dct"}, "stem='dct'"),
        ({"norm": "batch"}, "norm='batch'"),
        ({"widths": (4, 4)}, r"widths=\(4, 4\): must be 3 positive numbers"),
        ({"blocks": (0, 1)}, r"blocks=\(0, 1\)"),
    ],
)
def test_impossible_models_say_why(settings, text):
    model = make_model(**settings)
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(lambda key: contract.init_variables(model, key), jax.random.key(0))


def test_impossible_bottlenecks_say_why():
    with pytest.raises(ValueError, match=r"levels=\(8, 1\)"):
        FiniteScalars((8, 1))
    with pytest.raises(ValueError, match="channels=0"):
        GaussianLatents(0)


def test_wrong_inputs_say_why():
    model, variables = make_named("standard")
    with pytest.raises(ValueError, match="videos of 2 channels"):
        encode(model, variables, make_video(3, channels=3))
    with pytest.raises(ValueError, match=r"\(2, 1, 2, 2, 4\)"):
        decode(model, variables, jnp.zeros((2, 1, 2, 2, 4)))
    with pytest.raises(ValueError, match=r"cover \(1, 8, 8\)"):
        decode(model, variables, jnp.zeros((2, 1, 2, 2, 3)), (2, 8, 8))
