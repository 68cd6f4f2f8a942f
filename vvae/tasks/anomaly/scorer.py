"""The fitted part of anomaly detection: what is known of normal videos, saved beside a run.

Fitted to training videos: a background and the latents. Fitted to held-out normal videos: means
and standard deviations of every score, and the thresholds. No frame that is judged enters.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping

import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from vvae.data.clips import Clips
from vvae.metrics.detection import Threshold, find_threshold, smooth_by_video
from vvae.tasks.anomaly.controls import Untrained, fit_untrained, score_controls
from vvae.tasks.anomaly.intervals import Frames, list_frames
from vvae.tasks.anomaly.streams import (
    ScoreSettings,
    compute_latents,
    compute_streamed,
    compute_windows,
)
from vvae.tasks.npz_files import load_fields, save_fields
from vvae.tasks.random_params import randomize_params

SCORER_FILE = "anomaly.npz"
MAX_TRAIN_FRAMES = 20_000
NUM_NEIGHBOURS = 5
MAX_COMPONENTS = 10
FRAMES_PER_COMPONENT = 50
COVARIANCE_FLOOR = 1e-3

# Score -> definition, for the metric cards; quantities of the model alone.
MODEL_SCORES = {
    "reconstruction": "mean squared error of decoding the posterior means of z_t and of w given "
    "the frames up to t, 8-bit^2",
    "reconstruction_block": "largest mean of that error over a square of {block} pixels",
    "surprise": "KL(q(z_t) || p(z_t | z_<t, w_<t)) from the beginning of the video, nats",
    "frame_kl": "KL(q(z_t) || p(z_t | z_<t, w)) within the clip, nats",
    "clip_kl": "KL(q(w) || p(w)) of the clip, given to its frames, nats",
    "negative_elbo": "-log p(x_t | z_t, w) + KL of the frame + its part of the clip's KL, nats",
    "iwae": "-log p of the clip by IWAE-{num_samples} over its frames, nats a frame",
    "typicality": "distance of log p (iwae) from its mean on held-out normal frames, nats a frame",
    "regret": "likelihood regret of the clip after {regret_steps} steps, nats a frame",
    "latent_gmm": "-log density of z_t under a Gaussian mixture of training latents, nats",
    "latent_knn": "mean distance of z_t to its 5 nearest training latents, in its own sigmas",
}
# As `latent_knn`, by a network that has learned nothing: what training has to add to.
RANDOM_ENCODER = "random_encoder"
RANDOM_SCORES = {
    RANDOM_ENCODER: "mean distance of z_t to its 5 nearest training latents, in its own sigmas, in "
    "the same network with random weights"
}
# Sums of z-scores; the first of the model alone, the second with scores that know no model.
FUSION, FUSION_MOTION = "fusion", "fusion_motion"
# The first of these that the view allows.
MOTION_CONTROLS = ("motion_block", "frame_difference_block")
FUSIONS = {
    FUSION: "mean of the z-scores of all scores of the model",
    FUSION_MOTION: "mean of the z-scores of the model's headline score and of "
    + " or else ".join(MOTION_CONTROLS),
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """What is known of the training videos.

    Attributes:
      untrained: what the controls know.
      latent_MZ: posterior means in units of their standard deviations.
      random_MZ: the same from the network with random weights.
      weight_K, mean_KZ, factor_KZZ: Gaussian mixture of these latents; the precision of a component
        is factor @ factor.T.
    """

    untrained: Untrained
    latent_MZ: np.ndarray
    random_MZ: np.ndarray
    weight_K: np.ndarray
    mean_KZ: np.ndarray
    factor_KZZ: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scorer:
    """All that turns new frames into scores and verdicts.

    Attributes:
      settings, reference: see there.
      name_S: the scores that have a threshold.
      mean_S, scale_S: mean and standard deviation of each on held-out normal frames.
      threshold_S, smoothed_threshold_S: of single frames, for scores as they are and smoothed.
      headline: the score that verdicts and intervals come from.
      video_threshold: of the largest smoothed headline score of a video.
      rate: the stated false-positive rate of each threshold.
      num_frames, num_videos: of the held-out normal videos.
      heat_scale: of `anomaly.compute_heat`, what is drawn in the brightest colour.
    """

    settings: ScoreSettings
    reference: Reference
    name_S: tuple[str, ...]
    mean_S: np.ndarray
    scale_S: np.ndarray
    threshold_S: np.ndarray
    smoothed_threshold_S: np.ndarray
    headline: str
    video_threshold: float
    rate: float
    num_frames: int
    num_videos: int
    heat_scale: float

    def threshold(self, name: str, smoothed: bool = False) -> float:
        """Returns the threshold of a score of frames."""
        values_S = self.smoothed_threshold_S if smoothed else self.threshold_S
        return float(values_S[self.name_S.index(name)])


# --- raw scores -----------------------------------------------------------------------------------


def compute_scores(
    model, params, reference: Reference, settings: ScoreSettings, clips: Clips, batch_size: int
) -> tuple[Frames, dict[str, np.ndarray]]:
    """Scores every frame of the videos by everything but what needs held-out normal videos.

    Where the model sees tiles, a frame has the largest score of its tiles.

    Args:
      model: a SequentialVAE.
      params: its variables.
      reference: of `fit_reference`.
      settings: what fixes the scores.
      clips: consecutive windows.
      batch_size: clips at a time.

    Returns:
      The frames, and name -> float64 [F] for MODEL_SCORES but `typicality`, and for the controls.
    """
    frames = list_frames(clips)
    streamed = compute_streamed(model, params, clips, settings.block, batch_size)
    fresh = randomize_params(model, params, settings.seed)
    latent, random = (
        _flatten_tiles(frames.take(value))
        for value in (streamed.pop("latent"), compute_latents(model, fresh, clips, batch_size))
    )
    windows = compute_windows(model, params, clips, settings, batch_size)
    scores = {
        name: _flatten_tiles(frames.take(value)).max(axis=1).astype(np.float64)
        for name, value in {**streamed, **windows}.items()
    }
    by_latent = {
        "latent_gmm": (latent, functools.partial(score_mixture, reference)),
        "latent_knn": (latent, functools.partial(score_neighbours, reference.latent_MZ)),
        RANDOM_ENCODER: (random, functools.partial(score_neighbours, reference.random_MZ)),
    }
    for name, (latent_FKZ, score) in by_latent.items():
        score_N = score(latent_FKZ.reshape(-1, latent_FKZ.shape[-1]))
        scores[name] = score_N.reshape(len(frames), -1).max(axis=1)
    controls = score_controls(clips, reference.untrained, settings.block)
    scores |= {name: frames.take(value_NT) for name, value_NT in controls.items()}
    scores["time_index"] = frames.number_F.astype(np.float64)
    return frames, scores


def _flatten_tiles(value: np.ndarray) -> np.ndarray:
    """[F, rows, cols, ...] -> [F, rows * cols, ...]."""
    return value.reshape(len(value), -1, *value.shape[3:])


# --- fitted to training videos --------------------------------------------------------------------


def fit_reference(
    model, params, train: Clips, settings: ScoreSettings, batch_size: int
) -> Reference:
    """Learns the background and the latents of training videos.

    Of more than 20,000 latents so many are drawn without replacement. The mixture has up to 10
    components with full covariances, one for each 50 latents.
    """
    fresh = randomize_params(model, params, settings.seed)
    latent_MZ, random_MZ = (
        _draw_latents(compute_latents(model, p, train, batch_size)[train.mask_NT], settings.seed)
        for p in (params, fresh)
    )
    num_components = int(np.clip(len(latent_MZ) // FRAMES_PER_COMPONENT, 1, MAX_COMPONENTS))
    with threadpool_limits(1):
        mixture = GaussianMixture(
            num_components, reg_covar=COVARIANCE_FLOOR, random_state=settings.seed
        ).fit(latent_MZ)
    return Reference(
        fit_untrained(train, settings.block, settings.seed),
        latent_MZ,
        random_MZ,
        mixture.weights_,
        mixture.means_,
        mixture.precisions_cholesky_,
    )


def _draw_latents(latent: np.ndarray, seed: int) -> np.ndarray:
    """Draws up to 20,000 of latents [..., Z], float64 [M, Z]."""
    latent_MZ = latent.reshape(-1, latent.shape[-1]).astype(np.float64)
    if len(latent_MZ) <= MAX_TRAIN_FRAMES:
        return latent_MZ
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    return latent_MZ[random.choice(len(latent_MZ), MAX_TRAIN_FRAMES, replace=False)]


def score_mixture(reference: Reference, latent_FZ: np.ndarray) -> np.ndarray:
    """-log density of latents under the mixture of training latents, nats, float64 [F]."""
    latent_FZ = latent_FZ.astype(np.float64)
    log_density_FK = np.empty((len(latent_FZ), len(reference.weight_K)))
    components = zip(reference.weight_K, reference.mean_KZ, reference.factor_KZZ)
    for k, (weight, mean_Z, factor_ZZ) in enumerate(components):
        white_FZ = (latent_FZ - mean_Z) @ factor_ZZ
        log_scale = np.log(weight) + np.log(np.diagonal(factor_ZZ)).sum()
        log_scale -= 0.5 * len(mean_Z) * np.log(2.0 * np.pi)
        log_density_FK[:, k] = log_scale - 0.5 * np.square(white_FZ).sum(axis=1)
    return -np.logaddexp.reduce(log_density_FK, axis=1)


def score_neighbours(known_MZ: np.ndarray, latent_FZ: np.ndarray) -> np.ndarray:
    """Mean distance to the 5 nearest known latents (fewer if there are fewer), float64 [F]."""
    with threadpool_limits(1):
        search = NearestNeighbors(n_neighbors=min(NUM_NEIGHBOURS, len(known_MZ))).fit(known_MZ)
        distance_FK, _ = search.kneighbors(latent_FZ.astype(np.float64))
    return distance_FK.mean(axis=1)


# --- fitted to held-out normal videos -------------------------------------------------------------


def fit_scorer(
    reference: Reference,
    settings: ScoreSettings,
    frames: Frames,
    scores: Mapping[str, np.ndarray],
    *,
    headline: str,
    rate: float,
    heat_scale: float,
) -> Scorer:
    """Learns means, standard deviations and thresholds from held-out normal videos.

    Args:
      reference, settings: what the scores were computed with.
      frames, scores: of `compute_scores`, on these videos.
      headline: the score that verdicts come from.
      rate: false-positive rate of frames, and of videos.
      heat_scale: see `Scorer`.

    Raises:
      ValueError: if there is no such score.
    """
    # Fitted in the order in which they build on each other: typicality, fusion, fusion_motion.
    mean, scale, complete = {}, {}, dict(scores)
    for name in (*scores, "typicality", FUSION, FUSION_MOTION):
        if name not in scores:
            complete |= _derive(name, complete, mean, scale, headline)
        mean[name], scale[name] = complete[name].mean(), _spread(complete[name])
    if headline not in complete:
        raise ValueError(f"evaluate.anomaly_score={headline!r} is not one of {', '.join(complete)}")
    smoothed = {name: smooth_by_video(s, frames.video_F) for name, s in complete.items()}
    peak_V = find_peaks(smoothed[headline], frames.video_F)
    return Scorer(
        settings=settings,
        reference=reference,
        name_S=tuple(complete),
        mean_S=np.array(list(mean.values())),
        scale_S=np.array(list(scale.values())),
        threshold_S=np.array([find_threshold(s, rate).value for s in complete.values()]),
        smoothed_threshold_S=np.array([find_threshold(s, rate).value for s in smoothed.values()]),
        headline=headline,
        video_threshold=find_threshold(peak_V, rate).value,
        rate=rate,
        num_frames=len(frames),
        num_videos=len(peak_V),
        heat_scale=heat_scale,
    )


def complete_scores(scorer: Scorer, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds typicality and the fusions to what `compute_scores` returned."""
    mean = dict(zip(scorer.name_S, scorer.mean_S))
    scale = dict(zip(scorer.name_S, scorer.scale_S))
    complete = dict(scores)
    for name in ("typicality", FUSION, FUSION_MOTION):
        complete |= _derive(name, complete, mean, scale, scorer.headline)
    return complete


def _derive(name: str, scores, mean, scale, headline: str) -> dict[str, np.ndarray]:
    if name == "typicality":
        return {name: np.abs(scores["iwae"] - mean["iwae"])}
    if name == FUSION:
        members = [part for part in MODEL_SCORES if part in scores]
    else:
        of_model = headline if headline in scores and headline != FUSION_MOTION else FUSION
        motion = next(control for control in MOTION_CONTROLS if control in scores)
        members = [of_model, motion]
    return {name: np.mean([(scores[k] - mean[k]) / scale[k] for k in members], axis=0)}


def _spread(score_F: np.ndarray) -> float:
    """Standard deviation; 1 for a constant score, which then says nothing."""
    spread = float(score_F.std())
    return spread if spread > 1e-9 * (abs(float(score_F.mean())) + 1e-9) else 1.0


def find_peaks(score_F: np.ndarray, video_F: np.ndarray) -> np.ndarray:
    """Returns the largest score of each video, in the order of their numbers."""
    return np.array([score_F[video_F == video].max() for video in np.unique(video_F)])


def describe_video_threshold(scorer: Scorer) -> Threshold:
    """Returns the threshold of videos with the rate that so few videos can vouch for."""
    count = scorer.num_videos
    return Threshold(scorer.video_threshold, scorer.rate, count, 1.0 / (count + 1))


# --- on disk --------------------------------------------------------------------------------------


def save_scorer(path: str | os.PathLike, scorer: Scorer) -> None:
    """Writes a scorer as .npz; no pickle."""
    save_fields(path, scorer)


def load_scorer(path: str | os.PathLike) -> Scorer:
    """Reads a scorer.

    Raises:
      ValueError: if there is no such file or it does not hold a scorer.
    """
    remedy = "run the task anomaly on the videos of the run first"
    return load_fields(path, Scorer, "anomaly scorer", remedy)
