"""The table of pieces: name -> the function that measures it.

A piece runs in a process of its own and imports what it needs there: jax and PyTorch each take
memory of the device when they start.
"""

import importlib
import os
from dataclasses import dataclass

from vvae import runtime

# One library must not take all memory before it is needed, and its own peak is what is measured.
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True)
class Piece:
    """A function `module.function(*arguments, tiny=...)` that returns rows.

    A row is a dictionary with a name; its other values are numbers or words.
    """

    module: str
    function: str
    arguments: tuple[str, ...] = ()


def _steps(case: str) -> dict[str, Piece]:
    return {
        f"step {case} {library}": Piece("steps", f"measure_{library}", (case,))
        for library in ("vvae", "torch")
    }


def _wan(frames: str) -> dict[str, Piece]:
    return {
        f"wan {frames}x480x832 {library}": Piece("wan", f"measure_{library}", (frames,))
        for library in ("vvae", "diffusers")
    }


PIECES: dict[str, Piece] = {
    **_steps("causal-large"),
    **_wan("17"),
    **_wan("81"),
    "agreement": Piece("agreement", "measure"),
    **_steps("causal-base"),
    **_steps("causal-small"),
    **_steps("sequential-64x64x3"),
    "feeding": Piece("feeding", "measure"),
}


def run_piece(name: str, *, tiny: bool) -> list[dict]:
    """Measures a piece in this process.

    Args:
      name: one of PIECES.
      tiny: whether to measure small models.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    runtime.prepare_jax()
    piece = PIECES[name]
    module = importlib.import_module(f"benchmarks.accelerator.{piece.module}")
    return getattr(module, piece.function)(*piece.arguments, tiny=tiny)
