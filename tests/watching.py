"""Names that appear or change in a folder, none of them missed: inotify of Linux."""

import ctypes
import os
import select
import struct

import pytest

_IN_MODIFY, _IN_CREATE = 0x2, 0x100
_HEADER = struct.Struct("iIII")
_SECONDS = 0.2


class Watch:
    """A context manager: a folder from here on."""

    def __init__(self, folder):
        """Watches an existing folder; skips the test where the system has no inotify."""
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init"):
            pytest.skip("needs inotify")
        self._file = libc.inotify_init()
        added = libc.inotify_add_watch(self._file, os.fsencode(folder), _IN_MODIFY | _IN_CREATE)
        if self._file < 0 or added < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {folder}")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        os.close(self._file)

    def names(self, is_alive):
        """Yields names as they are made or written to; ends when nothing more can come."""
        while True:
            last = not is_alive()
            if select.select([self._file], [], [], _SECONDS)[0]:
                data, start = os.read(self._file, 2**16), 0
                while start < len(data):
                    size = _HEADER.unpack_from(data, start)[3]
                    start += _HEADER.size
                    yield os.fsdecode(data[start : start + size].rstrip(b"\0"))
                    start += size
            elif last:
                return
