"""The clips of one split: their metadata in memory, their pixels in the cache."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vvae.data.cache import CodesFile, Entry, read_clip
from vvae.data.listing import Video
from vvae.data.sampling import ClipFormat
from vvae.data.stream import make_shuffle
from vvae.data.views import View, get_view

NO_LABEL = -1


@dataclass(frozen=True, eq=False)
class Clips:
    """Clips, ordered by the names of their videos, then by time.

    Attributes:
      clip_format: The view, size and sampling of the clips.
      videos: The V videos that the clips come from, each with at least one clip.
      video_index_N: int32; the video of each clip, as an index into `videos`.
      label_N: int32; the class of each clip, NO_LABEL for none.
      mask_NT: bool; False where a frame was repeated to fill the clip, or where the view has no
        value.
      frame_NT: int32; the number of each frame in its file.
      time_NT: float64; the time of each frame in its file, s.
      position_N: int32; the number of each clip within its video.
      codes_files: The cached array of each video, from which `read` reads.
      corner_V: int32 [V, 2]; the first row and column of the region that is read, for the tiles of
        `vvae.data.tiles`. Whole frames begin at (0, 0).
    """

    clip_format: ClipFormat
    videos: tuple[Video, ...]
    video_index_N: np.ndarray
    label_N: np.ndarray
    mask_NT: np.ndarray
    frame_NT: np.ndarray
    time_NT: np.ndarray
    position_N: np.ndarray
    codes_files: tuple[CodesFile, ...]
    corner_V: np.ndarray

    def __len__(self) -> int:
        return len(self.video_index_N)

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """The shape (T, H, W, C) of one clip."""
        return self.clip_format.clip_shape

    @property
    def view(self) -> View:
        """The view that the codes belong to."""
        return get_view(self.clip_format.view)

    @property
    def label_V(self) -> np.ndarray:
        """The class of each video, int32; NO_LABEL for none."""
        label_V = np.empty(len(self.videos), np.int32)
        label_V[self.video_index_N] = self.label_N
        return label_V

    def read(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Reads clips by number, uint8 codes [n, T, H, W, C]. Safe to call from several threads.

        Raises:
          IndexError: If a number is out of range.
          FileNotFoundError: If a clip was removed from the cache after it was opened.
          ValueError: If the cache holds other bytes than were written.
        """
        codes_NTHWC = np.empty((len(ids), *self.clip_format.clip_shape), np.uint8)
        for codes_THWC, clip in zip(codes_NTHWC, ids, strict=True):
            video, number = self.video_index_N[clip], int(self.position_N[clip])
            read_clip(self.codes_files[video], number, self.corner_V[video], codes_THWC)
        return codes_NTHWC

    def read_batch(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Reads a batch of clips by number, as `vvae.data.stream.Stream` describes it."""
        return {
            "video": self.read(ids),
            "mask": self.mask_NT[ids],
            "index": ids.astype(np.int32),
            "label": self.label_N[ids],
        }

    @contextlib.contextmanager
    def open_reader(self, seed: int) -> Iterator[Callable[[range], dict[str, np.ndarray]]]:
        """Opens the clips as a `vvae.data.stream.Stream`: every epoch is a new permutation."""
        find = make_shuffle(seed, len(self))
        yield lambda positions: self.read_batch(find(positions))

    def describe_clip(self, index: int) -> str:
        """Names a clip: its video and its first frame."""
        video = self.videos[self.video_index_N[index]]
        return f"{video.name} from frame {self.frame_NT[index, 0]}"

    def select(self, ids: Sequence[int] | np.ndarray) -> "Clips":
        """Returns the clips with these numbers, in this order, and only the videos they need."""
        ids = np.asarray(ids, dtype=np.int64)
        used, video_index_N = np.unique(self.video_index_N[ids], return_inverse=True)
        return replace(
            self,
            videos=tuple(self.videos[k] for k in used),
            video_index_N=video_index_N.astype(np.int32),
            label_N=self.label_N[ids],
            mask_NT=self.mask_NT[ids],
            frame_NT=self.frame_NT[ids],
            time_NT=self.time_NT[ids],
            position_N=self.position_N[ids],
            codes_files=tuple(self.codes_files[k] for k in used),
            corner_V=self.corner_V[used],
        )


def gather_clips(
    clip_format: ClipFormat,
    videos: Sequence[Video],
    entries: Sequence[Entry],
    class_names: Sequence[str],
) -> Clips:
    """Joins the cached clips of videos; a label that is not in `class_names` becomes NO_LABEL."""
    class_ids = {name: number for number, name in enumerate(class_names)}
    counts = [len(entry.mask_NT) for entry in entries]
    label_V = np.array([class_ids.get(video.label, NO_LABEL) for video in videos], np.int32)
    return Clips(
        clip_format=clip_format,
        videos=tuple(videos),
        video_index_N=np.repeat(np.arange(len(videos), dtype=np.int32), counts),
        label_N=np.repeat(label_V, counts),
        mask_NT=np.concatenate([entry.mask_NT for entry in entries]),
        frame_NT=np.concatenate([entry.frame_NT for entry in entries]),
        time_NT=np.concatenate([entry.time_NT for entry in entries]),
        position_N=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        codes_files=tuple(entry.codes for entry in entries),
        corner_V=np.zeros((len(videos), 2), np.int32),
    )


class ArrayClips:
    """Clips in memory, of which statistics are measured as of `Clips`: all frames are valid.

    Raises:
      ValueError: If they are not uint8 [N, T, H, W, C].
    """

    def __init__(self, codes_NTHWC: np.ndarray):
        if codes_NTHWC.dtype != np.uint8 or codes_NTHWC.ndim != 5 or 0 in codes_NTHWC.shape:
            raise ValueError(
                f"clips must be uint8 [N, T, H, W, C], not {codes_NTHWC.dtype} {codes_NTHWC.shape}"
            )
        self._codes_NTHWC = codes_NTHWC
        self.mask_NT = np.ones(codes_NTHWC.shape[:2], bool)

    def __len__(self) -> int:
        return len(self._codes_NTHWC)

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """The shape (T, H, W, C) of one clip."""
        return self._codes_NTHWC.shape[1:]

    def read(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns clips by number, uint8 codes [n, T, H, W, C]."""
        return self._codes_NTHWC[np.asarray(ids)]
