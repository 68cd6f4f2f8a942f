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


def sh(command: str, begin: str = "", end: str = "", keep: str = "") -> None:
    """Runs a command and prints its output.

    Args:
      command: as it is typed.
      begin: regular expression of the first line to print.
      end: of the last line to print, after the first.
      keep: of the lines to print between them.

    Raises:
      RuntimeError: if the command fails, with what it has written; if it prints no such lines.
    """
    words = shlex.split(command)
    if words[0] == "vvae":
        words = [sys.executable, "-m", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    lines = _cut(done.stdout.strip("\n").split("\n"), begin, end)
    kept = [line for line in lines if re.search(keep, line)]
    if not kept:
        raise RuntimeError(f"{command}: no line from {begin!r} to {end!r} with {keep!r}")
    print("\n".join(kept))


def _cut(lines: list[str], begin: str, end: str) -> list[str]:
    first = next((n for n, line in enumerate(lines) if re.search(begin, line)), len(lines))
    after = range(first + 1, len(lines)) if end else ()
    last = next((n for n in after if re.search(end, lines[n])), len(lines) - 1)
    return lines[first : last + 1]


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
