"""Attention of every position to its own and to earlier frames, block by block.

To all positions of these frames, or to the same position alone. Scores of a frame against one other
(all positions), or against all others (the same position), are in memory at a time, not those of
the whole video: for t x h x w latents (h w)^2 numbers instead of (t h w)^2, or t h w instead of
t^2 h w. The backward pass computes the scores again.

References:
  Rabe and Staats, Self-attention Does Not Need O(n^2) Memory, 2021, arXiv:2112.05682.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.causal_blocks import Past, prepend_past
from vvae.pretrained.layers import PointwiseConv

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(query [B, T, N, C], key [B, S, N, C], value) -> [B, T, N, C], for N positions."""


def attend_to_earlier_frames(
    query_BTNC: jax.Array, key_BSNC: jax.Array, value_BSNC: jax.Array
) -> jax.Array:
    """Computes single-head attention; softmax at least in float32.

    Args:
      query_BTNC: queries of the N positions of the last T frames.
      key_BSNC: keys of S >= T frames.
      value_BSNC: their values.

    Returns:
      [B, T, N, C]: frame S - T + i sees the frames up to S - T + i.
    """
    length, known = query_BTNC.shape[1], key_BSNC.shape[1]
    return _attend_until(query_BTNC, key_BSNC, value_BSNC, jnp.arange(known - length, known))


def attend_to_all_frames(
    query_BTNC: jax.Array, key_BSNC: jax.Array, value_BSNC: jax.Array
) -> jax.Array:
    """Computes `attend_to_earlier_frames`, but every frame sees all S frames."""
    last_T = jnp.full(query_BTNC.shape[1], key_BSNC.shape[1] - 1)
    return _attend_until(query_BTNC, key_BSNC, value_BSNC, last_T)


def _attend_until(query_BTNC, key_BSNC, value_BSNC, last_T: jax.Array) -> jax.Array:
    """Computes attention of each of T frames to the S frames up to one of them, `last_T`."""
    frames = jnp.arange(key_BSNC.shape[1])
    keys, values = (jnp.moveaxis(a, 1, 0) for a in (key_BSNC, value_BSNC))

    @jax.checkpoint
    def attend(query_BNC: jax.Array, frame: jax.Array) -> jax.Array:
        def add(state, other):
            index, key, value = other
            see = functools.partial(_add_frame, query_BNC, key, value)
            return jax.lax.cond(index <= frame, see, lambda state: state, state), None

        highest = jnp.full(query_BNC.shape[:2], -jnp.inf, raise_precision(query_BNC).dtype)
        total = jnp.zeros_like(highest)
        start = (highest, total, jnp.zeros(query_BNC.shape, highest.dtype))
        (_, total, weighted), _ = jax.lax.scan(jax.checkpoint(add), start, (frames, keys, values))
        return (weighted / total[..., None]).astype(value_BSNC.dtype)

    queries = jnp.moveaxis(query_BTNC, 1, 0)
    found = jax.lax.map(lambda pair: attend(*pair), (queries, last_T))
    return jnp.moveaxis(found, 0, 1)


def _add_frame(query_BNC, key_BNC, value_BNC, state):
    """Adds the positions of a frame to a softmax: (highest score, sum of weights, weighted sum)."""
    highest, total, weighted = state
    scores = raise_precision(jnp.einsum("bqc,bkc->bqk", query_BNC, key_BNC))
    scores = scores / math.sqrt(query_BNC.shape[-1])
    # The result does not depend on it: it keeps the exponentials small.
    now = jax.lax.stop_gradient(jnp.maximum(highest, scores.max(-1)))
    weights, shrunk = jnp.exp(scores - now[..., None]), jnp.exp(highest - now)
    added = jnp.einsum("bqk,bkc->bqc", weights, raise_precision(value_BNC))
    return now, total * shrunk + weights.sum(-1), weighted * shrunk[..., None] + added


def attend_over_time(
    query_BTNC: jax.Array, key_BSNC: jax.Array, value_BSNC: jax.Array, heads: int = 1
) -> jax.Array:
    """Computes attention of each position to itself in earlier frames; softmax at least in float32.

    Args:
      query_BTNC: queries of the N positions of the last T frames.
      key_BSNC: keys of S >= T frames.
      value_BSNC: their values.
      heads: number of groups of channels that attend by themselves.

    Returns:
      [B, T, N, C]: frame S - T + i sees the frames up to S - T + i.
    """
    num_frames = key_BSNC.shape[1]
    frames = jnp.arange(num_frames)
    query, key, value = (
        a.reshape(*a.shape[:3], heads, -1) for a in (query_BTNC, key_BSNC, value_BSNC)
    )
    key, value = (jnp.moveaxis(a, 1, 3) for a in (key, value))

    @jax.checkpoint
    def attend(query_BNhc: jax.Array, frame: jax.Array) -> jax.Array:
        scores = raise_precision(jnp.einsum("bnhc,bnhsc->bnhs", query_BNhc, key))
        scores = scores / math.sqrt(query_BNhc.shape[-1])
        sees = (frames <= frame).reshape(1, 1, 1, -1)
        weights = jax.nn.softmax(jnp.where(sees, scores, -jnp.inf), axis=-1)
        return jnp.einsum("bnhs,bnhsc->bnhc", weights.astype(value.dtype), value)

    asking = frames[num_frames - query.shape[1] :]
    found = jax.lax.map(lambda pair: attend(*pair), (jnp.moveaxis(query, 1, 0), asking))
    return jnp.moveaxis(found, 0, 1).reshape(query_BTNC.shape)


class CausalAttention(nn.Module, kw_only=True):
    """Residual attention of a frame to itself and to the frames before it.

    Remembers the keys and values of all frames: what it holds grows with the video.

    Attributes:
      make_norm: makes the norm of the input.
      num_axes: number of axes of length one in the published weights.
      out: name of the last projection.
      attend: computes the attention.
      use_bias: whether queries, keys and values have a bias.
      dtype: of the activations.
    """

    make_norm: Callable[[], Callable[[jax.Array], jax.Array]]
    num_axes: int
    out: str
    attend: Attend = attend_to_earlier_frames
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        settings = {"features": x_BTHWC.shape[-1], "num_axes": self.num_axes, "dtype": self.dtype}
        h = self.make_norm()(x_BTHWC)
        dense = functools.partial(PointwiseConv, **settings, use_bias=self.use_bias)
        query, key, value = (dense(name=f"to_{name}")(h) for name in "qkv")
        if past is not None:
            key, value = (prepend_past(a, b, 0) for a, b in zip((key, value), past, strict=True))
        flat = (a.reshape(*a.shape[:2], -1, a.shape[-1]) for a in (query, key, value))
        y = self.attend(*flat).reshape(x_BTHWC.shape)
        return x_BTHWC + PointwiseConv(**settings, name=self.out)(y), (key, value)
