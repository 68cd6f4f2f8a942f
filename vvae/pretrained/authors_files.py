"""Reads weights as their authors publish them: files of tensors without a config.json.

The settings of the network follow from the names and shapes of the tensors.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vvae.pretrained import folder as folders
from vvae.pretrained import pytorch_files, taehv, tiny

SUFFIXES = (*pytorch_files.SUFFIXES, ".safetensors")


def is_authors_file(path: Path) -> bool:
    """Whether a path is a file that this module might read."""
    return path.is_file() and path.suffix in SUFFIXES


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads an authors' file.

    Args:
      path: the file of a TAEHV, or either file of a TAESD: the other one lies beside it, and its
        name has "decoder" for "encoder".

    Returns:
      (config.json, {name of a tensor in a folder of this class: array}).

    Raises:
      ValueError: if the file cannot be read, belongs to another network, or the other file is
        missing.
    """
    tensors = _read_tensors(path)
    try:
        if any(name.startswith(("encoder.", "decoder.")) for name in tensors):
            return taehv.adopt_file(tensors), tensors
        pair = [_replace_side(path, side) for side in ("encoder", "decoder")]
        return tiny.adopt_files(*(_read_tensors(side) for side in pair))
    except ValueError as error:
        raise ValueError(
            f"{path} is a file: give the folder that holds it together with config.json (only "
            f"those of TAESD and TAEHV are read by themselves: {error}), here "
            f"{path.absolute().parent}"
        ) from error


def _replace_side(path: Path, side: str) -> Path:
    """Returns the encoder's or the decoder's file beside a file of either."""
    for name in ("encoder", "decoder"):
        if name in path.name:
            other = path.with_name(path.name.replace(name, side))
            if not other.is_file():
                raise ValueError(f"the file of the {side}, {other.name}, is missing beside it")
            return other
    raise ValueError("the name of the file says neither encoder nor decoder")


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    if path.suffix in pytorch_files.SUFFIXES:
        return pytorch_files.read_tensors(path)
    return folders.read_file(path)
