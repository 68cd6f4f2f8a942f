"""The article's settings, made to run: binary frames, latents of 50 and 5.

    vvae train article                      the built-in performers
    vvae train article --data.path FOLDER   a folder of .mp4 files

They follow "VAE 在视频分析中的应用：如何利用 VAE 实现高质量的视频分析": gray frames of 32x32, a
binary threshold, latent_dim 50, latent_dim_latent 5, two 4x4 stride-2 convolutions of 64 channels,
batches of 32 frames (two clips of 16), 50 epochs, Adam with learning rate 1e-3.

Where the article is incomplete or does not run, these settings differ:

* The article's network has no mean, no variance, no sampling and no KL term; its flattened code
  does not fit its decoder; and both latent sizes are unused. Here they are the sizes of the latent
  of a frame and of the latent of a clip.
* Its threshold is 0 without Otsu's flag, which turns every pixel that is not black into white. Here
  it is Otsu's threshold of each video.
* It reopens the file for every frame and never ends. Here each video is decoded once.
* Its loss is the squared error. Here the likelihood is Bernoulli, since the data are binary.
* Its 2x2 max pooling is left out, since its decoder has no counterpart.
"""

from vvae.config import Config, Data, Model, Objective, Optim, Train


def get_config() -> Config:
    """Returns the settings of the article."""
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
