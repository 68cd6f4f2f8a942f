"""A large causal model, losses of WF-VAE; needs an accelerator.

    vvae train wfvae_like --data.path VIDEOS

It sees Haar coefficients. Needs `pip install '.[perceptual]'`. It has not been trained. Unless a
comment says otherwise, the weights come from PKU-YuanGroup/WF-VAE at d858bee, assets/report.pdf,
Table 7, stage I. Two things differ: the wavelet loss compares Haar coefficients of the decoded
video with those of the real one, whereas WF-VAE ties wavelet paths inside the encoder and the
decoder; and the network is ours.
"""

from vvae.config import Causal, Config, Critic, Data, Evaluate, Model, Objective, Optim, Train


def get_config() -> Config:
    """Returns the settings."""
    return Config(
        name="wfvae_like",
        data=Data(name="videos", view="rgb", height=256, width=256, num_frames=25),  # stage I
        model=Model(kind="causal"),
        causal=Causal(
            widths=(128, 208, 232),  # ours
            channels=16,  # WF-VAE-L, 16 channels
            stem="wavelet",  # the first level of their wavelet path
            norm="position",  # Table 4: LayerNorm is better than GroupNorm
        ),
        objective=Objective(
            likelihood=0.0,  # L1 alone
            l1=1.0,  # loss type L1
            lpips=1.0,  # LPIPS weight; 0.1 in stage III
            lpips_net="vgg16",  # the network of such losses; the table does not name it
            wavelet=0.1,  # wavelet loss weight
            beta=1e-6,  # KL weight
            kl_warmup=0.0,
        ),
        critic=Critic(
            weight=0.5,  # ours, as in taming-transformers: the table states the adaptive part alone
            start=0,  # ours: the table states none
            lecam=0.0,  # none
            learning_rate=1e-5,  # the one learning rate of the table
        ),
        optim=Optim(
            learning_rate=1e-5,  # learning rate
            warmup=0.0,
            final_fraction=1.0,
            ema_decay=0.999,  # EMA
        ),
        train=Train(batch_size=8, num_steps=800_000, validate_every=5000),  # batch 8, 800k steps
        evaluate=Evaluate(
            tasks=("reconstruct", "density"), num_samples=4, lpips=("alexnet", "vgg16")
        ),
    )
