"""Where do shots begin, and which pixels are foreground? From the latents and the likelihood."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.data.frames import measure_size, read_chunks, read_some
from vvae.data.sampling import cut_sequence
from vvae.data.views import encode_view, find_decode_factor
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.models import contract
from vvae.tasks.csv_files import open_csv
from vvae.tasks.result import Result, describe_data, require_split
from vvae.tasks.segmentation import boundaries, pyscenedetect
from vvae.tasks.segmentation import joined_videos as material
from vvae.tasks.segmentation.boundaries import Detector
from vvae.tasks.segmentation.foreground import measure_masks
from vvae.tasks.segmentation.joined_videos import JoinedVideo

SEGMENTS_FILE = "segments.csv"
DETECTOR_FILE = "boundaries.npz"
SCENES_PER_VIDEO = 12
FITTED_PER_MEASURED = 2  # joined videos
MAX_SIDE = 256  # pixels of a joined video
JOINED_FPS = 25.0  # nominal; the detectors compared count frames
SEGMENTS_PER_SHEET = 160
MAX_SHEETS = 10
CHUNK_WINDOWS = 16
# Streams of random numbers.
_TRAIN, _TEST = 0, 1
SOURCES = {
    "joined": "scenes are the first frames of the split's own videos, played to and fro",
    "drawn": "scenes are drawn: moving bodies before a drifting wall",
}


def segment(
    model,
    params,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    batch_size: int,
    split: str = "test",
    seed: int = 0,
    num_joined: int = 6,
) -> Result:
    """Finds the shots of videos, and measures how well on videos whose boundaries are known.

    Args:
      model: a SequentialVAE.
      params: its variables.
      dataset: the detectors are fitted to joined videos of `train`; the videos of `split` are
        segmented.
      folder: where segments.csv, boundaries.npz and the pictures go; must exist.
      batch_size: clips at a time.
      split: which split is segmented.
      seed: of the joined videos and of the detectors.
      num_joined: joined videos of each source and kind for measuring; twice as many for fitting.

    Raises:
      ValueError: if a split is missing.
    """
    train, clips = require_split(dataset, "train"), require_split(dataset, split)
    folder = Path(folder)
    encode = _make_frame_encoder(model, params, train)
    num_fitted = FITTED_PER_MEASURED * num_joined
    learned = (video for _, video in iterate_material(train, seed, _TRAIN, num_fitted))
    measured = make_material(clips, seed, _TEST, num_joined)
    context = describe_data(dataset, split) | {"videos_per_kind": num_joined}
    methods, detector = _fit_methods(encode, train, learned, seed)
    found, texts = _find_all(methods, measured)
    rows = {
        name: summarize_boundaries(measured, found[name], {**context, METHOD: text})
        for name, text in texts.items()
    }
    boundaries.save_detector(folder / DETECTOR_FILE, detector)
    segments, files = _write_shots(folder, encode, detector, clips)
    files = (*files, "segment_example.png", DETECTOR_FILE)
    _draw_example(folder / "segment_example.png", encode, detector, measured)
    masks = measure_masks(model, params, dataset, folder, split=split, batch_size=batch_size)
    return Result(
        task="segment",
        rows={**rows, **masks.rows},
        details={
            "counts": count_boundaries(measured, found),
            "threshold": detector.threshold,
            "pyscenedetect": pyscenedetect.find_pyscenedetect(),
            "masks": masks.details,
        },
        notes=(*_note_shots(segments, clips), *_note_material(measured), *masks.notes),
        files=(*files, *masks.files),
    )


def apply_detector(
    model, params, detector: Detector, dataset: Dataset, folder: str | os.PathLike, *, split: str
) -> Result:
    """Finds the shots of videos whose boundaries are not known, by a detector fitted before.

    Args:
      model: the SequentialVAE that the detector was fitted with.
      params: its variables.
      detector: of `boundaries.load_detector`.
      dataset: `split` is segmented.
      folder: where segments.csv and the contact sheets go; must exist.
      split: which split is segmented.

    Raises:
      ValueError: if the split is missing or the detector was fitted to other latents.
    """
    clips = require_split(dataset, split)
    encode = _make_frame_encoder(model, params, clips)
    segments, files = _write_shots(Path(folder), encode, detector, clips)
    return Result(
        task="segment",
        rows={},
        details={"threshold": detector.threshold, "broken": dataset.broken},
        notes=_note_shots(segments, clips),
        files=files,
    )


# --- latents of frames ---------------------------------------------------------------------------


def _make_frame_encoder(model, params, clips: Clips) -> Callable:
    """Returns `encode_frames` for a model: (frames_FHWC, factor) -> latents [F, Z]."""
    return functools.partial(encode_frames, _make_encoder(model, params), clips)


def _make_encoder(model, params) -> Callable:
    @jax.jit
    def encode(video_BTHWC):
        frame = contract.encode(model, params, video_BTHWC).frame
        return frame.mean * jax.numpy.exp(-0.5 * frame.logvar)

    return encode


def encode_frames(
    encode: Callable, clips: Clips, frames_FHWC: np.ndarray, factor: int
) -> np.ndarray:
    """Latents of consecutive frames in units of their posterior standard deviations.

    The frames are cut into windows as in training.

    Args:
      encode: codes uint8 [B, T, H, W, C] -> [B, T, Z].
      clips: whose format says what the model sees.
      frames_FHWC: uint8 RGB of `factor` times the model's size.
      factor: frames are averaged over squares of so many pixels, see `encode_view`.

    Returns:
      float32 [F, Z]. A frame that the view does not define has the latent of the next one.
    """
    codes_FHWC, valid_F, _ = encode_view(clips.view, frames_FHWC, factor)
    position_NT, _ = cut_sequence(len(codes_FHWC), clips.clip_format.sampling.num_frames)
    parts = []
    for start in range(0, len(position_NT), CHUNK_WINDOWS):
        # One size of batch, so that the encoder is compiled once.
        rows = np.minimum(np.arange(start, start + CHUNK_WINDOWS), len(position_NT) - 1)
        parts.append(jax.device_get(encode(codes_FHWC[position_NT[rows]])))
    latent_NTZ = np.concatenate(parts)
    latent_FZ = latent_NTZ.reshape(-1, latent_NTZ.shape[-1])[: len(codes_FHWC)]
    if not valid_F[0] and len(latent_FZ) > 1:
        latent_FZ[0] = latent_FZ[1]
    return latent_FZ


# --- joined videos -------------------------------------------------------------------------------


def choose_size(clips: Clips) -> tuple[tuple[int, int], int]:
    """Returns the size of joined videos and the factor by which it is the model's size.

    As near to that of the first video as whole factors and 256 pixels a side allow: detectors that
    look at frames get more pixels than the model. With flow in the view it is the size that flow
    is computed from.
    """
    height, width = clips.clip_format.height, clips.clip_format.width
    factor = find_decode_factor(clips.view, height, width)
    if factor == 1:
        shown_H, shown_W = measure_size(clips.videos[0].path)
        factor = min(shown_H // height, shown_W // width, MAX_SIDE // max(height, width))
        factor = max(factor, 1)
    return (factor * height, factor * width), factor


def iterate_material(
    clips: Clips, seed: int, stream: int, num_joined: int
) -> Iterator[tuple[tuple[str, str], JoinedVideo]]:
    """Makes joined videos with known boundaries, one at a time.

    Args:
      clips: of the split that gives the scenes, in the random order of the seed.
      seed, stream: of everything random.
      num_joined: videos of each source and kind.

    Yields:
      (source, kind) and a video. Source "joined" is left out if the split has one video only.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, stream]))
    size, _ = choose_size(clips)
    for source in SOURCES:
        if source == "joined" and len(clips.videos) < 2:
            continue
        for kind in material.KINDS:
            for _ in range(num_joined):
                scenes = _take_scenes(source, clips, size, rng)
                yield (source, kind), material.join_scenes(scenes, kind, rng)


def make_material(
    clips: Clips, seed: int, stream: int, num_joined: int
) -> dict[tuple[str, str], list[JoinedVideo]]:
    """Returns (source, kind) -> the joined videos of `iterate_material`."""
    made = {}
    for key, video in iterate_material(clips, seed, stream, num_joined):
        made.setdefault(key, []).append(video)
    return made


def _take_scenes(source: str, clips: Clips, size, rng) -> list[material.Scene]:
    if source == "drawn":
        return [material.draw_scene(rng, size) for _ in range(SCENES_PER_VIDEO)]
    count = min(SCENES_PER_VIDEO, len(clips.videos))
    chosen = rng.choice(len(clips.videos), count, replace=False)
    stride = clips.clip_format.sampling.frame_stride
    return [material.read_scene(clips.videos[k], size, stride) for k in chosen]


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


# --- segments of videos --------------------------------------------------------------------------


def segment_videos(encode: Callable, detector: Detector, clips: Clips) -> list[dict]:
    """Cuts videos into shots; in memory are their latents and one chunk of frames.

    Returns:
      For each shot, in order: path, start_frame, end_frame (the last frame of the shot, both
      numbers in the file), start_s, end_s (when the next shot begins; the time of the last frame
      for the last).
    """
    segments = []
    for video in clips.videos:
        latent_FZ, number_F, time_F = _encode_video(encode, clips, video.path)
        starts = [0, *boundaries.detect_boundaries(detector, latent_FZ)]
        ends = [*starts[1:], len(number_F)]
        for start, end in zip(starts, ends):
            segments.append(
                {
                    "path": video.name,
                    "start_frame": int(number_F[start]),
                    "end_frame": int(number_F[end - 1]),
                    "start_s": float(time_F[start]),
                    "end_s": float(time_F[min(end, len(time_F) - 1)]),
                }
            )
    return segments


def _encode_video(encode: Callable, clips: Clips, path: str):
    """Returns latent_FZ, number_F and time_F of the sampled frames of a file."""
    clip_format = clips.clip_format
    factor = find_decode_factor(clips.view, clip_format.height, clip_format.width)
    size = (factor * clip_format.height, factor * clip_format.width)
    length = CHUNK_WINDOWS * clip_format.sampling.num_frames
    latents, numbers, times = [], [], []
    before = np.zeros((0, *size, 3), np.uint8)
    for number_F, time_F, frames_FHWC in read_chunks(
        path, size, clip_format.sampling.frame_stride, length
    ):
        # Views of changes need the frames before the chunk.
        shown = np.concatenate([before, frames_FHWC])
        latents.append(encode(shown, factor)[len(shown) - len(frames_FHWC) :])
        numbers.append(number_F)
        times.append(time_F)
        before = shown[len(shown) - min(clips.view.history, len(shown)) :]
    return np.concatenate(latents), np.concatenate(numbers), np.concatenate(times)


def _write_shots(folder: Path, encode: Callable, detector: Detector, clips: Clips):
    """Writes the table and the contact sheets; returns the segments and the names of the files."""
    segments = segment_videos(encode, detector, clips)
    write_segments(folder / SEGMENTS_FILE, segments)
    return segments, (SEGMENTS_FILE, *_draw_segments(folder, clips, segments))


def write_segments(path: str | os.PathLike, segments: Sequence[dict]) -> None:
    """Writes segments as CSV; times in seconds with three decimals."""
    with open_csv(path) as writer:
        writer.writerow(["path", "start_frame", "end_frame", "start_s", "end_s"])
        for row in segments:
            times = [f"{row['start_s']:.3f}", f"{row['end_s']:.3f}"]
            writer.writerow([row["path"], row["start_frame"], row["end_frame"], *times])


def _draw_segments(folder: Path, clips: Clips, segments: list[dict]) -> tuple[str, ...]:
    """Contact sheets: the first, the middle and the last frame of every segment."""
    paths = {video.name: video.path for video in clips.videos}
    size, _ = choose_size(clips)
    names = []
    for start in range(0, min(len(segments), MAX_SHEETS * SEGMENTS_PER_SHEET), SEGMENTS_PER_SHEET):
        part = segments[start : start + SEGMENTS_PER_SHEET]
        name = "segments.png" if not names else f"segments_{len(names) + 1}.png"
        figures.write_strips(
            folder / name,
            _read_strips(paths, size, part),
            [f"{row['path']}  {row['start_frame']}-{row['end_frame']}" for row in part],
            f"Segments {start + 1} to {start + len(part)} of {len(segments)}: "
            "first, middle and last frame",
        )
        names.append(name)
    return tuple(names)


def _read_strips(paths, size, segments: Sequence[dict]) -> list[np.ndarray]:
    """Reads three frames of each segment; a file is read once for all of its segments here."""
    wanted: dict[str, set[int]] = {}
    for row in segments:
        wanted.setdefault(row["path"], set()).update(_three_frames(row))
    read = {name: read_some(paths[name], size, numbers) for name, numbers in wanted.items()}
    return [np.stack([read[row["path"]][k] for k in _three_frames(row)]) for row in segments]


def _three_frames(row: dict) -> tuple[int, int, int]:
    first, last = row["start_frame"], row["end_frame"]
    return first, (first + last) // 2, last


def _draw_example(path: Path, encode, detector, measured) -> None:
    """The score over one measured video of each kind, with what is true and what is found."""
    source = "joined" if ("joined", "cuts") in measured else "drawn"
    panels = {}
    for kind in material.KINDS:
        video = measured[source, kind][0]
        factor = video.frames_THWC.shape[1] // encode.args[1].clip_format.height
        score_F = boundaries.score_frames(detector, encode(video.frames_THWC, factor))
        spans = [(t.first, t.last) for t in video.transitions]
        panels[f"{source} {kind}"] = (score_F, spans, video.flashes)
    figures.write_boundary_curves(
        path, panels, detector.threshold, "Probability of a shot boundary (test material)"
    )


def _note_shots(segments: Sequence[dict], clips: Clips) -> tuple[str, ...]:
    videos = len({row["path"] for row in segments})
    notes = [f"{len(segments)} segments in {videos} videos: {SEGMENTS_FILE}."]
    if len(segments) > MAX_SHEETS * SEGMENTS_PER_SHEET:
        shown = MAX_SHEETS * SEGMENTS_PER_SHEET
        notes.append(f"The contact sheets show the first {shown} segments.")
    if set(clips.view.parts) <= {"difference", "motion", "flow", "rootflow", "rootspeed"}:
        notes.append(
            f"The view {clips.view.name} shows changes only: a cut is a flash to it, so that "
            "boundaries are found poorly; use a view with gray or rgb."
        )
    return tuple(notes)


def _note_material(measured) -> tuple[str, ...]:
    notes = []
    if ("joined", "cuts") not in measured:
        notes.append("Joined videos are left out: the split has one video only.")
    if pyscenedetect.find_pyscenedetect() is None:
        notes.append("PySceneDetect: not run, it is not installed (pip install 'vvae[segment]').")
    return tuple(notes)
