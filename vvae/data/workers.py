"""Runs a function in worker processes that start from nothing.

The workers are fresh interpreters that import only the module of the function. Unlike those of
`multiprocessing` they do not import the calling script again: a script needs no
`if __name__ == "__main__"`, and what it imports (jax) never reaches them. A worker that dies takes
only the item that it was working on with it.
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
    """A worker process ended before it could answer."""


def run_in_workers(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    num_workers: int,
    seconds: float | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yields `(position, function(item))` for every item, in the order in which they end.

    Args:
      function: a function at the top level of an importable module.
      items: its arguments; they and the results must be picklable.
      num_workers: processes to start, at most one an item. With 0 the function is called here
        instead, in order.
      seconds: most time for one item, after which its process is killed; None for any. Not
        applied with 0 workers.

    An exception raised by the function is raised here. A WorkerError takes the place of the result
    if the process died (it was killed, or the decoder crashed) or took too long; the other items go
    on, in another process. The
    processes end when the iterator is exhausted or closed, and when this process dies.
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
            results.write(pickle.dumps(answer))
            results.flush()


class _Pool:
    """Processes, each with a thread that hands it one item after the other."""

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
        """Feeds one process, and another one where it died, until nothing waits."""
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
        """Runs one item and stores what came of it; False if the process died of it."""
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
    """A context in which a process is killed after so many seconds."""

    def __init__(self, process: subprocess.Popen, seconds: float | None):
        self.seconds, self.process, self.is_over = seconds, process, False
        self.timer = None if seconds is None else threading.Timer(seconds, self._end)

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
        """Says why the process has died."""
        if self.is_over:
            return f"not decoded within {self.seconds:g} s"
        return "the worker process died (out of memory, or a crash of the decoder)"


def _start_process() -> subprocess.Popen:
    # -P: what happens to lie in the current folder must not be imported by accident.
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
    )
