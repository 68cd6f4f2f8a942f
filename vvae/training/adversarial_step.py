"""One update of a model and of the critic that judges it, as a pure function."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vvae.objectives import adversarial
from vvae.training.state import CriticState, TrainState
from vvae.training.step import (
    Batch,
    Metrics,
    apply_gradients,
    average_micro_batches,
    choose_state,
    step_key,
)

# (variables, batch, key, step) -> (loss, metrics, reconstructed video).
ReconstructFn = Callable[[dict[str, Any], Batch, jax.Array, jax.Array], tuple]


@dataclasses.dataclass(frozen=True)
class Adversary:
    """The critic that a model is trained against.

    Attributes:
      score: (critic's parameters, video in [-1, 1]) -> scores of patches.
      to_real: batch -> the real video, in [-1, 1].
      last_kernel: parameters of the model -> the kernel whose gradients determine the weight.
      tx: the critic's optimizer.
      weight: of the critic in the model's loss, relative to the gradient of the other terms.
      lecam: weight of the LeCam penalty in the critic's loss.
      start: first step, counted from 0, in which the critic takes part.
    """

    score: Callable[[Any, jax.Array], jax.Array]
    to_real: Callable[[Batch], jax.Array]
    last_kernel: Callable[[Any], jax.Array]
    tx: optax.GradientTransformation
    weight: float
    lecam: float
    start: int


def adversarial_step(
    state: TrainState,
    batch: Batch,
    *,
    reconstruct_fn: ReconstructFn,
    adversary: Adversary,
    tx: optax.GradientTransformation,
    seed: int,
    ema_decay: float,
    num_micro_batches: int = 1,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Makes one update of the model and one of its critic, from the same forward pass.

    The critic's weight is computed from gradients averaged over the whole batch, so that it depends
    on neither the devices nor the micro-batches.

    Args:
      state: with a critic; donated if the caller compiles it so.
      batch: as in `train_step`.
      reconstruct_fn: returns the model's loss without the critic, its metrics and its
        reconstruction.
      adversary: the critic.
      tx, seed, ema_decay, num_micro_batches, axis_name: as in `train_step`.

    Returns:
      The next state and metrics, as `train_step`, with "critic_loss", "critic_real", "critic_fake"
      (mean scores) and "critic_weight". If anything is not finite, model and critic stay as they
      were.
    """
    key = step_key(seed, state.step)
    compute = functools.partial(_compute_gradients, state, key, reconstruct_fn, adversary)
    grads, metrics = average_micro_batches(compute, batch, num_micro_batches)
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)

    is_active = (state.step >= adversary.start).astype(jnp.float32)
    weight = (
        is_active
        * adversary.weight
        * adversarial.adaptive_weight(
            adversary.last_kernel(grads["model"]), adversary.last_kernel(grads["deceive"])
        )
    )
    model_grads = jax.tree.map(lambda a, b: a + weight * b, grads["model"], grads["deceive"])
    updated = apply_gradients(state, model_grads, tx, ema_decay)
    critic = _update_critic(state.critic, grads["critic"], metrics, adversary)
    critic = jax.tree.map(lambda new, old: jnp.where(is_active, new, old), critic, state.critic)

    grad_norm, critic_norm = optax.tree.norm(model_grads), optax.tree.norm(grads["critic"])
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm) & jnp.isfinite(critic_norm)
    state = choose_state(finite, updated.replace(critic=critic), state)
    metrics |= {"critic_weight": weight, "grad_norm": grad_norm}
    return state, {**metrics, "finite": finite.astype(jnp.float32)}


def _compute_gradients(
    state: TrainState,
    key: jax.Array,
    reconstruct_fn: ReconstructFn,
    adversary: Adversary,
    batch: Batch,
) -> tuple[dict[str, Any], Metrics]:
    """Computes the gradients of the model's loss, of `deceive_loss` and of the critic's loss."""

    def judge_model(params: Any):
        variables = {"params": params, "stats": state.stats}
        loss, metrics, fake = reconstruct_fn(variables, batch, key, state.step)
        deceive = adversarial.deceive_loss(adversary.score(state.critic.params, fake))
        return (loss, deceive), (metrics, fake)

    losses, pull_back, (metrics, fake) = jax.vjp(judge_model, state.params, has_aux=True)
    one, zero = (jnp.full_like(losses[0], value) for value in (1.0, 0.0))
    (model,), (deceive,) = pull_back((one, zero)), pull_back((zero, one))

    def judge_critic(params: Any):
        real = adversary.score(params, adversary.to_real(batch))
        made = adversary.score(params, jax.lax.stop_gradient(fake))
        penalty = adversarial.lecam_penalty(
            real, made, state.critic.mean_real, state.critic.mean_fake
        )
        loss = adversarial.hinge_loss(real, made) + adversary.lecam * penalty
        return loss, {
            "critic_loss": loss,
            "critic_real": jnp.mean(real),
            "critic_fake": jnp.mean(made),
        }

    critic, critic_metrics = jax.grad(judge_critic, has_aux=True)(state.critic.params)
    grads = {"model": model, "deceive": deceive, "critic": critic}
    return grads, {**metrics, **critic_metrics, "loss": losses[0]}


def _update_critic(
    critic: CriticState, grads: Any, metrics: Metrics, adversary: Adversary
) -> CriticState:
    updates, opt_state = adversary.tx.update(grads, critic.opt_state, critic.params)

    def average(mean: jax.Array, new: jax.Array) -> jax.Array:
        return mean + (1.0 - adversarial.LECAM_DECAY) * (new - mean)

    return CriticState(
        params=optax.apply_updates(critic.params, updates),
        opt_state=opt_state,
        mean_real=average(critic.mean_real, metrics["critic_real"]),
        mean_fake=average(critic.mean_fake, metrics["critic_fake"]),
    )
