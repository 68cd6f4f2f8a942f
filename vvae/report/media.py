"""Pictures and videos embedded in the page, and links to the files of the run directory."""

import base64
import dataclasses
import os
import struct
from pathlib import Path
from urllib.parse import quote

PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif"}
VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}


@dataclasses.dataclass(frozen=True)
class Link:
    """A link to a file: its path in the run directory, its URL relative to the page, its size."""

    text: str
    url: str
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Media:
    """A picture or a video: `source` is a data URI, None if the file would exceed the limit."""

    caption: str
    is_video: bool
    link: Link
    source: str | None = None
    width: int | None = None
    height: int | None = None


class Inliner:
    """Embeds files in the page as data URIs until a limit of bytes is reached.

    Attributes:
      limit_bytes: the limit.
      used_bytes: bytes that the embedded files take.
      num_inlined: number of embedded files.
      linked: links to the files that would have exceeded the limit.
    """

    def __init__(self, workdir: Path, limit_bytes: int):
        """Starts without embedded files; the page will lie in `workdir`."""
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.num_inlined = 0
        self.linked: list[Link] = []
        self._workdir = workdir

    def show(self, path: Path, caption: str) -> Media:
        """Embeds a picture or a video, or only links to it if that would exceed the limit."""
        suffix = path.suffix.lower()
        is_video, link = suffix in VIDEOS, self.link(path)
        size = 4 * -(-link.num_bytes // 3)
        if self.used_bytes + size > self.limit_bytes:
            self.linked.append(link)
            return Media(caption, is_video, link)
        self.used_bytes += size
        self.num_inlined += 1
        data = path.read_bytes()
        source = f"data:{(PICTURES | VIDEOS)[suffix]};base64,{base64.b64encode(data).decode()}"
        width, height = read_size(data)
        return Media(caption, is_video, link, source=source, width=width, height=height)

    def link(self, path: Path) -> Link:
        """Returns a link to a file of the run directory."""
        text = path.relative_to(self._workdir).as_posix()
        return Link(text, quote(os.fsencode(text)), path.stat().st_size)


def read_size(data: bytes) -> tuple[int | None, int | None]:
    """Returns (width, height) of a PNG in pixels; (None, None) for other files."""
    if len(data) < 24 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None, None
    return struct.unpack(">II", data[16:24])
