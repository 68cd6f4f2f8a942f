"""Command lines: settings from the arguments, and errors of one line."""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import io
import os
import re
import signal
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from vvae.config import Config
from vvae.processes import Group

USAGE_ERROR = 2
INTERRUPTED = 130
NUMERICAL_ERROR = 3
TEMPORARY_FAILURE = 75  # EX_TEMPFAIL of sysexits.h: run it again
_ROOT = Path(__file__).resolve().parent.parent
_PLAIN_WORDS = {"true": "True", "false": "False", "none": "None"}
PROCESS_OPTIONS = tuple(
    f"--parallel.{name}" for name in ("coordinator", "num_processes", "process_id", "timeout")
)


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a run of several processes; they are of a start, not of the run."""
    help_texts = (
        ("HOST:PORT", "of the first of several processes, or auto: docs/distributed.md"),
        ("N", "how many processes there are"),
        ("K", "which of them this one is, from 0"),
        ("SECONDS", "without a sign of one process after which all end (60)"),
    )
    for name, (metavar, text) in zip(PROCESS_OPTIONS, help_texts):
        spellings = (name, name.replace("_", "-")) if "_" in name else (name,)
        kind = str if name.endswith("coordinator") else int
        parser.add_argument(*spellings, dest=name, type=kind, metavar=metavar, help=text)


def read_group(options: argparse.Namespace) -> Group | None:
    """Returns what `add_process_options` has read; None for a run of one process.

    Raises:
      ValueError: for an option without --parallel.coordinator, or values that do not fit.
    """
    coordinator, num_processes, process_id, timeout = (
        getattr(options, name) for name in PROCESS_OPTIONS
    )
    if coordinator is None:
        for name in PROCESS_OPTIONS[1:]:
            if getattr(options, name) is not None:
                raise ValueError(f"{name} needs --parallel.coordinator HOST:PORT")
        return None
    given = {} if timeout is None else {"timeout": timeout}
    return Group(coordinator, num_processes, process_id, **given)


def parse_settings(
    arguments: list[str], default: Config, description: str = "", options: Sequence[str] = ()
) -> Config:
    """Returns `default` with the settings that the arguments change.

    Args:
      arguments: `--section.name value ...`; hyphens and underscores are the same.
      default: where all other settings come from.
      description: shown by --help, before the list of settings.
      options: names of the program's other options, which a misspelt one may stand for.

    Raises:
      ValueError: for an unknown setting (with the closest one), a value of another type or out of
        range; in one line.
      SystemExit: with status 0, after --help.
    """
    for word in arguments:
        if word.startswith("--") and difflib.get_close_matches(word, options, n=1, cutoff=0.8):
            raise ValueError(describe_unknown("option", word, options))
    arguments = _spell_values(arguments)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                Config,
                args=arguments,
                default=default,
                description=description,
                config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_one_line(complaint.getvalue())) from None


def _spell_values(arguments: list[str]) -> list[str]:
    """Returns the arguments with true, false and none as Python has them, where they mean that."""
    choices, option, spelt = _find_choices(Config), "", []
    for word in arguments:
        option = word if word.startswith("--") else option
        is_choice = word in choices.get(option.replace("-", "_"), ())
        spelt.append(word if is_choice else _PLAIN_WORDS.get(word, word))
    return spelt


def _find_choices(section: type, prefix: str = "__") -> dict[str, tuple]:
    """Returns option -> its words, of every setting that is one of several; with underscores."""
    found = {}
    for name, hint in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(hint):
            found |= _find_choices(hint, f"{prefix}{name}.")
        elif typing.get_origin(hint) is typing.Literal:
            found[prefix + name] = typing.get_args(hint)
    return found


def run_main(main: Callable[[list[str]], int], end: Callable[[int], None] = sys.exit) -> None:
    """Runs a program: its status is the exit status; what the user can mend is one line, status 2.

    Ctrl-C where nothing can be saved is one line and status 130; SIGTERM is status 75, by which a
    scheduler knows that the same command goes on.

    An error that vvae raised on purpose (ValueError, MemoryError, or OSError of a file) is printed
    as one line; a FloatingPointError (a loss that is not finite) is one line and status 3; any
    other error is a fault of the program and keeps its traceback, as every one does where the
    environment sets VVAE_TRACEBACK. `end` is called with the status.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TEMPORARY_FAILURE))
    # Names of files that are no UTF-8 can be printed so, with escapes.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main(sys.argv[1:])
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("VVAE_TRACEBACK") or not _is_for_user(error):
            raise
        advice = "; make room there: the same command goes on" if _is_full(error) else ""
        print(f"error: {' '.join(str(error).split())}{advice}", file=sys.stderr)
        status = USAGE_ERROR
    except KeyboardInterrupt:
        print("stopped before the next checkpoint; the same command starts again", file=sys.stderr)
        status = INTERRUPTED
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        status = NUMERICAL_ERROR
    end(status)


def describe_unknown(kind: str, word: str, known) -> str:
    """Returns "no KIND 'WORD', did you mean ...?", with the closest of the known words."""
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
    return f"no {kind} {word!r}; {hint}"


def _is_for_user(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.filename is not None or _is_full(error)
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).resolve().is_relative_to(_ROOT)


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _one_line(box: str) -> str:
    """Returns the message of tyro's framed text, without frame, rule and pointer to --help."""
    text = re.sub(r"[╭╮╰╯│]", " ", box)
    lines = [re.sub(r"─+", " ", line).strip() for line in text.splitlines()[1:]]
    message = " ".join(line for line in lines if line)
    message = message.split("For full helptext")[0].split("Argument helptext")[0]
    message = re.sub(r"Error parsing Config: ", "", message)
    return " ".join(message.split())
