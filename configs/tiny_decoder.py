"""A small decoder for published latents, distilled on your own videos, with --init_from FOLDER.

    pip install '.[pretrained,perceptual]'
    vvae train tiny_decoder --init_from FOLDER --data.path VIDEOS --workdir RUN
    vvae reconstruct --workdir RUN

FOLDER holds published weights. Their encoder stays as it is, so that the latents are those of the
published network; a decoder of the channels model.decoder_widths learns from the videos and from
what the published decoder makes of the same latents. The decoder is that of TAEHV: causal, with
constant memory on streams. `vvae.save_pretrained` writes the result as a folder, and
`vvae decode STORE OUT --pretrained THAT_FOLDER` decodes the latents of the published encoder by it.
"""

from vvae.config import Config, Data, Evaluate, Model, Objective, Optim, Train


def get_config() -> Config:
    """Returns settings for clips of 5 frames of 96x128."""
    return Config(
        name="tiny_decoder",
        data=Data(name="your videos", view="rgb", height=96, width=128, num_frames=5, flip=True),
        model=Model(kind="published", decoder_widths=(64, 48, 32, 16)),
        # The encoder is fixed, so the KL is too. VGG16 would take most of the time on a CPU.
        objective=Objective(
            beta=0.0, likelihood=0.0, l1=1.0, teacher=1.0, lpips=0.2, lpips_net="alexnet"
        ),
        optim=Optim(learning_rate=1e-3, clip_norm=1e5, ema_decay=0.99, freeze="encoder"),
        train=Train(batch_size=4, num_steps=2000, validate_every=500, validation_clips=16),
        evaluate=Evaluate(tasks=("reconstruct",), num_samples=4),
    )
