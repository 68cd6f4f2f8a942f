"""The built-in performers: each action in turn declared unwanted, found from marked videos."""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from benchmarks.boards.running import PERFORMERS_RUN, evaluate, train
from benchmarks.resampling import draw_values
from benchmarks.results import Board, Measurement, Request
from vvae.data.choreography import ACTIONS
from vvae.metrics.detection import auroc, average_precision

METRICS = ("auroc", "ap", "recall", "fpr", "lowest_recall", "highest_fpr")
# Scores and verdicts of every method, by the task moderate, and what its columns begin with.
SCORES_FILE, SCORE, CALLED = "moderate_scores.csv", "score_", "called_"
FAMILIES = {"vae": "vae", "vae_all_wanted": "vae"}
NUM_MARKS = 10

BOARD = Board(
    task="moderation",
    protocol="Each of the ten actions of the drawn performers in turn declared unwanted; mean over "
    "the actions; 30 unwanted and 270 wanted test videos of 10 performers that no training saw. "
    "A detector learns from 10 unwanted and 30 wanted marked videos; `vae_all_wanted` from 10 "
    "unwanted ones and all other training videos of the other actions. The threshold is set by "
    "held-out marks for a false-positive rate of 0.01, which 30 wanted videos cannot vouch for. "
    "`lowest_recall` and `highest_fpr` are those of the worst action. `random_encoder`: the same "
    "network with random weights; `frame_pca`: PCA of the middle frame; both from the 40 marks. "
    "Histograms of flow and a network trained on the marks were not measured, nor was content that "
    "is really unwanted. Intervals resample the 10 performers, which are few: such intervals cover "
    "less than 95 %.",
    data="built-in performers, 1,440 training videos",
    headlines=("vae",),
    columns=METRICS,
    unit="performers",
)


def measure(request: Request) -> list[Measurement]:
    """Trains one VAE, and a detector of each action."""
    run = train(request, "performers", PERFORMERS_RUN)
    found = []
    for action in ACTIONS:
        evaluate(run, ["moderate"], ["--unwanted", action, "--num_marks", str(NUM_MARKS)])
        found.append(read_scores(run.workdir / "eval" / SCORES_FILE))
    return [
        measure_row(name, [scored[name] for scored in found], run.parameters) for name in found[0]
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """Scores and verdicts of one method for V videos, their truth and their performers."""

    score_V: np.ndarray
    called_V: np.ndarray
    unwanted_V: np.ndarray
    group_V: np.ndarray


def read_scores(path: Path) -> dict[str, Scored]:
    """Reads moderate_scores.csv; returns method -> its scores."""
    with open(path, newline="", encoding="utf-8") as file:
        videos = list(csv.DictReader(file))
    names = [name.removeprefix(SCORE) for name in videos[0] if name.startswith(SCORE)]
    return {
        name: Scored(
            score_V=np.array([float(video[SCORE + name]) for video in videos]),
            called_V=np.array([video[CALLED + name] == "yes" for video in videos]),
            unwanted_V=np.array([video["unwanted"] == "yes" for video in videos]),
            group_V=np.array([video["group"] for video in videos]),
        )
        for name in names
    }


def measure_row(name: str, found: list[Scored], parameters: int) -> Measurement:
    """Averages over actions; the test videos of all actions are the same, in the same order.

    Args:
      name: Of the row.
      found: The scores of the row for each action.
      parameters: Of the VAE.
    """
    score_AV, called_AV, unwanted_AV = (
        np.stack([getattr(scored, field) for scored in found])
        for field in ("score_V", "called_V", "unwanted_V")
    )

    def average_auroc(score_VA, unwanted_VA) -> float:
        return float(np.mean([auroc(*pair) for pair in zip(score_VA.T, unwanted_VA.T)]))

    recall_A = (called_AV & unwanted_AV).sum(axis=1) / unwanted_AV.sum(axis=1)
    fpr_A = (called_AV & ~unwanted_AV).sum(axis=1) / (~unwanted_AV).sum(axis=1)
    group_V = found[0].group_V
    family = FAMILIES.get(name, "baseline")
    return Measurement(
        row=name,
        family=family,
        metrics={
            "auroc": average_auroc(score_AV.T, unwanted_AV.T),
            "ap": float(np.mean([average_precision(*p) for p in zip(score_AV, unwanted_AV)])),
            "recall": float(recall_A.mean()),
            "fpr": float(fpr_A.mean()),
            "lowest_recall": float(recall_A.min()),
            "highest_fpr": float(fpr_A.max()),
        },
        parameters=parameters if family == "vae" else 0,
        draws=draw_values(average_auroc, (score_AV.T, unwanted_AV.T), group_V),
        num_units=len(np.unique(group_V)),
    )
