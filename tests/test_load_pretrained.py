"""`vvae.load_pretrained`: the folder, its subfolder, the dtype; what is wrong is one line."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vvae

GOLDEN = Path(__file__).resolve().parent / "golden"


def test_a_subfolder_and_a_dtype():
    model, params = vvae.load_pretrained(GOLDEN, subfolder="wan21", dtype="bfloat16")
    plain, expected = vvae.load_pretrained(GOLDEN / "wan21")
    assert model.dtype == jnp.bfloat16 and model.clone(dtype=plain.dtype) == plain
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert vvae.load_pretrained(GOLDEN / "wan21", dtype=jnp.float32)[0] == plain


@pytest.mark.parametrize(
    ("path", "options", "text"),
    [
        ("Wan-AI/Wan2.1-T2V", {}, "no such folder; .* hf download Wan-AI/Wan2.1-T2V --local-dir"),
        ("missing", {"subfolder": "vae"}, "missing: no such folder"),
        (GOLDEN, {"subfolder": "vae"}, "golden has no folder 'vae': it holds .* and [0-9]+ more"),
        (GOLDEN / "wan21", {"dtype": "float17"}, "dtype='float17' is not one of float32, bfloat16"),
    ],
)
def test_what_is_wrong_is_one_line(path, options, text):
    with pytest.raises(ValueError, match=text) as caught:
        vvae.load_pretrained(path, **options)
    assert "\n" not in str(caught.value) and re.search(text, str(caught.value))
