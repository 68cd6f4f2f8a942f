"""Unwanted content, learned from a handful of marked videos: what is it worth, and where is it?"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vvae.data.clips import Clips
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
    load_detector,
    save_detector,
    to_probability,
)
from vvae.tasks.moderation.marked_videos import (
    DEFAULT_NUM_MARKS,
    Marks,
    find_class,
    mark_class,
    read_marks,
    select_marked,
    write_marks,
)
from vvae.tasks.options import Moderate
from vvae.tasks.pooling import encode_clips, make_encoder
from vvae.tasks.question import Question
from vvae.tasks.random_params import randomize_params
from vvae.tasks.result import Result, record_options

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


def answer(question: Question, options: Moderate) -> Result:
    """Finds unwanted content: by the saved detector in new videos, by a new one in the run's.

    Raises:
      ValueError: if a split is missing, there are too few marks (`fit_detector`), or there is no
        detector for new videos.
    """
    if question.is_new:
        return apply_detector(question, load_detector(question.find_fitted(DETECTOR_FILE)))
    result = moderate(question, _read_marks(question, options))
    asked = {
        "--unwanted": options.unwanted,
        "--num_marks": options.num_marks,
        "--marks": options.marks,
    }
    return record_options(result, asked)


def _read_marks(question: Question, options: Moderate) -> Marks:
    """Returns the marks that the options state."""
    if options.marks is not None:
        return read_marks(options.marks, question.dataset)
    if options.unwanted is None:
        raise ValueError("it learns from --unwanted CLASS or from --marks FILE.csv: name the task")
    count = options.num_marks or DEFAULT_NUM_MARKS
    return mark_class(
        question.dataset, options.unwanted, count, split=question.split, seed=question.seed
    )


def moderate(question: Question, marks: Marks) -> Result:
    """Learns unwanted content from marks, measures it, and writes verdicts and intervals.

    Learns from what is marked in `train` and measures what is marked in the split; every video of
    the split gets a verdict. Writes moderate.npz, CSV files and pictures.

    Args:
      question: the videos.
      marks: of `read_marks` or `mark_class`.

    Raises:
      ValueError: if a split is missing or there are too few marks, see `fit_detector`.
    """
    settings, folder, seed = question.settings, question.folder, question.seed
    if question.split == "train":
        raise ValueError("moderate cannot be measured on train, which it is fitted to")
    train, clips = _drop_empty(question.train), _drop_empty(question.clips)
    marked_V, _ = select_marked(train, marks.unwanted)
    if not marked_V.any():
        raise ValueError(f"no training video is marked ({marks.text}): moderate learns from them")
    learned = train.select(np.flatnonzero(marked_V[train.video_index_N]))
    truth = {v.name: marks.unwanted[v.name] for v in clips.videos if v.name in marks.unwanted}
    context = _describe(question, learned, marks, truth)
    fits, judgements, rows = {}, {}, {}
    for name, (extract, text) in _list_methods(question, train).items():
        if name != "vae" and not truth:
            continue  # nothing to compare
        marked = _gather(extract(learned), learned, marks)
        fits[name] = fit_detector(
            marked, settings.false_positive_rate, settings.pooling, marks.unwanted_class
        )
        judgements[name] = judge(fits[name].detector, extract(clips), clips)
        if truth:
            chosen = f"logistic regression, C={fits[name].regularization:g} by held-out groups"
            card = {**context, METHOD: f"{text}; {chosen}"}
            rows[name] = _measure(fits[name].detector, judgements[name], truth, card)
    fit = fits["vae"]
    if truth:
        rows["chance"] = _measure_chance(fit.detector, clips, truth, context)
    save_detector(folder / DETECTOR_FILE, fit.detector)
    write_marks(folder / MARKS_FILE, learned, marks)
    result = write_answer(fit.detector, judgements["vae"], truth, rows, folder, seed)
    return dataclasses.replace(
        result,
        details={**result.details, "held_out_marks": _describe_fit(fit, learned, marks)},
        notes=(*_note_marks(train, learned, truth, marks), *result.notes),
        files=(DETECTOR_FILE, MARKS_FILE, *result.files),
    )


def _list_methods(
    question: Question, train: Clips
) -> dict[str, tuple[Callable[[Clips], np.ndarray], str]]:
    """Returns name -> (clips -> one vector a window, what it is in words)."""
    model, pooling = question.model, question.settings.pooling
    pca = fit_frame_pca(train, model.latent_dim + model.clip_latent_dim, question.seed)
    fresh = randomize_params(model, question.params, question.seed)
    encode = functools.partial(encode_clips, make_encoder(model, pooling))
    batch_size = question.batch_size
    random = f"latents of the same network with random weights, pooling {pooling}"
    return {
        "vae": (
            lambda clips: encode(question.params, clips, batch_size),
            f"latents, pooling {pooling}",
        ),
        "random_encoder": (lambda clips: encode(fresh, clips, batch_size), random),
        "frame_pca": (
            lambda clips: project_frames(pca, middle_frames(clips, np.arange(len(clips)))),
            f"PCA of the middle frame of each window, {len(pca.components_KD)} components",
        ),
    }


def apply_detector(question: Question, detector: Detector) -> Result:
    """Applies a saved detector to videos; writes verdicts, intervals and pictures.

    It is measured if a class was declared unwanted and the videos are labelled with classes that
    the run knows.
    """
    clips = _drop_empty(question.clips)
    encoder = make_encoder(question.model, detector.probe.pooling)
    feature_NF = encode_clips(encoder, question.params, clips, question.batch_size)
    judgement = judge(detector, feature_NF, clips)
    truth, rows = {}, {}
    if detector.unwanted_class:
        truth = find_class(clips, question.dataset.class_names, detector.unwanted_class)
    if truth:
        context = question.describe_data() | {
            "num_videos": len(truth),
            "num_unwanted": sum(truth.values()),
            "false_positive_rate": detector.rate,
            METHOD: f"latents, pooling {detector.probe.pooling}; saved detector",
        }
        rows["vae"] = _measure(detector, judgement, truth, context)
    return write_answer(detector, judgement, truth, rows, question.folder, question.seed)


def _drop_empty(clips: Clips) -> Clips:
    """Leaves out windows without a valid frame."""
    return clips.select(np.flatnonzero(clips.mask_NT.any(axis=1)))


def _gather(feature_NF: np.ndarray, clips: Clips, marks: Marks) -> Marked:
    _, unwanted_V = select_marked(clips, marks.unwanted)
    group_V = np.array([video.group for video in clips.videos])
    return Marked(feature_NF, clips.video_index_N, unwanted_V, group_V)


# --- numbers --------------------------------------------------------------------------------------


def _describe(question: Question, learned: Clips, marks: Marks, truth) -> dict[str, Any]:
    """Returns the part of the metric cards that is the same for all methods."""
    _, learned_V = select_marked(learned, marks.unwanted)
    return question.describe_data() | {
        "num_videos": len(truth),
        "num_unwanted": sum(truth.values()),
        "marks": marks.text,
        "num_unwanted_marks": int(learned_V.sum()),
        "num_wanted_marks": int((~learned_V).sum()),
        "false_positive_rate": question.settings.false_positive_rate,
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
