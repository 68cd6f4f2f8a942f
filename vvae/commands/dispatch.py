"""`vvae COMMAND ...`: starts train, evaluate, or a task of evaluate by its own name."""

from importlib import metadata

from vvae import cli, cli_help
from vvae.task_table import TASKS
from vvae.tasks.command_line import format_questions
from vvae.tasks.options import COMMANDS

_TRAINING = {
    "train": "Trains a model on a folder of videos, or goes on; then evaluates it.",
    "evaluate": "Measures a run: all tasks of its settings, or those that are named.",
}

_COLLECTIONS = {
    "latents": "Encodes a collection of videos once, to a store; goes on where it stopped.",
    "latents export": "Writes a store as the cache of a trainer of diffusion models.",
    "decode": "Writes the videos of a store.",
    "sample": "Draws new videos from a prior that `vvae train generate` has trained on a store.",
}


def main(arguments: list[str]) -> int:
    """Starts the command that the arguments name. Returns the exit status."""
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help", "--help-all", "help"):
        _print_overview()
        return 0
    if first in ("--version", "-V"):
        print(f"vvae {_find_version()}")
        return 0
    if first == "train":
        from vvae.commands import train

        return train.main(arguments[1:])
    if first in ("latents", "decode"):
        from vvae.commands import latents

        return latents.main(arguments)
    if first == "sample":
        from vvae.commands import generate

        return generate.sample(arguments[1:])
    names = (*TASKS, *COMMANDS)
    if first != "evaluate" and not any(word in names for word in arguments):
        raise ValueError(
            cli.describe_unknown("command", first, (*_TRAINING, *names, *_COLLECTIONS))
        )
    from vvae.commands import evaluate

    return evaluate.main(arguments[first == "evaluate" :])


def _find_version() -> str:
    try:
        return metadata.version("vvae")
    except metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def _print_overview() -> None:
    print("usage: vvae COMMAND ...\n")
    print(f"Training\n{cli_help.format_short_list(_TRAINING.items(), width=14)}\n")
    print(format_questions())
    print(f"\nCollections\n{cli_help.format_short_list(_COLLECTIONS.items(), width=18)}")
    print("\nBegin: vvae train          the built-in videos, in minutes")
    print("       vvae check DIR      what a folder of videos holds, and how to train on it")
    print("More:  vvae COMMAND --help; vvae --version")
