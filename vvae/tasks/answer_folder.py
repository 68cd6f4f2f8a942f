"""Folders for answers about new videos: one for each path that videos come from."""

import itertools
import json
import os
from pathlib import Path

from vvae.files import write_text

SOURCE_FILE = "source.json"


def open_folder(answers: str | os.PathLike, data_path: str | os.PathLike) -> Path:
    """Returns the folder of the answers about the videos at a path; makes it if it is missing.

    It is named after the last part of the path, and source.json in it records the path. If NAME
    belongs to another path, or holds files of an unknown origin, the folder is NAME-2, NAME-3, ...

    Args:
      answers: the folder eval of a run.
      data_path: a folder of videos, or one video.
    """
    source = Path(data_path).resolve()
    name = source.name or "videos"
    for number in itertools.count(1):
        folder = Path(answers) / (name if number == 1 else f"{name}-{number}")
        if _is_free(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # ASCII, because names that are not UTF-8 contain surrogates.
            write_text(folder / SOURCE_FILE, json.dumps({"data_path": str(source)}) + "\n")
            return folder
        if read_source(folder) == source:
            return folder


def read_source(folder: Path) -> Path | None:
    """Returns the path of the videos that a folder of answers is about; None if it is unknown."""
    try:
        return Path(json.loads((folder / SOURCE_FILE).read_text())["data_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
