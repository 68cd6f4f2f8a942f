"""A few minutes on a laptop: the built-in performers, 32x32, gray.

    python train.py

See the README for what it reaches and how long it takes.
"""

from vvae.config import Config


def get_config() -> Config:
    """Returns the settings of `python train.py`."""
    return Config(name="default")
