"""Trains any model on clips from anywhere, without a run directory: functions for own programs.

`train` is the short way. Its parts are the long one, for own loops, losses and schedules:

    params = vvae.start_params(model, first_clips)
    state = vvae.init_train_state(params, optimizer)
    step = vvae.make_train_step(model, optimizer)
    for batch in batches:                      # uint8 [B, T, H, W, C]
        state, metrics = step(state, batch)
    params = vvae.averaged_params(state)
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vvae.data.clips import ArrayClips
from vvae.measure.statistics import ClipStatistics
from vvae.models.contract import Model, Params, check_video, init_variables
from vvae.objectives.elbo import negative_elbo
from vvae.training.state import TrainState, init_state, variables
from vvae.training.step import train_step

Metrics = dict[str, jax.Array]
Loss = Callable[[Any, Params, dict[str, jax.Array], jax.Array], tuple[jax.Array, Metrics]]
"""(model, params, batch, key) -> (loss, metrics); see `make_train_step`."""

_STATISTICS_CLIPS = 64


def start_params(model: Model, clips_NTHWC: np.ndarray, seed: int = 0) -> Params:
    """Returns fresh variables, standardised by clips.

    SequentialVAE and CausalVideoVAE start from PCA of the clips where their settings say so; models
    without a method `start` keep what their own `init` gives.

    Args:
      model: any `vvae.Model`.
      clips_NTHWC: uint8, clips that stand for the training data; some tens suffice.
      seed: of everything random.

    Raises:
      ValueError: if the clips are not uint8 [N, T, H, W, C] or do not vary.
    """
    params = init_variables(model, jax.random.key(seed))
    start = getattr(model, "start", None)
    if start is None:
        return params
    return start(params, ClipStatistics(ArrayClips(clips_NTHWC), seed), 1.0)


def init_train_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state of a training before its first step."""
    params = jax.tree.map(jnp.array, params)  # a step donates its state: keep the caller's arrays
    return init_state(params["params"], params.get("stats", {}), optimizer)


def averaged_params(state: TrainState) -> Params:
    """Returns the moving average of the variables, which is better than the last ones."""
    return variables(state, ema=True)


def elbo_loss(
    model: Model, params: Params, batch: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Returns the negative ELBO in nats per clip, mean over the batch, and its terms."""
    return negative_elbo(model, params, batch, key)


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    loss: Loss = elbo_loss,
    seed: int = 0,
    ema_decay: float = 0.999,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Makes the compiled step of a training.

    Args:
      model: any `vvae.Model`.
      optimizer: of the parameters.
      loss: (model, params, batch, key) -> (loss, metrics): scalars, means over the clips of the
        batch; batch has `video` [B, T, H, W, C], `mask` [B, T] and `index` [B], the number of each
        clip in the training, by which `vvae.split_key` gives it noise of its own.
      seed: of the noise.
      ema_decay: of the averaged parameters, in [0, 1).

    Returns:
      (state, clips) -> (state, metrics). Clips are uint8 or float in [-1, 1], [B, T, H, W, C], or a
      dictionary of `video` and `mask` [B, T]. The state is donated. Metrics are those of the loss,
      `loss`, `grad_norm` and `finite`; a step that is not finite changes nothing.

    Raises:
      ValueError: from the step, if clips have another rank or type.
    """

    def compute_loss(params: Params, batch: Any, key: jax.Array, step: jax.Array) -> Any:
        return loss(model, params, batch, key)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        size = batch["video"].shape[0]
        batch = batch | {"index": state.step * size + jnp.arange(size)}
        return train_step(
            state, batch, loss_fn=compute_loss, tx=optimizer, seed=seed, ema_decay=ema_decay
        )

    def step(state: TrainState, clips: Any) -> tuple[TrainState, Metrics]:
        video = clips["video"] if isinstance(clips, dict) else clips
        check_video(video)
        mask = clips.get("mask") if isinstance(clips, dict) else None
        mask = np.ones(video.shape[:2], bool) if mask is None else mask
        return run(state, {"video": video, "mask": mask})

    return step


def train(
    model: Model,
    clips: Iterable[np.ndarray],
    *,
    num_steps: int,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    seed: int = 0,
    loss: Loss = elbo_loss,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> Params:
    """Trains a model on an iterator of clips by AdamW, and returns its averaged variables.

        params = vvae.train(model, itertools.cycle(clips), num_steps=500)

    Args:
      model: any `vvae.Model`.
      clips: uint8 [T, H, W, C], all of one shape, in the order of training (shuffle them); as many
        as num_steps batches need. The first 64 also standardise the model (`start_params`).
      num_steps: number of updates.
      batch_size: clips a step.
      learning_rate: the highest; it decays by a cosine to a tenth.
      seed: of everything random.
      loss: as for `make_train_step`.
      report: called with the number of each step, from 1, and its metrics.

    Raises:
      ValueError: if the clips end too early, or differ in shape or type.
      FloatingPointError: if the loss is not finite.
    """
    clips = iter(clips)
    first = list(itertools.islice(clips, max(_STATISTICS_CLIPS, batch_size)))
    if not first:
        raise ValueError("there are no clips to train on")
    params = start_params(model, np.stack([_check_clip(clip, first[0]) for clip in first]), seed)
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps, alpha=0.1)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    step = make_train_step(model, optimizer, loss=loss, seed=seed)
    state = init_train_state(params, optimizer)
    checked = (_check_clip(clip, first[0]) for clip in itertools.chain(first, clips))
    for number, batch in enumerate(_group(checked, batch_size, num_steps), start=1):
        state, metrics = step(state, batch)
        values = {name: float(value) for name, value in metrics.items()}
        if not values["finite"]:
            raise FloatingPointError(f"step {number}: the loss is {values['loss']}")
        if report is not None:
            report(number, values)
    return averaged_params(state)


def _check_clip(clip: np.ndarray, first: np.ndarray) -> np.ndarray:
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape != first.shape:
        raise ValueError(
            f"clips must be uint8 [T, H, W, C] of one shape, {first.shape} as the first: got "
            f"{clip.dtype} {clip.shape}"
        )
    return clip


def _group(clips: Iterator[np.ndarray], size: int, count: int) -> Iterator[np.ndarray]:
    for number in range(count):
        batch = list(itertools.islice(clips, size))
        if len(batch) < size:
            raise ValueError(
                f"the clips end after {number} of {count} steps of {size} clips: give more, or "
                "repeat them (itertools.cycle)"
            )
        yield np.stack(batch)
