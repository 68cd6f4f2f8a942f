"""Moving digits: two MNIST digits that move in straight lines and bounce off the borders.

The protocol is that of Srivastava et al.: 20 frames of 64x64; a digit of 28x28 starts anywhere
inside the frame, in a random direction, at a tenth of its free range (36 pixels) a frame; where
digits overlap, the brighter pixel counts. Pixels keep their 8 bits. Only the 10,000 digits of t10k
are used here, not the 60,000 of the training file, so that figures cannot be compared with those of
papers. No digit is in two splits.

References:
  Srivastava, Mansimov, Salakhutdinov, "Unsupervised Learning of Video Representations using LSTMs",
  2015, section 4.1 (arXiv:1502.04681)
"""

import csv
import gzip
from pathlib import Path

import numpy as np

DIGITS_FILE = "t10k-images-idx3-ubyte.gz"
SIDE, DIGIT_SIDE, NUM_FRAMES, NUM_DIGITS = 64, 28, 20, 2
STEP = 0.1  # of the free range, a frame
# Split -> the digits it draws from, and its number of sequences.
SPLITS = {
    "train": (range(8000), 1000),
    "val": (range(8000, 9000), 100),
    "test": (range(9000, 10000), 100),
}


def read_digits(folder: Path) -> np.ndarray:
    """Reads the digits of t10k, uint8 [10000, 28, 28].

    Raises:
      ValueError: if the folder lacks the file, or it is another one.
    """
    path = folder / DIGITS_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {DIGITS_FILE}: give the folder of MNIST's t10k files")
    data = gzip.decompress(path.read_bytes())
    header = np.frombuffer(data[:16], ">i4")
    if header.tolist() != [2051, 10000, DIGIT_SIDE, DIGIT_SIDE]:
        raise ValueError(f"{path}: its header is {header.tolist()}, not that of 10,000 digits")
    return np.frombuffer(data, np.uint8, offset=16).reshape(-1, DIGIT_SIDE, DIGIT_SIDE)


def draw_sequence(digits: np.ndarray, split: str, number: int) -> np.ndarray:
    """Draws a sequence, uint8 [20, 64, 64, 1], the same for the same split and number.

    Args:
      digits: all digits, uint8 [N, 28, 28].
      split: a name of `SPLITS`.
      number: of the sequence within its split.
    """
    random = np.random.Generator(np.random.Philox(key=[list(SPLITS).index(split), number]))
    frames = np.zeros((NUM_FRAMES, SIDE, SIDE), np.uint8)
    chosen = SPLITS[split][0]
    for digit in random.choice(chosen, NUM_DIGITS, replace=False):
        for frame, (y, x) in zip(frames, trace_bounces(random)):
            target = frame[y : y + DIGIT_SIDE, x : x + DIGIT_SIDE]
            np.maximum(target, digits[digit], out=target)
    return frames[..., None]


def trace_bounces(random: np.random.Generator) -> np.ndarray:
    """Draws the top left corners of a digit, int [20, 2] in 0..36."""
    start_2, angle = random.random(2), random.random() * 2 * np.pi
    velocity_2 = STEP * np.array([np.sin(angle), np.cos(angle)])
    way_T2 = start_2 + np.arange(NUM_FRAMES)[:, None] * velocity_2
    # Reflections at 0 and 1 fold the straight line.
    folded_T2 = np.abs((way_T2 + 1.0) % 2.0 - 1.0)
    return np.rint(folded_T2 * (SIDE - DIGIT_SIDE)).astype(int)


def write_folder(mnist: Path, folder: Path) -> None:
    """Writes all sequences as .npy with a manifest.csv, unless the folder has one already.

    Args:
      mnist: the folder of t10k-images-idx3-ubyte.gz.
      folder: where to write.
    """
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        return
    digits = read_digits(mnist)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("path", "split")]
    for split, (_, count) in SPLITS.items():
        for number in range(count):
            rows.append((f"{split}{number:04d}.npy", split))
            np.save(folder / rows[-1][0], draw_sequence(digits, split, number))
    part = manifest.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    part.rename(manifest)
