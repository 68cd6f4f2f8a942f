"""The networks of SequentialVAE."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from vvae import distributions as dist
from vvae.distributions import LOGVAR_LIMIT, Gaussian
from vvae.models.convolutions import DownConv, UpConv

CLIP_FEATURES = 64
CLIP_KERNEL = 4


@flax.struct.dataclass
class DynamicsState:
    """Memory of the prior: `hidden` [B, F] and the previous frame latent `frame` [B, Z]."""

    hidden: jax.Array
    frame: jax.Array


@flax.struct.dataclass
class ClipState:
    """What w is inferred from.

    Attributes:
      recent: [B, 3, 2Z] inputs of the last frames.
      total: [B, F] sum of the features of the valid frames so far.
      count: [B] number of valid frames so far.
    """

    recent: jax.Array
    total: jax.Array
    count: jax.Array


class GaussianHead(nn.Module):
    """Linear map to the mean and log-variance of a diagonal Gaussian, at least float32."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> Gaussian:
        x = dist.raise_precision(x)
        if self.features == 0:  # initialisers fail on a kernel without columns
            return Gaussian(x[..., :0], x[..., :0])
        out = nn.Dense(2 * self.features, dtype=None, name="dense")(x)
        return dist.split_gaussian(out)


class FrameEncoder(nn.Module):
    """Maps frames [N, H, W, C] to features [N, F]: stride-2 convolutions, then one dense layer."""

    widths: tuple[int, ...]
    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        for level, width in enumerate(self.widths):
            x_NHWC = nn.silu(
                DownConv(features=width, dtype=self.dtype, name=f"down_{level}")(x_NHWC)
            )
        flat = x_NHWC.reshape(x_NHWC.shape[0], -1)
        return nn.silu(nn.Dense(self.hidden, dtype=self.dtype, name="dense")(flat))


class FrameDecoder(nn.Module):
    """Maps latents [N, Z + W] to frames [N, H, W, C]: the mirror image of FrameEncoder."""

    shape_HWC: tuple[int, int, int]
    widths: tuple[int, ...]
    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, z_NZ: jax.Array) -> jax.Array:
        height, width, channels = self.shape_HWC
        scale = 2 ** len(self.widths)
        features = (channels, *self.widths)
        grid = (height // scale, width // scale, features[-1])
        x = nn.silu(nn.Dense(self.hidden, dtype=self.dtype, name="dense_0")(z_NZ))
        x = nn.Dense(grid[0] * grid[1] * grid[2], dtype=self.dtype, name="dense_1")(x)
        x = x.reshape(-1, *grid)
        for level in reversed(range(len(self.widths))):
            x = UpConv(features=features[level], dtype=self.dtype, name=f"up_{level}")(nn.silu(x))
        return dist.raise_precision(x)


class ClipEncoder(nn.Module):
    """Infers q(w | x_<=t) for every t from the posteriors of the frames up to t."""

    features: int

    def setup(self):
        self.conv = nn.Conv(CLIP_FEATURES, (CLIP_KERNEL,), padding="VALID")
        self.head = GaussianHead(self.features)

    def initial_state(self, batch: int, latent_dim: int, dtype) -> ClipState:
        """Returns the state before the first frame."""
        return ClipState(
            jnp.zeros((batch, CLIP_KERNEL - 1, 2 * latent_dim), dtype),
            jnp.zeros((batch, CLIP_FEATURES), dtype),
            jnp.zeros((batch,), jnp.int32),
        )

    def __call__(self, frame: Gaussian, mask_BT: jax.Array) -> Gaussian:
        batch, _, latent_dim = frame.mean.shape
        state = self.initial_state(batch, latent_dim, frame.mean.dtype)
        return self.extend(state, frame, mask_BT)[1]

    def extend(
        self, state: ClipState, frame: Gaussian, mask_BT: jax.Array
    ) -> tuple[ClipState, Gaussian]:
        """Reads more frames; returns the state after them and q(w | x_<=t) at each of them."""
        inputs = jnp.concatenate([frame.mean, frame.logvar], axis=-1) * mask_BT[..., None]
        past = jnp.concatenate([state.recent, inputs], axis=1)
        h = nn.silu(self.conv(past)) * mask_BT[..., None]
        total = state.total[:, None] + jnp.cumsum(h, axis=1)
        count = state.count[:, None] + jnp.cumsum(mask_BT, axis=1)
        posterior = self.head(total / jnp.maximum(count, 1)[..., None])
        return ClipState(past[:, -(CLIP_KERNEL - 1) :], total[:, -1], count[:, -1]), posterior


class Dynamics(nn.Module):
    """p(z_t | z_<t, w): a GRU over z, whose state is combined with z_{t-1} and w."""

    latent_dim: int
    hidden: int = 128

    def setup(self):
        self.cell = nn.GRUCell(self.hidden)
        self.dense = nn.Dense(self.hidden)
        self.linear = nn.Dense(2 * self.latent_dim)
        self.head = GaussianHead(self.latent_dim)

    def initial_state(self, batch: int, dtype) -> DynamicsState:
        """Returns the state before the first frame."""
        return DynamicsState(
            jnp.zeros((batch, self.hidden), dtype), jnp.zeros((batch, self.latent_dim), dtype)
        )

    def observe(self, state: DynamicsState, z_BZ: jax.Array, valid_B: jax.Array) -> DynamicsState:
        """Returns the state after one more frame; a masked frame changes nothing."""
        hidden, _ = self.cell(state.hidden, z_BZ)
        keep = valid_B[:, None]
        return DynamicsState(
            jnp.where(keep, hidden, state.hidden), jnp.where(keep, z_BZ, state.frame)
        )

    def predict(self, state: DynamicsState, w: jax.Array) -> Gaussian:
        """Returns p(z_t | z_<t, w); state and w may share any leading axes."""
        inputs = jnp.concatenate([state.hidden, state.frame, w], axis=-1)
        nonlinear = self.head(nn.silu(self.dense(inputs)))
        mean, logvar = jnp.split(self.linear(inputs), 2, axis=-1)
        logvar = jnp.clip(nonlinear.logvar + logvar, -LOGVAR_LIMIT, LOGVAR_LIMIT)
        return Gaussian(nonlinear.mean + mean, logvar)

    def scan(self, z_BTZ: jax.Array, mask_BT: jax.Array) -> DynamicsState:
        """Returns the states before each frame, with a time axis: hidden [B, T, F], ..."""
        return self.extend(self.initial_state(z_BTZ.shape[0], z_BTZ.dtype), z_BTZ, mask_BT)[1]

    def extend(
        self, state: DynamicsState, z_BTZ: jax.Array, mask_BT: jax.Array
    ) -> tuple[DynamicsState, DynamicsState]:
        """Returns the state after these frames, and the states before each of them."""

        def body(module, state, inputs):
            z_BZ, valid_B = inputs
            return module.observe(state, z_BZ, valid_B), state

        run = nn.scan(
            body, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        return run(self, state, (z_BTZ, mask_BT))


class StaticPrior(nn.Module):
    """p(z_t | w): the same for every frame of a clip."""

    latent_dim: int
    hidden: int = 128

    @nn.compact
    def __call__(self, w: jax.Array) -> Gaussian:
        return GaussianHead(self.latent_dim, name="head")(
            nn.silu(nn.Dense(self.hidden, name="dense")(w))
        )
