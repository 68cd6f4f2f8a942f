"""A folder of published weights as diffusers writes it: config.json beside .safetensors files.

Names and axes are translated by rule, so that reading and writing are inverse to each other. The
path of a parameter is the name of its tensor, and the channel axes of a PyTorch tensor are moved
behind its other axes (see `pretrained.layers`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae.extras import require_extra
from vvae.files import replacing, write_text
from vvae.pretrained.locate import (
    CONFIG,
    WEIGHTS,
    describe_contents,
    find_files,
    refuse_other_weights,
    refuse_pointer,
)

_LEAVES = {"kernel": "weight", "scale": "weight"}
_TYPES = {"F64", "F32", "F16", "BF16"}
_INTEGERS = {"I64", "I32"}
_KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}

Path_ = tuple[str, ...]


# --- settings -----------------------------------------------------------------------------------


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the settings in a folder's config.json, lists as tuples.

    Raises:
      ValueError: if the file is missing, or is not a JSON object with a _class_name.
    """
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(
            f"{folder} holds no published weights: there is no {CONFIG}; "
            f"{describe_contents(folder)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    refuse_pointer(path)
    return parse_config(text, str(path))


def parse_config(text: str, where: str) -> dict[str, Any]:
    """Returns the settings of a config.json, lists as tuples.

    Args:
      text: the content.
      where: the file's name or another description, for error messages.

    Raises:
      ValueError: if it is not a JSON object with a _class_name.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("_class_name"), str):
        raise ValueError(f"{where} is not the configuration of a model: it has no _class_name")
    return {name: _freeze(value) for name, value in record.items()}


def _freeze(value):
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def fill_settings(record: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a record, completed with defaults.

    Args:
      record: from `read_config`; names that begin with an underscore are not settings.
      defaults: name -> value; the record's values must have the same types.

    Raises:
      ValueError: for an unknown setting, or one of another type.
    """
    given = {name: value for name, value in record.items() if not name.startswith("_")}
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        listed = ", ".join(f"{name}={given[name]!r}" for name in unknown)
        raise ValueError(f"unknown settings of {record['_class_name']}: {listed}")
    for name, value in given.items():
        _check_type(name, value, defaults[name])
    missing = {k: None for k, default in defaults.items() if isinstance(default, Absent)}
    chosen = {k: default.default for k, default in defaults.items() if isinstance(default, Either)}
    return defaults | missing | chosen | given


@dataclass(frozen=True)
class Absent:
    """The default of a setting that is None, or else has the type of the example."""

    example: Any


@dataclass(frozen=True)
class Either:
    """A default, of a setting that may also have the type of the example."""

    default: Any
    example: Any


def _check_type(name: str, value, default) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, Either):
        other = isinstance(value, type(default.example))
        return _check_type(name, value, default.example if other else default.default)
    if isinstance(default, Absent):
        if value is not None:
            _check_type(name, value, default.example)
        return
    if default is None:
        fits = value is None or isinstance(value, tuple) or (isinstance(value, int) and is_number)
    elif isinstance(default, bool | str | tuple):
        fits = isinstance(value, type(default))
    else:
        fits = is_number and (isinstance(default, float) or isinstance(value, int))
    if not fits:
        raise ValueError(f"{name}={value!r}: must have the type of the default, {default!r}")
    if isinstance(default, int) and is_number and value < 1:
        raise ValueError(f"{name}={value!r}: must be at least 1")


# --- names and axes -----------------------------------------------------------------------------


def tensor_name(path: Path_) -> str:
    """Returns the published name of a parameter: ("a.0", "kernel") is "a.0.weight"."""
    return ".".join([*path[:-1], _LEAVES.get(path[-1], path[-1])])


def tensor_shape(path: Path_, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the published shape of a parameter."""
    if path[-1] == "kernel":
        return (shape[-1], shape[-2], *shape[:-2])
    return (shape[-1], *shape[:-1]) if path[-1] == "gamma" else shape


def from_tensor(path: Path_, tensor: np.ndarray) -> np.ndarray:
    """Returns a published tensor with the axes of the parameter."""
    if path[-1] == "kernel":
        return tensor.transpose(*range(2, tensor.ndim), 1, 0)
    return np.moveaxis(tensor, 0, -1) if path[-1] == "gamma" else tensor


def to_tensor(path: Path_, parameter: np.ndarray) -> np.ndarray:
    """Returns a parameter with the axes of the published tensor: the inverse of `from_tensor`."""
    if path[-1] == "kernel":
        return parameter.transpose(-1, -2, *range(parameter.ndim - 2))
    return np.moveaxis(parameter, -1, 0) if path[-1] == "gamma" else parameter


def list_paths(params) -> dict[Path_, Any]:
    """Returns path -> leaf of nested dictionaries."""
    return {
        tuple(entry.key for entry in path): leaf for path, leaf in jax.tree.leaves_with_path(params)
    }


# --- files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """Location of a published tensor; a leaf of the trees of `find_params`."""

    file: Path
    name: str
    shape: tuple[int, ...]
    kind: str


def find_tensors(folder: Path) -> dict[str, Tensor]:
    """Returns the tensors of a folder by their names, from the headers of its files.

    Raises:
      ValueError: if a tensor is found twice or not where an index has it, if a file is damaged, or
        if the extra is missing; and as `find_files`.
    """
    files = find_files(folder)
    found: dict[str, Tensor] = {}
    for path in files.paths:
        for tensor in _read_header(path):
            other = found.setdefault(tensor.name, tensor)
            if other is not tensor:
                raise ValueError(
                    f"{folder}: the tensor {tensor.name} is both in {other.file.name} and in "
                    f"{path.name}: remove the file that is not meant"
                )
    files.check_index({name: tensor.file.name for name, tensor in found.items()})
    return found


def _read_header(path: Path) -> list[Tensor]:
    with _open(path) as file:
        return [
            Tensor(
                file=path,
                name=name,
                shape=tuple(file.get_slice(name).get_shape()),
                kind=file.get_slice(name).get_dtype(),
            )
            for name in file.keys()  # noqa: SIM118 (no mapping)
        ]


def find_params(folder: Path, shapes, rename: Callable[[str], str] = str) -> Any:
    """Finds parameters, of which none may be missing, misshapen or surplus.

    Args:
      folder: with the files of weights.
      shapes: tree of the parameters, whose leaves have a `shape` and a `dtype`.
      rename: name of a tensor in the files -> the name that is meant.

    Returns:
      The tree, with the Tensor of each parameter.

    Raises:
      ValueError: with the list of missing, extra and misshapen tensors, or for a damaged file.
    """
    wanted = list_paths(shapes)
    found = _rename(folder, find_tensors(folder), rename)
    problems = _compare(wanted, found)
    if problems:
        raise ValueError(f"{folder}: the weights do not fit config.json: {problems}")
    leaves = [found[tensor_name(path)] for path in wanted]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _rename(folder: Path, found: dict[str, Tensor], rename: Callable[[str], str]):
    """Returns the tensors by the names that are meant."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if rename(name) in renamed:
            raise ValueError(
                f"{folder}: {name} and {renamed[rename(name)].name} are the same tensor"
            )
        renamed[rename(name)] = tensor
    return renamed


def read_params(tensors) -> Any:
    """Reads the tensors that `find_params` found.

    Returns:
      The tree, float32. Tensors published as float64 stay float64 if JAX has it enabled.

    Raises:
      ValueError: for a damaged file.
    """
    return jax.tree.unflatten(
        jax.tree.structure(tensors), [_read(*item) for item in list_paths(tensors).items()]
    )


def _compare(wanted: dict[Path_, Any], found: dict[str, Tensor]) -> str:
    shapes = {tensor_name(path): tensor_shape(path, leaf.shape) for path, leaf in wanted.items()}
    misshapen = [
        f"{name} is {found[name].shape} and should be {shape}"
        for name, shape in shapes.items()
        if name in found and found[name].shape != shape
    ]
    counts = {
        tensor_name(p) for p, leaf in wanted.items() if jnp.issubdtype(leaf.dtype, np.integer)
    }
    other = [
        f"{name} ({tensor.kind})"
        for name, tensor in found.items()
        if tensor.kind not in (_INTEGERS if name in counts else _TYPES)
    ]
    parts = {
        "missing": sorted(shapes.keys() - found.keys()),
        "extra": sorted(found.keys() - shapes.keys()),
        "misshapen": misshapen,
        "of another type": other,
    }
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in parts.items() if names)


def _read(path: Path_, tensor: Tensor) -> jax.Array:
    # Open the file for each tensor: its mapped pages count as memory until it is closed.
    with _open(tensor.file) as file:
        values = np.asarray(file.get_tensor(tensor.name))
        dtype = jax.dtypes.canonicalize_dtype(np.float64 if tensor.kind == "F64" else np.float32)
        return _convert(path, values, dtype)


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a single file by their names.

    Raises:
      ValueError: for a damaged file, or if the extra is missing.
    """
    with _open(path) as file:
        return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def adopt_tensors(path: Path, shapes, arrays: dict[str, np.ndarray]) -> Any:
    """Returns tensors that are in memory as parameters.

    Args:
      path: of the file, for error messages.
      shapes: tree of the parameters, whose leaves have a `shape` and a `dtype`.
      arrays: name of a tensor -> its values.

    Returns:
      The tree, float32.

    Raises:
      ValueError: with the list of missing, extra and misshapen tensors.
    """
    wanted = list_paths(shapes)
    found = {
        name: Tensor(
            file=path, name=name, shape=a.shape, kind=_KINDS.get(str(a.dtype), str(a.dtype))
        )
        for name, a in arrays.items()
    }
    problems = _compare(wanted, found)
    if problems:
        raise ValueError(f"{path}: the tensors do not fit the network: {problems}")
    leaves = [_convert(p, arrays[tensor_name(p)], np.dtype(np.float32)) for p in wanted]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _convert(path: Path_, values: np.ndarray, dtype) -> jax.Array:
    # Not np.ascontiguousarray, which adds an axis to a scalar.
    parameter = np.asarray(from_tensor(path, values), dtype, order="C")
    return jax.block_until_ready(jnp.array(parameter))


def _open(path: Path):
    safetensors = require_extra("safetensors", "pretrained", "reading published weights")
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (OSError, safetensors.SafetensorError) as error:
        refuse_pointer(path)
        raise ValueError(f"{path} cannot be read: {error}") from error


def write_folder(folder: Path, config: dict[str, Any], params, *, overwrite: bool) -> None:
    """Writes config.json and the parameters; each file appears whole or not at all.

    Args:
      folder: created if missing.
      config: the settings and _class_name.
      params: tree of arrays.
      overwrite: whether files of these names are replaced.

    Raises:
      ValueError: if the folder holds shards or an index, which would contradict the new file, or
        files of these names and `overwrite` is not set.
    """
    save = require_extra("safetensors.numpy", "pretrained", "writing published weights").save_file
    folder.mkdir(parents=True, exist_ok=True)
    refuse_other_weights(folder)
    for path in (folder / WEIGHTS, folder / CONFIG):
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists: write to another folder, or give overwrite=True")
    tensors = {
        tensor_name(path): np.asarray(to_tensor(path, np.asarray(leaf)), order="C")
        for path, leaf in list_paths(params).items()
    }
    with replacing(folder / WEIGHTS) as part:
        save(tensors, part, metadata={"format": "pt"})
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
