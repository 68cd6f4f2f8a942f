"""Reads TFRecords of serialised tensors as TensorFlow does, on protobuf alone."""

import struct

import numpy as np
import pytest


def crc32c(data):
    """Computes the CRC-32C bit by bit: RFC 3720, appendix B.4."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def check_masked(data, stored):
    value = crc32c(data)
    assert ((value >> 15 | value << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF == stored


def read_records(path):
    data = path.read_bytes()
    while data:
        length, check = struct.unpack("<QI", data[:12])
        check_masked(data[:8], check)
        record, (check,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length :][:4])
        check_masked(record, check)
        data = data[16 + length :]
        yield record


def make_messages():
    """Returns the classes Example and TensorProto, by the numbers of TensorFlow's .proto files."""
    protobuf = pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    assert protobuf
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    text, number, message, data = 9, 3, 11, 12
    fields = {
        "BytesList": [("value", 1, data, 3, "")],
        "Feature": [("bytes_list", 1, message, 1, ".t.BytesList")],
        "Entry": [("key", 1, text, 1, ""), ("value", 2, message, 1, ".t.Feature")],
        "Features": [("feature", 1, message, 3, ".t.Entry")],
        "Example": [("features", 1, message, 1, ".t.Features")],
        "Dim": [("size", 1, number, 1, "")],
        "Shape": [("dim", 2, message, 3, ".t.Dim")],
        "TensorProto": [
            ("dtype", 1, number, 1, ""),
            ("tensor_shape", 2, message, 1, ".t.Shape"),
            ("tensor_content", 4, data, 1, ""),
        ],
    }
    for name, entries in fields.items():
        described = file.message_type.add(name=name)
        for field, tag, kind, label, type_name in entries:
            described.field.add(
                name=field, number=tag, type=kind, label=label, type_name=type_name or None
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}"))
        for name in ("Example", "TensorProto")
    ]


def read_examples(path):
    """Returns the features of each record: name -> float32 array."""
    example_class, tensor_class = make_messages()

    def parse(data):
        tensor = tensor_class.FromString(data)
        assert tensor.dtype == 1
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        return np.frombuffer(tensor.tensor_content, np.float32).reshape(shape)

    examples = [example_class.FromString(record) for record in read_records(path)]
    return [
        {entry.key: parse(entry.value.bytes_list.value[0]) for entry in example.features.feature}
        for example in examples
    ]
