"""A trained run as an object: from the file of a video to an answer."""

import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vvae import build
from vvae.config import Config
from vvae.config_checks import check_tasks
from vvae.data.clips import Clips
from vvae.data.dataset import UNSPLIT, Cache, open_unsplit
from vvae.data.listing import list_videos
from vvae.measure.mapping import map_clips
from vvae.metrics.detection import smooth_by_video
from vvae.models import contract
from vvae.models.contract import Params
from vvae.program import name_command
from vvae.run import Run, open_run, require_fitted
from vvae.tasks import probe as probes
from vvae.tasks.anomaly import scorer as scorers
from vvae.tasks.anomaly.intervals import Interval, find_intervals
from vvae.tasks.anomaly.live import LiveScore, watch_frames
from vvae.tasks.anomaly.scorer import Scorer
from vvae.tasks.pooling import extract, make_encoder
from vvae.video import VideoError

_LARGEST_CACHE = 2**62  # bytes: clips of one video, in a temporary folder


@dataclasses.dataclass(frozen=True)
class Label:
    """The class that a video is recognised as.

    Attributes:
      name: the most probable class.
      score: its probability.
      scores: class -> probability, in the order of the classes.
    """

    name: str
    score: float
    scores: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class VideoScores:
    """How abnormal the frames of a video are, and the verdict; equal to the task `anomaly`.

    Attributes:
      score_F: float64, the score of every frame of the file, smoothed by a Gaussian of 3 frames.
      raw_F: float64, the same before smoothing.
      time_F: float64, the time of each frame in the file, s.
      alarm_F: bool, whether `score_F` is above `threshold`.
      threshold: that held-out normal frames exceed at the stated false-positive rate.
      peak: the largest of `score_F`.
      video_threshold: that the peaks of held-out normal videos exceed at the stated rate.
      intervals: the frames with an alarm, as (start, end) in s and frame numbers.
    """

    score_F: np.ndarray
    raw_F: np.ndarray
    time_F: np.ndarray
    alarm_F: np.ndarray
    threshold: float
    peak: float
    video_threshold: float
    intervals: tuple[Interval, ...]

    @property
    def is_abnormal(self) -> bool:
        """The verdict on the whole video."""
        return self.peak > self.video_threshold


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """A trained run: its model, and answers about videos.

    A video is a file that ffmpeg reads, an .npy array, or a folder of image frames. It is decoded
    in this process; nothing is written except for temporary files.

    Attributes:
      workdir: the run directory.
      config: its settings.
      model: the model, for `vvae.encode(run.model, run.params, x)` and the other functions.
      params: its variables.
      class_names: the classes of its videos, in the order of their numbers.
    """

    workdir: Path
    config: Config
    model: Any
    params: Params
    class_names: tuple[str, ...]

    def read(self, path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
        """Reads a video as the model saw its training videos: the same view, size and sampling.

        Args:
          path: the video.

        Returns:
          x: uint8 [N, T, H, W, C], the clips in time; if the run was trained on tiles, the tiles of
            each clip, row by row.
          mask: bool [N, T], False where a frame was repeated to fill a clip or the view has no
            value.

        Raises:
          ValueError: if the path holds several videos.
          VideoError: if the video cannot be read.
        """
        with self._open(path) as clips:
            clips = self._cut(clips)
            return clips.read(np.arange(len(clips))), clips.mask_NT

    def encode(self, path: str | os.PathLike) -> Any:
        """Infers the latents of the clips that `read` returns.

        Args:
          path: the video.

        Returns:
          The posterior of `vvae.encode` as NumPy arrays [N, ...].

        Raises:
          As `read`.
        """
        with self._open(path) as clips:
            clips = self._cut(clips)

            def encode(batch: dict[str, np.ndarray]) -> Any:
                return contract.encode(self.model, self.params, batch["video"], batch["mask"])

            return map_clips(encode, clips, self._batch_size(clips))

    def label(self, path: str | os.PathLike) -> Label:
        """Recognises a video by the probe of the task `classify`, which labels it alike.

        Args:
          path: the video.

        Raises:
          ValueError: if the task `classify` was not run, or cannot be; and as `read`.
          VideoError: as `read`.
        """
        probe, encoder = self._recogniser
        with self._open(path) as clips:
            features = extract(encoder, self.params, clips, self._batch_size(clips))
        scores_K = probes.predict_scores(probe, features.feature_VF)[0].tolist()
        scores = dict(zip(probe.class_names, scores_K, strict=True))
        best = max(scores, key=scores.__getitem__)
        return Label(name=best, score=scores[best], scores=scores)

    def score(self, path: str | os.PathLike) -> VideoScores:
        """Judges how abnormal each frame is by the scorer of the task `anomaly`.

        Args:
          path: the video.

        Raises:
          ValueError: if the task `anomaly` was not run, or cannot be; and as `read`.
          VideoError: as `read`.
        """
        scorer = self.scorer
        with self._open(path) as clips:
            frames, raw_F = scorers.score_headline(
                self.model, self.params, scorer, clips, self._batch_size(clips)
            )
        score_F = smooth_by_video(raw_F, frames.video_F)
        threshold = scorer.threshold(scorer.headline, smoothed=True)
        alarm_F = score_F > threshold
        return VideoScores(
            score_F=score_F,
            raw_F=raw_F,
            time_F=frames.time_F,
            alarm_F=alarm_F,
            threshold=threshold,
            peak=float(score_F.max()),
            video_threshold=scorer.video_threshold,
            intervals=tuple(find_intervals(score_F, alarm_F, frames, [str(path)])),
        )

    @functools.cached_property
    def scorer(self) -> Scorer:
        """The scorer that the task `anomaly` has fitted; ValueError if it has not."""
        return scorers.load_scorer(self._find_fitted("anomaly"))

    @functools.cached_property
    def _recogniser(self) -> tuple[probes.Probe, Any]:
        """The probe of `classify`, and the compiled encoder of its features."""
        probe = probes.load_probe(self._find_fitted("classify"))
        return probe, make_encoder(self.model, probe.pooling)

    def _find_fitted(self, task: str) -> Path:
        """Returns the path of what a task has fitted; ValueError with its command if it has not."""
        check_tasks(self.config, [task])
        return require_fitted(self.workdir, task)

    @contextlib.contextmanager
    def _open(self, path: str | os.PathLike) -> Iterator[Clips]:
        """Opens the whole frames of one video as clips, which exist inside the context."""
        if not os.path.exists(path):
            raise VideoError(path, "no such file or folder")
        found = list_videos(path)
        if len(found) != 1:
            raise ValueError(
                f"{path} holds {len(found)} videos: give one of them, or the folder to "
                f"`{name_command('evaluate TASK')} --workdir {self.workdir} --data.path {path}`"
            )
        decoding = build.find_decoding(self.config)
        with tempfile.TemporaryDirectory(prefix="vvae-") as folder:
            cache = Cache(Path(folder), _LARGEST_CACHE)
            here = dataclasses.replace(decoding, cache=cache, num_workers=0, on_error="raise")
            opened = open_unsplit(
                path, build.clip_format(self.config), here, class_names=self.class_names
            )
            yield opened.splits[UNSPLIT]

    def _cut(self, clips: Clips) -> Clips:
        """Cuts clips into tiles, if the run is trained on tiles."""
        return build.cut_clips(self.config, clips)

    def _batch_size(self, clips: Clips) -> int:
        """Returns a power of two, so that few numbers of clips are compiled for."""
        return min(self.config.train.batch_size, 1 << (len(clips) - 1).bit_length())


def load_run(workdir: str | os.PathLike, which: str | int = "best", ema: bool = True) -> TrainedRun:
    """Opens a run directory as an object that reads, encodes, labels and scores videos.

        run = vvae.load_run("runs/mine")
        print(run.label("a.mp4"))

    Args:
      workdir: the run directory.
      which: "best" (by validation ELBO), "latest", or the step of a checkpoint. Probe and scorer
        are those that the tasks `classify` and `anomaly` fitted, to the best one by default.
      ema: whether to load the moving average of the parameters, which evaluation uses, or the last
        parameters.

    Raises:
      ValueError: if there is no run or no such checkpoint, or if a checkpoint is damaged.
    """
    run: Run = open_run(workdir)
    model, params = build.load(run, which, ema)
    return TrainedRun(
        workdir=run.workdir,
        config=run.config,
        model=model,
        params=params,
        class_names=run.class_names,
    )


def watch(run: TrainedRun, frames: Iterable[np.ndarray]) -> Iterator[LiveScore]:
    """Scores the frames of a live video as they arrive, for any length, with constant memory.

        for score in vvae.watch(run, camera):
            if score.alarm:
                print(score.frame, score.score)

    The raw score of a frame is that of `run.score` on the whole video before smoothing
    (`VideoScores.raw_F`), up to rounding, provided that the frames are the same: files are resized
    before their conversion to RGB, so that the frames of a video file differ a little unless
    `vvae.video.iterate_frames(path, size)` gives them in the size of the model.

    Smoothing differs: `run.score` weighs frames within 12 before and 12 after by a Gaussian of 3
    frames; here only this frame and the 12 before it have weights, since later ones are not known.
    An alarm compares the raw score with the threshold for raw scores, whose false-positive rate is
    the stated one.

    A score comes with its frame if `evaluate.anomaly_score` of the run looks at single frames:
    reconstruction, reconstruction_block, surprise, latent_gmm and latent_knn. Other scores, such as
    the default fusion, look at whole clips of data.num_frames frames: the scores of a clip come
    together, with its last frame.

    Args:
      run: from `load_run`, with the scorer of the task `anomaly`.
      frames: uint8 RGB [H, W, 3] or gray [H, W], of any size, such as those of a camera or of
        `imageio.v3.imiter`. They should come at the frame rate of the training videos.

    Yields:
      LiveScore, one for every frame, in order.

    Raises:
      ValueError: if the task `anomaly` was not run, or a frame has another shape or type.
    """
    return watch_frames(run.model, run.params, run.scorer, build.clip_format(run.config), frames)
