"""The built-in performers for up to an hour: the same as default.py, trained longer.

    python train.py configs/performers.py

About 40 minutes on two CPU cores. See the README for what it reaches.
"""

from vvae.config import Config, Train


def get_config() -> Config:
    """Returns the settings of the long run on the performers."""
    return Config(name="performers", train=Train(num_steps=10_000, validate_every=1000))
