"""Reads video files: containers that PyAV decodes, mostly through imageio."""

import functools
import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
from av.codec.context import Flags
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from imageio.plugins.pyav import PyAVPlugin

from vvae.video.cropping import Margins, read_margins
from vvae.video.errors import VideoError, first_line
from vvae.video.frames import NOMINAL_FPS, SQUARE, Frames, Size, check_pixels, resize
from vvae.video.orientation import Orientation, read_orientation
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

    @property
    def format_name(self) -> str:
        """The name of FFmpeg's demuxer for the file."""
        return self._container.format.name

    def prepare(self, path: Path, max_pixels: int) -> None:
        """Sets up the decoder, which refuses frames of more than `max_pixels` pixels.

        Raises:
          VideoError: If the file holds no video, or the codec is unknown.
          FrameTooLargeError: If the header states larger frames.
        """
        stream = _find_video(self._container)
        if stream is None:
            raise VideoError(path, "holds no video, only sound and a cover picture")
        if stream is not self._video_stream:
            self._video_stream, self._decoder = stream, self._container.decode(stream)
        context = stream.codec_context
        if context is None:
            raise VideoError(path, "not a readable video (its codec is not known)")
        check_pixels(path, context.height, context.width, max_pixels)
        context.options = {**context.options, "max_pixels": str(min(max_pixels, _INT_MAX))}
        # Without it, H.264 rounds the left edge of cropped frames down to a multiple of 32.
        context.flags |= Flags.unaligned


def iterate_file(path: Path, size: Size | None, max_pixels: int) -> Frames:
    """Yields the frames of a video file; see `frames.Frames`."""
    number, first, time, end = 0, None, 0.0, 0.0
    # A frame is held until the next one is decoded: the last of a truncated file may be damaged.
    held = None
    try:
        with iio.imopen(path, "r", plugin=_FramePlugin) as file:
            file.prepare(path, max_pixels)
            to_rgb = _make_converter(size, read_margins(path, file.format_name))
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
                orientation = read_orientation(path, frame)
                held = time - first, *to_rgb(frame, orientation)
                number += 1
        if held is not None:
            _check_complete(path, number, end)
    except VideoError:
        raise
    except Exception as error:  # whatever a decoder raises is an error of this file alone
        raise VideoError(path, _describe_failure(path, number, error)) from error
    if held is not None:
        yield held


def read_stated_length(path: Path) -> int | None:
    """Returns the number of frames that the header of a file states; None if it states none."""
    try:
        with av.open(str(path)) as container:
            stream = _find_video(container)
            end, _ = _find_stated_end(container)
            guess = round(end * stream.average_rate) if end and stream.average_rate else None
            return stream.frames or guess
    except Exception:  # as `iterate_file`
        return None


def read_pixel_aspect(path: Path) -> Fraction:
    """Returns the width of a pixel, as shown, divided by its height; 1 if the file states none.

    Raises:
      VideoError: If the first frame cannot be decoded.
    """
    try:
        with av.open(str(path)) as container:
            stream = _find_video(container)
            aspect = stream.sample_aspect_ratio or SQUARE
            orientation = read_orientation(path, next(container.decode(stream)))
    except VideoError:
        raise
    except Exception as error:
        raise VideoError(path, _describe_failure(path, 0, error)) from error
    return 1 / aspect if orientation.is_transposed else aspect


def _describe_failure(path: Path, number: int, error: Exception) -> str:
    """Describes a failure after `number` frames."""
    if number:
        return f"broken after {number} frames ({first_line(error)})"
    missing = _describe_missing_video(path)
    if missing is not None:
        return missing
    # imageio's own message about a file that it cannot open speaks of its plugins.
    cause = error.__cause__ if isinstance(error, OSError) and error.errno is None else error
    reason = first_line(cause) if isinstance(cause, av.error.FFmpegError) else "unknown format"
    return f"not a readable video ({reason})"


def _describe_missing_video(path: Path) -> str | None:
    """Returns what a file holds instead of video; None if it has video or cannot be opened."""
    try:
        with av.open(str(path)) as container:
            kinds = {stream.type for stream in container.streams}
    except Exception:  # the failure to describe
        return None
    if "video" in kinds:
        return None
    kinds = {"sound" if kind == "audio" else f"a {kind} stream" for kind in kinds}
    return f"holds no video, only {' and '.join(sorted(kinds))}" if kinds else "holds no video"


def _check_complete(path: Path, num_frames: int, end: float) -> None:
    """Raises VideoError if the file is truncated, by the rules of `iterate_frames`."""
    where = f"cut in or after frame {num_frames - 1}"
    if path.suffix.lower() == ".gif" and not path.read_bytes().rstrip(b"\0").endswith(b";"):
        raise VideoError(path, f"{where}: the end mark is missing")
    with av.open(str(path)) as container:
        video_stream = _find_video(container)
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


def _find_video(container: av.container.InputContainer) -> av.VideoStream | None:
    """Returns the first stream of video that is not a cover picture."""
    streams = container.streams.video
    return next((s for s in streams if not s.disposition & Disposition.attached_pic), None)


def _find_stated_end(container) -> tuple[float | None, list]:
    """Returns the end of the video by the header, in s or None, and the streams it refers to."""
    stream = _find_video(container)
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


def _make_converter(
    size: Size | None, margins: Margins | None
) -> Callable[[av.VideoFrame, Orientation], tuple[np.ndarray, Size]]:
    """Makes the function that converts decoded frames.

    Returns:
      A function (frame, orientation) -> (uint8 RGB [H, W, 3], cropped, oriented and resized; the
      size before resizing).
    """
    # One converter for all frames, without threads: to start threads for each small frame takes
    # several times as long as to convert it. Bicubic is the ffmpeg program's way to enlarge the
    # chroma of more than 8 bits.
    to_rgb = functools.partial(
        VideoReformatter().reformat,
        format="rgb24",
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )
    shrink = make_shrinker()

    def convert(frame: av.VideoFrame, orientation: Orientation) -> tuple[np.ndarray, Size]:
        frame = _filter(frame, margins)
        before = None if size is None else orientation.turn_size(size)
        rgb_HWC = None if before is None else shrink(frame, before)
        if rgb_HWC is None:
            rgb_HWC = resize(to_rgb(frame).to_ndarray(), before)
        return orientation.apply(rgb_HWC), orientation.turn_size((frame.height, frame.width))

    return convert


def _filter(frame: av.VideoFrame, margins: Margins | None) -> av.VideoFrame:
    """Crops a frame, and marks an interlaced one as progressive.

    swscale would convert and shrink the two fields of an interlaced frame apart. The ffmpeg program
    shows such frames as they are.
    """
    steps = [("setfield", "prog")] if frame.interlaced_frame else []
    if margins is not None:
        width = frame.width - margins.left - margins.right
        height = frame.height - margins.top - margins.bottom
        steps.append(("crop", f"{width}:{height}:{margins.left}:{margins.top}"))
    if not steps:
        return frame
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or Fraction(1, av.time_base),
        ),
        *itertools.starmap(graph.add, steps),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    graph.push(frame)
    return graph.pull()
