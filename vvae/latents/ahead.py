"""Runs iterators ahead of their reader in threads: videos are decoded while others are encoded."""

import collections
import contextlib
import functools
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

_END = object()
_SECONDS = 0.1  # between two looks whether the reader has left


class _StoppedError(Exception):
    """The reader has left."""


class _Ahead:
    """An iterator that runs in a thread, at most `depth` items before its reader."""

    def __init__(self, make: Callable[[], Iterator[Any]], depth: int):
        self._make, self._stop = make, threading.Event()
        self._items: queue.Queue = queue.Queue(depth)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with contextlib.closing(self._make()) as items:
                for item in items:
                    self._put((item, None))
            self._put((_END, None))
        except _StoppedError:
            pass
        except BaseException as error:  # whatever it is, the reader gets it
            with contextlib.suppress(_StoppedError):
                self._put((_END, error))

    def _put(self, item) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=_SECONDS)
                return
        raise _StoppedError

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Any]:
        while True:
            item, error = self._items.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item


def run_ahead(
    function: Callable[[Any], Generator[Any, None, None]],
    arguments: Iterable[Any],
    num_threads: int,
    depth: int,
) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Yields (argument, iterator of function(argument)) in order, the next ones already running.

    Args:
      function: a generator function; runs in a thread. It is closed when its reader goes on.
      arguments: of the function.
      num_threads: how many run at a time, the one that is read included.
      depth: how many items each may be ahead.

    Raises:
      Exception: what a function raises is raised where its iterator is read.
    """
    if num_threads < 1 or depth < 1:
        raise ValueError(f"num_threads={num_threads}, depth={depth}: must be at least 1")
    waiting, running = iter(arguments), collections.deque()
    try:
        while True:
            for argument in itertools.islice(waiting, num_threads - len(running)):
                make = functools.partial(function, argument)
                running.append((argument, _Ahead(make, depth)))
            if not running:
                return
            argument, ahead = running[0]
            yield argument, iter(ahead)
            ahead.close()
            running.popleft()
    finally:
        for _, ahead in running:
            ahead.close()
