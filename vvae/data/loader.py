"""Turns clips into uint8 batches. The whole state of a training stream is one integer, the step."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vvae.data.ahead import load_ahead
from vvae.data.clips import ArrayClips, Clips
from vvae.data.stream import Batch, Source, Stream
from vvae.data.views import mirror_codes

_AUGMENTATION_STREAM = 1  # its random numbers are independent of those of the shuffling
_CUT_STREAM = 2
_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training clips, the same for all frames of a clip. Off by default.

    Attributes:
      flip: Whether to mirror clips horizontally with probability 1/2.
      crop: The largest shift in pixels, in each direction; edges are repeated.
      brightness: The largest change of brightness, up or down, as a share of the 8-bit range. It
        applies to gray and rgb channels only: differences do not depend on brightness, and binary
        images have none.
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
    """The part of a clip that is trained on; the whole clip by default.

    Attributes:
      lengths: Pairs (first step, frames), by rising step, beginning at step 0. From that step on,
        all clips of a batch are cut to this length, at random places. () for whole clips.
      images: The share of clips that become a single image: one random frame replaces the first
        frame, and all later frames are masked.
    """

    lengths: tuple[tuple[int, int], ...] = ()
    images: float = 0.0

    def __post_init__(self):
        steps = [step for step, _ in self.lengths]
        if steps and (steps[0] != 0 or steps != sorted(set(steps))):
            raise ValueError(f"cuts.lengths must begin at step 0 and rise, got {self.lengths}")
        if not 0 <= self.images <= 1:
            raise ValueError(f"cuts.images must be in [0, 1], got {self.images}")

    def find_length(self, step: int, whole: int) -> int:
        """Returns the number of frames at a step, for clips of `whole` frames."""
        return next((n for first, n in reversed(self.lengths) if step >= first), whole)


_NO_CUTS = Cuts()


def train_batches(
    clips: Stream,
    batch_size: int,
    seed: int,
    *,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    augmentation: Augmentation = _NO_AUGMENTATION,
    cuts: Cuts = _NO_CUTS,
) -> Iterator[tuple[int, Batch]]:
    """Yields `(step, batch)` without end, in an order that depends on the seed and the step only.

    Every epoch is a new permutation of all clips. A batch may continue into the next epoch, so that
    all batches are full. Threads read batches ahead; they end when the iterator is closed.

    Args:
      clips: The training clips, of a folder or of a collection.
      batch_size: The size of the global batch, a multiple of `process_count`.
      seed: The seed of the order and of all random changes, at least 0.
      start_step: The first step to yield.
      process_index: The number of this process, which gets its contiguous part of each global
        batch.
      process_count: The number of processes.
      augmentation: The random changes, which depend on the seed, the step and the number of the
        clip.
      cuts: The parts of clips to train on, which depend on the same.

    Yields:
      The step, and a batch of b = batch_size / process_count clips: `video` uint8 [b, T, H, W, C],
      `mask` bool [b, T], `index` int32 [b] (the numbers in `clips`) and `label` int32 [b].

    Raises:
      ValueError: If the sizes do not fit, or the view has no channel that brightness applies to.
    """
    if augmentation.brightness and not any(clips.view.intensity_channels):
        raise ValueError(f"brightness does not apply to the view {clips.view.name}: set it to 0")
    whole = clips.clip_format.clip_shape[0]
    for _, length in cuts.lengths:
        if not 1 <= length <= whole:
            raise ValueError(f"cuts of {length} frames do not fit into clips of {whole}")

    def change(step: int, batch: Batch) -> Batch:
        if augmentation != _NO_AUGMENTATION:
            for row, clip in enumerate(batch["index"]):
                random = _seed_augmentation(seed, step, int(clip))
                batch["video"][row] = _augment(batch["video"][row], augmentation, random, clips)
        return batch if cuts == _NO_CUTS else _cut_batch(batch, cuts, seed, step)

    return read_batches(
        clips,
        batch_size,
        seed,
        start_step=start_step,
        process_index=process_index,
        process_count=process_count,
        change=change,
    )


def read_batches(
    clips: Source,
    batch_size: int,
    seed: int,
    *,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    change: Callable[[int, Batch], Batch] = lambda step, batch: batch,
) -> Iterator[tuple[int, Batch]]:
    """Yields `(step, batch)` without end, as `train_batches`, of anything with an `open_reader`.

    Args:
      clips: The examples: a `vvae.data.stream.Stream`, or what has its `__len__` and `open_reader`.
      batch_size: The size of the global batch, a multiple of `process_count`.
      seed: The seed of the order, at least 0.
      start_step: The first step to yield.
      process_index: The number of this process.
      process_count: The number of processes.
      change: (step, batch) -> batch, called in the threads that read ahead.

    Raises:
      ValueError: If the sizes do not fit, or there are no examples.
    """
    own = _slice_batch(batch_size, process_index, process_count)
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed and start_step must be at least 0, got {seed} and {start_step}")
    if len(clips) == 0:
        raise ValueError("there are no clips to make batches of")

    def load_all() -> Iterator[tuple[int, Batch]]:
        with clips.open_reader(seed) as read:

            def load(step: int) -> tuple[int, Batch]:
                positions = range(step * batch_size, (step + 1) * batch_size)[own]
                return step, change(step, read(positions))

            yield from load_ahead(load, itertools.count(start_step))

    return load_all()


def eval_batches(
    clips: Clips, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every clip once, in order, in ceil(N / batch_size) batches for every process.

    The last batch is padded by repeating the last clip.

    Args:
      clips: The N clips.
      batch_size: The size of the global batch, a multiple of `process_count`.
      process_index: The number of this process, which gets its contiguous part of each global
        batch.
      process_count: The number of processes.

    Yields:
      Batches as in `train_batches`, with `valid` bool [b]: False for the repeated clips.

    Raises:
      ValueError: If the sizes do not fit.
    """
    own = _slice_batch(batch_size, process_index, process_count)

    def load(start: int) -> dict[str, np.ndarray]:
        numbers = np.arange(start, start + batch_size)[own]
        batch = clips.read_batch(np.minimum(numbers, len(clips) - 1))
        return batch | {"valid": numbers < len(clips)}

    return load_ahead(load, range(0, len(clips), batch_size))


def pixel_statistics(clips: Clips | ArrayClips) -> tuple[np.ndarray, float]:
    """Computes the mean of each pixel and one common standard deviation, over the valid frames.

    The sums are exact integers; memory does not grow with the number of clips.

    Returns:
      mean_HWC: float32, in units of x / 127.5 - 1.
      std: The standard deviation about that mean, in the same units. It is at least one step of the
        8-bit codes, so that dividing by it does not amplify the noise of nearly constant data.

    Raises:
      ValueError: If all valid frames are the same image.
    """
    height, width, channels = clips.clip_shape[1:]
    num_frames, sum_of_squares = 0, 0
    sum_HWC = np.zeros((height, width, channels), np.int64)
    chunk = max(1, _CHUNK_BYTES // math.prod(clips.clip_shape))
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
            f"all {num_frames} frames of the training clips are the same image"
            f"{_name_view(clips)}: there is nothing to learn"
        )
    std = float(np.sqrt(max(variance, 1.0)))
    return (mean_HWC / 127.5 - 1).astype(np.float32), std / 127.5


def channel_statistics(clips: Clips | ArrayClips) -> tuple[np.ndarray, np.ndarray]:
    """Computes the mean and the standard deviation of each channel over the valid frames.

    The sums are exact integers; memory does not grow with the number of clips.

    Returns:
      mean_C: float32, in units of x / 127.5 - 1.
      std_C: float32, in the same units; each is at least one step of the 8-bit codes.

    Raises:
      ValueError: If every channel is constant over all frames.
    """
    channels = clips.clip_shape[-1]
    count, sum_C, squares_C = 0, np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    chunk = max(1, _CHUNK_BYTES // math.prod(clips.clip_shape))
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
            f"every channel of the training clips is constant{_name_view(clips)}: there is nothing "
            "to learn"
        )
    std_C = np.sqrt(np.maximum(variance_C, 1.0))
    return (mean_C / 127.5 - 1).astype(np.float32), (std_C / 127.5).astype(np.float32)


def _name_view(clips: Clips | ArrayClips) -> str:
    return f" under the view {clips.view.name}" if isinstance(clips, Clips) else ""


def _slice_batch(batch_size: int, process_index: int, process_count: int) -> slice:
    """Returns the part of a global batch that belongs to one process."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"the batch size {batch_size} must be a positive multiple of the number of processes, "
            f"{process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} is not one of {process_count}")
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _seed_augmentation(
    seed: int, step: int, clip: int, stream: int = _AUGMENTATION_STREAM
) -> np.random.Generator:
    counter = [0, 0, stream, clip]
    return np.random.Generator(np.random.Philox(key=[seed, step], counter=counter))


def _cut_batch(batch: dict[str, np.ndarray], cuts: Cuts, seed: int, step: int):
    """Replaces the clips of a batch by their cuts."""
    video, mask = batch["video"], batch["mask"]
    whole = video.shape[1]
    length = cuts.find_length(step, whole)
    cut_video = np.empty((len(video), length, *video.shape[2:]), video.dtype)
    cut_mask = np.zeros((len(video), length), bool)
    for row, clip in enumerate(batch["index"]):
        random = _seed_augmentation(seed, step, int(clip), _CUT_STREAM)
        # Every number is drawn, used or not, so that the two settings do not affect each other.
        is_image, start = random.random() < cuts.images, random.integers(whole - length + 1)
        frame = random.integers(whole)
        if is_image:
            cut_video[row], cut_mask[row, 0] = video[row, frame], mask[row, frame]
        else:
            part = slice(start, start + length)
            cut_video[row], cut_mask[row] = video[row, part], mask[row, part]
    return batch | {"video": cut_video, "mask": cut_mask}


def _augment(
    clip_THWC: np.ndarray, augmentation: Augmentation, random: np.random.Generator, clips: Stream
) -> np.ndarray:
    # Every number is drawn, used or not, so that the settings do not affect each other.
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
    """Shifts a clip by whole pixels; the rows and columns that become free repeat the edge."""
    height, width = clip_THWC.shape[1:3]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return clip_THWC[:, rows[:, None], columns]
