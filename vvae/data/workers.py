"""Runs a function in fresh worker processes.

The workers are new interpreters that import only the module of the function. Unlike workers of
`multiprocessing`, they do not import the calling script again: the script needs no `if __name__ ==
"__main__"`, and its imports (jax) never reach them. A worker that dies loses only the item that it
was working on.
"""

import contextlib
import functools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

_COMMAND = "from vvae.data.workers import serve; serve()"


class WorkerError(RuntimeError):
    """A worker process ended without an answer.

    Attributes:
      is_late: Whether it was ended because it took too long.
    """

    def __init__(self, reason: str, is_late: bool = False):
        super().__init__(reason)
        self.is_late = is_late


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
    _check_number(num_workers)
    if num_workers == 0:
        for position, item in enumerate(items):
            yield position, function(item)
        return
    done: queue.SimpleQueue = queue.SimpleQueue()
    with WorkerPool(function, min(num_workers, len(items)), seconds) as pool:
        for position, item in enumerate(items):
            future = pool.submit(item)
            future.add_done_callback(functools.partial(_put, done, position))
        for _ in items:
            position, future = done.get()
            error = future.exception()
            yield position, error if isinstance(error, WorkerError) else future.result()


def _put(done: queue.SimpleQueue, position: int, future: Future) -> None:
    done.put((position, future))


def _check_number(num_workers: int) -> None:
    if num_workers < 0:
        raise ValueError(f"data.num_workers must be at least 0, got {num_workers}")


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
            pickle.dump(_call(function, item), results, pickle.HIGHEST_PROTOCOL)
            results.flush()


class WorkerPool:
    """Processes that call a function, each with a thread that passes it one item after the other.

    A context, which ends the processes. They end with this process, too.
    """

    def __init__(
        self, function: Callable[[Any], Any], num_workers: int, seconds: float | None = None
    ):
        """Starts the threads; a process is started when there is work for it.

        Args:
          function: As in `run_in_workers`.
          num_workers: The number of processes; with 0, `submit` calls the function itself.
          seconds: As in `run_in_workers`.

        Raises:
          ValueError: If `num_workers` is negative.
        """
        _check_number(num_workers)
        self._function, self._seconds = function, seconds
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._processes: set[subprocess.Popen] = set()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._feed, daemon=True) for _ in range(num_workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, item: Any) -> Future:
        """Passes an item to the next free process.

        Returns:
          The result to be. Its exception is what the function raises, or a WorkerError if the
          process died or exceeded its time.
        """
        future: Future = Future()
        if self._threads:
            self._tasks.put((item, future))
        else:
            _settle(future, *_call(self._function, item))
        return future

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exception) -> None:
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()[1].cancel()
        for process in list(self._processes):
            process.kill()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _feed(self) -> None:
        """Feeds one process after the other, as they die, until the pool is closed."""
        task = self._tasks.get()
        while task is not None and not self._closed:
            with _start_process() as process:
                self._processes.add(process)
                if self._closed:  # it may have been added after the others were killed
                    process.kill()
                while task is not None and self._run(process, *task):
                    task = self._tasks.get()
                with contextlib.suppress(OSError):
                    process.stdin.close()
            self._processes.remove(process)
            if task is not None:
                task = self._tasks.get()

    def _run(self, process: subprocess.Popen, item: Any, future: Future) -> bool:
        """Runs one item and settles its future; returns False if the process died."""
        limit = _Limit(process, self._seconds)
        try:
            with limit:
                process.stdin.write(pickle.dumps((self._function, item)))
                process.stdin.flush()
                answer = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            _settle(future, None, WorkerError(limit.explain(), limit.is_over))
            return False
        except Exception as failure:
            # The item cannot be sent, or the answer not be received: the process is of no use.
            process.kill()
            _settle(future, None, failure)
            return False
        _settle(future, *answer)
        return True


def _call(function: Callable[[Any], Any], item: Any) -> tuple[Any, Exception | None]:
    try:
        return function(item), None
    except Exception as error:
        return None, error


def _settle(future: Future, result: Any, error: Exception | None) -> None:
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


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
