"""Settings in files: Python files that define them, JSON that records them."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from vvae.config import Config
from vvae.config_checks import require


def load_config_file(path) -> Config:
    """Runs `get_config()` of a Python file.

    Args:
      path: configs/NAME.py; the user's own code, which is executed.

    Raises:
      ValueError: if there is no such file, it has no get_config() that returns a Config, or a
        setting has a value of another type.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(p) for p in Path("configs").glob("*.py"))
        raise ValueError(f"no configuration {path}; there are {', '.join(known) or 'none'}")
    scope: dict[str, Any] = {"__name__": f"configuration_{path.stem}", "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    if not callable(scope.get("get_config")):
        raise ValueError(f"{path} does not define get_config()")
    config = scope["get_config"]()
    if not isinstance(config, Config):
        raise ValueError(f"get_config() of {path} returned {type(config).__name__}, not Config")
    try:
        return from_dict(to_dict(config))  # checks types and choices, which Python does not
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def to_dict(config) -> dict:
    """Returns the settings as nested dictionaries of JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict, cls: type = Config, prefix: str = ""):
    """Builds settings from nested dictionaries, as `to_dict` gives them.

    A setting that is missing takes its default.

    Raises:
      ValueError: for a setting that does not exist, naming it and the settings that do, and for a
        value of another type or out of range.
    """
    hints = typing.get_type_hints(cls)
    if not isinstance(values, dict):
        raise ValueError(f"{prefix.rstrip('.') or 'settings'}={values!r}: must be a JSON object")
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"no setting {prefix}{unknown[0]}; those of this version are "
            f"{', '.join(prefix + name for name in hints)}"
        )
    return cls(**{k: _from_json(v, hints[k], f"{prefix}{k}.") for k, v in values.items()})


def _from_json(value, hint, prefix: str):
    if dataclasses.is_dataclass(hint):
        return from_dict(value, hint, prefix)
    name = prefix.rstrip(".")
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        require(isinstance(value, list | tuple), name, value, "must be a list")
        hints = options[:1] * len(value) if options[1:] == (...,) else options
        require(len(hints) == len(value), name, value, f"must be {len(hints)} values")
        return tuple(_from_json(item, hint, prefix) for item, hint in zip(value, hints))
    if origin is Literal:
        require(value in options, name, value, f"must be one of {', '.join(options)}")
        return value
    kinds = options if origin is types.UnionType else (hint,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    words = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in kinds)
    require(type(value) in kinds, name, value, f"must be {words}")
    return value
