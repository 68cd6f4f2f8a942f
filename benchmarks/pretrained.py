"""Time and memory of an imported Wan 2.1 beside diffusers, on the CPU.

    pip install '.[parity]'
    python -m benchmarks.pretrained [--repeats 3] [--threads 2] [--size 128] [--frames 17]

Writes a Wan 2.1 of full size with random weights, loads it in two processes, one with vvae and one
with diffusers (eager PyTorch, float32), and lets them encode and decode the same video in turn.
Both process one latent frame at a time: diffusers always does, vvae with
`vvae.inference.streaming`. The first turn of each, in which vvae compiles, is not counted. Prints
the medians of seconds and of processor seconds over the repeats, the peak memory of each process
since its start (VmHWM, so Linux; loading and compiling included), ratios, and the differences of
the results. Writes benchmarks/results/pretrained.json.

On a shared machine, seconds include waiting: compare processor seconds there.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.origin import RESULTS, stamp, write_result
from benchmarks.timing import pin, read_peak_mb

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measures and prints both, or acts as one of the two processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=128, help="rows and columns")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--serve", choices=sorted(SERVERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        SERVERS[options.serve](options)
        return
    with tempfile.TemporaryDirectory() as folder:
        _run(["write"], options, Path(folder)).communicate()
        rows = measure(options, Path(folder))
        difference = compare_results(Path(folder))
    for name, row in rows.items():
        print(
            f"{name:10} {row['seconds']:8.2f} s {row['processor_seconds']:8.2f} s of processor "
            f"{row['peak_mb']:7.0f} MB"
        )
    ratios = {key: rows["vvae"][key] / rows["diffusers"][key] for key in rows["vvae"]}
    print(f"vvae / diffusers: {', '.join(f'{key} {value:.2f}' for key, value in ratios.items())}")
    print(f"largest difference, in standard deviations of diffusers' result: {difference}")
    names = ("repeats", "threads", "size", "frames")
    settings = {name: getattr(options, name) for name in names}
    content = {"settings": settings, "rows": rows, "ratios": ratios, "difference": difference}
    words = " ".join(f"--{name} {value}" for name, value in settings.items())
    command = f"python -m benchmarks.pretrained {words}"
    write_result(RESULTS / "pretrained.json", stamp(content, command))


def measure(options, folder: Path) -> dict[str, dict[str, float]]:
    """Returns medians of seconds and processor seconds, and peak memory in MB, of each process."""
    names = ("vvae", "diffusers")
    processes = {name: _run([name], options, folder) for name in names}
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(options.repeats + 1):
        for name, process in processes.items():
            print("go", file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline())
            print(f"turn {turn}, {name}: {answer}", file=sys.stderr, flush=True)
            answers[name].append(answer)
    for process in processes.values():
        process.communicate()
    return {
        name: {
            "seconds": median(a["seconds"] for a in turns[1:]),
            "processor_seconds": median(a["processor_seconds"] for a in turns[1:]),
            "peak_mb": turns[-1]["peak_mb"],
        }
        for name, turns in answers.items()
    }


def compare_results(folder: Path) -> dict[str, float]:
    """Returns the largest differences of latents and frames."""
    ours, theirs = (dict(np.load(folder / f"{name}.npz")) for name in ("vvae", "diffusers"))
    return {key: float(np.abs(ours[key] - theirs[key]).max() / theirs[key].std()) for key in theirs}


def _run(arguments: list[str], options, folder: Path) -> subprocess.Popen:
    settings = ("--threads", "--size", "--frames")
    values = (options.threads, options.size, options.frames)
    words = [word for pair in zip(settings, map(str, values), strict=True) for word in pair]
    command = [sys.executable, "-m", "benchmarks.pretrained", "--serve", *arguments, *words]
    return subprocess.Popen(
        [*pin(options.threads), *command, "--folder", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _serve(run, folder: Path, name: str) -> None:
    """Runs once per line of input, and writes the last result."""
    results = None
    for _ in sys.stdin:
        start, processor = time.perf_counter(), time.process_time()
        results = run()
        answer = {
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - processor,
            "peak_mb": read_peak_mb(),
        }
        print(json.dumps(answer), flush=True)
    np.savez(folder / f"{name}.npz", **results)


def _make_video(options) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (options.frames, options.size, options.size, 3)
    return rng.uniform(-1.0, 1.0, shape).astype(np.float32)


def write_weights(options) -> None:
    """Writes the folder of a Wan 2.1 with diffusers' own random initialisation."""
    import diffusers
    import torch

    torch.manual_seed(0)
    diffusers.AutoencoderKLWan().save_pretrained(options.folder)


def serve_vvae(options) -> None:
    """Encodes and decodes in chunks."""
    import jax

    from vvae.inference import streaming
    from vvae.pretrained.load import load_pretrained

    model, params = load_pretrained(options.folder)
    decode = jax.jit(streaming.decode_chunk, static_argnums=0)
    video = _make_video(options)

    def run() -> dict[str, np.ndarray]:
        posteriors = streaming.encode_frames(model, params, video, latents_per_chunk=1)
        means = [posterior.mean for posterior in posteriors]
        cache, pieces = streaming.begin_decode(), []
        for mean in means:
            cache, piece = jax.block_until_ready(decode(model, params, cache, mean))
            pieces.append(np.asarray(piece))
        latents, frames = (np.concatenate(p, axis=1)[0] for p in (means, pieces))
        return {"latents": latents, "frames": frames}

    _serve(run, options.folder, "vvae")


def serve_diffusers(options) -> None:
    """Encodes and decodes as the pipelines of diffusers do."""
    import diffusers
    import torch

    torch.set_num_threads(options.threads)
    model = diffusers.AutoencoderKLWan.from_pretrained(options.folder).eval()
    video = torch.from_numpy(np.moveaxis(_make_video(options), -1, 0)[None].copy())

    def run() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            latents = model.encode(video).latent_dist.mean
            frames = model.decode(latents).sample
        found = {"latents": latents, "frames": frames}
        return {key: np.moveaxis(value[0].numpy(), 0, -1) for key, value in found.items()}

    _serve(run, options.folder, "diffusers")


SERVERS = {"write": write_weights, "vvae": serve_vvae, "diffusers": serve_diffusers}

if __name__ == "__main__":
    main()
