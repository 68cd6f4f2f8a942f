"""Measures each clip for validation and `density`, and collects the posteriors of each level."""

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
    """The posteriors of one level of latents over a split, for N frames or N clips.

    Attributes:
      mean_NZ: The means of the Gaussian posteriors.
      variance_NZ: The variances of the Gaussian posteriors.
      kl_Z: The mean KL of each dimension, nats per frame or per clip.
      active_Z: bool; the active units.
      has_standard_prior: Whether the prior is N(0, I).
    """

    mean_NZ: np.ndarray
    variance_NZ: np.ndarray
    kl_Z: np.ndarray
    active_Z: np.ndarray
    has_standard_prior: bool


@functools.partial(jax.jit, static_argnames="model")
def measure_batch(model, key, params, batch) -> dict[str, Any]:
    """Measures each clip of a batch; compiled once for equal models and shapes.

    Args:
      model: A vvae model.
      key: The key of the noise; each clip's noise also depends on its number, not on the batch.
      params: The variables of the model.
      batch: "video", "mask" and "index" of a loader's batch.

    Returns:
      Arrays [B, ...]: elbo, log_likelihood and kl (by level) in nats per clip; kl_by_dimension; the
      posterior means and log-variances; and two sums over valid frames of mean squares over pixels,
      in [-1, 1] units: squared_error of the reconstruction, and squared_deviation of the video
      about the training mean.
    """
    video_BTHWC, mask_BT, index_B = batch["video"], batch["mask"], batch["index"]
    terms = contract.terms(model, params, video_BTHWC, key, mask_BT, index_B=index_B)
    posterior = contract.encode(model, params, video_BTHWC, mask_BT)
    x = contract.as_unit_range(video_BTHWC)
    mean_video = contract.decode(model, params, model.posterior_mean(posterior), x.shape[1:4])
    training_mean = params["stats"]["mean"]  # one for each pixel, or one for each channel
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
    """Sums the mean square over pixels over the valid frames, [B]."""
    return jnp.sum(jnp.mean(jnp.square(error_BTHWC), axis=(2, 3, 4)) * mask_BT, axis=1)


def collect_levels(model, measured, mask_NT: np.ndarray) -> dict[str, Level]:
    """Collects the posteriors of each level from the outputs of `measure_batch` for all clips."""

    def collect(posterior, kl_NZ, has_standard_prior):
        mean_NZ, variance_NZ = posterior.mean, np.exp(posterior.logvar.astype(np.float64))
        kl_Z = kl_NZ.mean(axis=0, dtype=np.float64)
        return Level(
            mean_NZ=mean_NZ,
            variance_NZ=variance_NZ,
            kl_Z=kl_Z,
            active_Z=collapse.find_active_units(mean_NZ, variance_NZ, kl_Z),
            has_standard_prior=has_standard_prior,
        )

    masks = {name: np.asarray(mask) for name, mask in model.level_masks(mask_NT).items()}

    def gather(name, values):
        return values[masks[name]].reshape(-1, values.shape[-1])

    # Skip levels of width 0: a model without a clip latent has nothing there that could collapse.
    return {
        name: collect(
            jax.tree.map(functools.partial(gather, name), posterior),
            gather(name, measured["kl_by_dimension"][name]),
            name in model.standard_priors,
        )
        for name, posterior in measured["posterior"].items()
        if posterior.mean.shape[-1]
    }
