"""The state that a training step takes and returns: only arrays."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class CriticState:
    """The state of the critic that a model is trained against.

    Attributes:
      params: of the critic, float32.
      opt_state: of its own optax transformation.
      mean_real, mean_fake: scalars, moving averages of its scores (`vvae.objectives.adversarial`).
    """

    params: Any
    opt_state: optax.OptState
    mean_real: jax.Array
    mean_fake: jax.Array


@flax.struct.dataclass
class TrainState:
    """The state of training, a pytree of arrays.

    Attributes:
      step: int32 scalar, the number of steps done. Steps that are not finite count too, but update
        nothing else.
      params: learned parameters, float32.
      stats: the untrained collection of the model, such as {"mean": [H, W, C], "std": []}.
      opt_state: state of the optax transformation.
      ema_params: exponential moving average of `params`, of the same structure.
      critic: None without a critic.
    """

    step: jax.Array
    params: Any
    stats: Any
    opt_state: optax.OptState
    ema_params: Any
    critic: CriticState | None = None


def init_critic(params: Any, tx: optax.GradientTransformation) -> CriticState:
    """Returns the state of a critic before the first step."""
    zero = jnp.zeros((), jnp.float32)
    return CriticState(
        params=params,
        opt_state=tx.init(params),
        mean_real=zero,
        # A copy, because no buffer can be donated twice.
        mean_fake=jnp.copy(zero),
    )


def init_state(
    params: Any,
    stats: Any,
    tx: optax.GradientTransformation,
    critic: CriticState | None = None,
) -> TrainState:
    """Returns the state before the first step; the moving average starts at `params`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        opt_state=tx.init(params),
        # A copy, because a step donates its state, and no buffer can be donated twice.
        ema_params=jax.tree.map(jnp.copy, params),
        critic=critic,
    )


def variables(state: TrainState, ema: bool = False) -> dict[str, Any]:
    """Returns the variables of the model, {"params": ..., "stats": ...}.

    Args:
      state: of one training run.
      ema: whether to return the averaged parameters.
    """
    return {"params": state.ema_params if ema else state.params, "stats": state.stats}
