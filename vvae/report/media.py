"""Pictures and videos inside the page, and links to the files of the run directory."""

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
    """A link to a file.

    Attributes:
      text: path relative to the run directory.
      url: the same path, relative to the page and quoted.
      num_bytes: size of the file.
    """

    text: str
    url: str
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Media:
    """A picture or a video.

    Attributes:
      caption: what it shows.
      is_video: whether it is a video.
      source: the file as a data URI; None if the page has no room for it.
      link: a link to the file.
      width, height: size in pixels; None if it is not known.
    """

    caption: str
    is_video: bool
    source: str | None
    link: Link
    width: int | None = None
    height: int | None = None


class Inliner:
    """Puts files into the page as data URIs until a limit of bytes is reached.

    Attributes:
      limit_bytes: the limit.
      used_bytes: what the files in the page take.
      num_inlined: number of files in the page.
      linked: links to the files that the page has no room for.
    """

    def __init__(self, workdir: Path, limit_bytes: int):
        """Starts with an empty page, which lies in `workdir`."""
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.num_inlined = 0
        self.linked: list[Link] = []
        self._workdir = workdir

    def show(self, path: Path, caption: str) -> Media:
        """Takes a picture or a video into the page, or leaves it as a link if there is no room."""
        suffix = path.suffix.lower()
        is_video, link = suffix in VIDEOS, self.link(path)
        size = 4 * -(-link.num_bytes // 3)
        if self.used_bytes + size > self.limit_bytes:
            self.linked.append(link)
            return Media(caption=caption, is_video=is_video, source=None, link=link)
        self.used_bytes += size
        self.num_inlined += 1
        data = path.read_bytes()
        width, height = read_size(data)
        return Media(
            caption=caption,
            is_video=is_video,
            source=f"data:{(PICTURES | VIDEOS)[suffix]};base64,{base64.b64encode(data).decode()}",
            link=link,
            width=width,
            height=height,
        )

    def link(self, path: Path) -> Link:
        """Returns a link to a file of the run directory."""
        text = path.relative_to(self._workdir).as_posix()
        return Link(text, quote(os.fsencode(text)), path.stat().st_size)


def read_size(data: bytes) -> tuple[int | None, int | None]:
    """Returns (width, height) of a PNG in pixels; (None, None) for other files."""
    if len(data) < 24 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None, None
    return struct.unpack(">II", data[16:24])
