"""Mean and standard deviation of each latent channel, and latents normalised by them.

Models that generate latents, such as diffusion models, need them centred and with variance 1. The
statistics carry their provenance, so that they are not applied to latents of another model.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Statistics of the channels of a grid of latents.

    Attributes:
      mean_Z: float64.
      std_Z: float64, positive, with N in the denominator.
      count: number of positions that they were measured on.
      provenance: JSON values that identify the model and the videos.
    """

    mean_Z: np.ndarray
    std_Z: np.ndarray
    count: int
    provenance: Mapping[str, Any]


class ChannelMoments:
    """Streaming moments of channels; the values themselves are not kept.

    Unlike sums of squares, this loses no digits where the mean is large compared to the deviation.

    References:
      Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample
      Variances, 1979.
    """

    def __init__(self):
        """Starts without any values."""
        self._count, self._mean_Z, self._squares_Z = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        """Adds positions [..., Z].

        Raises:
          ValueError: if a value is not finite.
        """
        values_NZ = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
        if not np.isfinite(values_NZ).all():
            raise ValueError("the latents are not finite: they have no statistics")
        if not len(values_NZ):
            return
        count = self._count + len(values_NZ)
        mean_Z = values_NZ.mean(axis=0)
        step_Z = mean_Z - self._mean_Z
        between_Z = step_Z**2 * (self._count * len(values_NZ) / count)
        self._squares_Z = self._squares_Z + np.square(values_NZ - mean_Z).sum(axis=0) + between_Z
        self._mean_Z = self._mean_Z + step_Z * (len(values_NZ) / count)
        self._count = count

    def current(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Returns (count, mean_Z, std_Z) of what was added so far; std is 0 where it is constant.

        Raises:
          ValueError: if nothing was added.
        """
        if not self._count:
            raise ValueError("no latents were added")
        return self._count, self._mean_Z, np.sqrt(self._squares_Z / self._count)

    def finish(self, provenance: Mapping[str, Any]) -> LatentStatistics:
        """Returns the statistics of all added positions.

        Raises:
          ValueError: if there are none, or if a channel is constant.
        """
        count, mean_Z, std_Z = self.current()
        if not (std_Z > 0).all():
            raise ValueError(
                f"channel {int(np.argmin(std_Z))} of the latents is constant and cannot be scaled"
            )
        return LatentStatistics(
            mean_Z=mean_Z,
            std_Z=std_Z,
            count=count,
            provenance=dict(provenance),
        )


def normalize(statistics: LatentStatistics, z: Any) -> jax.Array:
    """Returns (z - mean) / std of each channel, [..., Z], in the dtype of z.

    Raises:
      ValueError: for another number of channels.
    """
    mean, std = _lift(statistics, z)
    return (z - mean) / std


def denormalize(statistics: LatentStatistics, z: Any) -> jax.Array:
    """Returns z std + mean: the inverse of `normalize`."""
    mean, std = _lift(statistics, z)
    return z * std + mean


def _lift(statistics: LatentStatistics, z: Any) -> tuple[np.ndarray, np.ndarray]:
    count = len(statistics.mean_Z)
    if z.shape[-1] != count:
        raise ValueError(
            f"the statistics have {count} channels, but the latents have shape {z.shape}"
        )
    shape = (1,) * (z.ndim - 1) + (-1,)
    arrays = (statistics.mean_Z, statistics.std_Z)
    mean, std = (array.astype(z.dtype).reshape(shape) for array in arrays)
    return mean, std


def as_json(statistics: LatentStatistics) -> dict[str, Any]:
    """Returns JSON values, with all digits."""
    return {
        "mean": statistics.mean_Z.tolist(),
        "std": statistics.std_Z.tolist(),
        "count": statistics.count,
        "provenance": dict(statistics.provenance),
    }


def read_statistics(path: str | os.PathLike) -> LatentStatistics:
    """Reads the statistics from the latents.json of `evaluate.py latents`.

    Raises:
      ValueError: naming the file, if it cannot be read or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))["statistics"]
        mean_Z, std_Z = (np.array(content[name], np.float64) for name in ("mean", "std"))
        statistics = LatentStatistics(
            mean_Z=mean_Z,
            std_Z=std_Z,
            count=int(content["count"]),
            provenance=content["provenance"],
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: does not hold statistics of latents ({error!r})") from error
    whole = mean_Z.ndim == 1 and mean_Z.shape == std_Z.shape and statistics.count > 0
    if not whole or not np.isfinite(mean_Z).all() or not ((std_Z > 0) & (std_Z < math.inf)).all():
        raise ValueError(f"{path}: holds impossible statistics: {content}")
    return statistics
