"""Scores reconstructed frames, and writes sheets that show them beside the originals."""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.data.views import View, view_to_rgb
from vvae.measure.examples import choose_frames, name_clips
from vvae.measure.legends import explain_view
from vvae.metrics.cards import Metric, make_metric
from vvae.metrics.frames import (
    SSIM_WINDOW,
    difference_mse,
    frame_mse,
    frame_ssim,
    lowest_mean,
    pair_mask,
    psnr_from_mse,
    video_means,
)
from vvae.models import contract
from vvae.objectives import lpips

ERROR_SCALE = 64.0

# The metrics of each frame: name -> (unit, definition).
FRAME_METRICS = {
    "psnr": ("dB", "10 log10(255^2 / mse) of a frame, at most 100 dB"),
    "ssim": (
        "",
        "structural similarity of a frame (Wang et al. 2004): 11x11 Gaussian window of sigma 1.5 "
        "where it fits, K1 0.01, K2 0.03, L 255; mean over places and channels",
    ),
    "mse": ("8-bit^2", "mean squared error over the pixels and channels of a frame"),
    "difference_mse": (
        "8-bit^2",
        "mean squared error of the difference of a frame from the one before it",
    ),
}
LPIPS_METRICS = {
    f"lpips_{net}": ("", f"LPIPS 0.1 of a frame, {net} (Zhang et al. 2018), frames in [-1, 1]")
    for net in lpips.NETS
}
CODES = "8-bit codes of the view; reconstructions clipped to [0, 255], not rounded"
BY_VIDEO = "mean over the valid frames of a video, then over videos"
WORST = "mean over the worst 5 % of all valid frames"


@functools.partial(jax.jit, static_argnames="model")
def reconstruct_codes(model, params, video_BTHWC: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Decodes the posterior mean; compiled once for equal models and shapes.

    Returns:
      8-bit codes of the view, float, clipped and not rounded, [B, T, H, W, C].
    """
    return contract.to_codes(contract.reconstruct(model, params, video_BTHWC, mask_BT))


@functools.partial(jax.jit, static_argnames="lpips_nets")
def score_frames(
    x_BTHWC: jax.Array, y_BTHWC: jax.Array, lpips_nets: tuple[str, ...] = ()
) -> dict[str, jax.Array]:
    """Computes every metric of FRAME_METRICS that frames of this size allow.

    Args:
      x_BTHWC: Videos in 8-bit units.
      y_BTHWC: Videos in 8-bit units, of the same shape.
      lpips_nets: The networks of LPIPS_METRICS to compute as well.

    Returns:
      name -> [B, T], or [B, T-1] for `difference_mse`.
    """
    mse_BT = frame_mse(x_BTHWC, y_BTHWC)
    scores = {
        "psnr": psnr_from_mse(mse_BT),
        "mse": mse_BT,
        "difference_mse": difference_mse(x_BTHWC, y_BTHWC),
    }
    if min(x_BTHWC.shape[2:4]) >= SSIM_WINDOW:
        scores["ssim"] = frame_ssim(x_BTHWC, y_BTHWC)
    in_unit_range = [jnp.asarray(a).astype(jnp.float32) / 127.5 - 1.0 for a in (x_BTHWC, y_BTHWC)]
    for net in lpips_nets:
        scores[f"lpips_{net}"] = lpips.frame_lpips(lpips.load_weights(net), net, *in_unit_range)
    return scores


def summarize_frames(
    scores: dict[str, np.ndarray],
    mask_NT: np.ndarray,
    video_N: np.ndarray,
    context: dict[str, Any],
) -> dict[str, Metric]:
    """Aggregates the scores of frames to metrics of a split.

    Args:
      scores: name -> [N, T] or [N, T-1]; see `score_frames`.
      mask_NT: bool; True for frames that count.
      video_N: The number of each clip's video.
      context: Entries that are added to every card.

    Returns:
      The mean over videos of each score, and `psnr_worst5` and `ssim_worst5`. Scores that no frame
      has (differences, if clips have one frame) are left out.
    """
    summary = {}
    for name, (unit, definition) in (FRAME_METRICS | LPIPS_METRICS).items():
        counted_NT = mask_of(name, mask_NT)
        if name not in scores or not counted_NT.any():
            continue
        card = {"unit": unit, "definition": definition, "values": CODES, **context}
        _, mean_V = video_means(scores[name], counted_NT, video_N)
        summary[name] = make_metric(name, mean_V.mean(), aggregation=BY_VIDEO, **card)
        if name in ("psnr", "ssim"):
            worst = lowest_mean(scores[name], counted_NT)
            name = f"{name}_worst5"
            summary[name] = make_metric(name, worst, aggregation=WORST, **card)
    return summary


def mask_of(name: str, mask_NT: np.ndarray) -> np.ndarray:
    """Returns the mask of a score: [N, T], or [N, T-1] for `difference_mse`."""
    return pair_mask(mask_NT) if name == "difference_mse" else mask_NT


def compare_videos(
    view: View, original_NTHWC: np.ndarray, reconstruction_NTHWC: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns RGB videos of originals, reconstructions and errors.

    Args:
      view: The view of the codes.
      original_NTHWC: uint8 codes.
      reconstruction_NTHWC: uint8 codes.

    Returns:
      name -> uint8 [N, T, H, W, 3].
    """
    error = np.abs(original_NTHWC.astype(np.float32) - reconstruction_NTHWC).mean(axis=-1)
    return {
        "original": view_to_rgb(view, original_NTHWC),
        "reconstruction": view_to_rgb(view, reconstruction_NTHWC),
        "error": figures.color_error(error, ERROR_SCALE),
    }


def write_comparison(path: str | os.PathLike, videos: dict[str, np.ndarray], clips: Clips) -> None:
    """Writes a sheet of what `compare_videos` returned, with one group of rows for each clip."""
    frames = choose_frames(clips.mask_NT.shape[1])
    title = (
        f"Reconstruction from posterior means, view {clips.view.name}\n"
        f"error: mean over channels of |difference|, black 0, pale yellow {ERROR_SCALE:.0f} or more"
    )
    figures.write_sheet(
        path,
        [stack[n, frames] for n in range(len(clips)) for stack in videos.values()],
        label_rows(clips, list(videos)[1:]),
        [f"frame {t}" for t in frames],
        title,
        len(videos),
        legend=explain_view(clips.view),
    )


def label_rows(clips: Clips, others: list[str]) -> list[str]:
    """Returns labels of rows: for each clip its name, in two lines, followed by `others`."""
    short = ["/\n".join(name.split("/")[-2:]) for name in name_clips(clips)]
    return [label for name in short for label in (name, *others)]
