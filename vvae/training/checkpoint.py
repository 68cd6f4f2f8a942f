"""Checkpoints of a training run, each leaf with its digest; the only user of Orbax.

A checkpoint holds host arrays, so it knows nothing of devices or processes: a run saved on eight
devices continues on one.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vvae.training.state import TrainState

_STEP_NAMES = ocp.path.step.standard_name_format(step_prefix="step", step_format_fixed_length=8)
_MAX_MESSAGE = 300


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or not written; the message starts with its path."""


class Restored(NamedTuple):
    """What a checkpoint held: number of updates done, state of NumPy arrays, extra values."""

    step: int
    state: TrainState
    extra: dict[str, Any]


class Checkpointer:
    """The checkpoints of one directory: the newest, to continue from, and the best.

    A context manager: leaving it waits until all that was saved is on disk. With several processes,
    all of them make the same calls with the same values.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        keep_best_metric: str = "val_elbo",
        read_only: bool = False,
    ):
        """Opens a directory.

        Args:
          directory: made where missing, unless read only.
          keep_best_metric: name of the metric by which a checkpoint is the best; higher is better.
          read_only: for a directory that another process may be writing.
        """
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.directory = Path(directory).resolve()
        self._metric = keep_best_metric
        # Not best_fn with max_to_keep, which deletes the newest checkpoint when it is not among
        # the best, so that a run would go on from an older one.
        keep_newest_and_best = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(n=1),
                preservation_policy.BestN(get_metric_fn=self._rank, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep_newest_and_best,
            best_fn=self._rank,  # without it Orbax writes no metrics
            step_name_format=_STEP_NAMES,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        with _convert_errors(self.directory, "cannot open the checkpoints"):
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=options,
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(),
                    "record": ocp.JsonCheckpointHandler(),
                },
            )

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exception: object) -> None:
        with _convert_errors(self.directory, "cannot finish a checkpoint"):
            self._manager.close()

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the checkpoints, rising."""
        return tuple(sorted(self._manager.all_steps()))

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None where there is none."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """Step with the highest finite value of the metric, None where no checkpoint has one."""
        ranked = [(self._rank(self.metrics(step)), step) for step in self.steps]
        rank, step = max(ranked, default=(-math.inf, None))
        return step if rank > -math.inf else None

    def metrics(self, step: int) -> dict[str, float | None]:
        """Returns the metrics saved with a step; None stands for a value that was not finite."""
        self._manager.wait_until_finished()
        return self._manager.metrics(step) or {}

    def save(
        self,
        step: int,
        state: TrainState,
        extra: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        wait: bool = False,
    ) -> None:
        """Saves a checkpoint in the background.

        The state is copied before the call returns, so that its buffers may be donated at once.

        Args:
          step: number of updates done, equal to `state.step`; higher than every saved one.
          state: on the host or placed on devices.
          extra: what else continuing needs, such as the loader's position: JSON values.
          metrics: name -> value.
          wait: whether to return only when the checkpoint is on disk.

        Raises:
          CheckpointError: this or an earlier checkpoint could not be written.
          ValueError: `step` is not `state.step`, or `extra` holds what JSON cannot.
        """
        host_state = jax.tree.map(np.array, state)
        if host_state.step != step:
            raise ValueError(f"step {step} is not the step of the state, {host_state.step}")
        extra = _to_json(extra or {})
        record = {
            "extra": extra,
            "extra_digest": _digest_json(extra),
            "leaf_digests": {n: _digest_array(a) for n, a in _name_leaves(host_state).items()},
        }
        path = self._find_path(step)
        with _convert_errors(path, "cannot write the checkpoint"):
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(host_state), record=ocp.args.JsonSave(record)
                ),
                metrics={name: _to_finite(value) for name, value in (metrics or {}).items()},
            )
            if wait:
                self._manager.wait_until_finished()
        if not saved:
            raise CheckpointError(
                f"{path}: not written, because step {self.latest_step} is there already"
            )

    def find_step(self, which: str | int) -> int:
        """Returns the step that "latest", "best" or a number means.

        Raises:
          CheckpointError: there is none.
        """
        if not self.steps:
            raise CheckpointError(f"{self.directory}: no checkpoint there: train first")
        if which == "latest":
            return self.latest_step
        if which == "best":
            if self.best_step is None:
                raise CheckpointError(
                    f"{self.directory}: no checkpoint has a finite {self._metric}: "
                    "choose the latest instead of the best"
                )
            return self.best_step
        if which not in self.steps:
            raise CheckpointError(
                f"{self.directory}: no checkpoint {which!r}: choose latest, best or one of "
                f"{', '.join(map(str, self.steps))}"
            )
        return which

    def restore(self, which: str | int, abstract_state: TrainState) -> Restored:
        """Restores a state to the host, bit by bit as it was saved.

        Args:
          which: "latest", "best" or a step.
          abstract_state: a TrainState whose leaves have the expected shape and dtype, such as
            `jax.eval_shape` gives.

        Raises:
          CheckpointError: there is none, it is damaged (the leaf is named), or its leaves are not
            those of `abstract_state`.
        """
        step = self.find_step(which)
        raw_state, extra = self._read(step)
        found = _name_leaves(raw_state)
        expected = _name_leaves(abstract_state)
        self._check_leaves(step, found, expected)
        state = jax.tree.unflatten(
            jax.tree.structure(abstract_state), [found[name] for name in expected]
        )
        return Restored(step, state, extra)

    def restore_variables(self, which: str | int, ema: bool = True) -> dict[str, Any]:
        """Restores the variables of the model alone, {"params": ..., "stats": ...}, to the host.

        Args:
          which: "latest", "best" or a step.
          ema: whether to take the averaged parameters.

        Raises:
          CheckpointError: there is none, or it is damaged (the leaf is named).
        """
        params = "ema_params" if ema else "params"
        raw_state, _ = self._read(self.find_step(which), (params, "stats"))
        return {"params": raw_state[params], "stats": raw_state["stats"]}

    def _find_path(self, step: int) -> Path:
        return self.directory / _STEP_NAMES.build_name(step)

    def _rank(self, metrics: Mapping[str, float | None] | None) -> float:
        value = (metrics or {}).get(self._metric)
        return -math.inf if value is None else value

    def _read(self, step: int, parts: tuple[str, ...] | None = None) -> tuple[dict, dict]:
        """Returns the named parts of the state (all by default), nested as saved, and the extra."""
        path = self._find_path(step)
        with _convert_errors(path, "the checkpoint is damaged"):
            self._manager.wait_until_finished()
            stored = self._manager.item_metadata(step)["state"].tree
            wanted = stored if parts is None else {part: stored[part] for part in parts}
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(
                        item=wanted, restore_args=as_numpy, partial_restore=True
                    ),
                    record=ocp.args.JsonRestore(),
                ),
            )
            _verify(restored.state, restored.record)
            return restored.state, restored.record["extra"]

    def _check_leaves(self, step: int, found: dict, expected: dict) -> None:
        path = self._find_path(step)
        if found.keys() != expected.keys():
            raise CheckpointError(
                f"{path}: the checkpoint is of another model or optimizer: it lacks "
                f"{_list_names(expected.keys() - found.keys())} and has in addition "
                f"{_list_names(found.keys() - expected.keys())}"
            )
        for name, leaf in expected.items():
            if (found[name].shape, found[name].dtype) != (leaf.shape, leaf.dtype):
                raise CheckpointError(
                    f"{path}: the checkpoint is of another model or optimizer: {name} is "
                    f"{found[name].dtype}{list(found[name].shape)} there, not "
                    f"{leaf.dtype}{list(leaf.shape)}"
                )


@contextlib.contextmanager
def _convert_errors(path: Path, problem: str) -> Iterator[None]:
    """Turns an error into a CheckpointError of one line."""
    try:
        yield
    except Exception as error:  # Orbax raises bare Exceptions too.
        reason = " ".join(f"{error}".split())[:_MAX_MESSAGE] or type(error).__name__
        raise CheckpointError(f"{path}: {problem}: {reason}") from error


def _name_leaves(tree: Any) -> dict[str, Any]:
    """Returns name -> leaf; a TrainState and the dictionaries Orbax stores it as name alike."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _list_names(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown + ["..."] * (len(names) > 3)) or "nothing"


def _verify(raw_state: dict, record: dict) -> None:
    """Raises ValueError where a leaf or the extra is not what was saved."""
    expected = record["leaf_digests"]
    for name, leaf in _name_leaves(raw_state).items():
        if _digest_array(leaf) != expected.get(name):
            raise ValueError(f"{name} is not what was saved (its SHA-256 differs)")
    if _digest_json(record["extra"]) != record["extra_digest"]:
        raise ValueError("the extra values are not what was saved (their SHA-256 differs)")


def _digest_array(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _to_json(value: Any) -> Any:
    """Returns plain Python values; Orbax fails on a NumPy scalar, and only in the background."""

    def convert(item: Any) -> Any:
        if not hasattr(item, "item"):
            raise ValueError(f"{item!r} in the extra values of a checkpoint is no JSON value")
        return item.item()

    return json.loads(json.dumps(value, default=convert))


def _to_finite(value: float) -> float | None:
    """Returns a Python float, None where it is not finite, which JSON cannot write."""
    return float(value) if math.isfinite(value) else None
