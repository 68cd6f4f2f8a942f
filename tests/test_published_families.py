"""What holds for each published family: which frames depend on which, pieces, sizes."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import GOLDEN, GOLDEN_FOLDER

from vvae.inference import streaming
from vvae.models import contract
from vvae.pretrained.load import _FAMILIES, load_pretrained

pytest.importorskip("safetensors", reason="pip install '.[pretrained]'")


class Sight(NamedTuple):
    """Which frames the latents, or the decoded frames, of a frame depend on.

    "alone" for the frame itself, "past" for the frames until it, "future" for later ones too.
    """

    encoder: str
    decoder: str


SIGHT = {
    "tiny": Sight("alone", "alone"),
    "taef2": Sight("alone", "alone"),
    "taehv": Sight("future", "past"),
    "ltx2": Sight("past", "past"),
    "hunyuan": Sight("future", "future"),
    "hunyuan15": Sight("past", "past"),
    "hunyuan_refiner": Sight("future", "future"),
    "qwen21": Sight("alone", "alone"),
    "dc": Sight("alone", "alone"),
    "magvit": Sight("past", "past"),
    "mochi": Sight("past", "past"),
    "cosmos": Sight("past", "past"),
    "cogvideox": Sight("future", "future"),
    "vidtok_centred": Sight("future", "future"),
    "kl": Sight("alone", "alone"),
    "svd_flat": Sight("alone", "future"),
    "flux2": Sight("alone", "alone"),
    "wan21": Sight("past", "past"),
    "wan22": Sight("past", "past"),
    "ltx": Sight("past", "future"),
    "ltx_noisy": Sight("past", "future"),
    "vidtok": Sight("past", "future"),
    "vidtok_fsq": Sight("past", "future"),
}
OLD = ("wan21", "wan22", "ltx", "ltx_noisy", "vidtok", "vidtok_fsq")  # tested in test_causal.py
NEW = [name for name in GOLDEN if name not in OLD]


@functools.partial(jax.jit, static_argnums=0)
def encode(model, params, x):
    return model.posterior_mean(contract.encode(model, params, x))


decode = jax.jit(contract.decode, static_argnums=0)
encode_chunk = jax.jit(streaming.encode_chunk, static_argnums=0)
end_encode = jax.jit(streaming.end_encode, static_argnums=0)
decode_chunk = jax.jit(streaming.decode_chunk, static_argnums=0)


@functools.cache
def load(name):
    return load_pretrained(GOLDEN_FOLDER / name)


def draw_video(model, length, batch=1, seed=0):
    size = 2 * model.spatial_compression
    shape = (batch, length, size, size, model.shape_HWC[-1])
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_every_family_is_described():
    assert SIGHT.keys() == set(GOLDEN)


@pytest.mark.parametrize("name", NEW)
def test_frames_depend_on_the_frames_that_the_table_says(name):
    """Exact zeros where nothing is seen, and a difference where something is."""
    model, params = load(name)
    step, seen = model.temporal_compression, model.first_frames + model.temporal_compression
    x = draw_video(model, seen + step)
    z, z_changed = (encode(model, params, v) for v in (x, change(x, slice(seen, None))))
    check(z, z_changed, slice(0, 2), slice(2, None), SIGHT[name].encoder)
    assert (model.encoder_lookahead == 0) == (SIGHT[name].encoder != "future")
    y, y_changed = (decode(model, params, v) for v in (z, change(z, slice(2, None))))
    check(y, y_changed, slice(0, seen), slice(seen, None), SIGHT[name].decoder)
    assert model.decodes_causally == (SIGHT[name].decoder != "future")
    assert y.shape == x.shape
    # Whether the last frames see the first ones.
    before = slice(0, 1)
    for read, values, sight in (
        (encode, x, SIGHT[name].encoder),
        (decode, z, SIGHT[name].decoder),
    ):
        now, then = (read(model, params, v) for v in (values, change(values, before)))
        if sight == "alone":
            np.testing.assert_array_equal(now[:, step:], then[:, step:])


def change(values, where):
    values = np.array(values)
    values[:, where] = np.random.default_rng(9).uniform(-1, 1, values[:, where].shape)
    return values


def check(now, then, early, late, sight):
    assert np.abs(now - then)[:, late].max() > 0
    if sight == "future":
        assert np.abs(now - then)[:, early].max() > 0
    else:
        np.testing.assert_array_equal(now[:, early], then[:, early])


@pytest.mark.parametrize("name", NEW)
def test_pieces_equal_the_whole_or_are_refused(name):
    model, params = load(name)
    step = model.temporal_compression
    x = draw_video(model, 2 + step)
    z = encode(model, params, x)
    assert_encodes_in_pieces(model, params, x, z)
    begin = streaming.begin_decode()
    if not model.decodes_causally:
        with pytest.raises(ValueError, match="looks ahead"):
            decode_chunk(model, params, begin, z[:, :1])
        return
    cache, first = decode_chunk(model, params, begin, z[:, :1])
    assert first.shape[1] == 1
    rest = decode_chunk(model, params, cache, z[:, 1:])[1]
    y = jnp.concatenate([first, rest], axis=1)
    np.testing.assert_allclose(y, decode(model, params, z), rtol=0, atol=1e-5 * np.std(y))


def assert_encodes_in_pieces(model, params, x, z):
    begin = streaming.begin_encode()
    if model.encoder_lookahead is None:
        with pytest.raises(ValueError, match="sees all frames at once"):
            encode_chunk(model, params, begin, x[:, :1])
        return
    cache, first = encode_chunk(model, params, begin, x[:, :1])
    cache, second = encode_chunk(model, params, cache, x[:, 1:])
    last = end_encode(model, params, cache)
    pieces = [model.posterior_mean(p) for p in (first, second, last) if p is not None]
    found = jnp.concatenate(pieces, axis=1)
    np.testing.assert_allclose(found, z, rtol=0, atol=1e-5 * np.std(z))


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize(("length", "size"), [(1, (1, 1)), (7, (5, 19))])
def test_any_length_and_size_comes_back_whole(name, length, size):
    model, params = load(name)
    x = jax.ShapeDtypeStruct((2, length, *size, model.shape_HWC[-1]), jnp.uint8)

    def read(x):
        found = contract.terms(model, params, x, jax.random.key(0), num_samples=3)
        return contract.encode(model, params, x), contract.reconstruct(model, params, x), found

    posterior, y, terms = jax.eval_shape(read, x)
    scale = model.spatial_compression
    t = 1 + math.ceil(max(length - model.first_frames, 0) / model.temporal_compression)
    grid = (2, t, *(math.ceil(side / scale) for side in size), model.bottleneck.channels)
    assert model.posterior_mean(posterior).shape == grid
    assert y.shape == x.shape
    assert {leaf.shape for leaf in jax.tree.leaves(terms)} == {(3, 2)}


def test_every_class_is_in_the_docs():
    text = (Path(__file__).resolve().parents[1] / "docs" / "published_models.md").read_text()
    rows = {line.split("|")[1] for line in text.splitlines() if line.startswith("| `")}
    listed = {name.strip().strip("`") for row in rows for name in row.split(",")}
    classes = {name for family in _FAMILIES for name in family.defaults}
    assert classes <= listed
