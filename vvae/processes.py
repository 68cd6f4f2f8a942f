"""Several processes of one run: how they find each other, what they share, and how they end.

With a single process, the usual case, every function here does the obvious thing at once. Several
processes make the same calls in the same order.
"""

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what needs no array starts without NumPy
    import numpy as np

AUTO = "auto"
_MAX_MESSAGE = 2000
_GRACE_SECONDS = 2.0
_LONGEST_WAIT_MS = 7 * 24 * 3600 * 1000
_barrier_numbers = itertools.count()
# Statuses with which all processes of a run end together: done, and stopped on request.
_JOINT_STATUSES = (0, 75)


@dataclass(frozen=True)
class Group:
    """Which process of how many this one is.

    Attributes:
      coordinator: "HOST:PORT" of the first process, or "auto": by SLURM, Open MPI, Kubernetes or
        the TPU's metadata, which then state what is None here.
      num_processes: of the run.
      process_id: of this one, from 0.
      timeout: seconds without a sign of life after which a process counts as lost and all others
        end.
    """

    coordinator: str
    num_processes: int | None = None
    process_id: int | None = None
    timeout: int = 60

    def __post_init__(self):
        if self.timeout < 1:
            raise ValueError(f"--parallel.timeout={self.timeout}: must be at least 1 second")
        if self.coordinator == AUTO:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(
                f"--parallel.coordinator={self.coordinator}: must be HOST:PORT of the first "
                f"process, or {AUTO}"
            )
        if self.num_processes is None or self.process_id is None:
            raise ValueError(
                "--parallel.coordinator HOST:PORT needs --parallel.num_processes and "
                "--parallel.process_id"
            )
        if not 0 <= self.process_id < self.num_processes:
            raise ValueError(
                f"--parallel.process_id={self.process_id}: must be from 0 to "
                f"{self.num_processes - 1}, since --parallel.num_processes={self.num_processes}"
            )


def connect(group: Group) -> None:
    """Connects this process with the others; to be called before jax has made an array.

    From here on only the first process prints to standard output. If one process is lost, the
    others end within the group's timeout, with status 134 (SIGABRT) or an error.

    Raises:
      ValueError: the cluster could not be detected, or the others were not there in time.
    """
    import jax

    # A signal is agreed on by the training itself (`Runner.share_flag`), with jax's own handler of
    # SIGTERM a second signal would not end the process.
    jax.config.update("jax_enable_preemption_service", False)
    given = {} if group.coordinator == AUTO else {"coordinator_address": group.coordinator}
    try:
        jax.distributed.initialize(
            **given,
            num_processes=group.num_processes,
            process_id=group.process_id,
            heartbeat_timeout_seconds=group.timeout,
            shutdown_timeout_seconds=group.timeout,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--parallel.coordinator={group.coordinator}: the processes could not be connected "
            f"({' '.join(str(error).split())})"
        ) from error
    if not is_first():
        sys.stdout = open(os.devnull, "w", errors="backslashreplace")  # noqa: SIM115


def count() -> int:
    """Returns how many processes the run has."""
    import jax

    return jax.process_count()


def index() -> int:
    """Returns the number of this process, from 0."""
    import jax

    return jax.process_index()


def is_first() -> bool:
    """Whether this is the process that writes: logs, pictures, results."""
    return index() == 0


def wait_for_all() -> None:
    """Waits until all processes are here, however long that takes.

    Where one may be much later than another: an exchange between devices gives up after a while
    (between CPUs after 30 s). A process that is lost ends the waiting like everything else.
    """
    if count() > 1:
        from jax._src import distributed  # as Orbax does; jax.distributed itself has no barrier

        name = f"vvae-{next(_barrier_numbers)}"
        distributed.global_state.client.wait_at_barrier(name, _LONGEST_WAIT_MS)


def gather(tree: Any) -> Any:
    """Returns the arrays of all processes, [P, ...] in their order, bit by bit, in every process.

    Args:
      tree: arrays of the same shapes and dtypes in every process.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    arrays, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    if count() == 1:
        return jax.tree.unflatten(structure, [array[None] for array in arrays])
    wait_for_all()
    # As bytes: jax would make 32-bit numbers of others. In one piece: each has a price.
    pieces = [array.reshape(-1).view(np.uint8) for array in arrays]
    everything = multihost_utils.process_allgather(np.concatenate(pieces))
    ends = np.cumsum([piece.size for piece in pieces])[:-1]
    gathered = [
        np.ascontiguousarray(part).view(array.dtype).reshape(count(), *array.shape)
        for part, array in zip(np.split(everything, ends, axis=1), arrays)
    ]
    return jax.tree.unflatten(structure, gathered)


def share(tree: Any) -> Any:
    """Returns the first process' arrays in every process."""
    import jax

    return tree if count() == 1 else jax.tree.map(lambda a: a[0], gather(tree))


def do_together(action: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in every process, and returns its result in this one.

    Raises:
      ValueError: in all processes, if it failed in one for a reason that the user can mend.
    """
    failure = result = None
    try:
        result = action(*arguments)
    except (ValueError, OSError, MemoryError) as error:
        failure = error
    if count() == 1:
        if failure is not None:
            raise failure
        return result
    told = gather(_to_bytes("" if failure is None else str(failure) or type(failure).__name__))
    messages = [_to_text(message) for message in told]
    if failure is not None:
        raise failure
    for number, message in enumerate(messages):
        if message:
            raise ValueError(f"process {number}: {message}")
    return result


def do_first(action: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function in the first process while the others wait.

    Raises:
      ValueError: in all processes, if it failed for a reason that the user can mend.
    """
    do_together(*((action, *arguments) if is_first() else (_do_nothing,)))


@contextlib.contextmanager
def first_only(context: contextlib.AbstractContextManager) -> Iterator[None]:
    """Enters a context in the first process while the others wait, and leaves it there.

    Raises:
      ValueError: in all processes, if entering failed for a reason that the user can mend.
    """
    with contextlib.ExitStack() as held:
        do_first(held.enter_context, context)
        yield


def _do_nothing() -> None:
    pass


def require_same(what: str, text: str) -> None:
    """Checks that a text is the same in all processes.

    Raises:
      ValueError: in every process, if it is not; `what` says of what it is.
    """
    texts = gather(_to_bytes(text))
    for number, other in enumerate(texts):
        if not (other == texts[0]).all():
            raise ValueError(
                f"{what} of process {number} and of process 0 differ: {_to_text(other)}, "
                f"{_to_text(texts[0])}"
            )


def end(status: int) -> None:
    """Ends this process, also if others wait for it in vain: they are told by its death.

    An ordinary exit would first wait for all processes to end.
    """
    if status not in _JOINT_STATUSES and _is_connected():
        sys.stdout.flush()
        sys.stderr.flush()
        if is_first():
            # The others end at once when they lose the first one: time for their last words.
            time.sleep(_GRACE_SECONDS)
        os._exit(status)
    sys.exit(status)


def _is_connected() -> bool:
    # An error before that needs no jax, whose import takes seconds.
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _to_bytes(text: str) -> "np.ndarray":
    import numpy as np

    data = text.encode("utf-8", "backslashreplace")[:_MAX_MESSAGE].ljust(_MAX_MESSAGE, b"\0")
    return np.frombuffer(data, np.uint8)


def _to_text(array: "np.ndarray") -> str:
    return array.tobytes().rstrip(b"\0").decode("utf-8", "replace")
