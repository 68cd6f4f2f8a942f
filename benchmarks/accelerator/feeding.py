"""Frames per second that the loader decodes, caches and puts on the device."""

import itertools
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.cached_epochs import measure_copying
from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_unsplit
from vvae.data.loader import train_batches
from vvae.video import write_video

LENGTH = 16


def measure(*, tiny: bool) -> list[dict]:
    """Writes H.264 videos of one clip each, and times a first epoch and later ones.

    Returns:
      Rows with frames_per_second: decoded into the cache, from the cache to the device, and copied
      in memory (the limit of the second).
    """
    size, num_clips, batch_size, num_batches = (16, 8, 4, 4) if tiny else (128, 512, 64, 64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "videos"
        folder.mkdir()
        for number in range(num_clips):
            write_video(folder / f"{number:04d}.mp4", _draw_video(number, size), 25.0)
        clip_format = ClipFormat("rgb", size, size, Sampling(num_frames=LENGTH))
        cache = Cache(Path(name) / "cache", 2**40)
        dataset = open_unsplit(
            folder, clip_format, Decoding(cache, num_workers=os.cpu_count() or 1)
        )
        (clips,) = dataset.splits.values()
        batches = train_batches(clips, batch_size, seed=0)
        epoch = -(-num_clips // batch_size)
        rows = [
            _time("files to device", batches, epoch),
            _time("cache to device", batches, num_batches),
        ]
        batches.close()
    return [*rows, {"name": "copying in memory", "frames_per_second": measure_copying()}]


def _time(name: str, batches, count: int) -> dict:
    frames, start = 0, time.perf_counter()
    for _, batch in itertools.islice(batches, count):
        video = jax.block_until_ready(jax.device_put(batch["video"]))
        frames += video.shape[0] * video.shape[1]
    return {"name": name, "frames_per_second": frames / (time.perf_counter() - start)}


def _draw_video(seed: int, size: int) -> np.ndarray:
    """Returns a coarse texture that moves, uint8 [LENGTH, size, size, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    texture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    return np.stack([np.roll(texture, step, axis=1) for step in range(LENGTH)])
