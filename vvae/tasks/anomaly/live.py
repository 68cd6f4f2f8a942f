"""Scores the frames of a live video as they arrive, with memory for one clip."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from vvae.data.sampling import ClipFormat
from vvae.data.views import encode_view, find_decode_factor, get_view
from vvae.metrics.detection import SMOOTHING_REACH, SMOOTHING_SIGMA
from vvae.tasks.anomaly import scorer as scorers
from vvae.tasks.anomaly.controls import CONTROLS, score_codes
from vvae.tasks.anomaly.scorer import RANDOM_ENCODER, STREAM_SCORES, WINDOW_SCORES, Scorer
from vvae.tasks.anomaly.scores import begin_live
from vvae.tasks.anomaly.streams import jit_score_stream, jit_score_windows, jit_stream_latents
from vvae.tasks.random_params import randomize_params
from vvae.video.frames import resize


@dataclasses.dataclass(frozen=True)
class LiveScore:
    """The score of one frame.

    Attributes:
      frame: The number of the frame, from 0.
      score: `raw`, smoothed over this frame and the 12 frames before it: the mean with the weights
        exp(-k^2 / 18) for k frames ago, rescaled to sum to 1 at the beginning of the video.
      raw: The score of verdicts; that of the same frame of the whole video, not smoothed.
      alarm: Whether `raw` is above the threshold that held-out normal frames exceed at the stated
        false-positive rate.
    """

    frame: int
    score: float
    raw: float
    alarm: bool


def watch_frames(
    model, params, scorer: Scorer, clip_format: ClipFormat, frames: Iterable[np.ndarray]
) -> Iterator[LiveScore]:
    """Yields the score of every frame; see `vvae.watch`.

    Args:
      model: A SequentialVAE.
      params: Its variables.
      scorer: The fitted scorer of the run.
      clip_format: The format of the clips of the run; its sampling is `windows`.
      frames: uint8 RGB [H, W, 3] or gray [H, W] or [H, W, 1], of any size.

    Raises:
      ValueError: If the clips are not windows, a frame has another shape or type, or there is no
        frame for which the view is defined.
    """
    if clip_format.sampling.mode != "windows":
        raise ValueError(
            f"data.sampling={clip_format.sampling.mode!r}: scores for every frame need a run "
            "trained with data.sampling=windows"
        )
    threshold = scorer.threshold(scorer.headline)
    recent: collections.deque[float] = collections.deque(maxlen=SMOOTHING_REACH + 1)
    for number, raw in _score_frames(model, params, scorer, clip_format, frames):
        recent.appendleft(raw)
        weight = np.exp(-0.5 * (np.arange(len(recent)) / SMOOTHING_SIGMA) ** 2)
        score = float(np.dot(weight, recent) / weight.sum())
        yield LiveScore(frame=number, score=score, raw=raw, alarm=raw > threshold)


def _score_frames(
    model, params, scorer: Scorer, clip_format: ClipFormat, frames: Iterable[np.ndarray]
) -> Iterator[tuple[int, float]]:
    """Yields the number and the score of every frame.

    A frame without a score of its own, because it is skipped by the stride or the view has no value
    for it, takes the score of the last frame before it that has one, or else of the first one.
    """
    is_causal = scorers.list_needed(scorer) <= STREAM_SCORES
    length = 1 if is_causal else clip_format.sampling.num_frames
    windows = _WindowScorer(model, params, scorer, clip_format)
    waiting: list[int] = []
    window: list[_Kept] = []
    score = math.nan

    def finish() -> Iterator[tuple[int, float]]:
        nonlocal score
        known = windows.score(window, length)
        window.clear()
        if math.isnan(score) and known:
            score = known[min(known)]
        while waiting and not math.isnan(score):
            number = waiting.pop(0)
            score = known.get(number, score)
            yield number, score

    number = -1
    for number, kept in _encode_frames(clip_format, frames):
        waiting.append(number)
        window += [] if kept is None else [kept]
        if len(window) == length or (not window and not math.isnan(score)):
            yield from finish()
    if window:
        yield from finish()
    if waiting or number < 0:
        raise ValueError(f"{number + 1} frame(s) are too few for the view {clip_format.view}")


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A frame that the model sees: its number, its codes, and whether the view has a value."""

    number: int
    codes_HWC: np.ndarray
    valid: bool


def _encode_frames(
    clip_format: ClipFormat, frames: Iterable[np.ndarray]
) -> Iterator[tuple[int, _Kept | None]]:
    """Yields the number of every frame, with its codes unless the stride skips it."""
    view = get_view(clip_format.view)
    factor = find_decode_factor(view, clip_format.height, clip_format.width)
    size = (factor * clip_format.height, factor * clip_format.width)
    past: collections.deque[np.ndarray] = collections.deque(maxlen=view.history + 1)
    for number, frame in enumerate(frames):
        if number % clip_format.sampling.frame_stride:
            yield number, None
            continue
        past.append(resize(_as_rgb(number, frame), size))
        codes_FHWC, valid_F, _ = encode_view(view, np.stack(past), factor)
        yield number, _Kept(number, codes_FHWC[-1], bool(valid_F[-1]))


def _as_rgb(number: int, frame: np.ndarray) -> np.ndarray:
    frame = np.asarray(frame)
    shaped = frame[..., None] if frame.ndim == 2 else frame
    if frame.dtype != np.uint8 or shaped.ndim != 3 or shaped.shape[-1] not in (1, 3):
        raise ValueError(
            f"frame {number} is {frame.dtype} {frame.shape}: frames must be uint8 [H, W, 3], RGB, "
            "or gray [H, W]"
        )
    return np.ascontiguousarray(np.broadcast_to(shaped, (*shaped.shape[:2], 3)))


class _WindowScorer:
    """Scores one window of a video after the other; carries the state between them."""

    def __init__(self, model, params, scorer: Scorer, clip_format: ClipFormat):
        height, width, _ = model.shape_HWC
        if clip_format.height % height or clip_format.width % width:
            raise ValueError(
                f"tiles of {height}x{width} do not fill frames of "
                f"{clip_format.height}x{clip_format.width} pixels"
            )
        self._model, self._params, self._scorer = model, params, scorer
        self._view = get_view(clip_format.view)
        self._needed = scorers.list_needed(scorer)
        self._grid = (clip_format.height // height, clip_format.width // width)
        self._key = jax.random.key(scorer.settings.seed)
        self._state = self._random_state = begin_live(model, params, math.prod(self._grid))
        if RANDOM_ENCODER in self._needed:
            self._fresh = randomize_params(model, params, scorer.settings.seed)
            self._random_state = begin_live(model, self._fresh, math.prod(self._grid))
        self._last_HWC = None
        self._position = 0

    def score(self, window: list[_Kept], length: int) -> dict[int, float]:
        """Scores a window, which is filled up to `length` by repeating its last frame.

        Returns:
          Number of a frame for which the view has a value -> its score.
        """
        if not window:
            return {}
        codes_SHWC = np.stack([kept.codes_HWC for kept in window])
        valid_S = np.array([kept.valid for kept in window])
        fill = (0, length - len(window))
        tiles_KTHWC = self._cut(np.pad(codes_SHWC, (fill, (0, 0), (0, 0), (0, 0)), mode="edge"))
        mask_KT = np.tile(np.pad(valid_S, fill), (len(tiles_KTHWC), 1))
        scores = self._score_model(tiles_KTHWC, mask_KT)
        scores = {name: score_T[: len(window)][valid_S] for name, score_T in scores.items()}
        number_S = [kept.number for kept in window if kept.valid]
        if number_S and self._needed & set(CONTROLS):
            untrained, block = self._scorer.reference.untrained, self._scorer.settings.block
            controls, self._last_HWC = score_codes(
                self._view, codes_SHWC[valid_S], self._last_HWC, untrained, block
            )
            scores |= controls | {"time_index": np.array(number_S, np.float64)}
        self._position += 1
        if not number_S:
            return {}
        return dict(zip(number_S, scorers.find_headline(self._scorer, scores).tolist()))

    def _cut(self, codes_THWC: np.ndarray) -> np.ndarray:
        """Cuts frames into tiles, row by row, [K, T, h, w, C]."""
        (rows, cols), (num_frames, height, width, channels) = self._grid, codes_THWC.shape
        shape = (num_frames, rows, height // rows, cols, width // cols, channels)
        tiles = codes_THWC.reshape(shape).transpose(1, 3, 0, 2, 4, 5)
        return tiles.reshape(rows * cols, num_frames, height // rows, width // cols, channels)

    def _score_model(self, tiles_KTHWC, mask_KT) -> dict[str, np.ndarray]:
        """Returns the needed scores of the model, float64 [T]: the largest of the tiles."""
        model, settings = self._model, self._scorer.settings
        reference, values, scores = self._scorer.reference, {}, {}
        if self._needed & STREAM_SCORES:
            self._state, streamed = jit_score_stream(
                model, self._params, self._state, tiles_KTHWC, mask_KT, block=settings.block
            )
            values |= jax.device_get(streamed)
            latent_TKZ = values.pop("latent").swapaxes(0, 1)
            for name in self._needed.intersection(scorers.LATENT_SCORES):
                scores[name] = scorers.score_tiles(reference, name, latent_TKZ)
        if self._needed & WINDOW_SCORES:
            index_K = np.full(len(tiles_KTHWC), self._position, np.int32)
            windows = jit_score_windows(
                model,
                self._params,
                self._key,
                {"video": tiles_KTHWC, "mask": mask_KT, "index": index_K},
                num_samples=settings.num_samples,
                regret_steps=settings.regret_steps,
            )
            values |= jax.device_get(windows)
        scores |= {name: value.max(axis=0).astype(np.float64) for name, value in values.items()}
        if RANDOM_ENCODER in self._needed:
            self._random_state, latent = jit_stream_latents(
                model, self._fresh, self._random_state, tiles_KTHWC, mask_KT
            )
            latent_TKZ = np.asarray(latent).swapaxes(0, 1)
            scores[RANDOM_ENCODER] = scorers.score_tiles(reference, RANDOM_ENCODER, latent_TKZ)
        return scores
