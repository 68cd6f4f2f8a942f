"""How well does the model reconstruct videos? Baselines: the mean frame, PCA of equal size."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.measure.examples import choose_examples, measure_fps
from vvae.measure.frames import (
    compare_videos,
    mask_of,
    reconstruct_codes,
    score_frames,
    summarize_frames,
    write_comparison,
)
from vvae.measure.mapping import map_clips
from vvae.measure.pca import FramePCA, reconstruct_frames
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.metrics.frames import (
    SSIM_WINDOW,
    first_frame_gap,
    position_means,
    seam_index,
)
from vvae.models.causal import CausalVideoVAE
from vvae.tasks.options import Reconstruct
from vvae.tasks.quality.psnr import add_intervals, average_psnr, compare_psnr
from vvae.tasks.question import Question
from vvae.tasks.result import Picture, Result
from vvae.tasks.rivals import advise_on_pixels, describe_rival

NUM_EXAMPLES = 4
CAPTIONS = {
    "reconstruct.mp4": "Videos, what the model rebuilds of them, and the error, playing: black is "
    "no error, pale yellow 64 of 255 or more",
    "reconstruct.png": "Frames of the same videos: the video, what the model rebuilds, the error",
}
POSITIONS_CAPTIONS = {
    "reconstruct_positions.png": "How well frames are rebuilt, by their place in the clip (PSNR, "
    "higher is better): by the model, by PCA with as many numbers, by the mean frame",
}


def answer(question: Question, options: Reconstruct) -> Result:
    """Measures reconstructions from posterior means, beside PCA and the mean frame.

    PCA keeps as many numbers of a frame as the model. Both baselines are fitted to the training
    clips.

    Raises:
      ValueError: if a split is missing, or LPIPS cannot be measured.
    """
    del options  # `published` has turned them into a question already
    clips, model = question.clips, question.model
    num_numbers = model.count_numbers(clips.clip_format.clip_shape[0])
    pca = question.frame_pca
    methods = {"vae": _make_decoder(question), **_baselines(pca)}
    scores = {
        name: _score_split(run, clips, question.batch_size, question.settings.lpips)
        for name, run in methods.items()
    }
    context = question.describe_data()
    rows = {
        name: summarize_frames(
            scores[name], clips.mask_NT, clips.video_index_N, {**context, METHOD: text}
        )
        for name, text in _describe_methods(pca, num_numbers).items()
    }
    if isinstance(model, CausalVideoVAE):
        for name, row in rows.items():
            card = row["psnr"].card
            row |= _measure_seams(model, methods[name], clips, question.batch_size, card)
            row |= _measure_gap(scores[name]["psnr"], clips, card)
    psnr = {name: found["psnr"] for name, found in scores.items()}
    averaged = average_psnr(psnr, clips.mask_NT, clips, question.seed)
    rows = add_intervals(rows, averaged)
    comparison = compare_psnr(rows, averaged, "vae", ("pca", "mean_frame"))
    positions = {
        name: {metric: position_means(v, mask_of(metric, clips.mask_NT)) for metric, v in s.items()}
        for name, s in scores.items()
    }
    return Result(
        task="reconstruct",
        rows=rows,
        details={
            "comparison": comparison.as_json(),
            "by_frame_position": positions,
            "pca_fitted_to_frames": pca.num_frames,
        },
        notes=(
            describe_rival(comparison, advise_on_pixels(question)),
            *_write_notes(scores["vae"], context),
        ),
        files=(*CAPTIONS, *POSITIONS_CAPTIONS),
        pictures=(
            Picture(POSITIONS_CAPTIONS, functools.partial(_draw_positions, scores, clips)),
            Picture(
                CAPTIONS,
                functools.partial(_draw_examples, methods["vae"], clips, question.batch_size),
            ),
        ),
    )


def _make_decoder(question: Question) -> Callable:
    """Returns batch -> float codes of the reconstructions."""
    return lambda batch: reconstruct_codes(
        question.model, question.params, batch["video"], batch["mask"]
    )


def _baselines(pca: FramePCA) -> dict[str, Callable]:
    """Returns functions: batch -> float codes of the reconstructions."""

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


# Metric -> axis of [B, T, H, W, C], and between what its borders lie.
_SEAMS = {
    "seam_time": (1, "latent frames (the border of any two chunks is one of these)"),
    "seam_rows": (2, "rows of latents (the border of any two tiles is one of these)"),
    "seam_columns": (3, "columns of latents (the border of any two tiles is one of these)"),
}


def _measure_seams(model: CausalVideoVAE, run: Callable, clips: Clips, batch_size: int, card):
    """Measures seam indices at the borders of latents, over the clips without masked frames."""
    whole = clips.select(np.flatnonzero(clips.mask_NT.all(axis=1)))
    shape = clips.clip_format.clip_shape
    borders = {}
    for (name, (axis, _)), size in zip(_SEAMS.items(), model.block_shape, strict=True):
        start = 1 if axis == 1 else size  # the first frame alone is the first latent frame
        inner = np.arange(start, shape[axis - 1], size)
        if len(inner) and len(inner) < shape[axis - 1] - 1:
            borders[name] = inner
    if not len(whole) or not borders:
        return {}

    def measure(batch):
        pair = batch["video"], run(batch)
        return {n: seam_index(*pair, _SEAMS[n][0], b) for n, b in borders.items()}

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
    """Measures how much the PSNR of the first frame differs from that of the later ones."""
    gaps = first_frame_gap(psnr_NT, clips.mask_NT)
    if not len(gaps):
        return {}
    definition = "PSNR of the first frame minus the mean of the later ones"
    gap = _make_like(card, "first_frame_gap", gaps.mean(), "dB", definition, "mean over clips")
    return {"first_frame_gap": gap}


def _make_like(card, name, value, unit, definition, aggregation) -> Metric:
    """Makes a metric with the data, the split and the method of a card."""
    own = ("name", "unit", "definition", "aggregation")
    context = {key: entry for key, entry in card.items() if key not in own}
    return make_metric(name, value, unit, definition, aggregation, **context)


def _write_notes(scores, context) -> tuple[str, ...]:
    if "ssim" in scores:
        return ()
    window = SSIM_WINDOW
    return (
        f"SSIM is left out: frames of {context['frame_size']} are smaller than its window of "
        f"{window}x{window}.",
    )


def _draw_positions(scores, clips: Clips, folder: Path) -> None:
    positions = np.arange(clips.mask_NT.shape[1])
    curves = {
        name: (positions, position_means(values["psnr"], clips.mask_NT))
        for name, values in scores.items()
    }
    title = "Reconstruction by frame position (mean over clips)"
    path = folder / "reconstruct_positions.png"
    figures.write_curves(path, curves, "frame of the clip", "PSNR in dB", title)


def _draw_examples(run_model: Callable, clips: Clips, batch_size: int, folder: Path) -> None:
    shown = clips.select(choose_examples(clips, NUM_EXAMPLES))
    codes = np.rint(map_clips(run_model, shown, batch_size)).astype(np.uint8)
    videos = compare_videos(clips.view, shown.read(np.arange(len(shown))), codes)
    write_comparison(folder / "reconstruct.png", videos, shown)
    figures.write_grid_video(folder / "reconstruct.mp4", videos, measure_fps(shown))
