"""One video in or out: exact frames with their times, or a VideoError that names the file.

A video is a file (.mp4, .webm, .gif, ...), a folder of image frames or a .npy array. Files are read
through imageio's PyAV plugin, images through its Pillow plugin, and files are written by
imageio-ffmpeg. PyAV itself is asked only for what the plugin keeps to itself: timestamps, rotation,
damage.
"""

import contextlib
import functools
import os
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
from av.video.reformatter import VideoReformatter
from imageio.plugins.pyav import PyAVPlugin
from PIL import Image

from vvae.files import replacing
from vvae.planes import make_shrinker

Size = tuple[int, int]  # (height, width)
# (seconds since the first frame, uint8 RGB [H, W, 3] of the size asked for, size in the file)
Frames = Iterator[tuple[float, np.ndarray, Size]]

VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".npy", ".webm")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
# Twice an 8K frame; reading frames of this size takes about 0.9 GB. A header may promise any size.
MAX_PIXELS = 64_000_000
_INT_MAX = 2**31 - 1
NOMINAL_FPS = 25.0  # of what carries no time: folders of images, .npy arrays, a single frame
# With its assembly, x264 writes one of several files for the same frames (measured, also on one
# thread); the videos written here are small enough to do without.
_REPRODUCIBLE = ("-x264-params", "asm=0:threads=1")
_CONTAINERS = {".avi": "avi", ".m4v": "mp4", ".mkv": "matroska", ".mov": "mov", ".mp4": "mp4"}


class VideoError(ValueError):
    """A video that cannot be read or written; the message starts with its path."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self):
        # Exception pickles its one-line message; worker processes need both arguments back.
        return type(self), (self.path, self.reason)


class FrameTooLargeError(VideoError):
    """Frames of more pixels than the reader was allowed."""


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` found by decoding every frame.

    Attributes:
        num_frames: Exact number of frames.
        height: Rows after rotation, pixels.
        width: Columns after rotation, pixels.
        fps: Mean frame rate over the real timestamps, frames per second.
    """

    num_frames: int
    height: int
    width: int
    fps: float


def is_video(path: str | os.PathLike) -> bool:
    """Tells whether `path` is a video: a file by suffix, or a folder that holds image frames."""
    path = Path(path)
    if path.is_dir():
        return any(_is_image(name) for name in os.listdir(path))
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def probe(path: str | os.PathLike) -> VideoInfo:
    """Counts and measures a video by decoding all of it.

    Raises:
        VideoError: if it cannot be decoded from the first frame to the last.
    """
    times = []
    shape = None
    for time, frame in iterate_frames(path):
        times.append(time)
        shape = frame.shape
    span = times[-1] - times[0]
    fps = round((len(times) - 1) / span, 6) if span > 0 else NOMINAL_FPS
    return VideoInfo(len(times), shape[0], shape[1], fps)


def read_stated_length(path: str | os.PathLike) -> int | None:
    """Returns how many frames a video has by its header, without decoding it; None if unknown.

    For estimates only: headers can be wrong, and `probe` counts.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return sum(map(_is_image, os.listdir(path)))
        if path.suffix.lower() == ".npy":
            return len(np.load(path, mmap_mode="r", allow_pickle=False))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            end, _ = _find_stated_end(container)
            guess = round(end * stream.average_rate) if end and stream.average_rate else None
            return stream.frames or guess
    except (OSError, ValueError, EOFError, IndexError, TypeError, av.error.FFmpegError):
        return None
    except (SyntaxError, tokenize.TokenError):  # of the header of an array
        return None


def read_frames(
    path: str | os.PathLike, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a whole video.

    Args:
        path: Video file, folder of image frames, or .npy array.
        size: (height, width) to resize to, or None for the video's own size.
        max_pixels: most pixels of a frame of the file.

    Returns:
        times_F float64, seconds since the first frame; frames_FHWC uint8 RGB.

    Raises:
        VideoError: see `iterate_frames`.
    """
    times, frames = zip(*iterate_frames(path, size, max_pixels))
    return np.array(times, np.float64), np.stack(frames)


def iterate_frames(
    path: str | os.PathLike, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields the real frames of a video in the order of display, one at a time.

    Rotation is applied; alpha is dropped; any bit depth and chroma format becomes 8-bit RGB. Frames
    of a variable rate keep their own timestamps: none is repeated or left out. Resizing is
    antialiased: each new pixel is the mean of the area that it covers (bilinear where a side
    grows). Folders of images are sorted naturally (2.png before 10.png) and, like .npy arrays
    ([T, H, W] or [T, H, W, 1 or 3] uint8), timed at `NOMINAL_FPS`.

    A file counts as cut when a packet of its video is there only in part, when a GIF lacks its end
    mark, or when the last packet ends before the duration that the header states, by more than two
    mean frame durations and 0.1 s: the duration of the video stream (mp4; in avi by its number of
    frames), else of the file, to which then any of its streams may reach (mkv, webm). A file that
    states no duration and is cut between two frames is a shorter video. Frames are handed out as
    they come, but the last one only when the file has proved whole: no frame is ever invented.

    Args:
        path: Video file, folder of image frames, or .npy array.
        size: (height, width) to resize to, or None for the video's own size.
        max_pixels: most pixels of a frame of the file, rows times columns; what a header promises
            is looked at before memory for it is asked for.

    Yields:
        (seconds since the first frame, uint8 [H, W, 3] RGB).

    Raises:
        VideoError: no such file, not a video, no frames, damaged or cut in the middle (the message
            says after which frame), a size that changes.
        FrameTooLargeError: frames of more than `max_pixels`.
    """
    path = Path(path)
    if not path.exists():
        raise VideoError(path, "no such file or folder")
    if path.is_dir():
        frames = _iterate_image_folder(path, size, max_pixels)
    elif path.suffix.lower() == ".npy":
        frames = _iterate_npy(path, size, max_pixels)
    else:
        frames = _iterate_file(path, size, max_pixels)
    number, shape = -1, None
    for number, (time, frame, own_shape) in enumerate(frames):
        if shape not in (None, own_shape):
            raise VideoError(path, f"frame {number} is {own_shape}, others {shape}")
        shape = own_shape
        yield time, frame
    if number < 0:
        raise VideoError(path, "holds no video frames")


def write_video(
    path: str | os.PathLike, frames_THWC: np.ndarray, fps: float, lossless: bool = False
) -> None:
    """Writes an H.264 video; the file appears under its name only when it is complete.

    The default is yuv420p, which every player shows; it halves the colour resolution and needs even
    sides, so an odd side grows by repeating its last row or column. Lossless is RGB 4:4:4 of any
    size, equal bit by bit when read back, but few players know it.

    Args:
        path: Where to; the suffix (.mp4, .m4v, .mov, .mkv, .avi) chooses the container.
        frames_THWC: uint8 [T, H, W, 1 or 3], at least one frame.
        fps: Frames per second, above 0.
        lossless: Whether the frames must come back unchanged.

    Raises:
        VideoError: frames of another dtype or shape, another suffix, or a failing encoder or disk.
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
) -> None:
    """Writes an H.264 video as its frames come, with memory for one piece; else as `write_video`.

    Args:
        path: Where to.
        pieces: uint8 [T, H, W, 1 or 3], one after the other in time; what they raise passes.
        size: (height, width) of every frame.
        fps: Frames per second, above 0.
        lossless: Whether the frames must come back unchanged.
    """
    path = Path(path)
    _check_target(path, fps)
    if lossless:
        codec, pixel_format, options, odd = "libx264rgb", "rgb24", ["-qp", "0"], (0, 0)
    else:
        codec, pixel_format = "libx264", "yuv420p"
        options = ["-crf", "18", "-preset", "veryfast", *_REPRODUCIBLE]
        odd = size[0] % 2, size[1] % 2
    with contextlib.ExitStack() as stack:
        with _naming_failure(path):
            part = stack.enter_context(replacing(path))
        writer = imageio_ffmpeg.write_frames(
            str(part),
            (size[1] + odd[1], size[0] + odd[0]),
            fps=fps,
            codec=codec,
            pix_fmt_out=pixel_format,
            quality=None,
            macro_block_size=1,
            output_params=[*options, "-f", _CONTAINERS[path.suffix.lower()]],
        )
        stack.enter_context(contextlib.closing(writer))
        with _naming_failure(path):
            writer.send(None)
        for frames_THWC in pieces:
            _check_frames(path, frames_THWC, size)
            grown = np.pad(frames_THWC, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
            for frame in np.broadcast_to(grown, (*grown.shape[:3], 3)):
                with _naming_failure(path):
                    writer.send(np.ascontiguousarray(frame))
        with _naming_failure(path):
            stack.close()


@contextlib.contextmanager
def _naming_failure(path: Path) -> Iterator[None]:
    """Turns the failure of an encoder or a disk into a VideoError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise VideoError(path, f"cannot be written ({_first_line(error)})") from error


class _FramePlugin(PyAVPlugin):
    """imageio's PyAV plugin, with the decoder's frames as they are."""

    def _unpack_frame(self, frame, *, format=None):
        # imageio would return bare pixels: no timestamp, no rotation, no mark of damage.
        return frame

    def close(self) -> None:
        # imageio's own collects Python's garbage, for the sake of filters, which are not used here:
        # tens of ms a file.
        self._video_stream = None
        if self._container is not None:
            self._container.close()
        self.request.finish()

    def limit_pixels(self, path: Path, max_pixels: int) -> None:
        """Refuses larger frames: those of the header here, later ones in the decoder."""
        context = self._video_stream.codec_context
        if context is None:
            raise VideoError(path, "not a readable video (its codec is not known)")
        _check_pixels(path, context.height, context.width, max_pixels)
        context.options = {**context.options, "max_pixels": str(min(max_pixels, _INT_MAX))}


def _check_pixels(path: Path, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise FrameTooLargeError(
            path,
            f"frames of {width}x{height}, {height * width / 1e6:.0f} megapixels, are more than the "
            f"{max_pixels / 1e6:.0f} that data.max_megapixels allows",
        )


def _iterate_file(path: Path, size: Size | None, max_pixels: int) -> Frames:
    number, first, time, end = 0, None, 0.0, 0.0
    # A frame is handed out when the next one is there: the last of a cut file may be half of one.
    held = None
    to_rgb = _make_converter(size)
    try:
        with iio.imopen(path, "r", plugin=_FramePlugin) as file:
            file.limit_pixels(path, max_pixels)
            step = 1.0 / (file.metadata()["fps"] or NOMINAL_FPS)
            # One thread: several files are read at a time by several processes.
            for frame in file.iter(format=None, thread_count=1):
                if frame.is_corrupt:
                    raise VideoError(path, f"frame {number} is damaged")
                time = end if frame.time is None else frame.time
                end = time + (frame.duration * float(frame.time_base) or step)
                first = time if first is None else first
                if held is not None:
                    yield held
                turns = _count_turns(path, frame.rotation)
                held = time - first, to_rgb(frame, turns), _turn((frame.height, frame.width), turns)
                number += 1
    except VideoError:
        raise
    except (OSError, ValueError, IndexError, av.error.FFmpegError) as error:
        raise VideoError(path, _describe_failure(number, error)) from error
    if held is not None:
        _check_complete(path, number, end)
        yield held


def _describe_failure(number: int, error: Exception) -> str:
    """Says what a failure after `number` frames means."""
    if number:
        return f"broken after {number} frames ({_first_line(error)})"
    # imageio's own words for a file that it cannot open are about its plugins.
    cause = error.__cause__ if isinstance(error, OSError) and error.errno is None else error
    reason = _first_line(cause) if isinstance(cause, av.error.FFmpegError) else "unknown format"
    return f"not a readable video ({reason})"


def _check_complete(path: Path, num_frames: int, end: float) -> None:
    """Raises VideoError if the file has been cut (rules: `iterate_frames`)."""
    where = f"cut in or after frame {num_frames - 1}"
    if path.suffix.lower() == ".gif" and not path.read_bytes().rstrip(b"\0").endswith(b";"):
        raise VideoError(path, f"{where}: the end mark is missing")
    with av.open(str(path)) as container:
        video_stream = container.streams.video[0]
        stated, streams = _find_stated_end(container)
        reached = end
        for packet in container.demux(streams):
            if packet.is_corrupt and packet.stream is video_stream:
                raise VideoError(path, f"{where}: a frame is there only in part")
            start = packet.dts if packet.pts is None else packet.pts
            if start is not None:  # the empty packet that ends a stream has no time
                reached = max(reached, float((start + (packet.duration or 0)) * packet.time_base))
    # Two frames that are there, not two of what the header says: one of many left would be long.
    if stated is not None and stated - reached > max(2.0 * reached / num_frames, 0.1):
        raise VideoError(path, f"{where}: {reached:.2f} s of {stated:.2f} s are there")


def _find_stated_end(container) -> tuple[float | None, list]:
    """Returns when the video ends by the header, in s, or None, and the streams that it is of."""
    stream = container.streams.video[0]
    if stream.duration is not None:
        duration = stream.duration
        if container.format.name == "avi":
            # Guessed from the size of the file; the header's count of frames, which are the unit
            # of time here, is not. (In mp4 an edit list may hide frames of the count.)
            duration = max(duration, stream.frames)
        return float((duration + (stream.start_time or 0)) * stream.time_base), [stream]
    if container.duration is not None:
        return (container.duration + (container.start_time or 0)) / av.time_base, [
            *container.streams.video,
            *container.streams.audio,
            *container.streams.subtitles,
        ]
    return None, [stream]


def _make_converter(size: Size | None) -> Callable[[av.VideoFrame, int], np.ndarray]:
    """Returns (frame, quarter turns anticlockwise) -> uint8 RGB of the size, turned."""
    # One converter for all frames, in this thread: starting threads for each small frame takes
    # several times as long as its conversion.
    to_rgb = functools.partial(VideoReformatter().reformat, format="rgb24", threads=1)
    shrink = make_shrinker()

    def convert(frame: av.VideoFrame, turns: int) -> np.ndarray:
        before = None if size is None else _turn(size, turns)
        rgb_HWC = None if before is None else shrink(frame, before)
        if rgb_HWC is None:
            rgb_HWC = _resize(to_rgb(frame).to_ndarray(), before)
        return np.ascontiguousarray(np.rot90(rgb_HWC, turns)) if turns else rgb_HWC

    return convert


def _count_turns(path: Path, degrees: int) -> int:
    """Returns the container's rotation in quarter turns anticlockwise, 0 to 3."""
    turns, rest = divmod(degrees, 90)
    if rest:
        raise VideoError(path, f"rotated by {degrees} degrees; only multiples of 90 can be read")
    return turns % 4


def _turn(size: Size, turns: int) -> Size:
    """Returns the size after so many quarter turns; as well, the size before them."""
    return size[::-1] if turns % 2 else size


def _iterate_image_folder(folder: Path, size: Size | None, max_pixels: int) -> Frames:
    names = sorted(filter(_is_image, os.listdir(folder)), key=_natural_key)
    for number, name in enumerate(names):
        try:
            with Image.open(folder / name) as opened:
                _check_pixels(folder / name, opened.height, opened.width, max_pixels)
            image = iio.imread(folder / name, plugin="pillow", index=0, rotate=True)
        except VideoError:
            raise
        except (OSError, ValueError, SyntaxError) as error:
            raise VideoError(
                folder, f"frame {number} ({name}) is unreadable ({_first_line(error)})"
            ) from error
        rgb_HWC = _image_to_rgb(folder / name, image)
        yield number / NOMINAL_FPS, _resize(rgb_HWC, size), rgb_HWC.shape[:2]


def _image_to_rgb(path: Path, image: np.ndarray) -> np.ndarray:
    """Converts uint8, uint16 or bool [H, W] or [H, W, 1..4] to uint8 [H, W, 3]; drops alpha."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif image.dtype == bool:
        image = image.astype(np.uint8) * 255
    elif image.dtype != np.uint8:
        raise VideoError(path, f"pixels of type {image.dtype}; 8 or 16 bit can be read")
    if image.ndim == 2:
        image = image[..., None]
    gray = image.shape[-1] < 3  # one channel, or gray with alpha
    return np.repeat(image[..., :1], 3, axis=-1) if gray else np.ascontiguousarray(image[..., :3])


def _iterate_npy(path: Path, size: Size | None, max_pixels: int) -> Frames:
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError) as error:
        # NumPy's words about a damaged header name objects by where they lie in memory.
        reason = re.sub(r" object at 0x[0-9a-f]+", "", _first_line(error))
        raise VideoError(path, f"not a readable .npy array ({reason})") from error
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise VideoError(
            path, f"{frames.dtype} {frames.shape}; expected uint8 [T, H, W] or [T, H, W, 1 or 3]"
        )
    _check_pixels(path, *frames.shape[1:3], max_pixels)
    for number, frame in enumerate(frames):
        rgb_HWC = _image_to_rgb(path, np.array(frame))
        yield number / NOMINAL_FPS, _resize(rgb_HWC, size), rgb_HWC.shape[:2]


def _resize(frame: np.ndarray, size: Size | None) -> np.ndarray:
    """Resizes uint8 [H, W, 3]: area mean where it shrinks, bilinear where it grows."""
    if size is None or frame.shape[:2] == tuple(size):
        return frame
    height, width = size
    grows = height > frame.shape[0] or width > frame.shape[1]
    # swscale's "area" was faster but turned white into 253 and lost up to 0.5 of the mean.
    method = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
    return np.asarray(Image.fromarray(frame).resize((width, height), method))


def _check_frames(path: Path, frames: np.ndarray, size: tuple[int, int] | None = None) -> None:
    """Raises VideoError for frames that cannot be written, or are not of the size."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise VideoError(
            path, f"frames are {frames.dtype} {frames.shape}; expected uint8 [T, H, W, 1 or 3]"
        )
    if 0 in frames.shape:
        raise VideoError(path, f"no pixels to write in an array of shape {frames.shape}")
    if size is not None and frames.shape[1:3] != tuple(size):
        raise VideoError(path, f"frames are {frames.shape[1:3]}, others {tuple(size)}")


def _check_target(path: Path, fps: float) -> None:
    if not fps > 0:
        raise VideoError(path, f"fps is {fps}; it must be above 0")
    if path.suffix.lower() not in _CONTAINERS:
        raise VideoError(path, f"cannot write {path.suffix!r}; use one of {sorted(_CONTAINERS)}")


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _natural_key(name: str) -> list:
    """Sorts digits by their value: frame2 before frame10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if part.isdigit() else part for part in parts]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
