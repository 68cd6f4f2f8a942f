"""Writes H.264 videos by the ffmpeg of imageio-ffmpeg."""

import contextlib
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from vvae.files import replacing
from vvae.video.errors import VideoError, first_line
from vvae.video.frames import SQUARE

# From SSE on, the assembly of x264 plans the quality of blocks with floats that it rounds its own
# way: 1 of the 1820 built-in videos gets other bytes (measured). MMX computes with integers: it
# writes what plain C writes, in half the time.
_ASSEMBLY = "MMX2" if platform.machine().lower() in ("x86_64", "amd64") else "0"
_REPRODUCIBLE = ("-threads", "1", "-x264-params", f"asm={_ASSEMBLY}:threads=1")
_LOSSY = (
    *("-vcodec", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-preset", "veryfast"),
    *_REPRODUCIBLE,
)
_MAX_ASPECT = 4096  # the largest numerator and denominator that x264 stores
CONTAINERS = {".avi": "avi", ".m4v": "mp4", ".mkv": "matroska", ".mov": "mov", ".mp4": "mp4"}


def write_video(
    path: str | os.PathLike, frames_THWC: np.ndarray, fps: float, lossless: bool = False
) -> None:
    """Writes an H.264 video; the file appears under its name only when it is complete.

    The default pixel format is yuv420p, which every player shows. It halves the resolution of
    colours and needs even sides, so that an odd side grows by repeating its last row or column.
    Lossless videos are RGB 4:4:4 of any size and are bit-equal when read back, but few players
    support them.

    Args:
      path: The file to write. The suffix (.mp4, .m4v, .mov, .mkv, .avi) chooses the container.
      frames_THWC: uint8 [T, H, W, 1 or 3], at least one frame.
      fps: The frame rate, frames/s, above 0.
      lossless: Whether the frames must be bit-equal when read back.

    Raises:
      VideoError: If the frames have another dtype or shape, the suffix is unknown, or the encoder
        or the disk fails.
    """
    frames_THWC = np.asarray(frames_THWC)
    _check_frames(Path(path), frames_THWC)
    write_video_pieces(path, [frames_THWC], frames_THWC.shape[1:3], fps, lossless)


def write_video_pieces(
    path: str | os.PathLike,
    pieces: Iterable[np.ndarray],
    size: tuple[int, int],
    fps: float,
    lossless: bool = False,
    *,
    pixel_aspect: Fraction = SQUARE,
) -> None:
    """Writes an H.264 video piece by piece, like `write_video`, with memory for one piece only.

    Args:
      path: The file to write. The suffix chooses the container.
      pieces: The frames in pieces of consecutive frames, uint8 [T, H, W, 1 or 3]. Exceptions of the
        iterable are passed on.
      size: The (height, width) of every frame.
      fps: The frame rate, frames/s, above 0.
      lossless: Whether the frames must be bit-equal when read back.
      pixel_aspect: The width of a pixel, as players show it, divided by its height.

    Raises:
      VideoError: As in `write_video`, or if a piece has frames of another size.
    """
    path = Path(path)
    _check_target(path, fps)
    if lossless:
        options, odd = ["-vcodec", "libx264rgb", "-pix_fmt", "rgb24", "-qp", "0"], (0, 0)
    else:
        options, odd = list(_LOSSY), (size[0] % 2, size[1] % 2)
    if pixel_aspect != SQUARE:
        options += ["-vf", f"setsar=sar={pixel_aspect}:max={_MAX_ASPECT}"]
    options += ["-f", CONTAINERS[path.suffix.lower()]]
    source = _describe_source((size[0] + odd[0], size[1] + odd[1]), fps)
    command = [*_begin_command(), *source, "-i", "-", "-an", *options]
    with contextlib.ExitStack() as stack:
        with _as_video_error(path):
            part = stack.enter_context(replacing(path))
        problem = _run_encoder([*command, str(part)], _pad_frames(path, pieces, size, odd))
        if problem is not None:
            raise VideoError(path, f"cannot be written ({problem.replace(str(part), str(path))})")
        with _as_video_error(path):
            stack.close()


def write_short_videos(videos: Mapping[str | os.PathLike, np.ndarray], fps: float) -> None:
    """Writes short videos as `write_video` does, byte by byte, by a single ffmpeg.

    Beginning a process takes longer than encoding a second of small frames.

    Args:
      videos: The file to write -> its frames, uint8 [T, H, W, 1 or 3] with even H and W.
      fps: The frame rate of all of them, frames/s, above 0.

    Raises:
      VideoError: As in `write_video`, or for an odd side.
    """
    sources, outputs = [], []
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for number, (path, frames_THWC) in enumerate(videos.items()):
            path = Path(path)
            _check_frames(path, frames_THWC)
            _check_target(path, fps)
            size = frames_THWC.shape[1:3]
            if size[0] % 2 or size[1] % 2:
                raise VideoError(path, f"frames are {size}; both sides must be even")
            with _as_video_error(path):
                part = stack.enter_context(replacing(path))
                raw = Path(folder) / f"{number}.raw"
                raw.write_bytes(np.broadcast_to(frames_THWC, (*frames_THWC.shape[:3], 3)).tobytes())
            sources += [*_describe_source(size, fps), "-i", str(raw)]
            outputs += ["-map", str(number), "-an", *_LOSSY]
            outputs += ["-f", CONTAINERS[path.suffix.lower()], str(part)]
        problem = _run_encoder([*_begin_command(), "-filter_threads", "1", *sources, *outputs], ())
        if problem is not None:
            raise VideoError(next(iter(videos)), f"or another cannot be written ({problem})")
        with _as_video_error(Path(next(iter(videos)))):
            stack.close()


def _begin_command() -> list[str]:
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error"]


def _describe_source(size: tuple[int, int], fps: float) -> list[str]:
    """Returns the options of ffmpeg for raw RGB frames of (height, width)."""
    rate = str(Fraction(fps).limit_denominator())
    kind = ["-f", "rawvideo", "-vcodec", "rawvideo", "-pix_fmt", "rgb24"]
    return [*kind, "-s", f"{size[1]}x{size[0]}", "-r", rate]


def _run_encoder(command: list[str], frames: Iterable[np.ndarray]) -> str | None:
    """Sends frames to ffmpeg; returns the first line of its errors if it fails, otherwise None."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, process_group=0) as process,
    ):
        try:
            for frame in frames:
                try:
                    process.stdin.write(frame)
                except BrokenPipeError:  # ffmpeg has ended: its status and its errors tell why
                    break
            process.communicate()
        except BaseException:
            process.kill()
            raise
        if process.returncode == 0:
            return None
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
        # ffmpeg begins a line with its part and an address, such as [libx264 @ 0x55d0c0].
        return re.sub(r"^\[[^]]* @ 0x\w+\] ", "", lines[0]) if lines else "ffmpeg failed"


def _pad_frames(
    path: Path, pieces: Iterable[np.ndarray], size: tuple[int, int], odd: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Yields RGB frames, uint8 [H, W, 3], whose last row and column are repeated where odd."""
    for frames_THWC in pieces:
        _check_frames(path, frames_THWC, size)
        grown = np.pad(frames_THWC, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        for frame in np.broadcast_to(grown, (*grown.shape[:3], 3)):
            yield np.ascontiguousarray(frame)


@contextlib.contextmanager
def _as_video_error(path: Path) -> Iterator[None]:
    """Turns a failure of the folder or the disk into a VideoError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise VideoError(path, f"cannot be written ({first_line(error)})") from error


def _check_frames(path: Path, frames: np.ndarray, size: tuple[int, int] | None = None) -> None:
    """Raises VideoError for frames that cannot be written or have another size."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise VideoError(
            path, f"frames are {frames.dtype} {frames.shape}; expected uint8 [T, H, W, 1 or 3]"
        )
    if 0 in frames.shape:
        raise VideoError(path, f"no pixels to write in an array of shape {frames.shape}")
    if size is not None and frames.shape[1:3] != tuple(size):
        raise VideoError(path, f"frames are {frames.shape[1:3]}, others {tuple(size)}")


def _check_target(path: Path, fps: float) -> None:
    """Raises VideoError for an invalid frame rate or an unknown suffix."""
    if not fps > 0:
        raise VideoError(path, f"fps is {fps}; it must be above 0")
    if path.suffix.lower() not in CONTAINERS:
        raise VideoError(path, f"cannot write {path.suffix!r}; use one of {sorted(CONTAINERS)}")
