"""Plants anomalies in the held-out normal videos of a run, to make choices without test videos.

    python -m benchmarks.planted --workdir RUN --out FOLDER [--copies 6] [--seed 0]
    python evaluate.py anomaly --workdir RUN --data.path FOLDER

Writes the validation videos unchanged and copies of them, with a manifest.csv whose column
`abnormal` says where each copy was changed: in a square with motion, for two to five seconds at 10
frames/s, the video plays 1.5 to 2.2 times as fast, or is 1.5 to 2 times as large. Nothing else
changes. Such anomalies favour scores of speed and size; a choice made with them is biased towards
these, but never towards a test video.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from vvae import build
from vvae.run import open_run
from vvae.video import probe, read_frames, write_video

KINDS = ("faster", "larger")
LENGTHS = (20, 50)
SPEEDS = (1.5, 2.2)
SCALES = (1.5, 2.0)
SIDES = (0.22, 0.45)  # side of the square, as a fraction of the frame's height
MARGIN = 16  # frames at the start that stay normal, since scores may look back


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--copies", type=int, default=6, help="of each video and kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = open_run(options.workdir)
    dataset = build.open_data(run.config, run.record["data"]["path"])
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, video in enumerate(dataset.splits["val"].videos):
        rng = np.random.Generator(np.random.Philox(key=[options.seed, number]))
        rows += _write_copies(video.path, options.out, options.copies, rng)
    with open(options.out / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "abnormal"])
        writer.writerows(rows)
    print(f"{len(rows)} videos: {options.out}")


def _write_copies(path: str, folder: Path, num_copies: int, rng) -> list[tuple[str, str]]:
    """Writes a video and its changed copies; returns the rows of the manifest."""
    frames_FHWC, fps = read_frames(path)[1], probe(path).fps
    shortest = MARGIN + int(LENGTHS[1] * SPEEDS[1]) + 1
    if len(frames_FHWC) < shortest:
        raise ValueError(f"{path}: {len(frames_FHWC)} frames are too few, {shortest} are needed")
    name = Path(path).stem
    write_video(folder / f"{name}.mp4", frames_FHWC, fps)
    rows = [(f"{name}.mp4", "")]
    for kind in KINDS:
        for copy in range(num_copies):
            changed_FHWC, first, last = plant(frames_FHWC, kind, rng)
            rows.append((f"{name}_{kind}{copy}.mp4", f"{first}-{last}"))
            write_video(folder / rows[-1][0], changed_FHWC, fps)
    return rows


def plant(frames_FHWC: np.ndarray, kind: str, rng) -> tuple[np.ndarray, int, int]:
    """Returns changed frames, and the first and the last changed one."""
    num_frames, height, width, _ = frames_FHWC.shape
    length, speed = int(rng.integers(*LENGTHS)), rng.uniform(*SPEEDS)
    first = int(rng.integers(MARGIN, num_frames - int(length * speed)))
    side = int(height * rng.uniform(*SIDES))
    y, x = _find_motion(frames_FHWC[first : first + 10], side, rng)
    changed_FHWC, scale = frames_FHWC.copy(), rng.uniform(*SCALES)
    for number in range(length):
        square = (slice(y, y + side), slice(x, x + side))
        if kind == "faster":
            source = frames_FHWC[first + int(speed * number)][square]
            changed_FHWC[first + number][square] = source
        else:
            large = _enlarge(frames_FHWC[first + number][square], scale)
            bottom, left = y + side, min(max(0, x + (side - large.shape[1]) // 2), width)
            target = changed_FHWC[first + number][:bottom, left:]
            rows, cols = min(large.shape[0], bottom), min(large.shape[1], target.shape[1])
            target[bottom - rows :, :cols] = large[large.shape[0] - rows :, :cols]
    return changed_FHWC, first, first + length - 1


def _find_motion(frames_FHWC: np.ndarray, side: int, rng) -> tuple[int, int]:
    """Draws a square with much change: the best of several, so that it is not always the same."""
    change_HW = np.abs(np.diff(frames_FHWC.astype(np.float32), axis=0)).mean(axis=(0, 3))
    height, width = change_HW.shape
    corners = rng.integers(0, (height - side, width - side), (8, 2))
    change = [change_HW[y : y + side, x : x + side].mean() for y, x in corners]
    return tuple(int(value) for value in corners[np.argmax(change)])


def _enlarge(square_HWC: np.ndarray, scale: float) -> np.ndarray:
    """Enlarges by repeating the nearest pixels."""
    side = int(len(square_HWC) * scale)
    index = np.minimum((np.arange(side) / scale).astype(int), len(square_HWC) - 1)
    return square_HWC[index][:, index]


if __name__ == "__main__":
    main()
