"""Vectors of videos to cluster: latents, and PCA of raw clips."""

import dataclasses
from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from vvae.data.clips import Clips
from vvae.measure.pca import MAX_FIT_BYTES, READ_CLIPS
from vvae.tasks.pooling import average_by_video, encode_clips, get_pooling, make_encoder
from vvae.tasks.question import Question
from vvae.tasks.random_params import randomize_params

POOLED_NUMBERS = 20


@dataclasses.dataclass(frozen=True)
class Vectors:
    """One vector per video of both splits, and their description in metric cards."""

    train_VF: np.ndarray
    test_VF: np.ndarray
    text: str


def represent(question: Question) -> dict[str, Vectors]:
    """Returns every representation of the videos; PCA is fitted to the training videos alone.

    Returns:
      A dictionary:
        clip_latent: the means of q(w | x).
        pooled: PCA of the pooled latents.
        random_pooled: the same for the network with random weights.
        clip_pca_N: PCA of raw clips, with N the size of `clip_latent` and that of `pooled`.
    """
    pooling, seed = question.settings.pooling, question.seed
    train, test = question.train, question.clips
    encoder = make_encoder(question.model, _read_latents(get_pooling(pooling)))

    def encode(params) -> list[dict[str, np.ndarray]]:
        encoded = (
            (clips, encode_clips(encoder, params, clips, question.batch_size))
            for clips in (train, test)
        )
        return [
            {name: average_by_video(array, clips).feature_VF for name, array in arrays.items()}
            for clips, arrays in encoded
        ]

    latents = encode(question.params)
    fresh = encode(randomize_params(question.model, question.params, seed))
    random_text = f"latents of the same network with random weights, pooling {pooling}"
    vectors = {
        "clip_latent": Vectors(*(latent["clip"] for latent in latents), "posterior means of w"),
        "pooled": _reduce(
            *(latent["pooled"] for latent in latents), f"latents, pooling {pooling}", seed
        ),
        "random_pooled": _reduce(*(latent["pooled"] for latent in fresh), random_text, seed),
    }
    num_clip = vectors["clip_latent"].train_VF.shape[1]
    for number in dict.fromkeys((num_clip, vectors["pooled"].train_VF.shape[1])):
        vectors[f"clip_pca_{number}"] = project_clips(train, test, number, seed)
    return vectors


def _read_latents(pool: Callable) -> Callable:
    """Returns a function: (posterior, mask_BT) -> clip latents and pooled latents."""
    return lambda posterior, mask_BT: {
        "clip": posterior.clip.mean,
        "pooled": pool(posterior, mask_BT),
    }


def _reduce(train_VF: np.ndarray, test_VF: np.ndarray, text: str, seed: int) -> Vectors:
    number = min(POOLED_NUMBERS, len(train_VF) - 1, train_VF.shape[1])
    pca = fit_pca(train_VF, number, seed)
    return Vectors(
        pca.transform(train_VF), pca.transform(test_VF), f"{number} principal components of {text}"
    )


def fit_pca(train_NF: np.ndarray, number: int, seed: int) -> PCA:
    """Fits principal components to vectors."""
    with threadpool_limits(1):
        return PCA(number, svd_solver="randomized", random_state=seed).fit(train_NF)


def project_clips(train: Clips, test: Clips, number: int, seed: int) -> Vectors:
    """Returns PCA of whole raw clips, fitted to at most 256 MiB of random training clips."""
    most = max(2, MAX_FIT_BYTES // (4 * train.clip_format.clip_bytes))
    ids = np.arange(len(train))
    if len(train) > most:
        random = np.random.Generator(np.random.Philox(key=[seed, 0]))
        ids = np.sort(random.choice(len(train), most, replace=False))
    fitted_ND = train.read(ids).reshape(len(ids), -1).astype(np.float32)
    number = min(number, len(ids) - 1, fitted_ND.shape[1]) if len(ids) > 1 else 1
    pca = fit_pca(fitted_ND, number, seed)
    projected = (_project(pca, clips) for clips in (train, test))
    return Vectors(*projected, f"{number} principal components of raw clips of the same view")


def _project(pca: PCA, clips: Clips) -> np.ndarray:
    parts = []
    for start in range(0, len(clips), READ_CLIPS):
        videos = clips.read(np.arange(start, min(start + READ_CLIPS, len(clips))))
        parts.append(pca.transform(videos.reshape(len(videos), -1).astype(np.float32)))
    return average_by_video(np.concatenate(parts), clips).feature_VF
