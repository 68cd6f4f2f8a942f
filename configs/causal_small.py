"""CausalVideoVAE of 4x8x8 on real 64x64 videos: better than PCA of its blocks at equal rate.

    pip install '.[coding]'
    python train.py configs/causal_small.py --data.path GESTURES
    python -m benchmarks.rate_distortion --workdir RUN --data.path GESTURES

GESTURES is a folder with a manifest.csv that states a group (the environment) and a split for each
video. The stem computes principal components of the blocks, and training starts from PCA of single
blocks; the gain is mostly what earlier blocks predict about later ones. beta, the price of a nat,
sets the rate. The README states the training time and the results.
"""

from vvae.config import Causal, Config, Data, Evaluate, Model, Objective, Optim, Train


def get_config() -> Config:
    """Returns settings of 4x8x8 with 64 channels: 5 latent frames of 8x8x64 numbers per clip."""
    return Config(
        name="causal_small",
        data=Data(
            name="EgoGestAR", view="rgb", height=64, width=64, num_frames=17, flip=True, crop=4
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
