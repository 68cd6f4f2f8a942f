"""Reads ahead in threads, in order."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_NUM_THREADS = 2
_NUM_AHEAD = 3


def load_ahead(load: Callable[[Any], Any], positions: Iterable[Any]) -> Iterator[Any]:
    """Yields load(position) in order; threads load a few positions ahead."""
    positions = iter(positions)
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="vvae-loader") as threads:
        waiting = collections.deque(
            threads.submit(load, position) for position in itertools.islice(positions, _NUM_AHEAD)
        )
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(threads.submit(load, p) for p in itertools.islice(positions, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
