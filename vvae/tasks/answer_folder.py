"""Where the answers about new videos lie: a folder for each place that videos come from."""

import itertools
import json
import os
from pathlib import Path

from vvae.files import write_text

SOURCE_FILE = "source.json"


def open_folder(answers: str | os.PathLike, data_path: str | os.PathLike) -> Path:
    """Returns the folder of the answers about the videos at a path; made if missing.

    It has the path's last name and says in source.json which path that is. Videos of another path
    with the same last name have NAME-2, NAME-3, ...; so have those of any path where something lies
    in NAME whose path is not known.

    Args:
      answers: eval/ of a run.
      data_path: a folder of videos, or one video.
    """
    source = Path(data_path).resolve()
    name = source.name or "videos"
    for number in itertools.count(1):
        folder = Path(answers) / (name if number == 1 else f"{name}-{number}")
        if _is_free(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # As ASCII: names that are not UTF-8 reach us with surrogates.
            write_text(folder / SOURCE_FILE, json.dumps({"data_path": str(source)}) + "\n")
            return folder
        if read_source(folder) == source:
            return folder


def read_source(folder: Path) -> Path | None:
    """Returns where the videos lie that the answers in a folder are about, None if not known."""
    try:
        return Path(json.loads((folder / SOURCE_FILE).read_text())["data_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
