"""A diffusion transformer over grids of latents, causal over latent frames.

A position attends to all positions of its own latent frame and of the frames before it. So videos
are generated piece by piece: the keys and values of earlier frames are kept, and equal those that
the whole video would give.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Keys and values of known latent frames, [B, t, positions, heads, channels] each, for each block.
Past = tuple[tuple[jax.Array, jax.Array], ...] | None

_MLP_FACTOR = 4
_TIME_CHANNELS = 128
_TIME_SCALE = 1000.0  # the sines are those of 1,000 diffusion steps, times lie in [0, 1]
_LONGEST_PERIOD = 10_000.0
_LONGEST_ROTATION = 100.0  # latent frames


class LatentTransformer(nn.Module):
    """Predicts the velocity of noisy latents, which a flow-matching prior integrates.

    Rows and columns are told by sines of their place in the frame, latent frames by rotations, so
    that only their distance counts.

    Attributes:
      channels: Z of the latents.
      num_classes: number of classes; the label `num_classes` means any of them, and is the only one
        where there are none.
      width: channels of a position, a multiple of 4 and of twice `heads`.
      depth: number of blocks.
      heads: number of attention heads.
      dtype: of the activations; parameters are float32.

    References:
      Peebles and Xie, Scalable Diffusion Models with Transformers, 2023.
      Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021.
    """

    channels: int
    num_classes: int = 0
    width: int = 192
    depth: int = 6
    heads: int = 4
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if self.width % (2 * self.heads) or self.width % 4:
            raise ValueError(
                f"width={self.width}: must be a multiple of 4 and of 2 heads={2 * self.heads}"
            )

    @nn.compact
    def __call__(
        self, z_BthwZ: jax.Array, time_Bt: jax.Array, label_B: jax.Array, past: Past = None
    ) -> tuple[jax.Array, Past]:
        """Predicts the velocity of latent frames that follow those of the past.

        Args:
          z_BthwZ: noisy latents, normalised.
          time_Bt: how far each latent frame is from noise: 0 is noise, 1 the latents themselves.
          label_B: int32, from 0 to num_classes.
          past: keys and values of the frames before, as an earlier call returned them.

        Returns:
          The velocity [B, t, h, w, Z], float32, and the keys and values of all frames up to here.
        """
        num_videos, num_frames, height, width, _ = z_BthwZ.shape
        place = nn.Dense(self.width, use_bias=False, name="place")
        embed = nn.Dense(self.width, dtype=self.dtype, name="embed")
        place_hwF = place(_place_sines(height, width, self.width)).astype(self.dtype)
        x_BthwF = embed(z_BthwZ) + place_hwF[None, None]
        x_BtsF = x_BthwF.reshape(num_videos, num_frames, height * width, self.width)
        condition_BtF = self._embed_time(time_Bt) + self._embed_label(label_B)[:, None]
        condition_BtF = nn.silu(condition_BtF).astype(self.dtype)
        present = []
        for number in range(self.depth):
            block = _Block(self.heads, self.dtype, name=f"block_{number}")
            x_BtsF, kept = block(x_BtsF, condition_BtF, None if past is None else past[number])
            present.append(kept)
        shift, scale = _modulation(condition_BtF, 2, self.width, self.dtype, "final_modulation")
        x_BtsF = _normalize(x_BtsF) * (1 + scale) + shift
        head = nn.Dense(self.channels, kernel_init=nn.initializers.zeros, name="head")
        return head(x_BtsF.astype(jnp.float32)).reshape(z_BthwZ.shape), tuple(present)

    def _embed_time(self, time_Bt: jax.Array) -> jax.Array:
        x = _sines(_TIME_SCALE * time_Bt, _TIME_CHANNELS, _LONGEST_PERIOD)
        x = nn.silu(nn.Dense(self.width, name="time_in")(x))
        return nn.Dense(self.width, name="time_out")(x)

    def _embed_label(self, label_B: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        return nn.Embed(self.num_classes + 1, self.width, embedding_init=init, name="label")(
            label_B
        )


class _Block(nn.Module):
    """Attention and an MLP, both shifted, scaled and gated by the condition; starts as identity."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x_BtsF, condition_BtF, past):
        width = x_BtsF.shape[-1]
        parts = _modulation(condition_BtF, 6, width, self.dtype, "modulation")
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        attended, present = self._attend(_normalize(x_BtsF) * (1 + scale) + shift, past)
        x_BtsF = x_BtsF + gate * attended
        y = _normalize(x_BtsF) * (1 + mlp_scale) + mlp_shift
        y = nn.gelu(nn.Dense(_MLP_FACTOR * width, dtype=self.dtype, name="mlp_in")(y))
        return x_BtsF + mlp_gate * nn.Dense(width, dtype=self.dtype, name="mlp_out")(y), present

    def _attend(self, x_BtsF, past):
        num_videos, num_frames, num_places, width = x_BtsF.shape
        project = nn.DenseGeneral(
            (3, self.heads, width // self.heads), dtype=self.dtype, name="attention_in"
        )
        query, key, value = jnp.moveaxis(project(x_BtsF), -3, 0)
        query, key = (nn.RMSNorm(dtype=self.dtype, name=n)(a) for n, a in
                      (("query_norm", query), ("key_norm", key)))  # fmt: skip
        if past is not None:
            key, value = (
                jnp.concatenate([old, new], axis=1) for old, new in zip(past, (key, value))
            )
        first = key.shape[1] - num_frames
        # Keys are kept without their rotation: frames are counted from the first one that is kept.
        rotated = (_rotate(query, first), _rotate(key, 0), value)
        flat = (a.reshape(num_videos, -1, *a.shape[3:]) for a in rotated)
        frame_q = jnp.repeat(jnp.arange(first, key.shape[1]), num_places)
        frame_k = jnp.repeat(jnp.arange(key.shape[1]), num_places)
        mask = frame_k[None, :] <= frame_q[:, None]
        y = jax.nn.dot_product_attention(*flat, mask=mask[None, None])
        out = nn.Dense(width, dtype=self.dtype, name="attention_out")
        return out(y.reshape(num_videos, num_frames, num_places, width)), (key, value)


def _modulation(condition_BtF, count: int, width: int, dtype, name: str):
    """Returns `count` arrays [B, t, 1, width] that start at zero."""
    dense = nn.Dense(count * width, kernel_init=nn.initializers.zeros, dtype=dtype, name=name)
    return jnp.split(dense(condition_BtF)[:, :, None], count, axis=-1)


def _normalize(x: jax.Array) -> jax.Array:
    """Normalises the channels of a position to mean 0 and variance 1, at least in float32."""
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)


def _rotate(x_BtsHC: jax.Array, first: int) -> jax.Array:
    """Rotates pairs of channels by angles that grow with the number of the latent frame."""
    half = x_BtsHC.shape[-1] // 2
    rate = _LONGEST_ROTATION ** (-jnp.arange(half) / half)
    angle = jnp.outer(jnp.arange(first, first + x_BtsHC.shape[1]), rate)[None, :, None, None]
    cos, sin = (f(angle).astype(x_BtsHC.dtype) for f in (jnp.cos, jnp.sin))
    a, b = jnp.split(x_BtsHC, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def _place_sines(height: int, width: int, channels: int) -> jax.Array:
    """Returns sines and cosines of the place in the frame, [h, w, channels]."""
    rows, columns = (jnp.arange(side, dtype=jnp.float32) for side in (height, width))
    along, across = (_sines(a, channels // 2, _LONGEST_PERIOD) for a in (rows, columns))
    shape = (height, width, channels // 2)
    return jnp.concatenate(
        [jnp.broadcast_to(along[:, None], shape), jnp.broadcast_to(across[None], shape)], axis=-1
    )


def _sines(x: jax.Array, channels: int, longest: float) -> jax.Array:
    """Returns sines and cosines of numbers [...] at geometric frequencies, [..., channels]."""
    half = channels // 2
    rate = longest ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.multiply.outer(x.astype(jnp.float32), rate)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
