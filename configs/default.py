"""A general start, 32x32, gray; minutes for the built-in performers.

    vvae train

The network and the number of steps are chosen for a first run of few minutes, which beats PCA.
Wider networks (--model.widths 32 64 128) and more steps (--train.num_steps) reconstruct better.
docs/results/performers.md states the results.
"""

from vvae.config import Config, Model, Train


def get_config() -> Config:
    """Returns the settings of `vvae train`."""
    return Config(
        name="default",
        model=Model(widths=(24, 48, 96)),
        train=Train(num_steps=450, validate_every=225),
    )
