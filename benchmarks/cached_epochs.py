"""Frames per second of the second and later epochs, read from the cache of decoded clips.

    python -m benchmarks.cached_epochs [--clips 1000 10000] [--seconds 10] [--json FILE]

For each number of clips: writes that many .npy videos of 16 frames of 64x64x3 (copies of one
another), fills the cache and draws shuffled training batches: a first epoch, in which each entry is
checked against its digest, then more for some seconds. For comparison: the rate of copying the same
number of bytes from memory to memory, which is the limit. Memory is the growth of the process in
the later epochs (resident, without pages of files).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.origin import describe_command, stamp, write_result
from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_unsplit
from vvae.data.loader import train_batches

FRAMES, SIZE, BATCH = 16, 64, 16
FORMAT = ClipFormat("rgb", SIZE, SIZE, Sampling(num_frames=FRAMES))


def main() -> None:
    """Measures every number of clips and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    copying = measure_copying()
    print(f"copying in memory: {copying:10,.0f} frames/s")
    rows = [measure_epochs(number, options.seconds) for number in options.clips]
    for row in rows:
        print(
            f"{row['clips']:7,} clips: {row['first_epoch_frames_per_second']:10,.0f} frames/s in "
            f"the first epoch, then {row['frames_per_second']:10,.0f}, "
            f"{row['frames_per_second'] / copying:.0%} of copying; "
            f"memory grows by {row['growth_mb']:.1f} MB"
        )
    if options.json:
        content = {"copying_frames_per_second": copying, "rows": rows}
        write_result(options.json, stamp(content, describe_command()))


def measure_copying(num_batches: int = 200) -> float:
    """Returns the frames per second of copying a batch out of 64 others in memory."""
    source = np.zeros((64, BATCH, FRAMES, SIZE, SIZE, 3), np.uint8)
    source[:] = np.arange(64, dtype=np.uint8)[:, None, None, None, None, None]
    target = np.empty_like(source[0])
    start = time.perf_counter()
    for number in range(num_batches):
        np.copyto(target, source[number % 64])
    return num_batches * BATCH * FRAMES / (time.perf_counter() - start)


def measure_epochs(num_clips: int, seconds: float) -> dict:
    """Returns the rates of the first epoch and of later ones, and their growth of memory."""
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "videos", Path(name) / "cache"
        folder.mkdir()
        video = np.random.default_rng(0).integers(0, 256, (FRAMES, SIZE, SIZE, 3), np.uint8)
        for number in range(num_clips):
            np.save(folder / f"{number:06d}.npy", video)
        dataset = open_unsplit(
            folder, FORMAT, Decoding(Cache(cache, 2**40), num_workers=os.cpu_count() or 1)
        )
        clips = next(iter(dataset.splits.values()))
        batches = train_batches(clips, BATCH, seed=0)
        start = time.perf_counter()
        for _ in range(num_clips // BATCH):
            next(batches)
        first_rate = num_clips // BATCH * BATCH * FRAMES / (time.perf_counter() - start)
        first, count, start = _read_memory(), 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            next(batches)
            count += 1
        elapsed, grown = time.perf_counter() - start, _read_memory() - first
        batches.close()
    rate = count * BATCH * FRAMES / elapsed
    return {
        "clips": num_clips,
        "first_epoch_frames_per_second": first_rate,
        "frames_per_second": rate,
        "growth_mb": grown / 2**20,
    }


def _read_memory() -> int:
    """Returns the bytes of memory that belong to this process alone (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status does not say RssAnon: this program needs Linux")


if __name__ == "__main__":
    main()
