"""The task moderate: learns from few marked videos to find unwanted content, and evaluates it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vvae import progress
from vvae.config import Evaluate
from vvae.data.clips import Clips
from vvae.files import refuse_same
from vvae.measure.pca import fit_frame_pca, middle_frames, project_frames
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.metrics.detection import auroc, average_precision, measure_alarms, measure_calibration
from vvae.metrics.intervals import Units, compare_resamples, resample_auroc
from vvae.run import require_fitted
from vvae.tasks.moderation.answer import (
    SCORES_TABLE,
    Judgement,
    estimate_intervals,
    judge,
    write_answer,
    write_scores,
)
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
from vvae.tasks.rivals import (
    Comparison,
    advise,
    describe_rival,
    describe_units,
    find_best_rival,
    find_units,
)

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
    """Finds unwanted content: fits a detector on the videos of the run, or applies it to new ones.

    Raises:
      ValueError: If neither a class nor a file of marks is given, the marks cannot be used (see
        `read_marks`, `mark_class` and `fit_detector`), a split is missing, or there is no saved
        detector for new videos.
    """
    if question.is_new:
        path = require_fitted(question.run.workdir, "moderate")
        return apply_detector(question, load_detector(path))
    result = moderate(question, _read_marks(question, options))
    asked = {
        "--unwanted": options.unwanted,
        "--num_marks": options.num_marks,
        "--marks": options.marks,
    }
    return record_options(result, asked)


def _read_marks(question: Question, options: Moderate) -> Marks:
    """Returns the marks that the options describe."""
    if options.marks is not None:
        refuse_same(question.folder / MARKS_FILE, [options.marks])
        return read_marks(options.marks, question.dataset)
    if options.unwanted is None:
        raise ValueError("moderate needs marked videos: give --unwanted CLASS or --marks FILE.csv")
    return mark_class(
        question.dataset,
        options.unwanted,
        options.num_marks,
        split=question.split,
        seed=question.seed,
    )


def moderate(question: Question, marks: Marks) -> Result:
    """Fits a detector to the marked videos of `train` and applies it to the evaluated split.

    The marked videos of the split measure the detector, beside detectors on other features. Every
    video of the split gets a verdict. Writes moderate.npz (the detector), moderate_marks.csv (the
    marks that it was fitted to) and the files of `write_answer`.

    Args:
      question: The run and the videos.
      marks: The result of `read_marks` or `mark_class`.

    Raises:
      ValueError: If a split is missing, the evaluated split is `train`, or too few training videos
        are marked, see `fit_detector`.
    """
    if question.split == "train":
        raise ValueError(
            "moderate cannot be measured on train, which it is fitted to: add videos with the "
            "split test"
        )
    train, clips = _drop_empty(question.train), _drop_empty(question.clips)
    marked_V, _ = select_marked(train, marks.unwanted)
    if not marked_V.any():
        raise ValueError(
            f"no training video is marked ({marks.text}): moderate is fitted to marked training "
            "videos"
        )
    learned = train.select(np.flatnonzero(marked_V[train.video_index_N]))
    truth = {v.name: marks.unwanted[v.name] for v in clips.videos if v.name in marks.unwanted}
    methods = _list_methods(question, train)
    if not truth:  # Nothing can be measured, so that only the verdicts of the model are needed.
        methods = {"vae": methods["vae"]}
    outcomes = {
        name: _apply_method(method, learned, clips, marks, question.settings)
        for name, method in progress.track("moderate: detectors", list(methods.items()))
    }
    rows, compared, comparison = {}, (), None
    if truth:
        units = find_units(clips, select_marked(clips, truth)[0], question.seed)
        context = _describe(question, learned, marks, truth)
        rows = _compare_methods(methods, outcomes, truth, context, units)
        comparison = _compare_with_rival(rows, outcomes, truth, units)
        compared = describe_units(len(units.index_V), units)
        if comparison is not None:
            compared += (describe_rival(comparison, advise(question, "actions")),)
        judgements = {name: judgement for name, (_, judgement) in outcomes.items()}
        if marks.left_out:
            name = "vae_all_wanted"
            rows[name], judgements[name] = _mark_all_wanted(
                question, methods["vae"], marks, truth, units
            )
        write_scores(question.folder / SCORES_TABLE, judgements, truth)
    fit, judgement = outcomes["vae"]
    save_detector(question.folder / DETECTOR_FILE, fit.detector)
    write_marks(question.folder / MARKS_FILE, learned, marks)
    result = write_answer(
        fit.detector,
        judgement,
        truth=truth,
        rows=rows,
        folder=question.folder,
    )
    return dataclasses.replace(
        result,
        details={
            **result.details,
            "comparison": {} if comparison is None else comparison.as_json(),
            "held_out_marks": _describe_fit(fit, learned, marks),
        },
        notes=(*compared, *_note_marks(train, learned, truth, marks), *result.notes),
        files=(
            DETECTOR_FILE,
            MARKS_FILE,
            *([SCORES_TABLE] if truth else []),
            *result.files,
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Method:
    """The features that a detector is fitted to.

    Attributes:
      text: What they are, for the metric cards.
      extract: N clips -> features [N, F].
    """

    text: str
    extract: Callable[[Clips], np.ndarray]


def _list_methods(question: Question, train: Clips) -> dict[str, _Method]:
    """Returns row -> the features of the model or of a baseline."""
    model, pooling = question.model, question.settings.pooling
    pca = fit_frame_pca(train, model.latent_dim + model.clip_latent_dim, question.seed)
    fresh = randomize_params(model, question.params, question.seed)
    encode = functools.partial(encode_clips, make_encoder(model, pooling))
    batch_size = question.batch_size
    return {
        "vae": _Method(
            f"latents, pooling {pooling}",
            lambda clips: encode(question.params, clips, batch_size),
        ),
        "random_encoder": _Method(
            f"latents of the same network with random weights, pooling {pooling}",
            lambda clips: encode(fresh, clips, batch_size),
        ),
        "frame_pca": _Method(
            f"PCA of the middle frame of each window, {len(pca.components_KD)} components",
            lambda clips: project_frames(pca, middle_frames(clips, np.arange(len(clips)))),
        ),
    }


def _apply_method(
    method: _Method, learned: Clips, clips: Clips, marks: Marks, settings: Evaluate
) -> tuple[Fit, Judgement]:
    """Fits a detector to marked training clips and applies it to the clips of the split."""
    fit = fit_detector(
        _gather(method.extract(learned), learned, marks),
        settings.false_positive_rate,
        settings.pooling,
        marks.unwanted_class,
    )
    return fit, judge(fit.detector, method.extract(clips), clips)


def _compare_methods(
    methods: Mapping[str, _Method],
    outcomes: Mapping[str, tuple[Fit, Judgement]],
    truth: Mapping[str, bool],
    context: Mapping[str, Any],
    units: Units,
) -> dict[str, dict[str, Metric]]:
    """Returns row -> metrics, for each method and for chance."""
    rows = {}
    for name, (fit, judgement) in outcomes.items():
        chosen = f"logistic regression, C={fit.regularization:g} by held-out groups"
        card = {**context, METHOD: f"{methods[name].text}; {chosen}"}
        rows[name] = _measure(fit.detector, judgement, truth, card, units)
    fit, judgement = outcomes["vae"]
    return rows | {"chance": _measure_chance(fit.detector, judgement.clips, truth, context, units)}


def _compare_with_rival(
    rows: Mapping[str, Mapping[str, Metric]],
    outcomes: Mapping[str, tuple[Fit, Judgement]],
    truth: Mapping[str, bool],
    units: Units,
) -> Comparison | None:
    """Compares the AUROC of the model with that of its best rival; None without a rival."""
    rival = find_best_rival(rows, [name for name in outcomes if name != "vae"], "auroc")
    if rival is None:
        return None
    names = ("vae", rival)
    known_V, unwanted_V = select_marked(outcomes["vae"][1].clips, truth)
    resampled = [
        resample_auroc(units, outcomes[name][1].score_V[known_V], unwanted_V[known_V])
        for name in names
    ]
    values = (rows["vae"]["auroc"].value, rows[rival]["auroc"].value)
    return Comparison(*names, "auroc", values, compare_resamples(units, values, tuple(resampled)))


def _mark_all_wanted(
    question: Question, method: _Method, marks: Marks, truth: Mapping[str, bool], units: Units
) -> tuple[dict[str, Metric], Judgement]:
    """Measures the model with every wanted training video marked."""
    train, clips = _drop_empty(question.train), _drop_empty(question.clips)
    marks = dataclasses.replace(
        marks,
        unwanted={**marks.unwanted, **dict.fromkeys(marks.left_out, False)},
        text=f"{marks.text}, then all others of other classes",
    )
    marked_V, _ = select_marked(train, marks.unwanted)
    learned = train.select(np.flatnonzero(marked_V[train.video_index_N]))
    fit, judgement = _apply_method(method, learned, clips, marks, question.settings)
    chosen = f"logistic regression, C={fit.regularization:g} by held-out groups"
    card = _describe(question, learned, marks, truth) | {METHOD: f"{method.text}; {chosen}"}
    return _measure(fit.detector, judgement, truth, card, units), judgement


def apply_detector(question: Question, detector: Detector) -> Result:
    """Applies a saved detector to new videos; writes the files of `write_answer`.

    The detector is measured if a class was declared unwanted and new videos are labelled with
    classes of the run.

    Raises:
      ValueError: If there are no videos, or the detector was fitted to features of another size.
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
        units = find_units(clips, select_marked(clips, truth)[0], question.seed)
        rows["vae"] = _measure(detector, judgement, truth, context, units)
    return write_answer(
        detector,
        judgement,
        truth=truth,
        rows=rows,
        folder=question.folder,
    )


def _drop_empty(clips: Clips) -> Clips:
    """Omits windows without a valid frame."""
    return clips.select(np.flatnonzero(clips.mask_NT.any(axis=1)))


def _gather(feature_NF: np.ndarray, clips: Clips, marks: Marks) -> Marked:
    _, unwanted_V = select_marked(clips, marks.unwanted)
    group_V = np.array([video.group for video in clips.videos])
    return Marked(
        feature_NF=feature_NF,
        video_N=clips.video_index_N,
        unwanted_V=unwanted_V,
        group_V=group_V,
    )


# --- numbers --------------------------------------------------------------------------------------


def _describe(question: Question, learned: Clips, marks: Marks, truth) -> dict[str, Any]:
    """Returns the entries of the metric cards that are the same for all methods."""
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
    detector: Detector,
    judgement: Judgement,
    truth: Mapping[str, bool],
    card: Mapping[str, Any],
    units: Units,
) -> dict[str, Metric]:
    """Measures a detector on the videos for which the truth is known."""
    intervals = estimate_intervals(judgement, truth, units)
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
        name: dataclasses.replace(
            make_metric(name, value, "", DEFINITIONS[name], BY_VIDEO, **card),
            interval=intervals.get(name),
        )
        for name, value in values.items()
    }


def _measure_chance(
    detector: Detector, clips: Clips, truth, context, units: Units
) -> dict[str, Metric]:
    """Measures equal scores for all videos, none of which is above the threshold."""
    constant = dataclasses.replace(detector, slope=0.0, offset=0.0)
    judgement = Judgement(
        clips=clips,
        score_N=np.zeros(len(clips)),
        score_V=np.zeros(len(clips.videos)),
        called_V=np.zeros(len(clips.videos), bool),
    )
    return _measure(
        constant, judgement, truth, {**context, METHOD: "the same score for all"}, units
    )


def _describe_fit(fit: Fit, learned: Clips, marks: Marks) -> dict[str, float]:
    """Measures the ranking and the calibration of the held-out scores of marked videos."""
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
