"""Frames per second from video files to resized uint8 frames, beside OpenCV, decord and torchcodec.

    pip install '.[bench,vision]' decord torchcodec
    python -m benchmarks.decoding [--frames 600] [--repeats 5] [--json FILE]

Writes H.264 videos of a moving texture, 320x240 and 1280x720, one per core, and reads them at 64x64
and 128x128. Every library runs in as many processes as there are cores, one file and one thread
each, which is how vvae fills its cache; and reads one file alone with as many threads. Rows
alternate in each repeat; medians. Resizing differs: vvae takes area means, OpenCV INTER_AREA,
decord swscale's bicubic, torchcodec PyTorch's antialiased bilinear.

The last table is for clips of 16 frames at random places of a long video: vvae decodes it once from
start to end, then reads clips from its cache; torchcodec and decord seek. Libraries that are not
installed, or cannot be loaded, are reported as not run.
"""

import argparse
import importlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.origin import describe_command, stamp, write_result
from benchmarks.textures import write_texture
from benchmarks.timing import measure
from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_unsplit
from vvae.video import iterate_frames

CASES = (((240, 320), (64, 64)), ((720, 1280), (128, 128)))
FPS = 25
CLIP = 16
BLOCK = 50
NUM_CLIPS = 64


def read_vvae(path: str, size: tuple[int, int], threads: int) -> int:
    """Reads and resizes all frames with vvae, which chooses its threads; returns their number."""
    del threads
    return sum(1 for _ in iterate_frames(path, size))


def read_opencv(path: str, size: tuple[int, int], threads: int) -> int:
    """Reads and resizes all frames with OpenCV; returns their number."""
    import cv2

    cv2.setNumThreads(threads)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    count = 0
    while True:
        found, frame = capture.read()
        if not found:
            capture.release()
            return count
        cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        count += 1


def read_decord(path: str, size: tuple[int, int], threads: int) -> int:
    """Reads and resizes all frames with decord; returns their number."""
    import decord

    reader = decord.VideoReader(path, width=size[1], height=size[0], num_threads=threads)
    return sum(len(reader.get_batch(part).asnumpy()) for part in _cut(len(reader)))


def read_torchcodec(path: str, size: tuple[int, int], threads: int) -> int:
    """Reads and resizes all frames with torchcodec; returns their number."""
    import torch
    from torch.nn.functional import interpolate
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(threads)
    decoder = VideoDecoder(path, num_ffmpeg_threads=threads)
    count = 0
    for part in _cut(len(decoder)):
        frames = decoder.get_frames_in_range(part[0], part[-1] + 1).data
        count += len(interpolate(frames, size, mode="bilinear", antialias=True))
    return count


def _cut(number: int) -> list[list[int]]:
    return [list(range(k, min(k + BLOCK, number))) for k in range(0, number, BLOCK)]


READERS: dict[str, tuple[str, Callable]] = {
    "vvae": ("vvae", read_vvae),
    "OpenCV": ("cv2", read_opencv),
    "decord": ("decord", read_decord),
    "torchcodec": ("torchcodec", read_torchcodec),
}


def main() -> None:
    """Measures every case and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=600, help="frames of each video (600)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    problems = {name: _find_problem(package) for name, (package, _) in READERS.items()}
    installed = [name for name, problem in problems.items() if problem is None]
    results = []
    for shape, size in CASES:
        with tempfile.TemporaryDirectory() as folder:
            paths = _write_videos(Path(folder), shape, options.frames)
            results += measure_whole_files(paths, shape, size, installed, options.repeats)
            if shape == CASES[0][0]:
                results += measure_random_clips(paths[0], size, installed, options.repeats)
    for name, problem in problems.items():
        if problem is not None:
            print(f"{name}: not run ({problem})")
    if options.json:
        content = {"frames": options.frames, "results": results}
        write_result(options.json, stamp(content, describe_command()))


def _find_problem(package: str) -> str | None:
    """Returns why a library cannot be used here; None if it can."""
    try:
        importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _write_videos(folder: Path, shape: tuple[int, int], num_frames: int) -> list[str]:
    """Writes one video per core: a moving smooth texture with noise."""
    paths = [folder / f"{number}.mp4" for number in range(os.cpu_count() or 1)]
    for number, path in enumerate(paths):
        write_texture(path, number, shape, num_frames, FPS)
    return [str(path) for path in paths]


def measure_whole_files(
    paths: Sequence[str], shape, size, names: Sequence[str], repeats: int
) -> list[dict]:
    """Returns the frames per second of all files in parallel, and of one alone."""
    cores = len(paths)
    title = f"{shape[1]}x{shape[0]} to {size[1]}x{size[0]}"
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        ways = {name: partial(_read_all, pool, READERS[name][1], paths, size) for name in names}
        parallel = _time_in_turn(ways, repeats)
    alone = _time_in_turn(
        {name: partial(READERS[name][1], paths[0], size, cores) for name in names}, repeats
    )
    rows = []
    for what, rates in ((f"{cores} files, {cores} processes", parallel), ("one file", alone)):
        print(f"\n{title}, {what}")
        rows += _print_rates(rates, "frames/s")
        for row in rows[-len(names) :]:
            row["case"] = f"{title}, {what}"
    return rows


def _read_all(pool, read: Callable, paths: Sequence[str], size) -> int:
    return sum(pool.map(read, paths, [size] * len(paths), [1] * len(paths)))


def measure_random_clips(path: str, size, names: Sequence[str], repeats: int) -> list[dict]:
    """Returns the clips per second from random places of a long video."""
    folder = Path(path).parent / "one"
    folder.mkdir()
    (folder / "long.mp4").hardlink_to(path)
    clip_format = ClipFormat("rgb", *size, Sampling(num_frames=CLIP))
    number = sum(1 for _ in iterate_frames(path)) - CLIP
    starts = np.random.default_rng(0).integers(0, number, NUM_CLIPS).tolist()

    def open_clips(cache: Path):
        dataset = open_unsplit(folder, clip_format, Decoding(Cache(cache, 10**10)))
        return next(iter(dataset.splits.values()))

    def decode_once() -> int:
        with tempfile.TemporaryDirectory() as cache:
            return len(open_clips(Path(cache)))

    with tempfile.TemporaryDirectory() as cache:
        clips = open_clips(Path(cache))
        ids = np.random.default_rng(0).integers(0, len(clips), NUM_CLIPS)
        ways = {
            "vvae, first epoch": decode_once,
            "vvae, from the cache": lambda: len(clips.read(ids)),
        }
        if "torchcodec" in names:
            ways["torchcodec"] = partial(_seek_torchcodec, path, size, starts)
        if "decord" in names:
            ways["decord"] = partial(_seek_decord, path, size, starts)
        rates = _time_in_turn(ways, repeats)
    print(f"\nrandom clips of {CLIP} frames from a video of {number + CLIP}")
    rows = _print_rates(rates, "clips/s", peer="torchcodec")
    for row in rows:
        row["case"] = f"random clips of {CLIP} frames"
    return rows


def _seek_torchcodec(path: str, size, starts: Sequence[int]) -> int:
    from torch.nn.functional import interpolate
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=os.cpu_count() or 1)
    for start in starts:
        frames = decoder.get_frames_in_range(start, start + CLIP).data
        interpolate(frames, size, mode="bilinear", antialias=True)
    return len(starts)


def _seek_decord(path: str, size, starts: Sequence[int]) -> int:
    import decord

    reader = decord.VideoReader(path, width=size[1], height=size[0])
    for start in starts:
        reader.get_batch(list(range(start, start + CLIP))).asnumpy()
    return len(starts)


def _time_in_turn(ways: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Returns the items per second of each way, medians over repeats after a warm-up."""
    counts: dict[str, int] = {}

    def run(name: str) -> None:
        counts[name] = ways[name]()

    timings = measure({name: partial(run, name) for name in ways}, repeats)
    return {name: counts[name] / timing.wall_s for name, timing in timings.items()}


def _print_rates(rates: dict[str, float], unit: str, peer: str = "OpenCV") -> list[dict]:
    reference = rates.get(peer)
    for name, rate in rates.items():
        ratio = f"{rate / reference:7.2f} x {peer}" if reference else ""
        print(f"{name:22}{rate:10.0f} {unit}{ratio}")
    return [{"row": name, "rate": rate, "unit": unit} for name, rate in rates.items()]


if __name__ == "__main__":
    main()
