"""What validation and `density` measure of each clip, and the posteriors of each level."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae.measure import collapse
from vvae.models import contract
from vvae.models.sequential import level_kl
from vvae.objectives.elbo import elbo_of_terms


@dataclasses.dataclass(frozen=True)
class Level:
    """Posteriors of one level of latents over a split; N frames or clips.

    Attributes:
      mean_NZ, variance_NZ: of the Gaussian posteriors.
      kl_Z: mean KL of each dimension, nats per frame or clip.
      active_Z: bool.
      has_standard_prior: whether the prior is N(0, I).
    """

    mean_NZ: np.ndarray
    variance_NZ: np.ndarray
    kl_Z: np.ndarray
    active_Z: np.ndarray
    has_standard_prior: bool


def measure_batch(model, key, params, batch) -> dict[str, Any]:
    """Measures each clip of a batch; a pure function whose noise is that of the clip's number.

    Args:
      model: a vvae model.
      key: of the noise.
      params: its variables.
      batch: "video", "mask" and "index" of a loader's batch.

    Returns:
      Arrays [B, ...]: elbo, log_likelihood and kl (by level) in nats per clip, kl_by_dimension, the
      posteriors, and sums over valid frames of the mean square error of the reconstruction and of
      the video about the training mean, in [-1, 1] units.
    """
    video_BTHWC, mask_BT, index_B = batch["video"], batch["mask"], batch["index"]
    terms = contract.terms(model, params, video_BTHWC, key, mask_BT, index_B=index_B)
    posterior = contract.encode(model, params, video_BTHWC, mask_BT)
    x = contract.as_unit_range(video_BTHWC)
    mean_video = contract.decode(model, params, model.posterior_mean(posterior), x.shape[1:4])
    training_mean = params["stats"]["mean"]  # of each pixel, or of each channel
    training_mean = training_mean.reshape(
        (1,) * (x.ndim - training_mean.ndim) + training_mean.shape
    )
    return {
        "elbo": elbo_of_terms(terms),
        "log_likelihood": terms.log_likelihood[0],
        "kl": {level: kl[0] for level, kl in terms.kl_by_level.items()},
        "kl_by_dimension": level_kl(model, params, video_BTHWC, key, mask_BT, index_B),
        "posterior": model.level_posteriors(posterior),
        "squared_error": _masked_mean_square(x - mean_video, mask_BT),
        "squared_deviation": _masked_mean_square(x - training_mean, mask_BT),
    }


def _masked_mean_square(error_BTHWC: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Sum over valid frames of the mean square over pixels, [B]."""
    return jnp.sum(jnp.mean(jnp.square(error_BTHWC), axis=(2, 3, 4)) * mask_BT, axis=1)


def collect_levels(model, measured, mask_NT: np.ndarray) -> dict[str, Level]:
    """Gathers the posteriors of each level from what `measure_batch` returned for all clips."""

    def collect(posterior, kl_NZ, has_standard_prior):
        mean_NZ, variance_NZ = posterior.mean, np.exp(posterior.logvar.astype(np.float64))
        kl_Z = kl_NZ.mean(axis=0, dtype=np.float64)
        active_Z = collapse.find_active_units(mean_NZ, variance_NZ, kl_Z)
        return Level(mean_NZ, variance_NZ, kl_Z, active_Z, has_standard_prior)

    masks = {name: np.asarray(mask) for name, mask in model.level_masks(mask_NT).items()}

    def gather(name, values):
        return values[masks[name]].reshape(-1, values.shape[-1])

    # A model without a clip latent has nothing there that could be active or collapse.
    return {
        name: collect(
            jax.tree.map(functools.partial(gather, name), posterior),
            gather(name, measured["kl_by_dimension"][name]),
            name in model.standard_priors,
        )
        for name, posterior in measured["posterior"].items()
        if posterior.mean.shape[-1]
    }
