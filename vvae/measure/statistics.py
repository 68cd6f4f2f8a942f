"""Statistics of the training clips that a model starts from."""

import dataclasses

import numpy as np

from vvae.data.clips import ArrayClips, Clips
from vvae.data.loader import channel_statistics, pixel_statistics
from vvae.measure.pca import FramePCA, fit_block_pca, fit_frame_pca
from vvae.models.ppca import BlockPCA


@dataclasses.dataclass(frozen=True)
class ClipStatistics:
    """Statistics of clips, each computed when a model asks for it.

    Attributes:
      clips: the training clips.
      seed: of the PCA's sample of frames and solver.
    """

    clips: Clips | ArrayClips
    seed: int

    def by_pixel(self) -> tuple[np.ndarray, float]:
        """Returns the mean frame [H, W, C] and one standard deviation, in [-1, 1] units."""
        return pixel_statistics(self.clips)

    def by_channel(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and standard deviation of each channel, [C], in [-1, 1] units."""
        return channel_statistics(self.clips)

    def frame_pca(self, num_components: int) -> FramePCA:
        """Returns the principal components of single frames, in 8-bit units."""
        return fit_frame_pca(self.clips, num_components, self.seed)

    def block_pca(self, block_shape: tuple[int, int, int]) -> BlockPCA:
        """Returns the principal components of blocks of (frames, rows, columns), in 8-bit units."""
        return fit_block_pca(self.clips, block_shape)
