"""Exports the encoder of a run as one file that needs nothing but jax."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

from vvae.files import replacing
from vvae.models import contract
from vvae.models.grid import GridVideoVAE

PLATFORMS = ("cpu", "cuda", "tpu")


def write_encoder(model, params, num_frames: int, path: Path) -> str:
    """Writes the encoder with its parameters to a file; returns instructions how to use it.

    Args:
      model: a vvae model.
      params: its variables.
      num_frames: the length of the run's clips, see `export_encoder`.
      path: the file to write.
    """
    exported = export_encoder(model, params, num_frames)
    with replacing(path) as part:
        part.write_bytes(exported.serialize())
    (video,) = exported.in_avals
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    shapes = "\n".join(f"    #   {name}: float32 {_format(a)}" for name, a in outputs.items())
    return f"""{path} runs with jax alone, on a CPU, a CUDA GPU or a TPU:

    import jax.export
    encoder = jax.export.deserialize(open("{path}", "rb").read())
    latents = encoder.call(video)  # uint8 {_format(video)} -> dictionary:
{shapes}"""


def _format(array: jax.core.ShapedArray) -> str:
    return f"[{', '.join(map(str, array.shape))}]"


def export_encoder(model, params, num_frames: int) -> jax.export.Exported:
    """Returns the encoder with its parameters as a `jax.export` program.

    Its `call(video)` takes uint8 [B, T, H, W, C] with any B and the trained H, W, C, on a CPU, a
    CUDA GPU or a TPU. It returns a dictionary of float32 arrays: the mean and the log-variance of
    the posterior of each level of latents.

    A SequentialVAE takes any T and returns `frame_mean`, `frame_logvar` [B, T, Z] and `clip_mean`,
    `clip_logvar` [B, W].

    A model with a grid of latents takes T = num_frames only, because its convolutions on a CPU
    depend on the length; `call` raises ValueError for other lengths. It returns `grid_mean` and
    `grid_logvar` [B, t, h, w, Z], or `grid_codes` for finite scalar quantisation.

    Args:
      model: a vvae model.
      params: its variables.
      num_frames: T, for models with a grid of latents.
    """
    batch, length = jax.export.symbolic_shape("B, T")
    if isinstance(model, GridVideoVAE):
        # One clip at a time, so that no shape in the model depends on B.
        one = _make_encoder(model, params)
        encode = jax.vmap(lambda x_THWC: jax.tree.map(lambda a: a[0], one(x_THWC[None])))
        length = num_frames
    else:
        encode = _make_encoder(model, params)
    video = jax.ShapeDtypeStruct((batch, length, *model.shape_HWC), jnp.uint8)
    return jax.export.export(jax.jit(encode), platforms=PLATFORMS)(video)


def _make_encoder(model, params) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Returns a function: video -> LEVEL_mean and LEVEL_logvar of each level, or grid_codes."""

    def encode(x_BTHWC: jax.Array) -> dict[str, jax.Array]:
        posterior = contract.encode(model, params, x_BTHWC)
        levels = model.level_posteriors(posterior)
        if not levels:
            return {"grid_codes": model.posterior_mean(posterior)}
        return {
            f"{level}_{name}": value
            for level, gaussian in levels.items()
            for name, value in (("mean", gaussian.mean), ("logvar", gaussian.logvar))
        }

    return encode
