"""Moving digits: bits per 8-bit value, of a VAE and of models without latents."""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import numpy as np

from benchmarks import pixel_models
from benchmarks.boards.running import Trained, train
from benchmarks.moving_digits import NUM_FRAMES, SIDE, write_folder
from benchmarks.resampling import draw_values
from benchmarks.results import Board, Measurement, Request
from vvae import build
from vvae.data.clips import Clips
from vvae.measure.mapping import map_clips
from vvae.objectives.elbo import elbo, iwae
from vvae.run import open_run

NUM_SAMPLES, CHUNK, BATCH = 50, 5, 10
COMPONENTS = (16, 64, 256)
NUM_VALUES = NUM_FRAMES * SIDE * SIDE

BOARD = Board(
    task="digits",
    protocol="Bits per 8-bit value of moving digits, lower is better: 100 test sequences of 20 "
    "frames of 64x64, two digits each, by the rules of Srivastava et al. 2015 (arXiv:1502.04681), "
    "from digits of MNIST's t10k that no training sequence has (its training file is not used, so "
    "that figures of papers cannot be compared). `nats` are those of a sequence. `vae`: a "
    f"SequentialVAE with a discretised logistic, by IWAE-{NUM_SAMPLES}; `elbo_bits` and `elbo` "
    "are its ELBO. `past_mixture`: a mixture of 3 logistics for each pixel, by a small network "
    "from 9x9 pixels of each of the two frames before. `pca`: a Gaussian of frames with the "
    "covariance of probabilistic PCA, its number of components chosen on the validation sequences, "
    "by a bound with uniform noise. `histogram`: of each pixel. All are probabilities of the same "
    "8-bit values, or lower bounds on them, and were fitted to the 1,000 training sequences alone. "
    "± is the standard deviation over training seeds.",
    data="moving digits, 1,000 training, 100 validation and 100 test sequences",
    headlines=("vae",),
    columns=("bits", "nats", "elbo_bits", "elbo"),
    unit="test sequences",
    lower_is_better=True,
)

SETTINGS = {
    "data.name": "moving digits",
    "data.height": SIDE,
    "data.width": SIDE,
    "data.num_frames": NUM_FRAMES,
    "model.likelihood": "discretized_logistic",
    "model.latent_dim": 64,
    "model.clip_latent_dim": 16,
    "train.batch_size": 8,
    "train.num_steps": 1000,
    "train.validate_every": 500,
}


def measure(request: Request) -> list[Measurement]:
    """Trains the VAE and the mixture; what does not depend on a seed is measured in seed 0 only."""
    folder = request.folder / "digits-videos"
    write_folder(Path(request.data_path), folder)
    request = dataclasses.replace(request, data_path=str(folder))
    arguments = ["default", "--model.widths", "16", "32", "64", "64", "--evaluate.tasks", "density"]
    for name, value in SETTINGS.items():
        arguments += [f"--{name}", str(value)]
    run = train(request, "digits", arguments)
    config = open_run(run.workdir).config
    splits = build.open_data(config, request.data_path).splits
    rows = [_measure_vae(run, splits["test"], request.seed)]
    videos = {name: clips.read(np.arange(len(clips))) for name, clips in splits.items()}
    steps = pixel_models.NUM_STEPS if request.num_steps is None else request.num_steps
    nats_N, size = pixel_models.measure_past(
        videos["train"], videos["test"], seed=request.seed, num_steps=steps
    )
    rows.append(_make_row("past_mixture", nats_N, parameters=size))
    if request.seed:
        return rows
    measure_pca = functools.partial(
        pixel_models.measure_pca, pixel_models.fit_spectrum(videos["train"])
    )
    best = max(COMPONENTS, key=lambda count: measure_pca(videos["val"], count).mean())
    rows.append(_make_row("pca", measure_pca(videos["test"], best)))
    histogram_N = pixel_models.measure_histogram(videos["train"], videos["test"])
    return [*rows, _make_row("histogram", histogram_N)]


def _measure_vae(run: Trained, test: Clips, seed: int) -> Measurement:
    model, params = build.load(run.workdir)
    keys = jax.random.split(jax.random.key(seed), 2)

    @jax.jit
    def score(batch):
        video, mask, index = batch["video"], batch["mask"], batch["index"]
        bound = iwae(model, params, video, keys[0], NUM_SAMPLES, mask, CHUNK, index)
        return {
            "iwae": bound.value,
            "elbo": elbo(model, params, video, keys[1], mask, CHUNK, index),
        }

    values = map_clips(score, test, BATCH)
    elbo_N = values["elbo"].astype(np.float64)
    row = _make_row("vae", values["iwae"].astype(np.float64), parameters=run.parameters)
    bounds = {"elbo_bits": _to_bits(elbo_N.mean()), "elbo": float(elbo_N.mean())}
    return dataclasses.replace(
        row, family="vae", metrics=row.metrics | bounds, frames_per_second=run.frames_per_second
    )


def _make_row(name: str, nats_N: np.ndarray, parameters: int = 0) -> Measurement:
    bits_N = np.array([_to_bits(nats) for nats in nats_N])
    number_N = np.arange(len(bits_N))
    return Measurement(
        row=name,
        family="baseline",
        metrics={"bits": float(bits_N.mean()), "nats": float(nats_N.mean())},
        parameters=parameters,
        draws=draw_values(lambda bits: bits.mean(), (bits_N,), number_N),
        num_units=len(bits_N),
    )


def _to_bits(nats: float) -> float:
    return float(-nats / (NUM_VALUES * math.log(2.0)))
