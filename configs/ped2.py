"""UCSD Ped2: a camera over a walkway; trained on normal video only.

    python train.py configs/ped2.py --data.path PED2

PED2 is a folder with a manifest.csv whose column `abnormal` gives the abnormal frames of the test
videos. About 15 minutes on two CPU cores.
"""

from vvae.config import Config, Data, Evaluate, Model, Train


def get_config() -> Config:
    """Returns the settings for UCSD Ped2."""
    return Config(
        name="ped2",
        data=Data(name="UCSD Ped2", view="gray", height=64, width=96, num_frames=16),
        model=Model(widths=(32, 64, 128, 128), latent_dim=50, clip_latent_dim=5),
        train=Train(batch_size=8, num_steps=1500, validate_every=300),
        evaluate=Evaluate(tasks=("reconstruct", "density", "anomaly", "generate")),
    )
