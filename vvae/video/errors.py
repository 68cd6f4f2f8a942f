"""Errors that name the video."""

import os


class VideoError(ValueError):
    """A video that cannot be read or written; the message starts with its path."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self):
        # By default, the message alone would be pickled; worker processes return both arguments.
        return type(self), (self.path, self.reason)


class FrameTooLargeError(VideoError):
    """The frames have more pixels than the reader allows."""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message; the type too, where the message needs it."""
    name = type(error).__name__
    if not str(error):
        return name
    speaks = isinstance(error, (OSError, ValueError)) or type(error) is SyntaxError
    message = str(error).splitlines()[0]
    return message if speaks else f"{name}: {message}"
