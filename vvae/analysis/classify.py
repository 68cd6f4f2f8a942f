"""Do the latents tell the classes apart? Linear probe and nearest neighbours on frozen features."""

import csv
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from vvae import figures, metrics
from vvae.analysis import probe as probes
from vvae.analysis.baselines import (
    FramePCA,
    fit_frame_pca,
    middle_frames,
    project_frames,
    randomize_params,
)
from vvae.analysis.features import VideoFeatures, average_by_video, extract, make_encoder
from vvae.analysis.probe import Probe
from vvae.analysis.result import Result, describe_data, require_split
from vvae.data.clips import NO_LABEL, Clips
from vvae.data.dataset import Dataset
from vvae.metrics import Metric

PROBE_FILE = "probe.npz"
MIN_CLASS_VIDEOS = 2
BY_VIDEO = "over videos; features of a video's clips are averaged"
DEFINITIONS = {
    "top1": "share of videos whose class has the highest score",
    "top5": "share of videos whose class is among the five highest scores",
    "mean_class": "mean over the classes of the share of their videos that are recognised",
}


@dataclasses.dataclass(frozen=True)
class LabelledSplits:
    """Which videos of two splits count, with classes numbered 0, ..., K-1.

    Attributes:
      train_V, test_V: bool, the videos with a label.
      train_label_V, test_label_V: class numbers of those.
      class_names: K names.
    """

    train_V: np.ndarray
    test_V: np.ndarray
    train_label_V: np.ndarray
    test_label_V: np.ndarray
    class_names: tuple[str, ...]


def match_labels(
    train_label_V: np.ndarray, test_label_V: np.ndarray, class_names: tuple[str, ...]
) -> LabelledSplits:
    """Finds the classes that can be learned and measured.

    Args:
      train_label_V, test_label_V: class ids of the videos, -1 for no label.
      class_names: by class id.

    Raises:
      ValueError: if no video or only one class is labelled, a class has one training video, or a
        test class has none.
    """
    train_V, test_V = train_label_V != NO_LABEL, test_label_V != NO_LABEL
    classes, count = np.unique(train_label_V[train_V], return_counts=True)
    if not test_V.any() or not train_V.any():
        raise ValueError(
            "classify needs labelled videos to learn from and to test on: sort them into one "
            "folder a class, or fill the column `label` of manifest.csv"
        )
    unknown = np.setdiff1d(test_label_V[test_V], classes)
    if len(unknown):
        raise ValueError(
            f"class {class_names[unknown[0]]!r} has test videos but no training video: add some, "
            "or leave the class out"
        )
    if len(classes) < 2:
        raise ValueError(
            f"all labelled training videos are of one class ({class_names[classes[0]]!r}): "
            "classify needs two or more"
        )
    if count.min() < MIN_CLASS_VIDEOS:
        raise ValueError(
            f"class {class_names[classes[count.argmin()]]!r} has one training video, too few to "
            f"learn and to choose by: add videos until it has {MIN_CLASS_VIDEOS}, or leave it out"
        )
    return LabelledSplits(
        train_V,
        test_V,
        np.searchsorted(classes, train_label_V[train_V]),
        np.searchsorted(classes, test_label_V[test_V]),
        tuple(class_names[c] for c in classes),
    )


def score_recognition(
    scores_VK: np.ndarray, label_V: np.ndarray, context: dict[str, Any]
) -> dict[str, Metric]:
    """Returns top1, top5 and mean_class, in [0, 1].

    Args:
      scores_VK: any scores, higher for likelier classes.
      label_V: class numbers.
      context: goes into every card.
    """
    confusion_KK = count_confusions(scores_VK, label_V)
    values = {
        "top1": metrics.top_k_accuracy(scores_VK, label_V, 1),
        "top5": metrics.top_k_accuracy(scores_VK, label_V, 5),
        "mean_class": metrics.mean_class_accuracy(confusion_KK),
    }
    return {
        name: metrics.make_metric(name, value, "", DEFINITIONS[name], BY_VIDEO, **context)
        for name, value in values.items()
    }


def count_confusions(scores_VK: np.ndarray, label_V: np.ndarray) -> np.ndarray:
    """Confusion matrix of the classes with the highest scores, [K, K], rows are true classes."""
    return metrics.confusion_matrix(label_V, scores_VK.argmax(axis=1), scores_VK.shape[1])


def classify(
    model,
    params,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    batch_size: int,
    pooling: str = "dynamics",
    split: str = "test",
    seed: int = 0,
) -> Result:
    """Measures recognition from latents, beside random weights, single-frame PCA and chance.

    Args:
      model: a SequentialVAE.
      params: its variables.
      dataset: the probe learns from `train`, `split` is measured.
      folder: where probe.npz and classify_confusion.png go; must exist.
      batch_size: clips at a time.
      pooling: how the latents of a clip become one vector, see `features.POOLINGS`.
      split: which split is measured.
      seed: of the random weights and of PCA.

    Raises:
      ValueError: if a split or labels are missing, see `match_labels`.
    """
    train, test = require_split(dataset, "train"), require_split(dataset, split)
    labels = match_labels(_label_videos(train), _label_videos(test), dataset.class_names)
    context = describe_data(dataset, split) | {
        "classes": list(labels.class_names),
        "num_videos": int(labels.test_V.sum()),
        "num_train_videos": int(labels.train_V.sum()),
    }
    extracted = _extract_features(model, params, train, test, batch_size, pooling, seed)
    judged = {name: _judge(features, labels, pooling) for name, features in extracted.items()}
    rows = {
        f"{name}/{classifier}": score_recognition(
            scores_VK,
            labels.test_label_V,
            {**context, metrics.METHOD: f"{extracted[name].text}; {text}"},
        )
        for name, judgement in judged.items()
        for classifier, (scores_VK, text) in judgement.scores.items()
    }
    rows["chance"] = _score_chance(labels, context)
    folder = Path(folder)
    probes.save_probe(folder / PROBE_FILE, judged["vae"].probe)
    confusion_KK = count_confusions(judged["vae"].scores["linear"][0], labels.test_label_V)
    title = f"Linear probe on {split}: top-1 {rows['vae/linear']['top1'].value:.3f}"
    figures.write_confusion_matrix(
        folder / "classify_confusion.png", confusion_KK, labels.class_names, title
    )
    return Result(
        task="classify",
        rows=rows,
        details={"class_names": labels.class_names, "confusion": confusion_KK},
        notes=_write_notes(labels),
        files=(PROBE_FILE, "classify_confusion.png"),
    )


@dataclasses.dataclass(frozen=True)
class _Features:
    """Features of the videos of both splits, and what they are in words."""

    train: VideoFeatures
    test: VideoFeatures
    text: str


@dataclasses.dataclass(frozen=True)
class _Judgement:
    """Scores of the test videos by classifier, with a description, and the fitted probe."""

    scores: dict[str, tuple[np.ndarray, str]]
    probe: Probe


def _judge(features: _Features, labels: LabelledSplits, pooling: str) -> _Judgement:
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
    neighbours = probes.knn_scores(train_VF, labels.train_label_V, test_VF, len(labels.class_names))
    return _Judgement(
        {
            "linear": (
                probes.predict_scores(probe, test_VF),
                f"standardised, multinomial logistic regression, {chosen}",
            ),
            "knn": (
                neighbours,
                f"standardised, {min(probes.MAX_NEIGHBOURS, len(train_VF))} nearest, cosine",
            ),
        },
        probe,
    )


def _extract_features(
    model, params, train: Clips, test: Clips, batch_size: int, pooling: str, seed: int
) -> dict[str, _Features]:
    encoder = make_encoder(model, pooling)
    weights = {
        "vae": (
            params,
            f"posterior means in units of their standard deviations, pooling {pooling}",
        ),
        "random_encoder": (
            randomize_params(model, params, seed),
            f"posterior means of the same network with random weights, pooling {pooling}",
        ),
    }
    features = {
        name: _Features(
            extract(encoder, weights_, train, batch_size),
            extract(encoder, weights_, test, batch_size),
            text,
        )
        for name, (weights_, text) in weights.items()
    }
    num_components = model.latent_dim + model.clip_latent_dim
    pca = fit_frame_pca(train, num_components, seed)
    text = f"PCA of the middle frame of each clip, {len(pca.components_KD)} components"
    both = (_project_middle_frames(pca, clips) for clips in (train, test))
    return features | {"frame_pca": _Features(*both, text)}


def _project_middle_frames(pca: FramePCA, clips: Clips) -> VideoFeatures:
    frames_NHWC = middle_frames(clips, np.arange(len(clips)))
    return average_by_video(project_frames(pca, frames_NHWC), clips)


def _score_chance(labels: LabelledSplits, context) -> dict[str, Metric]:
    """Scores that know only how frequent the classes are in training."""
    frequency_K = np.bincount(labels.train_label_V).astype(float)
    scores_VK = np.tile(frequency_K, (len(labels.test_label_V), 1))
    text = "always the most frequent training classes"
    return score_recognition(scores_VK, labels.test_label_V, {**context, metrics.METHOD: text})


def _label_videos(clips: Clips) -> np.ndarray:
    label_V = np.empty(len(clips.videos), np.int32)
    label_V[clips.video_index_N] = clips.label_N
    return label_V


def _write_notes(labels: LabelledSplits) -> tuple[str, ...]:
    left_out = int(np.sum(~labels.train_V) + np.sum(~labels.test_V))
    return (f"{left_out} videos without a label are left out.",) if left_out else ()


def label_videos(
    model, params, probe: Probe, clips: Clips, path: str | os.PathLike, *, batch_size: int
) -> int:
    """Applies a saved probe to videos and writes path, label and score of each as CSV.

    Args:
      model: the model that the probe was fitted on.
      params: its variables.
      probe: of `probe.load_probe`.
      clips: any videos; their own labels are not read.
      path: the CSV file; `score` is the probability of the label, in [0, 1].
      batch_size: clips at a time.

    Returns:
      The number of videos.
    """
    features = extract(make_encoder(model, probe.pooling), params, clips, batch_size)
    scores_VK = probes.predict_scores(probe, features.feature_VF)
    best_V = scores_VK.argmax(axis=1)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "score"])
        for name, best, scores_K in zip(features.name_V, best_V, scores_VK):
            writer.writerow([name, probe.class_names[best], f"{scores_K[best]:.6f}"])
    return len(best_V)
