"""Trains a video VAE: `python train.py` is `vvae train`; --help lists what it takes."""

from vvae import cli, processes
from vvae.commands.train import main, read_request, train

__all__ = ["main", "read_request", "train"]

if __name__ == "__main__":
    cli.run_main(main, end=processes.end)
