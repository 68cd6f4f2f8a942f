"""What a training reads: clips by position, from a folder or from a collection."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from vvae.data.sampling import ClipFormat
from vvae.data.views import View

Batch = dict[str, np.ndarray]


class Stream(Protocol):
    """Clips in an endless order: position n is clip n of the first epoch, and so on.

    `vvae.data.clips.Clips` is one of decoded clips, `vvae.data.collection.clips.CollectionClips`
    one of a collection that is decoded as needed.

    Attributes:
      clip_format: The view, size and sampling of the clips.
    """

    clip_format: ClipFormat

    def __len__(self) -> int:
        """Returns the number of clips in an epoch."""

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

    def describe_clip(self, index: int) -> str:
        """Names a clip: its video, and where in it."""
