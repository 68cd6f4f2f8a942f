"""Reads video files: containers that PyAV decodes, mostly through imageio."""

import functools
from collections.abc import Callable
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
from av.video.reformatter import VideoReformatter
from imageio.plugins.pyav import PyAVPlugin

from vvae.video.errors import VideoError, first_line
from vvae.video.frames import NOMINAL_FPS, Frames, Size, check_pixels, resize
from vvae.video.planes import make_shrinker

_INT_MAX = 2**31 - 1


class _FramePlugin(PyAVPlugin):
    """imageio's PyAV plugin, except that it returns the decoder's own frames."""

    def _unpack_frame(self, frame, *, format=None):
        # imageio would return the pixels alone, without timestamp, rotation and mark of damage.
        return frame

    def close(self) -> None:
        # imageio's own method also collects Python's garbage because of its filters, which are not
        # used here. This would take tens of ms for each file.
        self._video_stream = None
        if self._container is not None:
            self._container.close()
        self.request.finish()

    def limit_pixels(self, path: Path, max_pixels: int) -> None:
        """Refuses larger frames: those that the header states here, later ones in the decoder."""
        context = self._video_stream.codec_context
        if context is None:
            raise VideoError(path, "not a readable video (its codec is not known)")
        check_pixels(path, context.height, context.width, max_pixels)
        context.options = {**context.options, "max_pixels": str(min(max_pixels, _INT_MAX))}


def iterate_file(path: Path, size: Size | None, max_pixels: int) -> Frames:
    """Yields the frames of a video file; see `frames.Frames`."""
    number, first, time, end = 0, None, 0.0, 0.0
    # A frame is held until the next one is decoded: the last of a truncated file may be damaged.
    held = None
    to_rgb = _make_converter(size)
    try:
        with iio.imopen(path, "r", plugin=_FramePlugin) as file:
            file.limit_pixels(path, max_pixels)
            step = 1.0 / (file.metadata()["fps"] or NOMINAL_FPS)
            # One thread, since several processes read several files at a time.
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


def read_stated_length(path: Path) -> int | None:
    """Returns the number of frames that the header of a file states; None if it states none."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            end, _ = _find_stated_end(container)
            guess = round(end * stream.average_rate) if end and stream.average_rate else None
            return stream.frames or guess
    except (OSError, ValueError, EOFError, IndexError, TypeError, av.error.FFmpegError):
        return None


def _describe_failure(number: int, error: Exception) -> str:
    """Describes a failure after `number` frames."""
    if number:
        return f"broken after {number} frames ({first_line(error)})"
    # imageio's own message about a file that it cannot open speaks of its plugins.
    cause = error.__cause__ if isinstance(error, OSError) and error.errno is None else error
    reason = first_line(cause) if isinstance(cause, av.error.FFmpegError) else "unknown format"
    return f"not a readable video ({reason})"


def _check_complete(path: Path, num_frames: int, end: float) -> None:
    """Raises VideoError if the file is truncated, by the rules of `iterate_frames`."""
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
            if start is not None:  # the empty packet at the end of a stream has no time
                reached = max(reached, float((start + (packet.duration or 0)) * packet.time_base))
    # The mean duration is that of the decoded frames: if the header's duration were divided by the
    # few frames of a truncated file, the tolerance would be too long.
    if stated is not None and stated - reached > max(2.0 * reached / num_frames, 0.1):
        raise VideoError(path, f"{where}: {reached:.2f} s of {stated:.2f} s are there")


def _find_stated_end(container) -> tuple[float | None, list]:
    """Returns the end of the video by the header, in s or None, and the streams it refers to."""
    stream = container.streams.video[0]
    if stream.duration is not None:
        duration = stream.duration
        if container.format.name == "avi":
            # The duration is guessed from the size of the file, but the number of frames, which are
            # the unit of time here, is in the header. (In mp4 an edit list may hide some frames.)
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
    """Returns a function (frame, quarter turns anticlockwise) -> uint8 RGB, resized and turned."""
    # One converter for all frames, without threads: to start threads for each small frame takes
    # several times as long as to convert it.
    to_rgb = functools.partial(VideoReformatter().reformat, format="rgb24", threads=1)
    shrink = make_shrinker()

    def convert(frame: av.VideoFrame, turns: int) -> np.ndarray:
        before = None if size is None else _turn(size, turns)
        rgb_HWC = None if before is None else shrink(frame, before)
        if rgb_HWC is None:
            rgb_HWC = resize(to_rgb(frame).to_ndarray(), before)
        return np.ascontiguousarray(np.rot90(rgb_HWC, turns)) if turns else rgb_HWC

    return convert


def _count_turns(path: Path, degrees: int) -> int:
    """Returns the container's rotation in quarter turns anticlockwise, 0 to 3."""
    turns, rest = divmod(degrees, 90)
    if rest:
        raise VideoError(path, f"rotated by {degrees} degrees; only multiples of 90 can be read")
    return turns % 4


def _turn(size: Size, turns: int) -> Size:
    """Returns the size after (or, equally, before) `turns` quarter turns."""
    return size[::-1] if turns % 2 else size
