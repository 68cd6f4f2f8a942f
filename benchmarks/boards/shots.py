"""Boundaries between shots: in test videos of the performers joined to longer ones, and drawn."""

import functools

import numpy as np

from benchmarks import shot_detectors
from benchmarks.boards.running import PERFORMERS_RUN, Trained, train
from benchmarks.resampling import draw_values
from benchmarks.results import Board, Measurement, Request
from vvae.run import open_run
from vvae.tasks.question import Question, open_question
from vvae.tasks.segmentation import segment
from vvae.tasks.segmentation.boundary_counts import Counts, count_matches
from vvae.tasks.segmentation.joined_videos import JoinedVideo
from vvae.tasks.segmentation.scene_sources import iterate_joined_videos, make_joined_videos
from vvae.tasks.segmentation.shots import make_frame_encoder

KINDS = tuple(
    (source, kind) for source in ("joined", "drawn") for kind in ("cuts", "fades", "flashes")
)
METRICS = ("f1_0", *(f"{source}_{kind}_f1_0" for source, kind in KINDS))
NUM_JOINED = 6  # of each source and kind; twice as many are fitted to
NUM_TUNED = 4  # of the latter, on which detectors of others are tuned
TRANSNET = ("transnetv2", "transnetv2_tuned")

BOARD = Board(
    task="shots",
    protocol="F1 to the frame of the boundaries between shots, over all 36 videos of a seed "
    "(`f1_0`) and by kind: videos of unseen performers joined by cuts and fades, and with flashes "
    "that are no boundaries, and the same of drawn scenes. `vae` and `frame_difference` are "
    "boosted trees trained on 72 training videos that the same program joined. "
    "`pyscenedetect_tuned` (the class and settings of PySceneDetect) and `transnetv2_tuned` (the "
    "threshold) are chosen by F1 on 24 of these; the other rows of both have the defaults of "
    "their authors. TransNetV2 was trained by its authors on films and clips of others. All see "
    "the same files of 64x64 in RGB; `vae` and `frame_difference` see their view of these. No film "
    "was measured.",
    data="built-in performers, default view",
    headlines=("vae",),
    columns=METRICS,
    unit="joined videos",
)


def measure(request: Request) -> list[Measurement]:
    """Trains one VAE; the joined videos are others in each seed."""
    run = train(request, "performers", PERFORMERS_RUN)
    with open_question(open_run(run.workdir), None, "best") as question:
        measured = make_joined_videos(question.clips, question.seed, segment._TEST, NUM_JOINED)
        rows = [
            _measure_row(name, detect, measured, run)
            for name, detect in _list_detectors(question).items()
        ]
    missing = [name for name in TRANSNET if name not in {row.row for row in rows}]
    return [*rows, *(Measurement(name, "baseline", dict.fromkeys(METRICS)) for name in missing)]


def _list_detectors(question: Question) -> dict[str, shot_detectors.Detect]:
    """Fits and tunes all detectors that are installed on joined training videos."""
    train_clips, seed = question.train, question.seed

    def iterate(count: int):
        videos = iterate_joined_videos(train_clips, seed, segment._TRAIN, count)
        return (video for _, video in videos)

    encode = make_frame_encoder(question.model, question.params, train_clips)
    readers = segment._list_readers(encode, train_clips)
    num_fitted = segment.FITTED_PER_MEASURED * NUM_JOINED
    fitted, _ = segment._fit_detectors(readers, iterate(num_fitted), seed)
    found = {
        name: functools.partial(segment._detect, fitted[name], reader)
        for name, reader in readers.items()
    }
    others = segment._list_baselines()
    found |= {name: method.find for name, method in others.items() if method.find}
    tuned = list(iterate(NUM_TUNED))
    if len(found) > len(readers):
        candidates = shot_detectors.list_pyscenedetect()
        found["pyscenedetect_tuned"] = shot_detectors.choose_best(candidates, tuned)
    if shot_detectors.find_transnet():
        candidates = shot_detectors.list_thresholds(shot_detectors.load_transnet())
        number = shot_detectors.THRESHOLDS.index(shot_detectors.TRANSNET_THRESHOLD)
        found["transnetv2"] = candidates[number]
        found["transnetv2_tuned"] = shot_detectors.choose_best(candidates, tuned)
    return found


def _measure_row(
    name: str,
    detect: shot_detectors.Detect,
    measured: dict[tuple[str, str], list[JoinedVideo]],
    run: Trained,
) -> Measurement:
    counts = {
        key: np.array([_count(detect(video), video) for video in measured[key]]) for key in KINDS
    }
    every_V3 = np.concatenate(list(counts.values()))
    by_kind = (measure_f1(counts[key]) for key in KINDS)
    is_vae = name == "vae"
    return Measurement(
        row=name,
        family="vae" if is_vae else "baseline",
        metrics=dict(zip(METRICS, (measure_f1(every_V3), *by_kind))),
        parameters=run.parameters if is_vae else 0,
        frames_per_second=run.frames_per_second if is_vae else None,
        draws=draw_values(measure_f1, (every_V3,), np.arange(len(every_V3))),
        num_units=len(every_V3),
    )


def _count(found: list[int], video: JoinedVideo) -> tuple[int, int, int]:
    counts = count_matches([found], [video.transitions], 0)
    return counts.matched, counts.num_found, counts.num_true


def measure_f1(counts_V3: np.ndarray) -> float:
    """Returns F1 of the sums of counts (matched, found, true) over videos, each a row."""
    return Counts(*counts_V3.sum(axis=0)).f1
