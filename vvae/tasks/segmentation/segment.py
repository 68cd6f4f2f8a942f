"""The task segment: finds shots from latents, and foreground masks from the likelihood."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vvae import figures, progress
from vvae.data.clips import Clips
from vvae.data.views import encode_view
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.metrics.intervals import Units, estimate_interval, make_units, resample_ratio
from vvae.run import require_fitted
from vvae.task_table import TASKS
from vvae.tasks.csv_files import open_csv
from vvae.tasks.options import Segment
from vvae.tasks.question import Question
from vvae.tasks.result import Picture, Result
from vvae.tasks.segmentation import boundaries, joined_videos, pyscenedetect
from vvae.tasks.segmentation.boundaries import Detector
from vvae.tasks.segmentation.boundary_counts import Counts, count_flash_alarms, count_matches
from vvae.tasks.segmentation.foreground import measure_masks
from vvae.tasks.segmentation.joined_videos import JoinedVideo
from vvae.tasks.segmentation.scene_sources import SOURCES, iterate_joined_videos, make_joined_videos
from vvae.tasks.segmentation.shots import find_shots, make_frame_encoder

DETECTOR_FILE = TASKS["segment"].fitted
COUNTS_FILE = "segment_counts.csv"
EXAMPLE_FILE = "segment_example.png"
EXAMPLE_CAPTION = (
    "How likely a new shot begins at each frame of joined test videos; green: where one does; "
    "orange: flashes, where none does"
)
FITTED_PER_MEASURED = 2  # the ratio of joined videos for fitting and for evaluation
JOINED_FPS = 25.0  # nominal, frames/s; the compared detectors count frames
# The streams of random numbers of the joined videos.
_TRAIN, _TEST = 0, 1


@dataclasses.dataclass(frozen=True)
class Method:
    """A method that finds shot boundaries.

    Attributes:
      text: What the method does, for the metric cards.
      find: Video -> the detected frames, ascending. None if the method cannot be run.
    """

    text: str
    find: Callable[[JoinedVideo], list[int]] | None


@dataclasses.dataclass(frozen=True)
class Reader:
    """The vectors that a detector of boundaries is fitted to.

    Attributes:
      text: What the vectors are, for the metric cards.
      read: Video -> one vector for each frame, float [F, Z].
    """

    text: str
    read: Callable[[JoinedVideo], np.ndarray]


def answer(question: Question, options: Segment) -> Result:
    """Finds shots: fits a detector on the videos of the run, or applies it to new videos.

    Raises:
      ValueError: If a split is missing, or there is no saved detector for new videos.
    """
    del options
    if question.is_new:
        path = require_fitted(question.run.workdir, "segment")
        return find_shots(question, boundaries.load_detector(path))
    return segment(question)


def segment(question: Question, num_joined: int = 6) -> Result:
    """Fits detectors to joined training videos, evaluates them, and finds the shots of the split.

    It also evaluates foreground masks. Writes segments.csv, segment_counts.csv (of each joined
    video) and boundaries.npz. The pictures are
    contact sheets, segment_example.png and masks.png.

    Args:
      question: The run, with its training videos and the videos to segment.
      num_joined: The number of joined videos of each source and kind for the evaluation; twice as
        many are used for fitting.

    Raises:
      ValueError: If a split is missing.
    """
    train, clips, seed = question.train, question.clips, question.seed
    encode = make_frame_encoder(question.model, question.params, train)
    num_fitted = FITTED_PER_MEASURED * num_joined
    learned = (video for _, video in iterate_joined_videos(train, seed, _TRAIN, num_fitted))
    measured = make_joined_videos(clips, seed, _TEST, num_joined)
    context = question.describe_data() | {"videos_per_kind": num_joined}
    readers = _list_readers(encode, train)
    with progress.stage("segment: detectors"):
        detectors, num_learned = _fit_detectors(readers, learned, seed)
    methods = _list_methods(readers, detectors, num_learned) | _list_baselines()
    found = {
        name: _find_boundaries(method, measured)
        for name, method in progress.track("segment: boundaries", list(methods.items()))
    }
    rows = {
        name: summarize_boundaries(measured, found[name], {**context, METHOD: method.text}, seed)
        for name, method in methods.items()
    }
    _write_counts(question.folder / COUNTS_FILE, measured, found)
    boundaries.save_detector(question.folder / DETECTOR_FILE, detectors["vae"])
    shots = find_shots(question, detectors["vae"])
    masks = measure_masks(question)
    draw = functools.partial(
        _draw_example, readers["vae"], detectors["vae"], _choose_examples(measured)
    )
    return Result(
        task="segment",
        rows={**rows, **masks.rows},
        details={
            "counts": count_boundaries(measured, found),
            "threshold": detectors["vae"].threshold,
            "pyscenedetect": pyscenedetect.find_pyscenedetect(),
            "masks": masks.details,
        },
        notes=(
            f"[low, high]: 95 %, by resampling the {num_joined} joined videos of each kind "
            f"({COUNTS_FILE}), which are few and of the same split.",
            *shots.notes,
            *_note_omissions(measured),
            *masks.notes,
        ),
        files=(
            *shots.files,
            EXAMPLE_FILE,
            COUNTS_FILE,
            DETECTOR_FILE,
            *masks.files,
            *(name for picture in masks.pictures for name in picture.names),
        ),
        pictures=(*shots.pictures, Picture({EXAMPLE_FILE: EXAMPLE_CAPTION}, draw), *masks.pictures),
    )


# --- boundaries -----------------------------------------------------------------------------------


def _list_readers(encode: Callable, train: Clips) -> dict[str, Reader]:
    """Returns row -> the vectors of frames that its detector is fitted to."""

    def find_factor(video: JoinedVideo) -> int:
        # Joined videos of another split can have another size, see `choose_size`.
        return video.frames_THWC.shape[1] // train.clip_format.height

    def read_latents(video: JoinedVideo) -> np.ndarray:
        return encode(video.frames_THWC, find_factor(video))

    def read_pixels(video: JoinedVideo) -> np.ndarray:
        codes_THWC, _, _ = encode_view(train.view, video.frames_THWC, find_factor(video))
        return codes_THWC.reshape(len(codes_THWC), -1).astype(np.float32)

    return {
        "vae": Reader("latents in units of their posterior standard deviations", read_latents),
        "frame_difference": Reader("8-bit codes of the view", read_pixels),
    }


def _fit_detectors(
    readers: Mapping[str, Reader], learned: Iterable[JoinedVideo], seed: int
) -> tuple[dict[str, Detector], int]:
    """Returns row -> the detector that is fitted to its vectors, and the number of videos.

    The vectors of all videos are in memory, but the frames of only one video at a time.
    """
    videos = {name: [] for name in readers}
    num_videos = 0
    for video in learned:
        num_videos += 1
        for name, reader in readers.items():
            videos[name].append((reader.read(video), video.transitions))
    return {name: boundaries.fit_detector(videos[name], seed) for name in readers}, num_videos


def _list_methods(
    readers: Mapping[str, Reader], detectors: Mapping[str, Detector], num_videos: int
) -> dict[str, Method]:
    """Returns row -> the method that applies its detector."""
    scales, spans = _list_windows(boundaries.SCALES), _list_windows(boundaries.SPANS)
    methods = {}
    for name, reader in readers.items():
        text = (
            f"changes of medians over {scales} and least distances over {spans} frames (+ gap) in "
            f"{reader.text}, boosted trees and threshold fitted to {num_videos} joined training "
            f"videos (at least {boundaries.MIN_DISTANCE} frames between boundaries)"
        )
        methods[name] = Method(text, functools.partial(_detect, detectors[name], reader))
    return methods


def _list_windows(windows: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{width}+{gap}" for width, gap in windows)


def _detect(detector: Detector, reader: Reader, video: JoinedVideo) -> list[int]:
    return boundaries.detect_boundaries(detector, reader.read(video))


def _list_baselines() -> dict[str, Method]:
    """Returns row -> the detector of PySceneDetect, which is not run if it is not installed."""
    version = pyscenedetect.find_pyscenedetect()
    if version is None:
        reason = "not run: scenedetect is not installed; pip install 'vvae[segment]'"
        return {name: Method(reason, None) for name in pyscenedetect.DETECTORS}
    return {
        name: Method(
            f"PySceneDetect {version}, {detector} with its defaults, RGB of full size",
            functools.partial(_detect_scenes, name),
        )
        for name, detector in pyscenedetect.DETECTORS.items()
    }


def _detect_scenes(name: str, video: JoinedVideo) -> list[int]:
    return pyscenedetect.detect_scenes(name, video.frames_THWC, JOINED_FPS)


def _find_boundaries(method: Method, measured):
    """Returns (source, kind) -> the detected frames of each video; None if it cannot be run."""
    if method.find is None:
        return None
    return {key: [method.find(video) for video in videos] for key, videos in measured.items()}


def summarize_boundaries(measured, found, context, seed: int = 0) -> dict[str, Metric]:
    """Returns F1 at both tolerances for each source and kind, and the rate of alarms at flashes.

    Args:
      measured: (source, kind) -> joined videos.
      found: (source, kind) -> the detected frames of each video; None if the method was not run,
        which makes all values NaN.
      context: Entries of all metric cards.
      seed: The seed of the resamples, whose units are the joined videos.
    """
    row = {}
    for (source, kind), videos in measured.items():
        references = [video.transitions for video in videos]
        units = make_units(np.arange(len(videos)), "joined videos", seed=seed)
        card = {**context, "scenes": SOURCES[source], "num_boundaries": sum(map(len, references))}
        for tolerance in boundaries.TOLERANCES:
            value, interval = np.nan, None
            if found is not None:
                value = count_matches(found[source, kind], references, tolerance).f1
                counts = _count_videos(found[source, kind], references, tolerance)
                interval = estimate_interval(units, value, _resample_f1(units, counts))
            name = f"{source}_{kind}_f1_{tolerance}"
            metric = make_metric(
                name,
                value,
                "",
                f"F1 of boundaries, {_describe_kind(kind)}; one-to-one, from {tolerance} frames "
                f"before the first changed frame to {tolerance} after the first of the new scene",
                "counts added up over the videos",
                **card,
            )
            row[name] = dataclasses.replace(metric, interval=interval)
        if kind == "flashes":
            row |= _summarize_alarms(source, videos, found, card, units)
    return row


def _count_videos(found, references, tolerance: int) -> list[Counts]:
    return [count_matches([own], [true], tolerance) for own, true in zip(found, references)]


def _resample_f1(units: Units, counts: Sequence[Counts]) -> np.ndarray:
    """Returns F1 of each resample of the videos, float64 [R]."""
    matched_V = np.array([2 * c.matched for c in counts])
    total_V = np.array([c.num_found + c.num_true for c in counts])
    return resample_ratio(units, matched_V, total_V)


def _write_counts(path: Path, measured, found) -> None:
    """Writes the counts of each joined video and method as CSV."""
    with open_csv(path) as writer:
        head = ("method", "source", "kind", "video", "tolerance", "matched", "found", "true")
        writer.writerow(head)
        for name, by_key in found.items():
            for (source, kind), videos in measured.items() if by_key is not None else ():
                references = [video.transitions for video in videos]
                for tolerance in boundaries.TOLERANCES:
                    counts = _count_videos(by_key[source, kind], references, tolerance)
                    for number, c in enumerate(counts):
                        own = (name, source, kind, number, tolerance)
                        writer.writerow([*own, c.matched, c.num_found, c.num_true])


def _describe_kind(kind: str) -> str:
    return {
        "cuts": "hard cuts",
        "fades": "dissolves and fades through black of 4 to 12 frames",
        "flashes": "hard cuts, with a flash of 1 to 3 frames in every scene",
    }[kind]


def _summarize_alarms(source: str, videos, found, card, units: Units) -> dict[str, Metric]:
    name, count_V = f"{source}_flash_alarms", np.array([len(video.flashes) for video in videos])
    value, interval = np.nan, None
    if found is not None:
        pairs = zip(found[source, "flashes"], videos)
        alarms_V = np.array([count_flash_alarms(f, v.flashes) for f, v in pairs])
        value = float(alarms_V.sum() / count_V.sum())
        interval = estimate_interval(units, value, resample_ratio(units, alarms_V, count_V))
    text = "share of the flashes that are taken for a boundary (lower is better)"
    metric = make_metric(name, value, "", text, "over all flashes", **card)
    return {name: dataclasses.replace(metric, interval=interval)}


def count_boundaries(measured, found) -> dict:
    """Returns row -> source -> kind -> tolerance -> matched, found, true, precision, recall.

    Args:
      measured: (source, kind) -> joined videos.
      found: Row -> the `found` of `summarize_boundaries`. Methods that were not run are omitted.
    """
    counted = {}
    for name, by_key in found.items():
        for (source, kind), videos in measured.items() if by_key is not None else ():
            references = [video.transitions for video in videos]
            for tolerance in boundaries.TOLERANCES:
                counts = count_matches(by_key[source, kind], references, tolerance)
                place = counted.setdefault(name, {}).setdefault(source, {}).setdefault(kind, {})
                place[tolerance] = {
                    "matched": counts.matched,
                    "found": counts.num_found,
                    "true": counts.num_true,
                    "precision": counts.precision,
                    "recall": counts.recall,
                }
    return counted


# --- pictures and notes ---------------------------------------------------------------------------


def _choose_examples(measured) -> dict[str, JoinedVideo]:
    """Returns title -> one joined video of each kind."""
    source = "joined" if ("joined", "cuts") in measured else "drawn"
    return {f"{source} {kind}": measured[source, kind][0] for kind in joined_videos.KINDS}


def _draw_example(
    reader: Reader, detector: Detector, examples: Mapping[str, JoinedVideo], folder: Path
) -> None:
    """Draws the scores over each example, with its transitions and flashes."""
    panels = {}
    for title, video in examples.items():
        score_F = boundaries.score_frames(detector, reader.read(video))
        spans = [(t.first, t.last) for t in video.transitions]
        panels[title] = (score_F, spans, video.flashes)
    title = "Probability of a shot boundary (test material)"
    figures.write_boundary_curves(folder / EXAMPLE_FILE, panels, detector.threshold, title)


def _note_omissions(measured) -> tuple[str, ...]:
    notes = []
    if ("joined", "cuts") not in measured:
        notes.append("Joined videos are left out: the split has one video only.")
    if pyscenedetect.find_pyscenedetect() is None:
        notes.append("PySceneDetect: not run, it is not installed (pip install 'vvae[segment]').")
    return tuple(notes)
