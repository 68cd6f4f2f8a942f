"""Compression and latents, as a causal grid of 4x8x8 pixels.

    pip install '.[coding]'
    vvae train compression --data.path VIDEOS
    vvae latents --workdir RUN
    vvae compress IN.mp4 OUT.vvz --workdir RUN

Better than PCA of its blocks at equal rate, on the 64x64 videos of EgoGestAR
(`python -m benchmarks.rate_distortion`). The stem computes principal components of the blocks, and
training starts from PCA of single blocks; the gain is mostly what earlier blocks predict about
later ones. beta, the price of a nat, sets the rate. docs/results/rate_distortion.md states the
training time and the results.
"""

from vvae.config import Causal, Config, Data, Evaluate, Model, Objective, Optim, Train


def get_config() -> Config:
    """Returns settings of 4x8x8 with 64 channels: 5 latent frames of 8x8x64 numbers per clip."""
    return Config(
        name="compression",
        data=Data(
            name="your videos", view="rgb", height=64, width=64, num_frames=17, flip=True, crop=4
        ),
        model=Model(kind="causal"),
        causal=Causal(
            widths=(64,), blocks=(1, 1), channels=64, stem="pca", components=160, attention=False
        ),
        objective=Objective(beta=8.0, kl_warmup=0.0),
        optim=Optim(learning_rate=2e-3, ema_decay=0.998, sigma_rate=1.0),
        train=Train(batch_size=8, num_steps=6000, validate_every=250, validation_clips=64),
        evaluate=Evaluate(tasks=("reconstruct", "density"), num_samples=4),
    )
