"""Tiles equal the whole where the receptive field is known; elsewhere the error is measured."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_causal import IMPORTED, make_model, make_named, make_variables, make_video

from vvae.inference import tiling
from vvae.models import contract
from vvae.models.bottleneck import FiniteScalars

LOCAL = {
    "plain": {"attention": False},
    "deep": {"attention": False, "blocks": (2, 1), "stem": "wavelet", "widths": (4, 4, 4)},
    "pca": {"attention": False, "stem": "pca", "widths": (4,), "components": 9},
}
LOCAL["deep"]["spatial_compression"] = 8


@functools.cache
def make_local(name):
    model = make_model(**LOCAL[name])
    return model, make_variables(model)


def find_range(gradient_H):
    """Returns the first and the last row with a gradient."""
    rows = np.flatnonzero(gradient_H)
    return int(rows[0]), int(rows[-1])


@pytest.mark.parametrize("name", LOCAL)
def test_windows_are_those_of_the_gradient(name):
    """Rows 20 and 21 of latents depend on exactly the computed rows of pixels, and vice versa."""
    model, variables = make_local(name)
    scale, count = model.spatial_compression, 42
    x = contract.as_unit_range(make_video(1, 1, (scale * count, scale)))
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, count, 1, 3)), jnp.float32)

    @jax.jit
    def see_pixels(x):
        def of_latents(x):
            return contract.encode(model, variables, x).mean[:, :, 20:22].sum()

        return jnp.abs(jax.grad(of_latents)(x)).sum((0, 1, 3, 4))

    @jax.jit
    def see_latents(z):
        def of_pixels(z):
            return contract.decode(model, variables, z)[:, :, 20 * scale : 22 * scale - 1].sum()

        return jnp.abs(jax.grad(of_pixels)(z)).sum((0, 1, 3, 4))

    assert find_range(see_pixels(x)) == tiling.encoder_window(model, (20, 21))
    pixels = 20 * scale, 22 * scale - 2
    assert find_range(see_latents(z)) == tiling.decoder_window(model, pixels)


def test_tiles_equal_the_whole():
    """Windows are smaller than the frame, whose sides are not multiples of 4."""
    model, variables = make_local("plain")
    x = make_video(2, 1, (199, 130))
    whole = jax.jit(contract.encode, static_argnums=0)(model, variables, x)
    encode = jax.jit(tiling.encode_tiled, static_argnums=(0, 3))
    tiled = encode(model, variables, x, (9, 11))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5), tiled, whole)
    decode = jax.jit(tiling.decode_tiled, static_argnums=(0, 3))
    frames = jax.jit(contract.decode, static_argnums=0)(model, variables, whole.mean)
    tiled_frames = decode(model, variables, whole.mean, (9, 11))
    np.testing.assert_allclose(tiled_frames, frames, rtol=0, atol=1e-5)


def test_tiles_need_less_memory_than_the_whole():
    model, variables = make_local("plain")
    x = jax.ShapeDtypeStruct((1, 1, 1024, 512, 2), jnp.uint8)

    def measure(function, *args):
        compiled = jax.jit(functools.partial(function, model)).lower(variables, x, *args).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    tiled = measure(lambda m, v, x: tiling.encode_tiled(m, v, x, (8, 8)))
    assert tiled < 0.5 * measure(contract.encode)


@pytest.fixture(scope="module")
def attentive():
    """Returns a model with attention, its latents, and the whole frames that they decode to."""
    model = make_model()
    variables = make_variables(model)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 16, 16, 3)), jnp.float32)
    return model, variables, z, jax.jit(contract.decode, static_argnums=0)(model, variables, z)


def measure_error(attentive, overlap):
    """Returns the root mean square of the difference, in standard deviations of the whole."""
    model, variables, z, whole = attentive
    decode = jax.jit(tiling.decode_blended, static_argnums=(0, 3, 4))
    return float(jnp.std(decode(model, variables, z, (8, 8), overlap) - whole) / jnp.std(whole))


def test_with_attention_blended_tiles_come_close(attentive):
    """The errors are those that the module docstring of `tiling` states."""
    assert measure_error(attentive, 0) == pytest.approx(0.41, abs=0.01)
    assert measure_error(attentive, 4) == pytest.approx(0.19, abs=0.01)


def test_one_tile_that_is_the_frame_is_exact(attentive):
    model, variables, z, whole = attentive
    y = jax.jit(tiling.decode_blended, static_argnums=(0, 3))(model, variables, z, (16, 20))
    np.testing.assert_allclose(y, whole, rtol=0, atol=1e-5)
    x = make_video(1, 1, (14, 15))
    encode = jax.jit(tiling.encode_blended, static_argnums=(0, 3))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5),
        encode(model, variables, x, (16, 16)),
        jax.jit(contract.encode, static_argnums=0)(model, variables, x),
    )


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [(16, 8, 4), (17, 5, 3), (9, 4, 0), (3, 8, 2)]
)
def test_shares_add_up_to_one(size, tile, overlap):
    axis = tiling._cut_overlapping(size, tile, overlap, 1, 2)
    total = np.zeros(2 * size)
    for start, weights in zip(axis.starts, axis.weights_NK, strict=True):
        assert np.all(weights > 0)
        total[2 * start : 2 * start + len(weights)] += weights
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert np.all(np.diff(axis.starts) <= min(tile, size) - overlap)


@pytest.mark.parametrize("name", IMPORTED)
def test_of_imported_models_one_tile_that_is_the_frame_is_exact(name):
    """Exact tiling is refused, because the receptive field is not known."""
    model, variables = make_named(name)
    x = make_video(1, 1, (8, 8))
    encode = jax.jit(tiling.encode_blended, static_argnums=(0, 3))
    posterior = encode(model, variables, x, (16, 16))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5),
        posterior,
        jax.jit(contract.encode, static_argnums=0)(model, variables, x),
    )
    with pytest.raises(
        ValueError, match=f"receptive field of a {type(model).__name__} is not known"
    ):
        tiling.decode_tiled(model, variables, posterior.mean)


def test_impossible_tiles_say_why(attentive):
    model, variables, z, _ = attentive
    with pytest.raises(ValueError, match="attention=True and norm='position' sees whole frames"):
        tiling.decode_tiled(model, variables, z)
    with pytest.raises(ValueError, match="overlap=8"):
        tiling.decode_blended(model, variables, z, (8, 8), 8)
    local, local_variables = make_local("plain")
    with pytest.raises(ValueError, match="tile of 0"):
        tiling.decode_tiled(local, local_variables, z, (0, 8))
    codes = make_model(bottleneck=FiniteScalars((3, 3)))
    with pytest.raises(ValueError, match="codes cannot be cross-faded"):
        tiling.encode_blended(codes, variables, make_video(1))
