"""Packages that some features need alone, and that come with the extras of pyproject.toml."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def require_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports a module that comes with an extra.

    Args:
      module: name of the module, such as "pyarrow.parquet".
      extra: name of the extra in pyproject.toml.
      purpose: what needs the module; the message of the error begins with it.

    Raises:
      ValueError: if the module cannot be imported; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(_describe(module, extra, purpose, error)) from error


def locate_extra(package: str, extra: str, purpose: str) -> Path:
    """Returns the folder of a package that comes with an extra; its code is not run.

    Takes what `require_extra` takes.

    Raises:
      ValueError: if the package is not installed; the message says what to install.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ValueError(_describe(package, extra, purpose, "not installed"))
    return Path(spec.origin).parent


def _describe(module: str, extra: str, purpose: str, reason) -> str:
    return f"{purpose} needs {module} ({reason}): pip install 'vvae[{extra}]'"
