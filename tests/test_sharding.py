"""Frames sharded over eight devices equal those of one, and take a fraction of its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from tiny_causal import make_named, make_video

from vvae.inference import sharding
from vvae.models import contract


def make_mesh():
    return jax.make_mesh((8,), ("space",), axis_types=(AxisType.Auto,))


@pytest.mark.parametrize(
    ("name", "axis", "size"),
    [
        ("standard", "rows", (37, 9)),
        ("frame_norm", "columns", (6, 70)),
        ("wavelet", "rows", (33, 8)),
        ("pca", "columns", (6, 37)),
    ],
)
def test_eight_devices_equal_one_for_uneven_sizes(name, axis, size):
    model, variables = make_named(name)
    mesh, x = make_mesh(), make_video(3, 1, size)
    whole = jax.jit(contract.encode, static_argnums=0)(model, variables, x)
    encode = jax.jit(sharding.encode_sharded, static_argnums=(0, 3, 4))
    posterior = encode(model, variables, x, mesh, axis)
    spec = PartitionSpec(*[None] * sharding.AXES[axis], "space")
    grid_hw = whole.mean.shape[2:4]
    for sharded, expected in zip(jax.tree.leaves(posterior), jax.tree.leaves(whole), strict=True):
        assert sharded.sharding.spec == spec
        assert len({str(shard.index) for shard in sharded.addressable_shards}) == 8
        cropped = sharded[:, :, : grid_hw[0], : grid_hw[1]]
        np.testing.assert_allclose(cropped, expected, rtol=0, atol=1e-5)
    decode = jax.jit(sharding.decode_sharded, static_argnums=(0, 3, 4, 5))
    y = decode(model, variables, posterior.mean, grid_hw, mesh, axis)
    assert y.sharding.spec == spec
    frames = jax.jit(contract.decode, static_argnums=0)(model, variables, whole.mean)
    cropped = contract.crop(y, frames.shape[1:4])
    np.testing.assert_allclose(cropped, frames, rtol=0, atol=1e-5)


def test_a_device_needs_at_most_a_quarter_of_the_memory():
    model, variables = make_named("local")
    x = jax.ShapeDtypeStruct((1, 5, 512, 64, 2), jnp.float32)
    z = jax.ShapeDtypeStruct((1, 2, 128, 16, 3), jnp.float32)

    def measure(function, a):
        compiled = jax.jit(functools.partial(function, model)).lower(variables, a).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    mesh = make_mesh()
    encode = measure(lambda m, v, x: sharding.encode_sharded(m, v, x, mesh), x)
    decode = measure(lambda m, v, z: sharding.decode_sharded(m, v, z, (128, 16), mesh), z)
    # One device with the same convolutions as sharded frames.
    model = model.clone(extent=(512, 64))
    alone = measure(contract.encode, x), measure(contract.decode, z)
    assert encode <= 0.25 * alone[0] and decode <= 0.25 * alone[1]


def test_wrong_meshes_and_axes_say_why():
    model, variables = make_named("local")
    x, z = make_video(1), jnp.zeros((1, 1, 2, 2, 3))
    with pytest.raises(ValueError, match="axis='time'"):
        sharding.encode_sharded(model, variables, x, make_mesh(), "time")
    square = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    with pytest.raises(ValueError, match="along one axis"):
        sharding.encode_sharded(model, variables, x, square)
    with pytest.raises(ValueError, match=r"grid_hw=\(3, 2\)"):
        sharding.decode_sharded(model, variables, z, (3, 2), make_mesh())
