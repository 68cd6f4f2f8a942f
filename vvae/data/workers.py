"""Runs a function in fresh worker processes.

The workers are new interpreters that import only the module of the function. Unlike workers of
`multiprocessing`, they do not import the calling script again: the script needs no `if __name__ ==
"__main__"`, and its imports (jax) never reach them. A worker that dies loses only the item that it
was working on.
"""

import collections
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
    """A worker process ended without an answer."""


def run_in_workers(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    num_workers: int,
    seconds: float | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yields `(position, function(item))` for every item, as they are completed.

    The processes end when the iterator is exhausted or closed, and when this process dies. If a
    worker dies (because it was killed, or the decoder crashed) or exceeds its time, a WorkerError
    takes the place of the result, and the other items continue in another process.

    Args:
      function: A function at the top level of an importable module.
      items: Its arguments. They and the results must be picklable.
      num_workers: The number of processes to start, at most one for each item. With 0, the function
        is called in this process, in order.
      seconds: The time limit for one item, after which its process is killed; None for no limit. It
        does not apply with 0 workers.

    Yields:
      The position of an item and its result, or a WorkerError in its place.

    Raises:
      ValueError: If `num_workers` is negative.
      Exception: Whatever the function raises.
    """
    if num_workers < 0:
        raise ValueError(f"data.num_workers must be at least 0, got {num_workers}")
    if num_workers == 0:
        for position, item in enumerate(items):
            yield position, function(item)
        return
    pool = _Pool(function, items, seconds)
    try:
        pool.start(min(num_workers, len(items)))
        for _ in items:
            position, result, error = pool.done.get()
            if error is not None:
                raise error
            yield position, result
    finally:
        pool.stop()


def serve() -> None:
    """Runs a worker: reads tasks from standard input and writes results to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C, the caller ends its workers
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the results
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
            results.write(pickle.dumps(answer))
            results.flush()


class _Pool:
    """A pool of processes, each with a thread that passes it one item after the other."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any], seconds: float | None):
        self.function = function
        self.seconds = seconds
        self.waiting = collections.deque(enumerate(items))
        self.done: queue.SimpleQueue = queue.SimpleQueue()
        self.processes: list[subprocess.Popen] = []
        self.threads: list[threading.Thread] = []

    def start(self, num_workers: int) -> None:
        for _ in range(num_workers):
            thread = threading.Thread(target=self._feed, daemon=True)
            self.threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self.waiting.clear()
        for process in list(self.processes):
            process.kill()
        for thread in self.threads:
            thread.join()

    def _feed(self) -> None:
        """Feeds one process until no item waits, and replaces the process if it dies."""
        while self.waiting:
            with _start_process() as process:
                self.processes.append(process)
                while (task := self._take()) and self._run(process, *task):
                    pass
                with contextlib.suppress(OSError):
                    process.stdin.close()

    def _take(self) -> tuple[int, Any] | None:
        with contextlib.suppress(IndexError):
            return self.waiting.popleft()
        return None

    def _run(self, process: subprocess.Popen, position: int, item: Any) -> bool:
        """Runs one item and stores the outcome; returns False if the process died."""
        limit = _Limit(process, self.seconds)
        try:
            with limit:
                process.stdin.write(pickle.dumps((self.function, item)))
                process.stdin.flush()
                result, error = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.done.put((position, WorkerError(limit.explain()), None))
            return False
        except Exception as failure:
            self.done.put((position, None, failure))
            return False
        self.done.put((position, result, error))
        return True


class _Limit:
    """A context that kills a process after a time limit."""

    def __init__(self, process: subprocess.Popen, seconds: float | None):
        self.seconds, self.process, self.is_over = seconds, process, False
        self.timer = None
        if seconds is not None:
            self.timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._end)

    def __enter__(self) -> "_Limit":
        if self.timer is not None:
            self.timer.start()
        return self

    def __exit__(self, *exception) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def _end(self) -> None:
        self.is_over = True
        self.process.kill()

    def explain(self) -> str:
        """Returns the reason why the process died."""
        if self.is_over:
            return f"not decoded within {self.seconds:g} s"
        return "the worker process died (out of memory, or a crash of the decoder)"


def _start_process() -> subprocess.Popen:
    # -P keeps modules in the current folder from being imported by accident.
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
    )
