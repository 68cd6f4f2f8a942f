"""The names of the commands, as the user has called them. Imports nothing of vvae."""

import sys
from pathlib import Path

_FILES = ("train.py", "evaluate.py")


def name_command(command: str) -> str:
    """Returns what starts a command: `vvae train`, or `python train.py` where files are called.

    Args:
      command: "train", or "evaluate" with or without a task: "evaluate classify".
    """
    if Path(sys.argv[0]).name not in _FILES:
        return f"vvae {command.removeprefix('evaluate ')}"
    file, space, task = command.partition(" ")
    return f"python {file}.py{space}{task}"
