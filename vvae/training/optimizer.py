"""Makes the learning-rate schedule and the optax transformation."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax


def make_schedule(
    learning_rate: float, warmup_steps: int, total_steps: int, final_fraction: float
) -> optax.Schedule:
    """Makes a linear warm-up from 0 followed by a cosine decay.

    Args:
      learning_rate: the highest, reached at `warmup_steps`.
      warmup_steps: 0 for none; less than `total_steps`.
      total_steps: where the decay ends; later steps keep the final rate.
      final_fraction: final learning rate as a fraction of the highest, in [0, 1]; 1 keeps the rate
        constant after the warm-up.

    Returns:
      Step -> learning rate.

    Raises:
      ValueError: if a setting is out of its range.

    References:
      Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps}: choose it in [0, total_steps), [0, {total_steps})"
        )
    if not 0 <= final_fraction <= 1:
        raise ValueError(f"final_fraction is {final_fraction}: choose it in [0, 1]")
    decay = optax.cosine_decay_schedule(
        learning_rate, total_steps - warmup_steps, alpha=final_fraction
    )
    if warmup_steps == 0:
        return decay
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def make_optimizer(
    schedule: optax.Schedule,
    *,
    clip_norm: float | None = None,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    fast: Mapping[str, float] | None = None,
    frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Makes AdamW; without weight decay it is Adam.

    Args:
      schedule: step -> learning rate.
      clip_norm: gradients with a larger global norm are scaled down to it; None never clips.
      weight_decay: of the parameters named `kernel`; multiplied by the learning rate.
      b1: decay of the moving average of the gradient.
      b2: decay of the moving average of the squared gradient.
      fast: name of a parameter -> factor on its learning rate. Adam moves every scalar by about the
        learning rate per step, which is slow for a learned noise scale such as `log_sigma`.
      frozen: names of top-level modules whose parameters stay unchanged, to the last bit.

    Returns:
      The transformation. Its `init` raises ValueError if a name in `fast` is not a parameter, or
      one in `frozen` not a module.

    References:
      Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """
    moving = optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b1, b2),
        optax.add_decayed_weights(weight_decay, mask=_mask_kernels),
        _scale_by_name(fast or {}),
        optax.scale_by_learning_rate(schedule),
    )
    if not frozen:
        return moving
    # Partition outside the chain, so that frozen gradients do not count in the clipped norm.
    return optax.partition(
        {"moving": moving, "frozen": optax.set_to_zero()},
        functools.partial(_label_frozen, tuple(frozen)),
    )


def _label_frozen(frozen: tuple[str, ...], params: Any) -> Any:
    if missing := sorted(set(frozen) - set(params)):
        raise ValueError(
            f"frozen names {', '.join(missing)}, which is not a module: choose from "
            f"{', '.join(sorted(params))}"
        )
    labels = {name: "frozen" if name in frozen else "moving" for name in params}
    return {
        name: jax.tree.map(lambda _, name=name: labels[name], tree) for name, tree in params.items()
    }


def _name_leaf(path: tuple) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def _mask_kernels(params: Any) -> Any:
    return jax.tree.map_with_path(lambda path, _: _name_leaf(path) == "kernel", params)


def _scale_by_name(multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates of the named leaves."""

    def init(params: Any) -> optax.EmptyState:
        names = {_name_leaf(path) for path, _ in jax.tree.leaves_with_path(params)}
        if unknown := sorted(set(multipliers) - names):
            raise ValueError(
                f"fast names {', '.join(unknown)}, which is not a parameter: "
                f"choose from {', '.join(sorted(names))}"
            )
        return optax.EmptyState()

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple:
        scaled = jax.tree.map_with_path(
            lambda path, u: u * multipliers.get(_name_leaf(path), 1.0), updates
        )
        return scaled, state

    return optax.GradientTransformation(init, update)
