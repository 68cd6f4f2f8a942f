"""Shows what a long computation is at: on a terminal a line that changes, in a log one at the end.

`stage` names a part of the work, and `count` counts inside the innermost stage. Fast stages print
nothing. On a terminal the seconds go on while nothing is counted, such as in a compiler.
"""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from vvae import processes

T = TypeVar("T")

LIVE_SECONDS = 1.0  # a stage appears on a terminal after this time, and changes at most twice a s
LOG_SECONDS = 5.0  # a stage that took longer leaves a line in a log
_REDRAW_SECONDS = 0.5
_ERASE = "\r\x1b[K"


@dataclasses.dataclass
class _Stage:
    name: str
    started: float
    done: int = 0
    total: int = 0
    drawn: float = 0.0

    def show(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        _draw(self)

    def describe(self, now: float) -> str:
        counted = f" {self.done}/{self.total}" if self.total else ""
        return f"{self.name}{counted}, {now - self.started:.0f} s"


_open: list[_Stage] = []
_drawing = threading.Lock()


@contextlib.contextmanager
def stage(name: str, *, is_logged: bool = True) -> Iterator[None]:
    """Names what is computed meanwhile. Stages can be nested; the innermost one is shown.

    Args:
      name: of the stage.
      is_logged: whether it leaves a line in a log if it was long.
    """
    own = _Stage(name, time.monotonic())
    _open.append(own)
    try:
        with _keep_drawing(own):
            yield
    finally:
        _open.remove(own)
        _finish(own, is_logged)


@contextlib.contextmanager
def _keep_drawing(own: _Stage) -> Iterator[None]:
    """Draws a stage twice a second on a terminal, while it is the innermost one."""
    _draw(own)
    if not _is_terminal():
        yield
        return
    ended = threading.Event()

    def draw() -> None:
        while not ended.wait(_REDRAW_SECONDS):
            if _open[-1:] == [own]:
                _draw(own)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def show(done: int, total: int) -> None:
    """Says how much of the innermost stage is done, if there is one."""
    if _open:
        _open[-1].show(done, total)


def count(items: Iterable[T], total: int) -> Iterator[T]:
    """Yields the items, and counts them in the innermost stage, if there is one."""
    own = _open[-1] if _open else None
    for number, item in enumerate(items):
        yield item
        if own is not None:
            own.show(number + 1, total)


def track(name: str, items: Sequence[T]) -> Iterator[T]:
    """Yields the items in a stage that counts them."""
    with stage(name):
        own = _open[-1]
        for number, item in enumerate(items):
            own.show(number, len(items))
            yield item
        own.done = len(items)


def _draw(own: _Stage) -> None:
    now = time.monotonic()
    if not _is_terminal():
        return
    with _drawing:
        if now - own.started < LIVE_SECONDS or now - own.drawn < _REDRAW_SECONDS:
            return
        own.drawn = now
        print(f"{_ERASE}{own.describe(now)}", end="", flush=True)


def _finish(own: _Stage, is_logged: bool) -> None:
    now = time.monotonic()
    if _is_terminal():
        if own.drawn:
            print(_ERASE, end="", flush=True)
    elif is_logged and now - own.started > LOG_SECONDS and processes.is_first():
        print(own.describe(now), flush=True)


def _is_terminal() -> bool:
    return sys.stdout.isatty() and processes.is_first()
