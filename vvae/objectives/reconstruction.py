"""Training losses that compare the decoded video, beside the ELBO.

Every term is a sum over the elements of a clip (frames, rows, columns, channels), as the ELBO is. A
weight w on the absolute error is thus a Laplace likelihood of scale 1 / w, up to a constant, and
the KL keeps its meaning. A perceptual distance is one number per frame, and is multiplied by the
number of elements of the frame. Videos are in [-1, 1]; masked frames count nowhere.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models import contract
from vvae.models.haar import split_bands
from vvae.objectives.elbo import elbo_of_terms, free_bits_kl

# (x, y), frames [..., H, W, C] in [-1, 1] -> the distance of each pair of frames [...].
FrameDistance = Callable[[jax.Array, jax.Array], jax.Array]
# (variables, batch, key) -> a video [B, T, H, W, C] in [-1, 1] to learn from.
Teacher = Callable[[Any, dict, jax.Array], jax.Array]
# (variables, video) -> numbers that describe it, [B, ...].
Features = Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Judges:
    """What terms of `reconstruction_loss` are measured with, where they need more than the videos.

    Attributes:
      perceive: the perceptual distance, for lpips.
      teach: what gives the video of a teacher, for teacher.
      describe: what gives the features of a video, for features.
    """

    perceive: FrameDistance | None = None
    teach: Teacher | None = None
    describe: Features | None = None


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of the terms of `reconstruction_loss`; a term with weight 0 is left out.

    Attributes:
      likelihood: of -log p(x | z).
      free_bits: nats per clip and level below which the KL is not reduced; not a weight.
      l1: of the absolute error.
      mse: of the squared error.
      lpips: of the perceptual distance.
      wavelet: of `wavelet_error`.
      teacher: of the absolute difference from the video of a teacher.
      features: of the absolute difference of features.
    """

    likelihood: float = 1.0
    free_bits: float = 0.0
    l1: float = 0.0
    mse: float = 0.0
    lpips: float = 0.0
    wavelet: float = 0.0
    teacher: float = 0.0
    features: float = 0.0


def reconstruction_loss(
    model,
    params,
    batch: dict,
    key,
    beta,
    weights: Weights,
    judges: Judges = Judges(),
):
    """Computes the weighted sum of all terms, mean over the batch.

    Args:
      model: a model with a grid of latents.
      params: its variables.
      batch: "video" [B, T, H, W, C], "mask" [B, T], "index" [B].
      key: consumed; folded with each clip's index.
      beta: weight of the KL at this step.
      weights: of the other terms.
      judges: needed for terms with a weight.

    Returns:
      (loss, metrics, fake). The metrics are scalars, means over the batch, of each term before its
      weight: `elbo`, `log_likelihood`, `kl` and `kl_LEVEL` in nats per clip, and those of l1, mse,
      lpips, wavelet, teacher and features that have a weight, per element. `fake` is the decoded
      video [B, T, H, W, C], equal to the real one in masked frames.
    """
    terms, fake = contract.terms_and_video(
        model, params, batch["video"], key, batch["mask"], batch["index"]
    )
    real = contract.as_unit_range(batch["video"])
    fake = _replace_masked(batch, fake, real)

    def miss_teacher() -> jax.Array:
        taught = judges.teach(params, batch, key)
        return absolute_error(_replace_masked(batch, taught, real), fake)

    errors = {
        "l1": lambda: absolute_error(real, fake),
        "mse": lambda: jnp.square(real - fake).sum((1, 2, 3, 4)),
        "lpips": lambda: perceptual_error(real, fake, judges.perceive),
        "wavelet": lambda: wavelet_error(real, fake),
        "teacher": miss_teacher,
        "features": lambda: feature_error(real, fake, partial(judges.describe, params)),
    }
    chosen = {name: weight for name in errors if (weight := getattr(weights, name))}
    measured_B = {name: errors[name]() for name in chosen}
    kl_B = free_bits_kl(terms.kl_by_level, weights.free_bits)
    loss = jnp.mean(beta * kl_B - weights.likelihood * terms.log_likelihood)
    loss += sum(weight * jnp.mean(measured_B[name]) for name, weight in chosen.items())
    num_elements = jnp.mean(batch["mask"].sum(1)) * math.prod(real.shape[2:])
    levels = {f"kl_{level}": jnp.mean(kl) for level, kl in terms.kl_by_level.items()}
    metrics = {
        "elbo": jnp.mean(elbo_of_terms(terms)),
        "log_likelihood": jnp.mean(terms.log_likelihood),
        "kl": sum(levels.values()),
        **levels,
        **{name: jnp.mean(error_B) / num_elements for name, error_B in measured_B.items()},
    }
    return raise_precision(loss), metrics, fake


def _replace_masked(batch: dict, fake: jax.Array, real: jax.Array) -> jax.Array:
    return jnp.where(batch["mask"][..., None, None, None], fake, real)


def absolute_error(x_BTHWC: jax.Array, y_BTHWC: jax.Array) -> jax.Array:
    """Computes the sum of |x - y| of each clip, [B]."""
    return jnp.abs(x_BTHWC - y_BTHWC).sum((1, 2, 3, 4))


def perceptual_error(x_BTHWC: jax.Array, y_BTHWC: jax.Array, perceive: FrameDistance) -> jax.Array:
    """Computes the sum over frames of their distance times their number of elements, [B]."""
    size = math.prod(x_BTHWC.shape[2:])
    return size * perceive(x_BTHWC, y_BTHWC).sum(1)


def feature_error(
    x_BTHWC: jax.Array, y_BTHWC: jax.Array, describe: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Computes the mean absolute difference of features times the elements of a clip, [B]."""
    x, y = describe(x_BTHWC), describe(y_BTHWC)
    return math.prod(x_BTHWC.shape[1:]) * jnp.abs(x - y).mean(tuple(range(1, x.ndim)))


# --- wavelets ------------------------------------------------------------------------------------

WAVELET_LEVELS = 3


def wavelet_error(x_BTHWC: jax.Array, y_BTHWC: jax.Array) -> jax.Array:
    """Computes the absolute error of 3-D Haar coefficients, the mean over 3 levels, [B].

    The error is summed over the coefficients in time, rows and columns of each level.

    References:
      Li et al., WF-VAE, 2024. There a loss ties wavelet paths inside the encoder and the decoder;
      here both sides are the coefficients of the videos themselves.
    """
    low, total = x_BTHWC - y_BTHWC, 0.0  # the transform is linear
    for _ in range(WAVELET_LEVELS):
        low, details = transform_haar(low)
        total += jnp.abs(low).sum((1, 2, 3, 4)) + jnp.abs(details).sum((1, 2, 3, 4, 5))
    return total / WAVELET_LEVELS


def transform_haar(x_BTHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Applies one level of the orthonormal 3-D Haar transform: halves time, rows and columns.

    An odd number of frames is padded in front with a copy of the first one, so that the first frame
    of a video stays apart from the later ones; odd rows and columns are padded with copies of the
    last.

    Returns:
      Means times sqrt(8) [B, t, h, w, C], and the seven details [B, t, h, w, C, 7].
    """
    frames, rows, columns = (size % 2 for size in x_BTHWC.shape[1:4])
    pads = ((0, 0), (frames, 0), (0, rows), (0, columns), (0, 0))
    low, *details = split_bands(jnp.pad(x_BTHWC, pads, mode="edge"))
    return low, jnp.stack(details, axis=-1)
