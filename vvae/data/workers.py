"""Runs a function in worker processes that start from nothing.

The workers are fresh interpreters that import only the module of the function. Unlike those of
`multiprocessing` they do not import the calling script again: a script needs no
`if __name__ == "__main__"`, and what it imports (jax) never reaches them. A worker that dies takes
only the item that it was working on with it.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_COMMAND = "from vvae.data.workers import serve; serve()"


class WorkerError(RuntimeError):
    """A worker process ended before it could answer."""


def run_in_workers(
    function: Callable[[Any], Any], items: Sequence[Any], num_workers: int
) -> Iterator[tuple[int, Any]]:
    """Yields `(position, function(item))` for every item, in the order in which they end.

    Args:
        function: a function at the top level of an importable module.
        items: its arguments; they and the results must be picklable.
        num_workers: processes to start, at most one an item. With 0, or for a single item, the
            function is called here instead, in order.

    An exception raised by the function is raised here. A WorkerError takes the place of the result
    if the process died (it was killed, or the decoder crashed); the other items go on. The
    processes end when the iterator is exhausted or closed, and when this process dies.
    """
    if num_workers < 0:
        raise ValueError(f"data.num_workers must be at least 0, got {num_workers}")
    if num_workers == 0 or len(items) <= 1:
        for position, item in enumerate(items):
            yield position, function(item)
        return
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for task in enumerate(items):
        waiting.put(task)
    done: queue.SimpleQueue = queue.SimpleQueue()
    stop = threading.Event()
    threads = [
        threading.Thread(target=_feed_worker, args=(function, waiting, done, stop), daemon=True)
        for _ in range(min(num_workers, len(items)))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in items:
            position, result, error = done.get()
            if error is not None:
                raise error
            yield position, result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def serve() -> None:
    """The life of a worker: reads tasks from standard input, writes results to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends us.
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What a library prints must not run into the results.
    with results:
        while True:
            try:
                function, item = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                answer = (function(item), None)
            except Exception as error:
                answer = (None, error)
            pickle.dump(answer, results)
            results.flush()


def _feed_worker(function, waiting, done, stop) -> None:
    """Hands items to one process, replaced by another one if it dies, until none is left."""
    while not stop.is_set() and not waiting.empty():
        with _start_worker() as worker:
            while not stop.is_set():
                try:
                    position, item = waiting.get_nowait()
                except queue.Empty:
                    break
                try:
                    pickle.dump((function, item), worker.stdin)
                    worker.stdin.flush()
                    result, error = pickle.load(worker.stdout)
                except (EOFError, OSError, pickle.UnpicklingError):
                    done.put((position, WorkerError("its worker process died"), None))
                    break
                except Exception as failure:
                    done.put((position, None, failure))
                    break
                done.put((position, result, error))
            with contextlib.suppress(OSError):
                worker.stdin.close()


def _start_worker() -> subprocess.Popen:
    paths = [os.path.abspath(path) for path in sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
