"""Foreground masks from the predictive distribution of the pixels, compared with exact masks."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.data.performers import VERSION, render_clip
from vvae.data.views import view_to_rgb
from vvae.measure.examples import choose_examples, choose_frames, spread_evenly
from vvae.measure.frames import label_rows
from vvae.measure.legends import explain_view
from vvae.measure.mapping import map_clips
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.metrics.intervals import estimate_interval, make_units, resample_ratio
from vvae.models import contract
from vvae.models.sequential import Latents
from vvae.tasks.csv_files import open_csv
from vvae.tasks.question import Question
from vvae.tasks.result import Picture, describe_clips

MASK_FILE = "masks.png"
MASK_CAPTION = (
    "What moves, in red: as it is, as the model finds it, and as the median of the clip finds it"
)
IOU_FILE = "masks.csv"
MAX_FIT_CLIPS = 100
NUM_THRESHOLDS = 60
NUM_EXAMPLES = 3
TINT = (255, 40, 40)
METHODS = {
    "vae": "standardised deviation of a pixel from the background decoded from the clip's mean "
    "latent",
    "median_background": "absolute deviation of a pixel from its median over the clip",
    "frame_difference": "absolute difference of a pixel from the frame before",
}


@dataclasses.dataclass(frozen=True)
class Masks:
    """The part of the answer about masks.

    It is empty, except for a note with the reason, if exact masks are not known.

    Attributes:
      rows: Method -> metric name -> metric.
      details: The thresholds.
      notes: Sentences for the reader.
      pictures: The pictures that are still to be drawn.
      files: The names of the files that are written.
    """

    rows: Mapping[str, Mapping[str, Metric]] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    files: tuple[str, ...] = ()


def score_pixels(model, params, x_BTHWC: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Computes the standardized deviation |d| of each pixel from the background of its clip.

    The background is what a clip shows in all of its frames. Its latent is the mean of the frame
    latents, so that the predictive distribution of a background pixel is N(b, sigma^2), where b is
    decoded from this latent and sigma is the learned noise of the likelihood. A foreground pixel
    has each of the 256 values with equal probability. With d = (x - b) / sigma, the logarithm of
    the likelihood ratio of foreground and background is d^2 / 2 + log(sigma sqrt(2 pi) / 256).
    Hence, for any prior probability of the foreground, a threshold on the ratio is a threshold on
    |d|. The prior is unknown, so the threshold is fitted to training videos. For several channels,
    |d| is the root mean square over the channels.

    Args:
      model: A SequentialVAE with a Gaussian or logistic likelihood.
      params: Its variables.
      x_BTHWC: uint8, or float in [-1, 1].
      mask_BT: bool; True for valid frames. Other frames do not contribute to the mean latent.

    Returns:
      float32 [B, T, H, W], in standard deviations.

    References:
      Stauffer and Grimson, Adaptive Background Mixture Models for Real-Time Tracking, CVPR 1999.
    """
    posterior = contract.encode(model, params, x_BTHWC, mask_BT)
    weight_BT1 = mask_BT[..., None] / jnp.maximum(mask_BT.sum(axis=1), 1)[:, None, None]
    mean_B1Z = jnp.sum(posterior.frame.mean * weight_BT1, axis=1, keepdims=True)
    background_B1HWC = contract.decode(model, params, Latents(mean_B1Z, posterior.clip.mean))
    log_sigma = model.apply(params, method="effective_log_sigma")
    sigma = jnp.exp(log_sigma) * params["stats"]["std"]
    deviation = (contract.as_unit_range(x_BTHWC) - background_B1HWC) / sigma
    return jnp.sqrt(jnp.mean(jnp.square(deviation), axis=-1))


def score_median(x_NTHWC: np.ndarray) -> np.ndarray:
    """Returns the deviation of each pixel from its median over the clip, float32 [N, T, H, W].

    It is the mean absolute deviation over the channels, in 8-bit units.
    """
    x_NTHWC = x_NTHWC.astype(np.float32)
    return np.abs(x_NTHWC - np.median(x_NTHWC, axis=1, keepdims=True)).mean(axis=-1)


def score_difference(x_NTHWC: np.ndarray) -> np.ndarray:
    """Returns the difference of each pixel from the previous frame, float32 [N, T, H, W].

    It is the mean absolute difference over the channels, in 8-bit units. The first frame takes the
    difference of the second, or 0 if there is only one.
    """
    x_NTHWC = x_NTHWC.astype(np.float32)
    step_NTHW = np.abs(np.diff(x_NTHWC, axis=1)).mean(axis=-1)
    if not step_NTHW.shape[1]:
        return np.zeros(x_NTHWC.shape[:-1], np.float32)
    return np.concatenate([step_NTHW[:, :1], step_NTHW], axis=1)


def measure_iou(found_NTHW: np.ndarray, true_NTHW: np.ndarray, mask_NT: np.ndarray) -> np.ndarray:
    """Computes the intersection over union of each clip over the pixels of its valid frames.

    Args:
      found_NTHW: bool; the detected masks.
      true_NTHW: bool; the true masks.
      mask_NT: bool; True for valid frames.

    Returns:
      float64 [N]; 1 for a clip for which both masks are empty.
    """
    used = mask_NT[:, :, None, None]
    both_N = (found_NTHW & true_NTHW & used).sum(axis=(1, 2, 3))
    any_N = ((found_NTHW | true_NTHW) & used).sum(axis=(1, 2, 3))
    return np.where(any_N > 0, both_N / np.maximum(any_N, 1), 1.0)


def fit_threshold(score_NTHW: np.ndarray, true_NTHW: np.ndarray, mask_NT: np.ndarray) -> float:
    """Returns the threshold with the best mean IoU among 60 quantiles of the scores."""
    choices = np.quantile(score_NTHW[mask_NT], np.linspace(0.2, 0.995, NUM_THRESHOLDS))
    values = [measure_iou(score_NTHW > t, true_NTHW, mask_NT).mean() for t in choices]
    return float(choices[int(np.argmax(values))])


def explain_missing(model, clips: Clips) -> str | None:
    """Returns the reason why masks cannot be evaluated, or None if they can be."""
    clip_format = clips.clip_format
    known = {"performer", "take", "seed", "version"}
    if not all(known <= set(video.metadata) for video in clips.videos):
        return "exact masks are known for the built-in performers only"
    others = sorted({video.metadata["version"] for video in clips.videos} - {str(VERSION)})
    if others:
        return (
            f"the videos are of version {', '.join(others)} of the built-in performers, exact "
            f"masks of version {VERSION}; training on the built-in data set writes its videos anew"
        )
    if model.likelihood == "bernoulli":
        return "a Bernoulli likelihood has no standard deviation"
    if not clips.view.is_8bit:
        return f"the view {clips.view.name} is not made of 8-bit intensities"
    if 64 % clip_format.height or 64 % clip_format.width:
        return "frames of the model's size are not whole squares of the masks' pixels"
    return None


def render_masks(clips: Clips) -> np.ndarray:
    """Renders the exact masks of clips of the built-in performers, bool [N, T, H, W].

    They have the frame size of the clips. A pixel is foreground if at least half of the pixels of
    the full-size mask within it are.
    """
    clip_format = clips.clip_format
    size = (clip_format.height, clip_format.width)
    masks = []
    for n in range(len(clips)):
        video = clips.videos[clips.video_index_N[n]]
        row = video.metadata
        _, mask_FHW = render_clip(
            video.label, int(row["performer"]), int(row["take"]), int(row["seed"])
        )
        masks.append(shrink_mask(mask_FHW[clips.frame_NT[n]], size))
    return np.stack(masks)


def shrink_mask(mask_THW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Downsamples masks to bool [T, *size]: True where at least half of the pixels are True."""
    frames, height, width = mask_THW.shape
    parts = mask_THW.reshape(frames, size[0], height // size[0], size[1], width // size[1])
    return parts.mean(axis=(2, 4)) >= 0.5


def measure_masks(question: Question) -> Masks:
    """Evaluates the masks of the model and of two baselines on the built-in performers.

    The thresholds are fitted to up to 100 training clips. The picture is masks.png.
    """
    clips, train = question.clips, question.train
    reason = explain_missing(question.model, clips) or explain_missing(question.model, train)
    if reason is not None:
        return Masks(notes=(f"Foreground masks are not measured: {reason}.",))
    fitted = train.select(spread_evenly(np.arange(len(train)), MAX_FIT_CLIPS))
    score = _make_scorer(question)
    fit_masks_NTHW = render_masks(fitted)
    thresholds = {
        name: fit_threshold(score_NTHW, fit_masks_NTHW, fitted.mask_NT)
        for name, score_NTHW in score(fitted).items()
    }
    true_NTHW = render_masks(clips)
    found = {name: s > thresholds[name] for name, s in score(clips).items()}
    found["everything"] = np.ones_like(true_NTHW)
    context = question.describe_data() | describe_clips(clips)
    group_N = np.array([clips.videos[v].group for v in clips.video_index_N])
    units = make_units(group_N, "groups of videos", seed=question.seed)
    rows, iou = {}, {}
    for name, mask_NTHW in found.items():
        iou_N = iou[name] = measure_iou(mask_NTHW, true_NTHW, clips.mask_NT)
        method = METHODS.get(name, "every pixel is called foreground")
        if name in thresholds:
            method += f", above {thresholds[name]:.3g}, fixed on {len(fitted)} training clips"
        metric = _make_iou(iou_N.mean(), {**context, METHOD: method})
        mean_R = resample_ratio(units, iou_N, np.ones(len(iou_N)))
        interval = estimate_interval(units, metric.value, mean_R)
        rows[f"mask/{name}"] = {"iou": dataclasses.replace(metric, interval=interval)}
    _write_ious(question.folder / IOU_FILE, clips, iou)
    draw = functools.partial(_draw_examples, clips, found, true_NTHW)
    return Masks(
        rows=rows,
        details={"thresholds": thresholds},
        pictures=(Picture({MASK_FILE: MASK_CAPTION}, draw),),
        files=(IOU_FILE,),
    )


def _write_ious(path: Path, clips: Clips, iou: Mapping[str, np.ndarray]) -> None:
    """Writes the intersection over union of each clip and method as CSV."""
    with open_csv(path) as writer:
        writer.writerow(["path", "group", "clip", *iou])
        for n, v in enumerate(clips.video_index_N):
            video = clips.videos[v]
            values = [f"{iou_N[n]:.6f}" for iou_N in iou.values()]
            writer.writerow([video.name, video.group, int(clips.position_N[n]), *values])


def _make_scorer(question: Question) -> Callable[[Clips], dict[str, np.ndarray]]:
    """Returns clips -> method -> score of each pixel, [N, T, H, W]; compiled once."""
    model, params = question.model, question.params
    score = jax.jit(lambda video, mask: score_pixels(model, params, video, mask))

    def score_all(clips: Clips) -> dict[str, np.ndarray]:
        x_NTHWC = clips.read(np.arange(len(clips)))
        vae_NTHW = map_clips(
            lambda batch: score(batch["video"], batch["mask"]), clips, question.batch_size
        )
        return {
            "vae": vae_NTHW,
            "median_background": score_median(x_NTHWC),
            "frame_difference": score_difference(x_NTHWC),
        }

    return score_all


def _make_iou(value: float, context) -> Metric:
    return make_metric(
        "iou",
        value,
        "",
        "intersection over union of the found and the exact mask, which is 64x64 and shrunk to the "
        "model's size (half or more of the pixels underneath)",
        "pixels of the valid frames of a clip together, then mean over clips",
        **context,
    )


def _draw_examples(clips: Clips, found, true_NTHW: np.ndarray, folder: Path) -> None:
    """Draws frames of up to 3 clips, and below them the exact and the detected masks."""
    ids = choose_examples(clips, NUM_EXAMPLES)
    frames = choose_frames(clips.mask_NT.shape[1])
    pictures = view_to_rgb(clips.view, clips.read(ids))
    shown = {"exact": true_NTHW, "vae": found["vae"], "median": found["median_background"]}
    rows = []
    for k, clip in enumerate(ids):
        rows.append(pictures[k, frames])
        rows += [tint(pictures[k, frames], mask[clip, frames]) for mask in shown.values()]
    figures.write_sheet(
        folder / MASK_FILE,
        rows,
        label_rows(clips.select(ids), list(shown)),
        [f"frame {t}" for t in frames],
        "Foreground masks (red) over the frames: exact, from the model, from the median background",
        1 + len(shown),
        legend=explain_view(clips.view),
    )


def tint(frames_THWC: np.ndarray, mask_THW: np.ndarray) -> np.ndarray:
    """Blends red into uint8 RGB frames where the mask is True."""
    red = (frames_THWC.astype(np.float32) + np.array(TINT)) / 2
    return np.where(mask_THW[..., None], np.rint(red), frames_THWC).astype(np.uint8)
