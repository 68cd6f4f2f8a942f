"""What does the model generate? Samples, interpolations, traversals, and predicted frames."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.data.views import View, view_to_rgb
from vvae.measure.examples import (
    choose_examples,
    choose_frames,
    measure_fps,
    name_clips,
    spread_evenly,
)
from vvae.measure.frames import label_rows, score_frames, summarize_frames
from vvae.measure.legends import explain_view
from vvae.measure.mapping import map_clips, map_clips_here
from vvae.metrics.cards import METHOD, Metric
from vvae.models import contract
from vvae.models.sequential import Latents, predict
from vvae.tasks.options import Generate
from vvae.tasks.pooling import encode_clips, make_encoder
from vvae.tasks.quality.psnr import add_intervals, average_psnr, compare_psnr
from vvae.tasks.question import Question
from vvae.tasks.result import Picture, Result, describe_clips
from vvae.tasks.rivals import Comparison, advise_on_pixels, describe_rival

NUM_SAMPLES = 8
NUM_STEPS = 7
NUM_EXAMPLES = 3
TRAVERSAL_SDS = 3.0
MAX_MEASURED_CLIPS = 128
# Changes of fewer levels of 255, by the mean over pixels, cannot be seen.
MIN_CHANGE = 4.0
GHOSTS = "Blurred shapes and ghosts are expected after few training steps."
CAPTIONS = {
    "samples": f"Videos that the model makes up. {GHOSTS}",
    "interpolation": "From one video to another, step by step, with all latent numbers mixed.",
    "traversal": "One video with one number of its clip latent changed, a row for each number; "
    "what happens in its frames is kept.",
    "traversal_prior": "What each number of the clip latent stands for: videos made up from it, "
    "a row for each number.",
    "prediction": "The second half of videos, predicted from the first: the video, the prediction, "
    f"one random future. {GHOSTS}",
}


def interpolate(decode: Callable, first: Latents, second: Latents, weight_S: jax.Array):
    """Decodes the straight line between the latents of two clips.

    Args:
      decode: latents -> mean videos [B, T, H, W, C].
      first, second: latents of B = 1 clip and equal T.
      weight_S: weight of the second clip, in [0, 1].

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
      latents: those of B = 1 clip; its frame latents are kept.
      dimension: the dimension of the clip latent that changes.
      value_S: the values it takes.

    Returns:
      Mean videos [S, T, H, W, C].
    """
    count = len(value_S)
    clip_SW = jnp.repeat(latents.clip, count, axis=0).at[:, dimension].set(value_S)
    return decode(Latents(jnp.repeat(latents.frame, count, axis=0), clip_SW))


def answer(question: Question, options: Generate) -> Result:
    """Measures predictions of the next frames; shows samples, interpolations and traversals.

    Each is shown as a picture and as a video.

    Raises:
      ValueError: if the split is missing.
    """
    del options
    clips = question.clips
    examples = clips.select(choose_examples(clips, NUM_EXAMPLES))
    measured = clips.select(spread_evenly(np.arange(len(clips)), MAX_MEASURED_CLIPS))
    pictures = [
        _plan(functools.partial(_draw_samples, question), "samples"),
        _plan(functools.partial(_draw_interpolation, question, examples), "interpolation"),
    ]
    rows, notes, details = {}, [], {}
    for traversal in _traverse_all(question, examples, measured):
        if traversal.largest_change >= MIN_CHANGE:
            draw = functools.partial(_draw_traversal, traversal, examples)
            pictures.append(_plan(draw, traversal.name))
        else:
            notes.append(_say_left_out(traversal))
    num_frames = clips.mask_NT.shape[1]
    num_context = num_frames // 2
    if num_context:
        predictors = _make_predictors(question, num_frames - num_context)
        context = question.describe_data() | describe_clips(measured)
        context["num_context"] = num_context
        scores = _score_predictions(predictors, measured, num_context, question.batch_size)
        rows, comparison = _summarize_predictions(question, scores, measured, context)
        details = {"comparison": comparison.as_json()}
        notes.insert(0, describe_rival(comparison, advise_on_pixels(question)))
        draw = functools.partial(
            _draw_predictions, predictors, examples, num_context, question.batch_size
        )
        pictures.append(_plan(draw, "prediction"))
    else:
        notes.insert(0, "Prediction is left out: clips of one frame have nothing to predict.")
    return Result(
        task="generate",
        rows=rows,
        details=details,
        notes=tuple(notes),
        files=tuple(name for picture in pictures for name in picture.names),
        pictures=tuple(pictures),
    )


def _plan(draw: Callable[[Path], None], name: str) -> Picture:
    """Returns the picture that `draw` makes: an mp4 and a PNG of the name."""
    caption = CAPTIONS[name]
    return Picture({f"{name}.mp4": f"{caption} Playing.", f"{name}.png": caption}, draw)


# --- functions of the model, compiled once; videos are float 8-bit codes --------------------------


@functools.partial(jax.jit, static_argnums=0)
def _infer(model, params, x_BTHWC, mask_BT) -> Latents:
    return model.posterior_mean(contract.encode(model, params, x_BTHWC, mask_BT))


@functools.partial(jax.jit, static_argnums=0)
def _decode(model, params, latents: Latents) -> jax.Array:
    return contract.to_codes(contract.decode(model, params, latents))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _sample(model, params, key, num_frames: int) -> jax.Array:
    return contract.to_codes(contract.sample(model, params, key, NUM_SAMPLES, num_frames))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _follow_prior(model, params, w_BW: jax.Array, num_frames: int) -> Latents:
    """Returns latents whose frame latents follow the mean of the prior, given their clip latent."""
    state = model.apply(params, w_BW.shape[0], method="begin_dynamics")
    z_BTZ = model.roll_out(params, state, w_BW, jax.random.key(0), num_frames, 0.0)
    return Latents(z_BTZ, w_BW)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _predict(model, params, x_BTHWC, key, num_frames: int, temperature) -> jax.Array:
    return contract.to_codes(predict(model, params, x_BTHWC, key, num_frames, temperature))


# --- samples, interpolation, traversal ------------------------------------------------------------


def _show(view: View, codes) -> np.ndarray:
    """Converts float codes of a view to uint8 RGB."""
    return view_to_rgb(view, np.rint(np.asarray(codes)).astype(np.uint8))


def _take_clip(latents: Latents, index: int) -> Latents:
    return jax.tree.map(lambda a: a[index : index + 1], latents)


def _infer_examples(question: Question, examples: Clips) -> Latents:
    video_NTHWC = examples.read(np.arange(len(examples)))
    return _infer(question.model, question.params, video_NTHWC, examples.mask_NT)


def _draw_samples(question: Question, folder: Path) -> None:
    clips = question.clips
    num_frames = clips.mask_NT.shape[1]
    key = jax.random.key(question.seed)
    videos_NTHWC = _show(clips.view, _sample(question.model, question.params, key, num_frames))
    frames = choose_frames(num_frames)
    figures.write_sheet(
        folder / "samples.png",
        list(videos_NTHWC[:, frames]),
        [f"sample {n}" for n in range(NUM_SAMPLES)],
        [f"frame {t}" for t in frames],
        "Samples of the prior (mean videos)",
        legend=explain_view(clips.view),
    )
    half = NUM_SAMPLES // 2
    rows = {"samples of the prior": videos_NTHWC[:half], " ": videos_NTHWC[half:]}
    figures.write_grid_video(folder / "samples.mp4", rows, measure_fps(clips))


def _draw_interpolation(question: Question, examples: Clips, folder: Path) -> None:
    latents = _infer_examples(question, examples)
    weight_S = jnp.linspace(0.0, 1.0, NUM_STEPS)
    # With one clip, both ends are this clip.
    ends = _take_clip(latents, 0), _take_clip(latents, len(examples) - 1)
    decode = functools.partial(_decode, question.model, question.params)
    videos_STHWC = _show(examples.view, interpolate(decode, *ends, weight_S))
    frames = choose_frames(videos_STHWC.shape[1])
    names = name_clips(examples)
    figures.write_sheet(
        folder / "interpolation.png",
        list(videos_STHWC[:, frames]),
        [f"{weight:.2f}" for weight in weight_S],
        [f"frame {t}" for t in frames],
        f"Interpolation of all latents\n0: {names[0]}\n1: {names[-1]}",
        legend=explain_view(examples.view),
    )
    rows = {f"{names[0]}  to  {names[-1]}": videos_STHWC}
    figures.write_grid_video(folder / "interpolation.mp4", rows, measure_fps(examples))


@dataclasses.dataclass(frozen=True, eq=False)
class _Traversal:
    """A clip with one dimension of its clip latent after the other changed.

    Attributes:
      name: the name of its files.
      text: what happens to the frame latents.
      sd_W: the spread of each dimension over clips.
      codes: for each dimension, uint8 [S, T, H, W, C], from -3 to +3 sd about the mean.
      change_W: the mean absolute difference of both ends, of 255.
    """

    name: str
    text: str
    sd_W: np.ndarray
    codes: list[np.ndarray]
    change_W: np.ndarray

    @property
    def largest_change(self) -> float:
        """The change of the dimension that changes most."""
        return float(self.change_W.max(initial=0.0))


def _traverse_all(question: Question, examples: Clips, measured: Clips) -> list[_Traversal]:
    """Decodes a clip with other values of w: with its own z, and with z at the mean of the prior.

    The values spread around those that the measured clips have.
    """
    model, params = question.model, question.params
    if not model.clip_latent_dim:
        return []
    clip_NW = encode_clips(make_encoder(model, "clip"), params, measured, question.batch_size)
    start = _take_clip(_infer_examples(question, examples), 0)
    num_frames = start.frame.shape[1]
    decode = functools.partial(_decode, model, params)

    def decode_prior(changed: Latents):
        return decode(_follow_prior(model, params, changed.clip, num_frames))

    kept = f"the frame latents of {name_clips(examples)[0]} are kept"
    followed = "the frame latents follow the prior's mean"
    ways = (("traversal", decode, kept), ("traversal_prior", decode_prior, followed))
    return [_traverse_clip(*way, start, clip_NW) for way in ways]


def _traverse_clip(name: str, decode: Callable, text: str, start, clip_NW) -> _Traversal:
    mean_W, sd_W = clip_NW.mean(axis=0), clip_NW.std(axis=0)
    step_S = np.linspace(-TRAVERSAL_SDS, TRAVERSAL_SDS, NUM_STEPS)
    codes, changes = [], []
    for dimension, (mean, sd) in enumerate(zip(mean_W, sd_W)):
        videos = np.asarray(traverse(decode, start, dimension, jnp.asarray(mean + step_S * sd)))
        changes.append(np.abs(videos[-1] - videos[0]).mean())
        codes.append(np.rint(videos).astype(np.uint8))
    return _Traversal(name, text, sd_W, codes, np.array(changes))


def _say_left_out(traversal: _Traversal) -> str:
    return (
        f"Pictures of the clip latent, one dimension at a time, are left out where "
        f"{traversal.text}: no dimension changes them by more than {traversal.largest_change:.1f} "
        "of 255, which cannot be seen."
    )


def _draw_traversal(traversal: _Traversal, clips: Clips, folder: Path) -> None:
    step_S = np.linspace(-TRAVERSAL_SDS, TRAVERSAL_SDS, NUM_STEPS)
    rows = [_show(clips.view, codes_STHWC) for codes_STHWC in traversal.codes]
    # The difference of the two ends tells a change too small to see from no change.
    labels = [
        f"w[{d}], sd {sd:.2f}\nchange {change:.1f}"
        for d, (sd, change) in enumerate(zip(traversal.sd_W, traversal.change_W))
    ]
    middle = rows[0].shape[1] // 2
    figures.write_sheet(
        folder / f"{traversal.name}.png",
        [row[:, middle] for row in rows],
        labels,
        [f"{step:+.0f} sd" if step else "mean" for step in step_S],
        f"Clip latent, one dimension at a time, frame {middle}; {traversal.text}\n"
        "sd: the spread over clips; change: mean difference of the ends, of 255",
        legend=explain_view(clips.view),
    )
    captions = [label.replace("\n", ", ") for label in labels]
    figures.write_grid_video(
        folder / f"{traversal.name}.mp4", dict(zip(captions, rows)), measure_fps(clips)
    )


# --- prediction -----------------------------------------------------------------------------------

PREDICTORS = {
    "vae_mean": "the prior's mean at every frame",
    "vae_sample": "one sample of the prior",
    "repeat_last": "the last known frame, repeated",
}


def _make_predictors(question: Question, num_frames: int) -> dict[str, Callable]:
    """Returns functions: known frames, uint8 [B, t, H, W, C] -> codes of the next num_frames."""
    model, params, key = question.model, question.params, jax.random.key(question.seed)

    def follow(temperature: float) -> Callable:
        return lambda x_BTHWC: _predict(model, params, x_BTHWC, key, num_frames, temperature)

    def repeat_last(x_BTHWC):
        return np.repeat(x_BTHWC[:, -1:].astype(np.float32), num_frames, axis=1)

    return {"vae_mean": follow(0.0), "vae_sample": follow(1.0), "repeat_last": repeat_last}


def _score_predictions(
    predictors, clips: Clips, num_context: int, batch_size: int
) -> dict[str, dict[str, np.ndarray]]:
    """Returns predictor -> the scores of the predicted frames."""
    return {
        name: map_clips(
            lambda batch, run=run: score_frames(
                batch["video"][:, num_context:], run(batch["video"][:, :num_context])
            ),
            clips,
            batch_size,
        )
        for name, run in predictors.items()
    }


def _summarize_predictions(
    question: Question, scores, clips: Clips, context
) -> tuple[dict[str, dict[str, Metric]], Comparison]:
    """Returns predictor -> metrics, and the prior's mean beside the last known frame, repeated."""
    mask_NT = clips.mask_NT[:, context["num_context"] :]
    rows = {
        name: summarize_frames(
            scores[name], mask_NT, clips.video_index_N, {**context, METHOD: PREDICTORS[name]}
        )
        for name in scores
    }
    psnr = {name: found["psnr"] for name, found in scores.items()}
    averaged = average_psnr(psnr, mask_NT, clips, question.seed)
    rows = add_intervals(rows, averaged)
    return rows, compare_psnr(rows, averaged, "vae_mean", ("repeat_last",))


def _draw_predictions(
    predictors, clips: Clips, num_context: int, batch_size: int, folder: Path
) -> None:
    video_NTHWC = clips.read(np.arange(len(clips)))
    shown = {"original": view_to_rgb(clips.view, video_NTHWC)}
    for name, label in (("vae_mean", "prediction"), ("vae_sample", "a sample")):
        # In batches of the size that is measured, for which the program is compiled already.
        predicted = map_clips_here(
            lambda batch, run=predictors[name]: run(batch["video"][:, :num_context]),
            clips,
            batch_size,
        )
        codes = np.concatenate([video_NTHWC[:, :num_context], predicted], axis=1)
        shown[label] = _show(clips.view, codes)
    frames = choose_frames(video_NTHWC.shape[1])
    figures.write_sheet(
        folder / "prediction.png",
        [stack[n, frames] for n in range(len(clips)) for stack in shown.values()],
        label_rows(clips, list(shown)[1:]),
        [f"given {t}" if t < num_context else f"predicted {t}" for t in frames],
        f"Prediction from the first {num_context} frames: the video, the prior's mean, one sample",
        len(shown),
        legend=explain_view(clips.view),
    )
    captions = ["original", *[f"{label}, {num_context} frames given" for label in list(shown)[1:]]]
    rows = dict(zip(captions, shown.values()))
    figures.write_grid_video(folder / "prediction.mp4", rows, measure_fps(clips))
