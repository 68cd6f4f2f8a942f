"""Saves dataclasses of arrays, numbers and text as .npz files, without pickle."""

import dataclasses
import os
import typing
import zipfile
from typing import Any, TypeVar

import numpy as np

from vvae.files import replacing

T = TypeVar("T")


def save_fields(path: str | os.PathLike, value) -> None:
    """Writes a dataclass of arrays, numbers, strings, tuples of strings, and such dataclasses."""
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, **_flatten(value))


def load_fields(path: str | os.PathLike, cls: type[T], what: str, remedy: str) -> T:
    """Reads a dataclass that `save_fields` wrote.

    Args:
      path: the .npz file.
      cls: the class; each field has a type annotation.
      what: what the file holds, for error messages.
      remedy: what to do if it is missing, for error messages.

    Raises:
      ValueError: if the file is missing or does not hold such a dataclass.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _restore(cls, arrays)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise ValueError(f"{path} holds no {what} ({reason}); {remedy}") from error


def _flatten(value, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for field in dataclasses.fields(value):
        item, name = getattr(value, field.name), prefix + field.name
        flat |= _flatten(item, f"{name}.") if dataclasses.is_dataclass(item) else {name: item}
    return flat


def _restore(cls: type, arrays, prefix: str = ""):
    fields = {}
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            fields[name] = _restore(kind, arrays, f"{prefix}{name}.")
        elif kind is np.ndarray:
            fields[name] = arrays[prefix + name]
        elif kind in (int, float, str):
            fields[name] = kind(arrays[prefix + name])
        else:
            fields[name] = tuple(str(item) for item in arrays[prefix + name])
    return cls(**fields)
