"""What a module of this room says about its family of published networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae.models.bottleneck import PointLatents, ScaledLatents
from vvae.models.grid import GridVideoVAE


@dataclass(frozen=True)
class Buffers:
    """Tensors beside the parameters, from which the scale of the latents is computed.

    Attributes:
      find: model -> {name of a tensor: its shape and dtype}.
      read: (model, {name: array}) -> (mean [Z], standard deviation [Z]).
      write: model -> {name: array}; the inverse of `read`.
    """

    find: Callable[[Any], dict[str, jax.ShapeDtypeStruct]]
    read: Callable[[Any, dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]
    write: Callable[[Any], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Family:
    """Networks that one module reads and writes.

    Attributes:
      model: the class of the models.
      defaults: class of diffusers -> the settings that its config.json may have, with their default
        values.
      build: settings, completed from the defaults -> model; raises ValueError for settings that fit
        no network.
      describe: model -> config.json; the inverse of `build`.
      buffers: tensors with the scale of the latents, if there are any.
      rename: name of a tensor, as older versions wrote it -> its name today.
    """

    model: type[GridVideoVAE]
    defaults: dict[str, dict[str, Any]]
    build: Callable[[dict[str, Any]], GridVideoVAE]
    describe: Callable[[Any], dict[str, Any]]
    buffers: Buffers | None = None
    rename: Callable[[str], str] = str


def _find_scales(model) -> dict[str, jax.ShapeDtypeStruct]:
    shape = jax.ShapeDtypeStruct((model.bottleneck.channels,), jnp.float32)
    return {"latents_mean": shape, "latents_std": shape}


def _write_scales(model) -> dict[str, np.ndarray]:
    latents = model.bottleneck
    return {
        "latents_mean": np.float32(latents.prior_mean),
        "latents_std": np.float32(latents.prior_std),
    }


LATENT_SCALES = Buffers(
    find=_find_scales,
    read=lambda model, found: (found["latents_mean"], found["latents_std"]),
    write=_write_scales,
)
"""The mean and the standard deviation of the latents, as tensors."""


def unscaled_latents(channels: int) -> ScaledLatents:
    """Returns latents with mean 0 and standard deviation 1: for those whose scale is unknown."""
    return ScaledLatents(channels, (0.0,) * channels, (1.0,) * channels)


def point_latents(channels: int) -> PointLatents:
    """Returns latents without a posterior, with mean 0 and standard deviation 1."""
    return PointLatents(channels, (0.0,) * channels, (1.0,) * channels)


def read_latents(values: dict[str, Any]) -> ScaledLatents:
    """Returns the latents of a config.json with `scaling_factor` and, perhaps, further settings.

    Generators see (z - shift_factor) scaling_factor, or, where both `latents_mean` and
    `latents_std` are given, (z - latents_mean) scaling_factor / latents_std.

    Raises:
      ValueError: for a scale that is not positive, or lists of another length.
    """
    channels, scale = values["latent_channels"], values["scaling_factor"]
    if not scale > 0:
        raise ValueError(f"scaling_factor={scale!r}: must be positive")
    mean, std = values.get("latents_mean"), values.get("latents_std")
    if mean is not None and std is not None:
        return ScaledLatents(channels, mean, tuple(value / scale for value in std))
    shift = values.get("shift_factor") or 0.0
    return ScaledLatents(channels, (float(shift),) * channels, (1.0 / scale,) * channels)


def describe_latents(latents: ScaledLatents) -> dict[str, Any]:
    """Returns the settings that `read_latents` reads."""
    if len(set(latents.prior_mean)) == len(set(latents.prior_std)) == 1:
        shift = latents.prior_mean[0]
        # The reciprocal of a reciprocal: drop the rounding.
        scale = float(f"{1.0 / latents.prior_std[0]:.12g}")
        lists = dict.fromkeys(("latents_mean", "latents_std"))
        return lists | {"scaling_factor": scale, "shift_factor": shift or None}
    return {
        "scaling_factor": 1.0,
        "shift_factor": None,
        "latents_mean": latents.prior_mean,
        "latents_std": latents.prior_std,
    }


# --- checks of settings --------------------------------------------------------------------------


def check_fixed(values: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Raises ValueError for a setting that has another value than the one that is implemented.

    Args:
      values: the settings of a config.json.
      fixed: name of a setting -> its only value; a setting that is absent has that value.
    """
    for name, only in fixed.items():
        if values.get(name, only) != only:
            raise ValueError(f"{name}={values[name]!r}: must be {only!r}")


def check_channels(values: dict[str, Any]) -> None:
    """Raises ValueError for a network that decodes other channels than it encodes."""
    inputs, outputs = values["in_channels"], values["out_channels"]
    if inputs != outputs:
        raise ValueError(f"in_channels={inputs} and out_channels={outputs} differ")
