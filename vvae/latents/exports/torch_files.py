"""Writes files that `torch.load(..., weights_only=True)` reads, without PyTorch.

Such a file is a zip of stored members: a pickle of the structure, in which tensors refer to members
with their bytes. Only what trainers put into latents is written: dictionaries, lists, tuples, text,
numbers, booleans, None and arrays.

References:
  https://docs.pytorch.org/docs/stable/notes/serialization.html, "Serialized file format for
  torch.save". Python's pickletools for the opcodes.
"""

import os
import struct
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from vvae.files import replacing

_STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(bool): "BoolStorage",
}
_ALIGNMENT = 64  # of the bytes of a tensor, as PyTorch maps them
_EXTRA_FIELD = 0x4246  # "FB", with which PyTorch pads the headers of members
_LOCAL_HEADER = 30  # bytes of a zip's header before the name


class _Op:
    """Opcodes of protocol 2. Written only: nothing here reads a pickle."""

    APPENDS = b"e"
    BINFLOAT = b"G"
    BININT = b"J"
    BINPERSID = b"Q"
    BINUNICODE = b"X"
    EMPTY_DICT = b"}"
    EMPTY_LIST = b"]"
    EMPTY_TUPLE = b")"
    GLOBAL = b"c"
    LONG1 = b"\x8a"
    MARK = b"("
    NEWFALSE = b"\x89"
    NEWTRUE = b"\x88"
    NONE = b"N"
    REDUCE = b"R"
    SETITEMS = b"u"
    STOP = b"."
    TUPLE = b"t"


def save(path: str | os.PathLike, value: Any) -> None:
    """Writes a value; the file is whole or not there.

    Args:
      path: the file.
      value: dictionaries, lists and tuples of arrays (float32, float16, bfloat16, int64, int32,
        uint8, bool), text, integers, floats, booleans and None. Arrays become tensors.

    Raises:
      TypeError: for anything else.
    """
    pickler = _Pickler()
    data = b"\x80\x02" + pickler.dump(value) + _Op.STOP
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "data.pkl", data)
        _write(archive, "byteorder", b"little")
        for number, array in enumerate(pickler.arrays):
            _write(archive, f"data/{number}", array.tobytes())
        _write(archive, "version", b"3\n")


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(f"archive/{name}")  # with a fixed date: equal content, equal files
    begin = archive.fp.tell() + _LOCAL_HEADER + len(info.filename) + 4
    padding = -begin % _ALIGNMENT
    info.extra = struct.pack("<HH", _EXTRA_FIELD, padding) + bytes(padding)
    archive.writestr(info, data)


class _Pickler:
    """Writes the opcodes of protocol 2; collects the arrays."""

    def __init__(self):
        self.arrays: list[np.ndarray] = []

    def dump(self, value: Any) -> bytes:
        if value is None:
            return _Op.NONE
        if isinstance(value, bool):
            return _Op.NEWTRUE if value else _Op.NEWFALSE
        if isinstance(value, int):
            return self._dump_int(value)
        if isinstance(value, float):
            return _Op.BINFLOAT + struct.pack(">d", value)
        if isinstance(value, str):
            data = value.encode("utf-8")
            return _Op.BINUNICODE + struct.pack("<I", len(data)) + data
        if isinstance(value, np.ndarray):
            return self._dump_array(value)
        if isinstance(value, dict):
            items = b"".join(self.dump(key) + self.dump(item) for key, item in value.items())
            return _Op.EMPTY_DICT + _Op.MARK + items + _Op.SETITEMS
        if isinstance(value, list):
            items = b"".join(map(self.dump, value))
            return _Op.EMPTY_LIST + _Op.MARK + items + _Op.APPENDS
        if isinstance(value, tuple):
            return _Op.MARK + b"".join(map(self.dump, value)) + _Op.TUPLE
        raise TypeError(f"{type(value).__name__} has no place in a file for torch.load")

    def _dump_int(self, value: int) -> bytes:
        if -(2**31) <= value < 2**31:
            return _Op.BININT + struct.pack("<i", value)
        data = value.to_bytes(9, "little", signed=True)
        return _Op.LONG1 + bytes([len(data)]) + data

    def _dump_array(self, array: np.ndarray) -> bytes:
        if array.dtype not in _STORAGES:
            raise TypeError(f"an array of {array.dtype} has no place in a file for torch.load")
        self.arrays.append(np.ascontiguousarray(array))
        storage = (
            _Op.MARK
            + self.dump("storage")
            + _name("torch", _STORAGES[array.dtype])
            + self.dump(str(len(self.arrays) - 1))
            + self.dump("cpu")
            + self.dump(array.size)
            + _Op.TUPLE
            + _Op.BINPERSID
        )
        strides = tuple(int(np.prod(array.shape[k + 1 :])) for k in range(array.ndim))
        hooks = _name("collections", "OrderedDict") + _Op.EMPTY_TUPLE + _Op.REDUCE
        arguments = b"".join(map(self.dump, (0, array.shape, strides, False)))
        return (
            _name("torch._utils", "_rebuild_tensor_v2")
            + _Op.MARK
            + storage
            + arguments
            + hooks
            + _Op.TUPLE
            + _Op.REDUCE
        )


def _name(module: str, name: str) -> bytes:
    return _Op.GLOBAL + f"{module}\n{name}\n".encode()
