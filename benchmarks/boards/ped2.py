"""UCSD Ped2: anomaly detection in surveillance video."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np

from benchmarks.boards.running import Trained, train
from benchmarks.resampling import draw_values
from benchmarks.results import Board, Measurement, Request
from vvae import build
from vvae.data.clips import Clips
from vvae.metrics.detection import auroc, find_threshold, judge_scores, measure_alarms
from vvae.run import open_run
from vvae.tasks.anomaly.intervals import Frames, label_frames, list_frames

# Every score of every test frame, by the task anomaly, and what its columns begin with.
FRAMES_FILE, RAW = "anomaly_frames.csv", "raw_"
PROTOCOLS = ("micro_raw", "micro_minmax", "macro", "ap")
METRICS = (*PROTOCOLS, *(f"{name}_smoothed" for name in PROTOCOLS), "fpr", "recall")
# Name of a run -> its configuration.
RUNS = {"speed": "configs/surveillance.py", "frames": "configs/ped2_frames.py"}
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
    "shown that local speed matters: the choice was not blind. `no_latent` is the score `iwae` "
    "without a network and without latents: -log p of a clip's values at a pixel under one normal "
    "distribution of all training values, the largest of all pixels; `no_latent_by_place` has a "
    "normal distribution for each pixel. `active_frame`: active units of the frame latent; "
    "`inactive`: the share of seeds without any, in which the rows of the VAE are those of a model "
    "without latents.",
    data="UCSD Ped2, 16 training and 12 test videos",
    headlines=("speed/iwae", "speed/fusion_motion"),
    columns=("micro_raw", "micro_minmax", "macro", "active_frame", "inactive"),
    unit="test videos",
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
        rows += _read_rows(name, run, request.data_path, is_first=request.seed == 0)
    # Scores without a model are the same for every seed.
    learned = ("vae", "fusion")
    return [row for row in rows if row.family in learned or request.seed == 0]


def _read_rows(
    name: str, run: Trained, data_path: str | None, *, is_first: bool
) -> list[Measurement]:
    answer, density = run.read_task("anomaly"), run.read_task("density")["rows"]["vae"]
    active = {
        f"active_{level}": density[f"active_{level}"]["value"]
        for level in ("frame", "clip")
        if f"active_{level}" in density
    }
    active["inactive"] = float(not any(active.values()))
    frames = read_frames(run.workdir / "eval" / FRAMES_FILE)
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
                **_draw_auroc(frames.scores[row], frames.abnormal_F, frames.video_F),
            )
        )
    if is_first:
        config = open_run(run.workdir).config
        splits = build.open_data(config, data_path).splits
        rate = config.evaluate.false_positive_rate
        for row, by_place in (("no_latent", False), ("no_latent_by_place", True)):
            rows.append(_judge_normal(f"{name}/{row}", splits, rate, by_place=by_place))
    return rows


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredFrames:
    """What the task anomaly has written of the test frames: name -> scores [F], and their truth."""

    scores: dict[str, np.ndarray]
    abnormal_F: np.ndarray
    video_F: np.ndarray


def read_frames(path: Path) -> ScoredFrames:
    """Reads anomaly_frames.csv."""
    with open(path, newline="", encoding="utf-8") as file:
        frames = list(csv.DictReader(file))
    names = [name for name in frames[0] if name.startswith(RAW)]
    return ScoredFrames(
        scores={
            name.removeprefix(RAW): np.array([float(frame[name]) for frame in frames])
            for name in names
        },
        abnormal_F=np.array([frame["abnormal"] == "yes" for frame in frames]),
        video_F=np.array([frame["path"] for frame in frames]),
    )


def _draw_auroc(score_F, abnormal_F, video_F) -> dict:
    """Returns the fields `draws` and `num_units` of a measurement."""
    draws = draw_values(auroc, (score_F, abnormal_F), video_F)
    return {"draws": draws, "num_units": len(np.unique(video_F))}


def _judge_normal(
    row: str, splits: dict[str, Clips], rate: float, *, by_place: bool
) -> Measurement:
    """Measures the negative log-likelihood of a normal distribution of training values."""
    mean_HWC, std_HWC = fit_normal(splits["train"], by_place=by_place)
    scored = {split: score_normal(splits[split], mean_HWC, std_HWC) for split in ("val", "test")}
    frames, score_F = scored["test"]
    abnormal_F = label_frames(splits["test"].videos, frames)
    values = judge_scores(score_F, abnormal_F, frames.video_F).values
    threshold = find_threshold(scored["val"][1], rate).value
    alarms = measure_alarms(score_F > threshold, abnormal_F)
    metrics = {key.replace("average_precision", "ap"): value for key, value in values.items()}
    metrics |= {"fpr": alarms["false_positive_rate"], "recall": alarms["recall"]}
    return Measurement(
        row=row,
        family="baseline",
        metrics=metrics,
        **_draw_auroc(score_F, abnormal_F, frames.video_F),
    )


def fit_normal(train: Clips, *, by_place: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of the training codes, for each pixel or for all.

    Args:
      train: the clips; masked frames do not count.
      by_place: whether each pixel has a distribution of its own.

    Returns:
      Two arrays that broadcast to [H, W, C], float64; deviations are at least 1 code.
    """
    codes_FHWC = train.read(np.arange(len(train)))[train.mask_NT].astype(np.float64)
    axes = 0 if by_place else (0, 1, 2)
    return codes_FHWC.mean(axis=axes), np.maximum(codes_FHWC.std(axis=axes), 1.0)


def score_normal(clips: Clips, mean_HWC, std_HWC) -> tuple[Frames, np.ndarray]:
    """Returns the frames of all videos and their scores, nats a frame.

    As with the tiles of the VAE, a clip has one score for each pixel, the mean over its valid
    frames, and a frame has the largest score of its pixels.
    """
    frames = list_frames(clips)
    codes_NTHWC = clips.read(np.arange(len(clips))).astype(np.float64)
    nats = 0.5 * np.square((codes_NTHWC - mean_HWC) / std_HWC) + np.log(std_HWC)
    nats_NTHW = nats.sum(axis=-1) + 0.5 * codes_NTHWC.shape[-1] * math.log(2 * math.pi)
    weight_NT11 = clips.mask_NT[..., None, None] / clips.mask_NT.sum(axis=1)[:, None, None, None]
    score_N = (weight_NT11 * nats_NTHW).sum(axis=1).max(axis=(1, 2))
    return frames, score_N[frames.clip_F]
