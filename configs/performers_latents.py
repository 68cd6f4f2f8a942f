"""The built-in performers as a causal grid of 4x8x8 pixels, for a prior that draws new ones.

vvae train performers_latents --workdir VAE

docs/generate.md has the commands that follow.
"""

from vvae.config import Causal, Config, Data, Evaluate, Model, Objective, Optim, Train


def get_config() -> Config:
    """Returns settings of 4x8x8 with 16 channels: 5 latent frames of 4x4x16 numbers per clip."""
    return Config(
        name="performers_latents",
        data=Data(num_frames=16, crop=2),
        model=Model(kind="causal"),
        causal=Causal(
            widths=(64,), blocks=(1, 1), channels=16, stem="pca", components=128, attention=False
        ),
        objective=Objective(beta=1.0, kl_warmup=0.0),
        optim=Optim(learning_rate=2e-3, ema_decay=0.998, sigma_rate=1.0),
        train=Train(batch_size=16, num_steps=4000, validate_every=500),
        evaluate=Evaluate(tasks=("reconstruct",)),
    )
