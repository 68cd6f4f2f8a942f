"""Parses the command line of evaluate.py into tasks, or a command, with their options."""

import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vvae import cli
from vvae.task_table import TASKS
from vvae.tasks.options import COMMANDS, CommonOptions, TaskOptions, find_options

_PROGRAM = "evaluate.py"
_NAMES = (*TASKS, *COMMANDS)


@dataclass(frozen=True)
class Evaluation:
    """Tasks to run.

    Attributes:
      common: the run, the videos and the processes.
      tasks: task -> its options, in the order of the command line; empty for the tasks of the run's
        settings.
    """

    common: CommonOptions = field(default_factory=CommonOptions)
    tasks: Mapping[str, TaskOptions] = field(default_factory=dict)


def read_request(arguments: Sequence[str], description: str = "") -> Any:
    """Parses the command line.

    Args:
      arguments: tasks, or one command with its files; options can be before or after them.
      description: the description of the program in --help.

    Returns:
      An Evaluation, or the options of a command: an instance of a class in `options.COMMANDS`.

    Raises:
      ValueError: for unknown tasks and options, and for options that exclude each other.
      SystemExit: with status 0 after --help; with status 2 after tyro's message about a value of
        the wrong type.
    """
    words, options = _divide(arguments)
    command = next((word for word in words if word in COMMANDS), None)
    if command is not None:
        return _read_command(command, words, options)
    for word in words:
        _check_task(word)
    if not words and ["--help"] in options:
        print(f"{description}\n{_list_names()}")
        raise SystemExit(0)
    return _read_tasks(dict.fromkeys(words), options)


def _divide(arguments: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Returns the words that are not part of an option, and each option with its values."""
    takes = _list_options([CommonOptions, *map(find_options, _NAMES)])
    words, options = [], []
    wanted = 0  # how many more values the last option takes
    for word in arguments:
        if cli.is_option(word) or word == "-h":
            name = "--help" if word == "-h" else cli.name_option(word)
            _, equals, value = word.partition("=")
            options.append([name, value] if equals else [name])
            wanted = 0 if equals else _count_values(name, takes)
        elif wanted:
            options[-1].append(word)
            wanted -= 1
        else:
            words.append(word)
    return words, options


def _list_options(parts: Iterable[type]) -> dict[str, Any]:
    return {name: hint for part in parts for name, hint in cli.list_options(part).items()}


def _count_values(option: str, takes: dict[str, Any]) -> float:
    """Returns the largest number of values of an option; 1 for an unknown option."""
    hint = takes.get(option, bool if option == "--help" else str)
    if hint is bool:
        return 0
    is_list = any(typing.get_origin(kind) is tuple for kind in (hint, *typing.get_args(hint)))
    return math.inf if is_list else 1


def _check_task(word: str) -> None:
    if word in TASKS:
        return
    if Path(word).is_dir():
        raise ValueError(f"{word} is a directory, not a task: give a run by --workdir {word}")
    raise ValueError(cli.describe_unknown("task", word, _NAMES))


def _read_command(command: str, words: list[str], options: list[list[str]]) -> Any:
    part = COMMANDS[command]
    operands = getattr(part, "operands", ())
    if words != [command] or operands:
        _check_operands(command, words, operands, ["--help"] in options)
    _check_options(options, [command], _list_options([part]))
    arguments = [*words[1:], *(word for option in options for word in option)]
    return cli.parse_options([part], arguments, f"{_PROGRAM} {command}")[0]


def _check_operands(
    command: str, words: list[str], operands: tuple[str, ...], asks_for_help: bool
) -> None:
    """Raises ValueError unless a command stands alone, with all of its files or runs."""
    if words[0] == command and (len(words) == 1 + len(operands) or asks_for_help):
        return
    if operands:
        kind = "runs" if command == "compare" else "files"
        usage = " ".join((command, *operands))
        raise ValueError(f"{command} takes two {kind} and nothing else: {usage}")
    others = [word for word in words if word != command]
    if others and Path(others[0]).is_dir():
        option = "--data.path" if command == "check" else "--workdir"
        raise ValueError(f"a folder is given by an option: {command} {option} {others[0]}")
    raise ValueError(f"the task {command} is run alone, not with {' '.join(others)}")


def _read_tasks(tasks: Iterable[str], options: list[list[str]]) -> Evaluation:
    parts = [CommonOptions, *map(find_options, tasks)]
    _check_options(options, list(tasks), _list_options(parts))
    arguments = [word for option in options for word in option]
    program = " ".join((_PROGRAM, *tasks))
    common, *found = cli.parse_options(parts, arguments, program)
    for part in found or [TaskOptions()]:
        part.check(common)
    return Evaluation(common, dict(zip(tasks, found, strict=True)))


def _check_options(options: list[list[str]], asked: list[str], known: dict[str, Any]) -> None:
    """Raises ValueError for an option that neither the tasks nor the command have."""
    for name, *_ in options:
        if name in known or name == "--help":
            continue
        owners = [other for other in _NAMES if name in _list_options([find_options(other)])]
        if name in _list_options([CommonOptions]):
            owners = ["the tasks"]
        if owners:
            text = f", not of {', '.join(asked)}" if asked else ": name it"
            raise ValueError(f"{name} is an option of {', '.join(owners)}{text}")
        raise ValueError(cli.describe_unknown("option", name, tuple(known)))


def _list_names() -> str:
    """Lists the tasks and the commands, one line for each."""

    def describe(names: Iterable[str]) -> str:
        summaries = ((name, find_options(name).__doc__.splitlines()[0]) for name in names)
        return "\n".join(f"  {name:12}{summary}" for name, summary in summaries)

    usage = f"usage: {_PROGRAM} [TASK ...] --workdir RUN [OPTIONS]\n       {_PROGRAM} COMMAND ..."
    ending = f"The options of one of them: {_PROGRAM} NAME --help"
    return f"{usage}\n\ntasks:\n{describe(TASKS)}\n\ncommands:\n{describe(COMMANDS)}\n\n{ending}"
