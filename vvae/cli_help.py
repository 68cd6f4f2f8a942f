"""The text of --help: options with their meanings, which stand below the fields of dataclasses."""

import ast
import dataclasses
import functools
import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

_WIDEST = 100
_NAME_WIDTH = 28  # column of the meanings in a short list
_KINDS = {
    int: ("N", "a whole number", "whole numbers"),
    float: ("X", "a number", "numbers"),
    bool: ("true|false", "true or false", "true or false"),
    str: ("WORD", "a word", "words"),
    Path: ("PATH", "a path", "paths"),
    types.NoneType: ("none", "none", "none"),
}
# What the values of these options are, by the last part of their names.
_METAVARS = {
    "path": "DIR",
    "workdir": "RUN",
    "init_from": "RUN",
    "pretrained": "DIR",
    "cache_dir": "DIR",
    "coordinator": "HOST:PORT",
    "timeout": "SECONDS",
    "profile": "FIRST:LAST",
    "query": "VIDEO",
    "unwanted": "CLASS",
    "marks": "FILE.csv",
    "out": "PATH",
}


# --- one option ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Option:
    """An option: its name, type, meaning and default."""

    name: str
    kind: Any
    meaning: str
    default: Any


def describe_option(name: str, parts: Iterable[type]) -> str:
    """Returns what an option does, in the middle of a sentence; "" for an unknown option."""
    for option in _list_options(parts):
        if option.name == name:
            meaning = option.meaning.partition(". ")[0].removesuffix(".")
            is_word = meaning[1:2].islower() or meaning[1:2] == " "
            return meaning[:1].lower() + meaning[1:] if is_word else meaning
    return ""


def describe_type(kind: Any) -> str:
    """Returns in words what the values of a type are, such as "a whole number or none"."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, options))}"
    if origin is tuple:
        is_open = options[1:] == (...,)
        count = "" if is_open else f"{len(options)} "
        if typing.get_origin(options[0]) is Literal:
            return f"some of {', '.join(map(str, typing.get_args(options[0])))}"
        return f"{count}{_KINDS[options[0]][2]}"
    if _is_union(kind):
        return " or ".join(describe_type(option) for option in options)
    return _KINDS[kind][1]


def _list_options(parts: Iterable[type], prefix: str = "--") -> list[_Option]:
    """Lists the options of dataclasses; fields without a default are positional arguments."""
    found = []
    for part in parts:
        hints, meanings = typing.get_type_hints(part), _read_meanings(part)
        for field in dataclasses.fields(part):
            name, hint = prefix + field.name, hints[field.name]
            if dataclasses.is_dataclass(hint):
                found += _list_options([typing.cast(type, hint)], f"{name}.")
            elif field.default is not dataclasses.MISSING:
                found.append(_Option(name, hint, meanings.get(field.name, ""), field.default))
    return found


@functools.cache
def _read_meanings(part: type) -> dict[str, str]:
    """Returns field -> the string below it, for a dataclass and the classes that it extends."""
    found: dict[str, str] = {}
    for cls in reversed(part.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = getattr(getattr(below, "value", None), "value", None)
                if isinstance(below, ast.Expr) and isinstance(text, str):
                    # The command line spells it none.
                    found[field.target.id] = re.sub(r"\bNone\b", "none", " ".join(text.split()))
    return found


# --- a page --------------------------------------------------------------------------------------


def format_options(parts: Sequence[type], default: Any = None) -> str:
    """Formats all options of dataclasses, those of a section under its title.

    Args:
      parts: the dataclasses.
      default: an instance of the last part, whose values are shown as the defaults, and whose
        options take the word none; None for the options of a command.
    """
    sections: dict[str, list[str]] = {}
    for option in _list_options(parts):
        option = _set_default(option, default)
        if default is None:
            option = _refuse_none(option)
        lines = sections.setdefault(option.name.removeprefix("--").rpartition(".")[0], [])
        text = f"{option.meaning}{_format_default(option)}"
        lines += [f"  {option.name} {_name_values(option)}".rstrip(), *_wrap(text, " " * 6)]
    titled = ["\n".join([f"{name or 'options'}:", *lines]) for name, lines in sections.items()]
    return "\n\n".join(titled)


def _refuse_none(option: _Option) -> _Option:
    """Returns an option of a command, which is left out where a setting is given as none."""
    kinds = [kind for kind in typing.get_args(option.kind) if kind is not types.NoneType]
    return dataclasses.replace(option, kind=kinds[0]) if _is_union(option.kind) else option


def format_short_list(rows: Iterable[tuple[str, str]], width: int = _NAME_WIDTH) -> str:
    """Formats names beside their meanings, for a few rows."""
    lines = []
    for name, meaning in rows:
        first, *others = _wrap(meaning, " " * width) or [""]
        head = f"  {name} "
        lines += [head.ljust(width) + first.lstrip()] if len(head) <= width else [head, first]
        lines += others
    return "\n".join(lines)


def select_options(names: Sequence[str], parts: Sequence[type], default: Any) -> list[tuple]:
    """Returns rows of `format_short_list` for some of the options, in the order of the names."""
    known = {option.name: option for option in _list_options(parts)}
    rows = []
    for name in names:
        option = _set_default(known[name], default)
        meaning = f"{option.meaning.removesuffix('.')}{_format_default(option)}"
        rows.append((f"{name} {_name_values(option)}", meaning))
    return rows


def _set_default(option: _Option, default: Any) -> _Option:
    """Returns the option with the default of an instance of its dataclass, if it belongs there."""
    value = default
    for name in option.name.removeprefix("--").split("."):
        value = getattr(value, name, dataclasses.MISSING)
    if value is dataclasses.MISSING:
        return option
    return dataclasses.replace(option, default=value)


def _name_values(option: _Option) -> str:
    last = option.name.rpartition(".")[2].removeprefix("--")
    kinds = typing.get_args(option.kind) if _is_union(option.kind) else (option.kind,)
    if last in _METAVARS:
        return _METAVARS[last]
    if kinds[0] is bool and option.default is False and "." not in option.name:
        return ""  # an option without a value
    return "|".join(_name_kind(kind) for kind in kinds)


def _name_kind(kind: Any) -> str:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join(map(str, options))
    if origin is tuple:
        return f"{_name_kind(options[0])} ..."
    return _KINDS[kind][0]


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union)


def _format_default(option: _Option) -> str:
    value = option.default
    if value is None or (value is False and not _name_values(option)) or value == ():
        return ""
    words = value if isinstance(value, tuple) else (value,)
    text = " ".join(str(word).lower() if isinstance(word, bool) else f"{word}" for word in words)
    return f" [{text}]"


def _wrap(text: str, indent: str) -> list[str]:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent)
