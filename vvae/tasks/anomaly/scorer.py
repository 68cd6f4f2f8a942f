"""The fitted part of anomaly detection: statistics of normal videos, saved with the run.

The background and the latents come from training videos. The mean and standard deviation of each
score and the thresholds come from held-out normal videos. The evaluated videos are never used.
"""

import dataclasses
import math
import os
from collections.abc import Mapping

import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from vvae.data.clips import Clips
from vvae.data.tiles import count_tiles
from vvae.metrics.detection import find_threshold, smooth_by_video
from vvae.task_table import TASKS
from vvae.tasks.anomaly.controls import CONTROLS, Untrained, fit_untrained, score_controls
from vvae.tasks.anomaly.intervals import Frames, list_frames
from vvae.tasks.anomaly.streams import (
    ScoreSettings,
    compute_latents,
    compute_streamed,
    compute_windows,
)
from vvae.tasks.npz_files import load_fields, save_fields
from vvae.tasks.random_params import randomize_params

SCORER_FILE = TASKS["anomaly"].fitted
MAX_TRAIN_FRAMES = 20_000
NUM_NEIGHBOURS = 5
MAX_COMPONENTS = 10
FRAMES_PER_COMPONENT = 50
COVARIANCE_FLOOR = 1e-3

# Score -> definition, for the metric cards. These scores depend on the model only.
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
LATENT_SCORES = ("latent_gmm", "latent_knn")
# Scores of a frame from itself and the frames before it, and scores of a whole clip.
STREAM_SCORES = {"reconstruction", "reconstruction_block", "surprise", *LATENT_SCORES}
WINDOW_SCORES = {"frame_kl", "clip_kl", "negative_elbo", "iwae", "regret"}
# Baseline for `latent_knn`: the same score under a network with random weights.
RANDOM_ENCODER = "random_encoder"
RANDOM_SCORES = {
    RANDOM_ENCODER: "mean distance of z_t to its 5 nearest training latents, in its own sigmas, in "
    "the same network with random weights"
}
# Means of z-scores: the first of scores of the model only, the second with a baseline.
FUSION, FUSION_MOTION = "fusion", "fusion_motion"
# The baselines of FUSION_MOTION; the first one that the view allows is used.
MOTION_CONTROLS = ("motion_block", "frame_difference_block")
FUSIONS = {
    FUSION: "mean of the z-scores of all scores of the model",
    FUSION_MOTION: "mean of the z-scores of the model's headline score and of "
    + " or else ".join(MOTION_CONTROLS),
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of the training videos.

    Attributes:
      untrained: The statistics that the baselines use.
      latent_MZ: float64; posterior means in units of their standard deviations.
      random_MZ: float64; the same under the network with random weights.
      weight_K: The weights of a Gaussian mixture that is fitted to `latent_MZ`.
      mean_KZ: The means of its components.
      factor_KZZ: Factors of the precisions of its components: precision = factor @ factor.T.
    """

    untrained: Untrained
    latent_MZ: np.ndarray
    random_MZ: np.ndarray
    weight_K: np.ndarray
    mean_KZ: np.ndarray
    factor_KZZ: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Everything that is needed to compute scores and verdicts for new videos.

    Attributes:
      settings: The settings of the scores.
      reference: The statistics of the training videos.
      name_S: The names of the scores.
      mean_S: The mean of each score over held-out normal frames.
      scale_S: The standard deviation of each score over held-out normal frames.
      threshold_S: The threshold of each score for single frames.
      smoothed_threshold_S: The threshold of each smoothed score for single frames.
      headline: The score that verdicts and intervals are based on.
      video_threshold: The threshold of the largest smoothed headline score of a video.
      rate: The stated false-positive rate of all thresholds.
      num_frames: The number of held-out normal frames.
      num_videos: The number of held-out normal videos.
      heat_scale: The value of `pictures.compute_heat` that is drawn in the brightest colour.
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
        """Returns the threshold of a score for single frames."""
        values_S = self.smoothed_threshold_S if smoothed else self.threshold_S
        return float(values_S[self.name_S.index(name)])


# --- raw scores -----------------------------------------------------------------------------------


def compute_scores(
    model, params, reference: Reference, settings: ScoreSettings, clips: Clips, batch_size: int
) -> tuple[Frames, dict[str, np.ndarray]]:
    """Computes the scores of every frame that do not depend on held-out normal videos.

    If the model sees tiles, the score of a frame is the largest score of its tiles.

    Args:
      model: A SequentialVAE.
      params: Its variables.
      reference: The result of `fit_reference`.
      settings: The settings of the scores.
      clips: Clips that are consecutive windows of their videos.
      batch_size: The number of clips in a batch.

    Returns:
      The frames, and name -> float64 [F] for MODEL_SCORES except `typicality`, for RANDOM_ENCODER
      and for the baselines.

    Raises:
      ValueError: If the clips are not consecutive windows, or settings.block does not fit into the
        frames.
    """
    frames = list_frames(clips)
    streamed = _score_streamed(model, params, reference, settings, clips, frames, batch_size)
    windows = _score_windows(model, params, settings, clips, frames, batch_size)
    random = _score_random(model, params, reference, settings, clips, frames, batch_size)
    scores = streamed | windows | random
    return frames, scores | _score_controls(reference, settings, clips, frames)


def score_headline(
    model, params, scorer: Scorer, clips: Clips, batch_size: int
) -> tuple[Frames, np.ndarray]:
    """Computes the score of verdicts alone, not smoothed, and only what it is made of.

    Args:
      model: A SequentialVAE.
      params: Its variables.
      scorer: The fitted scorer.
      clips: Clips that are consecutive windows of their videos.
      batch_size: The number of clips in a batch.

    Returns:
      The frames, and the score `scorer.headline` of each, float64 [F], as by `compute_scores` and
      `complete_scores`.

    Raises:
      ValueError: As `compute_scores`.
    """
    frames, needed, scores = list_frames(clips), list_needed(scorer), {}
    reference, settings = scorer.reference, scorer.settings
    # Each video, or each of its tiles, is one row of a batch of streams: leave few rows unused.
    num_streams = len(clips.videos) * math.prod(count_tiles(clips, *model.shape_HWC[:2]))
    streams = min(batch_size, num_streams)
    if needed & STREAM_SCORES:
        scores |= _score_streamed(model, params, reference, settings, clips, frames, streams)
    if needed & WINDOW_SCORES:
        scores |= _score_windows(model, params, settings, clips, frames, batch_size)
    if RANDOM_ENCODER in needed:
        scores |= _score_random(model, params, reference, settings, clips, frames, streams)
    if needed & set(CONTROLS):
        scores |= _score_controls(reference, settings, clips, frames)
    return frames, find_headline(scorer, scores)


def list_needed(scorer: Scorer) -> set[str]:
    """Returns the names of the scores that the headline score is computed from, and its own."""
    needed, known = {scorer.headline}, set(scorer.name_S)
    if FUSION_MOTION in needed:
        needed |= {FUSION, next(control for control in MOTION_CONTROLS if control in known)}
    if FUSION in needed:
        needed |= set(MODEL_SCORES) & known
    return needed | ({"iwae"} if "typicality" in needed else set())


def find_headline(scorer: Scorer, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the headline score from the scores in `list_needed` that do not depend on others."""
    mean = dict(zip(scorer.name_S, scorer.mean_S))
    scale = dict(zip(scorer.name_S, scorer.scale_S))
    complete, needed = dict(scores), list_needed(scorer)
    for name in ("typicality", FUSION, FUSION_MOTION):
        if name in needed:
            complete |= _derive(name, complete, mean, scale, scorer.headline)
    return complete[scorer.headline]


def _score_streamed(
    model, params, reference: Reference, settings, clips: Clips, frames: Frames, batch_size: int
) -> dict[str, np.ndarray]:
    streamed = compute_streamed(model, params, clips, settings.block, batch_size)
    latent_FKZ = _flatten_tiles(frames.take(streamed.pop("latent")))
    by_latent = {name: score_tiles(reference, name, latent_FKZ) for name in LATENT_SCORES}
    return _take_largest(streamed, frames) | by_latent


def _score_windows(
    model, params, settings, clips: Clips, frames: Frames, batch_size: int
) -> dict[str, np.ndarray]:
    return _take_largest(compute_windows(model, params, clips, settings, batch_size), frames)


def _score_random(
    model, params, reference: Reference, settings, clips: Clips, frames: Frames, batch_size: int
) -> dict[str, np.ndarray]:
    fresh = randomize_params(model, params, settings.seed)
    latent_FKZ = _flatten_tiles(frames.take(compute_latents(model, fresh, clips, batch_size)))
    return {RANDOM_ENCODER: score_tiles(reference, RANDOM_ENCODER, latent_FKZ)}


def _score_controls(reference, settings, clips: Clips, frames: Frames) -> dict[str, np.ndarray]:
    controls = score_controls(clips, reference.untrained, settings.block)
    scores = {name: frames.take(value_NT) for name, value_NT in controls.items()}
    return scores | {"time_index": frames.number_F.astype(np.float64)}


def _take_largest(values: Mapping[str, np.ndarray], frames: Frames) -> dict[str, np.ndarray]:
    """Returns the largest value of the tiles of each frame, float64 [F]."""
    return {
        name: _flatten_tiles(frames.take(value)).max(axis=1).astype(np.float64)
        for name, value in values.items()
    }


def score_tiles(reference: Reference, name: str, latent_FKZ: np.ndarray) -> np.ndarray:
    """Returns the largest score of the latents of the K tiles of each frame, float64 [F].

    Args:
      reference: Statistics of the training videos.
      name: `latent_gmm`, `latent_knn` or RANDOM_ENCODER.
      latent_FKZ: The latents.
    """
    latent_NZ = latent_FKZ.reshape(-1, latent_FKZ.shape[-1])
    if name == "latent_gmm":
        score_N = score_mixture(reference, latent_NZ)
    else:
        known = reference.random_MZ if name == RANDOM_ENCODER else reference.latent_MZ
        score_N = score_neighbours(known, latent_NZ)
    return score_N.reshape(len(latent_FKZ), -1).max(axis=1)


def _flatten_tiles(value: np.ndarray) -> np.ndarray:
    """Flattens the axes of the tiles: [F, rows, cols, ...] -> [F, rows * cols, ...]."""
    return value.reshape(len(value), -1, *value.shape[3:])


# --- fitted to training videos --------------------------------------------------------------------


def fit_reference(
    model, params, train: Clips, settings: ScoreSettings, batch_size: int
) -> Reference:
    """Computes the background, the latents and their Gaussian mixture from training videos.

    At most 20,000 latents are kept, drawn without replacement. The mixture has full covariances
    and one component for every 50 latents, between 1 and 10.

    Args:
      model: A SequentialVAE.
      params: Its variables.
      train: The training clips.
      settings: The settings of the scores.
      batch_size: The number of clips in a batch.
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
        untrained=fit_untrained(train, settings.block, settings.seed),
        latent_MZ=latent_MZ,
        random_MZ=random_MZ,
        weight_K=mixture.weights_,
        mean_KZ=mixture.means_,
        factor_KZZ=mixture.precisions_cholesky_,
    )


def _draw_latents(latent: np.ndarray, seed: int) -> np.ndarray:
    """Draws up to 20,000 latents from [..., Z], float64 [M, Z]."""
    latent_MZ = latent.reshape(-1, latent.shape[-1]).astype(np.float64)
    if len(latent_MZ) <= MAX_TRAIN_FRAMES:
        return latent_MZ
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    return latent_MZ[random.choice(len(latent_MZ), MAX_TRAIN_FRAMES, replace=False)]


def score_mixture(reference: Reference, latent_FZ: np.ndarray) -> np.ndarray:
    """Returns -log density of latents under the mixture of training latents, nats, float64 [F]."""
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
    """Returns the mean distance to the 5 nearest of M known latents, or to all if M < 5.

    Args:
      known_MZ: The known latents.
      latent_FZ: The latents to score.

    Returns:
      float64 [F].
    """
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
    """Computes means, standard deviations and thresholds from held-out normal videos.

    Args:
      reference: The statistics that the scores were computed with.
      settings: The settings that the scores were computed with.
      frames: The frames that `compute_scores` returned for these videos.
      scores: The scores that `compute_scores` returned for these videos.
      headline: The score that verdicts are based on.
      rate: The false-positive rate of frames, and of videos.
      heat_scale: See `Scorer`.

    Raises:
      ValueError: If there is no score `headline`, or a score is not finite.
    """
    # In this order, each derived score depends only on earlier ones.
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
    """Adds `typicality` and the fusions to the scores of `compute_scores`."""
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
    """Returns the standard deviation; 1 for a constant score, whose z-scores are then 0."""
    spread = float(score_F.std())
    return spread if spread > 1e-9 * (abs(float(score_F.mean())) + 1e-9) else 1.0


def find_peaks(score_F: np.ndarray, video_F: np.ndarray) -> np.ndarray:
    """Returns the largest score of each video, in the order of their numbers in `video_F`."""
    return np.array([score_F[video_F == video].max() for video in np.unique(video_F)])


def find_resolvable_rate(scorer: Scorer) -> float:
    """Returns the lowest false-positive rate of videos that the threshold can guarantee."""
    return 1.0 / (scorer.num_videos + 1)


# --- on disk --------------------------------------------------------------------------------------


def save_scorer(path: str | os.PathLike, scorer: Scorer) -> None:
    """Writes a scorer as .npz, without pickle."""
    save_fields(path, scorer)


def load_scorer(path: str | os.PathLike) -> Scorer:
    """Reads a scorer.

    Raises:
      ValueError: If there is no such file or it does not hold a scorer.
    """
    remedy = "run the task anomaly on the videos of the run first"
    return load_fields(path, Scorer, "anomaly scorer", remedy)
