"""vvae: video VAEs in JAX.

The names below are pure functions of (model, params, ...) and `load`, which reads a run directory.
They are imported when they are first used, so that `import vvae` is cheap.
"""

import importlib

_HOMES = {
    "load": "vvae.build",
    "load_pretrained": "vvae.pretrained.load",
    "save_pretrained": "vvae.pretrained.load",
    "encode": "vvae.models.contract",
    "decode": "vvae.models.contract",
    "reconstruct": "vvae.models.contract",
    "sample": "vvae.models.contract",
    "CausalVideoVAE": "vvae.models.causal",
    "init_variables": "vvae.models.contract",
    "begin_encode": "vvae.inference.streaming",
    "encode_chunk": "vvae.inference.streaming",
    "end_encode": "vvae.inference.streaming",
    "begin_decode": "vvae.inference.streaming",
    "decode_chunk": "vvae.inference.streaming",
    "encode_video": "vvae.inference.streaming",
    "decode_video": "vvae.inference.streaming",
    "normalize": "vvae.inference.statistics",
    "denormalize": "vvae.inference.statistics",
    "elbo": "vvae.objectives.elbo",
    "iwae": "vvae.objectives.elbo",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'vvae' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return __all__
