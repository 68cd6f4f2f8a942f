"""The built-in performers for up to an hour: the same as default.py, trained longer.

    python train.py configs/performers.py

About 20 minutes on two free CPU cores, up to an hour on shared ones; the README says what it
reaches.
"""

from vvae.config import Config, Train


def get_config() -> Config:
    """Returns the settings of the long run on the performers."""
    return Config(name="performers", train=Train(num_steps=10_000, validate_every=1000))
