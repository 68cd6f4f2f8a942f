# %% [markdown]
# # Latents for a diffusion model
#
# A latent diffusion model of videos is trained on the latents of a VAE: they are small, they are
# computed once, and every channel has mean 0 and standard deviation 1. This tutorial trains a small
# causal VAE, writes the latents of a collection, and decodes latents back to a video.
#
# The videos here are drawn by vvae; use `--data.path VIDEOS` for your own. A model of this size and
# length is a demonstration. For real use train longer, on an accelerator, or take
# [published weights](../published.md).

# %% tags=["hide"]
import shutil

from shell import read_settings, sh, show

settings = read_settings(steps=200)
shutil.rmtree("runs", ignore_errors=True)

# %% [markdown]
# ## Train
#
# The configuration `causal_tiny` compresses 4 frames of 8x8 pixels to one position of 8 channels.
# The first frame has a latent frame of its own, so that a still image is a video of one frame.

# %%
sh(
    f"vvae train causal_tiny --workdir runs/latents --train.num_steps {settings.steps} "
    "--evaluate.tasks reconstruct",
    begin="^reconstruct  ",
    end="^$",
)

# %% [markdown]
# After so few steps PCA with as many numbers is far better than this network: what follows shows
# the way, not the quality. `vvae train compression` starts from PCA.

# %%
show(
    "runs/latents/eval/reconstruct.png",
    "Unseen clips: original, reconstruction, error",
)

# %% [markdown]
# ## Write the latents
#
# One array per split, with the settings that made them and the statistics of the channels.

# %%
sh("vvae evaluate latents --workdir runs/latents", begin="^latents  ", end="^$")

# %%
import numpy as np

import vvae
from vvae.inference.statistics import read_statistics

folder = "runs/latents/eval/latents"
z = np.load(f"{folder}/train.npy", mmap_mode="r")  # [N, t, h, w, Z], posterior means
statistics = read_statistics(f"{folder}/latents.json")
normalized = np.asarray(vvae.normalize(statistics, z[:]))
print("shape", z.shape)
print("mean of a channel", np.abs(normalized.mean((0, 1, 2, 3))).max().round(3), "at most")
print("standard deviation", normalized.std((0, 1, 2, 3)).round(3))

# %% [markdown]
# Your diffusion model learns the distribution of `normalized`. What it draws is brought back by
# `denormalize` and decoded.
#
# ## Decode
#
# Here an average of two clips stands in for a sample of a diffusion model.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt

model, params = vvae.load("runs/latents")
half = (normalized[:1] + normalized[50:51]) / 2
frames = vvae.decode(model, params, vvae.denormalize(statistics, jnp.asarray(half)))
print("decoded", frames.shape, frames.dtype)

figure, axes = plt.subplots(3, 6, figsize=(6, 3), layout="constrained")
for row, latents in zip(axes, (normalized[:1], half, normalized[50:51])):
    video = vvae.decode(model, params, vvae.denormalize(statistics, jnp.asarray(latents)))
    for axis, frame in zip(row, video[0, :: max(1, video.shape[1] // 6)]):
        axis.imshow((np.asarray(frame[..., 0]) + 1) / 2, cmap="gray", vmin=0, vmax=1)
        axis.axis("off")
figure.savefig("between.png", dpi=100)
show("between.png", "Decoded: one clip, the mean of the latents of both, the other clip")

# %% [markdown]
# ## Long videos
#
# A causal model encodes a video of any length in pieces, in constant memory. The pieces give the
# same latents as the whole video.

# %%
long = np.zeros((1, 33, 32, 32, 1), np.uint8)
long[:, ::2] = 200
cache, pieces = vvae.begin_encode(), []
for piece in np.array_split(long, 5, axis=1):
    cache, posterior = vvae.encode_chunk(model, params, cache, jnp.asarray(piece))
    pieces.append(posterior.mean)
if cache.pending:  # frames that fill no latent frame
    pieces.append(vvae.end_encode(model, params, cache).mean)
whole = vvae.encode(model, params, jnp.asarray(long)).mean
joined = jnp.concatenate(pieces, axis=1)
print("latent frames", joined.shape[1], "largest difference", float(jnp.abs(joined - whole).max()))
