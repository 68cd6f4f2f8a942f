"""The built-in performers, 32x32, gray: a few minutes on a laptop.

    python train.py

The README states the training time and the results.
"""

from vvae.config import Config


def get_config() -> Config:
    """Returns the settings of `python train.py`."""
    return Config(name="default")
