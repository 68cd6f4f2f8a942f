"""What the tutorials are written with: commands, pictures and settings."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# (file, caption) of the pictures that were shown since the list was last emptied.
shown: list[tuple[Path, str]] = []


def read_settings(**defaults: str | int) -> argparse.Namespace:
    """Reads --NAME VALUE for each default, and moves to the folder --folder.

    Args:
      **defaults: name -> value; a number makes the option a number.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True, help="where the tutorial works")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    settings = parser.parse_args()
    for name, value in defaults.items():
        if isinstance(value, str):
            setattr(settings, name, str(Path(getattr(settings, name)).resolve()))
    settings.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(settings.folder)
    return settings


def sh(command: str, keep: str = "", last: int = 0) -> None:
    """Runs a command and prints its output.

    Args:
      command: as it is typed.
      keep: regular expression; only lines with a match are printed, the others become "...".
      last: only so many lines at the end are printed, if not 0.

    Raises:
      RuntimeError: if the command fails, with what it has written.
    """
    words = shlex.split(command)
    if words[0] == "vvae":
        words = [sys.executable, "-m", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    print(_cut(done.stdout.strip("\n").split("\n"), keep, last))


def _cut(lines: list[str], keep: str, last: int) -> str:
    kept = [line if re.search(keep, line) else "..." for line in lines]
    if last and len(kept) > last:
        kept = ["...", *kept[-last:]]
    once = [line for n, line in enumerate(kept) if line != "..." or n == 0 or kept[n - 1] != "..."]
    return "\n".join(once)


def show(path: str | Path, caption: str) -> None:
    """Shows a picture with a caption on the page of the tutorial.

    Raises:
      FileNotFoundError: if there is no such picture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such picture")
    shown.append((path.resolve(), caption))
    print(f"{path}: {caption}", file=sys.stderr)
