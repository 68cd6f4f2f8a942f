"""The built-in performers for longer: the same as default.py, on clips that are never quite alike.

    python train.py configs/performers.py

About 15 minutes on two free CPU cores, up to an hour on shared ones; the README says what it
reaches. Without the augmentation, 1,440 clips are learned by heart: the validation ELBO was best
after 1,000 steps of 10,000.
"""

from vvae.config import Config, Data, Train


def get_config() -> Config:
    """Returns the settings of the long run on the performers."""
    return Config(
        name="performers",
        data=Data(flip=True, crop=2, brightness=0.1),
        train=Train(num_steps=8000, validate_every=1000),
    )
