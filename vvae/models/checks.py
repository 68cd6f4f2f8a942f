"""Checks of settings, shared by the models."""

from collections.abc import Sequence


def check_choice(name: str, value, choices: Sequence) -> None:
    """Raises ValueError, naming the setting and the choices, if value is not one of them."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(str, choices))}")
