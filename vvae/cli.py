"""Command lines: words and options, read by tyro; errors are printed as one line."""

import contextlib
import dataclasses
import difflib
import errno
import io
import math
import os
import select
import signal
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from vvae import cli_help
from vvae.config import Config
from vvae.processes import Group

USAGE_ERROR = 2
INTERRUPTED = 130
NUMERICAL_ERROR = 3
TEMPORARY_FAILURE = 75  # EX_TEMPFAIL of sysexits.h: run it again
_CLOSED_PIPE = 141  # as of a program that SIGPIPE has ended
# Errors that are raised in these files are written for the user.
_PACKAGE = Path(__file__).resolve().parent
_PLAIN_WORDS = {bool: {"true": True, "false": False}, type(None): {"none": None}}
_REGISTRY = tyro.constructors.ConstructorRegistry()
_HELP = ("--help", "--help_all")


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

    coordinator: str | None = None
    """Address of the first process, or auto: docs/distributed.md."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Number of this process, from 0."""
    timeout: int | None = None
    """All processes end if one is silent for so many seconds (60)."""

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


# --- words ---------------------------------------------------------------------------------------


def divide(arguments: Iterable[str], takes: dict[str, float]) -> tuple[list[str], list[list[str]]]:
    """Divides a command line into words and options.

    Args:
      arguments: the command line, without the name of the program.
      takes: option -> the largest number of its values, as `count_values` returns it; unknown
        options take one.

    Returns:
      words: the words that are not part of an option.
      options: each option, spelt with underscores, with its values. -h is --help.
    """
    words, options = [], []
    wanted = 0  # how many more values the last option takes
    for word in arguments:
        if is_option(word) or word == "-h":
            name = "--help" if word == "-h" else name_option(word)
            _, equals, value = word.partition("=")
            options.append([name, value] if equals else [name])
            wanted = 0 if equals or name in _HELP else takes.get(name, 1)
        elif wanted:
            options[-1].append(word)
            wanted -= 1
        else:
            words.append(word)
    return words, options


def count_values(parts: Iterable[type], of_bool: int) -> dict[str, float]:
    """Returns option -> the largest number of its values, for the options of dataclasses.

    Args:
      parts: the dataclasses.
      of_bool: what a bool takes: 1 (true or false) for a setting, 0 for an option of a command.
    """
    return {
        name: of_bool if hint is bool else math.inf if _is_list(hint) else 1
        for name, hint in list_all_options(parts).items()
    }


def _is_list(hint: Any) -> bool:
    return any(typing.get_origin(kind) is tuple for kind in (hint, *typing.get_args(hint)))


def is_option(word: str) -> bool:
    """Whether a word of a command line is the name of a long option."""
    return word.startswith("--")


def name_option(word: str) -> str:
    """Returns the name of an option as `list_options` spells it, without a value after `=`."""
    return "--" + word[2:].partition("=")[0].replace("-", "_")


def asks_for_help(options: Iterable[Sequence[str]]) -> bool:
    """Whether --help or --help-all is among the options."""
    return any(name in _HELP for name, *_ in options)


def find_value(options: Iterable[Sequence[str]], name: str) -> str | None:
    """Returns the value that an option is given first; None without it."""
    return next((values[0] for option, *values in options if option == name and values), None)


# --- options -------------------------------------------------------------------------------------


def parse_options(
    parts: Sequence[type], options: Sequence[Sequence[str]], default: Config
) -> tuple:
    """Parses settings, and other options beside them.

    Args:
      parts: dataclasses whose fields have defaults; the last one is Config.
      options: each option with its values, as `divide` returns them.
      default: the values of settings that are not among the options.

    Returns:
      An instance of each part.

    Raises:
      ValueError: for an unknown option (the message suggests the closest one), and for a value of
        another type or out of range.
    """
    check_options(options, parts)
    markers = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
    return _parse(parts, [], options, markers, default)


def parse_command(
    parts: Sequence[type], words: Sequence[str], options: Sequence[Sequence[str]]
) -> tuple:
    """Parses the words and options of a command.

    Args:
      parts: dataclasses with the options; a field without a default is a positional argument.
      words: the values of the positional arguments.
      options: each option with its values, as `divide` returns them; none is unknown.

    Returns:
      An instance of each part.

    Raises:
      ValueError: for a value of another type, and from the checks of the parts.
    """
    markers = (
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.PositionalRequiredArgs,
        tyro.conf.DisallowNone,  # no word none: leave the option out instead
    )
    return _parse(parts, words, options, markers, None)


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


def list_all_options(parts: Iterable[type]) -> dict[str, Any]:
    """Returns option -> type of its value, for several dataclasses."""
    return {name: hint for part in parts for name, hint in list_options(part).items()}


def check_options(options: Iterable[Sequence[str]], parts: Sequence[type]) -> None:
    """Raises ValueError for an option that no part has; names the closest one and its meaning."""
    known = list_all_options(parts)
    for name, *_ in options:
        if name not in known and name not in _HELP:
            raise ValueError(describe_unknown_option(name, parts))


def describe_unknown_option(name: str, parts: Sequence[type]) -> str:
    """Returns "no option NAME; did you mean OTHER (what it does)?"."""
    known = (*list_all_options(parts), *_HELP)
    close = difflib.get_close_matches(name, known, n=1)
    if not close:
        return f"no option {name}; --help-all lists them"
    meaning = cli_help.describe_option(close[0], parts)
    return f"no option {name}; did you mean {close[0]}{f' ({meaning})' if meaning else ''}?"


def _parse(
    parts: Sequence[type],
    words: Sequence[str],
    options: Sequence[Sequence[str]],
    markers: tuple,
    default: Any,
) -> tuple:
    """Calls `tyro.cli`, but raises its errors as a ValueError of one line.

    tyro catches a ValueError of vvae's own checks, prints it in a frame and exits, so that the
    error is among the contexts of the SystemExit. Where a value is of another type, its option is
    found by reading each of them alone.

    Args:
      default: an instance of the last part, from which the options depart; None for its defaults.
    """
    fields: list[tuple] = [
        (f"part{number}", Annotated[part, tyro.conf.arg(name="")])
        for number, part in enumerate(parts)
    ]
    if default is not None:
        fields[-1] = (*fields[-1], dataclasses.field(default=default))
    whole = dataclasses.make_dataclass("Options", fields, frozen=True)
    arguments = [*words, *(word for option in options for word in option)]
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            found = _call_tyro(whole, arguments, markers)
    except SystemExit as stop:
        cause = stop
        while cause.__context__ is not None:
            cause = cause.__context__
        if isinstance(cause, ValueError) and _is_for_user(cause):
            raise cause from None
    else:
        return tuple(getattr(found, name) for name, *_ in fields)
    text = message.getvalue().translate(_FRAMES)
    raise ValueError(_find_misfit(options, parts) or " ".join(text.split()))


_FRAMES = str.maketrans(dict.fromkeys("╭╮╰╯─│", " "))


def _call_tyro(kind: Any, arguments: Sequence[str], markers: tuple) -> Any:
    return tyro.cli(kind, args=arguments, registry=_REGISTRY, use_underscores=True, config=markers)


def _find_misfit(options: Iterable[Sequence[str]], parts: Sequence[type]) -> str | None:
    """Describes the first option whose values do not fit its type; None if all of them fit."""
    known = list_all_options(parts)
    markers = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
    for name, *values in options:
        if known[name] is bool and not values:
            continue
        one = dataclasses.make_dataclass("One", [("value", known[name])])
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                _call_tyro(one, ["--value", *values], markers)
        except SystemExit:
            meaning = cli_help.describe_option(name, parts)
            given, wanted = " ".join((name, *values)), cli_help.describe_type(known[name])
            return f"{given}: must be {wanted}{f' ({meaning})' if meaning else ''}"
    return None


# --- errors --------------------------------------------------------------------------------------


def run_main(main: Callable[[list[str]], int], end: Callable[[int], None] = sys.exit) -> None:
    """Runs a program and calls `end` with its exit status.

    Errors that vvae raises on purpose (ValueError, MemoryError, or OSError of a file) are printed
    as one line, with the lines of their notes below, and end with status 2. A FloatingPointError (a
    loss that is not finite) is one line and status 3; Ctrl-C where nothing can be saved is one line
    and status 130. SIGTERM is status 75, which tells a scheduler to run the same command again.
    Where nothing reads the output any more (`| head`), the program ends with status 141 and without
    a word. Any other error is a bug and keeps its traceback, as do all errors if the environment
    variable VVAE_TRACEBACK is set.

    Args:
      main: arguments of the command line -> exit status.
      end: exit status -> nothing; called last.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TEMPORARY_FAILURE))
    # Names of files that are not UTF-8 are printed with escapes.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            status = _find_status(main)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread(sys.stdout):
            raise
        # What is left in the buffer would be written, in vain, when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _CLOSED_PIPE
    end(status)


def _find_status(main: Callable[[list[str]], int]) -> int:
    """Runs a program; prints its error. Returns its exit status."""
    try:
        return main(sys.argv[1:])
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("VVAE_TRACEBACK") or not _is_for_user(error):
            raise
        advice = "; free some space and run the same command again" if _is_full(error) else ""
        print(f"error: {' '.join(str(error).split())}{advice}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("stopped before the next checkpoint; run the same command again", file=sys.stderr)
        return INTERRUPTED
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return NUMERICAL_ERROR


def _is_unread(stream: typing.TextIO) -> bool:
    """Whether a stream is a pipe that nothing reads any more."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)  # errors are reported in any case
    return any(event & select.POLLERR for _, event in poll.poll(0))


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
