"""Latents of collections of videos: encoded once, stored, read, exported and decoded.

    from vvae import latents
    summary = latents.encode_collection(model, params, "videos", "store")
    for clip in latents.open("store"):
        z = latents.sample(clip["mean"], clip["std"], noise)

See docs/latents.md.
"""

import importlib

_HOMES = {
    "ClipPlan": "plan",
    "Work": "encode",
    "encode_collection": "encode",
    "export_store": "exports.export",
    "decode_store": "decode",
    "decode_clips": "decode",
    "open": "dataset",
    "LatentDataset": "dataset",
    "Scale": "posterior",
    "mode": "posterior",
    "sample": "posterior",
    "raw": "posterior",
    "moments": "posterior",
    "draw_noise": "posterior",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'vvae.latents' has no attribute {name!r}")
    return getattr(importlib.import_module(f"vvae.latents.{_HOMES[name]}"), name)


def __dir__():
    return __all__
