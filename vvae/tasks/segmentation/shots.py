"""Finds the shots of videos from the latents of their frames; writes a table and contact sheets."""

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
from vvae.tasks.result import Picture, Result
from vvae.tasks.segmentation import boundaries
from vvae.tasks.segmentation.boundaries import Detector

SEGMENTS_FILE = "segments.csv"
MAX_SIDE = 256  # the longest side of a joined video, pixels
SEGMENTS_PER_SHEET = 160
MAX_SHEETS = 10
CHUNK_WINDOWS = 16


def find_shots(question: Question, detector: Detector) -> Result:
    """Finds the shots of videos with a detector.

    Writes segments.csv. The pictures are contact sheets: segments.png, segments_2.png, ...

    Raises:
      ValueError: If the split is missing, or the detector was fitted to latents of another size.
    """
    clips = question.clips
    encode = make_frame_encoder(question.model, question.params, clips)
    segments = segment_videos(encode, detector, clips)
    write_segments(question.folder / SEGMENTS_FILE, segments)
    sheets = _list_sheets(clips, segments)
    return Result(
        task="segment",
        rows={},
        details={"threshold": detector.threshold, "broken": question.dataset.broken},
        notes=_note_shots(segments, clips),
        files=(SEGMENTS_FILE, *(name for sheet in sheets for name in sheet.names)),
        pictures=sheets,
    )


# --- latents of frames ---------------------------------------------------------------------------


def make_frame_encoder(model, params, clips: Clips) -> Callable:
    """Returns `encode_frames` for a model: (frames_FHWC, factor) -> latents float32 [F, Z]."""
    encoder = make_encoder(model, lambda posterior, mask_BT: scale_by_uncertainty(posterior.frame))

    def encode(video_BTHWC: np.ndarray) -> jax.Array:
        return encoder(params, video_BTHWC, np.ones(video_BTHWC.shape[:2], bool))

    return functools.partial(encode_frames, encode, clips)


def encode_frames(
    encode: Callable, clips: Clips, frames_FHWC: np.ndarray, factor: int
) -> np.ndarray:
    """Encodes consecutive frames to latents in units of their posterior standard deviations.

    The frames are cut into windows as in training.

    Args:
      encode: uint8 codes [B, T, H, W, C] -> [B, T, Z].
      clips: Clips of the format that the model sees.
      frames_FHWC: uint8 RGB; H and W are `factor` times the height and width of the format.
      factor: The side of the squares over which pixels are averaged, see `encode_view`.

    Returns:
      float32 [F, Z]. If the view has no value for the first frame, it takes the latent of the
      second.
    """
    codes_FHWC, valid_F, _ = encode_view(clips.view, frames_FHWC, factor)
    position_NT, _ = cut_sequence(len(codes_FHWC), clips.clip_format.sampling.num_frames)
    parts = []
    for start in range(0, len(position_NT), CHUNK_WINDOWS):
        # All batches have the same size, so that the encoder is compiled once.
        rows = np.minimum(np.arange(start, start + CHUNK_WINDOWS), len(position_NT) - 1)
        parts.append(jax.device_get(encode(codes_FHWC[position_NT[rows]])))
    latent_NTZ = np.concatenate(parts)
    latent_FZ = latent_NTZ.reshape(-1, latent_NTZ.shape[-1])[: len(codes_FHWC)]
    if not valid_F[0] and len(latent_FZ) > 1:
        latent_FZ[0] = latent_FZ[1]
    return latent_FZ


def choose_size(clips: Clips) -> tuple[tuple[int, int], int]:
    """Returns the (height, width) of joined videos and its factor relative to the model's size.

    It is the largest multiple of the model's size within the size of the first video and 256 pixels
    a side, so that detectors that read frames get more pixels than the model. If the view has
    optical flow, it is the size that flow is computed from.
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
    """Cuts videos into shots. Only latents and one chunk of frames are in memory.

    Args:
      encode: The result of `make_frame_encoder`.
      detector: The detector of boundaries.
      clips: Clips of the videos.

    Returns:
      For each shot, in order, a dictionary:
        path: The name of the video.
        start_frame: The number of the first frame in the file.
        end_frame: The number of the last frame in the file.
        start_s: The time of the first frame, s.
        end_s: The time at which the next shot begins, s; for the last shot, the time of the last
          frame.

    Raises:
      VideoError: If a video cannot be read.
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
        # Views that compare frames need those before the chunk.
        shown = np.concatenate([before, frames_FHWC])
        latents.append(encode(shown, factor)[len(shown) - len(frames_FHWC) :])
        numbers.append(number_F)
        times.append(time_F)
        before = shown[len(shown) - min(clips.view.history, len(shown)) :]
    return np.concatenate(latents), np.concatenate(numbers), np.concatenate(times)


def write_segments(path: str | os.PathLike, segments: Sequence[dict]) -> None:
    """Writes segments as CSV. Times are in seconds with three decimals."""
    with open_csv(path) as writer:
        writer.writerow(["path", "start_frame", "end_frame", "start_s", "end_s"])
        for row in segments:
            times = [f"{row['start_s']:.3f}", f"{row['end_s']:.3f}"]
            writer.writerow([row["path"], row["start_frame"], row["end_frame"], *times])


def _list_sheets(clips: Clips, segments: list[dict]) -> tuple[Picture, ...]:
    """Returns the contact sheets of up to MAX_SHEETS * SEGMENTS_PER_SHEET segments."""
    num_shown = min(len(segments), MAX_SHEETS * SEGMENTS_PER_SHEET)
    sheets = []
    for number, start in enumerate(range(0, num_shown, SEGMENTS_PER_SHEET), start=1):
        name = "segments.png" if number == 1 else f"segments_{number}.png"
        draw = functools.partial(_draw_sheet, clips, segments, start, name)
        text = f"Shots that were found: first, middle and last frame; shots {start + 1} to "
        text += str(min(start + SEGMENTS_PER_SHEET, num_shown))
        sheets.append(Picture({name: text}, draw))
    return tuple(sheets)


def _draw_sheet(clips: Clips, segments: list[dict], start: int, name: str, folder: Path) -> None:
    """Draws the first, the middle and the last frame of each segment from number `start` on."""
    shown = segments[start : start + SEGMENTS_PER_SHEET]
    figures.write_strips(
        folder / name,
        _read_strips(clips, shown),
        [f"{row['path']}  {row['start_frame']}-{row['end_frame']}" for row in shown],
        f"Segments {start + 1} to {start + len(shown)} of {len(segments)}: "
        "first, middle and last frame",
    )


def _read_strips(clips: Clips, segments: Sequence[dict]) -> list[np.ndarray]:
    """Reads three frames of each segment. Each file is read once for all of its segments."""
    paths = {video.name: video.path for video in clips.videos}
    size, _ = choose_size(clips)
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
