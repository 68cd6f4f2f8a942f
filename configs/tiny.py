"""A model in seconds: for tests, too small to be good.

vvae train tiny --data.path FOLDER
"""

from vvae.config import Config, Data, Evaluate, Model, Train


def get_config() -> Config:
    """Returns the settings of a network that is too small to be good."""
    return Config(
        name="tiny",
        data=Data(height=16, width=16, num_frames=8),
        model=Model(widths=(8, 16), hidden=32, latent_dim=8, clip_latent_dim=2),
        train=Train(batch_size=8, num_steps=12, log_every=4, validate_every=6),
        evaluate=Evaluate(num_samples=4),
    )
