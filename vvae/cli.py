"""Command lines: tyro reads the options, and errors are printed as one line."""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import inspect
import io
import os
import signal
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from vvae.config import Config
from vvae.processes import Group

USAGE_ERROR = 2
INTERRUPTED = 130
NUMERICAL_ERROR = 3
TEMPORARY_FAILURE = 75  # EX_TEMPFAIL of sysexits.h: run it again
# Errors that are raised in these files are written for the user.
_PACKAGE = Path(__file__).resolve().parent
_PLAIN_WORDS = {bool: {"true": True, "false": False}, type(None): {"none": None}}
_REGISTRY = tyro.constructors.ConstructorRegistry()


@_REGISTRY.primitive_rule
def _read_plain_words(info) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Makes tyro accept true, false and none in addition to True, False and None."""
    if info.type not in _PLAIN_WORDS:
        return None
    plain = _PLAIN_WORDS[info.type]
    values = plain | {str(value): value for value in plain.values()}
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(plain) + "}",
        instance_from_str=lambda words: values[words[0]],
        is_instance=lambda value: isinstance(value, info.type),
        str_from_instance=lambda value: [str(value).lower()],
        choices=tuple(values),
    )


# --- several processes ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """The place of this process among several. These options are not settings of the run."""

    coordinator: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="HOST:PORT", help="address of the first process, or auto: docs/distributed.md"
        ),
    ] = None
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="N", help="number of processes")] = (
        None
    )
    process_id: Annotated[
        int | None, tyro.conf.arg(metavar="K", help="number of this process, from 0")
    ] = None
    timeout: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="SECONDS", help="all processes end if one is silent for so long (60)"
        ),
    ] = None

    def group(self) -> Group | None:
        """Returns the group of processes; None for a run of one process.

        Raises:
          ValueError: for an option without --parallel.coordinator, or values out of range.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        if given and self.coordinator is None:
            raise ValueError(
                f"--parallel.{next(iter(given))} needs --parallel.coordinator HOST:PORT"
            )
        return Group(**given) if given else None


PROCESS_OPTIONS = tuple(f"--parallel.{field.name}" for field in dataclasses.fields(ProcessOptions))


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Adds `ProcessOptions` to an argparse parser."""
    hints = typing.get_type_hints(ProcessOptions, include_extras=True)
    for name, hint in zip(PROCESS_OPTIONS, hints.values(), strict=True):
        text = hint.__metadata__[0]
        spellings = dict.fromkeys((name, name.replace("_", "-")))
        kind = str if name.endswith("coordinator") else int
        parser.add_argument(*spellings, dest=name, type=kind, metavar=text.metavar, help=text.help)


def read_group(options: argparse.Namespace) -> Group | None:
    """Returns the group of processes, from the options of `add_process_options`."""
    fields = {name.removeprefix("--parallel."): getattr(options, name) for name in PROCESS_OPTIONS}
    return ProcessOptions(**fields).group()


# --- options -------------------------------------------------------------------------------------


def parse_settings(
    arguments: list[str], default: Config, description: str = "", options: Sequence[str] = ()
) -> Config:
    """Returns `default` with the settings that the arguments change.

    Args:
      arguments: `--section.name value ...`; hyphens and underscores are equivalent.
      default: the values of all other settings.
      description: printed by --help before the list of settings.
      options: names of further options of the program, to suggest for a misspelt one.

    Raises:
      ValueError: for an unknown setting (the message suggests the closest one), and for a value out
        of range.
      SystemExit: with status 0 after --help; with status 2 after tyro's message about a value of
        the wrong type.
    """
    known = (*list_options(Config), *options, "--help")
    for word in filter(is_option, arguments):
        if name_option(word) not in known:
            raise ValueError(describe_unknown("option", name_option(word), known))
    markers = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
    return _call_tyro(Config, arguments, default=default, description=description, config=markers)


def parse_options(parts: Sequence[type], arguments: Sequence[str], program: str) -> tuple:
    """Parses the options of one command, which --help shows together.

    Args:
      parts: dataclasses with the options; a field without a default is a positional argument.
      arguments: the options with their values; no option is unknown.
      program: the name of the command in the help.

    Returns:
      An instance of each part.

    Raises:
      ValueError: from the checks of the parts.
      SystemExit: as in `parse_settings`.
    """
    fields = [
        (f"part{number}", Annotated[part, tyro.conf.arg(name="")])
        for number, part in enumerate(parts)
    ]
    whole = dataclasses.make_dataclass("Options", fields, frozen=True)
    description = inspect.cleandoc(parts[-1].__doc__)
    markers = (
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.PositionalRequiredArgs,
        tyro.conf.DisallowNone,  # no word none: leave the option out instead
    )
    found = _call_tyro(whole, arguments, prog=program, description=description, config=markers)
    return tuple(getattr(found, name) for name, _ in fields)


def list_options(part: type, prefix: str = "--") -> dict[str, Any]:
    """Returns option -> type of its value, for a dataclass and the dataclasses inside it.

    Fields without a default are positional arguments, and are left out.
    """
    hints, found = typing.get_type_hints(part), {}
    for field in dataclasses.fields(part):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            found |= list_options(hint, f"{name}.")
        elif field.default is not dataclasses.MISSING:
            found[name] = hint
    return found


def is_option(word: str) -> bool:
    """Whether a word of a command line is the name of a long option."""
    return word.startswith("--")


def name_option(word: str) -> str:
    """Returns the name of an option as `list_options` spells it, without a value after `=`."""
    return "--" + word[2:].partition("=")[0].replace("-", "_")


def _call_tyro(kind: type, arguments: Sequence[str], **options):
    """Calls `tyro.cli`, but raises errors of vvae's own checks unchanged.

    tyro catches a ValueError, prints it in a frame and exits, so that the error is among the
    contexts of the SystemExit. Messages of tyro itself are printed unchanged.
    """
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                kind, args=arguments, registry=_REGISTRY, use_underscores=True, **options
            )
    except SystemExit as stop:
        cause = stop
        while cause.__context__ is not None:
            cause = cause.__context__
        if isinstance(cause, ValueError) and _is_for_user(cause):
            raise cause from None
        sys.stderr.write(message.getvalue())
        raise


# --- errors --------------------------------------------------------------------------------------


def run_main(main: Callable[[list[str]], int], end: Callable[[int], None] = sys.exit) -> None:
    """Runs a program and calls `end` with its exit status.

    Errors that vvae raises on purpose (ValueError, MemoryError, or OSError of a file) are printed
    as one line and end with status 2. A FloatingPointError (a loss that is not finite) is one line
    and status 3; Ctrl-C where nothing can be saved is one line and status 130. SIGTERM is status
    75, which tells a scheduler to run the same command again. Any other error is a bug and keeps
    its traceback, as do all errors if the environment variable VVAE_TRACEBACK is set.

    Args:
      main: arguments of the command line -> exit status.
      end: exit status -> nothing; called last.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TEMPORARY_FAILURE))
    # Names of files that are not UTF-8 are printed with escapes.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main(sys.argv[1:])
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("VVAE_TRACEBACK") or not _is_for_user(error):
            raise
        advice = "; free some space and run the same command again" if _is_full(error) else ""
        print(f"error: {' '.join(str(error).split())}{advice}", file=sys.stderr)
        status = USAGE_ERROR
    except KeyboardInterrupt:
        print("stopped before the next checkpoint; run the same command again", file=sys.stderr)
        status = INTERRUPTED
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        status = NUMERICAL_ERROR
    end(status)


def describe_unknown(kind: str, word: str, known: Sequence[str]) -> str:
    """Returns "no KIND 'WORD'; did you mean ...?", with the closest of the known words."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        hint = f"did you mean {close[0]}?"
    else:
        hint = f"choose from {', '.join(known)}" if len(known) <= 20 else "--help lists them all"
    return f"no {kind} {word!r}; {hint}"


def _is_for_user(error: Exception) -> bool:
    """Whether an error was raised by vvae itself, or names a file."""
    if isinstance(error, OSError):
        return error.filename is not None or _is_full(error)
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).resolve().is_relative_to(_PACKAGE)


def _is_full(error: Exception) -> bool:
    """Whether an error means that a disk is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
