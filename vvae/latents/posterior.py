"""What a stored posterior gives: its mode, samples, raw latents and moments, as pure functions.

Stores hold the mean and the standard deviation of the posterior, both normalised per channel as
generative models of the latents need them. Everything else follows without the network. The
functions take arrays of NumPy or JAX, [..., Z].
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_LEAST_VARIANCE = 1e-30


@dataclass(frozen=True)
class Scale:
    """The normalisation of latents: normalised = (raw - mean) / std of each channel.

    Attributes:
      mean: Z numbers.
      std: Z positive numbers.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Scale":
        """Reads the entry `normalization` of a record."""
        return cls(tuple(values["mean"]), tuple(values["std"]))


def mode(mean, std):
    """Returns the most probable normalised latents: the mean."""
    del std
    return mean


def sample(mean, std, noise):
    """Returns mean + std noise: a sample of the posterior for noise from N(0, I), normalised.

    In float32 at least, if the noise is.
    """
    return mean + std * noise


def raw(scale: Scale, z):
    """Returns z std + mean of each channel: latents as the decoder takes them, at least float32."""
    lift = (1,) * (z.ndim - 1) + (-1,)
    mean, std = (np.asarray(a, np.float32).reshape(lift) for a in (scale.mean, scale.std))
    return z * std + mean


def moments(scale: Scale, mean, std):
    """Returns raw mean and log-variance as encoders give them, [..., 2 Z].

    The log-variance of a posterior that is a point is that of a variance of 1e-30.
    """
    xp = mean.__array_namespace__() if hasattr(mean, "__array_namespace__") else np
    lift = (1,) * (std.ndim - 1) + (-1,)
    raw_std = std * np.asarray(scale.std, np.float32).reshape(lift)
    logvar = xp.log(xp.maximum(xp.square(raw_std), np.float32(_LEAST_VARIANCE)))
    return xp.concatenate([raw(scale, mean), logvar], axis=-1)


def draw_noise(seed: int, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws float32 noise from N(0, 1) that depends on the seed and the clip's key alone."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    bits = np.random.Philox(key=np.array([seed, number], np.uint64))
    return np.random.Generator(bits).standard_normal(shape, np.float32)
