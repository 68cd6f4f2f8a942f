"""A Wan 2.1 with random weights in bfloat16: seconds and peak memory, beside diffusers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import device
from vvae.inference import streaming
from vvae.models import contract
from vvae.pretrained.load import build_network

SIZE = (480, 832)
# Settings of AutoencoderKLWan in diffusers, and small ones of the same network.
FULL = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
}
FULL |= {"temperal_downsample": [False, True, True], "dropout": 0.0}
TINY = FULL | {"base_dim": 8, "z_dim": 4, "num_res_blocks": 1}
STATISTICS = {"latents_mean": [0.0], "latents_std": [1.0]}
REPEATS = 3


def measure_vvae(frames: str, *, tiny: bool) -> list[dict]:
    """Measures encoding and decoding, whole and one latent frame at a time."""
    model = _make_model(tiny=tiny).clone(dtype=jnp.bfloat16)
    shape = _video_shape(int(frames), tiny=tiny)
    params = _draw_params(model)
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    latents = jnp.zeros((1, *model.grid_shape(shape[1:4]), model.bottleneck.channels), jnp.bfloat16)

    # The pieces come first: the memory of a process only grows.
    rows = [
        _time("vvae, encode in pieces", lambda: _encode_in_pieces(model, params, video)),
        _time("vvae, decode in pieces", lambda: _decode_in_pieces(model, params, latents)),
    ]
    encode = jax.jit(functools.partial(contract.encode, model))
    decode = jax.jit(functools.partial(contract.decode, model))
    rows += [
        _time("vvae, encode", lambda: encode(params, video)),
        _time("vvae, decode", lambda: decode(params, latents)),
    ]
    return rows


def measure_diffusers(frames: str, *, tiny: bool) -> list[dict]:
    """Measures diffusers' own, which always works one latent frame at a time; eager, compiled."""
    import diffusers
    import torch

    where = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    settings = TINY if tiny else FULL
    model = diffusers.AutoencoderKLWan(**settings, **_statistics(settings))
    model = model.to(where, torch.bfloat16).eval()
    shape = _video_shape(int(frames), tiny=tiny)
    video = torch.zeros((1, 3, *shape[1:4]), dtype=torch.bfloat16, device=where)
    rows = []
    for kind in ("eager", "compiled"):
        if kind == "compiled":
            model.encoder, model.decoder = map(torch.compile, (model.encoder, model.decoder))
        with torch.inference_mode():
            latents = model.encode(video).latent_dist.mean
            calls = {
                "encode": lambda: model.encode(video),
                "decode": lambda latents=latents: model.decode(latents),
            }
            for name, call in calls.items():
                device.reset_torch_peak()
                seconds = device.time_call(functools.partial(_finish, call), REPEATS)
                memory = device.torch_peak_mb()
                rows.append(
                    {"name": f"diffusers {kind}, {name}", "seconds": seconds, "memory_mb": memory}
                )
    return rows


def _finish(call) -> None:
    import torch

    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _time(name: str, call) -> dict:
    def run() -> None:
        jax.block_until_ready(call())

    seconds = device.time_call(run, REPEATS)
    return {"name": name, "seconds": seconds, "memory_mb": device.jax_peak_mb()}


def _encode_in_pieces(model, params, video):
    return list(streaming.encode_frames(model, params, video[0], latents_per_chunk=1))


_decode_chunk = jax.jit(streaming.decode_chunk, static_argnums=0)


def _decode_in_pieces(model, params, latents):
    cache, frames = streaming.begin_decode(), None
    for index in range(latents.shape[1]):
        piece = latents[:, index : index + 1]
        cache, frames = jax.block_until_ready(_decode_chunk(model, params, cache, piece))
    return frames


def _make_model(*, tiny: bool):
    settings = TINY if tiny else FULL
    record = {"_class_name": "AutoencoderKLWan", **settings, **_statistics(settings)}
    return build_network(json.dumps(record))


def _statistics(settings: dict) -> dict:
    return {name: values * settings["z_dim"] for name, values in STATISTICS.items()}


def _draw_params(model):
    """Returns small random parameters in bfloat16, made on the device."""
    shapes = jax.eval_shape(functools.partial(contract.init_variables, model), jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(shapes))))

    @functools.partial(jax.jit, static_argnums=1)
    def draw(key, shape):
        return 0.02 * jax.random.normal(key, shape, jnp.float32)

    return jax.tree.map(lambda leaf: draw(next(keys), leaf.shape).astype(leaf.dtype), shapes)


def _video_shape(frames: int, *, tiny: bool) -> tuple[int, ...]:
    return (1, 5, 16, 24, 3) if tiny else (1, frames, *SIZE, 3)
