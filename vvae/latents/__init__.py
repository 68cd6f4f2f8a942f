"""Latents of collections of videos: encoded once, stored, read, exported and decoded.

    from vvae import latents
    summary = latents.encode_collection(model, params, "videos", "store")
    for clip in latents.open("store"):
        z = latents.sample(clip["mean"], clip["std"], noise)

See docs/latents.md.
"""

from typing import TYPE_CHECKING

from vvae.lazy import attach

if TYPE_CHECKING:
    from vvae.latents.dataset import LatentDataset as LatentDataset
    from vvae.latents.dataset import open as open
    from vvae.latents.decode import decode_clips as decode_clips
    from vvae.latents.decode import decode_store as decode_store
    from vvae.latents.encode import Work as Work
    from vvae.latents.encode import encode_collection as encode_collection
    from vvae.latents.exports.export import export_store as export_store
    from vvae.latents.plan import ClipPlan as ClipPlan
    from vvae.latents.posterior import Scale as Scale
    from vvae.latents.posterior import draw_noise as draw_noise
    from vvae.latents.posterior import mode as mode
    from vvae.latents.posterior import moments as moments
    from vvae.latents.posterior import raw as raw
    from vvae.latents.posterior import sample as sample

_HOMES = {
    "LatentDataset": "vvae.latents.dataset",
    "open": "vvae.latents.dataset",
    "decode_clips": "vvae.latents.decode",
    "decode_store": "vvae.latents.decode",
    "Work": "vvae.latents.encode",
    "encode_collection": "vvae.latents.encode",
    "export_store": "vvae.latents.exports.export",
    "ClipPlan": "vvae.latents.plan",
    "Scale": "vvae.latents.posterior",
    "draw_noise": "vvae.latents.posterior",
    "mode": "vvae.latents.posterior",
    "moments": "vvae.latents.posterior",
    "raw": "vvae.latents.posterior",
    "sample": "vvae.latents.posterior",
}

__getattr__, __dir__ = attach(__name__, _HOMES)
