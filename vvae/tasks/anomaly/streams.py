"""Scores of the frames of whole videos: clip after clip with memory, tile beside tile."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from vvae.data.clips import Clips
from vvae.data.tiles import count_tiles, cut_tiles, join_tiles
from vvae.measure.mapping import map_clips
from vvae.tasks.anomaly.scores import begin_live, score_stream, score_windows, stream_latents


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
    """What fixes the scores beside the model.

    Attributes:
      block: side, in pixels, of the squares of the block scores.
      num_samples: K of IWAE.
      regret_steps: gradient steps of the likelihood regret; 0 leaves it out.
      seed: of all noise, of the mixture and of the draw of training frames.
    """

    block: int = 16
    num_samples: int = 10
    regret_steps: int = 5
    seed: int = 0


def stream_clips(step: Callable, begin: Callable, clips: Clips, batch_size: int):
    """Applies a function with memory to the clips of each video in turn.

    Args:
      step: (state, video [B, T, ...], mask [B, T]) -> (state, pytree of [B, T, ...]); jitted.
      begin: B -> the state at the beginning of B videos.
      clips: consecutive windows.
      batch_size: B, videos at a time; places that are left over see masked frames.

    Returns:
      The pytree with NumPy arrays [N, T, ...], in the order of the clips.
    """
    own_V = [np.flatnonzero(clips.video_index_N == v) for v in range(len(clips.videos))]
    # Videos of about the same length go together, so that few places are left over.
    order = sorted(range(len(own_V)), key=lambda video: -len(own_V[video]))
    result = None
    for start in range(0, len(order), batch_size):
        videos = [own_V[v] for v in order[start : start + batch_size]]
        state = begin(batch_size)
        for number in range(len(videos[0])):
            rows = [row for row, own in enumerate(videos) if number < len(own)]
            ids = np.array([videos[row][number] for row in rows])
            shape = clips.clip_format.clip_shape
            video_BTHWC = np.zeros((batch_size, *shape), np.uint8)
            mask_BT = np.zeros((batch_size, shape[0]), bool)
            video_BTHWC[rows], mask_BT[rows] = clips.read(ids), clips.mask_NT[ids]
            state, output = step(state, video_BTHWC, mask_BT)
            output = jax.device_get(output)
            if result is None:
                result = jax.tree.map(
                    lambda a: np.zeros((len(clips), *a.shape[1:]), a.dtype), output
                )
            jax.tree.map(lambda a, part, i=ids, r=rows: a.__setitem__(i, part[r]), result, output)
    return result


# Compiled once for all splits of a model.
_score_stream = jax.jit(score_stream, static_argnames=("model", "block"))
_stream_latents = jax.jit(stream_latents, static_argnames="model")
_score_windows = jax.jit(score_windows, static_argnames=("model", "num_samples", "regret_steps"))


def compute_streamed(
    model, params, clips: Clips, block: int, batch_size: int
) -> dict[str, np.ndarray]:
    """Returns what `score_stream` says of every frame, name -> [N, T, rows, cols, ...] of tiles."""

    step = functools.partial(_score_stream, block=block)
    return _stream_tiles(step, model, params, clips, batch_size)


def compute_latents(model, params, clips: Clips, batch_size: int) -> np.ndarray:
    """Returns the `latent` of `compute_streamed` alone, [N, T, rows, cols, Z] of tiles."""
    return _stream_tiles(_stream_latents, model, params, clips, batch_size)


def _stream_tiles(step: Callable, model, params, clips: Clips, batch_size: int):
    """Applies (model, params, state, video, mask) -> (state, pytree) to every tile of videos."""
    tiles, join = cut_for_model(model, clips)
    begin = functools.partial(begin_live, model, params)
    bound = functools.partial(step, model, params)
    return join(stream_clips(bound, begin, tiles, batch_size))


def compute_windows(
    model, params, clips: Clips, settings: ScoreSettings, batch_size: int
) -> dict[str, np.ndarray]:
    """Returns what `score_windows` says of every frame, name -> [N, T, rows, cols] of tiles.

    The noise of a clip is that of its place in its video, so that a video gets the same scores in
    whatever folder it lies.
    """
    key = jax.random.key(settings.seed)
    tiles, join = cut_for_model(model, clips)

    def run(batch):
        placed = {
            "video": batch["video"],
            "mask": batch["mask"],
            "index": tiles.position_N[batch["index"]],
        }
        return _score_windows(
            model,
            params,
            key,
            placed,
            num_samples=settings.num_samples,
            regret_steps=settings.regret_steps,
        )

    return join(map_clips(run, tiles, batch_size))


def cut_for_model(model, clips: Clips) -> tuple[Clips, Callable]:
    """Cuts clips into the tiles that the model sees, the whole frame for most.

    Returns:
      The tiles, and a function that puts a pytree of arrays [N * tiles, T, ...] side by side,
      [N, T, rows, cols, ...].
    """
    height, width, _ = model.shape_HWC
    shape = count_tiles(clips, height, width)
    return cut_tiles(clips, height, width), lambda tree: jax.tree.map(
        lambda value_NT: join_tiles(value_NT, *shape), tree
    )
