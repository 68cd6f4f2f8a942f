"""Reads how an MP4, QuickTime or Matroska file crops its frames, which PyAV does not expose."""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

# The IDs of EBML elements.
_SEGMENT, _TRACKS, _TRACK, _TRACK_TYPE, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0xE0
_CROPS = {"top": 0x54BB, "bottom": 0x54AA, "left": 0x54CC, "right": 0x54DD}
_VIDEO_TRACK = b"\x01"
_VISUAL_ENTRY_BYTES = 78  # the fixed fields of a VisualSampleEntry, before its boxes


class Margins(NamedTuple):
    """The numbers of rows and columns to cut off, before any rotation."""

    top: int
    bottom: int
    left: int
    right: int


class _Part(NamedTuple):
    """A box of MP4 or an element of EBML: its kind, and where its content starts and ends."""

    kind: bytes | int
    start: int
    end: int


_Splitter = Callable[[BinaryIO, int, int], Iterator[_Part]]


def read_margins(path: Path, format_name: str) -> Margins | None:
    """Returns the cropping of the first video track of a file; None if it states none.

    Args:
      path: The file.
      format_name: The name of FFmpeg's demuxer for it.

    Raises:
      OSError: If the file cannot be read.

    References:
      ISO/IEC 14496-12, section 12.1.4 (CleanApertureBox)
      RFC 9559, section 5.1.4.1.28 (PixelCropTop and the elements after it)
    """
    readers = {"mov": _read_mp4, "matroska": _read_matroska}
    reader = readers.get(format_name.split(",")[0])
    if reader is None:
        return None
    with path.open("rb") as file:
        try:
            margins = reader(file, os.fstat(file.fileno()).st_size)
        except (struct.error, ZeroDivisionError):  # cut or damaged there
            return None
    return margins if margins is not None and any(margins) else None


def _read_mp4(file: BinaryIO, size: int) -> Margins | None:
    for track in _find(file, (0, size), [b"moov", b"trak"], _split_boxes):
        handlers = _find(file, track[1:], [b"mdia", b"hdlr"], _split_boxes)
        if any(_read(file, box.start + 8, 4) == b"vide" for box in handlers):
            kinds = [b"mdia", b"minf", b"stbl", b"stsd"]
            for table in _find(file, track[1:], kinds, _split_boxes):
                for entry in _split_boxes(file, table.start + 8, table.end):
                    return _read_clean_aperture(file, entry)
            return None
    return None


def _read_clean_aperture(file: BinaryIO, entry: _Part) -> Margins | None:
    """Reads the clean aperture of a sample entry; an invalid one is none, as for ffmpeg."""
    size = struct.unpack(">2H", _read(file, entry.start + 24, 4))
    extensions = (entry.start + _VISUAL_ENTRY_BYTES, entry.end)
    for box in _find(file, extensions, [b"clap"], _split_boxes):
        # The width and the height, then the offsets of its centre, as fractions.
        numbers = struct.unpack(">8i", _read(file, box.start, 32))
        values = [Fraction(*pair) for pair in zip(numbers[::2], numbers[1::2])]
        (left, right), (top, bottom) = map(_place, size, values[:2], values[2:])
        is_valid = min(*numbers[1::2], numbers[0], numbers[2]) > 0
        if is_valid and min(left, right, top, bottom) >= 0:
            return Margins(top=top, bottom=bottom, left=left, right=right)
    return None


def _place(length: int, shown: Fraction, offset: Fraction) -> tuple[int, int]:
    """Returns the margins before and after `shown` of `length` pixels, `offset` off the centre."""
    first = int(offset + Fraction(length - 1, 2) - (shown - 1) / 2)
    last = int(offset + Fraction(length - 1, 2) + (shown - 1) / 2)
    return first, length - 1 - last


def _read_matroska(file: BinaryIO, size: int) -> Margins | None:
    for track in _find(file, (0, size), [_SEGMENT, _TRACKS, _TRACK], _split_elements):
        types = _find(file, track[1:], [_TRACK_TYPE], _split_elements)
        if any(_read(file, *_span(part)).lstrip(b"\0") == _VIDEO_TRACK for part in types):
            sides = dict.fromkeys(_CROPS.values(), 0)
            for video in _find(file, track[1:], [_VIDEO], _split_elements):
                for part in _split_elements(file, video.start, video.end):
                    if part.kind in sides:
                        sides[part.kind] = int.from_bytes(_read(file, *_span(part)))
            return Margins(**{side: sides[kind] for side, kind in _CROPS.items()})
    return None


def _find(
    file: BinaryIO, span: tuple[int, int], kinds: Sequence[bytes | int], split: _Splitter
) -> Iterator[_Part]:
    """Yields the parts at a path of kinds below a span (start, end) of the file."""
    for part in split(file, *span):
        if part.kind != kinds[0]:
            continue
        if len(kinds) == 1:
            yield part
        else:
            yield from _find(file, part[1:], kinds[1:], split)


def _split_boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Part]:
    while start + 8 <= end:
        length, kind = struct.unpack(">I4s", _read(file, start, 8))
        header = 8
        if length == 1:
            (length,), header = struct.unpack(">Q", _read(file, start + 8, 8)), 16
        elif length == 0:
            length = end - start
        if length < header:
            return
        yield _Part(kind, start + header, min(start + length, end))
        start += length


def _split_elements(file: BinaryIO, start: int, end: int) -> Iterator[_Part]:
    while start < end:
        kind, id_bytes = _read_number(file, start, keeps_marker=True)
        length, length_bytes = _read_number(file, start + id_bytes, keeps_marker=False)
        content = start + id_bytes + length_bytes
        is_unknown = length == 2 ** (7 * length_bytes) - 1
        start = end if is_unknown else content + length
        yield _Part(kind, content, min(start, end))


def _read_number(file: BinaryIO, place: int, keeps_marker: bool) -> tuple[int, int]:
    """Reads an EBML number of variable length, with or without the bit that marks its length.

    Returns:
      The number and its length in bytes.
    """
    (first,) = struct.unpack("B", _read(file, place, 1))
    if first == 0:
        raise struct.error("not a number of EBML")
    num_bytes = 9 - first.bit_length()
    value = int.from_bytes(_read(file, place, num_bytes))
    return value if keeps_marker else value - (1 << (7 * num_bytes)), num_bytes


def _span(part: _Part) -> tuple[int, int]:
    """Returns the place and the length of a number, at most 8 bytes."""
    return part.start, min(part.end - part.start, 8)


def _read(file: BinaryIO, place: int, num_bytes: int) -> bytes:
    file.seek(place)
    return file.read(num_bytes)
