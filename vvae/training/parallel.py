"""Runs pure functions on many devices: `jax.pmap`, or jit over a mesh, behind one interface.

The only module that names them. Both keep one copy of the state on every device and give each
device an equal share of the batch; they agree up to rounding (tested). Usage:

    runner = make_runner("pmap")
    step = runner.compile_step(functools.partial(train_step, loss_fn=..., ...))
    state = runner.place_state(state)
    for batch in prefetch(batches, runner.place_batch):
        state, metrics = step(state, batch)
"""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vvae.training.state import TrainState
from vvae.training.step import Metrics

_AXIS = "data"

CompiledStep = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


class Runner:
    """Placement of states and batches; `PmapRunner` and `MeshRunner` define how functions run."""

    def __init__(self, devices: Sequence[jax.Device], mesh_devices: Sequence[jax.Device]):
        """Lays out the devices.

        Args:
          devices: all devices of the run.
          mesh_devices: those among them that one array spans.
        """
        self.devices = tuple(devices)
        mesh = Mesh(np.array(mesh_devices), (_AXIS,), axis_types=(AxisType.Auto,))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._sharded = NamedSharding(mesh, PartitionSpec(_AXIS))

    @property
    def num_devices(self) -> int:
        """Number of devices of the run, over all processes."""
        return len(self.devices)

    @property
    def num_local_devices(self) -> int:
        """Number of devices of this process; its share of a batch is a multiple of it."""
        return len(_keep_local(self.devices))

    def place_state(self, state: Any) -> Any:
        """Copies a tree of arrays, such as a TrainState or the variables, to every device."""
        # Copy through NumPy: device_put may share the buffer of an array that is already on the
        # device, and donating the copy would delete the caller's array.
        return jax.device_put(jax.tree.map(np.asarray, state), self._replicated)

    def describe_state(self, abstract_state: Any) -> Any:
        """Returns the shapes, dtypes and shardings of a tree after `place_state`."""
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self._replicated),
            abstract_state,
        )

    def fetch(self, tree: Any) -> Any:
        """Copies a placed tree, such as the state or the metrics, to NumPy arrays."""
        return jax.tree.map(np.array, tree)

    def share_flag(self, flag: bool) -> Callable[[], bool]:
        """Starts to find out whether a flag is set in any process.

        All processes make the same calls between the same steps. The devices compute the answer in
        order with the steps, so asking before a step and reading the answer after it waits only for
        the previous step.

        Returns:
          A function that waits for the answer, which is the same in every process.
        """
        if jax.process_count() == 1:
            return lambda: flag
        answer = self._any(self.place_batch(np.full(self.num_local_devices, flag)))
        return lambda: bool(np.asarray(answer))

    def _check_batch(self, batch: Any) -> None:
        for size in {leaf.shape[0] for leaf in jax.tree.leaves(batch)}:
            if size % self.num_local_devices:
                raise ValueError(
                    f"a batch of {size} examples cannot be split over {self.num_local_devices} "
                    "devices: choose a multiple"
                )


class PmapRunner(Runner):
    """Runs functions by `jax.pmap`: each device computes its own share of the batch."""

    def __init__(self, devices: Sequence[jax.Device]):
        super().__init__(devices, mesh_devices=_keep_local(devices))
        self._any = jax.pmap(
            lambda flag_B: jax.lax.pmax(flag_B.any(), _AXIS),
            axis_name=_AXIS,
            out_axes=None,
            devices=self.devices,
        )

    def describe_state(self, abstract_state: Any) -> Any:
        """Describes a placed tree, or with several processes returns one of zeros.

        With several processes `jax.pmap` lowers only for arrays, not for shapes.
        """
        if jax.process_count() == 1:
            return super().describe_state(abstract_state)
        zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), abstract_state)
        return self.place_state(zeros)

    def place_batch(self, batch: Any) -> Any:
        """Copies this process' share of a batch, arrays [B, ...], to its devices.

        Raises:
          ValueError: if B is not a multiple of the number of devices.
        """
        self._check_batch(batch)
        shards = jax.tree.map(lambda a: a.reshape(self.num_local_devices, -1, *a.shape[1:]), batch)
        return jax.device_put(shards, self._sharded)

    def compile_step(self, step_fn: Callable) -> CompiledStep:
        """Compiles (state, batch, axis_name=...) -> (state, metrics) for placed arguments.

        The compiled function donates its state.
        """
        # The state is passed and returned as one replicated value; the pmean of the gradients
        # keeps its copies equal.
        return jax.pmap(
            functools.partial(step_fn, axis_name=_AXIS),
            axis_name=_AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=self.devices,
            donate_argnums=0,
        )

    def map_eval(self, fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Maps a function of examples over all devices.

        Args:
          fn: (variables, batch) -> tree of arrays [B, ...]; each example depends only on itself.

        Returns:
          (placed variables, this process' NumPy share of the batch) -> the tree as NumPy arrays,
          with the examples of all processes, in order.
        """

        def run_and_gather(variables: Any, shard: Any) -> Any:
            return jax.lax.all_gather(fn(variables, shard), _AXIS, tiled=True)

        compiled = jax.pmap(
            run_and_gather,
            axis_name=_AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=self.devices,
        )
        return lambda variables, batch: self.fetch(compiled(variables, self.place_batch(batch)))


class MeshRunner(Runner):
    """Runs functions by jit over a mesh: they take the whole batch and the compiler divides it."""

    def __init__(self, devices: Sequence[jax.Device]):
        super().__init__(devices, mesh_devices=devices)
        self._any = jax.jit(jnp.any, out_shardings=self._replicated)

    def place_batch(self, batch: Any) -> Any:
        """Copies this process' share of a batch, arrays [B, ...], to its devices.

        Raises:
          ValueError: if B is not a multiple of the number of devices.
        """
        self._check_batch(batch)
        return jax.tree.map(
            functools.partial(jax.make_array_from_process_local_data, self._sharded), batch
        )

    def compile_step(self, step_fn: Callable) -> CompiledStep:
        """Compiles (state, batch) -> (state, metrics) for placed arguments.

        The compiled function donates its state.
        """
        return jax.jit(
            step_fn,
            in_shardings=(self._replicated, self._sharded),
            out_shardings=self._replicated,
            donate_argnums=0,
        )

    def map_eval(self, fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Maps a function of examples over all devices; see `PmapRunner.map_eval`."""
        compiled = jax.jit(
            fn,
            in_shardings=(self._replicated, self._sharded),
            out_shardings=self._replicated,
        )
        return lambda variables, batch: self.fetch(compiled(variables, self.place_batch(batch)))


_RUNNERS = {"pmap": PmapRunner, "mesh": MeshRunner}


def make_runner(kind: str, devices: Sequence[jax.Device] | None = None) -> PmapRunner | MeshRunner:
    """Makes a runner.

    Args:
      kind: "pmap" or "mesh".
      devices: of all processes; all devices by default.

    Raises:
      ValueError: if the kind is unknown.
    """
    if kind not in _RUNNERS:
        raise ValueError(f"unknown kind of parallelism {kind!r}: choose pmap or mesh")
    return _RUNNERS[kind](jax.devices() if devices is None else devices)


def prefetch(items: Iterable[Any], place: Callable[[Any], Any], depth: int = 2) -> Iterator[Any]:
    """Yields `place(item)` in order, placed up to `depth` items ahead.

    Placing only starts a copy, so the next batches travel to the devices while one is in use.
    """
    placed = collections.deque()
    for item in items:
        placed.append(place(item))
        if len(placed) > depth:
            yield placed.popleft()
    yield from placed


class Lookahead:
    """An iterator whose next item is fetched in advance, so that it can be looked at."""

    def __init__(self, items: Iterator[Any]):
        """Fetches the first item."""
        self._items = items
        self.current = next(items)

    def advance(self) -> None:
        """Fetches the next item."""
        self.current = next(self._items)

    def close(self) -> None:
        """Closes the iterator below."""
        self._items.close()


def run_ahead(function: Callable, *arguments: Any) -> concurrent.futures.Future:
    """Starts to call a function in its own thread; the process waits for it before it exits.

    Compilation releases the GIL most of the time.
    """
    thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="vvae-ahead")
    future = thread.submit(function, *arguments)
    thread.shutdown(wait=False)
    return future


def export_step(
    step: CompiledStep, state: Any, batch: Any, platforms: Sequence[str] = ("cpu", "cuda", "tpu")
) -> jax.export.Exported:
    """Lowers a compiled step for platforms that need not be present.

    Args:
      step: from `compile_step`.
      state: placed, or only its shapes.
      batch: placed, or only its shapes.
      platforms: names as in `jax.export`.
    """
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (state, batch))
    return jax.export.export(jax.jit(step), platforms=platforms)(*shapes)


def _keep_local(devices: Sequence[jax.Device]) -> tuple[jax.Device, ...]:
    return tuple(d for d in devices if d.process_index == jax.process_index())
