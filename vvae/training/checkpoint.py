"""Checkpoints of a training run, with a digest of each leaf; the only user of Orbax.

A checkpoint holds host arrays, so it knows nothing of devices or processes: a run saved on eight
devices continues on one.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from vvae import processes
from vvae.training.state import TrainState

_STEP_NAMES = ocp.path.step.standard_name_format(step_prefix="step", step_format_fixed_length=8)
_DELETED = "deleted"
_MAX_MESSAGE = 300
# If one of these is damaged there is another, even if the newest is also the best.
_NUM_NEWEST = 2
_RECORD_KEYS = {"extra", "extra_digest", "leaf_digests", "metrics", "metrics_digest"}
# Older records have no metrics: they were in a file of their own, without a digest.
_OLD_RECORD_KEYS = _RECORD_KEYS - {"metrics", "metrics_digest"}


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or cannot be written; the message starts with its path."""


class DamagedError(CheckpointError):
    """A checkpoint is not what was saved.

    Attributes:
      whole_step: newest other step that was read and is intact; None if there is none.
    """

    def __init__(self, damage: str, whole_step: int | None):
        """Describes the damage and what to do."""
        advice = "no other checkpoint is intact: start again with another --workdir"
        if whole_step is not None:
            advice = (
                f"step {whole_step} is intact: --checkpoint.fallback true continues from it, "
                f"--which {whole_step} evaluates it"
            )
        super().__init__(f"{damage}; {advice}")
        self.whole_step = whole_step


class Restored(NamedTuple):
    """Content of a checkpoint: number of updates done, state of NumPy arrays, extra values."""

    step: int
    state: TrainState
    extra: dict[str, Any]


class Checkpointer:
    """The checkpoints of one directory: the newest two, to continue from, and the best.

    A context manager: leaving it waits until everything is on disk. With several processes, all of
    them make the same calls with the same values.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        keep_best_metric: str = "val_elbo",
        read_only: bool = False,
    ):
        """Opens a directory.

        Args:
          directory: created if missing, unless read_only.
          keep_best_metric: name of the metric that ranks checkpoints; higher is better.
          read_only: for a directory that another process may be writing.
        """
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.directory = Path(directory).resolve()
        self._metric = keep_best_metric
        self._saved_metrics: dict[int, dict] = {}  # of this process; the files appear later
        # The metrics are in our record, not in Orbax's own file, which has no digest and, if it is
        # damaged, keeps Orbax from opening the directory.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_NewestAndBest(self._rank),
            step_name_format=_STEP_NAMES,
            # A process that is killed while it deletes must not leave a part of a checkpoint.
            todelete_subdir=None if read_only else _DELETED,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._read_only = read_only
        self._empty_deleted()
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
        self._empty_deleted()

    def _empty_deleted(self) -> None:
        """Deletes the checkpoints that Orbax has moved away, also those of a killed process."""
        if not self._read_only and processes.is_first():
            shutil.rmtree(self.directory / _DELETED, ignore_errors=True)

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the checkpoints, increasing."""
        return tuple(sorted(self._manager.all_steps()))

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint; None if there is none."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """Step with the highest finite value of the metric; None if no checkpoint has one.

        Raises:
          DamagedError: if the metrics of a checkpoint cannot be read.
        """
        ranked = [(self._rank(step), step) for step in self.steps]
        rank, step = max(ranked, default=(-math.inf, None))
        return step if rank > -math.inf else None

    def metrics(self, step: int) -> dict[str, float | None]:
        """Returns the metrics saved with a step; None stands for a value that was not finite.

        Raises:
          DamagedError: if they cannot be read, or are not what was saved.
        """
        if step not in self._saved_metrics:
            with self._offer_whole(step):
                self._saved_metrics[step] = _read_metrics(self._find_path(step))
        return self._saved_metrics[step]

    def save(
        self,
        step: int,
        state: TrainState,
        extra: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        wait: bool = False,
    ) -> None:
        """Saves a checkpoint in the background.

        The state is copied before the call returns, so its buffers may be donated immediately.

        Args:
          step: number of updates done, equal to `state.step`; higher than every saved step.
          state: on the host or placed on devices.
          extra: JSON values that are also needed to continue, such as the loader's position.
          metrics: name -> value.
          wait: whether to return only when the checkpoint is on disk.

        Raises:
          CheckpointError: if this or an earlier checkpoint could not be written.
          ValueError: if `step` is not `state.step`, or `extra` holds values that JSON cannot.
        """
        host_state = jax.tree.map(np.array, state)
        if host_state.step != step:
            raise ValueError(f"step {step} is not the step of the state, {host_state.step}")
        extra = _to_json(extra or {})
        finite = {name: _to_finite(value) for name, value in (metrics or {}).items()}
        record = {
            "extra": extra,
            "extra_digest": _digest_json(extra),
            "metrics": finite,
            "metrics_digest": _digest_json(finite),
            "leaf_digests": {n: _digest_array(a) for n, a in _name_leaves(host_state).items()},
        }
        path = self._find_path(step)
        if step not in self.steps:
            self._saved_metrics[step] = finite
        with _convert_errors(path, "cannot write the checkpoint"):
            self._manager.wait_until_finished()
            self._empty_deleted()
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(host_state), record=ocp.args.JsonSave(record)
                ),
            )
            if wait:
                self._manager.wait_until_finished()
        if not saved:
            raise CheckpointError(
                f"{path}: not written, because step {self.latest_step} already exists"
            )

    def find_step(self, which: str | int) -> int:
        """Returns the step that "latest", "best" or a number refers to.

        Raises:
          CheckpointError: if there is none.
        """
        if not self.steps:
            raise CheckpointError(f"{self.directory}: holds no checkpoint: train first")
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
          abstract_state: a TrainState whose leaves have the expected shapes and dtypes, such as
            `jax.eval_shape` returns.

        Raises:
          DamagedError: if it is damaged; names the leaf or the file.
          CheckpointError: if there is none, or its leaves do not match `abstract_state`.
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
        """Restores only the variables of the model, {"params": ..., "stats": ...}, to the host.

        Args:
          which: "latest", "best" or a step.
          ema: whether to return the averaged parameters.

        Raises:
          DamagedError: if it is damaged; names the leaf or the file.
          CheckpointError: if there is none.
        """
        params = "ema_params" if ema else "params"
        raw_state, _ = self._read(self.find_step(which), (params, "stats"))
        return {"params": raw_state[params], "stats": raw_state["stats"]}

    def quarantine_after(self, step: int) -> tuple[Path, ...]:
        """Quarantines the checkpoints after `step`, so that the run can continue from it.

        Returns:
          The paths they are renamed to, `damaged-...`, which vvae never reads.
        """
        quarantined = []
        for later in [later for later in self.steps if later > step]:
            path = self._find_path(later)
            numbered = (path.with_name(f"damaged-{path.name}-{n}") for n in itertools.count(1))
            quarantined.append(next(path for path in numbered if not path.exists()))
            processes.do_first(path.rename, quarantined[-1])
        self._manager.reload()
        return tuple(quarantined)

    def _find_path(self, step: int) -> Path:
        return self.directory / _STEP_NAMES.build_name(step)

    def _rank(self, step: int) -> float:
        value = self.metrics(step).get(self._metric)
        return -math.inf if value is None else value

    def _read(self, step: int, parts: tuple[str, ...] | None = None) -> tuple[dict, dict]:
        """Returns the named parts of the state (all by default), nested as saved, and the extra."""
        with self._offer_whole(step):
            return self._read_parts(step, parts)

    @contextlib.contextmanager
    def _offer_whole(self, step: int) -> Iterator[None]:
        """Turns an error inside into a DamagedError that names the newest other intact step."""
        try:
            with _convert_errors(self._find_path(step), "the checkpoint is damaged"):
                yield
        except CheckpointError as error:
            raise DamagedError(str(error), self._find_whole(step)) from error

    def _find_whole(self, damaged: int) -> int | None:
        for step in sorted(set(self.steps) - {damaged}, reverse=True):
            with contextlib.suppress(Exception):  # Orbax also raises bare Exceptions
                self._read_parts(step, None)
                return step
        return None

    def _read_parts(self, step: int, parts: tuple[str, ...] | None) -> tuple[dict, dict]:
        self._manager.wait_until_finished()
        record = _read_record(self._find_path(step))
        stored = self._manager.item_metadata(step)["state"]
        if stored is None:
            raise ValueError("state/_METADATA is missing")
        wanted = stored.tree if parts is None else {part: stored.tree[part] for part in parts}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    item=wanted, restore_args=as_numpy, partial_restore=True
                ),
            ),
        )
        _verify(restored.state, record["leaf_digests"], parts)
        return restored.state, record["extra"]

    def _check_leaves(self, step: int, found: dict, expected: dict) -> None:
        path = self._find_path(step)
        if found.keys() != expected.keys():
            raise CheckpointError(
                f"{path}: the checkpoint belongs to another model or optimizer: it lacks "
                f"{_list_names(expected.keys() - found.keys())} and has in addition "
                f"{_list_names(found.keys() - expected.keys())}"
            )
        for name, leaf in expected.items():
            if (found[name].shape, found[name].dtype) != (leaf.shape, leaf.dtype):
                raise CheckpointError(
                    f"{path}: the checkpoint belongs to another model or optimizer: {name} is "
                    f"{found[name].dtype}{list(found[name].shape)} there, not "
                    f"{leaf.dtype}{list(leaf.shape)}"
                )


class _NewestAndBest:
    """The policy that tells Orbax which checkpoints to keep.

    Not best_fn with max_to_keep, which deletes the newest checkpoint if it is not among the best,
    so that a run would continue from an older one.
    """

    def __init__(self, rank: Callable[[int], float]):
        """Takes the rank of a step, higher for better; `rank` may raise CheckpointError."""
        self._rank = rank

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Returns whether to keep each checkpoint, in the order of their steps."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        ranks = {}
        for step in steps:
            with contextlib.suppress(CheckpointError):
                ranks[step] = self._rank(step)
        best = max(ranks, key=lambda step: (ranks[step], step), default=None)
        # Keep checkpoints without a rank: damaged ones are the user's to delete.
        return [step in steps[-_NUM_NEWEST:] or step == best or step not in ranks for step in steps]


@contextlib.contextmanager
def _convert_errors(path: Path, problem: str) -> Iterator[None]:
    """Turns an error into a CheckpointError of one line."""
    try:
        yield
    except Exception as error:  # Orbax also raises bare Exceptions
        text = " ".join(f"{error}".split())
        # Orbax mentions a full disk only at the end of a long text.
        full = "No space left on device; free some space, and the same command continues the run"
        reason = full if "No space left" in text else text[:_MAX_MESSAGE] or type(error).__name__
        raise CheckpointError(f"{path}: {problem}: {reason}") from error


def _name_leaves(tree: Any) -> dict[str, Any]:
    """Returns name -> leaf, with the same names for a TrainState and for what Orbax stores."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _list_names(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown + ["..."] * (len(names) > 3)) or "nothing"


def _read_record(path: Path) -> dict[str, Any]:
    """Returns the record of a checkpoint.

    Raises:
      OSError, ValueError: if it cannot be read, or is not what was saved.
    """
    file = path / "record" / "metadata"  # where Orbax writes it
    try:
        record = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"record/metadata is not JSON: {error}") from error
    if not isinstance(record, dict) or set(record) not in (_RECORD_KEYS, _OLD_RECORD_KEYS):
        raise ValueError("record/metadata is not what was saved (its entries differ)")
    for part in ("extra", "metrics"):
        if part in record and _digest_json(record[part]) != record[f"{part}_digest"]:
            raise ValueError(f"the {part} values are not what was saved (their SHA-256 differs)")
    return record


def _read_metrics(path: Path) -> dict[str, float | None]:
    record = _read_record(path)
    if "metrics" in record:
        return record["metrics"]
    file = path / "metrics" / "metrics"
    return json.loads(file.read_text()) if file.exists() else {}


def _verify(raw_state: dict, digests: dict[str, str], parts: tuple[str, ...] | None) -> None:
    """Raises ValueError if a leaf is missing or is not what was saved."""
    leaves = _name_leaves(raw_state)
    expected = {name for name in digests if parts is None or name.split("/")[0] in parts}
    if differing := expected ^ leaves.keys():
        raise ValueError(f"{_list_names(differing)} is not what was saved (its name differs)")
    for name, leaf in leaves.items():
        if _digest_array(leaf) != digests[name]:
            raise ValueError(f"{name} is not what was saved (its SHA-256 differs)")


def _digest_array(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _to_json(value: Any) -> Any:
    """Returns plain Python values; Orbax fails on NumPy scalars, and only in the background."""

    def convert(item: Any) -> Any:
        if not hasattr(item, "item"):
            raise ValueError(f"{item!r} in the extra values of a checkpoint is not a JSON value")
        return item.item()

    return json.loads(json.dumps(value, default=convert))


def _to_finite(value: float) -> float | None:
    """Returns a Python float, or None for a value that is not finite, which JSON cannot hold."""
    return float(value) if math.isfinite(value) else None
