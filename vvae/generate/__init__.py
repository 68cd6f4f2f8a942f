"""Generative priors on latents: new videos from a store of latents.

    prior = vvae.generate.load("RUN")               # a run of `vvae train generate`
    z = vvae.generate.sample_latents(prior.model, prior.variables, key, labels, prior.shape_thw)

See docs/generate.md.
"""

from typing import TYPE_CHECKING

from vvae.lazy import attach

if TYPE_CHECKING:
    from vvae.generate.config import GenerateConfig as GenerateConfig
    from vvae.generate.flow import Sampling as Sampling
    from vvae.generate.flow import Training as Training
    from vvae.generate.flow import flow_loss as flow_loss
    from vvae.generate.flow import integrate as integrate
    from vvae.generate.flow import sample_latents as sample_latents
    from vvae.generate.network import LatentTransformer as LatentTransformer
    from vvae.generate.prior import Prior as Prior
    from vvae.generate.prior import draw_videos as draw_videos
    from vvae.generate.prior import load as load

_HOMES = {
    "GenerateConfig": "vvae.generate.config",
    "Sampling": "vvae.generate.flow",
    "Training": "vvae.generate.flow",
    "flow_loss": "vvae.generate.flow",
    "integrate": "vvae.generate.flow",
    "sample_latents": "vvae.generate.flow",
    "LatentTransformer": "vvae.generate.network",
    "Prior": "vvae.generate.prior",
    "draw_videos": "vvae.generate.prior",
    "load": "vvae.generate.prior",
}

__getattr__, __dir__ = attach(__name__, _HOMES)
