"""Names of a package that are imported when they are first used, so that importing it is cheap."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, homes: Mapping[str, str]) -> tuple[Callable, Callable]:
    """Returns the functions `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
      package: its name.
      homes: name -> the module that holds it; a module of that very name stands for itself.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(homes[name])
        return module if homes[name].endswith(f".{name}") else getattr(module, name)

    return get, lambda: sorted(homes)
