"""One update of the parameters as a pure function; the only place with a collective (pmean)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vvae.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
# (variables, batch, key, step) -> (loss, metrics), means over the examples of the batch.
LossFn = Callable[[dict[str, Any], Batch, jax.Array, jax.Array], tuple[jax.Array, Metrics]]

# Initialisation and training draw from different streams of the same seed.
_TRAINING_STREAM = 1


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    seed: int,
    ema_decay: float,
    num_micro_batches: int = 1,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Makes one update.

    Args:
      state: donated if the caller compiles it so.
      batch: arrays [B, ...]; under pmap this device's share.
      loss_fn: (variables, batch, key, step) -> (loss, metrics): float scalars, means over the
        examples of the batch it is given. The key is the same for all devices and micro-batches;
        the loss folds each example's number, `batch["index"]`, into it, so that the noise depends
        on neither.
      tx: the optimizer.
      seed: of the run.
      ema_decay: of the averaged parameters, in [0, 1). The decay used is min(ema_decay, (1 + step)
        / (10 + step)), so that the average forgets the initial values.
      num_micro_batches: number of micro-batches whose gradients are computed one after another and
        averaged; divides B.
      axis_name: name of the pmap axis to average over; None if the batch is the whole one.

    Returns:
      The next state and the metrics of `loss_fn`, with "loss", "grad_norm" (before clipping) and
      "finite". If the loss or the gradient is not finite, "finite" is 0 and only the step of the
      state advances, so that the next step has another batch and key.

    Raises:
      ValueError: if B is not a multiple of `num_micro_batches`.
    """
    key = step_key(seed, state.step)

    def compute_loss(params: Any, micro_batch: Batch) -> tuple[jax.Array, Metrics]:
        variables = {"params": params, "stats": state.stats}
        loss, metrics = loss_fn(variables, micro_batch, key, state.step)
        return loss, {**metrics, "loss": loss}

    compute_grad = jax.grad(compute_loss, has_aux=True)
    grads, metrics = average_micro_batches(
        functools.partial(compute_grad, state.params), batch, num_micro_batches
    )
    if axis_name is not None:
        # The mean of the gradients: the gradient of a mean would be the local one under pmap.
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)

    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
    updated = apply_gradients(state, grads, tx, ema_decay)
    state = choose_state(finite, updated, state)
    return state, {**metrics, "grad_norm": grad_norm, "finite": finite.astype(jnp.float32)}


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """Returns the key of a training step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _TRAINING_STREAM), step)


def choose_state(finite: jax.Array, updated: TrainState, before: TrainState) -> TrainState:
    """Returns the updated state if it is finite, else the previous one with the updated step."""
    kept = before.replace(step=updated.step)
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, kept)


def average_micro_batches(
    compute: Callable[[Batch], Any], batch: Batch, num_micro_batches: int
) -> Any:
    """Applies a function to one micro-batch after another and averages the results.

    Args:
      compute: batch -> tree of float arrays, means over its examples.
      batch: arrays [B, ...].
      num_micro_batches: divides B.
    """
    if num_micro_batches == 1:
        return compute(batch)
    micro_batches = _split_batch(batch, num_micro_batches)
    compute = jax.jit(compute, inline=True)  # traced once, for its shapes and for the loop

    def add(total: Any, micro_batch: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, compute(micro_batch)), None

    shapes = jax.eval_shape(compute, jax.tree.map(lambda a: a[0], micro_batches))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, micro_batches)
    return jax.tree.map(lambda array: array / num_micro_batches, total)


def _split_batch(batch: Batch, num_micro_batches: int) -> Batch:
    """Reshapes arrays [B, ...] to [num_micro_batches, B / num_micro_batches, ...]."""
    batch_size = jax.tree.leaves(batch)[0].shape[0]
    if batch_size % num_micro_batches:
        raise ValueError(
            f"a batch of {batch_size} examples on a device cannot be split into "
            f"{num_micro_batches} micro-batches: choose a divisor"
        )
    # Micro-batch m holds the examples m, m + num_micro_batches, ..., so that every device keeps its
    # own examples of a batch that is sharded along B.
    return jax.tree.map(
        lambda a: a.reshape(-1, num_micro_batches, *a.shape[1:]).swapaxes(0, 1),
        batch,
    )


def apply_gradients(
    state: TrainState, grads: Any, tx: optax.GradientTransformation, ema_decay: float
) -> TrainState:
    """Returns the state after an update of the model with these gradients."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = jax.tree.map(_change, state.params, updates)
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    return state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        # In this form the average of a parameter that stays is that parameter.
        ema_params=jax.tree.map(
            lambda new, mean: _change(mean, (1 - decay) * (new - mean)), params, state.ema_params
        ),
    )


def _change(value: jax.Array, by: jax.Array) -> jax.Array:
    """Returns the sum; a value that stays keeps every bit, where -0 + 0 would be 0."""
    return jnp.where(by == 0, value, value + by).astype(value.dtype)
