"""Checks of the settings of a model."""

from typing import Any


def check_choice(name: str, value: Any, choices: tuple) -> None:
    """Raises ValueError, naming the setting and the choices, if a value is not one of them."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(str, choices))}")
