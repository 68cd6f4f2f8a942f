"""The built-in performers: recognition of actions by unseen people."""

import csv
from pathlib import Path

from benchmarks import results
from benchmarks.boards.running import PERFORMERS_RUN, Trained, evaluate, train
from benchmarks.results import Board, Measurement, Request

METRICS = ("top1", "top5", "mean_class")
FIXED = ("raw", "raw_pca", "hog", "haar", "sift", "orb", "flow_histogram")
CONTROLS = ("time", "brightness", "shuffled_labels", "chance")
FINETUNE_STEPS = 1000
NOT_RUN = ("surf",)
TRAINED = {"cnn": "baseline", "supervised": "baseline", "vae_finetuned": "vae"}
# Every row's predictions, by the task classify.
ROWS_FILE = "classify_rows.csv"
# The rows that are the network of the run.
SAME_NETWORK = ("vae", "vae_finetuned", "supervised")

BOARD = Board(
    task="performers",
    protocol="Recognition of 10 actions of 10 performers that no training saw (300 test videos, 3 "
    "takes of each action); a probe on features of each video, its penalty and scaling chosen by "
    "cross-validation over training performers. `vae_finetuned` (the headline: by held-out "
    "training performers it is far above the probe): the encoder of the VAE trained on the labels "
    "too, as are `supervised` (the same network from random weights) and `cnn`. ± is the standard "
    "deviation over training seeds; intervals resample the 10 performers, which are few: such "
    "intervals cover less than 95 %. `parameters` are those of the whole network, the decoder of a "
    "VAE included.",
    data="built-in performers, 1,440 training videos",
    headlines=("vae_finetuned",),
    columns=METRICS,
    unit="performers",
)


def measure(request: Request) -> list[Measurement]:
    """Trains one VAE; what does not depend on a seed is measured in seed 0 only."""
    steps = FINETUNE_STEPS if request.num_steps is None else request.num_steps
    arguments = [*PERFORMERS_RUN, "--evaluate.finetune_steps", str(steps)]
    run = train(request, "performers", arguments)
    baselines = ["random_encoder", "cnn", "shuffled_labels"]
    if request.seed == 0:
        baselines += [*FIXED, "frame_pca", "time", "brightness", "chance", *NOT_RUN]
    evaluate(run, ["classify"], ["--baselines", *baselines])
    answer = run.read_task("classify")
    sizes = {"cnn": answer["details"]["cnn"]["num_parameters"]}
    sizes |= dict.fromkeys(SAME_NETWORK, run.parameters)
    hits = count_hits(run.workdir / "eval" / ROWS_FILE)
    return [
        _read_row(name, values, run, sizes, hits.get(name))
        for name, values in answer["rows"].items()
    ]


def count_hits(path: Path) -> dict[str, dict[str, tuple[float, int]]]:
    """Reads the predictions of all rows; returns row -> performer -> (recognised, videos)."""
    with open(path, newline="", encoding="utf-8") as file:
        videos = list(csv.DictReader(file))
    names = [name for name in videos[0] if name not in ("path", "group", "label")]
    group_V = [video["group"] for video in videos]
    return {
        name: results.count_hits(group_V, [video[name] == video["label"] for video in videos])
        for name in names
    }


def _read_row(
    name: str, values: dict, run: Trained, sizes: dict[str, int], hits: dict | None
) -> Measurement:
    what = name.split("/")[0]
    family = "control" if what in CONTROLS else TRAINED.get(what, "baseline")
    family = "vae" if what == "vae" else family
    return Measurement(
        row=name,
        family=family,
        metrics={metric: values[metric]["value"] for metric in METRICS},
        parameters=sizes.get(what, 0),
        frames_per_second=run.frames_per_second if family == "vae" else None,
        hits=hits,
    )
