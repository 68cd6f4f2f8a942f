"""A trained prior, and videos drawn from it."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae import build
from vvae.generate.config import GenerateConfig
from vvae.generate.flow import Sampling, sample_latents
from vvae.generate.network import LatentTransformer
from vvae.generate.run import PriorRun, open_prior_run
from vvae.latents.encoder import describe_encoder, digest_json
from vvae.latents.posterior import Scale, raw
from vvae.models import contract
from vvae.training.checkpoint import Checkpointer

KEPT_METRIC = "val_score"


@dataclass(frozen=True)
class Prior:
    """A trained prior.

    Attributes:
      model: the network.
      variables: its averaged parameters, and the normalisation of the latents.
      class_names: in the order of the labels.
      shape_thw: latent frames, rows and columns of a training clip.
      record: `data` of prior.json.
    """

    model: LatentTransformer
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    shape_thw: tuple[int, int, int]
    record: dict[str, Any]

    def find_label(self, name: str | None) -> int:
        """Returns the label of a class; None means any class.

        Raises:
          ValueError: if there is no such class.
        """
        if name is None:
            return self.model.num_classes
        if name not in self.class_names:
            known = ", ".join(self.class_names) or "none: it was trained without --data.path"
            raise ValueError(f"the prior has no class {name!r}; its classes are {known}")
        return self.class_names.index(name)

    def sampling(self, num_steps: int, guidance: float) -> Sampling:
        """Returns how latents are drawn: frames depend on as many others as in training."""
        window = self.shape_thw[0]
        piece = max(1, window // 2)
        return Sampling(num_steps=num_steps, guidance=guidance, window=window, piece=piece)


def make_network(config: GenerateConfig, channels: int, num_classes: int) -> LatentTransformer:
    """Returns the network of these settings."""
    network = config.network
    return LatentTransformer(
        channels=channels,
        num_classes=num_classes,
        width=network.width,
        depth=network.depth,
        heads=network.heads,
        dtype=jnp.dtype(network.dtype),
    )


def load(run: PriorRun | str | os.PathLike, which: str | int = "best") -> Prior:
    """Loads a trained prior.

    Args:
      run: a run directory of `vvae train generate`, or its path.
      which: "best" (by validation loss), "latest", or the step of a checkpoint.

    Raises:
      ValueError: if there is no such run or checkpoint, or if it is damaged.
    """
    run = run if isinstance(run, PriorRun) else open_prior_run(run)
    data = run.record["data"]
    *shape_thw, channels = data["latents"]["shape"]
    class_names = tuple(data["latents"]["class_names"])
    model = make_network(run.config, channels, len(class_names))
    with Checkpointer(run.checkpoints, KEPT_METRIC, read_only=True) as checkpointer:
        variables = jax.tree.map(jnp.asarray, checkpointer.restore_variables(which, ema=True))
    return Prior(model, variables, class_names, tuple(shape_thw), data)


def load_vae(path: str | os.PathLike, record: dict[str, Any]) -> tuple[Any, Any]:
    """Loads the VAE whose latents a prior was trained on.

    Args:
      path: its run, or published weights.
      record: `data` of prior.json.

    Raises:
      ValueError: if there is none, or if the latents are of another encoder.
    """
    if not Path(path).exists():
        raise ValueError(f"--vae {path}: no such run or published weights")
    model, params = build.load_any(path)
    if digest_json(describe_encoder(model, params)) != record["latents"]["encoder"]:
        raise ValueError(f"--vae {path} is not what the latents were encoded with")
    return model, params


def draw_videos(
    prior: Prior,
    vae: tuple[Any, Any],
    labels: Sequence[int],
    *,
    keys: Sequence[tuple[int, ...]],
    sampling: Sampling,
    num_frames: int | None = None,
) -> np.ndarray:
    """Draws videos.

    Args:
      prior: the prior.
      vae: (model, params) of the VAE of its latents.
      labels: one a video; see `Prior.find_label`.
      keys: of the noise, some integers for each video; equal ones draw equal videos.
      sampling: see `Prior.sampling`.
      num_frames: of each video; those of the training clips by default.

    Returns:
      uint8 [B, T, H, W, C].
    """
    model, params = vae
    num_frames = num_frames or prior.record["num_frames"]
    size = prior.record["size"]
    shape_thw = model.grid_shape((num_frames, *size))
    key_B = jnp.stack([_make_key(numbers) for numbers in keys])
    z = sample_latents(prior.model, prior.variables, key_B, np.array(labels), shape_thw, sampling)
    scale = Scale.from_json(prior.record["normalization"])
    x_BTHWC = contract.decode(model, params, raw(scale, z), (num_frames, *size))
    return np.rint(np.asarray(contract.to_codes(x_BTHWC))).astype(np.uint8)


def _make_key(numbers: Sequence[int]) -> jax.Array:
    first, *others = numbers
    return functools.reduce(jax.random.fold_in, others, jax.random.key(first))
