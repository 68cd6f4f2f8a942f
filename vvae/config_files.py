"""Settings in files: Python files that define them, JSON that records them."""

import ast
import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from vvae.cli_help import format_short_list
from vvae.config import Config
from vvae.config_checks import require

# Other names of configurations: data sets that they were measured on, and further jobs.
ALIASES = {
    "causal_small": "compression",
    "gestures": "actions",
    "latents": "compression",
    "ped2": "surveillance",
}
# What most people come for; the other configurations are listed after these.
_JOBS = ("default", "actions", "surveillance", "compression", "clusters", "published")


def find_configs() -> Path:
    """Returns the folder of the configurations that come with vvae.

    A wheel has it inside the package; a checkout has it beside.
    """
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def list_configs() -> dict[str, str]:
    """Returns name -> what it is for, of the configurations that come with vvae."""
    files = sorted(find_configs().glob("[!_]*.py"))
    return {path.stem: _read_summary(path) for path in files}


def _read_summary(path: Path) -> str:
    """Returns the first line of the docstring of a Python file."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def load_config_file(name, *kinds: type) -> Any:
    """Runs `get_config()` of a configuration.

    Args:
      name: a Python file, which is the user's own code and is executed; or the name of a
        configuration that comes with vvae, such as actions, which may also be spelt
        configs/actions.py in any folder.
      kinds: of settings that are taken; Config by default.

    Raises:
      ValueError: if there is no such file or name (with the names as a note), it has no
        get_config() that returns settings of these kinds, or a setting has a value of another type.
    """
    path = _find_config(Path(name))
    scope: dict[str, Any] = {"__name__": f"configuration_{path.stem}", "__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
    if not callable(scope.get("get_config")):
        raise ValueError(f"{path} does not define get_config()")
    config = scope["get_config"]()
    kinds = kinds or (Config,)
    if not isinstance(config, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"get_config() of {path} returned {type(config).__name__}, not {wanted}")
    try:
        # This checks types and choices, which Python does not.
        return from_dict(to_dict(config), type(config))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _find_config(path: Path) -> Path:
    if path.is_file():
        return path
    if path.parent.name in ("", "configs") and path.suffix in ("", ".py"):
        shipped = find_configs() / f"{ALIASES.get(path.stem, path.stem)}.py"
        if shipped.is_file():
            return shipped
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a configuration: {_explain_folder(path)}")
    error = ValueError(f"no configuration {path}; give the path of a file, or one of these names")
    error.add_note(format_configs())
    raise error


def _explain_folder(path: Path) -> str:
    if (path / "config.json").is_file():
        return f"a run is continued with --workdir {path}"
    return f"videos are given with --data.path {path}"


def format_configs() -> str:
    """Formats the configurations that come with vvae, a line for each; jobs come first."""
    known = list_configs()
    others = {name: [alias for alias in ALIASES if ALIASES[alias] == name] for name in known}
    rows = []
    for name in (*_JOBS, *(name for name in known if name not in _JOBS)):
        also = f" (or: {', '.join(others[name])})" if others[name] else ""
        rows.append((name, f"{known[name]}{also}"))
    return format_short_list(rows, width=16)


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
