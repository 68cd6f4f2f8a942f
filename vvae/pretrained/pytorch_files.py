"""Reads tensors from the files that torch.save writes, without PyTorch and without running code.

Such a file is a zip archive: a pickle that names the tensors, and a file of raw numbers for each
storage. A pickle can call anything that is installed, so the reader here knows dictionaries,
numbers and tensors, and refuses every other name.
"""

import collections
import io
import math
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

SUFFIXES = (".pth", ".pt")

_STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
}


@dataclass(frozen=True)
class _Storage:
    """The numbers that one or more tensors are views of."""

    values: np.ndarray


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a dictionary of tensors.

    Args:
      path: a file that torch.save wrote (since PyTorch 1.6, a zip archive).

    Returns:
      Name -> array, in the type of the file; a tensor without a name is named "".

    Raises:
      ValueError: for a file of another kind, or with anything else than tensors in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            tree = _read_archive(archive)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    # A damaged pickle can raise any exception, depending on the opcode that is damaged.
    except Exception as error:
        raise ValueError(
            f"{path} is not a file of tensors as torch.save writes it: {error}"
        ) from error
    flaws = [name for name, value in tree.items() if not isinstance(value, np.ndarray)]
    if flaws or not tree:
        raise ValueError(f"{path} holds other things than tensors: {flaws[:5] or 'nothing at all'}")
    return tree


def _read_archive(archive: zipfile.ZipFile) -> dict[str, Any]:
    (index,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = index.removesuffix("data.pkl")
    byteorder = f"{folder}byteorder"
    if byteorder in archive.namelist() and archive.read(byteorder) != b"little":
        raise ValueError(f"its numbers are not little-endian but {archive.read(byteorder)!r}")
    tree = _Unpickler(archive, folder, archive.read(index)).load()
    if isinstance(tree, np.ndarray):
        return {"": tree}
    if not isinstance(tree, dict):
        raise ValueError(f"it holds a {type(tree).__name__}, not a dictionary of tensors")
    return dict(tree)


class _Unpickler(pickle.Unpickler):
    """An unpickler that has access to tensors only."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, content: bytes):
        super().__init__(io.BytesIO(content))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str):
        """Returns what stands for a name; refuses every name that does not belong to a tensor."""
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch._utils", "_rebuild_parameter"): _unwrap,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid):
        """Returns the storage that a tensor refers to."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not str(key).isalnum():
            raise pickle.UnpicklingError(f"it refers to {pid!r}")
        content = self._archive.read(f"{self._folder}data/{key}")
        values = np.frombuffer(content, dtype)
        if len(values) != count:
            raise pickle.UnpicklingError(f"storage {key} holds {len(values)} numbers, not {count}")
        return _Storage(values)


def _view(storage, offset, shape, strides, *_) -> np.ndarray:
    """Returns a tensor as a view of its storage, whose bounds it must not leave."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor without a storage")
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise pickle.UnpicklingError(f"a tensor of the shape {shape!r} at {offset!r}")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= len(storage.values):
        raise pickle.UnpicklingError(f"a tensor of {shape} does not fit its storage")
    values = storage.values[offset:]
    steps = tuple(stride * values.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(values, shape, steps, writeable=False).copy()


def _unwrap(tensor, *_) -> np.ndarray:
    if not isinstance(tensor, np.ndarray):
        raise pickle.UnpicklingError("a parameter that is no tensor")
    return tensor
