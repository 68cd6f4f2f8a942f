"""The header of a safetensors file, written from sizes alone: the tensors need not be in memory.

References:
  https://github.com/huggingface/safetensors, "Format": 8 bytes of little-endian length, a JSON
  header of names -> dtype, shape and offsets, then the bytes of the tensors without gaps.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vvae.files import replacing

MAX_HEADER = 100_000_000  # bytes that the safetensors package reads
_CODES = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.uint8): "U8",
}


def make_header(
    tensors: Iterable[tuple[str, np.dtype, Iterable[int]]], metadata: Mapping[str, str]
) -> bytes:
    """Returns all that precedes the bytes of the tensors.

    Args:
      tensors: name, dtype and shape of each, in the order of their bytes.
      metadata: text by name.

    Raises:
      ValueError: if the header is larger than the safetensors package reads.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    if len(data) > MAX_HEADER:
        raise ValueError(
            f"{len(header) - 1} tensors need a header of more than {MAX_HEADER} bytes: make the "
            "files smaller"
        )
    return struct.pack("<Q", len(data)) + data


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes tensors that are in memory; the file is whole or not there."""
    header = make_header(((name, a.dtype, a.shape) for name, a in tensors.items()), metadata)
    with replacing(path) as part, open(part, "wb") as file:
        file.write(header)
        file.writelines(array.tobytes() for array in tensors.values())
