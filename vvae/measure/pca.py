"""PCA of frames and of blocks: the baselines of a video VAE, and the initial weights of some."""

import dataclasses

import numpy as np
from sklearn.decomposition import PCA

from vvae.data.clips import ArrayClips, Clips
from vvae.models.block_pca import split_blocks
from vvae.models.ppca import BlockPCA, decompose

# The largest memory for the frames that a PCA is fitted to, as float32.
MAX_FIT_BYTES = 256 * 2**20
READ_CLIPS = 64


@dataclasses.dataclass(frozen=True)
class FramePCA:
    """The principal components of single frames, in 8-bit units.

    Attributes:
      mean_D: The mean frame, D = H * W * C.
      components_KD: Orthonormal rows, by falling variance.
      variance_K: The variance along each component.
      residual: The mean variance of the remaining D - K directions.
      num_frames: The number of frames that the PCA was fitted to.
    """

    mean_D: np.ndarray
    components_KD: np.ndarray
    variance_K: np.ndarray
    residual: float
    num_frames: int


def sample_frames(clips: Clips | ArrayClips, max_frames: int, seed: int) -> np.ndarray:
    """Reads up to max_frames valid frames, drawn without replacement; uint8 [F, H, W, C].

    The frames are in the order of the clips. If there are no more than max_frames, all are
    returned.
    """
    clip_F, time_F = np.nonzero(clips.mask_NT)
    if len(clip_F) > max_frames:
        random = np.random.Generator(np.random.Philox(key=[seed, 0]))
        chosen = np.sort(random.choice(len(clip_F), max_frames, replace=False))
        clip_F, time_F = clip_F[chosen], time_F[chosen]
    ids, row_F = np.unique(clip_F, return_inverse=True)
    frames = np.empty((len(clip_F), *clips.clip_shape[1:]), np.uint8)
    for start in range(0, len(ids), READ_CLIPS):
        part = (row_F >= start) & (row_F < start + READ_CLIPS)
        videos = clips.read(ids[start : start + READ_CLIPS])
        frames[part] = videos[row_F[part] - start, time_F[part]]
    return frames


def fit_frame_pca(clips: Clips | ArrayClips, num_components: int, seed: int) -> FramePCA:
    """Fits PCA to single training frames by a randomised solver, deterministic for a seed.

    Args:
      clips: The training clips.
      num_components: K; it is reduced if there are fewer frames or pixels.
      seed: The seed of the solver, and of the frames that are drawn if all of them would take more
        than 256 MiB.
    """
    num_pixels = int(np.prod(clips.clip_shape[1:]))
    frames_FHWC = sample_frames(clips, max(2, MAX_FIT_BYTES // (4 * num_pixels)), seed)
    frames_FD = frames_FHWC.reshape(len(frames_FHWC), -1).astype(np.float32)
    num_components = min(num_components, *frames_FD.shape)
    pca = PCA(num_components, svd_solver="randomized", random_state=seed).fit(frames_FD)
    left = float(frames_FD.var(axis=0).sum() - pca.explained_variance_.sum())
    residual = max(left, 0.0) / max(frames_FD.shape[1] - num_components, 1)
    return FramePCA(
        mean_D=pca.mean_,
        components_KD=pca.components_,
        variance_K=pca.explained_variance_,
        residual=residual,
        num_frames=len(frames_FD),
    )


def project_frames(pca: FramePCA, frames_FHWC: np.ndarray) -> np.ndarray:
    """Returns the K coefficients of frames in 8-bit units, float32 [..., K]."""
    frames_FD = frames_FHWC.reshape(*frames_FHWC.shape[:-3], -1).astype(np.float32)
    return (frames_FD - pca.mean_D) @ pca.components_KD.T


def reconstruct_frames(pca: FramePCA, frames_FHWC: np.ndarray) -> np.ndarray:
    """Projects frames onto the components; float32 in 8-bit units, of the same shape."""
    frames_FD = project_frames(pca, frames_FHWC) @ pca.components_KD + pca.mean_D
    return frames_FD.reshape(frames_FHWC.shape)


def fit_block_pca(clips: Clips | ArrayClips, block_shape: tuple[int, int, int]) -> BlockPCA:
    """Computes all principal components of the blocks that the latents of a causal model cover.

    Args:
      clips: The training clips.
      block_shape: (frames, rows, columns). The blocks begin at the second frame. Blocks that extend
        beyond a clip or contain a masked frame are left out.

    Raises:
      ValueError: If there is no whole block.
    """
    t = (clips.clip_shape[0] - 1) // block_shape[0]
    return _fit_blocks(clips, block_shape, 1, t)


def fit_first_pca(clips: Clips | ArrayClips, size: tuple[int, int]) -> BlockPCA:
    """Computes all principal components of blocks of (rows, columns) in first frames.

    Raises:
      ValueError: If there is no whole block.
    """
    return _fit_blocks(clips, (1, *size), 0, 1)


def _fit_blocks(clips: Clips | ArrayClips, block_shape, first_frame: int, t: int) -> BlockPCA:
    """Computes the PCA of t consecutive blocks of all clips, beginning at `first_frame`."""
    frames, rows, columns = block_shape
    _, height, width, _ = clips.clip_shape
    height, width = height - height % rows, width - width % columns
    covered = slice(first_frame, first_frame + t * frames)
    count, total_D, products_DD = 0, 0.0, 0.0
    for start in range(0, len(clips), READ_CLIPS):
        ids = np.arange(start, min(start + READ_CLIPS, len(clips)))
        videos = clips.read(ids)[:, covered, :height, :width]
        whole_nt = clips.mask_NT[ids, covered].reshape(len(ids), t, frames).all(axis=-1)
        blocks = split_blocks(videos, block_shape)[whole_nt]
        blocks_ND = blocks.reshape(-1, blocks.shape[-1]).astype(np.float64)
        # These are sums of integers, which are exact below 2^53.
        count += len(blocks_ND)
        total_D = total_D + blocks_ND.sum(axis=0)
        products_DD = products_DD + blocks_ND.T @ blocks_ND
    if not count:
        raise ValueError(
            f"no training clip holds a whole block of {frames} real frames: take longer clips"
        )
    mean_D = total_D / count
    return decompose(mean_D, products_DD / count - np.outer(mean_D, mean_D))


def middle_frames(clips: Clips, ids: np.ndarray) -> np.ndarray:
    """Reads the middle valid frame of each of these clips, uint8 [n, H, W, C].

    For a clip without a valid frame, this is the first frame.
    """
    mask_nT = clips.mask_NT[ids]
    rank_nT = np.cumsum(mask_nT, axis=1) * mask_nT
    wanted_n = (mask_nT.sum(axis=1) + 1) // 2
    middle_n = np.argmax(rank_nT == wanted_n[:, None], axis=1)
    return clips.read(ids)[np.arange(len(ids)), middle_n]
