"""Every published family at its published size: what it sees, what decoding costs.

    pip install '.[pretrained]'
    python -m benchmarks.zoo [--only NAME ...] [--memory_gib 24] [--limit_s 1800] [--again]
    python -m benchmarks.scoreboard tables

Networks have random weights, float32. Each measurement runs in a process of its own on two cores:

- `decode`: 17 frames of 256x256 from random latents, whole: seconds of the second run, and the peak
  of the resident memory of the process;
- `sight`: one late frame (the first of those that the last latent frame stands for) of 17 frames of
  a few latents a side is replaced by noise, and then the last latent frame: the largest change of
  the latents, and of the decoded frames, before it, in standard deviations. A causal network has an
  exact zero;
- `long`, of HunyuanVideo 1.5 alone: encodes 73 frames of 256x256; the peak of the memory beside the
  largest activation, and beside the scores of attention of all positions to all.

What the compiler says a program needs is compared with `--memory_gib` before it runs; a process
that takes longer than `--limit_s` is stopped. Both are recorded as such. Results are written to
benchmarks/results/zoo.json after each measurement: a measurement that is there is not repeated, so
that the command can be stopped and started again (`--again` repeats those of `--only`).
`benchmarks.scoreboard tables` writes the table of docs/published_models.md from it.
"""

import argparse
import functools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import releases as published
from benchmarks.origin import RESULTS, describe_origin, write_result
from benchmarks.timing import pin, read_peak_mb

ROOT = Path(__file__).resolve().parent.parent
FILE = RESULTS / "zoo.json"
VIDEO = (17, 256, 256)
LONG = (73, 256, 256)
CORES = 2
OWN = "DistilledVAE"  # trained by users, not published
COMMAND = "python -m benchmarks.zoo"
_ASK = "see the model's page"
_STABILITY = "Stability AI Community License"
_TENCENT = "Tencent Hunyuan Community License"
_LIGHTRICKS = "LTXV Open Weights License"
_GIB = 2**30


@dataclass(frozen=True)
class Release:
    """A network as it was published.

    Attributes:
      kind: its class.
      licence: of the weights, as their publishers state it.
      settings: those of config.json that are not the defaults of its class.
    """

    kind: str
    licence: str = _ASK
    settings: dict[str, Any] = field(default_factory=dict)

    def make(self):
        """Returns the model."""
        from vvae.pretrained.load import make_network

        return make_network({"_class_name": self.kind, **self.settings})


# The default scale is that of 16 channels.
_QWEN21 = {"latents_mean": (0.0,) * 64, "latents_std": (1.0,) * 64}

RELEASES: dict[str, Release] = {
    "SDXL": Release(
        "AutoencoderKL", "OpenRAIL++-M", published.STABLE_DIFFUSION | published.UP_BLOCKS
    ),
    "SD 3": Release("AutoencoderKL", _STABILITY, published.STABLE_DIFFUSION_3),
    "FLUX.2": Release("AutoencoderKLFlux2", "Apache-2.0 (the VAE)"),
    "DC-AE": Release("AutoencoderDC", settings=published.DC_AE),
    "Qwen-Image 2.1": Release("AutoencoderKLQwenImage21", settings=_QWEN21),
    "TAESD": Release("AutoencoderTiny", "MIT"),
    "TAEF2": Release("TAESD", "MIT", {"latent_channels": 32}),
    "SVD": Release("AutoencoderKLTemporalDecoder", _STABILITY, published.STABLE_DIFFUSION),
    "TAEHV": Release("TAEHV", "MIT"),
    "Wan 2.1": Release("AutoencoderKLWan", "Apache-2.0"),
    "Qwen-Image": Release("AutoencoderKLQwenImage", "Apache-2.0"),
    "LTX-Video 0.9.0": Release("AutoencoderKLLTXVideo", _LIGHTRICKS),
    "LTX-Video 0.9.1": Release("AutoencoderKLLTXVideo", _LIGHTRICKS, published.LTX_091),
    "LTX-2": Release("AutoencoderKLLTX2Video", "LTX-2 Community License"),
    "HunyuanVideo": Release("AutoencoderKLHunyuanVideo", _TENCENT),
    "HunyuanVideo 1.5": Release("AutoencoderKLHunyuanVideo15", _TENCENT),
    "CogVideoX": Release("AutoencoderKLCogVideoX", "Apache-2.0 (2B), CogVideoX License (5B)"),
    "EasyAnimate 5": Release("AutoencoderKLMagvit", "Apache-2.0"),
    "VidTok": Release("AutoencoderVidTok", "MIT"),
}
_LICENCES = {"AutoencoderKLMochi": "Apache-2.0", "AutoencoderKLCosmos": "NVIDIA Open Model License"}
_LONG_RELEASES = ("HunyuanVideo 1.5",)


def list_releases() -> dict[str, Release]:
    """Returns all releases; a class without one is measured with its default settings."""
    from vvae.pretrained.load import list_classes

    named = {release.kind for release in RELEASES.values()} | {OWN}
    others = {
        name.removeprefix("AutoencoderKL"): Release(name, _LICENCES.get(name, _ASK))
        for name in list_classes()
        if name not in named
    }
    return RELEASES | others


def main() -> None:
    """Measures what is missing, or acts as one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="names of releases")
    parser.add_argument("--memory_gib", type=float, default=24.0)
    parser.add_argument("--limit_s", type=float, default=1800.0)
    parser.add_argument("--again", action="store_true", help="repeat those of --only")
    parser.add_argument("--json", type=Path, default=FILE)
    parser.add_argument("--serve", choices=JOBS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    releases = list_releases()
    unknown = sorted(set(options.only) - releases.keys())
    if unknown:
        parser.error(f"--only {unknown[0]}: choose from {', '.join(releases)}")
    if options.serve:
        (name,) = options.only
        print(json.dumps(JOBS[options.serve](releases[name], options.memory_gib * _GIB)))
        return
    measure_all(options, releases)


def measure_all(options: argparse.Namespace, releases: dict[str, Release]) -> None:
    """Runs every missing measurement, and writes the file after each."""
    known = json.loads(options.json.read_text())["rows"] if options.json.is_file() else {}
    rows = {name: dict(known.get(name, {})) for name in releases}
    content = {"command": COMMAND, "video": VIDEO, "long": LONG, "cores": CORES}
    for name in options.only or releases:
        row = {} if options.again and options.only else rows[name]
        rows[name] = row
        for job in _list_jobs(name):
            if job in row:
                continue
            print(f"{name}: {job}", flush=True)
            row[job] = run_job(name, job, options)
            if job != "facts":
                origin = describe_origin()
                row[job] |= {part: origin[part] for part in ("git_commit", "machine")}
            print(f"  {row[job]}", flush=True)
            measured = {name: row for name, row in rows.items() if row}
            write_result(options.json, content | {"rows": measured})


def _list_jobs(name: str) -> tuple[str, ...]:
    return ("facts", "sight", "decode", *(("long",) if name in _LONG_RELEASES else ()))


def run_job(name: str, job: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs a measurement in a process of its own; returns what it says, or why it says nothing."""
    command = [*pin(CORES), sys.executable, "-m", "benchmarks.zoo", "--serve", job]
    command += ["--only", name, "--memory_gib", str(options.memory_gib)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=options.limit_s
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"longer than {options.limit_s:.0f} s"}
    if done.returncode == -9:
        return {"skipped": "killed by the system, for want of memory"}
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


# --- what is known without a measurement ---------------------------------------------------------


def describe(release: Release, limit: float = math.inf) -> dict[str, Any]:
    """Returns the class, the licence, the number of parameters, the latents, and what is exact."""
    del limit  # of memory: nothing is computed
    import jax

    from vvae.inference.tiling import is_local
    from vvae.models import contract

    model = release.make()
    shapes = jax.eval_shape(functools.partial(contract.init_variables, model), jax.random.key(0))
    return {
        "class": release.kind,
        "licence": release.licence,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])),
        "latents": [*model.grid_shape(VIDEO), model.bottleneck.channels],
        "compression": [model.temporal_compression, *(model.spatial_compression,) * 2],
        "encodes_in_pieces": model.encoder_lookahead is not None,
        "decodes_in_pieces": model.decodes_causally,
        "tiles_exactly": is_local(model),
    }


# --- the processes -------------------------------------------------------------------------------


def measure_decode(release: Release, limit: float) -> dict[str, Any]:
    """Measures the time and the memory of decoding a whole video."""
    import jax

    from vvae.models import contract

    model, params = _make(release)
    shape = (1, *model.grid_shape(VIDEO), model.bottleneck.channels)
    z = np.random.default_rng(0).standard_normal(shape, np.float32)
    decode = jax.jit(functools.partial(contract.decode, model)).lower(params, z).compile()
    return _run(decode, (params, z), limit)


def measure_long(release: Release, limit: float) -> dict[str, Any]:
    """Measures the memory of encoding a long video beside that of its activations."""
    import jax

    from vvae.models import contract

    model, params = _make(release)
    x = np.random.default_rng(0).integers(0, 256, (1, *LONG, 3), np.uint8)
    encode = functools.partial(contract.encode, model)
    largest = find_largest(jax.make_jaxpr(encode)(params, x).jaxpr)
    positions = math.prod(model.grid_shape(LONG))
    sizes = {"largest_activation_gib": largest / _GIB, "all_scores_gib": 4 * positions**2 / _GIB}
    return sizes | _run(jax.jit(encode).lower(params, x).compile(), (params, x), limit)


def find_largest(jaxpr) -> int:
    """Returns the bytes of the largest array that a program computes, before any fusion."""
    from jax.extend import core

    largest = 0
    for equation in jaxpr.eqns:
        sizes = [v.aval.size * v.aval.dtype.itemsize for v in equation.outvars if v.aval.shape]
        largest = max(largest, *sizes, 0)
        for value in equation.params.values():
            inner = value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
            if isinstance(inner, core.Jaxpr):
                largest = max(largest, find_largest(inner))
    return largest


def measure_sight(release: Release, limit: float) -> dict[str, Any]:
    """Measures how far a late frame changes latents, and late latents frames, before it."""
    import jax

    from vvae.models import contract

    model, params = _make(release)
    side = max(64, 2 * model.spatial_compression)
    shape_THW = (VIDEO[0], side, side)
    grid = model.grid_shape(shape_THW)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (1, *shape_THW, model.shape_HWC[-1])).astype(np.float32)
    z = rng.standard_normal((1, *grid, model.bottleneck.channels), np.float32)
    start = 1 + (grid[0] - 2) * model.temporal_compression

    def encode(params, x):
        return model.posterior_mean(contract.encode(model, params, x))

    encode, decode = jax.jit(encode), jax.jit(functools.partial(contract.decode, model))
    noise = rng.uniform(-1, 1, x[:, start].shape).astype(np.float32)
    changed = _replace(x, start, noise)
    leaks = {"encoder_leak": _find_change(encode, params, (x, changed), grid[0] - 1)}
    changed = _replace(z, -1, rng.standard_normal(z[:, -1].shape, np.float32))
    return leaks | {"decoder_leak": _find_change(decode, params, (z, changed), start)}


def _replace(values: np.ndarray, index: int, by: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[:, index] = by
    return values


def _find_change(run: Callable, params, pair: tuple[np.ndarray, np.ndarray], count: int) -> float:
    """Returns the largest change of the first outputs, in standard deviations.

    Raises:
      ValueError: if nothing changes at all, or an output is not finite.
    """
    now, then = (np.asarray(run(params, values)) for values in pair)
    change, deviation = np.abs(now - then), float(now.std())
    if not change.max() > 0 or not np.isfinite(change).all():
        raise ValueError(f"a change of the input changes the output by {change.max()}")
    return float(change[:, :count].max()) / deviation


def _make(release: Release):
    """Returns the model, and random variables on the device."""
    import jax

    from benchmarks.variables import draw_variables
    from vvae import runtime
    from vvae.models import contract

    runtime.prepare_jax()
    model = release.make()
    variables = draw_variables(functools.partial(contract.init_variables, model))
    return model, jax.device_put(variables)


def _run(program, arguments: tuple, limit: float) -> dict[str, Any]:
    """Runs a compiled program twice, unless it needs more memory than the limit."""
    import jax

    memory = program.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    needed += memory.output_size_in_bytes
    if needed > limit:
        return {"skipped": f"needs {needed / _GIB:.0f} GiB", "needed_gib": needed / _GIB}
    seconds = []
    for _ in range(2):
        wall, processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(*arguments))
        seconds.append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        "seconds": seconds[-1][0],
        "processor_seconds": seconds[-1][1],
        "peak_gib": read_peak_mb() * 1e6 / _GIB,
        "needed_gib": needed / _GIB,
    }


JOBS = {
    "facts": describe,
    "sight": measure_sight,
    "decode": measure_decode,
    "long": measure_long,
}


# --- the table -----------------------------------------------------------------------------------

_COLUMNS = (
    "model",
    "class",
    "licence of the weights, as stated",
    "parameters, M",
    "latents of 17x256x256",
    "leak: encoder",
    "leak: decoder",
    "in pieces: encodes, decodes",
    "exact tiles",
    "decoding, s",
    "memory, GiB",
)


def format_table(results: Path) -> str:
    """Returns the table of the docs, or that nothing was measured yet."""
    path = results / FILE.name
    if not path.is_file():
        return f"Not measured yet: `{COMMAND}`.\n\n"
    content = json.loads(path.read_text(encoding="utf-8"))
    marks = ["---"] * 3 + ["---:"] * (len(_COLUMNS) - 3)
    lines = [
        f"`{content['command']}`",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"| {' | '.join(marks)} |",
    ]
    for name, row in content["rows"].items():
        lines.append(f"| {' | '.join(_format_row(name, row))} |")
    notes = [note for name, row in content["rows"].items() for note in _describe_long(name, row)]
    return "\n".join([*lines, *(f"\n{note}" for note in notes), "", ""])


def _format_row(name: str, row: dict[str, Any]) -> list[str]:
    facts, sight, decode = row["facts"], row.get("sight", {}), row.get("decode", {})
    *grid, channels = facts["latents"]
    reason = decode.get("skipped", "not run")
    return [
        name,
        f"`{facts['class']}`",
        facts["licence"],
        f"{facts['parameters'] / 1e6:.1f}",
        f"{'x'.join(map(str, grid))}, {channels}",
        *(_format_leak(sight, side) for side in ("encoder", "decoder")),
        ", ".join("yes" if facts[f"{verb}_in_pieces"] else "no" for verb in ("encodes", "decodes")),
        "yes" if facts["tiles_exactly"] else "no",
        f"{decode['seconds']:.1f}" if "seconds" in decode else reason,
        f"{decode['peak_gib']:.1f}" if "peak_gib" in decode else "",
    ]


def _format_leak(sight: dict[str, Any], side: str) -> str:
    leak = sight.get(f"{side}_leak")
    if leak is None:
        return sight.get("skipped", "not run")
    return "0" if leak == 0 else f"{leak:.1g}"


def _describe_long(name: str, row: dict[str, Any]) -> Iterator[str]:
    found = row.get("long")
    if found is None:
        return
    length, *size = LONG
    subject = f"{name} encodes {length} frames of {'x'.join(map(str, size))}"
    if "peak_gib" not in found:
        yield f"{subject}: {found['skipped']}."
        return
    yield (
        f"{subject} with {found['peak_gib']:.1f} GiB at the peak, "
        f"{found['peak_gib'] / found['largest_activation_gib']:.1f} times its largest activation "
        f"({found['largest_activation_gib']:.2f} GiB), in {found['seconds']:.0f} s; scores of all "
        f"positions to all would be {found['all_scores_gib']:.2f} GiB and are never held."
    )


if __name__ == "__main__":
    main()
