"""Clips -> uint8 batches. The whole state of a training stream is one integer, the step."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from vvae.data.clips import Clips
from vvae.data.views import mirror_codes

_NUM_THREADS = 2
_NUM_AHEAD = 3
_AUGMENTATION_STREAM = 1  # keeps its random numbers apart from those of the shuffling
_CUT_STREAM = 2
_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training clips, the same for all frames of a clip. Off by default.

    Attributes:
      flip: mirror left and right with probability 1/2.
      crop: shift by up to so many pixels each way; edges are repeated.
      brightness: add up to this share of the 8-bit range to gray and rgb channels, or take it
        away. Differences do not change with brightness, and binary pictures have none.
    """

    flip: bool = False
    crop: int = 0
    brightness: float = 0.0

    def __post_init__(self):
        if self.crop < 0:
            raise ValueError(f"augmentation.crop must be at least 0, got {self.crop}")
        if not 0 <= self.brightness <= 1:
            raise ValueError(f"augmentation.brightness must be in [0, 1], got {self.brightness}")


_NO_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class Cuts:
    """Which part of a clip is trained on. By default all of it.

    Attributes:
      lengths: (first step, frames) by rising step, from step 0 on: from that step on all clips of
        a batch are that long, cut out anywhere; () for whole clips.
      images: share of clips that are one of their frames alone: a clip of which only the first
        frame counts, and all others are masked.
    """

    lengths: tuple[tuple[int, int], ...] = ()
    images: float = 0.0

    def __post_init__(self):
        steps = [step for step, _ in self.lengths]
        if steps and (steps[0] != 0 or steps != sorted(set(steps))):
            raise ValueError(f"cuts.lengths begin at step 0 and rise, got {self.lengths}")
        if not 0 <= self.images <= 1:
            raise ValueError(f"cuts.images must be in [0, 1], got {self.images}")

    def find_length(self, step: int, whole: int) -> int:
        """Returns the number of frames at a step, for clips of so many."""
        return next((n for first, n in reversed(self.lengths) if step >= first), whole)


_NO_CUTS = Cuts()


def train_batches(
    clips: Clips,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    augmentation: Augmentation = _NO_AUGMENTATION,
    cuts: Cuts = _NO_CUTS,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields `(step, batch)` without end, in an order that only seed and step decide.

    Every epoch is a new order of all clips; a batch may reach into the next epoch, so that all
    batches are full. Batches are read ahead by threads, which end when the iterator is closed.

    Args:
      clips: training clips.
      batch_size: global batch, a multiple of `process_count`.
      seed: >= 0.
      start_step: the first step to yield.
      process_index, process_count: this process gets its contiguous part of each global batch.
      augmentation: random changes, drawn from seed, step and clip number.
      cuts: parts of the clips, drawn likewise.

    Yields:
      step, and video uint8 [b, T, H, W, C], mask bool [b, T], index int32 [b] (clip number in
      `clips`), label int32 [b], with b = batch_size / process_count.

    Raises:
      ValueError: for sizes that do not fit, or brightness on a view without intensities.
    """
    own = _slice_batch(batch_size, process_index, process_count)
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed and start_step must be at least 0, got {seed} and {start_step}")
    if len(clips) == 0:
        raise ValueError("there are no clips to make batches of")
    if augmentation.brightness and not any(clips.view.intensity_channels):
        raise ValueError(f"brightness does not apply to the view {clips.view.name}: leave it at 0")
    whole = clips.clip_format.clip_shape[0]
    for _, length in cuts.lengths:
        if not 1 <= length <= whole:
            raise ValueError(f"cuts of {length} frames do not fit into clips of {whole}")

    @functools.lru_cache(maxsize=2)
    def shuffle(epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(clips))

    def load(step: int) -> tuple[int, dict[str, np.ndarray]]:
        numbers = range(step * batch_size, (step + 1) * batch_size)[own]
        ids = np.array([shuffle(k // len(clips))[k % len(clips)] for k in numbers])
        batch = _read_batch(clips, ids)
        if augmentation != _NO_AUGMENTATION:
            for row, clip in enumerate(ids):
                random = _seed_augmentation(seed, step, int(clip))
                batch["video"][row] = _augment(batch["video"][row], augmentation, random, clips)
        return step, batch if cuts == _NO_CUTS else _cut_batch(batch, cuts, seed, step)

    return _load_ahead(load, itertools.count(start_step))


def eval_batches(
    clips: Clips, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every clip once, in order, in ceil(N / batch_size) batches for every process.

    The last batch is filled by repeating the last clip. Batches are as in `train_batches`, with
    valid bool [b]: False for the repeated ones.

    Raises:
      ValueError: for sizes that do not fit.
    """
    own = _slice_batch(batch_size, process_index, process_count)

    def load(start: int) -> dict[str, np.ndarray]:
        numbers = np.arange(start, start + batch_size)[own]
        batch = _read_batch(clips, np.minimum(numbers, len(clips) - 1))
        return batch | {"valid": numbers < len(clips)}

    return _load_ahead(load, range(0, len(clips), batch_size))


def pixel_statistics(clips: Clips) -> tuple[np.ndarray, float]:
    """Computes the per-pixel mean and the one standard deviation about it, over valid frames.

    Sums are exact integers; memory does not grow with the number of clips.

    Returns:
      mean_HWC float32 and std, both in units of x / 127.5 - 1. The std is at least one step of
      the 8-bit codes, so that dividing by it never makes noise of nearly constant data.

    Raises:
      ValueError: if all valid frames are the same picture.
    """
    height, width, channels = clips.clip_format.clip_shape[1:]
    num_frames, sum_of_squares = 0, 0
    sum_HWC = np.zeros((height, width, channels), np.int64)
    chunk = max(1, _CHUNK_BYTES // clips.clip_format.clip_bytes)
    for start in range(0, len(clips), chunk):
        ids = np.arange(start, min(start + chunk, len(clips)))
        frames_FHWC = clips.read(ids)[clips.mask_NT[ids]]
        num_frames += len(frames_FHWC)
        sum_HWC += frames_FHWC.sum(axis=0, dtype=np.int64)
        squares = np.square(frames_FHWC, dtype=np.uint16)
        sum_of_squares += int(squares.sum(dtype=np.int64))
    mean_HWC = sum_HWC / num_frames
    variance = sum_of_squares / (num_frames * mean_HWC.size) - np.square(mean_HWC).mean()
    if num_frames * sum_of_squares == int(np.square(sum_HWC.astype(object)).sum()):
        raise ValueError(
            f"all {num_frames} frames of the training clips are the same picture under the view "
            f"{clips.view.name}: there is nothing to learn"
        )
    std = float(np.sqrt(max(variance, 1.0)))
    return (mean_HWC / 127.5 - 1).astype(np.float32), std / 127.5


def channel_statistics(clips: Clips) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and standard deviation of each channel over the valid frames.

    Sums are exact integers; memory does not grow with the number of clips.

    Returns:
      mean_C and std_C, float32, both in units of x / 127.5 - 1. Each std is at least one step of
      the 8-bit codes.

    Raises:
      ValueError: if every channel is constant over all frames.
    """
    channels = clips.clip_format.clip_shape[-1]
    count, sum_C, squares_C = 0, np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    chunk = max(1, _CHUNK_BYTES // clips.clip_format.clip_bytes)
    for start in range(0, len(clips), chunk):
        ids = np.arange(start, min(start + chunk, len(clips)))
        codes_NC = clips.read(ids)[clips.mask_NT[ids]].reshape(-1, channels)
        count += len(codes_NC)
        sum_C += codes_NC.sum(axis=0, dtype=np.int64)
        squares_C += np.square(codes_NC, dtype=np.uint16).sum(axis=0, dtype=np.int64)
    mean_C = sum_C / count
    variance_C = squares_C / count - np.square(mean_C)
    if np.all(count * squares_C.astype(object) == np.square(sum_C.astype(object))):
        raise ValueError(
            f"every channel of the training clips is constant under the view {clips.view.name}: "
            "there is nothing to learn"
        )
    std_C = np.sqrt(np.maximum(variance_C, 1.0))
    return (mean_C / 127.5 - 1).astype(np.float32), (std_C / 127.5).astype(np.float32)


def _slice_batch(batch_size: int, process_index: int, process_count: int) -> slice:
    """The part of a global batch that belongs to one process."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"the batch size {batch_size} must be a positive multiple of the number of processes, "
            f"{process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} is not one of {process_count}")
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _read_batch(clips: Clips, ids: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "video": clips.read(ids),
        "mask": clips.mask_NT[ids],
        "index": ids.astype(np.int32),
        "label": clips.label_N[ids],
    }


def _load_ahead(load: Callable[[int], Any], positions: Iterable[int]) -> Iterator[Any]:
    """Yields load(position) in order, with a few of them under way in threads."""
    positions = iter(positions)
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="vvae-loader") as threads:
        waiting = collections.deque(
            threads.submit(load, position) for position in itertools.islice(positions, _NUM_AHEAD)
        )
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(threads.submit(load, p) for p in itertools.islice(positions, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def _seed_augmentation(
    seed: int, step: int, clip: int, stream: int = _AUGMENTATION_STREAM
) -> np.random.Generator:
    counter = [0, 0, stream, clip]
    return np.random.Generator(np.random.Philox(key=[seed, step], counter=counter))


def _cut_batch(batch: dict[str, np.ndarray], cuts: Cuts, seed: int, step: int):
    """Replaces the clips of a batch by parts of them."""
    video, mask = batch["video"], batch["mask"]
    whole = video.shape[1]
    length = cuts.find_length(step, whole)
    cut_video = np.empty((len(video), length, *video.shape[2:]), video.dtype)
    cut_mask = np.zeros((len(video), length), bool)
    for row, clip in enumerate(batch["index"]):
        random = _seed_augmentation(seed, step, int(clip), _CUT_STREAM)
        # Each number is drawn whether it is used or not: one setting does not change the other's.
        is_image, start = random.random() < cuts.images, random.integers(whole - length + 1)
        frame = random.integers(whole)
        if is_image:
            cut_video[row], cut_mask[row, 0] = video[row, frame], mask[row, frame]
        else:
            part = slice(start, start + length)
            cut_video[row], cut_mask[row] = video[row, part], mask[row, part]
    return batch | {"video": cut_video, "mask": cut_mask}


def _augment(
    clip_THWC: np.ndarray, augmentation: Augmentation, random: np.random.Generator, clips: Clips
) -> np.ndarray:
    # Each number is drawn whether it is used or not: one setting does not change another's effect.
    mirrored = random.random() < 0.5
    down, right = random.integers(-augmentation.crop, augmentation.crop, size=2, endpoint=True)
    change = random.uniform(-1, 1) * 255 * augmentation.brightness
    if augmentation.flip and mirrored:
        clip_THWC = mirror_codes(clips.view, clip_THWC)
    clip_THWC = shift_clip(clip_THWC, int(down), int(right))
    if augmentation.brightness:
        change_C = np.where(clips.view.intensity_channels, np.rint(change), 0).astype(np.int16)
        clip_THWC = np.clip(clip_THWC + change_C, 0, 255).astype(np.uint8)
    return clip_THWC


def shift_clip(clip_THWC: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shifts a clip by whole pixels; rows and columns that come in repeat the edge."""
    height, width = clip_THWC.shape[1:3]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return clip_THWC[:, rows[:, None], columns]
