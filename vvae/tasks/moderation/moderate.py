"""Unwanted content, learned from a handful of marked videos: what is it worth, and where is it?"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.measure.mapping import map_clips
from vvae.measure.pca import fit_frame_pca, middle_frames, project_frames
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.metrics.detection import auroc, average_precision, measure_alarms, measure_calibration
from vvae.tasks.moderation.answer import Judgement, judge, write_answer
from vvae.tasks.moderation.detector import (
    DETECTOR_FILE,
    Detector,
    Fit,
    Marked,
    fit_detector,
    save_detector,
    to_probability,
)
from vvae.tasks.moderation.marked_videos import Marks, find_class, select_marked, write_marks
from vvae.tasks.pooling import make_encoder
from vvae.tasks.random_params import randomize_params
from vvae.tasks.result import Result, describe_data, require_split

MARKS_FILE = "moderate_marks.csv"
BY_VIDEO = "over marked videos; the score of a video is the highest of its windows"
BALANCED = "wanted and unwanted videos weighted to one half each"
DEFINITIONS = {
    "auroc": "chance that an unwanted video scores above a wanted one, ties counted half",
    "ap": "average precision: sum over thresholds of precision times the recall gained",
    "precision": "share of the videos above the threshold that are unwanted",
    "recall": "share of the unwanted videos that are above the threshold",
    "fpr": "share of the wanted videos that are above the threshold",
    "brier": f"mean of (probability - truth)^2, {BALANCED}; 0.25 for a constant 0.5",
    "ece": f"expected calibration error over 10 bins of equal width, {BALANCED}",
}


def moderate(
    model,
    params,
    dataset: Dataset,
    folder: str | os.PathLike,
    marks: Marks,
    *,
    batch_size: int,
    split: str = "test",
    seed: int = 0,
    pooling: str = "dynamics",
    false_positive_rate: float = 0.01,
) -> Result:
    """Learns unwanted content from marks, measures it, and writes verdicts and intervals.

    Args:
      model: a SequentialVAE.
      params: its variables.
      dataset: what is marked in `train` is learned from, what is marked in `split` is measured on;
        every video of `split` gets a verdict.
      folder: where moderate.npz, the CSV files and pictures go; must exist.
      marks: of `marks.read_marks` or `marks.mark_class`.
      batch_size: clips at a time.
      split: which split is judged.
      seed: of random weights, of PCA and of resamples.
      pooling: how the latents of a window become one vector, see `features.POOLINGS`.
      false_positive_rate: stated share of wanted videos that are called unwanted.

    Raises:
      ValueError: if a split is missing or there are too few marks, see `fit_detector`.
    """
    if split == "train":
        raise ValueError("moderate cannot be measured on train, which it is fitted to")
    train, clips = (_drop_empty(require_split(dataset, name)) for name in ("train", split))
    marked_V, _ = select_marked(train, marks.unwanted)
    if not marked_V.any():
        raise ValueError(f"no training video is marked ({marks.text}): moderate learns from them")
    learned = train.select(np.flatnonzero(marked_V[train.video_index_N]))
    truth = {v.name: marks.unwanted[v.name] for v in clips.videos if v.name in marks.unwanted}
    context = _describe(dataset, split, learned, marks, truth, false_positive_rate)
    methods = _list_methods(model, params, train, pooling, batch_size, seed)
    fits, judgements, rows = {}, {}, {}
    for name, (extract, text) in methods.items():
        if name != "vae" and not truth:
            continue  # nothing to compare
        marked = _gather(extract(learned), learned, marks)
        fits[name] = fit_detector(marked, false_positive_rate, pooling, marks.unwanted_class)
        judgements[name] = judge(fits[name].detector, extract(clips), clips)
        if truth:
            chosen = f"logistic regression, C={fits[name].regularization:g} by held-out groups"
            card = {**context, METHOD: f"{text}; {chosen}"}
            rows[name] = _measure(fits[name].detector, judgements[name], truth, card)
    fit, folder = fits["vae"], Path(folder)
    if truth:
        rows["chance"] = _measure_chance(fit.detector, clips, truth, context)
    save_detector(folder / DETECTOR_FILE, fit.detector)
    write_marks(folder / MARKS_FILE, learned, marks)
    answer = write_answer(fit.detector, judgements["vae"], truth, rows, folder, seed)
    return dataclasses.replace(
        answer,
        details={**answer.details, "held_out_marks": _describe_fit(fit, learned, marks)},
        notes=(*_note_marks(train, learned, truth, marks), *answer.notes),
        files=(DETECTOR_FILE, MARKS_FILE, *answer.files),
    )


def _list_methods(
    model, params, train: Clips, pooling: str, batch_size: int, seed: int
) -> dict[str, tuple[Callable[[Clips], np.ndarray], str]]:
    """Returns name -> (clips -> one vector a window, what it is in words)."""
    encoder = make_encoder(model, pooling)
    pca = fit_frame_pca(train, model.latent_dim + model.clip_latent_dim, seed)
    fresh = randomize_params(model, params, seed)
    random = f"latents of the same network with random weights, pooling {pooling}"
    return {
        "vae": (
            lambda clips: _encode(encoder, params, clips, batch_size),
            f"latents, pooling {pooling}",
        ),
        "random_encoder": (lambda clips: _encode(encoder, fresh, clips, batch_size), random),
        "frame_pca": (
            lambda clips: project_frames(pca, middle_frames(clips, np.arange(len(clips)))),
            f"PCA of the middle frame of each window, {len(pca.components_KD)} components",
        ),
    }


def apply_detector(
    model,
    params,
    detector: Detector,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    batch_size: int,
    split: str,
    seed: int = 0,
) -> Result:
    """Applies a saved detector to the videos of a split; writes verdicts, intervals and pictures.

    It is measured where a class was declared unwanted and videos are labelled with classes that the
    run knows. Arguments as `moderate`.
    """
    clips = _drop_empty(require_split(dataset, split))
    encoder = make_encoder(model, detector.probe.pooling)
    judgement = judge(detector, _encode(encoder, params, clips, batch_size), clips)
    truth, rows = {}, {}
    if detector.unwanted_class:
        truth = find_class(clips, dataset.class_names, detector.unwanted_class)
    if truth:
        context = describe_data(dataset, split) | {
            "num_videos": len(truth),
            "num_unwanted": sum(truth.values()),
            "false_positive_rate": detector.rate,
            METHOD: f"latents, pooling {detector.probe.pooling}; saved detector",
        }
        rows["vae"] = _measure(detector, judgement, truth, context)
    return write_answer(detector, judgement, truth, rows, Path(folder), seed)


def _drop_empty(clips: Clips) -> Clips:
    """Leaves out windows without a valid frame."""
    return clips.select(np.flatnonzero(clips.mask_NT.any(axis=1)))


def _encode(encoder, params, clips: Clips, batch_size: int) -> np.ndarray:
    return map_clips(
        lambda batch: encoder(params, batch["video"], batch["mask"]), clips, batch_size
    )


def _gather(feature_NF: np.ndarray, clips: Clips, marks: Marks) -> Marked:
    _, unwanted_V = select_marked(clips, marks.unwanted)
    group_V = np.array([video.group for video in clips.videos])
    return Marked(feature_NF, clips.video_index_N, unwanted_V, group_V)


# --- numbers --------------------------------------------------------------------------------------


def _describe(dataset: Dataset, split: str, learned: Clips, marks: Marks, truth, rate: float):
    _, learned_V = select_marked(learned, marks.unwanted)
    return describe_data(dataset, split) | {
        "num_videos": len(truth),
        "num_unwanted": sum(truth.values()),
        "marks": marks.text,
        "num_unwanted_marks": int(learned_V.sum()),
        "num_wanted_marks": int((~learned_V).sum()),
        "false_positive_rate": rate,
    }


def _measure(
    detector: Detector, judgement: Judgement, truth: Mapping[str, bool], card: Mapping[str, Any]
) -> dict[str, Metric]:
    """Metrics over the videos whose truth is known."""
    known_V, unwanted_V = select_marked(judgement.clips, truth)
    score_V, unwanted_V = judgement.score_V[known_V], unwanted_V[known_V]
    rates = measure_alarms(judgement.called_V[known_V], unwanted_V)
    values = {
        "auroc": auroc(score_V, unwanted_V),
        "ap": average_precision(score_V, unwanted_V),
        "precision": rates["precision"],
        "recall": rates["recall"],
        "fpr": rates["false_positive_rate"],
        **measure_calibration(to_probability(detector, score_V), unwanted_V),
    }
    return {
        name: make_metric(name, value, "", DEFINITIONS[name], BY_VIDEO, **card)
        for name, value in values.items()
    }


def _measure_chance(detector: Detector, clips: Clips, truth, context) -> dict[str, Metric]:
    """A score that is the same for all, so that none is above the threshold."""
    constant = dataclasses.replace(detector, slope=0.0, offset=0.0)
    score_V = np.zeros(len(clips.videos))
    judgement = Judgement(clips, np.zeros(len(clips)), score_V, np.zeros(len(score_V), bool))
    return _measure(constant, judgement, truth, {**context, METHOD: "the same score for all"})


def _describe_fit(fit: Fit, learned: Clips, marks: Marks) -> dict[str, float]:
    """How well held-out marks are told apart, and how well calibrated their probabilities are."""
    _, unwanted_V = select_marked(learned, marks.unwanted)
    return {
        "auroc": auroc(fit.score_V, unwanted_V),
        "ap": average_precision(fit.score_V, unwanted_V),
        **measure_calibration(to_probability(fit.detector, fit.score_V), unwanted_V),
    }


def _note_marks(train: Clips, learned: Clips, truth: Mapping, marks: Marks) -> list[str]:
    _, unwanted_V = select_marked(learned, marks.unwanted)
    notes = [
        f"Learned from {unwanted_V.sum()} unwanted and {(~unwanted_V).sum()} wanted training "
        f"videos ({marks.text}): {MARKS_FILE}. {len(train.videos) - len(learned.videos)} training "
        "videos are not marked and not learned from."
    ]
    unused = len(marks.unwanted) - len(learned.videos) - len(truth)
    if unused:
        notes.append(f"{unused} marks are of videos of other splits and are not used.")
    return notes
