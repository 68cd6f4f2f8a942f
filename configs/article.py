"""The article's settings, made to run: binary 32x32 frames, latents of 50 and 5 numbers.

    python train.py configs/article.py                      the built-in performers
    python train.py configs/article.py --data.path FOLDER   a folder of .mp4 files

As in "VAE 在视频分析中的应用：如何利用 VAE 实现高质量的视频分析": gray frames of 32x32, a binary
threshold, latent_dim 50, latent_dim_latent 5, two 4x4 stride-2 convolutions of 64 channels, batches
of 32 frames (two clips of 16), 50 epochs, Adam with learning rate 1e-3.

Where the article differs or does not run: its network has no mean, no variance, no sampling and no
KL term, its flattened code does not fit its decoder, and both latent sizes are unused; here they
are the latents of a frame and of a clip. Its threshold is 0 without Otsu's flag, which makes every
pixel that is not black white; here Otsu's threshold of each video. It reopens the file for every
frame and never ends. Its loss is the squared error; binary data have a Bernoulli likelihood. Its
2x2 max pooling is left out, since nothing in its decoder undoes it.
"""

from vvae.config import Config, Data, Model, Objective, Optim, Train


def get_config() -> Config:
    """Returns the article's settings."""
    return Config(
        name="article",
        data=Data(view="otsu", height=32, width=32, num_frames=16),
        model=Model(
            widths=(64, 64),
            latent_dim=50,
            clip_latent_dim=5,
            linear=False,
            likelihood="bernoulli",
        ),
        objective=Objective(kl_warmup=0.1),
        optim=Optim(learning_rate=1e-3, warmup=0.0, final_fraction=1.0),
        train=Train(batch_size=2, num_steps=None, num_epochs=50, validate_every=5000),
    )
