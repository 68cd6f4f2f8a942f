"""Runs train.py and evaluate.py as a command line does: in their own process, or in this one."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from compiling import xla_flags

from vvae import cli
from vvae.config import Config

ROOT = Path(__file__).resolve().parents[1]


def parse_settings(arguments, default: Config) -> Config:
    """Returns `default` with the settings that `--section.name value ...` changes."""
    words, options = cli.divide(arguments, cli.count_values([Config], of_bool=1))
    if words:
        raise ValueError(f"{words[0]!r} belongs to no option")
    return cli.parse_options([Config], options, default)[0]


class Result(NamedTuple):
    """What a program leaves behind."""

    returncode: int
    stdout: str
    stderr: str


def run_in_process(program, *arguments) -> Result:
    """Runs a program in this process, on its devices: without the seconds that imports take.

    Nothing but the interpreter's own start and end is left out.
    """
    main = importlib.import_module(program.removesuffix(".py")).main
    statuses, streams = [], [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with (
            mock.patch.object(sys, "argv", [program, *map(str, arguments)]),
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
        ):
            cli.run_main(main, end=statuses.append)
    finally:
        signal.signal(signal.SIGTERM, handler)
    printed = []
    for stream in streams:
        stream.flush()
        printed.append(stream.buffer.getvalue().decode())
    return Result(statuses[0], *printed)


def start(program, *arguments, **options) -> subprocess.Popen:
    """Starts a program in a process of its own with one CPU device."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": xla_flags()},
        **options,
    )
