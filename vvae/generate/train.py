"""Trains a prior on a store of latents."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae import figures, processes, progress
from vvae.data.loader import read_batches
from vvae.generate import flow
from vvae.generate.clips import LatentClips, LatentData, measure_scale, open_latents
from vvae.generate.config import GenerateConfig
from vvae.generate.prior import KEPT_METRIC, Prior, draw_videos, load, load_vae, make_network
from vvae.generate.run import PriorRun, begin_prior_run, list_commands, open_prior_run
from vvae.latents.record import count_frames
from vvae.measure.examples import spread_evenly
from vvae.report.prior import write_prior_page
from vvae.session.preview import check_batch_size
from vvae.session.start import count_steps, restore_state
from vvae.session.update import make_schedule
from vvae.session.watch import Ending, Interrupts, Report, explain_memory
from vvae.training.checkpoint import Checkpointer
from vvae.training.cost import measure_step
from vvae.training.optimizer import make_optimizer
from vvae.training.parallel import Lookahead, make_runner, prefetch, run_ahead
from vvae.training.state import TrainState, init_state, variables
from vvae.training.step import train_step
from vvae.video import NOMINAL_FPS

_INITIALISATION_STREAM, _VALIDATION_STREAM = 0, 2


def train_prior(config: GenerateConfig, workdir: Path) -> Ending:
    """Trains a prior, or continues its training; then draws samples and writes the page.

    Args:
      config: the settings.
      workdir: the run directory, new or to be continued.

    Raises:
      ValueError: for latents, a VAE or a run directory that do not fit the settings.
    """
    runner = make_runner(config.parallel.kind)
    check_batch_size(config.train, runner)
    data = processes.do_together(open_latents, config.latents, config.data.path)
    _print_data(data)
    model = make_network(config, data.shape[-1], len(data.class_names))
    num_steps = count_steps(config.train, len(data.splits["train"]))
    facts = _describe_work(data, num_steps, _count_parameters(model, data.shape))
    if config.vae is not None:
        load_vae(config.vae, facts)  # another one ends here, not after the training
    processes.do_first(begin_prior_run, workdir, config, facts)
    run = open_prior_run(workdir)
    print(f"run directory: {workdir}; {facts['num_parameters']:,} parameters", flush=True)
    ending = _run_steps(run, runner, model, data)
    if ending is Ending.FINISHED and processes.is_first():
        show_samples(run)
    return ending


def _run_steps(run: PriorRun, runner, model, data: LatentData) -> Ending:
    config, num_steps = run.config, run.num_steps
    schedule = make_schedule(config.optim, num_steps)
    tx = make_optimizer(
        schedule, clip_norm=config.optim.clip_norm, weight_decay=config.optim.weight_decay
    )
    training = flow.Training(config.flow.known, config.flow.class_dropout)
    num_micro_batches = config.train.accumulate or 1
    step = runner.compile_step(
        functools.partial(
            train_step,
            loss_fn=lambda v, batch, key, _: flow.flow_loss(model, training, v, batch, key),
            tx=tx,
            seed=config.train.seed,
            ema_decay=config.optim.ema_decay,
            num_micro_batches=num_micro_batches,
        )
    )
    clips = data.splits["train"]
    validate = _Validation(model, training, data.splits["val"], config)
    start = functools.partial(_start_state, model, tx, config, data.shape)
    with Checkpointer(run.checkpoints, KEPT_METRIC) as checkpointer:
        # --- Restore or start
        scale = {name: np.zeros(data.shape[-1], np.float32) for name in ("mean", "std")}
        abstract_state = jax.eval_shape(start, scale)
        state = restore_state(checkpointer, abstract_state, config.checkpoint.fallback)
        first_step = 0 if state is None else int(state.step)
        if first_step >= num_steps:
            print(f"{run.workdir} is finished: all {num_steps} steps are done")
            return Ending.FINISHED
        batches = _open_batches(clips, config, runner, first_step)
        cost = run_ahead(measure_step, step, runner.describe_state(abstract_state), batches.current)
        if state is None:
            with progress.stage("latents measured"):
                state = processes.share(jax.jit(start)(measure_scale(clips)))
        state = runner.place_state(state)

        # --- Loop
        def save(number: int, state: TrainState) -> None:
            with report.pause():
                scores = validate(runner.fetch(variables(state, ema=True)))
                report.write(number, "validation", scores)
                checkpointer.save(number, state, {"next_step": number}, scores)

        report = Report(
            run, clips, runner, schedule, first_step=first_step, num_frames=data.shape[0]
        )
        memory = explain_memory(
            f"network.width={config.network.width}", config.train.batch_size, num_micro_batches
        )
        with memory, Interrupts() as interrupts, report:
            report.describe_step(cost.result())
            number = report.run_steps(step, state, batches, interrupts, save=save)
        batches.close()
    if number == num_steps:
        return Ending.FINISHED
    print(f"stopped at step {number} of {num_steps}; the same command goes on")
    return interrupts.ending


class _Validation:
    """Measures the loss of the averaged parameters on validation clips, with the same noise."""

    def __init__(self, model, training: flow.Training, clips: LatentClips, config: GenerateConfig):
        ids = spread_evenly(np.arange(len(clips)), config.train.validation_clips)
        self._batches = [
            clips.read(ids[first : first + config.train.batch_size])
            for first in range(0, len(ids), config.train.batch_size)
        ]
        key = jax.random.fold_in(jax.random.key(config.train.seed), _VALIDATION_STREAM)
        self._losses = jax.jit(
            lambda params, batch: flow.flow_losses(model, training, params, batch, key)
        )

    def __call__(self, params) -> dict[str, float]:
        losses = [np.asarray(self._losses(params, batch)) for batch in self._batches]
        loss = float(np.concatenate(losses).mean(dtype=np.float64))
        return {"val_loss": loss, KEPT_METRIC: -loss}


def _start_state(model, tx, config: GenerateConfig, shape: tuple[int, ...], scale) -> TrainState:
    key = jax.random.fold_in(jax.random.key(config.train.seed), _INITIALISATION_STREAM)
    return init_state(_init_params(model, shape, key), scale, tx)


def _init_params(model, shape: tuple[int, ...], key: jax.Array):
    z = jnp.zeros((1, *shape))
    return model.init(key, z, jnp.zeros((1, shape[0])), jnp.zeros(1, jnp.int32))["params"]


def _count_parameters(model, shape: tuple[int, ...]) -> int:
    shapes = jax.eval_shape(functools.partial(_init_params, model, shape), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _open_batches(clips: LatentClips, config: GenerateConfig, runner, first_step) -> Lookahead:
    batches = read_batches(
        clips,
        config.train.batch_size,
        config.train.seed,
        start_step=first_step,
        process_index=processes.index(),
        process_count=processes.count(),
    )
    return Lookahead(prefetch(batches, lambda item: runner.place_batch(item[1])))


def _describe_work(data: LatentData, num_steps: int, num_parameters: int) -> dict[str, Any]:
    """Returns `data` of prior.json; what is in `latents` decides what is learned."""
    clips = data.splits["train"]
    first = clips.store.record(int(clips.index_N[0]))
    return {
        "latents": {
            "encoder": first["encoder"],
            "settings": first["settings"],
            "shape": list(data.shape),
            "class_names": list(data.class_names),
            "num_clips": {split: len(clips) for split, clips in data.splits.items()},
        },
        "normalization": clips.store.settings["encoder"]["normalization"],
        "size": first["encoded_size"],
        "num_frames": count_frames(first),
        "fps": first["fps"] or NOMINAL_FPS,
        "num_steps": num_steps,
        "num_parameters": num_parameters,
    }


def _print_data(data: LatentData) -> None:
    shape = "x".join(map(str, data.shape))
    counts = ", ".join(f"{split}: {len(clips)}" for split, clips in data.splits.items())
    names = f"{len(data.class_names)} classes" if data.class_names else "no classes"
    print(f"latents: clips of {shape}; {counts}; {names}", flush=True)


# --- samples -------------------------------------------------------------------------------------


def show_samples(run: PriorRun) -> None:
    """Draws videos of each class where a VAE is named, and writes the page."""
    config = run.config
    if config.vae is not None and config.samples.count:
        prior = load(run)
        vae = load_vae(config.vae, prior.record)
        with progress.stage("samples drawn"):
            write_samples(run, prior, vae)
        print(f"samples: {run.workdir / 'samples'}")
    commands = list_commands(run)
    path = write_prior_page(run.workdir, run.record, commands)
    print(f"report: {path}\nmore samples: {next(iter(commands.values()))}")


def write_samples(run: PriorRun, prior: Prior, vae) -> None:
    """Writes samples/CLASS.mp4, with videos side by side; all.mp4 for a prior without classes."""
    settings, folder = run.config.samples, run.workdir / "samples"
    folder.mkdir(exist_ok=True)
    sampling = prior.sampling(settings.num_steps, settings.guidance)
    for name in prior.class_names or (None,):
        label = prior.find_label(name)
        keys = [(0, label, number) for number in range(settings.count)]
        videos = draw_videos(prior, vae, [label] * len(keys), keys=keys, sampling=sampling)
        rows = {name or "samples": np.broadcast_to(videos, (*videos.shape[:-1], 3))}
        figures.write_grid_video(folder / f"{name or 'all'}.mp4", rows, prior.record["fps"])
