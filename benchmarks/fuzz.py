"""Hostile videos: thousands of mutated files through the reader, each in a worker process.

    python -m benchmarks.fuzz --clips CLIPS [--files 2000] [--size 24 32] [--seconds 30]

CLIPS is a folder of small videos of many formats. Files of up to 60 kB are mutated, as are
generated .npy arrays, a .gif animation, and images of every kind, each a folder of frames: bits are
flipped, bytes overwritten, the end cut off, pieces doubled or removed, and header fields changed to
promise 60,000x60,000 pixels or 10^9 frames. Mutant number n depends on n alone. Every file must end
in frames or in a VideoError:

- no worker process dies, none takes longer than --seconds, none needs more than --megabytes;
- nothing is invented: the frames of a truncated file are frames of the intact one, in order (a file
  cut between two packets may lack one before the last, since frames are not stored in display
  order); and the result does not depend on uninitialised memory (every file is read twice, with two
  values of glibc's MALLOC_PERTURB_).

With --size frames are resized, as for training, mostly before they become RGB. Prints the outcomes,
names every failure, keeps its file in --keep, and writes its part of benchmarks/results/fuzz.json.
Exits with status 1 if there is a failure.
"""

import argparse
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

from benchmarks.origin import RESULTS, stamp, write_result
from benchmarks.timing import read_peak_mb
from vvae.data.workers import WorkerError, run_in_workers
from vvae.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoError, iterate_frames

MAX_BYTES = 60_000
MAX_PIXELS = 4_000_000
HUGE_SIDE = 60_000
HUGE_COUNT = 10**9
PERTURBATIONS = ("85", "170")


@dataclass(frozen=True)
class Mutant:
    """A file to read, and how it was made.

    Attributes:
      path: of the mutant; the video is the folder around it if it is an image.
      number: of the mutant.
      source: name of the intact file.
      kind: how the file was changed.
    """

    path: str
    number: int
    source: str
    kind: str


@dataclass(frozen=True)
class Reading:
    """The result of a worker that read a file.

    Attributes:
      digests: of each frame, in order.
      error: the reason of the VideoError that ended it; None if the file was read to its end.
      fault: any other error, which must not happen.
      megabytes: peak memory of the whole process meanwhile.
    """

    digests: tuple[str, ...]
    error: str | None
    fault: str | None
    megabytes: float


def main() -> int:
    """Mutates, reads, prints. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--size", type=int, nargs=2, help="rows and columns (those of the file)")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--megabytes", type=float, default=300.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_failures"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = find_sources(options.clips, Path(folder))
        mutants = [write_mutant(sources, n, Path(folder)) for n in range(options.files)]
        failures, outcomes, megabytes = read_all(sources, mutants, options)
        for mutant, why in failures:
            print(f"FAILED: mutant {mutant.number}, {mutant.kind} of {mutant.source}: {why}")
            options.keep.mkdir(exist_ok=True)
            shutil.copy(mutant.path, options.keep)
    for name, count in sorted(outcomes.items(), key=lambda item: -item[1]):
        print(f"{count:6} {name}")
    print(f"{len(failures)} failures in {len(mutants)} files; {megabytes:.0f} MB at most a worker")
    sized = "" if options.size is None else f" --size {' '.join(map(str, options.size))}"
    command = f"python -m benchmarks.fuzz --clips CLIPS --files {options.files}{sized}"
    content = {"files": len(mutants), "sources": len(sources)}
    content |= {"failures": [f"{m.number} {m.kind} {m.source}: {why}" for m, why in failures]}
    content |= {"outcomes": dict(sorted(outcomes.items())), "megabytes_at_most": round(megabytes)}
    content |= {"seconds_a_file_at_most": options.seconds}
    path = RESULTS / "fuzz.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known["resized" if sized else "as_they_are"] = stamp(content, command)
    write_result(path, known)
    return bool(failures)


# --- files ----------------------------------------------------------------------------------------


def find_sources(clips: Path, folder: Path) -> list[Path]:
    """Returns small intact videos of many formats, with arrays and pictures made in a folder.

    An image is in a folder of its own, which is the video.
    """
    rng = np.random.default_rng(0)
    np.save(folder / "gray.npy", rng.integers(0, 256, (12, 24, 32), np.uint8))
    np.save(folder / "rgb.npy", rng.integers(0, 256, (8, 18, 20, 3), np.uint8))
    made = rng.integers(0, 256, (6, 30, 40, 3), np.uint8)
    iio.imwrite(folder / "made.gif", made, plugin="pillow", duration=100)
    write_images(folder)
    paths = sorted(path for path in clips.rglob("*") if path.suffix in VIDEO_SUFFIXES)
    small = [path for path in paths if path.stat().st_size <= MAX_BYTES]
    own = sorted(path for path in folder.rglob("*") if path.is_file())
    whole = [path for path in (*small, *own) if read(str(path)).error is None]
    if len(whole) <= len(own):
        raise ValueError(f"{clips}: fewer than 1 readable video of up to {MAX_BYTES} bytes")
    return whole


def write_images(folder: Path) -> None:
    """Writes an image of each format and kind of pixels, each into a folder of its own."""
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 30 * 40 * 3).reshape(30, 40, 3) + rng.integers(-9, 10, (30, 40, 3))
    rgb = Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8))
    deep = Image.fromarray(rng.integers(0, 2**16, (30, 40), np.uint16))
    pages = {"save_all": True, "append_images": [rgb.rotate(180), rgb.rotate(90)]}
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    images = {
        "rgb.png": (rgb, {"exif": exif}),
        "animated.png": (rgb, pages),
        "palette.png": (rgb.quantize(16), {"transparency": 3}),
        "deep.png": (deep, {}),
        "rgb.jpg": (rgb, {"exif": exif}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "plain.bmp": (rgb, {}),
        "palette.bmp": (rgb.quantize(16), {}),
        "pages.tif": (rgb, pages),
        "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "fax.tif": (rgb.convert("1"), {"compression": "group4"}),
        "deep.tif": (deep, {"compression": "tiff_adobe_deflate"}),
        "ycc.tif": (rgb.convert("YCbCr"), {}),
        "lossy.webp": (rgb, {}),
        "animated.webp": (rgb, {"lossless": True, **pages}),
    }
    for name, (image, options) in images.items():
        (folder / f"of {name}").mkdir()
        image.save(folder / f"of {name}" / name, **options)


def write_mutant(sources: list[Path], number: int, folder: Path) -> Mutant:
    """Writes mutant `number`."""
    rng = np.random.Generator(np.random.Philox(key=[1, number]))
    source = sources[number % len(sources)]
    kind, change = MUTATIONS[number // len(sources) % len(MUTATIONS)]
    data = change(bytearray(source.read_bytes()), rng)
    name = f"{number:06}-{kind}-{source.stem}{source.suffix}"
    path = folder / name
    if source.suffix in IMAGE_SUFFIXES:
        path = folder / f"of {name}" / name
        path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return Mutant(str(path), number, source.name, kind)


def flip_bits(data: bytearray, rng: np.random.Generator) -> bytes:
    """Flips 1 to 64 bits anywhere."""
    for place in rng.integers(0, 8 * len(data), rng.integers(1, 65)):
        data[place // 8] ^= 1 << (place % 8)
    return bytes(data)


def flip_bits_of_header(data: bytearray, rng: np.random.Generator) -> bytes:
    """Flips 1 to 8 bits of the first or the last 1,024 bytes, where headers are."""
    size = min(1024, len(data))
    start = 0 if rng.random() < 0.5 else len(data) - size
    for place in rng.integers(0, 8 * size, rng.integers(1, 9)):
        data[start + place // 8] ^= 1 << (place % 8)
    return bytes(data)


def overwrite(data: bytearray, rng: np.random.Generator) -> bytes:
    """Overwrites up to 256 bytes in a row."""
    start = rng.integers(0, len(data))
    end = min(len(data), start + rng.integers(1, 257))
    data[start:end] = rng.bytes(int(end - start))
    return bytes(data)


def cut(data: bytearray, rng: np.random.Generator) -> bytes:
    """Keeps the beginning."""
    return bytes(data[: rng.integers(0, len(data))])


def remove_piece(data: bytearray, rng: np.random.Generator) -> bytes:
    """Removes up to a tenth of the file."""
    start = rng.integers(0, len(data))
    del data[start : start + rng.integers(1, len(data) // 10 + 2)]
    return bytes(data)


def double_piece(data: bytearray, rng: np.random.Generator) -> bytes:
    """Doubles up to a tenth of the file."""
    start = rng.integers(0, len(data))
    end = start + rng.integers(1, len(data) // 10 + 2)
    return bytes(data[:end] + data[start:])


def promise_size(data: bytearray, rng: np.random.Generator) -> bytes:
    """Writes 60,000 over numbers that may be a frame's side, in the first or last 4 kB."""
    side = int(HUGE_SIDE)
    forms = ((2, "big"), (2, "little"), (4, "little"), (4, "big"))
    size, order = forms[rng.integers(len(forms))]
    return _replace_numbers(data, rng, range(16, 2000), side, size, order)


def promise_frames(data: bytearray, rng: np.random.Generator) -> bytes:
    """Writes 10^9 over numbers that may be a count or a duration, in the first or last 4 kB."""
    order = ("big", "little")[rng.integers(2)]
    return _replace_numbers(data, rng, range(4, 1_000_000), HUGE_COUNT, 4, order)


def _replace_numbers(data, rng, plausible: range, value: int, size: int, order: str) -> bytes:
    edge = 4096
    places = [
        place
        for place in range(len(data) - size)
        if (place < edge or place > len(data) - edge)
        and int.from_bytes(data[place : place + size], order) in plausible
    ]
    for place in rng.permutation(places)[: rng.integers(1, 9)]:
        data[place : place + size] = value.to_bytes(size, order)
    return bytes(data)


MUTATIONS = tuple(
    (change.__name__, change)
    for change in (
        flip_bits,
        flip_bits_of_header,
        overwrite,
        cut,
        remove_piece,
        double_piece,
        promise_size,
        promise_frames,
    )
)


# --- reading --------------------------------------------------------------------------------------


def read(path: str, size: tuple[int, int] | None = None) -> Reading:
    """Reads a file, or the folder of an image, to its end or to the error; keeps no frames."""
    digests, error, fault = [], None, None
    video = Path(path).parent if path.endswith(IMAGE_SUFFIXES) else path
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak resident size
    try:
        for _, frame in iterate_frames(video, size, MAX_PIXELS):
            digests.append(hashlib.sha256(repr(frame.shape).encode() + frame.tobytes()).hexdigest())
    except VideoError as failure:
        error = failure.reason
    except Exception as failure:
        fault = f"{type(failure).__name__}: {failure}"
    return Reading(tuple(digests), error, fault, read_peak_mb())


def read_all(
    sources: list[Path], mutants: list[Mutant], options: argparse.Namespace
) -> tuple[list[tuple[Mutant, str]], Counter, float]:
    """Reads every mutant twice; returns failures, counts of outcomes, and the peak memory in MB."""
    whole = {path.name: read(str(path), options.size).digests for path in sources}
    readings = [_read_under(value, mutants, options) for value in PERTURBATIONS]
    failures, outcomes = [], Counter()
    for mutant, first, second in zip(mutants, *readings):
        why = judge(mutant, first, second, whole[mutant.source], options.megabytes)
        if why is not None:
            failures.append((mutant, why))
            outcomes["failed"] += 1
        elif first.error is None:
            outcomes["read to its end"] += 1
        else:
            outcomes["VideoError after frames" if first.digests else "VideoError at once"] += 1
    everything = [r for part in readings for r in part if isinstance(r, Reading)]
    return failures, outcomes, max(reading.megabytes for reading in everything)


def judge(
    mutant: Mutant,
    first: Reading | WorkerError,
    second: Reading | WorkerError,
    whole: tuple[str, ...],
    megabytes: float,
) -> str | None:
    """Returns what is wrong with two readings of a mutant; None if nothing is."""
    for reading in (first, second):
        if isinstance(reading, WorkerError):
            return str(reading)
        if reading.fault is not None:
            return reading.fault
        if reading.megabytes > megabytes:
            return f"took {reading.megabytes:.0f} MB"
        if reading.error is not None and "\n" in reading.error:
            return f"an error of several lines: {reading.error!r}"
    if (first.digests, first.error) != (second.digests, second.error):
        return "what was read depends on memory that was not written"
    if mutant.kind == "cut" and not _are_among(first.digests, whole):
        return "a cut file gives other frames than the whole one"
    return None


def _are_among(digests: tuple[str, ...], whole: tuple[str, ...]) -> bool:
    """Whether these frames are frames of the intact file, in its order."""
    rest = iter(whole)
    return all(digest in rest for digest in digests)


def _read_under(
    perturbation: str, mutants: list[Mutant], options: argparse.Namespace
) -> list[Reading | WorkerError]:
    os.environ["MALLOC_PERTURB_"] = perturbation  # the workers read it when they start
    paths = [mutant.path for mutant in mutants]
    work = functools.partial(read, size=options.size)
    readings = dict(run_in_workers(work, paths, options.workers, options.seconds))
    return [readings[position] for position in range(len(paths))]


if __name__ == "__main__":
    # Workers import the function that they run, so it cannot be part of the main program.
    from benchmarks import fuzz

    sys.exit(fuzz.main())
