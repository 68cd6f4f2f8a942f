"""The built-in performers for up to an hour: the same as default.py, trained longer.

    python train.py configs/performers.py

About an hour on two CPU cores.
"""

from vvae.config import Config, Train


def get_config() -> Config:
    """Returns the settings of the long run on the performers."""
    return Config(name="performers", train=Train(num_steps=10_000, validate_every=1000))
