"""Pools the latents of a video to one feature vector."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vvae.data.clips import Clips
from vvae.distributions import Gaussian
from vvae.measure.mapping import map_clips
from vvae.models import contract
from vvae.models.sequential import SequentialPosterior

NUM_TIMES = 16


def scale_by_uncertainty(latents: Gaussian) -> jax.Array:
    """Returns posterior means in units of their standard deviations."""
    return latents.mean * jnp.exp(-0.5 * latents.logvar)


def pool_clip(posterior: SequentialPosterior, mask_BT: jax.Array) -> jax.Array:
    """Takes the mean of the clip latent w, [B, W]."""
    del mask_BT  # w was inferred from the valid frames alone
    return posterior.clip.mean


def pool_ordered(posterior: SequentialPosterior, mask_BT: jax.Array) -> jax.Array:
    """Concatenates frame latents at 16 equal times, [B, 16 * Z].

    A latent is its posterior mean divided by its posterior standard deviation: the scale of a
    latent is arbitrary, but how many of its values can be distinguished is not. (For a linear VAE
    these are the coefficients of PCA in units of the noise, so that distances between them are
    distances between frames.) The times reach from the first valid frame to the last; between two
    frames the values are interpolated linearly. A clip without a valid frame gives zeros.
    """
    return _join(_sample_times(scale_by_uncertainty(posterior.frame), mask_BT))


def pool_means(posterior: SequentialPosterior, mask_BT: jax.Array) -> jax.Array:
    """Concatenates posterior means at the times of `pool_ordered`, [B, 16 * Z].

    Under an N(0, I) prior, uninformative latents are near 0. This pooling suits networks without a
    linear path, whose posteriors are too narrow for unseen clips.
    """
    return _join(_sample_times(posterior.frame.mean, mask_BT))


def pool_mean_dynamics(posterior: SequentialPosterior, mask_BT: jax.Array) -> jax.Array:
    """Concatenates `pool_means` and the magnitudes of the steps between its times, [B, 31 * Z]."""
    return _join_steps(_sample_times(posterior.frame.mean, mask_BT))


def pool_dynamics(posterior: SequentialPosterior, mask_BT: jax.Array) -> jax.Array:
    """Concatenates `pool_ordered` and the magnitudes of its 15 steps, [B, 31 * Z].

    A linear classifier of z_t cannot separate fast from slow movements whose phase varies: the mean
    of z_t over the phases is the same. The magnitudes |z_{t+1} - z_t| separate them.
    """
    return _join_steps(_sample_times(scale_by_uncertainty(posterior.frame), mask_BT))


def pool_steps(posterior: SequentialPosterior, mask_BT: jax.Array) -> jax.Array:
    """Takes the magnitudes of the 15 steps of `pool_ordered` alone, [B, 15 * Z].

    This pooling suits signed views such as `difference`, where a moving object is bright or dark by
    chance: the sign of a latent does not depend on the class, but its changes do.
    """
    return _measure_steps(_sample_times(scale_by_uncertainty(posterior.frame), mask_BT))


def _join_steps(z_BSZ: jax.Array) -> jax.Array:
    return jnp.concatenate([_join(z_BSZ), _measure_steps(z_BSZ)], axis=1)


def _measure_steps(z_BSZ: jax.Array) -> jax.Array:
    return _join(jnp.abs(jnp.diff(z_BSZ, axis=1)))


def _join(z_BSZ: jax.Array) -> jax.Array:
    return z_BSZ.reshape(z_BSZ.shape[0], -1)


def _sample_times(z_BTZ: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Returns latents at NUM_TIMES equal times, [B, S, Z]."""
    # Valid frames first, in order of time: masked frames can be at both ends.
    order_BT = jnp.argsort(~mask_BT, axis=1, stable=True)
    z_BTZ = jnp.take_along_axis(z_BTZ, order_BT[..., None], axis=1)
    last_B = jnp.maximum(mask_BT.sum(axis=1) - 1, 0)
    position_BS = jnp.linspace(0.0, 1.0, NUM_TIMES)[None] * last_B[:, None]
    lower_BS = jnp.floor(position_BS).astype(jnp.int32)
    upper_BS = jnp.minimum(lower_BS + 1, last_B[:, None])
    lower = jnp.take_along_axis(z_BTZ, lower_BS[..., None], axis=1)
    upper = jnp.take_along_axis(z_BTZ, upper_BS[..., None], axis=1)
    pooled_BSZ = lower + (position_BS - lower_BS)[..., None] * (upper - lower)
    return jnp.where(mask_BT.any(axis=1)[:, None, None], pooled_BSZ, 0.0)


def pool_stats(posterior: SequentialPosterior, mask_BT: jax.Array) -> jax.Array:
    """Takes mean and standard deviation of the frame latents over the valid frames, [B, 2 * Z]."""
    mean_BTZ, mask_BT1 = posterior.frame.mean, mask_BT[..., None]
    count_B1 = jnp.maximum(mask_BT1.sum(axis=1), 1)
    mean_BZ = jnp.sum(mean_BTZ * mask_BT1, axis=1) / count_B1
    squares = jnp.square(mean_BTZ - mean_BZ[:, None]) * mask_BT1
    return jnp.concatenate([mean_BZ, jnp.sqrt(squares.sum(axis=1) / count_B1)], axis=-1)


# Name of a pooling -> (SequentialPosterior, mask_BT) -> [B, F].
POOLINGS: dict[str, Callable] = {
    "clip": pool_clip,
    "dynamics": pool_dynamics,
    "mean_dynamics": pool_mean_dynamics,
    "means": pool_means,
    "ordered": pool_ordered,
    "stats": pool_stats,
    "steps": pool_steps,
}


def get_pooling(name: str) -> Callable:
    """Returns a function: (SequentialPosterior, mask_BT) -> [B, F].

    Raises:
      ValueError: for an unknown pooling.
    """
    if name not in POOLINGS:
        raise ValueError(f"pooling={name!r} is not one of {', '.join(POOLINGS)}")
    return POOLINGS[name]


@dataclasses.dataclass(frozen=True)
class VideoFeatures:
    """One vector per video, with the labels, groups and names of the videos.

    Attributes:
      feature_VF: float32.
      label_V: int32 class ids, -1 for none.
      group_V: groups; no split separates videos of one group.
      name_V: names relative to the root of the data set.
    """

    feature_VF: np.ndarray
    label_V: np.ndarray
    group_V: np.ndarray
    name_V: np.ndarray


def make_encoder(model, pooling: str | Callable) -> Callable:
    """Returns a jitted function: (params, video_BTHWC, mask_BT) -> pooled posterior.

    Share it between calls, so that it is compiled once.

    Args:
      model: a SequentialVAE.
      pooling: the name of a pooling, for vectors [B, F], or a function: (posterior, mask_BT) ->
        pytree of arrays [B, ...].

    Raises:
      ValueError: for an unknown pooling.
    """
    read = get_pooling(pooling) if isinstance(pooling, str) else pooling

    @jax.jit
    def encode(params, video_BTHWC, mask_BT):
        return read(contract.encode(model, params, video_BTHWC, mask_BT), mask_BT)

    return encode


def encode_clips(encoder: Callable, params, clips: Clips, batch_size: int):
    """Applies an encoder of `make_encoder` to clips; returns its pytree of arrays [N, ...]."""
    return map_clips(
        lambda batch: encoder(params, batch["video"], batch["mask"]), clips, batch_size
    )


def extract(encoder: Callable, params, clips: Clips, batch_size: int) -> VideoFeatures:
    """Computes one vector per video: pooled latents, averaged over the clips of the video.

    Args:
      encoder: as `make_encoder` returns it, for vectors [B, F].
      params: variables of the model.
      clips: one split.
      batch_size: clips per batch.
    """
    return average_by_video(encode_clips(encoder, params, clips, batch_size), clips)


def average_by_video(clip_NF: np.ndarray, clips: Clips) -> VideoFeatures:
    """Averages vectors of clips [N, F] over the clips of each video that have a valid frame."""
    used_N = clips.mask_NT.any(axis=1)
    video_N = clips.video_index_N[used_N]
    total_VF = np.zeros((len(clips.videos), clip_NF.shape[1]))
    np.add.at(total_VF, video_N, clip_NF[used_N])
    count_V = np.bincount(video_N, minlength=len(clips.videos))
    return VideoFeatures(
        feature_VF=(total_VF / count_V[:, None]).astype(np.float32),
        label_V=clips.label_V,
        group_V=np.array([video.group for video in clips.videos]),
        name_V=np.array([video.name for video in clips.videos]),
    )
