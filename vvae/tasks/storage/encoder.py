"""The encoder of a run as one file that needs jax alone."""

import jax
import jax.export
import jax.numpy as jnp

from vvae.models import contract


def export_encoder(model, params) -> bytes:
    """Returns the encoder with its parameters as one serialised `jax.export` program.

    `jax.export.deserialize(bytes).call(video)` takes uint8 [B, T, H, W, C] of any B and the trained
    H, W, C, for T of any length, and returns the dictionary of `frame_mean`, `frame_logvar`
    [B, T, Z], `clip_mean` and `clip_logvar` [B, W]; on a CPU, a CUDA GPU or a TPU.
    """

    def encode(x_BTHWC):
        posterior = contract.encode(model, params, x_BTHWC)
        return {
            f"{level}_{name}": getattr(getattr(posterior, level), name)
            for level in ("frame", "clip")
            for name in ("mean", "logvar")
        }

    batch, length = jax.export.symbolic_shape("B, T")
    video = jax.ShapeDtypeStruct((batch, length, *model.shape_HWC), jnp.uint8)
    exported = jax.export.export(jax.jit(encode), platforms=("cpu", "cuda", "tpu"))(video)
    return bytes(exported.serialize())
