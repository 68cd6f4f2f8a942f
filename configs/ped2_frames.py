"""One fixed camera by appearance, as is usual; below surveillance.

    vvae train ped2_frames --data.path PED2

A VAE of whole gray frames, trained on normal videos of UCSD Ped2 only. It is far below
`configs/surveillance.py`: what is abnormal here is the speed of
movement, which single frames do not show. Training takes five minutes on two CPU cores.
"""

from vvae.config import Config, Data, Evaluate, Model, Train


def get_config() -> Config:
    """Returns the settings for the frames of UCSD Ped2."""
    return Config(
        name="ped2_frames",
        data=Data(name="UCSD Ped2", view="gray", height=64, width=96, num_frames=16),
        model=Model(widths=(32, 64, 128, 128), latent_dim=50, clip_latent_dim=5),
        train=Train(batch_size=8, num_steps=400, validate_every=200),
        evaluate=Evaluate(tasks=("reconstruct", "density", "anomaly", "generate")),
    )
