"""Measures how much faster than real time a video is read, from the file to latents and to scores.

    python -m benchmarks.reading [--frames 1500] [--repeats 3]

Writes a video of moving noise, 320x240 at 25 frames/s, and reads it at 64x64 with the view gray and
the default network with random weights. It is decoded, resized and encoded clip by clip (`latents`,
as in `features` and `classify`), and scored frame by frame (`surprise`, as in live `anomaly`).
Decoding counts, compilation does not. Prints medians; writes benchmarks/results/reading.json.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from vvae import runtime

runtime.prepare_jax()

import jax
import numpy as np

from benchmarks.origin import RESULTS, stamp, write_result
from vvae.data.sampling import ClipFormat, Sampling, decode_clips
from vvae.models import contract
from vvae.models.contract import init_variables
from vvae.models.sequential import SequentialVAE
from vvae.tasks.anomaly.scores import begin_live, score_stream
from vvae.video import write_video

FPS = 25
SIZE = (240, 320)
FORMAT = ClipFormat("gray", 64, 64, Sampling(num_frames=16))
BATCH = 8
BLOCK = 16


def main() -> None:
    """Measures both ways and prints them as multiples of real time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    model = SequentialVAE(FORMAT.clip_shape[1:])
    params = init_variables(model, jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.mp4"
        _write_noise(path, options.frames)
        ways = {"latents": _make_encoder(model, params), "surprise": _make_scorer(model, params)}
        rates = {
            name: options.frames / _measure(path, read, options.repeats)
            for name, read in ways.items()
        }
    content = {
        "video": f"{options.frames} frames of 320x240, H.264, read at 64x64",
        "frames_per_second": {name: round(rate) for name, rate in rates.items()},
        "times_real_time_at_25_fps": {name: round(r / FPS, 1) for name, r in rates.items()},
    }
    command = f"python -m benchmarks.reading --frames {options.frames} --repeats {options.repeats}"
    write_result(RESULTS / "reading.json", stamp(content, command))
    for name, rate in rates.items():
        print(f"{name:10s} {rate:7.0f} frames/s, {rate / FPS:5.1f} times real time at {FPS} fps")


def _write_noise(path: Path, num_frames: int) -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8), np.uint8)
    texture = np.kron(texture, np.ones((8, 8), np.uint8))
    frames = [np.roll(texture, 3 * number, axis=1) for number in range(num_frames)]
    write_video(path, np.stack(frames)[..., None], FPS)


def _make_encoder(model, params):
    encode = jax.jit(lambda video, mask: contract.encode(model, params, video, mask).frame.mean)

    def read(codes_NTHWC, mask_NT):
        for start in range(0, len(codes_NTHWC), BATCH):
            rows = np.minimum(np.arange(start, start + BATCH), len(codes_NTHWC) - 1)
            encode(codes_NTHWC[rows], mask_NT[rows]).block_until_ready()

    return read


def _make_scorer(model, params):
    score = jax.jit(lambda state, x, mask: score_stream(model, params, state, x, mask, BLOCK))

    def read(codes_NTHWC, mask_NT):
        state = begin_live(model, params)
        for codes_THWC, mask_T in zip(codes_NTHWC, mask_NT):
            state, scores = score(state, codes_THWC[None], mask_T[None])
            scores["surprise"].block_until_ready()

    return read


def _measure(path: Path, read, repeats: int) -> float:
    """Returns the median seconds from the file to the end of reading."""
    clips = decode_clips(path, FORMAT)
    read(clips.codes_NTHWC, clips.mask_NT)  # compiles
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        clips = decode_clips(path, FORMAT)
        read(clips.codes_NTHWC, clips.mask_NT)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
