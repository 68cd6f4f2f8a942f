"""Attention to earlier frames, block by block, against the same with all scores at once."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vvae.pretrained.causal_attention import (
    attend_over_time,
    attend_to_all_frames,
    attend_to_earlier_frames,
)


def attend_densely(query, key, value):
    """Masks the scores of all positions against all."""
    batch, frames, positions, channels = query.shape
    earlier = key.shape[1] - frames
    flat = [a.reshape(batch, -1, channels) for a in (query, key, value)]
    scores = jnp.einsum("bqc,bkc->bqk", *flat[:2]) / math.sqrt(channels)
    of_query = jnp.repeat(jnp.arange(frames) + earlier, positions)
    of_key = jnp.repeat(jnp.arange(key.shape[1]), positions)
    sees = (of_key[None] <= of_query[:, None])[None]
    weights = jax.nn.softmax(jnp.where(sees, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bqk,bkc->bqc", weights, flat[2]).reshape(query.shape)


def attend_densely_over_time(query, key, value, heads):
    """Attends at every position, and with every head, as to a video of one position."""
    batch, _, positions, channels = query.shape

    def part(a):
        a = a.reshape(*a.shape[:3], heads, channels // heads).transpose(0, 2, 3, 1, 4)
        return a.reshape(batch * positions * heads, a.shape[3], 1, -1)

    y = attend_densely(part(query), part(key), part(value))
    y = y.reshape(batch, positions, heads, query.shape[1], -1).transpose(0, 3, 1, 2, 4)
    return y.reshape(query.shape)


def draw(frames, earlier=0):
    rng = np.random.default_rng(0)
    shapes = [(2, count, 5, 6) for count in (frames, frames + earlier, frames + earlier)]
    return [3.0 * rng.normal(size=shape) for shape in shapes]


def attend_densely_to_all(query, key, value):
    """Attends as the last frame does."""
    frames = [attend_densely(query[:, i : i + 1], key, value) for i in range(query.shape[1])]
    return jnp.concatenate(frames, axis=1)


KINDS = {
    "earlier": (attend_to_earlier_frames, attend_densely),
    "all": (attend_to_all_frames, attend_densely_to_all),
} | {
    f"heads{heads}": tuple(
        functools.partial(attend, heads=heads)
        for attend in (attend_over_time, attend_densely_over_time)
    )
    for heads in (1, 2)
}


@pytest.mark.parametrize("earlier", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_all_scores_at_once(kind, earlier):
    blockwise, dense = KINDS[kind]
    with jax.enable_x64(True):
        arguments = draw(3, earlier)
        weights = np.random.default_rng(1).normal(size=arguments[0].shape)

        def run(attend):
            def score(arguments):
                y = attend(*arguments)
                return jnp.sum(weights * y), y

            return jax.jit(jax.value_and_grad(score, has_aux=True))(arguments)

        (_, y), gradients = run(blockwise)
        (_, expected), expected_gradients = run(dense)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
        for found, wanted in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attend", [attend_to_earlier_frames, attend_over_time])
def test_later_frames_are_not_seen_at_all(attend):
    query, key, value = (jnp.asarray(a, jnp.float32) for a in draw(3))
    y = attend(query, key, value)
    # Not even infinite scores of later frames reach an earlier one.
    changed = attend(query, key.at[:, 2].set(jnp.inf), value.at[:, 2].set(9.0))
    np.testing.assert_array_equal(y[:, :2], changed[:, :2])
    assert np.isnan(changed[:, 2]).any()


@pytest.mark.parametrize("attend", [attend_to_earlier_frames, attend_over_time])
def test_memory_grows_with_the_frames_and_not_with_their_square(attend):
    """16 times the frames need 16 times the memory and not 256 times, backward pass included."""

    def measure(frames):
        shape = jax.ShapeDtypeStruct((1, frames, 64, 8), jnp.float32)

        def score(query, key, value):
            return jnp.sum(attend(query, key, value) ** 2)

        run = jax.jit(jax.grad(score, argnums=(0, 1, 2))).lower(shape, shape, shape).compile()
        return run.memory_analysis().temp_size_in_bytes

    assert measure(64) < 20 * measure(4)
