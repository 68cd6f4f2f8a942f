"""UCSD Ped2: anomaly detection in surveillance video."""

import math

from benchmarks.boards.running import Trained, train
from benchmarks.results import Board, Measurement, Request

PROTOCOLS = ("micro_raw", "micro_minmax", "macro", "ap")
METRICS = (*PROTOCOLS, *(f"{name}_smoothed" for name in PROTOCOLS), "fpr", "recall")
# Name of a run -> its configuration.
RUNS = {"speed": "configs/ped2.py", "frames": "configs/ped2_frames.py"}
# What is far behind is not worth more seeds.
NUM_SEEDS = {"frames": 3}
KNOW_NOTHING = ("time_index", "brightness")

BOARD = Board(
    task="ped2",
    protocol="Frame AUROC on UCSD Ped2: 12 test videos, 2,010 frames; scores as they are "
    "(micro_raw), scaled by each video's minimum and maximum (micro_minmax), mean over the 8 "
    "videos with both kinds of frames (macro); no smoothing. Rows `speed` see the local speed of "
    "what moves, rows `frames` gray frames. The headline row and its view were chosen by speed-ups "
    "and enlargements planted into training videos, after an earlier look at the test videos had "
    "shown that local speed matters: the choice was not blind. `active_frame`: active units of the "
    "frame latent.",
    data="UCSD Ped2, 16 training and 12 test videos",
    headlines=("speed/iwae", "speed/fusion_motion"),
    columns=("micro_raw", "micro_minmax", "macro", "active_frame"),
    published=(
        {
            "row": "AI-VAD (Reiss and Hoshen 2022): velocity, pose and CLIP features of detected "
            "objects, by pretrained networks; smoothed over time",
            "value": "(0.991)",
            "source": "arXiv:2212.00789",
        },
        {
            "row": "MemAE (Gong et al. 2019), gray frames",
            "value": "(micro_minmax 0.941)",
            "source": "arXiv:1904.02639; re-runs by others 0.91 to 0.94",
        },
        {
            "row": "FUVAS (2025)",
            "value": "0.914",
            "source": "anomalib, models/video/fuvas/README.md",
        },
    ),
)


def measure(request: Request) -> list[Measurement]:
    """Trains one VAE of local speed and one of frames, and judges every score of both."""
    rows = []
    for name, config in RUNS.items():
        if request.seed >= NUM_SEEDS.get(name, math.inf):
            continue
        run = train(request, f"ped2-{name}", [config, "--evaluate.tasks", "density", "anomaly"])
        rows += _read_rows(name, run)
    # Scores without a model are the same for every seed.
    learned = ("vae", "fusion")
    return [row for row in rows if row.family in learned or request.seed == 0]


def _read_rows(name: str, run: Trained) -> list[Measurement]:
    answer, density = run.read_task("anomaly"), run.read_task("density")["rows"]["vae"]
    active = {
        f"active_{level}": density[f"active_{level}"]["value"]
        for level in ("frame", "clip")
        if f"active_{level}" in density
    }
    rows = []
    for row, values in answer["rows"].items():
        family = answer["details"]["family"][row]
        if family == "control" and row not in KNOW_NOTHING:
            family = "baseline"
        learned = family in ("vae", "fusion")
        metrics = {key: values[key]["value"] for key in METRICS if key in values}
        rows.append(
            Measurement(
                row=f"{name}/{row}",
                family=family,
                metrics=metrics | (active if learned else {}),
                parameters=run.parameters if learned else 0,
                frames_per_second=run.frames_per_second if learned else None,
            )
        )
    return rows
