"""A general start, 32x32, gray; minutes for the built-in performers.

    vvae train

The number of steps is chosen for a first run of few minutes; more (--train.num_steps) give better
reconstructions. docs/results/performers.md states the results.
"""

from vvae.config import Config, Train


def get_config() -> Config:
    """Returns the settings of `vvae train`."""
    return Config(name="default", train=Train(num_steps=450))
