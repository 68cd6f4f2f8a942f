"""Names of a package that are imported when they are first used, so that importing it is cheap."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, homes: Mapping[str, str], rooms: Mapping[str, str] | None = None
) -> tuple[Callable, Callable]:
    """Returns the functions `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
      package: its name.
      homes: name -> the module that holds it.
      rooms: name -> the module that it stands for.
    """

    rooms = rooms or {}

    def get(name: str) -> Any:
        if name in rooms:
            return importlib.import_module(rooms[name])
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted([*homes, *rooms])
