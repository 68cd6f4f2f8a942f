"""What a training reads: clips by position, from a folder or from a collection."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from vvae.data.sampling import ClipFormat
from vvae.data.views import View

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Examples in an endless order: position n is example n of the first epoch, and so on."""

    def __len__(self) -> int:
        """Returns the number of examples in an epoch."""

    def open_reader(self, seed: int) -> AbstractContextManager[Callable[[range], Batch]]:
        """Opens a function from positions to a batch; see `Stream.open_reader`."""

    def describe_clip(self, index: int) -> str:
        """Names an example."""


class Stream(Source, Protocol):
    """Clips in an endless order.

    `vvae.data.clips.Clips` is one of decoded clips, `vvae.data.collection.clips.CollectionClips`
    one of a collection that is decoded as needed.

    Attributes:
      clip_format: The view, size and sampling of the clips.
    """

    clip_format: ClipFormat

    @property
    def view(self) -> View:
        """The view that the codes belong to."""

    def open_reader(self, seed: int) -> AbstractContextManager[Callable[[range], Batch]]:
        """Opens a function from positions to a batch, which may be called from several threads.

        What it returns depends on the seed and the positions alone. A batch of b clips holds
        `video` uint8 [b, T, H, W, C], `mask` bool [b, T], `index` int32 [b], by which
        `describe_clip` names a clip, and `label` int32 [b].

        Args:
          seed: The seed of the order, at least 0.
        """


def make_shuffle(seed: int, length: int) -> Callable[[range], np.ndarray]:
    """Returns a function from positions to numbers below length: every epoch is a permutation.

    Args:
      seed: The seed of the order, at least 0.
      length: The number of clips in an epoch.
    """

    @functools.lru_cache(maxsize=2)
    def shuffle(epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(length)

    def find(positions: range) -> np.ndarray:
        return np.array([shuffle(k // length)[k % length] for k in positions])

    return find
