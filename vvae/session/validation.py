"""Measures and draws the averaged parameters while the network trains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vvae import figures, processes
from vvae.data.dataset import Dataset
from vvae.measure import collapse
from vvae.measure.examples import choose_examples, spread_evenly
from vvae.measure.frames import compare_videos, reconstruct_codes, write_comparison
from vvae.measure.levels import Level, collect_levels, measure_batch
from vvae.measure.mapping import map_clips, map_clips_here, map_clips_on_all
from vvae.run import Run
from vvae.session.watch import Report
from vvae.training.log import read_metrics
from vvae.training.state import TrainState, variables

_VALIDATION_STREAM = 2
_SHEET_CLIPS = 4
_MAX_MI_INPUTS = 1000


class Validation:
    """Measures the averaged parameters on validation clips and draws a reconstruction sheet."""

    def __init__(self, model, runner, dataset: Dataset, run: Run):
        """Chooses the clips: the same at every validation."""
        clips = dataset.splits["val"]
        limit = run.config.train.validation_clips
        self._clips = clips.select(spread_evenly(np.arange(len(clips)), limit))
        self._shown = clips.select(choose_examples(clips, _SHEET_CLIPS))
        self._model, self._runner = model, runner
        self._batch_size = run.config.train.batch_size
        self._folder = run.workdir / "validation"
        self._folder.mkdir(exist_ok=True)
        self._num_warmup = round(run.config.objective.kl_warmup * run.num_steps)
        self._seed = run.config.train.seed
        key = jax.random.fold_in(jax.random.key(self._seed), _VALIDATION_STREAM)
        self._measure = functools.partial(measure_batch, model, key)
        self._measure_on_all = runner.map_eval(self._measure)

    def __call__(self, step: int, state: TrainState, report: Report) -> dict[str, float]:
        """Returns the scores, which are logged too; warns where a level has collapsed."""
        params = variables(state, ema=True)
        shown = self._runner.fetch(params)
        measured = self._measure_clips(params, shown)
        levels = collect_levels(self._model, measured, self._clips.mask_NT)
        scores = {"val_elbo": float(measured["elbo"].mean(dtype=np.float64))}
        for name, kl_N in measured["kl"].items():
            scores[f"val_kl_{name}"] = float(kl_N.mean(dtype=np.float64))
        for name, level in levels.items():
            scores |= self._score_level(name, level)
        error, deviation = measured["squared_error"].sum(), measured["squared_deviation"].sum()
        scores["val_error_share"] = float(error / deviation)
        report.write(step, "validation", scores)
        active = {name: level.active_Z for name, level in levels.items()}
        collapsed, verdict = collapse.describe_collapse(active, error, deviation)
        if collapsed and step > self._num_warmup:
            report.say(f"step {step}: {verdict}")
        name = f"step_{step:08d}.png"
        if processes.is_first():
            figures.try_to_draw([name], lambda: self._draw(name, shown), report.say)
        return scores

    def _measure_clips(self, params, host):
        """Measures the clips on all devices; `host` holds the values of the placed `params`."""
        if self._runner.num_devices > 1:
            return map_clips_on_all(
                lambda batch: self._measure_on_all(params, batch), self._clips, self._batch_size
            )
        # Arrays that are not placed on a mesh: the task `density` then runs the same program.
        params = jax.tree.map(jnp.asarray, host)
        return map_clips(lambda batch: self._measure(params, batch), self._clips, self._batch_size)

    def _score_level(self, name: str, level: Level) -> dict[str, float]:
        information, _ = collapse.estimate_mutual_information(
            level.mean_NZ, level.variance_NZ, _MAX_MI_INPUTS, self._seed
        )
        return {
            f"val_active_{name}": float(level.active_Z.sum()),
            f"val_mutual_information_{name}": information,
        }

    def _draw(self, name: str, params) -> None:
        # The share of a device; on one device, the task `reconstruct` runs the same program.
        batch_size = self._batch_size // self._runner.num_devices
        codes = map_clips_here(
            lambda b: reconstruct_codes(self._model, params, b["video"], b["mask"]),
            self._shown,
            batch_size,
        )
        videos = self._shown.read(np.arange(len(self._shown)))
        rows = compare_videos(self._shown.view, videos, np.rint(codes).astype(np.uint8))
        write_comparison(self._folder / name, rows, self._shown)


def draw_curves(run: Run) -> None:
    """Draws metrics.jsonl as curves.png in the run directory; only the first process does."""
    if processes.is_first():
        figures.try_to_draw(["curves.png"], lambda: _draw_curves(run))


def _draw_curves(run: Run) -> None:
    rows = read_metrics(run.metrics)

    def curve(kind: str, name: str):
        points = [(row["step"], row.get(name)) for row in rows if row["kind"] == kind]
        points = [point for point in points if point[1] is not None]
        return tuple(np.array(points).T) if points else ((), ())

    levels = {"frame": "frame latents", "clip": "clip latent", "grid": "grid of latents"}
    levels = {k: text for k, text in levels.items() if any(f"kl_{k}" in row for row in rows)}
    # The first steps are far below all others and would flatten the curve.
    panels = {
        "ELBO, nats/clip": {
            "training": tuple(values[1:] for values in curve("train", "elbo")),
            "validation": curve("validation", "val_elbo"),
        },
        **{
            f"KL of the {text}, nats/clip": {"training": curve("train", f"kl_{level}")}
            for level, text in levels.items()
        },
        "active units (validation)": {
            text: curve("validation", f"val_active_{level}") for level, text in levels.items()
        },
        "norm of the gradient": {"training": curve("train", "grad_norm")},
    }
    figures.write_training_curves(run.workdir / "curves.png", panels, f"{run.workdir.name}")
