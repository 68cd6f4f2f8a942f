"""The shots of videos: latents of their frames, boundaries between them, a table and sheets."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.data.frames import measure_size, read_chunks, read_some
from vvae.data.sampling import cut_sequence
from vvae.data.views import encode_view, find_decode_factor
from vvae.tasks.csv_files import open_csv
from vvae.tasks.pooling import make_encoder, scale_by_uncertainty
from vvae.tasks.question import Question
from vvae.tasks.result import Result
from vvae.tasks.segmentation import boundaries
from vvae.tasks.segmentation.boundaries import Detector

SEGMENTS_FILE = "segments.csv"
MAX_SIDE = 256  # pixels of a joined video
SEGMENTS_PER_SHEET = 160
MAX_SHEETS = 10
CHUNK_WINDOWS = 16


def find_shots(question: Question, detector: Detector) -> Result:
    """Finds the shots of videos with a detector; writes segments.csv and contact sheets.

    Raises:
      ValueError: if the split is missing or the detector was fitted to other latents.
    """
    clips = question.clips
    encode = make_frame_encoder(question.model, question.params, clips)
    segments = segment_videos(encode, detector, clips)
    write_segments(question.folder / SEGMENTS_FILE, segments)
    return Result(
        task="segment",
        rows={},
        details={"threshold": detector.threshold, "broken": question.dataset.broken},
        notes=_note_shots(segments, clips),
        files=(SEGMENTS_FILE, *_draw_segments(question.folder, clips, segments)),
    )


# --- latents of frames ---------------------------------------------------------------------------


def make_frame_encoder(model, params, clips: Clips) -> Callable:
    """Returns `encode_frames` for a model: (frames_FHWC, factor) -> latents [F, Z]."""
    encoder = make_encoder(model, lambda posterior, mask_BT: scale_by_uncertainty(posterior.frame))

    def encode(video_BTHWC: np.ndarray) -> jax.Array:
        return encoder(params, video_BTHWC, np.ones(video_BTHWC.shape[:2], bool))

    return functools.partial(encode_frames, encode, clips)


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


# --- shots ----------------------------------------------------------------------------------------


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
