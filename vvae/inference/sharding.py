"""Encodes and decodes large frames with their rows or columns sharded over devices.

The frame is padded with zero rows (or columns) so that every resolution of the network divides
evenly: the compiler silently replicates an axis that does not. The padding counts nowhere
(`CausalVideoVAE.extent`), so that the result equals that of one device. The devices exchange the
few rows next to their borders, and with attention the keys and values.
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
    """Encodes videos on all devices of a mesh; call it under jit.

    Args:
      model: a CausalVideoVAE.
      params: its variables, on every device.
      x_BTHWC: float video in [-1, 1], or uint8, of any size.
      mesh: with one axis, over whose devices the frames are sharded.
      axis: "rows" or "columns".

    Returns:
      The posterior [B, t, h, w, Z], with h (or w) padded to a multiple of the number of devices and
      sharded over them. The latents of the video are the first `model.grid_shape` ones.

    Raises:
      ValueError: for another axis, or a mesh with several axes.
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
    """Decodes latents on all devices of a mesh; call it under jit.

    Args:
      model: a CausalVideoVAE.
      params: its variables, on every device.
      z_BthwZ: latents, padded as `encode_sharded` returns them, or not padded.
      grid_hw: rows and columns of the latents that are real.
      mesh: with one axis, over whose devices the frames are sharded.
      axis: "rows" or "columns".

    Returns:
      [B, T, H, W, C] in [-1, 1] units, padded and sharded as the latents are. The frames of the
      video are the first rows and columns.

    Raises:
      ValueError: for another axis, a mesh with several axes, or fewer latents than grid_hw.
    """
    sharding = _make_sharding(mesh, axis)
    contract.check_latents(z_BthwZ)
    height, width = grid_hw
    if z_BthwZ.shape[2] < height or z_BthwZ.shape[3] < width:
        raise ValueError(f"grid_hw={grid_hw}: the latents have only the shape {z_BthwZ.shape}")
    z_BthwZ = _fill_evenly(z_BthwZ, AXES[axis], mesh.size)
    z_BthwZ = jax.lax.with_sharding_constraint(z_BthwZ, sharding)
    scale = model.spatial_compression
    padded = model.clone(extent=(scale * height, scale * width))
    return jax.lax.with_sharding_constraint(contract.decode(padded, params, z_BthwZ), sharding)


def _make_sharding(mesh: Mesh, axis: str) -> NamedSharding:
    if axis not in AXES:
        raise ValueError(f"axis={axis!r} is not one of {', '.join(AXES)}")
    if len(mesh.axis_names) != 1:
        raise ValueError(f"frames are sharded along one axis, but the mesh has {mesh.shape}")
    return NamedSharding(mesh, PartitionSpec(*[None] * AXES[axis], mesh.axis_names[0]))


def _fill_evenly(a: jax.Array, axis: int, multiple: int) -> jax.Array:
    """Pads an axis with zeros at its end, to a multiple."""
    missing = -a.shape[axis] % multiple
    return jnp.pad(a, [(0, missing if i == axis else 0) for i in range(a.ndim)])
