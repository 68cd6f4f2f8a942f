"""Labels new videos with the probe that `classify` has saved, and measures it where labels are."""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vvae import figures, progress
from vvae.metrics.cards import METHOD
from vvae.run import require_fitted
from vvae.tasks import probe as probes
from vvae.tasks.csv_files import open_csv
from vvae.tasks.pooling import extract, make_encoder
from vvae.tasks.probe import Probe
from vvae.tasks.question import Question
from vvae.tasks.recognition.scores import count_confusions, score_recognition
from vvae.tasks.result import Picture, Result, TextTable
from vvae.tasks.rivals import describe_units, find_units

LABELS_FILE = "classify.csv"
CONFUSION_FILE = "classify_confusion.png"
CONFUSION_CAPTION = (
    "What the videos show (rows) and what was said (columns), in numbers of videos: all beside "
    "the diagonal are mistakes"
)
NUM_SHOWN = 10


def label_new_videos(question: Question) -> Result:
    """Labels every video with the probe fitted to the run's own videos; writes classify.csv.

    The probe is measured on the videos that are labelled with classes of the run.

    Raises:
      ValueError: if there is no probe.
    """
    path = require_fitted(question.run.workdir, "classify")
    probe = probes.load_probe(path)
    with progress.stage("classify: features"):
        encoder = make_encoder(question.model, probe.pooling)
        features = extract(encoder, question.params, question.clips, question.batch_size)
    scores_VK = probes.predict_scores(probe, features.feature_VF)
    true_V = [video.label for video in question.clips.videos]
    write_labels(question.folder / LABELS_FILE, features.name_V, true_V, scores_VK, probe)
    broken = question.dataset.broken
    notes = [
        f"{len(scores_VK)} videos are labelled, with scores: {question.folder / LABELS_FILE}",
        *([f"{len(broken)} videos cannot be read and are left out"] if broken else []),
        _count_labels(scores_VK, probe),
    ]
    first = _tabulate_first(features.name_V, true_V, scores_VK, probe)
    known_V = np.array([label in probe.class_names for label in true_V])
    if not known_V.any():
        (question.folder / CONFUSION_FILE).unlink(missing_ok=True)
        return Result(
            task="classify",
            rows={},
            details={"broken": broken},
            notes=tuple(notes),
            files=(LABELS_FILE,),
            tables=(first,),
        )
    result = _measure(question, probe, scores_VK, known_V, notes)
    return dataclasses.replace(result, tables=(first,))


def _measure(
    question: Question, probe: Probe, scores_VK: np.ndarray, known_V: np.ndarray, notes: list[str]
) -> Result:
    """Measures the labels of the videos whose class is known to the probe."""
    names, videos = probe.class_names, question.clips.videos
    label_V = np.array([names.index(videos[v].label) for v in np.flatnonzero(known_V)])
    units = find_units(question.clips, known_V, question.seed)
    context = question.describe_data() | {
        "classes": list(names),
        "num_videos": len(label_V),
        METHOD: f"saved probe, pooling {probe.pooling}",
    }
    row = score_recognition(scores_VK[known_V], label_V, context, units)
    confusion_KK = count_confusions(scores_VK[known_V], label_V)
    notes += describe_units(len(label_V), units)
    others = Counter(v.label for v, known in zip(videos, known_V) if v.label and not known)
    if others:
        listed = ", ".join(f"{label} ({count})" for label, count in sorted(others.items()))
        notes.append(f"Not measured, since the run does not know their classes: {listed}.")
    title = f"Saved probe on new videos: top-1 {row['top1'].value:.3f}"
    draw = functools.partial(_draw_confusion, confusion_KK, names, title)
    return Result(
        task="classify",
        rows={"vae/linear": row},
        details={
            "broken": question.dataset.broken,
            "class_names": names,
            "confusion": confusion_KK,
        },
        notes=tuple(notes),
        files=(LABELS_FILE, CONFUSION_FILE),
        pictures=(Picture({CONFUSION_FILE: CONFUSION_CAPTION}, draw),),
    )


def _draw_confusion(confusion_KK, class_names: Sequence[str], title: str, folder: Path) -> None:
    figures.write_confusion_matrix(folder / CONFUSION_FILE, confusion_KK, class_names, title)


def _count_labels(scores_VK: np.ndarray, probe: Probe) -> str:
    count_K = np.bincount(scores_VK.argmax(axis=1), minlength=len(probe.class_names))
    pairs = sorted(zip(probe.class_names, count_K), key=lambda pair: -pair[1])
    return "Videos by class: " + ", ".join(f"{name} {count}" for name, count in pairs) + "."


def _tabulate_first(
    names: Sequence[str], true_V: Sequence[str | None], scores_VK: np.ndarray, probe: Probe
) -> TextTable:
    rows = tuple(
        (name, probe.class_names[scores_K.argmax()], f"{scores_K.max():.2f}", true or "-")
        for name, true, scores_K in zip(names[:NUM_SHOWN], true_V, scores_VK)
    )
    title = f"The first {len(rows)} of {len(scores_VK)} videos"
    return TextTable(title, ("video", "label", "score", "true_label"), rows)


def write_labels(
    path: str | os.PathLike,
    names: Sequence[str],
    true_V: Sequence[str | None],
    scores_VK: np.ndarray,
    probe: Probe,
) -> None:
    """Writes the label and the scores of each video as CSV.

    Its columns are `path`, `label`, `score` (the probability of the label), `true_label` (empty if
    the video states none), and one for each class with its probability.

    Args:
      path: the CSV file to write.
      names: V names of videos.
      true_V: what the videos state.
      scores_VK: probabilities.
      probe: the probe that they come from.
    """
    with open_csv(path) as writer:
        writer.writerow(["path", "label", "score", "true_label", *probe.class_names])
        for name, true, scores_K in zip(names, true_V, scores_VK):
            best = int(scores_K.argmax())
            cells = [f"{score:.6f}" for score in scores_K]
            writer.writerow([name, probe.class_names[best], cells[best], true or "", *cells])
