"""The program `vvae`, also as `python -m vvae`."""

from vvae import cli, processes
from vvae.commands.dispatch import main


def run() -> None:
    """Runs the command line and ends the process."""
    cli.run_main(main, end=processes.end)


if __name__ == "__main__":
    run()
