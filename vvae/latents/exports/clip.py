"""A clip of a store as exports see it: channels first, in the form that a trainer reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np

from vvae.latents import posterior
from vvae.latents.dataset import read_sample
from vvae.latents.posterior import Scale
from vvae.latents.record import count_frames

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_CAPTIONS = ("caption", "prompt", "text")  # where metadata say what is shown


@dataclass(frozen=True)
class ExportClip:
    """A clip to export.

    Attributes:
      mean, std: float32 [t, h, w, Z], normalised.
      record: its record.
      scale: the normalisation.
      network: class of the encoder, as config.json of published weights names it.
      name: path without suffix, unique in the export.
      text: embeddings of its caption, float32 [L, D]; None if none were given.
      seed: of the noise of a sample.
    """

    mean: np.ndarray
    std: np.ndarray
    record: Mapping[str, Any]
    scale: Scale
    network: str
    name: str
    text: np.ndarray | None
    seed: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, T, H, W) of the latents."""
        t, h, w, channels = self.mean.shape
        return channels, t, h, w

    @property
    def caption(self) -> str:
        """What the metadata say is shown; empty if they say nothing."""
        metadata = self.record["metadata"]
        return next((str(metadata[name]) for name in _CAPTIONS if metadata.get(name)), "")

    @property
    def num_frames(self) -> int:
        """Frames of the video that the clip was made of."""
        return count_frames(self.record)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what was encoded."""
        return tuple(self.record["encoded_size"])

    def mode(self) -> np.ndarray:
        """Returns the normalised mean, float32 [C, T, H, W]."""
        return channels_first(self.mean)

    def sample(self) -> np.ndarray:
        """Returns a normalised sample, float32 [C, T, H, W]."""
        clip = {"mean": self.mean, "std": self.std, "record": self.record}
        return channels_first(read_sample(clip, self.seed))

    def raw(self, z_CTHW: np.ndarray) -> np.ndarray:
        """Returns latents [C, T, H, W] as the decoder takes them."""
        return channels_first(posterior.raw(self.scale, np.moveaxis(z_CTHW, 0, -1)))

    def moments(self) -> np.ndarray:
        """Returns raw means and log-variances, float32 [2 C, T, H, W]."""
        return channels_first(posterior.moments(self.scale, self.mean, self.std))


def channels_first(z_thwZ: np.ndarray) -> np.ndarray:
    """Returns [Z, t, h, w]."""
    return np.ascontiguousarray(np.moveaxis(z_thwZ, -1, 0))


def strip_suffix(name: str) -> str:
    """Returns the name of a video without its suffix, as a path that stays below any folder.

    Lists name videos anywhere: the root and `..` are left out.
    """
    path = PurePosixPath(name).with_suffix("")
    return str(PurePosixPath(*(part for part in path.parts if part not in (path.anchor, ".."))))
