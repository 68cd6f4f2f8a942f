"""Measures and uses a run: `python evaluate.py` is `vvae evaluate`; --help lists what it takes."""

from vvae import cli, processes
from vvae.commands.evaluate import main, read_request

__all__ = ["main", "read_request"]

if __name__ == "__main__":
    cli.run_main(main, end=processes.end)
