"""Bottlenecks between encoder and decoder: a Gaussian with a N(0, I) prior, or finite codes.

A bottleneck reads the outputs of an encoder as a posterior, samples it and computes its cost in
nats. Arrays are [..., Z] with any leading axes; costs are summed over Z unless stated otherwise.
"""

import math
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vvae import distributions as dist
from vvae.distributions import Gaussian

# The limits of log-variances in the VAE of Stable Diffusion and its successors.
_PUBLISHED_LOGVAR = (-30.0, 20.0)


@flax.struct.dataclass
class Codes:
    """A posterior that is a single point: `values` [..., Z] of `FiniteScalars`, in [-1, 1]."""

    values: jax.Array


@dataclass(frozen=True)
class GaussianLatents:
    """Z real numbers per position, with q = N(mean, exp(logvar)) and p = N(0, 1).

    Attributes:
      channels: Z.
    """

    channels: int = 16

    def __post_init__(self):
        if self.channels < 1:
            raise ValueError(f"channels={self.channels}: latents must have at least one channel")

    @property
    def num_outputs(self) -> int:
        """Number of channels that the encoder must return."""
        return 2 * self.channels

    @property
    def has_standard_prior(self) -> bool:
        """Whether p = N(0, I)."""
        return True

    @property
    def encodes_points(self) -> bool:
        """Whether the encoder itself states no width of the posterior."""
        return False

    def prior(self, shape: tuple[int, ...], dtype) -> Gaussian:
        """Returns p, broadcast to the shape [..., Z]."""
        return dist.standard_gaussian(shape, dtype)

    def posterior(self, outputs: jax.Array) -> Gaussian:
        """Reads the outputs of the encoder as a posterior."""
        return dist.split_gaussian(outputs)

    def mean(self, posterior: Gaussian) -> jax.Array:
        """Returns the most probable latents."""
        return posterior.mean

    def sample(self, posterior: Gaussian, key_B: jax.Array, num_samples: int) -> jax.Array:
        """Draws [K, B, ..., Z], with noise from one key per clip."""

        def draw(key, mean):
            return jax.random.normal(key, (num_samples, *mean.shape), mean.dtype)

        eps = jax.vmap(draw, out_axes=1)(key_B, posterior.mean)
        return dist.sample_gaussian(jax.tree.map(lambda a: a[None], posterior), eps)

    def sample_prior(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draws [*shape, Z] from the prior; the key is consumed."""
        prior = self.prior((*shape, self.channels), jnp.float32)
        return dist.sample_gaussian(prior, jax.random.normal(key, prior.mean.shape))

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Computes log p(z), [...]."""
        return dist.gaussian_log_prob(self.prior(z.shape, z.dtype), z).sum(-1)

    def log_posterior(self, posterior: Gaussian, z: jax.Array) -> jax.Array:
        """Computes log q(z), [...]; z may have leading axes for samples."""
        lead = (1,) * (z.ndim - posterior.mean.ndim)
        posterior = jax.tree.map(lambda a: a.reshape(lead + a.shape), posterior)
        return dist.gaussian_log_prob(posterior, z).sum(-1)

    def kl_by_dim(self, posterior: Gaussian) -> jax.Array:
        """Computes KL(q || p) of each latent, [..., Z]."""
        prior = self.prior(posterior.mean.shape, posterior.mean.dtype)
        return dist.gaussian_kl(posterior, prior)


@dataclass(frozen=True)
class ScaledLatents(GaussianLatents):
    """Gaussian latents with the prior p = N(prior_mean, prior_std^2) of each channel.

    For published latents, whose mean and standard deviation over many videos were published too:
    the scale by which models of such latents normalise them.

    Attributes:
      channels: Z.
      prior_mean: Z numbers.
      prior_std: Z positive numbers.
    """

    prior_mean: tuple[float, ...] = ()
    prior_std: tuple[float, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        for name, values in (("mean", self.prior_mean), ("std", self.prior_std)):
            if len(values) != self.channels:
                raise ValueError(
                    f"prior_{name}={values}: must have a number for each of {self.channels} "
                    "channels"
                )
        if min(self.prior_std) <= 0:
            raise ValueError(f"prior_std={self.prior_std}: must be positive")

    def posterior(self, outputs: jax.Array) -> Gaussian:
        """Reads the outputs of the encoder, and clips log-variances as the published models do."""
        mean, logvar = jnp.split(dist.raise_precision(outputs), 2, axis=-1)
        return Gaussian(mean, jnp.clip(logvar, *_PUBLISHED_LOGVAR))

    @property
    def has_standard_prior(self) -> bool:
        """Whether p = N(0, I)."""
        return set(self.prior_mean) == {0.0} and set(self.prior_std) == {1.0}

    def prior(self, shape: tuple[int, ...], dtype) -> Gaussian:
        """Returns p, broadcast to the shape [..., Z]."""
        logvar = tuple(2.0 * math.log(std) for std in self.prior_std)
        mean, logvar = (
            jnp.broadcast_to(jnp.array(a, dtype).reshape((1,) * (len(shape) - 1) + (-1,)), shape)
            for a in (self.prior_mean, logvar)
        )
        return Gaussian(mean, logvar)

    def normalize(self, z: jax.Array) -> jax.Array:
        """Returns (z - prior_mean) / prior_std, [..., Z]."""
        mean, std = self._per_channel(z)
        return (z - mean) / std

    def denormalize(self, z: jax.Array) -> jax.Array:
        """Returns z prior_std + prior_mean, [..., Z]: the inverse of `normalize`."""
        mean, std = self._per_channel(z)
        return z * std + mean

    def _per_channel(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        lift = (1,) * (z.ndim - 1) + (-1,)
        return tuple(jnp.array(a, z.dtype).reshape(lift) for a in (self.prior_mean, self.prior_std))


@dataclass(frozen=True)
class PointLatents(ScaledLatents):
    """Latents of a published autoencoder without a posterior: the outputs of its encoder.

    The posterior is N(output, (share prior_std)^2), so that everything that asks for one has it.
    The share is ours, not the authors': rates and bounds that are computed from it say how much
    latents of that precision tell.

    Attributes:
      channels, prior_mean, prior_std: see `ScaledLatents`.
      share: standard deviation of the posterior, as a share of that of the prior.
    """

    share: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.share < 1:
            raise ValueError(f"share={self.share}: must be between 0 and 1")

    @property
    def num_outputs(self) -> int:
        """Number of channels that the encoder must return."""
        return self.channels

    @property
    def encodes_points(self) -> bool:
        """Whether the encoder itself states no width of the posterior."""
        return True

    def posterior(self, outputs: jax.Array) -> Gaussian:
        """Reads the outputs of the encoder as the means of the posterior."""
        mean = dist.raise_precision(outputs)
        stds = jnp.array([self.share * std for std in self.prior_std], mean.dtype)
        logvar = 2.0 * jnp.log(stds).reshape((1,) * (mean.ndim - 1) + (-1,))
        return Gaussian(mean, jnp.broadcast_to(logvar, mean.shape))


@dataclass(frozen=True)
class FrameScaledLatents(PointLatents):
    """Points whose mean and standard deviation were published for each latent frame of a video.

    `prior_mean` and `prior_std` are those over these frames.

    Attributes:
      channels, prior_mean, prior_std, share: see `PointLatents`.
      frame_means: Z numbers for each of the first N latent frames of a video.
      frame_stds: Z positive numbers for each of them.
    """

    frame_means: tuple[tuple[float, ...], ...] = ()
    frame_stds: tuple[tuple[float, ...], ...] = ()

    def normalize(self, z: jax.Array) -> jax.Array:
        """Returns z minus the mean of its frame, divided by its standard deviation.

        Args:
          z: latents from the first frame of a video on, [..., t, h, w, Z], t at most N.

        Raises:
          ValueError: for more frames.
        """
        mean, std = self._per_frame(z)
        return (z - mean) / std

    def denormalize(self, z: jax.Array) -> jax.Array:
        """Applies the inverse of `normalize`."""
        mean, std = self._per_frame(z)
        return z * std + mean

    def _per_frame(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        length, known = z.shape[-4], len(self.frame_means)
        if length > known:
            raise ValueError(
                f"latents of {length} frames: a scale was published for the first {known} alone"
            )
        lift = (1,) * (z.ndim - 4) + (length, 1, 1, self.channels)
        scales = (self.frame_means, self.frame_stds)
        return tuple(jnp.array(a[:length], z.dtype).reshape(lift) for a in scales)


def pool_frame_scales(means, stds) -> FrameScaledLatents:
    """Returns latents whose overall mean and standard deviation are those of all frames together.

    Args:
      means: Z numbers for each of N frames.
      stds: Z positive numbers for each of them.
    """
    means, stds = np.array(means, np.float64), np.array(stds, np.float64)
    overall = means.mean(0)
    spread = np.sqrt((stds**2 + (means - overall) ** 2).mean(0))

    def freeze(a):
        return tuple(map(tuple, a.tolist()))

    return FrameScaledLatents(
        channels=means.shape[1],
        prior_mean=tuple(overall.tolist()),
        prior_std=tuple(spread.tolist()),
        frame_means=freeze(means),
        frame_stds=freeze(stds),
    )


@dataclass(frozen=True)
class FiniteScalars:
    """Z numbers per position, each rounded to one of a few levels (FSQ).

    The gradient passes the rounding unchanged (straight-through). The posterior is a point and the
    prior is uniform over the codes, so the KL is the logarithm of the number of codes.

    Attributes:
      levels: L of each channel, at least 2.

    References:
      Mentzer et al., Finite Scalar Quantization: VQ-VAE Made Simple, 2023, section 3.1.
    """

    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)

    def __post_init__(self):
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels={self.levels}: every channel must have at least 2 levels")

    @property
    def channels(self) -> int:
        """Z."""
        return len(self.levels)

    @property
    def has_standard_prior(self) -> bool:
        """Whether p = N(0, I)."""
        return False

    @property
    def encodes_points(self) -> bool:
        """Whether the encoder itself states no width of the posterior."""
        return True

    @property
    def num_outputs(self) -> int:
        """Number of channels that the encoder must return."""
        return self.channels

    def posterior(self, outputs: jax.Array) -> Codes:
        """Bounds the outputs of the encoder and rounds them, straight-through."""
        outputs = dist.raise_precision(outputs)
        levels = np.array(self.levels, outputs.dtype)
        # Slightly wider, so that the outermost levels are reached (and 2 levels are possible).
        half_range = 0.5 * (levels - 1.0) * (1.0 + 1e-3)
        offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(outputs.dtype)
        shift = np.arctanh(offset / half_range).astype(outputs.dtype)
        lift = (1,) * (outputs.ndim - 1) + (-1,)
        half_range, offset, shift, step = (
            a.reshape(lift) for a in (half_range, offset, shift, levels // 2)
        )
        bounded = jnp.tanh(outputs + shift) * half_range - offset
        rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
        return Codes(rounded / step)

    def indices(self, values: jax.Array) -> jax.Array:
        """Returns the index of the level of each value, an integer in 0, ..., L - 1."""
        step = np.array(self.levels).reshape((1,) * (values.ndim - 1) + (-1,)) // 2
        return jnp.rint(values * step).astype(jnp.int32) + step

    def mean(self, posterior: Codes) -> jax.Array:
        """Returns the values of the codes."""
        return posterior.values

    def sample(self, posterior: Codes, key_B: jax.Array, num_samples: int) -> jax.Array:
        """Returns [K, B, ..., Z]: the values K times, since the posterior is a point."""
        values = posterior.values
        return jnp.broadcast_to(values[None], (num_samples, *values.shape))

    def sample_prior(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draws the values of uniform codes, [*shape, Z]; the key is consumed."""
        lift = (1,) * len(shape) + (-1,)
        levels = jnp.array(self.levels).reshape(lift)
        index = jax.random.randint(key, (*shape, self.channels), 0, levels)
        step = levels // 2
        return (index - step) / step.astype(jnp.float32)

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Returns minus the logarithm of the number of codes, [...]."""
        return jnp.full(z.shape[:-1], -math.fsum(map(math.log, self.levels)), z.dtype)

    def log_posterior(self, posterior: Codes, z: jax.Array) -> jax.Array:
        """Returns 0, [...]: the posterior is a point."""
        return jnp.zeros(z.shape[:-1], z.dtype)

    def kl_by_dim(self, posterior: Codes) -> jax.Array:
        """Returns log L of each channel, [..., Z]."""
        values = posterior.values
        log_levels = jnp.log(jnp.array(self.levels, values.dtype))
        return jnp.broadcast_to(log_levels.reshape((1,) * (values.ndim - 1) + (-1,)), values.shape)
