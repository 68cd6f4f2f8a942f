"""Scores the frames of whole videos: carries the state from clip to clip, and scores all tiles."""

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
    """The settings that determine the scores, besides the model.

    Attributes:
      block: The side of the squares of the block scores, pixels.
      num_samples: The number of importance samples K of IWAE.
      regret_steps: The gradient steps of the likelihood regret; 0 omits this score.
      seed: The seed of all noise, of the mixture and of the draw of training frames.
    """

    block: int = 16
    num_samples: int = 10
    regret_steps: int = 5
    seed: int = 0


def stream_clips(step: Callable, begin: Callable, clips: Clips, batch_size: int):
    """Applies a function with a state to the clips of each video in order.

    Args:
      step: (state, video [B, T, ...], mask [B, T]) -> (state, pytree of [B, T, ...]); jitted.
      begin: B -> the state before the first frame of B videos.
      clips: N clips that are consecutive windows of their videos.
      batch_size: The number of videos B in a batch. Unused rows are filled with masked frames.

    Returns:
      The pytree with NumPy arrays [N, T, ...], in the order of the clips.
    """
    own_V = [np.flatnonzero(clips.video_index_N == v) for v in range(len(clips.videos))]
    # Videos of similar length share a batch, which leaves few rows unused.
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


# Jitted at module level, so that they are compiled once for all splits.
jit_score_stream = jax.jit(score_stream, static_argnames=("model", "block"))
jit_stream_latents = jax.jit(stream_latents, static_argnames="model")
jit_score_windows = jax.jit(score_windows, static_argnames=("model", "num_samples", "regret_steps"))


def compute_streamed(
    model, params, clips: Clips, block: int, batch_size: int
) -> dict[str, np.ndarray]:
    """Computes the scores of `score_stream`, name -> [N, T, rows, cols, ...], for each tile."""
    step = functools.partial(jit_score_stream, block=block)
    return _stream_tiles(step, model, params, clips, batch_size)


def compute_latents(model, params, clips: Clips, batch_size: int) -> np.ndarray:
    """Computes the `latent` of `compute_streamed` only, [N, T, rows, cols, Z], for each tile."""
    return _stream_tiles(jit_stream_latents, model, params, clips, batch_size)


def _stream_tiles(step: Callable, model, params, clips: Clips, batch_size: int):
    """Applies (model, params, state, video, mask) -> (state, pytree) to all tiles of the videos."""
    tiles, join = cut_for_model(model, clips)
    begin = functools.partial(begin_live, model, params)
    bound = functools.partial(step, model, params)
    return join(stream_clips(bound, begin, tiles, batch_size))


def compute_windows(
    model, params, clips: Clips, settings: ScoreSettings, batch_size: int
) -> dict[str, np.ndarray]:
    """Computes the scores of `score_windows`, name -> [N, T, rows, cols], for each tile.

    The noise of a clip depends on its number within its video, so that the scores of a video do not
    depend on the other videos of its folder.
    """
    key = jax.random.key(settings.seed)
    tiles, join = cut_for_model(model, clips)

    def run(batch):
        placed = {
            "video": batch["video"],
            "mask": batch["mask"],
            "index": tiles.position_N[batch["index"]],
        }
        return jit_score_windows(
            model,
            params,
            key,
            placed,
            num_samples=settings.num_samples,
            regret_steps=settings.regret_steps,
        )

    return join(map_clips(run, tiles, batch_size))


def cut_for_model(model, clips: Clips) -> tuple[Clips, Callable]:
    """Cuts clips into tiles of the model's frame size; most models see the whole frame, one tile.

    Returns:
      The tiles as clips, and a function that arranges a pytree of their values,
      [N * rows * cols, T, ...], by position, [N, T, rows, cols, ...].

    Raises:
      ValueError: If the tiles do not fill the frames.
    """
    height, width, _ = model.shape_HWC
    shape = count_tiles(clips, height, width)
    return cut_tiles(clips, height, width), lambda tree: jax.tree.map(
        lambda value_NT: join_tiles(value_NT, *shape), tree
    )
