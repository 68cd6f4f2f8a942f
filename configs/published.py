"""Published weights, fine-tuned, with --init_from FOLDER.

    pip install '.[pretrained]'
    vvae train published --init_from FOLDER --data.path VIDEOS --workdir RUN
    vvae reconstruct --workdir RUN

FOLDER is a folder in the format of diffusers, with config.json and .safetensors, of Wan 2.1 or 2.2,
Qwen-Image, LTX-Video or VidTok. `vvae reconstruct --pretrained FOLDER` measures the
weights on the same videos before training. The encoder stays fixed, so that models of its latents
continue to work; `--optim.freeze none` trains it, too. `vvae.save_pretrained` writes the result as
such a folder again. A network of this size needs an accelerator.
"""

from vvae.config import Config, Data, Evaluate, Model, Objective, Optim, Train


def get_config() -> Config:
    """Returns settings for clips of 17 frames of 128x128."""
    return Config(
        name="published",
        data=Data(name="your videos", view="rgb", height=128, width=128, num_frames=17, flip=True),
        model=Model(kind="published"),
        objective=Objective(kl_warmup=0.0),
        optim=Optim(learning_rate=2e-5, sigma_rate=100.0, clip_norm=1e5, freeze="encoder"),
        train=Train(batch_size=1, num_steps=2000, validate_every=500, validation_clips=16),
        evaluate=Evaluate(tasks=("reconstruct", "density"), num_samples=4),
    )
