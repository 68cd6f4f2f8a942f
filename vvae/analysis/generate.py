"""What the model imagines: samples, paths between clips, traversals, and continuations."""

import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vvae import figures, metrics
from vvae.analysis.batches import choose_examples, map_clips, measure_fps, spread_evenly
from vvae.analysis.features import make_encoder
from vvae.analysis.reconstruct import score_frames, summarize_frames, to_codes
from vvae.analysis.result import Result, describe_data, require_split
from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.data.views import View, view_to_rgb
from vvae.metrics import Metric
from vvae.models import contract
from vvae.models.sequential import Latents, predict

NUM_SAMPLES = 8
NUM_STEPS = 7
NUM_EXAMPLES = 3
NUM_COLUMNS = 8
TRAVERSAL_SDS = 3.0
MAX_SPREAD_CLIPS = 256


def interpolate(decode: Callable, first: Latents, second: Latents, weight_S: jax.Array):
    """Decodes the straight line between the latents of two clips.

    Args:
      decode: latents -> mean videos [B, T, H, W, C].
      first, second: latents of B = 1 clip and equal T.
      weight_S: share of the second clip, 0 to 1.

    Returns:
      Mean videos [S, T, H, W, C].
    """

    def mix(a, b):
        weights = weight_S.reshape(-1, *(1,) * (a.ndim - 1))
        return (1.0 - weights) * a + weights * b

    return decode(jax.tree.map(mix, first, second))


def traverse(decode: Callable, latents: Latents, dimension: int, value_S: jax.Array):
    """Decodes one clip with one dimension of its clip latent set to given values.

    Args:
      decode: latents -> mean videos [B, T, H, W, C].
      latents: of B = 1 clip; the frame latents are kept.
      dimension: of the clip latent.
      value_S: what it is set to.

    Returns:
      Mean videos [S, T, H, W, C].
    """
    count = len(value_S)
    clip_SW = jnp.repeat(latents.clip, count, axis=0).at[:, dimension].set(value_S)
    return decode(Latents(jnp.repeat(latents.frame, count, axis=0), clip_SW))


def generate(
    model,
    params,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    batch_size: int,
    split: str = "test",
    seed: int = 0,
) -> Result:
    """Draws samples, interpolations, traversals and predictions, and measures the predictions.

    Args:
      model: a SequentialVAE.
      params: its variables.
      dataset: `split` gives the clips to start from.
      folder: where a PNG and an mp4 of each go; must exist.
      batch_size: clips at a time.
      split: which split is used.
      seed: of all noise.

    Raises:
      ValueError: if the split is missing.
    """
    clips, folder = require_split(dataset, split), Path(folder)
    key = jax.random.key(seed)
    examples = clips.select(choose_examples(clips, NUM_EXAMPLES))
    decode = jax.jit(lambda latents: to_codes(contract.decode(model, params, latents)))
    latents = _infer_latents(model, params, examples)
    _draw_samples(folder, model, params, key, clips)
    _draw_interpolation(folder, decode, latents, examples)
    _draw_traversal(
        folder, decode, latents, examples, _measure_spread(model, params, clips, batch_size)
    )
    tasks = ["samples", "interpolation", "traversal"]
    rows, notes = {}, ()
    num_context = clips.mask_NT.shape[1] // 2
    if num_context:
        predictors = _make_predictors(model, params, key, clips.mask_NT.shape[1] - num_context)
        rows = _score_predictions(
            predictors, clips, num_context, batch_size, describe_data(dataset, split)
        )
        _draw_predictions(folder, predictors, examples, num_context)
        tasks.append("prediction")
    else:
        notes = ("Prediction is left out: clips of one frame have nothing to predict.",)
    files = tuple(f"{task}.{suffix}" for task in tasks for suffix in ("png", "mp4"))
    return Result(task="generate", rows=rows, notes=notes, files=files)


def _infer_latents(model, params, clips: Clips) -> Latents:
    infer = jax.jit(lambda x, mask: model.posterior_mean(contract.encode(model, params, x, mask)))
    return infer(clips.read(np.arange(len(clips))), clips.mask_NT)


def _take_clip(latents: Latents, index: int) -> Latents:
    return jax.tree.map(lambda a: a[index : index + 1], latents)


def _show(view: View, codes) -> np.ndarray:
    """Float codes -> uint8 RGB."""
    return view_to_rgb(view, np.rint(np.asarray(codes)).astype(np.uint8))


def _choose_times(num_frames: int) -> np.ndarray:
    return np.unique(np.linspace(0, num_frames - 1, NUM_COLUMNS).round().astype(int))


def _draw_samples(folder: Path, model, params, key, clips: Clips) -> None:
    num_frames = clips.mask_NT.shape[1]
    draw = jax.jit(lambda key: contract.sample(model, params, key, NUM_SAMPLES, num_frames))
    videos_NTHWC = _show(clips.view, to_codes(draw(key)))
    times = _choose_times(num_frames)
    figures.write_sheet(
        folder / "samples.png",
        list(videos_NTHWC[:, times]),
        [f"sample {n}" for n in range(NUM_SAMPLES)],
        [f"frame {t}" for t in times],
        "Samples of the prior (mean videos)",
    )
    half = NUM_SAMPLES // 2
    rows = {"samples of the prior": videos_NTHWC[:half], " ": videos_NTHWC[half:]}
    figures.write_grid_video(folder / "samples.mp4", rows, measure_fps(clips))


def _draw_interpolation(folder: Path, decode, latents: Latents, clips: Clips) -> None:
    weight_S = jnp.linspace(0.0, 1.0, NUM_STEPS)
    # With one clip the path leads from it to itself.
    ends = _take_clip(latents, 0), _take_clip(latents, len(clips) - 1)
    videos_STHWC = _show(clips.view, interpolate(decode, *ends, weight_S))
    times = _choose_times(videos_STHWC.shape[1])
    names = [clips.videos[clips.video_index_N[n]].name for n in (0, len(clips) - 1)]
    figures.write_sheet(
        folder / "interpolation.png",
        list(videos_STHWC[:, times]),
        [f"{weight:.2f}" for weight in weight_S],
        [f"frame {t}" for t in times],
        f"Interpolation of all latents\n0: {names[0]}   1: {names[1]}",
    )
    rows = {f"{names[0]}  to  {names[1]}": videos_STHWC}
    figures.write_grid_video(folder / "interpolation.mp4", rows, measure_fps(clips))


def _measure_spread(model, params, clips: Clips, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the clip latents' means over the split, each [W]."""
    chosen = clips.select(spread_evenly(np.arange(len(clips)), MAX_SPREAD_CLIPS))
    encoder = make_encoder(model, "clip")
    clip_NW = map_clips(
        lambda batch: encoder(params, batch["video"], batch["mask"]), chosen, batch_size
    )
    return clip_NW.mean(axis=0), clip_NW.std(axis=0)


def _draw_traversal(folder: Path, decode, latents: Latents, clips: Clips, spread) -> None:
    mean_W, sd_W = spread
    step_S = np.linspace(-TRAVERSAL_SDS, TRAVERSAL_SDS, NUM_STEPS)
    start = _take_clip(latents, 0)
    rows = [
        _show(clips.view, traverse(decode, start, d, jnp.asarray(mean_W[d] + step_S * sd_W[d])))
        for d in range(len(mean_W))
    ]
    labels = [f"w[{d}], sd {sd:.2f}" for d, sd in enumerate(sd_W)]
    middle = rows[0].shape[1] // 2
    name = clips.videos[clips.video_index_N[0]].name
    figures.write_sheet(
        folder / "traversal.png",
        [row[:, middle] for row in rows],
        labels,
        [f"{step:+.0f} sd" for step in step_S],
        f"Clip latent, one dimension at a time (frame {middle} of {name})\n"
        "0 is the mean and sd the spread over the clips",
    )
    figures.write_grid_video(folder / "traversal.mp4", dict(zip(labels, rows)), measure_fps(clips))


def _make_predictors(model, params, key, num_frames: int) -> dict[str, Callable]:
    """Functions known frames [B, t, H, W, C] -> codes of the next num_frames frames."""

    def follow(temperature: float) -> Callable:
        return jax.jit(lambda x: to_codes(predict(model, params, x, key, num_frames, temperature)))

    def repeat_last(x_BTHWC):
        return np.repeat(x_BTHWC[:, -1:].astype(np.float32), num_frames, axis=1)

    return {"vae_mean": follow(0.0), "vae_sample": follow(1.0), "repeat_last": repeat_last}


PREDICTORS = {
    "vae_mean": "the prior's mean at every frame",
    "vae_sample": "one sample of the prior",
    "repeat_last": "the last known frame, repeated",
}


def _score_predictions(
    predictors, clips: Clips, num_context: int, batch_size: int, context
) -> dict[str, dict[str, Metric]]:
    mask_NT = clips.mask_NT[:, num_context:]
    rows = {}
    for name, run in predictors.items():
        scores = map_clips(
            lambda batch, run=run: score_frames(
                batch["video"][:, num_context:], run(batch["video"][:, :num_context])
            ),
            clips,
            batch_size,
        )
        card = {**context, "num_context": num_context, metrics.METHOD: PREDICTORS[name]}
        rows[name] = summarize_frames(scores, mask_NT, clips.video_index_N, card)
    return rows


def _draw_predictions(folder: Path, predictors, clips: Clips, num_context: int) -> None:
    video_NTHWC = clips.read(np.arange(len(clips)))
    known = video_NTHWC[:, :num_context]
    shown = {"original": view_to_rgb(clips.view, video_NTHWC)}
    for name, label in (("vae_mean", "prediction"), ("vae_sample", "a sample")):
        codes = np.concatenate([known, np.asarray(predictors[name](known))], axis=1)
        shown[label] = _show(clips.view, codes)
    times = _choose_times(video_NTHWC.shape[1])
    columns = [f"given {t}" if t < num_context else f"predicted {t}" for t in times]
    rows = [stack[n, times] for n in range(len(clips)) for stack in shown.values()]
    figures.write_sheet(
        folder / "prediction.png",
        rows,
        list(shown) * len(clips),
        columns,
        f"Prediction from the first {num_context} frames: by the prior's mean, and one sample",
        len(shown),
    )
    captions = {
        f"{label} ({num_context} frames given)" if label != "original" else label: stack
        for label, stack in shown.items()
    }
    figures.write_grid_video(folder / "prediction.mp4", captions, measure_fps(clips))
