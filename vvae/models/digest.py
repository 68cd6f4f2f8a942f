"""Which parameters a file was made with."""

import hashlib
from typing import Any

import jax
import numpy as np


def digest_params(params: Any) -> bytes:
    """Returns the SHA-256 of the names, shapes, dtypes and values of all variables of a model.

    Files of coded latents hold it: what it is of must not change.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype}{array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.digest()
