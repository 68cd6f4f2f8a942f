"""What an encoding will take: time, memory and disk, from a few videos, before it starts."""

import collections
import itertools
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from vvae.data.collection.sources import Source, open_path
from vvae.latents.encoder import LatentEncoder
from vvae.latents.plan import ClipPlan, Framing, choose_framing, count_latents
from vvae.latents.progress import format_seconds
from vvae.latents.shards import DTYPES
from vvae.units import format_bytes
from vvae.video import iterate_frames, read_stated_length

_SAMPLES = 16
_RECORD_BYTES = 3000  # of a record and its share of the header, measured: 2 to 4 kB


@dataclass(frozen=True)
class Look:
    """What the beginning of a video and its header say: its framing, and its number of frames."""

    framing: Framing
    num_frames: float


@dataclass(frozen=True)
class Estimate:
    """What all videos will take.

    Attributes:
      num_videos: to encode.
      num_sampled: videos that it was extrapolated from.
      frames: to encode.
      disk: bytes of the latents.
      memory: bytes on the device; 0 where the compiler does not say.
      seconds: on one device, decoding not counted.
    """

    num_videos: int
    num_sampled: int
    frames: float
    disk: float
    memory: int
    seconds: float

    def line(self, devices: int) -> str:
        """Describes it in one line."""
        memory = f"{format_bytes(self.memory)} of device memory, " if self.memory else ""
        return (
            f"estimate from {self.num_sampled} of {self.num_videos} videos: {self.frames:.3g} "
            f"frames, {format_seconds(self.seconds / devices)} of encoding, {memory}"
            f"{format_bytes(self.disk)} of disk"
        )


def look_at(sources: Sequence[Source], plan: ClipPlan) -> list[Look]:
    """Looks at the beginnings of a few videos, the same ones every time."""
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(len(sources))
    looks = []
    for position in order[:_SAMPLES]:
        try:
            with open_path(sources[position]) as path:
                frames = iterate_frames(path)
                first = list(itertools.islice(frames, 2))
                stated = read_stated_length(path)
        except (ValueError, OSError):
            continue  # the encoding will name it
        size = first[0][1].shape[:2]
        count = float(stated or len(first))
        rate = 1 / (first[1][0] - first[0][0]) if len(first) > 1 and first[1][0] else None
        if plan.fps is not None and rate is not None:
            count = max(1.0, count * plan.fps / rate)
        looks.append(Look(choose_framing(plan, size), count))
    return looks


def estimate_disk(looks: Sequence[Look], encoder: LatentEncoder, plan: ClipPlan) -> float:
    """Returns the mean bytes of latents of a video; 0 if none was looked at."""
    return float(np.mean([_count_bytes(look, encoder, plan) for look in looks])) if looks else 0.0


def estimate(
    looks: Sequence[Look], num_videos: int, encoder: LatentEncoder, plan: ClipPlan
) -> Estimate:
    """Extrapolates from `looks`, of which there is at least one; compiles and runs one piece."""
    sizes = collections.Counter(look.framing.size for look in looks)
    largest = max(sizes, key=math.prod)
    frames = float(np.mean([_count_frames(look, plan) for look in looks])) * num_videos
    rate = measure_rate(encoder, sizes.most_common(1)[0][0])
    return Estimate(
        num_videos=num_videos,
        num_sampled=len(looks),
        frames=frames,
        disk=estimate_disk(looks, encoder, plan) * num_videos,
        memory=encoder.estimate_memory(largest),
        seconds=frames / rate,
    )


def check_disk(folder: Path, needed: float) -> None:
    """Raises ValueError if the disk of a folder has less than the needed bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder}: the latents need about {format_bytes(needed)} and the disk has "
            f"{format_bytes(free)} free: free some space, give another folder, or take "
            "dtype=bfloat16 or fewer frames"
        )


def measure_rate(encoder: LatentEncoder, size: tuple[int, int]) -> float:
    """Returns frames/s of the encoder alone, by three pieces of frames of (height, width)."""
    count = 1 + (3 * encoder.latents_per_piece - 1) * encoder.model.temporal_compression
    frame = np.zeros((*size, encoder.model.shape_HWC[-1]), np.uint8)
    for _ in range(2):  # the first one compiles
        start = time.perf_counter()
        jax.block_until_ready(list(encoder.encode(itertools.repeat(frame, count))))
        seconds = time.perf_counter() - start
    return count / seconds


def _count_clips(look: Look, plan: ClipPlan) -> tuple[int, int]:
    """Returns the clips of a video, and the frames of each."""
    count = max(1, round(look.num_frames))
    if not plan.frames:
        return 1, count
    length = plan.choose_length(count) or 0
    clips = 1 if plan.cut == "first" else count // length if length else 0
    return min(clips, 1 if not length else clips), length


def _count_frames(look: Look, plan: ClipPlan) -> int:
    return math.prod(_count_clips(look, plan))


def _count_bytes(look: Look, encoder: LatentEncoder, plan: ClipPlan) -> float:
    clips, length = _count_clips(look, plan)
    if not clips:
        return 0.0
    model = encoder.model
    t = count_latents(length, model.temporal_compression, plan.tail)
    h, w = (math.ceil(side / model.spatial_compression) for side in look.framing.size)
    numbers = t * h * w * model.bottleneck.channels * 2
    return clips * (numbers * DTYPES[encoder.dtype].itemsize + _RECORD_BYTES)
