"""How well does the model give videos back? Beside the mean frame and PCA with as many numbers."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae import figures, lpips, metrics
from vvae.analysis.baselines import FramePCA, fit_frame_pca, reconstruct_frames
from vvae.analysis.batches import (
    choose_examples,
    choose_frames,
    map_clips,
    measure_fps,
    name_clips,
)
from vvae.analysis.result import Result, describe_data, require_split
from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.data.views import View, view_to_rgb
from vvae.metrics import Metric
from vvae.models import contract
from vvae.models.causal import CausalVideoVAE

NUM_EXAMPLES = 4
ERROR_SCALE = 64.0

# name -> (unit, definition) of the numbers that each frame gets.
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


def to_codes(x: jax.Array) -> jax.Array:
    """Video in [-1, 1] units -> float 8-bit codes, clipped to [0, 255]."""
    return jnp.clip((x + 1.0) * 127.5, 0.0, 255.0)


@functools.partial(jax.jit, static_argnames="lpips_nets")
def score_frames(
    x_BTHWC: jax.Array, y_BTHWC: jax.Array, lpips_nets: tuple[str, ...] = ()
) -> dict[str, jax.Array]:
    """Computes every metric of FRAME_METRICS that frames of this size allow.

    Args:
      x_BTHWC, y_BTHWC: videos in 8-bit units.
      lpips_nets: networks of LPIPS_METRICS that are computed too.

    Returns:
      name -> [B, T], or [B, T-1] for `difference_mse`.
    """
    mse_BT = metrics.frame_mse(x_BTHWC, y_BTHWC)
    scores = {
        "psnr": metrics.psnr_from_mse(mse_BT),
        "mse": mse_BT,
        "difference_mse": metrics.difference_mse(x_BTHWC, y_BTHWC),
    }
    if min(x_BTHWC.shape[2:4]) >= metrics.SSIM_WINDOW:
        scores["ssim"] = metrics.frame_ssim(x_BTHWC, y_BTHWC)
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
    """Turns the scores of frames into metrics of a split.

    Args:
      scores: name -> [N, T] or [N, T-1], see `score_frames`.
      mask_NT: bool, True for frames that count.
      video_N: the video of each clip.
      context: goes into every card.

    Returns:
      The mean over videos of each score, and `psnr_worst5`, `ssim_worst5`. Scores that no frame
      has (differences of clips of one frame) are left out.
    """
    summary = {}
    for name, (unit, definition) in (FRAME_METRICS | LPIPS_METRICS).items():
        counted_NT = _mask_of(name, mask_NT)
        if name not in scores or not counted_NT.any():
            continue
        card = {"unit": unit, "definition": definition, "values": CODES, **context}
        _, mean_V = metrics.video_means(scores[name], counted_NT, video_N)
        summary[name] = metrics.make_metric(name, mean_V.mean(), aggregation=BY_VIDEO, **card)
        if name in ("psnr", "ssim"):
            worst = metrics.lowest_mean(scores[name], counted_NT)
            name = f"{name}_worst5"
            summary[name] = metrics.make_metric(name, worst, aggregation=WORST, **card)
    return summary


def _mask_of(name: str, mask_NT: np.ndarray) -> np.ndarray:
    return metrics.pair_mask(mask_NT) if name == "difference_mse" else mask_NT


def reconstruct(
    model,
    params,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    batch_size: int,
    split: str = "test",
    seed: int = 0,
    lpips_nets: tuple[str, ...] = (),
) -> Result:
    """Measures and shows reconstructions from posterior means.

    Args:
      model: a vvae model.
      params: its variables.
      dataset: its `train` split fits the PCA, `split` is measured.
      folder: where reconstruct.png, reconstruct.mp4 and reconstruct_positions.png go; must exist.
      batch_size: clips at a time.
      split: which split is measured.
      seed: of the PCA's solver and sampling.
      lpips_nets: networks of the perceptual distances that are measured; views gray and rgb.

    Raises:
      ValueError: if a split is missing, or LPIPS cannot be measured.
    """
    clips, train = require_split(dataset, split), require_split(dataset, "train")
    num_numbers = model.count_numbers(clips.clip_format.clip_shape[0])
    pca = fit_frame_pca(train, num_numbers, seed)
    decode = jax.jit(
        lambda params, video, mask: to_codes(contract.reconstruct(model, params, video, mask))
    )

    def run_model(batch):
        return decode(params, batch["video"], batch["mask"])

    methods = {"vae": run_model, **_baselines(pca)}
    scores = {
        name: _score_split(run, clips, batch_size, lpips_nets) for name, run in methods.items()
    }
    context = describe_data(dataset, split)
    rows = {
        name: summarize_frames(
            scores[name], clips.mask_NT, clips.video_index_N, {**context, metrics.METHOD: text}
        )
        for name, text in _describe_methods(pca, num_numbers).items()
    }
    if isinstance(model, CausalVideoVAE):
        for name, row in rows.items():
            row |= _measure_seams(model, methods[name], clips, batch_size, row["psnr"].card)
            row |= _measure_gap(scores[name]["psnr"], clips, row["psnr"].card)
    folder = Path(folder)
    _draw_positions(folder / "reconstruct_positions.png", scores, clips)
    _draw_examples(folder, run_model, clips, batch_size)
    positions = {
        name: {
            metric: metrics.position_means(v, _mask_of(metric, clips.mask_NT))
            for metric, v in s.items()
        }
        for name, s in scores.items()
    }
    return Result(
        task="reconstruct",
        rows=rows,
        details={"by_frame_position": positions, "pca_fitted_to_frames": pca.num_frames},
        notes=_write_notes(scores["vae"], context),
        files=("reconstruct.png", "reconstruct.mp4", "reconstruct_positions.png"),
    )


def _baselines(pca: FramePCA) -> dict[str, Callable]:
    def run_pca(batch):
        return np.clip(reconstruct_frames(pca, batch["video"]), 0.0, 255.0)

    def run_mean(batch):
        shape = batch["video"].shape
        return np.broadcast_to(pca.mean_D.astype(np.float32).reshape(shape[2:]), shape)

    return {"pca": run_pca, "mean_frame": run_mean}


def _describe_methods(pca: FramePCA, num_numbers: int) -> dict[str, str]:
    fitted = f"fitted to {pca.num_frames} valid training frames"
    return {
        "vae": f"posterior means, {num_numbers} numbers a frame (a clip latent counted in full)",
        "pca": f"PCA of single frames, {len(pca.components_KD)} components, {fitted}",
        "mean_frame": f"mean frame, {fitted}",
    }


def _score_split(
    run: Callable, clips: Clips, batch_size: int, lpips_nets: tuple[str, ...]
) -> dict[str, np.ndarray]:
    def score(batch):
        return score_frames(batch["video"], run(batch), lpips_nets)

    return map_clips(score, clips, batch_size)


# Axis of [B, T, H, W, C], and what lies between two neighbours along it.
_SEAMS = {
    "seam_time": (1, "latent frames (the border of any two chunks is one of these)"),
    "seam_rows": (2, "rows of latents (the border of any two tiles is one of these)"),
    "seam_columns": (3, "columns of latents (the border of any two tiles is one of these)"),
}


def _measure_seams(model: CausalVideoVAE, run: Callable, clips: Clips, batch_size: int, card):
    """Seam indices at the borders of latents, of clips without masked frames."""
    whole = clips.select(np.flatnonzero(clips.mask_NT.all(axis=1)))
    shape = clips.clip_format.clip_shape
    borders = {}
    for (name, (axis, _)), size in zip(_SEAMS.items(), model.block_shape, strict=True):
        start = 1 if axis == 1 else size  # the first frame is a latent frame of its own
        inner = np.arange(start, shape[axis - 1], size)
        if len(inner) and len(inner) < shape[axis - 1] - 1:
            borders[name] = inner
    if not len(whole) or not borders:
        return {}

    def measure(batch):
        pair = batch["video"], run(batch)
        return {n: metrics.seam_index(*pair, _SEAMS[n][0], b) for n, b in borders.items()}

    found = map_clips(measure, whole, batch_size)
    return {
        name: _make_like(
            card,
            name,
            values.mean(dtype=np.float64),
            "",
            "mean squared step of the error across a border, over that elsewhere; borders between "
            + _SEAMS[name][1],
            f"mean over the {len(whole)} clips without masked frames",
        )
        for name, values in found.items()
    }


def _measure_gap(psnr_NT: np.ndarray, clips: Clips, card):
    """PSNR of the first frame against that of the later ones."""
    gaps = metrics.first_frame_gap(psnr_NT, clips.mask_NT)
    if not len(gaps):
        return {}
    definition = "PSNR of the first frame minus the mean of the later ones"
    gap = _make_like(card, "first_frame_gap", gaps.mean(), "dB", definition, "mean over clips")
    return {"first_frame_gap": gap}


def _make_like(card, name, value, unit, definition, aggregation) -> Metric:
    """A metric of the same data, split and method as that of a card."""
    own = ("name", "unit", "definition", "aggregation")
    context = {key: entry for key, entry in card.items() if key not in own}
    return metrics.make_metric(name, value, unit, definition, aggregation, **context)


def _write_notes(scores, context) -> tuple[str, ...]:
    if "ssim" in scores:
        return ()
    window = metrics.SSIM_WINDOW
    return (
        f"SSIM is left out: frames of {context['frame_size']} are smaller than its window of "
        f"{window}x{window}.",
    )


def _draw_positions(path: Path, scores, clips: Clips) -> None:
    positions = np.arange(clips.mask_NT.shape[1])
    curves = {
        name: (positions, metrics.position_means(values["psnr"], clips.mask_NT))
        for name, values in scores.items()
    }
    title = "Reconstruction by frame position (mean over clips)"
    figures.write_curves(path, curves, "frame of the clip", "PSNR in dB", title)


def _draw_examples(folder: Path, run_model: Callable, clips: Clips, batch_size: int) -> None:
    shown = clips.select(choose_examples(clips, NUM_EXAMPLES))
    codes = np.rint(map_clips(run_model, shown, batch_size)).astype(np.uint8)
    videos = compare_videos(clips.view, shown.read(np.arange(len(shown))), codes)
    write_comparison(folder / "reconstruct.png", videos, shown)
    figures.write_grid_video(folder / "reconstruct.mp4", videos, measure_fps(shown))


def compare_videos(
    view: View, original_NTHWC: np.ndarray, reconstruction_NTHWC: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns RGB videos of originals, reconstructions and errors.

    Args:
      view: of the codes.
      original_NTHWC, reconstruction_NTHWC: uint8 codes.

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
    """Writes a sheet of what `compare_videos` returned; one group of rows for each clip."""
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
    )


def label_rows(clips: Clips, others: list[str]) -> list[str]:
    """Returns labels of rows: for each clip its name, over two lines, and those of `others`."""
    short = ["/\n".join(name.split("/")[-2:]) for name in name_clips(clips)]
    return [label for name in short for label in (name, *others)]
