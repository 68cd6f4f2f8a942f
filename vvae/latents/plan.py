"""How videos become clips: sizes, lengths, frame rate and cropping, and the frames that follow."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

CROPS = ("center", "stretch")
CUTS = ("all", "first")
STARTS = ("first_frame", "carried")
TAILS = ("repeat", "drop")


@dataclass(frozen=True)
class ClipPlan:
    """The clips of a collection. By default each video is one clip of its own size and length.

    Attributes:
      sizes: (height, width) of the buckets; a video goes into the one of the nearest aspect. Empty
        for its own size.
      crop: `center` keeps the aspect and cuts off what is outside the bucket; `stretch` keeps the
        whole frame. Without sizes it has no effect.
      frames: lengths of clips, in frames. Empty for the whole video. Of several lengths, the
        longest that fits is taken; a rest that is shorter than all of them is left out.
      cut: `all` cuts a video into clips one after another, `first` takes its beginning alone.
      fps: frames a second, to which every video is resampled by its timestamps (the nearest frame);
        None for all of its frames.
      tail: what happens to frames at the end that fill no latent frame: `repeat` repeats the last
        one, `drop` leaves them out, as most published encoders do.
      start: `first_frame`: every clip begins with a latent frame of one frame, as published models
        are trained. `carried`: clips are cut from the latents of the whole video, which equal those
        of the uncut video.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    crop: str = "center"
    frames: tuple[int, ...] = ()
    cut: str = "all"
    fps: float | None = None
    tail: str = "repeat"
    start: str = "first_frame"

    def __post_init__(self):
        for name, known in (("crop", CROPS), ("cut", CUTS), ("tail", TAILS), ("start", STARTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose {' or '.join(known)}")
        if any(min(size) < 1 for size in self.sizes) or any(n < 1 for n in self.frames):
            raise ValueError(f"sizes={self.sizes}, frames={self.frames}: must be at least 1")
        if self.fps is not None and not 0 < self.fps < 1e4:
            raise ValueError(f"fps={self.fps}: must be greater than 0 and less than 10000")
        if self.start == "carried" and not self.frames:
            raise ValueError("start='carried' is for clips: state their length in frames")

    def check_model(self, temporal_compression: int) -> None:
        """Raises ValueError if lengths cannot be cut from latents of this compression."""
        wrong = [n for n in self.frames if (n - 1) % temporal_compression]
        if wrong and (len(self.frames) > 1 or self.start == "carried" or self.tail == "drop"):
            step = temporal_compression
            below = 1 + (wrong[0] - 1) // step * step
            raise ValueError(
                f"frames={wrong[0]}: with several lengths, tail='drop' or start='carried' it must "
                f"be 1 + {step} k, such as {below} or {below + step}"
            )

    @property
    def longest(self) -> int | None:
        """The longest length of a clip, in frames; None for whole videos."""
        return max(self.frames, default=None)

    def choose_length(self, available: int) -> int | None:
        """Returns the longest length that fits; None if none does."""
        if not self.frames:
            return available
        return max((n for n in self.frames if n <= available), default=None)

    def as_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        values = asdict(self)
        return values | {"sizes": [list(s) for s in self.sizes], "frames": list(self.frames)}


@dataclass(frozen=True)
class Framing:
    """How the frames of one video become those of its clips.

    Attributes:
      original_size: (height, width) as the file shows it.
      resized: (height, width) that the whole frame is resized to.
      crop: (top, left) of what is kept of the resized frame.
      size: (height, width) of what is kept and encoded.
    """

    original_size: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int]
    size: tuple[int, int]

    def cut(self, frame_HWC):
        """Returns the kept part of a resized frame."""
        (top, left), (height, width) = self.crop, self.size
        return frame_HWC[top : top + height, left : left + width]


def choose_framing(plan: ClipPlan, size: tuple[int, int]) -> Framing:
    """Chooses the bucket of a video of (height, width) pixels, and how it is fitted into it.

    The bucket is the one of the nearest aspect by ratio; of equal ones, the nearest in area.
    """
    if not plan.sizes:
        return Framing(size, size, (0, 0), size)
    height, width = size

    def distance(bucket: tuple[int, int]) -> tuple[float, float]:
        aspect = bucket[0] * width / (bucket[1] * height)
        area = bucket[0] * bucket[1] / (height * width)
        return max(aspect, 1 / aspect), max(area, 1 / area)

    bucket = min(plan.sizes, key=distance)
    if plan.crop == "stretch":
        return Framing(size, bucket, (0, 0), bucket)
    scale = max(bucket[0] / height, bucket[1] / width)
    resized = tuple(max(round(side * scale), b) for side, b in zip(size, bucket))
    crop = tuple((r - b) // 2 for r, b in zip(resized, bucket))
    return Framing(size, resized, crop, bucket)


def resample(frames: Iterable[tuple[float, Any]], fps: float | None) -> Iterator[tuple[int, Any]]:
    """Yields (number, (time, frame)) of the frames that are used, in order.

    Args:
      frames: (time, frame) of all frames, times in s from 0.
      fps: the wanted frames a second; None for every frame. For the times k / fps up to the last
        frame, the nearest frame is yielded, the earlier of two equally near ones.
    """
    numbered = enumerate(frames)
    if fps is None:
        yield from numbered
        return
    k, before = 0, None
    for item in numbered:
        time = item[1][0]
        while before is not None and k / fps - before[1][0] <= time - k / fps:
            yield before
            k += 1
        before = item
    # A time that rounding has put just behind the last frame is still that frame's.
    while before is not None and k / fps <= before[1][0] + 1e-6:
        yield before
        k += 1


def count_latents(num_frames: int, temporal_compression: int, tail: str) -> int:
    """Returns the latent frames of a clip of num_frames >= 1 frames."""
    later = num_frames - 1
    whole = later // temporal_compression
    return 1 + (whole if tail == "drop" else -(-later // temporal_compression))


def plan_pieces(num_latents: int | None, largest: int) -> Iterator[int]:
    """Yields the latent frames of each piece that a stream is encoded in.

    A stream of known length is cut into pieces of nearly equal size, so that none is filled up; one
    of unknown length into pieces of the largest size, without end.
    """
    if num_latents is None:
        yield from itertools.repeat(largest)
        return
    count = -(-num_latents // largest)
    for piece in range(count):
        yield num_latents // count + (piece < num_latents % count)
