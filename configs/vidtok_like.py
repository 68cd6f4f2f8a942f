"""A large causal model, losses of VidTok; needs an accelerator.

    vvae train vidtok_like --data.path VIDEOS

The losses are those of kl_causal_488_16chn. Needs `pip install '.[perceptual]'`: 256x256, LPIPS by
VGG16 and a critic. It has not been trained. Unless a comment says otherwise, the weights come from
microsoft/VidTok at d6ad92d, configs/vidtok_kl_causal_488_16chn.yaml; its sums are over the elements
of a clip, as here. Three things differ: the network is ours (`causal.SIZES["base"]`); the critic
sees 3-D patches instead of 2-D ones; and the scale of the error is fixed at the value where
VidTok's learned scale starts.
"""

from vvae.config import Causal, Config, Critic, Data, Evaluate, Model, Objective, Optim, Train


def get_config() -> Config:
    """Returns the settings."""
    return Config(
        name="vidtok_like",
        # 17 frames of 256x256 (README, "Performance"). They train at 3 frames/s, from videos of 30.
        data=Data(name="videos", view="rgb", height=256, width=256, num_frames=17, frame_stride=10),
        model=Model(kind="causal"),
        causal=Causal(
            widths=(64, 128, 208, 232),  # ours, about 40 M parameters; theirs have 158 M
            channels=16,  # kl_causal_488_16chn: 4x8x8, 16 channels
            norm="position",  # layernorm there: no statistics over time
            dtype="bfloat16",  # bf16-mixed
        ),
        objective=Objective(
            likelihood=0.0,  # no Gaussian likelihood: the two errors below
            l1=1.0,  # the absolute error, whose learned scale starts at 1 (logvar 0)
            lpips=1.0,  # perceptual weight
            lpips_net="vgg16",  # the network of LPIPS in that file's loss
            beta=1e-6,  # kl weight
            kl_warmup=0.0,
        ),
        critic=Critic(
            weight=0.2,  # disc weight, times the adaptive weight
            start=20001,  # disc start
            lecam=0.005,  # lecam weight
            learning_rate=1e-5,  # one rate for both sides
            width=64,  # of the PatchGAN they build on (Isola et al. 2017)
            depth=3,
        ),
        optim=Optim(
            learning_rate=1e-5,  # base learning rate
            warmup=0.0,
            final_fraction=1.0,  # constant
            ema_decay=0.999,  # ours: theirs is off in that file
        ),
        # 50k steps in batches of 16 (README, two-stage training).
        train=Train(batch_size=16, num_steps=50_000, validate_every=2500),
        evaluate=Evaluate(
            tasks=("reconstruct", "density"), num_samples=4, lpips=("alexnet", "vgg16")
        ),
    )
