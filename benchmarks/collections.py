"""Opens an index of millions of clips, and decodes clips of a tar by 1, 2, ... worker processes.

    python -m benchmarks.collections [--rows 10000000] [--written 300000] [--size 480x832]
        [--frames 81] [--clips 8] [--batches 6] [--json FILE]

The index is one of tars that do not exist, of 3,000 videos each with a .json beside it; its first
rows are written one by one as those of real tars, and repeated. A fresh process opens it, divides
it into splits, and looks up the videos of 1,000 batches of 64 in the order of an epoch; resident
memory is that of this process. Decoding reads H.264 videos of a moving texture, as large as the
clips, from one tar through the loader of a training, without the start of the processes; the
processor time of decoding alone is measured in one process.
"""

import argparse
import contextlib
import importlib
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.origin import describe_command, stamp, write_result
from benchmarks.textures import write_texture
from benchmarks.timing import read_peak_mb
from vvae.data.collection.clips import CollectionClips, Draw, decode_draw
from vvae.data.collection.division import divide
from vvae.data.collection.index import Index, open_index
from vvae.data.collection.index_writer import INDEX, ROW, ROWS, TEXTS, write_index
from vvae.data.collection.permutation import Permutation
from vvae.data.collection.tars import Member
from vvae.data.loader import train_batches
from vvae.data.sampling import ClipFormat, Sampling
from vvae.data.workers import run_in_workers
from vvae.files import write_json
from vvae.video import MAX_PIXELS

VIDEOS_PER_TAR = 3000
VIDEO_BYTES = 700_000
BATCHES, BATCH = 1000, 64
FPS = 16


def main() -> None:
    """Measures both and prints a table of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="videos of the index")
    parser.add_argument("--written", type=int, default=300_000, help="of them, one by one")
    parser.add_argument("--size", default="480x832", help="HEIGHTxWIDTH of the videos")
    parser.add_argument("--frames", type=int, default=81, help="frames of each video")
    parser.add_argument("--clips", type=int, default=8, help="videos, which are one batch")
    parser.add_argument("--batches", type=int, default=6, help="batches that are timed")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    size = tuple(map(int, options.size.split("x")))
    with tempfile.TemporaryDirectory() as folder:
        index = measure_index(Path(folder), options.rows, options.written)
    with tempfile.TemporaryDirectory() as folder:
        decoding = measure_decoding(
            Path(folder), size, options.frames, options.clips, options.batches
        )
    if options.json:
        content = {"index": index, "decoding": decoding}
        write_result(options.json, stamp(content, describe_command()))


# --- the index -----------------------------------------------------------------------------------


def measure_index(folder: Path, num_rows: int, num_written: int) -> dict[str, float]:
    """Returns seconds and memory of writing an index, and of opening it in another process."""
    started = time.process_time()
    place = write_simulated(folder, min(num_written, num_rows))
    seconds = time.process_time() - started
    repeat(place, num_rows)
    written = {
        "processor_s_of_a_million": seconds / min(num_written, num_rows) * 1e6,
        "bytes": sum(path.stat().st_size for path in place.iterdir()),
        "peak_mb_of_writing": read_peak_mb(),
    }
    # By its name, since another process cannot import what is run as a program.
    function = importlib.import_module("benchmarks.collections").open_and_look_up
    ((_, opened),) = run_in_workers(function, [str(place)], 1)
    print(f"index of {num_rows:,} videos, {written['bytes'] / 1e6:,.0f} MB on the disk")
    for name, value in (written | opened).items():
        print(f"  {name:28}{value:12,.3f}")
    return written | opened


def write_simulated(folder: Path, num_rows: int) -> Path:
    """Writes the index of tars of `VIDEOS_PER_TAR` videos; returns its folder."""
    with write_index(folder, "tars", folder) as writer:
        for first in range(0, num_rows, VIDEOS_PER_TAR):
            numbers = range(first, min(first + VIDEOS_PER_TAR, num_rows))
            name = f"clips-{first // VIDEOS_PER_TAR:06}.tar"
            writer.add_tar([name, 2**31, 0], [_simulate(number) for number in numbers], None)
        writer.finish()
        return writer.folder.rename(folder / "index")


def repeat(place: Path, num_rows: int) -> None:
    """Repeats the rows of an index until there are `num_rows`."""
    values = json.loads((place / INDEX).read_text())
    rows, text = np.fromfile(place / ROWS, ROW), (place / TEXTS).read_bytes()
    with open(place / ROWS, "ab") as rows_file, open(place / TEXTS, "ab") as texts_file:
        for first in range(len(rows), num_rows, len(rows)):
            more = rows[: num_rows - first].copy()
            texts_file.write(text[: more["end"][-1]])
            more["end"] += first // len(rows) * len(text)
            rows_file.write(more.tobytes())
    write_json(place / INDEX, values | {"num_videos": num_rows})


def _simulate(number: int) -> Member:
    offset = 512 + number % VIDEOS_PER_TAR * (VIDEO_BYTES + 2048)
    return Member(
        f"{number:09}.mp4", offset, VIDEO_BYTES, {".json": (offset + VIDEO_BYTES + 512, 300)}
    )


def open_and_look_up(place: str) -> dict[str, float]:
    """Opens an index and looks up batches; returns seconds, and memory in MB."""
    before, started = read_peak_mb(), time.perf_counter()
    index = Index(Path(place))
    rows = divide(index, 128).splits["train"]
    opened = time.perf_counter()
    after_opening = read_peak_mb()
    for batch in range(BATCHES):
        order = Permutation(len(rows), (0, 0))
        for row in rows(order(np.arange(batch * BATCH, (batch + 1) * BATCH) % len(rows))):
            index[int(row)]
    return {
        "seconds_to_open": opened - started,
        "seconds_of_1000_batches": time.perf_counter() - opened,
        "mb_before_opening": before,
        "mb_after_opening": after_opening,
        "mb_after_1000_batches": read_peak_mb(),
    }


# --- decoding ------------------------------------------------------------------------------------


def measure_decoding(
    folder: Path, size: tuple[int, int], num_frames: int, num_clips: int, num_batches: int
) -> list[dict[str, float]]:
    """Returns the frames per second of every number of worker processes up to that of cores."""
    write_tar(folder, size, num_frames, num_clips)
    index = open_index(folder / "videos.tar", folder / "indices")
    everything = divide(index, 1).splits["train"].permutation
    clip_format = ClipFormat("rgb", *size, Sampling(num_frames=num_frames))
    print(f"decoding {size[0]}x{size[1]} from a tar")
    rate = num_clips * num_frames / count_processor_seconds(index, clip_format)
    print(f"  a second of processor time {rate:10.1f} frames")
    results = [{"workers": 0, "frames_per_processor_second": rate}]
    cores = os.cpu_count() or 1
    for workers in sorted({2**k for k in range(cores.bit_length()) if 2**k <= cores} | {cores}):
        clips = CollectionClips(index, everything, clip_format, num_workers=workers)
        rate = num_clips * num_frames / time_batch(clips, num_clips, num_batches)
        print(f"  {workers:4} processes {rate:10.1f} frames/s {rate / workers:10.1f} each")
        results.append({"workers": workers, "frames_per_second": rate})
    return results


def count_processor_seconds(index: Index, clip_format: ClipFormat) -> float:
    """Returns the processor time of decoding every clip once, whatever else the machine does."""
    started = time.process_time()
    for source in index:
        decode_draw(Draw(source, clip_format, 0.0, MAX_PIXELS))
    return time.process_time() - started


def time_batch(clips: CollectionClips, batch_size: int, num_batches: int) -> float:
    """Returns the seconds of a batch through the loader of a training, which reads ahead."""
    with contextlib.closing(train_batches(clips, batch_size, seed=0)) as batches:
        for _ in range(3):  # the processes start, and the loader reads ahead
            next(batches)
        started = time.perf_counter()
        for _ in range(num_batches):  # batches are completed in pairs: only their mean is a rate
            next(batches)
        return (time.perf_counter() - started) / num_batches


def write_tar(folder: Path, size: tuple[int, int], num_frames: int, num_clips: int) -> None:
    """Writes a tar of videos of a moving smooth texture with noise."""
    with tarfile.open(folder / "videos.tar", "w") as tar:
        for number in range(num_clips):
            path = folder / f"{number}.mp4"
            write_texture(path, number, size, num_frames, FPS)
            tar.add(path, path.name)
            path.unlink()


if __name__ == "__main__":
    main()
