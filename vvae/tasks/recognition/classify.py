"""Do latents separate the classes? Linear probe and nearest neighbours on frozen features."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vvae import figures, progress
from vvae.data.clips import NO_LABEL, Clips
from vvae.measure.pca import FramePCA, middle_frames, project_frames
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.metrics.intervals import Units, compare_means
from vvae.tasks import probe as probes
from vvae.tasks.options import Classify
from vvae.tasks.pooling import VideoFeatures, average_by_video, extract, make_encoder
from vvae.tasks.probe import Probe
from vvae.tasks.question import Question
from vvae.tasks.random_params import randomize_params
from vvae.tasks.recognition import classical, cnn
from vvae.tasks.recognition.few_labels import append_all_labels, measure_few_labels
from vvae.tasks.recognition.finetune import Setup, finetune, score_videos
from vvae.tasks.recognition.label import CONFUSION_CAPTION, CONFUSION_FILE, label_new_videos
from vvae.tasks.recognition.predictions import (
    NUM_MISTAKES,
    find_mistakes,
    write_mistakes,
    write_predictions,
    write_rows,
)
from vvae.tasks.recognition.scores import (
    BY_VIDEO,
    DEFINITIONS,
    LabelledSplits,
    count_confusions,
    find_hits,
    list_metrics,
    match_labels,
    score_recognition,
)
from vvae.tasks.result import Picture, Result
from vvae.tasks.rivals import (
    Comparison,
    advise,
    describe_rival,
    describe_units,
    find_best_rival,
    find_units,
)

PREDICTIONS_FILE = "classify_predictions.csv"
ROWS_FILE = "classify_rows.csv"
MISTAKES_FILE = "classify_mistakes.png"
FEW_LABELS_FILE = "classify_few_labels.png"
FEW_LABELS_CAPTION = (
    "How many labels recognition needs: accuracy by the number of labelled training videos a "
    "class; with all of them it is that of the table"
)
MISTAKES_CAPTION = "The most confident mistakes: what each video shows, and what was said"
# Written whether or not there are mistakes.
FILES = (probes.PROBE_FILE, CONFUSION_FILE, FEW_LABELS_FILE, PREDICTIONS_FILE, ROWS_FILE)
OWN = "vae/linear"
# Rows of the run itself, and controls: they are no rivals.
NO_RIVALS = ("vae", "shuffled_labels")
# Scores of the test videos [V, K], and what they come from.
_Predicted = tuple[np.ndarray, str]
# Baselines that can be asked for but are never run, and why.
NOT_RUN = {"surf": "not run: the wheels of OpenCV leave SURF out, because it was patented"}


def answer(question: Question, options: Classify) -> Result:
    """Measures recognition from latents beside baselines; labels new videos with the saved probe.

    The probe learns from the training clips. It is saved, with its predictions; for new videos the
    labels are written to classify.csv.

    Raises:
      ValueError: if a split or labels are missing (`match_labels`), if a baseline needs OpenCV and
        it is missing, or if there is no probe for new videos.
    """
    if question.is_new:
        return label_new_videos(question)
    baselines = question.settings.baselines if options.baselines is None else options.baselines
    test = question.clips
    labels = match_labels(question.train.label_V, test.label_V, question.dataset.class_names)
    units = find_units(test, labels.test_V, question.seed)
    context = question.describe_data() | {
        "classes": list(labels.class_names),
        "num_videos": int(labels.test_V.sum()),
        "num_train_videos": int(labels.train_V.sum()),
    }
    with progress.stage("classify: features"):
        poolings = options.poolings or (question.settings.pooling,)
        extracted = _extract_features(question, baselines, labels, poolings)
    classified = {
        name: _classify(features, labels, features.pooling)
        for name, features in progress.track("classify: probes", list(extracted.items()))
    }
    predicted = _predict_by_probes(extracted, classified)
    if question.settings.finetune_steps:
        predicted |= _finetune(question, labels)
    others, facts = _predict_by_baselines(question, baselines, labels, extracted["vae"])
    predicted |= others
    rows = {
        name: score_recognition(scores_VK, labels.test_label_V, {**context, METHOD: text}, units)
        for name, (scores_VK, text) in predicted.items()
    }
    comparison = _compare(predicted, rows, labels, units)
    rows = _order_rows(rows, comparison)
    for name, reason in NOT_RUN.items():
        if name in baselines:
            rows[name] = _leave_out(reason, context)
    scores_VK = predicted[OWN][0]
    confusion_KK = count_confusions(scores_VK, labels.test_label_V)
    with progress.stage("classify: few labels"):
        few_labels = _measure_few_labels(extracted, classified, labels, units)
    _write_files(question, labels, classified["vae"].probe, predicted)
    title = f"Linear probe on {question.split}: top-1 {rows[OWN]['top1'].value:.3f}"
    mistakes = _plan_mistakes(question, labels, scores_VK)
    return Result(
        task="classify",
        rows=rows,
        details={
            "class_names": labels.class_names,
            "confusion": confusion_KK,
            "comparison": {} if comparison is None else comparison.as_json(),
            "few_labels": few_labels,
            **facts,
        },
        notes=(
            *describe_units(int(labels.test_V.sum()), units),
            *(
                ()
                if comparison is None
                else [describe_rival(comparison, advise(question, "actions"))]
            ),
            *_write_notes(labels, baselines),
        ),
        files=(*FILES, *(name for picture in mistakes for name in picture.names)),
        pictures=(
            _plan_confusion(confusion_KK, labels.class_names, title),
            Picture(
                {FEW_LABELS_FILE: FEW_LABELS_CAPTION},
                functools.partial(_draw_few_labels, few_labels),
            ),
            *mistakes,
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Features:
    """Features of the videos of both splits, and their description in metric cards.

    `pooling` is that of latents, empty for other features.
    """

    train: VideoFeatures
    test: VideoFeatures
    text: str
    pooling: str = ""


@dataclasses.dataclass(frozen=True)
class _Classified:
    """Classifiers of one kind of features.

    Attributes:
      scores: classifier -> its scores of the test videos [V, K], and its description.
      probe: the fitted probe, which is the classifier "linear".
    """

    scores: dict[str, tuple[np.ndarray, str]]
    probe: Probe


def _extract_features(
    question: Question,
    baselines: Sequence[str],
    labels: LabelledSplits,
    poolings: Sequence[str],
) -> dict[str, _Features]:
    """Returns the name of a row -> its features; the row `vae` comes first.

    Each row of latents has the pooling, among these, that is best by cross-validation over its own
    training videos.
    """
    model, seed = question.model, question.seed
    train, test = question.train, question.clips
    encoders = {pooling: make_encoder(model, pooling) for pooling in poolings}

    def encode(params, what: str) -> _Features:
        candidates = []
        for pooling, encoder in encoders.items():
            both = (extract(encoder, params, clips, question.batch_size) for clips in (train, test))
            text = _describe_latents(what, pooling)
            if len(encoders) > 1:
                text += f" (the best of {', '.join(encoders)} in training videos)"
            candidates.append(_Features(*both, text, pooling))
        return candidates[0] if len(candidates) == 1 else _choose_best(candidates, labels)

    extracted = {"vae": encode(question.params, "posterior means")}
    if "random_encoder" in baselines:
        fresh = randomize_params(model, question.params, seed)
        what = "posterior means of the same network with random weights"
        extracted["random_encoder"] = encode(fresh, what)
    if "frame_pca" in baselines:
        extracted["frame_pca"] = _extract_pca(question.frame_pca, train, test)
    for name in baselines:
        if name in classical.FEATURES:
            extracted[name] = _extract_classical(name, train, test, seed)
    return extracted


def _choose_best(candidates: Sequence[_Features], labels: LabelledSplits) -> _Features:
    """Returns the features that are best by cross-validation over groups of training videos."""

    def score(features: _Features) -> float:
        train = features.train
        train_VF, group_V = train.feature_VF[labels.train_V], train.group_V[labels.train_V]
        return probes.select_settings(train_VF, labels.train_label_V, group_V)[1]

    return max(candidates, key=score)


def _classify(features: _Features, labels: LabelledSplits, pooling: str) -> _Classified:
    """Fits a linear probe and nearest neighbours, and scores the test videos."""
    train_VF = features.train.feature_VF[labels.train_V]
    test_VF = features.test.feature_VF[labels.test_V]
    settings, accuracy = probes.select_settings(
        train_VF, labels.train_label_V, features.train.group_V[labels.train_V]
    )
    probe = probes.fit_probe(train_VF, labels.train_label_V, settings, labels.class_names, pooling)
    chosen = (
        f"C={settings.regularization:g} and {settings.scaling} scale by cross-validation over "
        f"groups ({accuracy:.3f})"
    )
    linear = probes.predict_scores(probe, test_VF)
    knn = probes.knn_scores(train_VF, labels.train_label_V, test_VF, len(labels.class_names))
    num_neighbours = min(probes.MAX_NEIGHBOURS, len(train_VF))
    return _Classified(
        {
            "linear": (linear, f"standardised, multinomial logistic regression, {chosen}"),
            "knn": (knn, f"standardised, {num_neighbours} nearest, cosine"),
        },
        probe,
    )


def _predict_by_probes(
    extracted: Mapping[str, _Features], classified: Mapping[str, _Classified]
) -> dict[str, _Predicted]:
    """Returns "features/classifier" -> scores of the test videos, and what they come from."""
    return {
        f"{name}/{classifier}": (scores_VK, f"{extracted[name].text}; {text}")
        for name, fitted in classified.items()
        for classifier, (scores_VK, text) in fitted.scores.items()
    }


def _compare(
    predicted: Mapping[str, _Predicted],
    rows: Mapping[str, Mapping[str, Metric]],
    labels: LabelledSplits,
    units: Units,
) -> Comparison | None:
    """Compares the linear probe of the latents with its best rival; None without a rival."""
    rivals = [name for name in rows if not name.startswith(NO_RIVALS)]
    rival = find_best_rival(rows, rivals, "top1")
    if rival is None:
        return None
    own_V, rival_V = (find_hits(predicted[n][0], labels.test_label_V) for n in (OWN, rival))
    values = (rows[OWN]["top1"].value, rows[rival]["top1"].value)
    return Comparison(OWN, rival, "top1", values, compare_means(units, own_V, rival_V))


def _order_rows(
    rows: Mapping[str, Mapping[str, Metric]], comparison: Comparison | None
) -> dict[str, Mapping[str, Metric]]:
    """Returns the rows with the strongest rival first, then those of the run."""
    first = [] if comparison is None else [comparison.rival]
    own = [name for name in rows if name.startswith("vae")]
    return {name: rows[name] for name in dict.fromkeys((*first, *own, *rows))}


def _measure_few_labels(extracted, classified, labels: LabelledSplits, units: Units) -> dict:
    rows = {
        name: (
            extracted[name].train.feature_VF[labels.train_V],
            extracted[name].test.feature_VF[labels.test_V],
        )
        for name in extracted
    }
    few = measure_few_labels(rows, labels.train_label_V, labels.test_label_V, units.seed, units)
    hits = {
        name: find_hits(fitted.scores["linear"][0], labels.test_label_V)
        for name, fitted in classified.items()
    }
    return append_all_labels(few, hits, units)


def _plan_confusion(confusion_KK: np.ndarray, class_names: Sequence[str], title: str) -> Picture:
    def draw(folder: Path) -> None:
        figures.write_confusion_matrix(folder / CONFUSION_FILE, confusion_KK, class_names, title)

    return Picture({CONFUSION_FILE: CONFUSION_CAPTION}, draw)


def _draw_few_labels(few_labels: dict, folder: Path) -> None:
    curves = {
        name: (row["mean"], row["low"], row["high"]) for name, row in few_labels["rows"].items()
    }
    title = (
        f"Few labels: mean of {few_labels['num_draws']} paired draws, 95 % interval over test "
        "videos\none fixed logistic regression; all: the table's linear probe"
    )
    ticks = [str(n) for n in few_labels["labels"]]
    figures.write_label_curves(folder / FEW_LABELS_FILE, curves, ticks, title)


def _write_files(
    question: Question,
    labels: LabelledSplits,
    probe: Probe,
    predicted: Mapping[str, _Predicted],
) -> None:
    """Writes the probe of the latents, its predictions, and those of every row."""
    folder, label_V, names = question.folder, labels.test_label_V, labels.class_names
    probes.save_probe(folder / probes.PROBE_FILE, probe)
    videos = [question.clips.videos[v] for v in np.flatnonzero(labels.test_V)]
    paths = [video.name for video in videos]
    write_predictions(folder / PREDICTIONS_FILE, paths, label_V, predicted[OWN][0], names)
    scores = {name: scores_VK for name, (scores_VK, _) in predicted.items()}
    write_rows(folder / ROWS_FILE, videos, label_V, scores, names)


def _plan_mistakes(
    question: Question, labels: LabelledSplits, scores_VK: np.ndarray
) -> tuple[Picture, ...]:
    """Returns the picture of the most confident mistakes; removes an old one if there is none."""
    if not len(find_mistakes(labels.test_label_V, scores_VK, NUM_MISTAKES)):
        (question.folder / MISTAKES_FILE).unlink(missing_ok=True)
        return ()

    def draw(folder: Path) -> None:
        write_mistakes(
            folder / MISTAKES_FILE,
            question.clips,
            videos=np.flatnonzero(labels.test_V),
            label_V=labels.test_label_V,
            scores_VK=scores_VK,
            class_names=labels.class_names,
        )

    return (Picture({MISTAKES_FILE: MISTAKES_CAPTION}, draw),)


def _finetune(question: Question, labels: LabelledSplits) -> dict[str, _Predicted]:
    """Returns the predictions of supervised training, from the run's and from fresh weights."""
    model, train, pooling = question.model, question.train, question.settings.pooling
    num_steps = question.settings.finetune_steps
    label_V = np.full(len(train.videos), NO_LABEL)
    label_V[labels.train_V] = labels.train_label_V
    setup = Setup(
        model=model,
        params=question.params,
        clips=train,
        label_V=label_V,
        num_classes=len(labels.class_names),
        pooling=pooling,
        batch_size=question.batch_size,
        seed=question.seed,
    )
    fresh = randomize_params(model, question.params, question.seed)
    starts = {"vae_finetuned": setup, "supervised": dataclasses.replace(setup, params=fresh)}
    rows = {}
    for name, start in starts.items():
        tuned = finetune(start, num_steps)
        scores_VK = score_videos(
            model, tuned.params, tuned.head, question.clips, pooling, question.batch_size
        )
        text = (
            f"encoder and linear head trained on the labels, pooling {pooling}, "
            f"{tuned.num_steps} of {num_steps} steps at {tuned.learning_rate:g}, chosen by "
            f"held-out groups of the training videos ({tuned.accuracy:.3f})"
        )
        rows[name] = (scores_VK[labels.test_V], text)
    return rows


def _predict_by_baselines(
    question: Question, baselines: Sequence[str], labels: LabelledSplits, latents: _Features
) -> tuple[dict[str, _Predicted], dict[str, Any]]:
    """Returns the predictions of baselines that are no probes of features, and facts about them."""
    rows, facts = {}, {}
    if "shuffled_labels" in baselines:
        row = _classify_shuffled(latents, labels, question.seed)
        rows["shuffled_labels/linear"] = row
    if "cnn" in baselines:
        rows["cnn"], facts["cnn"] = _classify_by_cnn(question, labels)
    if "chance" in baselines:
        rows["chance"] = _guess(labels)
    return rows, facts


def _classify_by_cnn(question: Question, labels: LabelledSplits):
    """Returns the predictions of a small supervised network, and facts about it."""
    dataset, split, seed = question.dataset, question.split, question.seed
    clips = cnn.gather_labelled(dataset, split, labels.class_names, seed)
    num_steps = cnn.choose_num_steps(clips.train)
    network = cnn.train_network(clips, len(labels.class_names), num_steps=num_steps, seed=seed)
    scores_VK = cnn.score_videos(network.model, network.params, question.clips)
    facts = {
        "num_parameters": network.num_parameters,
        "num_train_clips": len(clips.train),
        "num_steps": network.num_steps,
        "max_steps": num_steps,
        "chosen_by": clips.source,
        "chosen_accuracy": network.accuracy,
    }
    text = (
        f"supervised 3-D convolutional network of {network.num_parameters:,} parameters, trained "
        f"on {len(clips.train)} labelled clips, shifted and relit, without latents; "
        f"{network.num_steps} of {num_steps} steps, chosen by {clips.source} "
        f"({network.accuracy:.3f}); logits of a video's clips are averaged"
    )
    return (scores_VK[labels.test_V], text), facts


def _describe_latents(what: str, pooling: str) -> str:
    unit = " in units of their standard deviations" if pooling not in ("clip", "stats") else ""
    return f"{what}{unit}, pooling {pooling}"


def _extract_pca(pca: FramePCA, train: Clips, test: Clips) -> _Features:
    text = f"PCA of the middle frame of each clip, {len(pca.components_KD)} components"
    return _Features(*(_project_middle_frames(pca, clips) for clips in (train, test)), text)


def _extract_classical(name: str, train: Clips, test: Clips, seed: int) -> _Features:
    feature = classical.FEATURES[name](train, seed)
    both = (average_by_video(feature.extract(clips), clips) for clips in (train, test))
    return _Features(*both, feature.text)


def _project_middle_frames(pca: FramePCA, clips: Clips) -> VideoFeatures:
    frames_NHWC = middle_frames(clips, np.arange(len(clips)))
    return average_by_video(project_frames(pca, frames_NHWC), clips)


def _guess(labels: LabelledSplits) -> _Predicted:
    """Predicts from nothing but the class frequencies of the training videos."""
    frequency_K = np.bincount(labels.train_label_V).astype(float)
    scores_VK = np.tile(frequency_K, (len(labels.test_label_V), 1))
    return scores_VK, "always the most frequent training classes"


def _classify_shuffled(features: _Features, labels: LabelledSplits, seed: int) -> _Predicted:
    """Predicts by the same procedure with shuffled labels: more than chance reveals a leak."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    shuffled = dataclasses.replace(labels, train_label_V=random.permutation(labels.train_label_V))
    scores_VK, text = _classify(features, shuffled, features.pooling).scores["linear"]
    return scores_VK, f"control: training labels shuffled; {features.text}; {text}"


def _leave_out(reason: str, context) -> dict[str, Metric]:
    """Returns the row of a baseline that is not run: NaN, with the reason as its method."""
    return {
        name: make_metric(
            name, math.nan, "", DEFINITIONS[name], BY_VIDEO, **context, **{METHOD: reason}
        )
        for name in list_metrics(len(context["classes"]))
    }


def _write_notes(labels: LabelledSplits, baselines: Sequence[str]) -> tuple[str, ...]:
    left_out = int(np.sum(~labels.train_V) + np.sum(~labels.test_V))
    notes = (f"{left_out} videos without a label are left out.",) if left_out else ()
    return notes + tuple(f"{name}: {why}." for name, why in NOT_RUN.items() if name in baselines)
