"""`vvae latents` beside a plain loop with diffusers, on the CPU: clips/s and peak memory.

    pip install '.[parity]'
    python -m benchmarks.latents [--clips 200] [--repeats 3] [--threads 2] [--frames 257]

Both encode the same H.264 files with the same small Wan 2.1 (random weights) to normalised
posterior means. The loop is what people write: decode a video with PyAV, encode it with diffusers
(eager PyTorch, float32), save a safetensors file. Each is a process of its own, started in turn,
and times hold all of it: imports, weights and, for vvae, compiling. The first turn of vvae, in
which nothing is compiled yet, is printed apart; `seconds` are medians of the other turns.

* `collection`: clips of several sizes and lengths.
* `long video`: one video of 256x256.

Prints seconds, processor seconds and the peak of resident memory, ratios, and the largest
difference of the latents. Writes benchmarks/results/latents.json. On a shared machine, compare
processor seconds.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.origin import RESULTS, stamp, write_result
from benchmarks.textures import write_texture
from benchmarks.timing import pin

ROOT = Path(__file__).resolve().parent.parent
# Rows, columns and frames; latents of Wan have a frame for the first one and every four more.
CLIPS = ((64, 112, 17), (112, 64, 25), (80, 80, 33), (64, 112, 25), (80, 80, 17))
LONG_SIDE = 256
FPS = 25


class Usage(NamedTuple):
    """What a process took."""

    seconds: float
    processor_seconds: float
    peak_mb: float


def main() -> None:
    """Measures both cases, prints them, writes the JSON file; or acts as the loop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=257, help="of the long video")
    parser.add_argument("--loop", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        run_loop(*options.loop, options.threads)
        return
    shapes = {
        "collection": [CLIPS[i % len(CLIPS)] for i in range(options.clips)],
        "long video": [(LONG_SIDE, LONG_SIDE, options.frames)],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder / "weights")
        cases = {
            case: measure_case(folder / case.replace(" ", "_"), folder / "weights", drawn, options)
            for case, drawn in shapes.items()
        }
    names = ("clips", "repeats", "threads", "frames")
    words = " ".join(f"--{name} {getattr(options, name)}" for name in names)
    content = stamp({"cases": cases}, f"python -m benchmarks.latents {words}")
    write_result(RESULTS / "latents.json", content)


def measure_case(folder: Path, weights: Path, shapes: list[tuple[int, int, int]], options) -> dict:
    """Returns what both take for these videos, vvae's part of it, and how much results differ."""
    videos = folder / "videos"
    write_videos(videos, shapes)
    usages: dict[str, list[Usage]] = {"vvae": [], "diffusers": []}
    for turn in range(options.repeats + 1):
        for name, found in usages.items():
            out = folder / f"{name}_{turn}"
            found.append(run(make_command(name, weights, videos, out, options), folder))
            print(f"{folder.name}, turn {turn}, {name}: {found[-1]}", file=sys.stderr, flush=True)
    rows = {name: summarise(found[1:]) for name, found in usages.items()}
    ratios = {key: value / rows["diffusers"][key] for key, value in rows["vvae"].items()}
    turn = options.repeats
    difference = compare(folder / f"vvae_{turn}", folder / f"diffusers_{turn}", len(shapes))
    first = usages["vvae"][0]._asdict()
    for name, row in rows.items():
        print(f"{folder.name:12}{name:10}" + "".join(f"{k} {v:9.2f}  " for k, v in row.items()))
    print(
        f"{folder.name:12}vvae / diffusers: "
        + ", ".join(f"{key} {value:.2f}" for key, value in ratios.items())
        + f"; first turn of vvae {first['seconds']:.1f} s; largest difference {difference:.1e}"
    )
    return {"rows": rows, "ratios": ratios, "first_turn": first, "difference": difference}


def summarise(usages: list[Usage]) -> dict[str, float]:
    """Returns the median of each number."""
    return {key: median(getattr(u, key) for u in usages) for key in Usage._fields}


def make_command(name: str, weights: Path, videos: Path, out: Path, options) -> list[str]:
    """Returns the command that encodes the videos by one of the two."""
    command = [*pin(options.threads), sys.executable, "-m"]
    if name == "vvae":
        places = ["--pretrained", weights, "--data.path", videos, "--out", out]
        return [*command, "vvae", "latents", *map(str, places)]
    places = ["--threads", options.threads, "--loop", weights, videos, out]
    return [*command, "benchmarks.latents", *map(str, places)]


def run(command: list[str], folder: Path) -> Usage:
    """Runs a command with a cache folder of the case.

    Raises:
      RuntimeError: with the end of its output, if it fails.
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    log, start = folder / "log.txt", time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    processor_seconds = usage.ru_utime + usage.ru_stime
    return Usage(time.perf_counter() - start, processor_seconds, usage.ru_maxrss / 1e3)


def compare(store: Path, files: Path, num_clips: int) -> float:
    """Returns the largest difference of normalised means, whose standard deviation is about 1.

    Raises:
      ValueError: if one of the two did not encode all clips.
    """
    from safetensors.numpy import load_file

    from vvae import latents

    dataset = latents.open(store)
    if len(dataset) != num_clips or len(list(files.iterdir())) != num_clips:
        raise ValueError(f"{len(dataset)} and {len(list(files.iterdir()))} of {num_clips} clips")
    differences = []
    for i in range(num_clips):
        clip = dataset[i]
        name = Path(clip["record"]["source"]["name"]).stem
        expected = load_file(files / f"{name}.safetensors")["latents"]
        differences.append(np.abs(np.moveaxis(clip["mean"], -1, 0) - expected).max())
    return float(max(differences))


def write_weights(folder: Path) -> None:
    """Writes a Wan 2.1 of a twelfth of the width, with diffusers' own random initialisation."""
    import diffusers
    import torch

    torch.manual_seed(0)
    diffusers.AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(folder)


def write_videos(folder: Path, shapes: list[tuple[int, int, int]]) -> None:
    """Writes an H.264 file of each (rows, columns, frames)."""
    folder.mkdir(parents=True)
    for i, (*size, num_frames) in enumerate(shapes):
        write_texture(folder / f"clip_{i:03d}.mp4", i, tuple(size), num_frames, FPS)


def run_loop(weights: Path, videos: Path, out: Path, threads: int) -> None:
    """Encodes videos one after another with PyAV and diffusers."""
    import av
    import diffusers
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(threads)
    model = diffusers.AutoencoderKLWan.from_pretrained(weights).eval()
    mean, std = (
        torch.tensor(values).reshape(1, -1, 1, 1, 1)
        for values in (model.config.latents_mean, model.config.latents_std)
    )
    out.mkdir()
    for path in sorted(videos.iterdir()):
        with av.open(str(path)) as container:
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        video = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None] / 127.5 - 1
        with torch.inference_mode():
            latents = (model.encode(video).latent_dist.mean - mean) / std
        save_file({"latents": latents[0].contiguous()}, out / f"{path.stem}.safetensors")


if __name__ == "__main__":
    main()
