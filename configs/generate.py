"""A generative prior on a store of latents: draws new videos.

    vvae latents --workdir RUN --data.path VIDEOS --out STORE
    vvae train generate --latents STORE --vae RUN --data.path VIDEOS

The folder names the classes of the videos; without it the prior has none.
"""

from vvae.generate.config import GenerateConfig


def get_config() -> GenerateConfig:
    """Returns the settings of a small diffusion transformer."""
    return GenerateConfig()
