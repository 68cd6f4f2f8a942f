"""Where do shots begin, and which pixels are foreground? From the latents and the likelihood."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.data.views import encode_view
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.tasks.options import Segment
from vvae.tasks.question import Question
from vvae.tasks.result import Result
from vvae.tasks.segmentation import boundaries, joined_videos, pyscenedetect
from vvae.tasks.segmentation.foreground import measure_masks
from vvae.tasks.segmentation.joined_videos import JoinedVideo
from vvae.tasks.segmentation.material import SOURCES, iterate_material, make_material
from vvae.tasks.segmentation.shots import choose_size, find_shots, make_frame_encoder

DETECTOR_FILE = "boundaries.npz"
EXAMPLE_FILE = "segment_example.png"
FITTED_PER_MEASURED = 2  # joined videos
JOINED_FPS = 25.0  # nominal; the detectors compared count frames
# Streams of random numbers.
_TRAIN, _TEST = 0, 1


def answer(question: Question, options: Segment) -> Result:
    """Finds the shots of videos: by the saved detector in new videos, by a new one in the run's.

    Raises:
      ValueError: if a split is missing, or there is no detector for new videos.
    """
    del options
    if question.is_new:
        return find_shots(question, boundaries.load_detector(question.find_fitted(DETECTOR_FILE)))
    return segment(question)


def segment(question: Question, num_joined: int = 6) -> Result:
    """Fits detectors to joined training videos, measures them, and finds the shots of the split.

    Writes segments.csv, boundaries.npz and pictures, and measures foreground masks.

    Args:
      question: the run, its training videos and those that are segmented.
      num_joined: joined videos of each source and kind for measuring; twice as many for fitting.
    """
    train, clips, folder, seed = question.train, question.clips, question.folder, question.seed
    encode = make_frame_encoder(question.model, question.params, train)
    num_fitted = FITTED_PER_MEASURED * num_joined
    learned = (video for _, video in iterate_material(train, seed, _TRAIN, num_fitted))
    measured = make_material(clips, seed, _TEST, num_joined)
    context = question.describe_data() | {"videos_per_kind": num_joined}
    methods, detector = _fit_methods(encode, train, learned, seed)
    found, texts = _find_all(methods, measured)
    rows = {
        name: summarize_boundaries(measured, found[name], {**context, METHOD: text})
        for name, text in texts.items()
    }
    boundaries.save_detector(folder / DETECTOR_FILE, detector)
    shots = find_shots(question, detector)
    _draw_example(folder / EXAMPLE_FILE, encode, detector, measured)
    masks = measure_masks(question)
    return Result(
        task="segment",
        rows={**rows, **masks.rows},
        details={
            "counts": count_boundaries(measured, found),
            "threshold": detector.threshold,
            "pyscenedetect": pyscenedetect.find_pyscenedetect(),
            "masks": masks.details,
        },
        notes=(*shots.notes, *_note_material(measured), *masks.notes),
        files=(*shots.files, EXAMPLE_FILE, DETECTOR_FILE, *masks.files),
    )


# --- boundaries ----------------------------------------------------------------------------------


def _fit_methods(encode, train: Clips, learned: Iterable[JoinedVideo], seed: int):
    """Returns row -> (JoinedVideo -> boundaries, description) and the detector of the latents."""
    _, factor = choose_size(train)
    text = (
        "changes of medians over {} and least distances over {} frames (+ gap) in {}, boosted "
        "trees and threshold fitted to {} joined training videos "
        f"(at least {boundaries.MIN_DISTANCE} frames between boundaries)"
    )

    def read_latents(video: JoinedVideo):
        return encode(video.frames_THWC, factor)

    def read_pixels(video: JoinedVideo):
        codes_THWC, _, _ = encode_view(train.view, video.frames_THWC, factor)
        return codes_THWC.reshape(len(codes_THWC), -1).astype(np.float32)

    readers = {
        "vae": (read_latents, "latents in units of their posterior standard deviations"),
        "frame_difference": (read_pixels, "8-bit codes of the view"),
    }
    # The frames of one video at a time are in memory, the vectors of all.
    videos = {name: [] for name in readers}
    for video in learned:
        for name, (read, _) in readers.items():
            videos[name].append((read(video), video.transitions))
    methods, detectors = {}, {}
    for name, (read, words) in readers.items():
        detector = detectors[name] = boundaries.fit_detector(videos[name], seed)
        reach = (_list_windows(boundaries.SCALES), _list_windows(boundaries.SPANS))
        find = functools.partial(_detect, detector, read)
        methods[name] = (find, text.format(*reach, words, len(videos[name])))
    version = pyscenedetect.find_pyscenedetect()
    for name, detector in pyscenedetect.DETECTORS.items():
        if version is None:
            reason = "not run: scenedetect is not installed; pip install 'vvae[segment]'"
            methods[name] = (None, reason)
        else:
            words = f"PySceneDetect {version}, {detector} with its defaults, RGB of full size"
            methods[name] = (functools.partial(_detect_rival, name), words)
    return methods, detectors["vae"]


def _list_windows(windows: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{width}+{gap}" for width, gap in windows)


def _detect(detector, read, video: JoinedVideo) -> list[int]:
    return boundaries.detect_boundaries(detector, read(video))


def _detect_rival(name: str, video: JoinedVideo) -> list[int]:
    return pyscenedetect.detect_scenes(name, video.frames_THWC, JOINED_FPS)


def _find_all(methods, measured):
    """Returns row -> (source, kind) -> boundaries of each video, and row -> description."""
    found = {
        name: {key: [find(video) for video in videos] for key, videos in measured.items()}
        if find is not None
        else None
        for name, (find, _) in methods.items()
    }
    return found, {name: text for name, (_, text) in methods.items()}


def summarize_boundaries(measured, found, context) -> dict[str, Metric]:
    """Returns F1 at both tolerances for each source and kind, and the false alarms at flashes.

    Args:
      measured: (source, kind) -> joined videos.
      found: (source, kind) -> boundaries of each; None if the method was not run.
      context: goes into every card.
    """
    row = {}
    for (source, kind), videos in measured.items():
        references = [video.transitions for video in videos]
        card = {**context, "scenes": SOURCES[source], "num_boundaries": sum(map(len, references))}
        for tolerance in boundaries.TOLERANCES:
            value = np.nan
            if found is not None:
                value = boundaries.count_matches(found[source, kind], references, tolerance).f1
            name = f"{source}_{kind}_f1_{tolerance}"
            row[name] = make_metric(
                name,
                value,
                "",
                f"F1 of boundaries, {_describe_kind(kind)}; one-to-one, from {tolerance} frames "
                f"before the first changed frame to {tolerance} after the first of the new scene",
                "counts added up over the videos",
                **card,
            )
        if kind == "flashes":
            row |= _summarize_alarms(source, videos, found, card)
    return row


def _describe_kind(kind: str) -> str:
    return {
        "cuts": "hard cuts",
        "fades": "dissolves and fades through black of 4 to 12 frames",
        "flashes": "hard cuts, with a flash of 1 to 3 frames in every scene",
    }[kind]


def _summarize_alarms(source: str, videos, found, card) -> dict[str, Metric]:
    name, count = f"{source}_flash_alarms", sum(len(video.flashes) for video in videos)
    value = np.nan
    if found is not None:
        pairs = zip(found[source, "flashes"], videos)
        value = sum(boundaries.count_flash_alarms(f, v.flashes) for f, v in pairs) / count
    text = "share of the flashes that are taken for a boundary (lower is better)"
    return {name: make_metric(name, value, "", text, "over all flashes", **card)}


def count_boundaries(measured, found) -> dict:
    """Returns row -> source -> kind -> tolerance -> matched, found, true, precision, recall."""
    counted = {}
    for name, by_key in found.items():
        for (source, kind), videos in measured.items() if by_key is not None else ():
            references = [video.transitions for video in videos]
            for tolerance in boundaries.TOLERANCES:
                counts = boundaries.count_matches(by_key[source, kind], references, tolerance)
                place = counted.setdefault(name, {}).setdefault(source, {}).setdefault(kind, {})
                place[tolerance] = {
                    "matched": counts.matched,
                    "found": counts.num_found,
                    "true": counts.num_true,
                    "precision": counts.precision,
                    "recall": counts.recall,
                }
    return counted


# --- pictures and notes --------------------------------------------------------------------------


def _draw_example(path: Path, encode, detector, measured) -> None:
    """The score over one measured video of each kind, with what is true and what is found."""
    source = "joined" if ("joined", "cuts") in measured else "drawn"
    panels = {}
    for kind in joined_videos.KINDS:
        video = measured[source, kind][0]
        factor = video.frames_THWC.shape[1] // encode.args[1].clip_format.height
        score_F = boundaries.score_frames(detector, encode(video.frames_THWC, factor))
        spans = [(t.first, t.last) for t in video.transitions]
        panels[f"{source} {kind}"] = (score_F, spans, video.flashes)
    figures.write_boundary_curves(
        path, panels, detector.threshold, "Probability of a shot boundary (test material)"
    )


def _note_material(measured) -> tuple[str, ...]:
    notes = []
    if ("joined", "cuts") not in measured:
        notes.append("Joined videos are left out: the split has one video only.")
    if pyscenedetect.find_pyscenedetect() is None:
        notes.append("PySceneDetect: not run, it is not installed (pip install 'vvae[segment]').")
    return tuple(notes)
