"""The built-in performers for longer and with augmentation.

    vvae train performers

Training takes about 15 minutes on two free CPU cores, up to an hour on shared ones.
docs/results/performers.md states the results. Without augmentation, the model memorises the 1,440
clips: the validation ELBO was best after 1,000 steps of 10,000.
"""

from vvae.config import Config, Data, Train


def get_config() -> Config:
    """Returns the settings of the long training on the performers."""
    return Config(
        name="performers",
        data=Data(flip=True, crop=2, brightness=0.1),
        train=Train(num_steps=8000, validate_every=1000),
    )
