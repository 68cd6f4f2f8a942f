"""The training clips of a collection: drawn by position, decoded by workers as they are needed."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from vvae.data.cache import NO_TIME_LIMIT, Limits
from vvae.data.clips import NO_LABEL
from vvae.data.collection.division import Rows
from vvae.data.collection.index import Index
from vvae.data.collection.permutation import Permutation
from vvae.data.collection.sources import Source, open_path, read_texts
from vvae.data.sampling import ClipFormat, decode_clip
from vvae.data.stream import Batch
from vvae.data.views import View, get_view
from vvae.data.workers import WorkerError, WorkerPool
from vvae.files import is_disk_full
from vvae.video import VideoError

_WINDOW_STREAM = 3  # beside those of vvae.data.loader
_MAX_BROKEN = 64  # in a row; then it is not the videos that are broken


@dataclass(frozen=True)
class Draw:
    """A clip to decode: which of its video is said by a number in [0, 1)."""

    source: Source
    clip_format: ClipFormat
    share: float
    max_pixels: int


@dataclass(frozen=True)
class Drawn:
    """A decoded clip: uint8 codes, which frames are valid, and the label of its video."""

    codes_THWC: np.ndarray
    mask_T: np.ndarray
    label: str | None


@dataclass(frozen=True, eq=False)
class CollectionClips:
    """Training clips of a collection, a `vvae.data.stream.Stream`.

    An epoch takes one clip of every video: the whole video, or one of its windows, drawn anew in
    every epoch. Its order is a permutation that is computed by place (`Permutation`). A video that
    cannot be read is replaced by the next of the permutation, so that a batch depends on the seed
    and the positions alone.

    Attributes:
      index: The collection.
      rows: The videos that are trained on.
      clip_format: The view, size and sampling of the clips.
      class_names: The classes, by which labels are numbered; another label is NO_LABEL.
      num_workers: The number of processes that decode; 0 decodes in this process.
      limits: What decoding one clip may take; one that exceeds them counts as broken.
      on_error: "skip" replaces broken videos, "raise" stops at the first one.
      broken: Name of a video that could not be read -> reason; grows while clips are read.
    """

    index: Index
    rows: Rows
    clip_format: ClipFormat
    class_names: Sequence[str] = ()
    num_workers: int = 0
    limits: Limits = NO_TIME_LIMIT
    on_error: str = "skip"
    broken: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def view(self) -> View:
        """The view that the codes belong to."""
        return get_view(self.clip_format.view)

    def describe_clip(self, index: int) -> str:
        """Names the video of a clip."""
        return self.index[index].name

    @contextlib.contextmanager
    def open_reader(self, seed: int) -> Iterator[Callable[[range], Batch]]:
        """Opens the clips as a `vvae.data.stream.Stream`; `index` is the number in the index.

        Raises (where a batch is read):
          ValueError: If 64 videos in a row cannot be read.
          VideoError: For the first broken video if `on_error` is "raise".
        """
        with WorkerPool(decode_draw, self.num_workers, self.limits.seconds) as pool:
            yield _Reader(self, seed, pool).read


class _Reader:
    """Reads batches through a pool of workers."""

    def __init__(self, clips: CollectionClips, seed: int, pool: WorkerPool):
        self._clips, self._seed, self._pool = clips, seed, pool
        self._lock = threading.Lock()
        self._class_ids = {name: number for number, name in enumerate(clips.class_names)}

    def read(self, positions: range) -> Batch:
        """Reads the clips at positions; all of them are decoded at once."""
        started = [self._start(position) for position in positions]
        found = [self._finish(position, *begun) for position, begun in zip(positions, started)]
        label_b = [self._class_ids.get(drawn.label, NO_LABEL) for _, drawn in found]
        return {
            "video": np.stack([drawn.codes_THWC for _, drawn in found]),
            "mask": np.stack([drawn.mask_T for _, drawn in found]),
            "index": np.array([row for row, _ in found], np.int32),
            "label": np.array(label_b, np.int32),
        }

    def _start(self, position: int, later: int = 0) -> tuple[int, Draw, Future]:
        """Starts to decode the clip at a position, or one that is later in its epoch."""
        clips = self._clips
        epoch, place = divmod(position, len(clips))
        order = Permutation(len(clips), (self._seed, epoch))
        row = int(clips.rows(order(np.array([(place + later) % len(clips)])))[0])
        random = np.random.Generator(
            np.random.Philox(key=[self._seed, epoch], counter=[0, 0, _WINDOW_STREAM, row])
        )
        max_pixels = clips.limits.max_pixels
        draw = Draw(clips.index[row], clips.clip_format, random.random(), max_pixels)
        return row, draw, self._pool.submit(draw)

    def _finish(self, position: int, row: int, draw: Draw, future: Future) -> tuple[int, Drawn]:
        """Returns the row and the clip at a position, or the next one that can be read."""
        limit = min(_MAX_BROKEN, len(self._clips))
        for later in range(1, limit + 1):
            try:
                return row, self._wait(draw, future)
            except (VideoError, WorkerError) as error:
                self._note(draw.source, getattr(error, "reason", str(error)))
            if later < limit:
                row, draw, future = self._start(position, later)
        raise ValueError(
            f"{limit} videos in a row cannot be read, the last one {draw.source.name}: "
            f"{self._clips.broken[draw.source.name]}. Is the collection still there?"
        )

    def _wait(self, draw: Draw, future: Future) -> Drawn:
        try:
            return future.result()
        except WorkerError as error:
            if error.is_late:
                raise
            # A process that was killed is no reason for another result: once more in a new one.
            return self._pool.submit(draw).result()

    def _note(self, source: Source, reason: str) -> None:
        if self._clips.on_error == "raise":
            raise VideoError(source.name, reason)
        with self._lock:
            self._clips.broken[source.name] = reason


def decode_draw(draw: Draw) -> Drawn:
    """Decodes a clip.

    Raises:
      VideoError: If it cannot be read, for whatever reason; the message names no path.
      OSError: If the disk of temporary files is full, for which no video is to blame.
    """
    source = draw.source
    try:
        with open_path(source) as path:
            clips = decode_clip(path, draw.clip_format, draw.share, draw.max_pixels)
        label = read_texts(source).get("label")
    except VideoError as error:
        raise VideoError(source.name, error.reason) from error
    except (ValueError, OSError) as error:
        if is_disk_full(error):
            raise
        raise VideoError(source.name, " ".join(str(error).split())) from error
    return Drawn(clips.codes_NTHWC[0], clips.mask_NT[0], label)
