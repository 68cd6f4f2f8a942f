"""The processes of one run: how they connect, what they share, and how they end.

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

if TYPE_CHECKING:  # not imported at run time, so that --help starts without NumPy
    import numpy as np

AUTO = "auto"
_MAX_MESSAGE = 2000
_GRACE_SECONDS = 2.0
_LONGEST_WAIT_MS = 7 * 24 * 3600 * 1000
_barrier_numbers = itertools.count()
# Exit statuses with which all processes of a run end together: done, and stopped on request.
_JOINT_STATUSES = (0, 75)


@dataclass(frozen=True)
class Group:
    """The place of this process among the processes of a run.

    Attributes:
      coordinator: "HOST:PORT" of the first process, or "auto" to detect SLURM, Open MPI, Kubernetes
        or the metadata of a TPU, which also determine `num_processes` and `process_id` if they are
        None.
      num_processes: The number of processes of the run.
      process_id: The number of this process, from 0.
      timeout: The time without a sign of life, in seconds, after which a process counts as lost and
        all others end.
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
        if not host or not port.isdecimal():
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
    """Connects this process with the others; call it before jax has made an array.

    From here on, only the first process prints to standard output. If a process is lost, the others
    end within the group's timeout, with status 134 (SIGABRT) or an error.

    Raises:
      ValueError: If the cluster could not be detected, or the others did not connect in time.
    """
    import jax

    # The training agrees on signals (`Runner.share_flag`). With jax's own handler of SIGTERM,
    # a second signal would not end the process.
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
    """Returns the number of processes of the run."""
    import jax

    return jax.process_count()


def index() -> int:
    """Returns the number of this process, from 0."""
    import jax

    return jax.process_index()


def is_first() -> bool:
    """Whether this is the process that writes logs, images and results."""
    return index() == 0


def wait_for_all() -> None:
    """Waits until all processes have arrived here, however long that takes.

    Call it where one process may be much later than another, because an exchange between devices
    fails after a while (between CPUs after 30 s). If a process is lost, the waiting ends with an
    error.
    """
    if count() > 1:
        from jax._src import distributed  # as in Orbax: jax.distributed has no public barrier

        name = f"vvae-{next(_barrier_numbers)}"
        distributed.global_state.client.wait_at_barrier(name, _LONGEST_WAIT_MS)


def gather(tree: Any) -> Any:
    """Returns the arrays of all processes, [P, ...] in their order, bit-equal in every process.

    Args:
      tree: A pytree of arrays, with the same shapes and dtypes in every process.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    arrays, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    if count() == 1:
        return jax.tree.unflatten(structure, [array[None] for array in arrays])
    wait_for_all()
    # As bytes, since jax would convert 64-bit numbers to 32 bits, and in one piece, since each
    # exchange has a fixed cost.
    pieces = [array.reshape(-1).view(np.uint8) for array in arrays]
    everything = multihost_utils.process_allgather(np.concatenate(pieces))
    ends = np.cumsum([piece.size for piece in pieces])[:-1]
    gathered = [
        np.ascontiguousarray(part).view(array.dtype).reshape(count(), *array.shape)
        for part, array in zip(np.split(everything, ends, axis=1), arrays)
    ]
    return jax.tree.unflatten(structure, gathered)


def gather_texts(text: str) -> list[str]:
    """Returns the texts of all processes, of any length, in their order."""
    import numpy as np

    data = np.frombuffer(text.encode(), np.uint8)
    longest = int(gather(np.array(len(data))).max())
    padded = np.zeros(longest, np.uint8)
    padded[: len(data)] = data
    return [_to_text(array) for array in gather(padded)]


def share(tree: Any) -> Any:
    """Returns the first process's arrays in every process."""
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

    Args:
      what: The name of the text, for the message.
      text: The text.

    Raises:
      ValueError: In every process, if the texts differ.
    """
    texts = gather(_to_bytes(text))
    for number, other in enumerate(texts):
        if not (other == texts[0]).all():
            raise ValueError(
                f"{what} of process {number} and of process 0 differ: {_to_text(other)}, "
                f"{_to_text(texts[0])}"
            )


def end(status: int) -> None:
    """Ends this process, even if others wait for it in vain: its death ends them, too.

    An ordinary exit would wait until all processes end.
    """
    if status not in _JOINT_STATUSES and _is_connected():
        sys.stdout.flush()
        sys.stderr.flush()
        if is_first():
            # The others end as soon as they lose the first process: let them print their errors.
            time.sleep(_GRACE_SECONDS)
        os._exit(status)
    sys.exit(status)


def _is_connected() -> bool:
    # Without an import of jax, which takes seconds: errors may precede it.
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _to_bytes(text: str) -> "np.ndarray":
    import numpy as np

    data = text.encode("utf-8", "backslashreplace")[:_MAX_MESSAGE].ljust(_MAX_MESSAGE, b"\0")
    return np.frombuffer(data, np.uint8)


def _to_text(array: "np.ndarray") -> str:
    return array.tobytes().rstrip(b"\0").decode("utf-8", "replace")
