"""Labels new videos with the probe that `classify` has saved."""

import os

from vvae.tasks import probe as probes
from vvae.tasks.csv_files import open_csv
from vvae.tasks.pooling import extract, make_encoder
from vvae.tasks.probe import Probe
from vvae.tasks.question import Question
from vvae.tasks.result import Result

LABELS_FILE = "classify.csv"


def label_new_videos(question: Question) -> Result:
    """Labels every video with the probe fitted to the run's own videos; writes classify.csv.

    Raises:
      ValueError: if there is no probe.
    """
    path = question.find_fitted(probes.PROBE_FILE)
    if not path.exists():
        command = f"python evaluate.py classify --workdir {question.run.workdir}"
        raise ValueError(f"{path} is missing: run `{command}` first")
    probe = probes.load_probe(path)
    count = label_videos(question, probe, question.folder / LABELS_FILE)
    broken = question.dataset.broken
    note = f"{count} videos are labelled, with scores: {question.folder / LABELS_FILE}"
    left_out = f"{len(broken)} videos cannot be read and are left out"
    return Result(
        task="classify",
        rows={},
        details={"broken": broken},
        notes=(note, left_out) if broken else (note,),
        files=(LABELS_FILE,),
    )


def label_videos(question: Question, probe: Probe, path: str | os.PathLike) -> int:
    """Applies a saved probe to videos, and writes the label and the scores of each as CSV.

    Args:
      question: the videos; their own labels are not read.
      probe: as `probe.load_probe` returns it, fitted to latents of the same model.
      path: the CSV file to write. Its columns are `path`, `label`, `score` (the probability of the
        label) and one for each class with its probability.

    Returns:
      The number of videos.
    """
    encoder = make_encoder(question.model, probe.pooling)
    features = extract(encoder, question.params, question.clips, question.batch_size)
    scores_VK = probes.predict_scores(probe, features.feature_VF)
    best_V = scores_VK.argmax(axis=1)
    with open_csv(path) as writer:
        writer.writerow(["path", "label", "score", *probe.class_names])
        for name, best, scores_K in zip(features.name_V, best_V, scores_VK):
            cells = [f"{score:.6f}" for score in scores_K]
            writer.writerow([name, probe.class_names[best], cells[best], *cells])
    return len(best_V)
