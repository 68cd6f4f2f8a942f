"""A run directory of an untrained SequentialVAE, as the commands would have left it."""

import csv
from pathlib import Path

import jax
import numpy as np
import optax

from vvae import build, video
from vvae.config import Config, Data, Evaluate, Model, Train
from vvae.models.contract import init_variables
from vvae.run import create_run
from vvae.training.checkpoint import Checkpointer
from vvae.training.state import init_state

CLASSES = ("dark", "light")


def write_videos(folder: Path) -> None:
    """Writes videos of two classes of brightness in which a spot drifts: .npy of 10 frames in
    train, val and test, and real files new/dark.mkv and new/light.mkv of 11 frames of 20x24."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        for label, level in zip(CLASSES, (60, 170), strict=True):
            (folder / "known" / split / label).mkdir(parents=True)
            for number in range(count):
                frames = make_frames(rng, level, (10, 16, 16))
                np.save(folder / "known" / split / label / f"{number}.npy", frames)
    (folder / "new").mkdir()
    for label, level in zip(CLASSES, (60, 170), strict=True):
        frames = np.repeat(make_frames(rng, level, (11, 20, 24)), 3, axis=-1)
        frames[6:8, 4:18, 4:18] = 255
        video.write_video(folder / "new" / f"{label}.mkv", frames, fps=10, lossless=True)


def make_frames(rng, level: int, shape_THW) -> np.ndarray:
    """Draws noisy frames of this brightness with a moving bright spot, uint8 [T, H, W, 1]."""
    frames = level + rng.integers(-10, 11, (*shape_THW, 1))
    for t in range(shape_THW[0]):
        frames[t, 6:9, t : t + 3] = level + 60
    return np.clip(frames, 0, 255).astype(np.uint8)


def write_run(folder: Path, known: Path, **data) -> Path:
    """Writes RUN of random weights with a checkpoint; `data` are settings such as the view."""
    tile = data.get("tile")
    config = Config(
        data=Data(
            path=str(known),
            height=16,
            width=16,
            cache_dir=str(folder / "cache"),
            workers=0,
            **{"num_frames": 4} | data,
        ),
        model=Model(widths=(4,) if tile else (4, 4), hidden=8, latent_dim=3, clip_latent_dim=2),
        train=Train(batch_size=4),
        evaluate=Evaluate(
            tasks=("anomaly",) if tile else ("classify", "anomaly"),
            baselines=("chance",),
            anomaly_block=4,
            regret_steps=1,
        ),
    )
    model = build.build_model(config)
    variables = init_variables(model, jax.random.key(0))
    variables["stats"] = variables["stats"] | {"std": np.float32(0.4)}
    facts = {"path": str(known), "fingerprint": "", "num_channels": 1, "num_steps": 0}
    workdir = folder / "run"
    create_run(workdir, config, facts, CLASSES)
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        state = init_state(variables["params"], variables["stats"], optax.sgd(0.1))
        checkpointer.save(0, state, metrics={"val_elbo": 0.0}, wait=True)
    return workdir


def read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Returns path -> row of a CSV file."""
    with path.open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}
