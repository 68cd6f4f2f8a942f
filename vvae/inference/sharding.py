"""Encodes and decodes large frames with their rows or columns shared out among devices.

The frame is filled up with rows (or columns) of zeros, so that every resolution of the network can
be divided evenly: where an axis cannot be, a compiler keeps all of it on every device without a
word. What was filled up counts nowhere (`CausalVideoVAE.extent`), so that the result is that of one
device. The devices exchange the few rows next to their borders, and with attention keys and values.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vvae.models import contract
from vvae.models.causal import CausalVideoVAE
from vvae.models.contract import Params

AXES = {"rows": 2, "columns": 3}


def encode_sharded(
    model: CausalVideoVAE, params: Params, x_BTHWC: jax.Array, mesh: Mesh, axis: str = "rows"
) -> Any:
    """Encodes videos on all devices of a mesh; to be called under jit.

    Args:
      model: a CausalVideoVAE.
      params: its variables, on every device.
      x_BTHWC: float video in [-1, 1], or uint8, of any size.
      mesh: of one axis, whose devices share the frames out.
      axis: "rows" or "columns".

    Returns:
      The posterior [B, t, h, w, Z] with h (or w) filled up to a multiple of the devices and divided
      among them; the latents of the video are the first `model.grid_shape` ones.

    Raises:
      ValueError: for another axis, or a mesh of several axes.
    """
    sharding = _make_sharding(mesh, axis)
    contract.check_video(x_BTHWC)
    x_BTHWC = model.fill_up(x_BTHWC)
    extent = x_BTHWC.shape[2:4]
    x_BTHWC = _fill_evenly(x_BTHWC, AXES[axis], model.spatial_compression * mesh.size)
    x_BTHWC = jax.lax.with_sharding_constraint(x_BTHWC, sharding)
    posterior = contract.encode(model.clone(extent=extent), params, x_BTHWC)
    return jax.lax.with_sharding_constraint(posterior, sharding)


def decode_sharded(
    model: CausalVideoVAE,
    params: Params,
    z_BthwZ: jax.Array,
    grid_hw: tuple[int, int],
    mesh: Mesh,
    axis: str = "rows",
) -> jax.Array:
    """Decodes latents on all devices of a mesh; to be called under jit.

    Args:
      model: a CausalVideoVAE.
      params: its variables, on every device.
      z_BthwZ: latents, filled up as `encode_sharded` returns them or not.
      grid_hw: rows and columns of the latents that are real.
      mesh: of one axis, whose devices share the frames out.
      axis: "rows" or "columns".

    Returns:
      [B, T, H, W, C] in [-1, 1] units, filled up and divided as the latents are; the frames of the
      video are the first rows and columns.

    Raises:
      ValueError: for another axis, a mesh of several axes, or fewer latents than grid_hw.
    """
    sharding = _make_sharding(mesh, axis)
    height, width = grid_hw
    if z_BthwZ.shape[2] < height or z_BthwZ.shape[3] < width:
        raise ValueError(f"grid_hw={grid_hw}: the latents have shape {z_BthwZ.shape}")
    z_BthwZ = _fill_evenly(z_BthwZ, AXES[axis], mesh.size)
    z_BthwZ = jax.lax.with_sharding_constraint(z_BthwZ, sharding)
    scale = model.spatial_compression
    padded = model.clone(extent=(scale * height, scale * width))
    return jax.lax.with_sharding_constraint(contract.decode(padded, params, z_BthwZ), sharding)


def _make_sharding(mesh: Mesh, axis: str) -> NamedSharding:
    if axis not in AXES:
        raise ValueError(f"axis={axis!r} is not one of {', '.join(AXES)}")
    if len(mesh.axis_names) != 1:
        raise ValueError(f"frames are shared out along one axis, and the mesh has {mesh.shape}")
    return NamedSharding(mesh, PartitionSpec(*[None] * AXES[axis], mesh.axis_names[0]))


def _fill_evenly(a: jax.Array, axis: int, multiple: int) -> jax.Array:
    """Adds zeros at the end of an axis, up to a multiple."""
    missing = -a.shape[axis] % multiple
    return jnp.pad(a, [(0, missing if i == axis else 0) for i in range(a.ndim)])
