"""Causal VAEs of a few thousand parameters, in every configuration with a guarantee to test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vvae.models import contract
from vvae.models.bottleneck import FiniteScalars, GaussianLatents, PointLatents, ScaledLatents
from vvae.models.causal import CausalVideoVAE
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.cogvideox import CogVideoXVAE
from vvae.pretrained.cosmos import CosmosVAE, Patch
from vvae.pretrained.dc import DCVAE
from vvae.pretrained.dc_blocks import Side
from vvae.pretrained.hunyuan import HunyuanVAE
from vvae.pretrained.hunyuan15 import Hunyuan15VAE
from vvae.pretrained.hunyuan_refiner import HunyuanRefinerVAE
from vvae.pretrained.kl import KLVAE
from vvae.pretrained.ltx import LTXVAE
from vvae.pretrained.ltx2 import LTX2VAE
from vvae.pretrained.ltx_blocks import Decoding, Encoding
from vvae.pretrained.magvit import MagvitVAE
from vvae.pretrained.mochi import MochiVAE
from vvae.pretrained.svd import SVDVAE
from vvae.pretrained.taehv import TAEHV
from vvae.pretrained.tiny import TinyVAE
from vvae.pretrained.vidtok import VidTokVAE
from vvae.pretrained.wan import WanVAE

SETTINGS = {
    "standard": {},
    "local": {"attention": False},
    "frame_norm": {"norm": "frame", "temporal_compression": 2},
    "codes": {"bottleneck": FiniteScalars((9, 8, 2)), "temporal_compression": 1},
    "wavelet": {"stem": "wavelet", "widths": (4, 4), "temporal_compression": 2},
    "patch8": {"stem": "patch", "widths": (4, 4, 4, 4), "temporal_compression": 8},
    "pca": {"stem": "pca", "widths": (4,), "components": 7},
}

_LATENTS = ScaledLatents(3, prior_mean=(0.3, -0.2, 0.1), prior_std=(1.5, 0.7, 1.0))
_POINTS = PointLatents(3, prior_mean=(0.3, -0.2, 0.1), prior_std=(1.5, 0.7, 1.0))
_SIDE = Side(
    widths=(4, 8),
    depths=(1, 1),
    attends=(False, True),
    scales=((), (3,)),
    activations=("silu", "silu"),
)
IMPORTED: dict[str, GridVideoVAE] = {
    "wan21": WanVAE(
        shape_HWC=(8, 8, 2),
        base=(4, 4),
        multiples=(1, 2, 2),
        depth=1,
        in_time=(True, True),
        residual=False,
        bottleneck=_LATENTS,
    ),
    "wan22": WanVAE(
        shape_HWC=(8, 8, 2),
        base=(4, 8),
        multiples=(1, 1),
        depth=1,
        in_time=(True,),
        residual=True,
        patch=2,
        bottleneck=_LATENTS,
    ),
    "ltx_causal": LTXVAE(
        shape_HWC=(8, 8, 2),
        encoding=Encoding(widths=(4, 6), depths=(1, 1, 1), steps=("conv", "")),
        decoding=Decoding(
            widths=(4,),
            depths=(1, 1),
            steps=("spatiotemporal",),
            residual=(False,),
            factors=(1,),
            causal=True,
            timestep=0.05,
        ),
        patch=2,
        bottleneck=_LATENTS,
    ),
}
"""Networks of published families, also for two-channel videos and 4x4 pixels per latent."""

_STEPS = ((True, True), (True, False)), ((True, False), (True, True))
LOOKING_AHEAD: dict[str, GridVideoVAE] = {
    "ltx": LTXVAE(
        shape_HWC=(8, 8, 2),
        encoding=Encoding(widths=(8, 8), depths=(1, 1), steps=("spatiotemporal",), merged=True),
        decoding=Decoding(
            widths=(8,), depths=(1, 1), steps=("spatiotemporal",), residual=(True,), factors=(2,)
        ),
        patch=2,
        bottleneck=_LATENTS,
    ),
    "vidtok": VidTokVAE(
        shape_HWC=(8, 8, 2),
        base=4,
        multiples=(1, 1, 2),
        depth=1,
        down=(*_STEPS[0], (False, False)),
        up=((False, False), *_STEPS[1]),
        bottleneck=_LATENTS,
    ),
}
"""Networks of published families whose encoder is causal and whose decoder is not."""

OTHERS: dict[str, GridVideoVAE] = {
    "vidtok_centred": LOOKING_AHEAD["vidtok"].clone(causal=False),
    "kl": KLVAE(
        shape_HWC=(8, 8, 2),
        widths=((4, 8), (4, 6)),
        depth=1,
        groups=2,
        bottleneck=_LATENTS,
    ),
    "tiny": TinyVAE(
        shape_HWC=(8, 8, 2), width=4, depths=((1, 1), (1, 1)), pooled=True, bottleneck=_POINTS
    ),
    "taehv": TAEHV(
        shape_HWC=(8, 8, 2),
        encoder_width=4,
        decoder_widths=(4, 4, 4, 4),
        joins=(True, False, False),
        parts=(False, False, True),
        bottleneck=_POINTS,
    ),
    "ltx2": LTX2VAE(
        shape_HWC=(8, 8, 2),
        encoding=Encoding(widths=(8, 8), depths=(1, 1), steps=("spatiotemporal",), merged=True),
        decoding=Decoding(
            widths=(8,),
            depths=(1, 1),
            steps=("spatiotemporal",),
            residual=(True,),
            factors=(2,),
            causal=True,
        ),
        patch=2,
        bottleneck=_LATENTS,
    ),
    "hunyuan": HunyuanVAE(
        shape_HWC=(8, 8, 2),
        widths=((2, 4), (2, 4)),
        depth=1,
        groups=2,
        in_time=1,
        bottleneck=_LATENTS,
    ),
    "hunyuan15": Hunyuan15VAE(
        shape_HWC=(8, 8, 2),
        widths=(8, 24),
        depth=1,
        halvings=(1, 1),
        match=(False, False),
        bottleneck=_LATENTS,
    ),
    "hunyuan_refiner": HunyuanRefinerVAE(
        shape_HWC=(8, 8, 2),
        widths=(8, 24),
        depth=1,
        halvings=(1, 1),
        match=(False, False),
        bottleneck=_LATENTS,
    ),
    "svd": SVDVAE(
        shape_HWC=(8, 8, 2), widths=((4, 8), (4, 8)), depth=2, groups=2, bottleneck=_LATENTS
    ),
    "cogvideox": CogVideoXVAE(
        shape_HWC=(8, 8, 2), widths=((2, 2, 4),) * 2, depth=1, groups=2, bottleneck=_LATENTS
    ),
    "magvit": MagvitVAE(
        shape_HWC=(8, 8, 2),
        widths=((2, 4), (2, 4)),
        depth=1,
        groups=2,
        in_time=((True,), (True,)),
        bottleneck=_LATENTS,
    ),
    "mochi": MochiVAE(
        shape_HWC=(8, 8, 2),
        widths=((32, 32), (32, 32)),
        depths=(0, 1, 0),
        attends=(False, True, False),
        in_time=(2,),
        bottleneck=_LATENTS,
    ),
    "cosmos": CosmosVAE(
        shape_HWC=(8, 8, 2),
        widths=((4, 6, 4), (4, 6, 4)),
        entries=(4, 6),
        depth=1,
        patch=Patch(2, "haar"),
        bottleneck=_POINTS,
    ),
    "dc": DCVAE(
        shape_HWC=(8, 8, 2),
        sides=(_SIDE, _SIDE),
        head=4,
        bottleneck=PointLatents(4, (0.1,) * 4, (1.5,) * 4),
    ),
}
"""Networks of further published families; what holds for each is in test_published_families."""

NAMES = [*SETTINGS, *IMPORTED]


def make_model(**settings) -> CausalVideoVAE:
    """Makes a model of 4x4x4, 3 latent channels and two-channel videos, unless settings differ."""
    tiny = {
        "shape_HWC": (8, 8, 2),
        "widths": (4, 4, 4),
        "blocks": (1, 2),
        "spatial_compression": 4,
        "bottleneck": GaussianLatents(3),
    }
    return CausalVideoVAE(**(tiny | settings))


@functools.cache
def make_named(name: str):
    """Returns (model, variables) of one of NAMES, LOOKING_AHEAD or OTHERS."""
    imported = IMPORTED | LOOKING_AHEAD | OTHERS
    model = imported[name] if name in imported else make_model(**SETTINGS[name])
    return model, make_variables(model)


def make_variables(model, seed=0):
    """Draws variables without zeros, and a standardisation that is not the identity."""
    shapes = jax.eval_shape(lambda key: contract.init_variables(model, key), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        values = rng.normal(size=shape.shape)
        if path[-1].key == "kernel":
            values *= 1.5 / np.sqrt(np.prod(shape.shape[:-1]))
        else:
            values = 0.2 * values + (path[-1].key in ("scale", "gamma"))
        return values.astype(np.float32)

    channels = model.shape_HWC[-1]
    stats = {
        "mean": rng.uniform(-0.3, 0.3, channels).astype(np.float32),
        "std": rng.uniform(0.3, 0.6, channels).astype(np.float32),
    }
    if getattr(model, "stem", None) == "pca":
        stats["basis"] = make_basis(shapes["stats"]["basis"], rng)
    return {"params": jax.tree_util.tree_map_with_path(draw, shapes["params"]), "stats": stats}


def make_basis(shapes, rng):
    """Draws a mean block, orthonormal components and their scales."""
    count, size = shapes["components"].shape
    components = np.linalg.qr(rng.normal(size=(size, count)))[0].T
    basis = {
        "mean": rng.normal(size=size),
        "components": components,
        "scale": rng.uniform(0.5, 2.0, count),
    }
    return {name: array.astype(np.float32) for name, array in basis.items()}


def make_exact(name: str):
    """Returns (model, variables) of one of NAMES in float64, for use under jax.enable_x64."""
    model, variables = make_named(name)
    return model.clone(dtype=jnp.float64), jax.tree.map(np.float64, variables)


def make_video(length, batch=2, size=(8, 8), channels=2, seed=0):
    """Draws uint8 noise [B, T, H, W, C]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, length, *size, channels), dtype=np.uint8)
