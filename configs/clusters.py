"""Clusters of videos without labels, by a mixture prior.

    vvae train clusters

On the built-in performers, about 10 minutes on two CPU cores beside other work. The ten components
of the mixture, matched one to one to the ten actions, agree with 0.485 ± 0.046 of the test videos
over five seeds; a Gaussian mixture fitted to the same latents afterwards agrees with 0.512 ± 0.051.
docs/results/clusters.md shows both beside baselines. No labels are used in training, but the
choices below were made by labels of training videos.

With the `static` frame prior, p(z_t | w) knows about the movement only what w carries, so that w
has to carry it; a learned transition would infer the movement by itself. The view is the root of
flow: for gray frames, w carries other information than the action. Clips are not mirrored, since
this would make one class of swipes to the left and to the right.

These shares of training videos agree after 600 steps, with a mixture fitted to w afterwards: gray
0.21, absolute differences 0.36 (static 0.41), roots of flow 0.44 (static 0.46 to 0.51, depending on
the local maximum).
"""

from vvae.config import Config, Data, Evaluate, Model, Objective, Train


def get_config() -> Config:
    """Returns the settings for clustering the actions of the performers."""
    return Config(
        name="clusters",
        data=Data(view="rootflow", crop=2),
        model=Model(prior="static", clip_latent_dim=10, clip_prior="mixture", num_components=10),
        objective=Objective(prior_every=250),
        train=Train(num_steps=1500, validate_every=500),
        evaluate=Evaluate(tasks=("reconstruct", "density", "generate", "cluster")),
    )
