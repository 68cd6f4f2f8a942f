"""Files that are whole or not there: each is written under another name, then renamed."""

import contextlib
import errno
import glob
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

TEMPORARY_SUFFIX = ".tmp"
_PARSES = 20


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def map_array(path: str | os.PathLike) -> "np.ndarray":
    """Maps a .npy array into memory, read-only; raises whatever NumPy raises.

    NumPy lets Python's parser read the header. That of Python 3.11 counts its depth for all threads
    together and may fail with a SystemError while another thread parses (python/cpython#106905):
    then it is asked again.
    """
    import numpy as np

    for _ in range(_PARSES):
        with contextlib.suppress(SystemError):
            return np.load(path, mmap_mode="r", allow_pickle=False)
    return np.load(path, mmap_mode="r", allow_pickle=False)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path in the folder of `path`, which replaces it when the body succeeds.

    A reader sees the old file or the new one, never a part. If the body fails, the temporary file
    is removed; if the process is killed, it stays, hidden and with the suffix `.tmp`. Every call
    has a temporary path of its own, so that the last of several writers wins. A symbolic link
    stays, and the file that it points to is replaced. A device or a pipe is written to directly.

    Raises:
      FileNotFoundError: if the folder does not exist.
      IsADirectoryError: if `path` is a folder.
      OSError: of the body; where the temporary file or a full disk is to blame, it names `path`.
    """
    path = Path(path)
    target = path.resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(path.parent))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "A folder has the name of the file", str(path))
    is_special = path.exists() and not path.is_file()
    part = path if is_special else _make_temporary_path(target)
    try:
        yield part
        if not is_special:
            part.replace(target)
    except OSError as error:
        # A write, unlike an open, fails without the name of the file.
        is_ours = is_disk_full(error) if error.filename is None else _names(error, part)
        if not is_ours:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if not is_special:
            with contextlib.suppress(OSError):
                part.unlink()


def is_same_file(first: str | os.PathLike, second: str | os.PathLike) -> bool:
    """Whether two paths name the same file or folder, also through links or other spellings."""
    try:
        return os.path.samefile(first, second)
    except OSError:  # one of them does not exist
        return os.path.realpath(first) == os.path.realpath(second)


def refuse_same(output: str | os.PathLike, inputs: Iterable[str | os.PathLike]) -> None:
    """Raises ValueError if a file to write is one of the inputs."""
    for path in inputs:
        if is_same_file(output, path):
            raise ValueError(
                f"the output {output} is the same file as the input {path}, which would be lost: "
                "give the output another name"
            )


def check_output(
    output: str | os.PathLike,
    *,
    inputs: Iterable[str | os.PathLike],
    suffixes: Sequence[str],
    overwrite: bool,
) -> None:
    """Checks that a file may and can be written. Call it before the work for the file begins.

    Args:
      output: the file to write. A device or a pipe is accepted under any name.
      inputs: the files that the work reads.
      suffixes: the suffixes that the file may have, in lower case.
      overwrite: whether the file may exist.

    Raises:
      ValueError: if the output is one of the inputs, is a folder, has another suffix, or exists; if
        its folder is missing or read-only.
    """
    refuse_same(output, inputs)
    path = Path(output)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder: name the file to write, {path / 'NAME'}{suffixes[0]}"
        )
    if path.exists() and not path.is_file():
        return
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{path}: cannot write {path.suffix!r}; use {' or '.join(suffixes)} for the output"
        )
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ValueError(f"{path}: there is no folder {folder}: make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: the folder {folder} may not be written to: choose another one")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: give another name, or --overwrite to replace it")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; raises as `replacing`."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file, whole or not at all; raises as `replacing`."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # Names of files that are not UTF-8 have halves of surrogate pairs, which JSON can escape.
    text = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)
    write_text(path, text)


def allocate(path: str | os.PathLike) -> None:
    """Reserves the disk space of a file of holes, where the system supports it.

    Without it, a full disk kills a process that writes to the file through a memory map.

    Raises:
      OSError: naming the file, if the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def remove_leftovers(path: str | os.PathLike) -> None:
    """Removes what killed processes left of writing `path`. No other process may be writing it."""
    path = Path(path)
    for part in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY_SUFFIX}"):
        part.unlink(missing_ok=True)


def _make_temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")


def _names(error: OSError, path: Path) -> bool:
    return os.fspath(error.filename) == str(path)
