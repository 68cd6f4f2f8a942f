"""A general start, 32x32, gray; minutes for the built-in performers.

    vvae train

docs/results/performers.md states the results.
"""

from vvae.config import Config


def get_config() -> Config:
    """Returns the settings of `vvae train`."""
    return Config(name="default")
