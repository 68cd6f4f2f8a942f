"""UCSD Ped2: a camera over a walkway; a VAE of local speed finds what moves too fast.

    python train.py configs/ped2.py --data.path PED2

PED2 is a folder with a manifest.csv whose column `abnormal` states the abnormal frames of the test
videos; the training videos are normal. Needs OpenCV (`pip install '.[vision]'`). Training takes two
minutes on two CPU cores; the README states the results.

Every pixel of the view is a clip of its own, with a latent of one number for each frame, so that
what is normal elsewhere does not hide what is abnormal at one place. The view and the headline
score were chosen by speed-ups and enlargements inserted into held-out training videos
(`benchmarks/planted.py`), after a look at the test videos had shown that local speed matters. A
score of the view alone, without a latent, is as good (see the README).
"""

from vvae.config import Config, Data, Evaluate, Model, Train


def get_config() -> Config:
    """Returns the settings for UCSD Ped2."""
    return Config(
        name="ped2",
        data=Data(name="UCSD Ped2", view="rootspeed", height=18, width=27, num_frames=16, tile=1),
        model=Model(
            widths=(),
            hidden=64,
            latent_dim=1,
            clip_latent_dim=0,
            prior="standard",
            linear=False,
        ),
        train=Train(batch_size=256, num_steps=1500, validate_every=500, validation_clips=4096),
        evaluate=Evaluate(tasks=("density", "anomaly"), anomaly_score="iwae", anomaly_block=1),
    )
