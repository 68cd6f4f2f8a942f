"""Codes clips with the encoders of FFmpeg, in memory, and counts the bytes of what they wrote.

Every clip is a stream of its own, from RGB (or gray) frames and back. `payload` counts the coded
pictures alone: NAL units of slices, and for AV1 all OBUs but the sequence header; `total` counts
parameter sets and sequence headers too. Messages for information alone (SEI) and temporal
delimiters, which containers leave out, count in neither.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "1")  # errors alone: or else 16 lines a stream
_X265 = "info=0:log-level=none:pools=none:frame-threads=1"


@dataclasses.dataclass(frozen=True)
class Codec:
    """An encoder at its strongest practical setting, and the decoder that reads it.

    Attributes:
      encoder: its name in FFmpeg.
      decoder: the name of the decoder.
      options: of the encoder, tuned for PSNR.
      pixel_formats: chroma formats, whose points make one curve.
      crfs: rate factors, from the best quality to the worst.
    """

    encoder: str
    decoder: str
    options: Mapping[str, str]
    pixel_formats: tuple[str, ...]
    crfs: tuple[int, ...]


BOTH_CHROMAS = ("yuv420p", "yuv444p")
CRFS = (17, 22, 27, 32, 37, 42, 47)
PSNR = {"preset": "veryslow", "tune": "psnr"}
CODECS = {
    "x264": Codec("libx264", "h264", PSNR, BOTH_CHROMAS, CRFS),
    "x265": Codec(
        "libx265",
        "hevc",
        {**PSNR, "x265-params": _X265},
        BOTH_CHROMAS,
        CRFS,
    ),
    "svt_av1": Codec(
        "libsvtav1",
        "libdav1d",
        {"preset": "1", "svtav1-params": "tune=1:lp=1"},
        ("yuv420p",),
        (20, 30, 40, 50, 57, 63),  # 63 is the coarsest that there is
    ),
}


@dataclasses.dataclass(frozen=True)
class Coded:
    """A coded clip: bytes (see the module), and the decoded frames, uint8 [T, H, W, C]."""

    payload: int
    total: int
    frames: np.ndarray


def describe(codec: Codec) -> str:
    """Returns the encoder and its options in one line."""
    options = " ".join(f"-{name} {value}" for name, value in codec.options.items())
    return f"{codec.encoder} {options}, {' and '.join(codec.pixel_formats)}"


def code_clip(video_THWC: np.ndarray, codec: Codec, pixel_format: str, crf: int) -> Coded:
    """Encodes and decodes a clip, uint8 with 1 or 3 channels.

    Raises:
      ValueError: if FFmpeg lacks the encoder, or does not give all frames back.
    """
    packets = _encode(video_THWC, codec, pixel_format, crf)
    decoder = av.CodecContext.create(codec.decoder, "r")
    pictures = [p for packet in packets for p in decoder.decode(packet)] + decoder.decode(None)
    frames = np.stack([picture.to_ndarray(format="rgb24") for picture in pictures])
    if len(frames) != len(video_THWC):
        raise ValueError(f"{codec.encoder}: {len(frames)} of {len(video_THWC)} frames came back")
    stream = b"".join(bytes(packet) for packet in packets)
    payload, headers = COUNTERS[codec.encoder](stream)
    return Coded(payload, payload + headers, frames[..., : video_THWC.shape[-1]])


def _encode(video_THWC: np.ndarray, codec: Codec, pixel_format: str, crf: int) -> list[av.Packet]:
    try:
        encoder = av.CodecContext.create(codec.encoder, "w")
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"this build of FFmpeg has no {codec.encoder}") from error
    encoder.height, encoder.width = video_THWC.shape[1:3]
    encoder.pix_fmt, encoder.time_base = pixel_format, Fraction(1, 25)
    encoder.framerate, encoder.thread_count = Fraction(25), 1
    encoder.options = {"crf": str(crf), **codec.options}
    packets = []
    for number, picture in enumerate(np.broadcast_to(video_THWC, (*video_THWC.shape[:3], 3))):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = number
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


# --- bytes of a stream: (coded pictures, headers) ------------------------------------------------


def count_h264(stream: bytes) -> tuple[int, int]:
    """Counts the bytes of slices (NAL units 1 and 5) and parameter sets, without start codes."""
    sizes = _count_units(stream, lambda unit: unit[0] & 31)
    return sizes.get(1, 0) + sizes.get(5, 0), sum(sizes.get(kind, 0) for kind in (7, 8))


def count_hevc(stream: bytes) -> tuple[int, int]:
    """Counts the bytes of slices (NAL units 0 to 31) and parameter sets, without start codes."""
    sizes = _count_units(stream, lambda unit: unit[0] >> 1 & 63)
    slices = sum(size for kind, size in sizes.items() if kind < 32)
    return slices, sum(sizes.get(kind, 0) for kind in (32, 33, 34))


def _count_units(stream: bytes, find_kind) -> dict[int, int]:
    units = stream.replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01")[1:]
    sizes = {}
    for unit in units:
        sizes[find_kind(unit)] = sizes.get(find_kind(unit), 0) + len(unit)
    return sizes


SEQUENCE_HEADER, TEMPORAL_DELIMITER = 1, 2


def count_av1(stream: bytes) -> tuple[int, int]:
    """Counts the bytes of all OBUs but temporal delimiters; the sequence headers come second."""
    payload = headers = 0
    for kind, size in iterate_obus(stream):
        payload += size if kind not in (SEQUENCE_HEADER, TEMPORAL_DELIMITER) else 0
        headers += size if kind == SEQUENCE_HEADER else 0
    return payload, headers


def iterate_obus(stream: bytes) -> Iterator[tuple[int, int]]:
    """Yields the type and the bytes of every OBU, its own header included.

    Raises:
      ValueError: for an OBU without a size, or one that goes beyond the end.

    References:
      AV1 Bitstream & Decoding Process Specification, 2019, sections 4.10.5 and 5.3
    """
    start = 0
    while start < len(stream):
        kind, has_extension = stream[start] >> 3 & 15, stream[start] >> 2 & 1
        if not stream[start] & 2:
            raise ValueError("an OBU states no size")
        place = start + 1 + has_extension
        size = shift = 0
        while True:
            byte = stream[place]
            size |= (byte & 127) << shift
            place, shift = place + 1, shift + 7
            if byte < 128:
                break
        if place + size > len(stream):
            raise ValueError("an OBU goes beyond the end of the stream")
        yield kind, place + size - start
        start = place + size


COUNTERS = {"libx264": count_h264, "libx265": count_hevc, "libsvtav1": count_av1}
