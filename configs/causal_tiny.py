"""A causal model in a minute: a first look, too small to be good.

vvae train causal_tiny
"""

from vvae.config import Causal, Config, Data, Evaluate, Model, Train


def get_config() -> Config:
    """Returns settings of 4x8x8 with 8 channels: 3 latent frames of 4x4x8 numbers for 9 frames."""
    return Config(
        name="causal_tiny",
        data=Data(height=32, width=32, num_frames=9),
        model=Model(kind="causal"),
        causal=Causal(widths=(16, 32, 48), blocks=(1, 1), channels=8, stem="patch"),
        train=Train(batch_size=8, num_steps=200, validate_every=100, validation_clips=32),
        evaluate=Evaluate(tasks=("reconstruct", "density"), num_samples=4),
    )
