"""One fixed camera: finds what moves at an unusual speed.

    vvae train surveillance --data.path VIDEOS
    vvae anomaly --workdir RUN --data.path NEW_VIDEOS

VIDEOS holds folders train and test; everything in the training videos counts as normal. A
manifest.csv may state the abnormal frames of test videos in a column `abnormal`. Training takes two
minutes on two CPU cores. The settings were chosen for UCSD Ped2, a camera over a walkway.

Every pixel of the view is a clip of its own, with a latent of one number for each frame, so that
what is normal elsewhere does not hide what is abnormal at one place. The view and the headline
score were chosen by speed-ups and enlargements inserted into held-out training videos
(`benchmarks/planted.py`), after a look at the test videos had shown that local speed matters. A
score of the view alone, without a latent, is as good (docs/results/ped2.md).
"""

from vvae.config import Config, Data, Evaluate, Model, Train


def get_config() -> Config:
    """Returns the settings for a fixed camera."""
    return Config(
        name="surveillance",
        data=Data(name="your videos", view="rootspeed", height=18, width=27, num_frames=16, tile=1),
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
