"""Digest that identifies the parameters of a model in the files made with them."""

import hashlib
from typing import Any

import jax
import numpy as np


def digest_params(params: Any) -> bytes:
    """Returns the SHA-256 of the names, shapes, dtypes and values of all variables of a model.

    Note:
      Files of coded latents store it, so what it digests must not change.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype}{array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.digest()
