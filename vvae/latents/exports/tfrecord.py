"""Writes TFRecords of tf.train.Example, without TensorFlow.

References:
  https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details": the length,
  its masked CRC32C, the data, their masked CRC32C.
  https://protobuf.dev/programming-guides/encoding/ for the wire format;
  tensorflow/core/example/{example,feature}.proto and tensorflow/core/framework/tensor.proto for the
  numbers of the fields.
"""

import struct
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from vvae.extras import require_extra

_FLOAT = 1  # DT_FLOAT of tensorflow/core/framework/types.proto
_MASK = 0xA282EAD8
_BYTES, _NUMBER = 2, 0  # wire types


def write_record(file: BinaryIO, data: bytes) -> None:
    """Appends a record.

    Raises:
      ValueError: if google-crc32c is not installed.
    """
    length = struct.pack("<Q", len(data))
    file.write(length + _checksum(length) + data + _checksum(data))


def make_example(features: Mapping[str, bytes]) -> bytes:
    """Returns a tf.train.Example of features that are one string of bytes each."""
    entries = b""
    for name, value in features.items():
        feature = _field(1, _field(1, value))  # Feature.bytes_list, BytesList.value
        entry = _field(1, name.encode()) + _field(2, feature)
        entries += _field(1, entry)  # Features.feature
    return _field(1, entries)  # Example.features


def serialize_tensor(array: np.ndarray) -> bytes:
    """Returns what tf.io.serialize_tensor does for float32: a TensorProto."""
    array = np.ascontiguousarray(array, np.float32)
    dims = b"".join(_field(2, _number(1, size)) for size in array.shape)
    return _number(1, _FLOAT) + _field(2, dims) + _field(4, array.tobytes())


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _NUMBER) + _varint(value)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _checksum(data: bytes) -> bytes:
    crc32c = require_extra("google_crc32c", "latents", "writing TFRecords").value(data)
    masked = ((crc32c >> 15 | crc32c << 17) + _MASK) & 0xFFFFFFFF
    return struct.pack("<I", masked)
