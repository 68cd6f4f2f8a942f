"""Small collections of videos, and stores of their latents, for tests."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from compiling import xla_flags
from tiny_causal import make_model, make_variables

from vvae import latents
from vvae.latents.encode import Work

WORKER = Path(__file__).with_name("latents_worker.py")


@functools.cache
def tiny():
    """Returns (model, params): RGB, 2x4x4 into 3 channels, quick to compile."""
    model = make_model(
        shape_HWC=(8, 8, 3),
        widths=(4, 4, 4),
        blocks=(1, 1),
        attention=False,
        temporal_compression=2,
    )
    return model, make_variables(model)


def write_videos(folder, lengths, size=(8, 8), seed=0) -> Path:
    """Writes NAME.npy of noise for each name -> number of frames."""
    folder = Path(folder)
    for number, (name, length) in enumerate(lengths.items()):
        rng = np.random.default_rng([seed, number])
        frames = rng.integers(0, 256, (length, *size, 3), dtype=np.uint8)
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, frames)
    return folder


def encode(videos, out, **options):
    """Encodes with the tiny model; returns (summary, dataset)."""
    work = Work(latents_per_piece=2)
    options = {"say": lambda line: None, "work": work} | options
    model, params = options.pop("network", None) or tiny()
    summary = latents.encode_collection(model, params, videos, out, **options)
    return summary, latents.open(out)


def find_clip(dataset, name, clip=0):
    """Returns a clip of a video by name."""
    for index, record in enumerate(dataset.records()):
        if (record["source"]["name"], record["clip"]) == (name, clip):
            return dataset[index]
    raise KeyError((name, clip))


def read_tree(folder) -> dict[str, bytes]:
    """Returns name -> content of the files of a folder, without its lock."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if path.name != ".lock"
    }


def start_worker(*arguments) -> subprocess.Popen:
    """Starts an encoding in a process of its own; see latents_worker.py."""
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {"XLA_FLAGS": xla_flags(), "JAX_PLATFORMS": "cpu"}
        | {"PYTHONPATH": str(WORKER.parent.parent)},
    )
