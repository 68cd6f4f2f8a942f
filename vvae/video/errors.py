"""Errors that name the video."""

import os


class VideoError(ValueError):
    """A video that cannot be read or written; the message starts with its path."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self):
        # Exception pickles its one-line message; worker processes need both arguments back.
        return type(self), (self.path, self.reason)


class FrameTooLargeError(VideoError):
    """Frames of more pixels than the reader was allowed."""


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
