"""Checks of settings that several models share."""

from collections.abc import Sequence


def check_choice(name: str, value, choices: Sequence) -> None:
    """Raises ValueError, which names the setting and the choices, if value is not among them."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(str, choices))}")
