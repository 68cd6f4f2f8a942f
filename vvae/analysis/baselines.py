"""What a video VAE has to beat: the mean frame, PCA, and its own network without training."""

import dataclasses

import jax
import numpy as np
from sklearn.decomposition import PCA

from vvae.data.clips import Clips
from vvae.models.sequential import SequentialVAE, init_variables

# Most memory that the frames a PCA is fitted to may take, as float32.
MAX_FIT_BYTES = 256 * 2**20
READ_CLIPS = 64


@dataclasses.dataclass(frozen=True)
class FramePCA:
    """Principal components of single frames, in 8-bit units.

    Attributes:
      mean_D: mean frame, D = H * W * C.
      components_KD: orthonormal rows, by falling variance.
      variance_K: variance along each component.
      residual: mean variance of the D - K directions that are left.
      num_frames: frames that it was fitted to.
    """

    mean_D: np.ndarray
    components_KD: np.ndarray
    variance_K: np.ndarray
    residual: float
    num_frames: int


def sample_frames(clips: Clips, max_frames: int, seed: int) -> np.ndarray:
    """Reads up to max_frames valid frames, drawn without replacement; uint8 [F, H, W, C].

    All valid frames if there are not more; in the order of the clips.
    """
    clip_F, time_F = np.nonzero(clips.mask_NT)
    if len(clip_F) > max_frames:
        random = np.random.Generator(np.random.Philox(key=[seed, 0]))
        chosen = np.sort(random.choice(len(clip_F), max_frames, replace=False))
        clip_F, time_F = clip_F[chosen], time_F[chosen]
    ids, row_F = np.unique(clip_F, return_inverse=True)
    frames = np.empty((len(clip_F), *clips.clip_format.clip_shape[1:]), np.uint8)
    for start in range(0, len(ids), READ_CLIPS):
        part = (row_F >= start) & (row_F < start + READ_CLIPS)
        videos = clips.read(ids[start : start + READ_CLIPS])
        frames[part] = videos[row_F[part] - start, time_F[part]]
    return frames


def fit_frame_pca(clips: Clips, num_components: int, seed: int) -> FramePCA:
    """Fits PCA to single training frames (randomised solver, deterministic from the seed).

    Args:
      clips: training clips.
      num_components: K; fewer if there are fewer frames or pixels.
      seed: draws the frames, where they would take more than 256 MiB, and the solver's start.
    """
    num_pixels = int(np.prod(clips.clip_format.clip_shape[1:]))
    frames_FHWC = sample_frames(clips, max(2, MAX_FIT_BYTES // (4 * num_pixels)), seed)
    frames_FD = frames_FHWC.reshape(len(frames_FHWC), -1).astype(np.float32)
    num_components = min(num_components, *frames_FD.shape)
    pca = PCA(num_components, svd_solver="randomized", random_state=seed).fit(frames_FD)
    left = float(frames_FD.var(axis=0).sum() - pca.explained_variance_.sum())
    residual = max(left, 0.0) / max(frames_FD.shape[1] - num_components, 1)
    return FramePCA(pca.mean_, pca.components_, pca.explained_variance_, residual, len(frames_FD))


def project_frames(pca: FramePCA, frames_FHWC: np.ndarray) -> np.ndarray:
    """Returns the K coefficients of frames in 8-bit units, float32 [..., K]."""
    frames_FD = frames_FHWC.reshape(*frames_FHWC.shape[:-3], -1).astype(np.float32)
    return (frames_FD - pca.mean_D) @ pca.components_KD.T


def reconstruct_frames(pca: FramePCA, frames_FHWC: np.ndarray) -> np.ndarray:
    """Returns frames as the components keep them, float32 in 8-bit units, of the same shape."""
    frames_FD = project_frames(pca, frames_FHWC) @ pca.components_KD + pca.mean_D
    return frames_FD.reshape(frames_FHWC.shape)


def randomize_params(model: SequentialVAE, params, seed: int):
    """Returns variables of the same network with fresh weights and the same standardisation."""
    fresh = jax.jit(lambda key: init_variables(model, key))(jax.random.key(seed))
    return {**fresh, "stats": params["stats"]}


def middle_frames(clips: Clips, ids: np.ndarray) -> np.ndarray:
    """Reads the middle valid frame of each of these clips, uint8 [n, H, W, C].

    A clip without a valid frame gives its first one.
    """
    mask_nT = clips.mask_NT[ids]
    rank_nT = np.cumsum(mask_nT, axis=1) * mask_nT
    wanted_n = (mask_nT.sum(axis=1) + 1) // 2
    middle_n = np.argmax(rank_nT == wanted_n[:, None], axis=1)
    return clips.read(ids)[np.arange(len(ids)), middle_n]
