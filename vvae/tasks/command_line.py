"""Parses the command line of `evaluate` into tasks, or a command, with their options."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vvae import cli, cli_help
from vvae.program import name_command
from vvae.task_table import TASKS
from vvae.tasks.options import COMMANDS, CommonOptions, TaskOptions, find_options

_NAMES = (*TASKS, *COMMANDS)
# The tasks and commands by the question that they answer, as --help lists them.
QUESTIONS = {
    "How good is the model?": ("reconstruct", "density", "generate"),
    "What is in a video?": ("classify", "cluster", "search", "segment"),
    "What is unusual or unwanted?": ("anomaly", "moderate"),
    "Latents and files": ("features", "latents", "code", "compress", "decompress", "export"),
    "Videos and runs": ("check", "report", "compare"),
}


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


def read_request(arguments: Sequence[str]) -> Any:
    """Parses the command line.

    Args:
      arguments: tasks, or one command with its files; options can be before or after them.

    Returns:
      An Evaluation, or the options of a command: an instance of a class in `options.COMMANDS`.

    Raises:
      ValueError: for unknown tasks and options, options that exclude each other, and a value of
        another type.
      SystemExit: with status 0 after --help.
    """
    parts = [CommonOptions, *map(find_options, _NAMES)]
    words, options = cli.divide(arguments, cli.count_values(parts, of_bool=0))
    words, options = _recognise_folder(words, options)
    command = next((word for word in words if word in COMMANDS), None)
    if command is not None:
        return _read_command(command, words, options)
    for word in words:
        _check_task(word)
    if not words and cli.asks_for_help(options):
        _print_overview()
        raise SystemExit(0)
    return _read_tasks(dict.fromkeys(words), options)


def _recognise_folder(
    words: list[str], options: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """Returns the words without a folder that can be meant in one way, and its option.

    `check DIR` describes videos; elsewhere a run directory is the run.
    """
    if "compare" in words:  # two runs without options
        return words, options
    for word in words:
        if word in _NAMES:
            continue
        if "check" in words and Path(word).exists():
            option = "--data.path"
        elif all((Path(word) / name).is_file() for name in ("config.json", "classes.json")):
            option = "--workdir"
        else:
            continue
        if cli.find_value(options, option) is None:
            return [other for other in words if other is not word], [*options, [option, word]]
    return words, options


def _check_task(word: str) -> None:
    if word in TASKS:
        return
    if Path(word).is_dir():
        raise ValueError(
            f"{word} is a folder, not a task: give videos by --data.path {word}, a run by --workdir"
        )
    raise ValueError(cli.describe_unknown("task", word, _NAMES))


def _read_command(command: str, words: list[str], options: list[list[str]]) -> Any:
    part = COMMANDS[command]
    operands = getattr(part, "operands", ())
    if cli.asks_for_help(options):
        _print_help(" ".join((command, *operands)), [part])
        raise SystemExit(0)
    if words != [command] or operands:
        _check_operands(command, words, operands)
    _check_options(options, [command], [part])
    return cli.parse_command([part], words[1:], options)[0]


def _check_operands(command: str, words: list[str], operands: tuple[str, ...]) -> None:
    """Raises ValueError unless a command stands alone, with all of its files or runs."""
    if words[0] == command and len(words) == 1 + len(operands):
        return
    if operands:
        kind = "runs" if command == "compare" else "files"
        usage = " ".join((command, *operands))
        raise ValueError(f"{command} takes two {kind} and nothing else: {usage}")
    others = [word for word in words if word != command]
    if others and others[0] not in _NAMES:
        what = "file or folder" if command == "check" else "run"
        raise ValueError(f"{command} {others[0]}: no such {what}")
    raise ValueError(f"the task {command} is run alone, not with {' '.join(others)}")


def _read_tasks(tasks: Iterable[str], options: list[list[str]]) -> Evaluation:
    parts = [CommonOptions, *map(find_options, tasks)]
    if cli.asks_for_help(options):
        _print_help(" ".join(tasks), parts)
        raise SystemExit(0)
    _check_options(options, list(tasks), parts)
    common, *found = cli.parse_command(parts, [], options)
    for part in found or [TaskOptions()]:
        part.check(common)
    return Evaluation(common, dict(zip(tasks, found, strict=True)))


def _check_options(options: list[list[str]], asked: list[str], parts: Sequence[type]) -> None:
    """Raises ValueError for an option that neither the tasks nor the command have."""
    known = cli.list_all_options(parts)
    for name, *_ in options:
        if name in known:
            continue
        owners = [other for other in _NAMES if name in cli.list_options(find_options(other))]
        if name in cli.list_options(CommonOptions):
            owners = ["the tasks"]
        if owners:
            text = f", not of {', '.join(asked)}" if asked else ": name it"
            raise ValueError(f"{name} is an option of {', '.join(owners)}{text}")
        raise ValueError(cli.describe_unknown_option(name, parts))


def _print_help(words: str, parts: Sequence[type]) -> None:
    """Prints the usage, the description and the options of tasks or of a command."""
    print(f"usage: {name_command(f'evaluate {words}')} [OPTIONS]\n")
    described = parts[1:] or parts  # the first part of tasks holds what they have in common
    print("\n\n".join(inspect.cleandoc(part.__doc__ or "") for part in described))
    print(f"\n{cli_help.format_options(parts)}")


def _print_overview() -> None:
    """Prints the tasks and the commands, one line for each, by question."""
    program = name_command("evaluate")
    print(f"usage: {program} [TASK ...] --workdir RUN [OPTIONS]\n       {program} COMMAND ...\n")
    print(format_questions())
    one = name_command("evaluate classify")
    print(f"\nWithout a task, those of the run's settings are run. New videos: {one} --workdir RUN")
    print("--data.path DIR. Published weights: reconstruct --pretrained DIR --data.path DIR.")
    print(f"The options of one of them: {one} --help")


def format_questions() -> str:
    """Formats the tasks and the commands, one line for each, by the question that they answer."""
    blocks = []
    for question, names in QUESTIONS.items():
        rows = [(name, find_options(name).__doc__.splitlines()[0]) for name in names]
        blocks.append(f"{question}\n{cli_help.format_short_list(rows, width=14)}")
    return "\n\n".join(blocks)
