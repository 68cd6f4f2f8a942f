"""The parts of a training that know its settings; `train.py` tells in which order they act."""

import contextlib
import functools
import json
import math
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vvae import fidelity, figures, lpips, objectives, processes
from vvae import run as runs
from vvae.analysis import density, latents
from vvae.analysis.baselines import fit_block_pca, fit_frame_pca
from vvae.analysis.batches import (
    choose_examples,
    map_clips,
    map_clips_on_all,
    spread_evenly,
)
from vvae.analysis.reconstruct import compare_videos, to_codes, write_comparison
from vvae.config import Config, Objective, Optim, Train, identity
from vvae.data.clips import Clips
from vvae.data.dataset import Dataset, describe_flaws, find_label_problems
from vvae.data.loader import (
    Augmentation,
    Cuts,
    channel_statistics,
    pixel_statistics,
    train_batches,
)
from vvae.data.size import DataSize, estimate_size
from vvae.distributions import Gaussian
from vvae.models import contract, mixture_prior
from vvae.models.bottleneck import GaussianLatents
from vvae.models.causal import CausalVideoVAE
from vvae.models.contract import init_variables
from vvae.models.critic import PatchCritic
from vvae.models.grid import GridVideoVAE
from vvae.models.ppca import FrameSpectrum, start_at_ppca, start_blocks_at_ppca, whiten_blocks
from vvae.models.sequential import SequentialVAE, replace_clip_prior
from vvae.pretrained.load import describe_network, is_published, load_network, load_pretrained
from vvae.training import estimate, optimizer
from vvae.training.adversarial_step import Adversary, adversarial_step
from vvae.training.checkpoint import Checkpointer, DamagedError
from vvae.training.cost import StepCost
from vvae.training.finite import FiniteGuard
from vvae.training.log import MetricsLog, Progress, open_tensorboard, read_metrics
from vvae.training.parallel import prefetch
from vvae.training.profile import StepProfile
from vvae.training.state import CriticState, TrainState, init_critic, init_state, variables
from vvae.training.step import train_step

_INITIALISATION_STREAM = 0
_VALIDATION_STREAM = 2
_CRITIC_STREAM = 3
_SHEET_CLIPS = 4
# Frames that are computed at a time on a CPU, times the side of a square of as many places as the
# first layer has of each: 32 frames of 64x64 pixels, 64 of 32x32. More leave its caches, and fewer
# pay for the start of every operation (benchmarks/train_step.py).
_CPU_SIDES = 32 * 64
_MAX_MI_INPUTS = 1000
# Clips that the mixture prior is fitted to, spread over the training clips.
_MAX_PRIOR_CLIPS = 4096


# --- before the training -------------------------------------------------------------------------


def count_parts(config: Config, runner) -> int:
    """Returns the number of parts in which a device computes its part of a batch.

    Raises:
      ValueError: if the batch cannot be divided over the devices and the parts.
    """
    batch_size, parts = config.train.batch_size, config.train.accumulate
    divisor = runner.num_devices * (parts or 1)
    if batch_size % divisor:
        raise ValueError(
            f"train.batch_size={batch_size} cannot be divided over {runner.num_devices} "
            f"device(s) and train.accumulate={parts}: choose a multiple of {divisor}"
        )
    if parts is not None:
        return parts
    clips = batch_size // runner.num_devices
    if jax.default_backend() != "cpu":
        return 1
    side = math.sqrt(_count_places(config))
    wanted = max(1, int(_CPU_SIDES / (side * config.data.num_frames)))
    return clips // max(n for n in range(1, clips + 1) if clips % n == 0 and n <= wanted)


def _count_places(config: Config) -> float:
    """Returns of how many places of a frame the network's first layer computes something."""
    pixels = math.prod(runs.frame_size(config))
    if config.model.kind != "causal":
        return pixels
    model = runs.build_model(config, runs.clip_format(config).clip_shape[-1])
    frames = model.temporal_compression if model.stem == "pca" else 1
    return pixels / (model.stem_scale**2 * frames)


def adopt_network(config: Config, init_from: str | None) -> Config:
    """Returns the settings with the network of the published weights that training starts from.

    Args:
      config: the settings.
      init_from: published weights, or a run; None for a fresh start.

    Raises:
      ValueError: for published weights without model.kind=published, or what is neither published
        weights nor a run.
    """
    if init_from is None:
        return config
    holds_weights, wants_weights = is_published(init_from), config.model.kind == "published"
    if holds_weights and not wants_weights:
        raise ValueError(
            f"--init_from {init_from} holds published weights: they need "
            f"model.kind=published, not {config.model.kind}; see configs/published.py"
        )
    if holds_weights:
        network = describe_network(load_network(init_from))
    else:
        network = runs.open_run(init_from).config.model.network
    if not wants_weights:
        return config
    return replace(config, model=replace(config.model, network=network))


def print_estimate(config: Config, runner, num_parts: int) -> None:
    """Prints what the training will take, before anything long begins.

    Of published networks, which have no formula, only the number of parameters.
    """
    num_parameters = count_parameters(config)
    if config.model.kind == "published":
        print(f"estimate: {num_parameters:,} parameters of a published network", flush=True)
        return
    train, network = config.train, _describe_network(config)
    frames = train.batch_size * config.data.num_frames
    frames_at_once = frames // (num_parts * runner.num_devices)
    memory = estimate.estimate_bytes(network, num_parameters, frames_at_once)
    parts = [
        f"{num_parameters:,} parameters",
        f"about {memory / 1e6:.0f} MB a device for the step",
    ]
    if train.num_steps is not None:
        parts.append(_estimate_duration(config, train.num_steps))
    print(f"estimate: {', '.join(parts)}", flush=True)


def count_parameters(config: Config) -> int:
    """Returns how many numbers the training learns."""
    model = runs.build_model(config, runs.clip_format(config).clip_shape[-1])
    shapes = jax.eval_shape(functools.partial(init_variables, model), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


def _describe_network(config: Config) -> estimate.Network | estimate.GridNetwork:
    # The channels of a view are known without opening the data.
    shape_HWC = (*runs.frame_size(config), runs.clip_format(config).clip_shape[-1])
    if config.model.kind == "sequential":
        return estimate.Network(shape_HWC, config.model.widths, config.model.hidden)
    model = runs.build_model(config, shape_HWC[-1])
    return estimate.GridNetwork(
        math.prod(shape_HWC),
        _count_places(config),
        model.stem_features,
        model.widths,
        model.blocks,
        model.halvings,
    )


def _estimate_duration(config: Config, num_steps: int) -> str:
    num_frames = config.train.batch_size * config.data.num_frames * num_steps
    seconds = estimate.estimate_seconds(
        _describe_network(config), num_frames, num_steps, estimate.measure_rate()
    )
    return (
        f"about {_format_duration(seconds)} for {num_steps} training steps, and a minute or two to "
        "compile and to evaluate"
    )


def open_data(config: Config) -> Dataset:
    """Opens the data and prints what was found, what is broken and what is left out.

    What they will take is printed first, from listings and headers.
    """
    if config.data.path is None and config.data.name == "performers":
        print("data: the built-in performers (written once, about 13 MB)", flush=True)
    folder = runs.find_videos(config)
    print(f"data: {_describe_size(estimate_size(folder, runs.clip_format(config)))}", flush=True)
    dataset = runs.open_data(config, folder, show_decoding)
    for split, clips in dataset.splits.items():
        size = _format_bytes(len(clips) * clips.clip_format.clip_bytes)
        print(f"data: {split}: {len(clips.videos)} videos, {len(clips)} clips, {size}")
    for line in describe_flaws(dataset):
        print(line)
    _check_labels(config, dataset)
    return dataset


def _check_labels(config: Config, dataset: Dataset) -> None:
    """Refuses classes that `classify` cannot learn before any time is spent on training."""
    videos = tuple(v for clips in dataset.splits.values() for v in clips.videos)
    problems = find_label_problems(videos)
    if problems and "classify" in config.evaluate.tasks:
        others = " ".join(task for task in config.evaluate.tasks if task != "classify")
        raise ValueError(f"{problems[0]}; or leave classify out: --evaluate.tasks {others}")
    for problem in problems:
        print(f"note: {problem}")


def _describe_size(size: DataSize) -> str:
    decoded = "an unknown size" if size.decoded_bytes is None else _format_bytes(size.decoded_bytes)
    files = f"{size.num_videos:,} videos of {_format_bytes(size.file_bytes)}"
    return f"{files}; decoded once, about {decoded} in the cache"


def show_decoding(done: int, total: int) -> None:
    """Shows how many videos are decoded, on one line."""
    if total and sys.stdout.isatty():
        print(f"\rdecoding {done}/{total} videos", end="\n" if done == total else "", flush=True)


def count_steps(train: Train, dataset: Dataset) -> int:
    """Returns the number of steps of the whole training.

    Raises:
      ValueError: if train.profile names later steps.
    """
    num_steps = train.num_steps
    if num_steps is None:
        num_steps = math.ceil(train.num_epochs * len(dataset.splits["train"]) / train.batch_size)
    profiled = train.profiled_steps()
    if profiled is not None and profiled[1] > num_steps:
        raise ValueError(f"train.profile={train.profile!r}: the training has {num_steps} steps")
    return num_steps


def print_epochs(config: Config, num_steps: int) -> None:
    """Prints what training in epochs will take, which is known once the data are."""
    if config.train.num_epochs is not None and config.model.kind != "published":
        text = _estimate_duration(config, num_steps)
        print(f"estimate: {config.train.num_epochs} epochs, {text}", flush=True)


def begin_run(workdir: Path, config: Config, dataset: Dataset, num_steps: int) -> runs.Run:
    """Creates the run directory, or checks that it may be continued with these settings.

    With several processes the first one writes, and all others must have the same settings and
    data.
    """
    processes.require_same("the settings", json.dumps(identity(config), sort_keys=True))
    processes.require_same("the data set", f"{dataset.fingerprint}, broken: {dataset.broken}")
    processes.do_first(lambda: _write_start(workdir, config, dataset, num_steps))
    return runs.open_run(workdir)


def _write_start(workdir: Path, config: Config, dataset: Dataset, num_steps: int) -> None:
    data_path = str(Path(dataset.root).resolve())
    if runs.is_run(workdir):
        run = runs.open_run(workdir)
        runs.check_identity(run, config, dataset.fingerprint)
        runs.record_start(run, config, data_path)
        return
    facts = {
        "path": data_path,
        "fingerprint": dataset.fingerprint,
        "num_channels": dataset.view.num_channels,
        "num_steps": num_steps,
        "num_parameters": count_parameters(config),
        "num_clips": {split: len(clips) for split, clips in dataset.splits.items()},
        "num_videos": {
            split: len({video.name for video in clips.videos})  # tiles share their video's name
            for split, clips in dataset.splits.items()
        },
        "broken": dataset.broken,
        "num_padded": dataset.num_padded,
        "num_clipped": dataset.num_clipped,
        "left_out_splits": dataset.left_out_splits,
    }
    runs.create_run(workdir, config, facts, dataset.class_names)


# --- optimizer, step, state ----------------------------------------------------------------------


def make_schedule(optim: Optim, num_steps: int):
    """Returns step -> learning rate."""
    warmup_steps = min(round(optim.warmup * num_steps), num_steps - 1)
    return optimizer.make_schedule(
        optim.learning_rate, warmup_steps, num_steps, optim.final_fraction
    )


def print_objective(config: Config) -> None:
    """Prints the weight of every term of the loss."""
    objective, critic = config.objective, config.critic
    terms = [f"{objective.likelihood:g} x -log p(x | z)", f"{objective.beta:g} x KL"]
    names = {"l1": "|error|", "mse": "error^2", "lpips": f"LPIPS ({objective.lpips_net})"}
    for name, text in {**names, "wavelet": "|Haar error|"}.items():
        weight = getattr(objective, name)
        terms += [f"{weight:g} x {text}"] if weight else []
    if critic.weight:
        begin = f", from step {critic.start}, LeCam {critic.lecam:g}"
        terms.append(f"{critic.weight:g} x critic (adaptive{begin})")
    print(f"objective: {' + '.join(terms)}", flush=True)


def make_optimizer(config: Config, schedule):
    """Returns the optax transformation."""
    has_scale = config.model.likelihood != "bernoulli"
    return optimizer.make_optimizer(
        schedule,
        clip_norm=config.optim.clip_norm,
        weight_decay=config.optim.weight_decay,
        fast={"log_sigma": config.optim.sigma_rate} if has_scale else None,
        frozen=_find_frozen(config),
    )


def _find_frozen(config: Config) -> tuple[str, ...]:
    if config.optim.freeze == "none":
        return ()
    model = runs.build_model(config, runs.clip_format(config).clip_shape[-1])
    return model.encoder_modules()


def make_step(model, tx, config: Config, num_steps: int, num_parts: int):
    """Returns (state, batch, axis_name) -> (state, metrics), to be compiled by a runner."""
    settings = {
        "tx": tx,
        "seed": config.train.seed,
        "ema_decay": config.optim.ema_decay,
        "num_micro": num_parts,
    }
    if config.critic.weight:
        render, adversary = _make_render(model, config, num_steps), _make_adversary(model, config)
        return functools.partial(
            adversarial_step, render_fn=render, adversary=adversary, **settings
        )
    return functools.partial(train_step, loss_fn=_make_loss(model, config, num_steps), **settings)


def _make_loss(model, config: Config, num_steps: int):
    """Returns the loss of a model without a critic."""
    objective = config.objective
    if _looks_at_videos(objective):
        render = _make_render(model, config, num_steps)
        return lambda *arguments: render(*arguments)[:2]
    warmup_steps = round(objective.kl_warmup * num_steps)

    def compute_loss(params, batch, key, step):
        beta = objectives.beta_schedule(step, objective.beta, warmup_steps)
        return objectives.negative_elbo(model, params, batch, key, beta, objective.free_bits)

    return compute_loss


def _looks_at_videos(objective: Objective) -> bool:
    terms = (objective.l1, objective.mse, objective.lpips, objective.wavelet)
    return any(terms) or objective.likelihood != 1.0


def _make_render(model, config: Config, num_steps: int):
    """Returns the loss with all terms but the critic's, and the decoded video."""
    objective = config.objective
    warmup_steps = round(objective.kl_warmup * num_steps)
    weights = fidelity.Weights(
        likelihood=objective.likelihood,
        free_bits=objective.free_bits,
        l1=objective.l1,
        mse=objective.mse,
        lpips=objective.lpips,
        wavelet=objective.wavelet,
    )
    perceive = None
    if objective.lpips:
        network = lpips.load_weights(objective.lpips_net)
        perceive = functools.partial(lpips.frame_lpips, network, objective.lpips_net)

    def render(params, batch, key, step):
        beta = objectives.beta_schedule(step, objective.beta, warmup_steps)
        return fidelity.rendition_loss(model, params, batch, key, beta, weights, perceive)

    return render


def _make_critic(config: Config) -> tuple[PatchCritic, optax.GradientTransformation]:
    """Returns the critic and its optimizer."""
    critic = PatchCritic(config.critic.width, config.critic.depth)
    return critic, optax.adam(config.critic.learning_rate, b1=0.5, b2=0.9)


def _make_adversary(model, config: Config) -> Adversary:
    critic, tx = _make_critic(config)
    return Adversary(
        score=lambda params, video: critic.apply({"params": params}, video),
        to_real=lambda batch: contract.as_unit_range(batch["video"]),
        last_kernel=model.last_kernel,
        tx=tx,
        weight=config.critic.weight,
        lecam=config.critic.lecam,
        start=config.critic.start,
    )


def _start_critic(config: Config) -> CriticState | None:
    """Returns the state of a fresh critic; None where there is none."""
    if not config.critic.weight:
        return None
    critic, tx = _make_critic(config)
    key = jax.random.fold_in(jax.random.key(config.train.seed), _CRITIC_STREAM)
    video = jnp.zeros((1, *runs.clip_format(config).clip_shape))
    return init_critic(jax.jit(critic.init)(key, video)["params"], tx)


def make_state(model, tx, dataset: Dataset, config: Config) -> TrainState:
    """Returns the state before the first step, standardised by the training clips."""
    seed = config.train.seed
    key = jax.random.fold_in(jax.random.key(seed), _INITIALISATION_STREAM)
    fresh = jax.jit(functools.partial(init_variables, model))(key)
    params, clips = fresh["params"], dataset.splits["train"]
    if isinstance(model, CausalVideoVAE):
        mean_C, std_C = channel_statistics(clips)
        stats = {"mean": jnp.asarray(mean_C), "std": jnp.asarray(std_C)}
        if model.stem == "pca":
            pca = fit_block_pca(clips, model.block_shape)
            stats, variance_D = whiten_blocks(pca, stats, model.components)
            if isinstance(model.bottleneck, GaussianLatents):
                beta = config.objective.beta
                params = start_blocks_at_ppca(model, params, stats, variance_D, beta)
        return init_state(params, stats, tx, _start_critic(config))
    if isinstance(model, GridVideoVAE):
        # Published weights take videos as they are; the parameters are replaced by theirs.
        return init_state(params, fresh["stats"], tx, _start_critic(config))
    mean_HWC, std = pixel_statistics(clips)
    stats = {"mean": jnp.asarray(mean_HWC), "std": jnp.float32(std)}
    if model.linear:
        pca = fit_frame_pca(clips, model.latent_dim, seed)
        scale = (127.5 * std) ** 2  # of variances, from 8-bit to standardised units
        spectrum = FrameSpectrum(pca.components_KD, pca.variance_K / scale, pca.residual / scale)
        params = start_at_ppca(model, params, stats, spectrum)
    return init_state(params, stats, tx)


def describe_state(model, tx, config: Config) -> TrainState:
    """Returns the shapes and dtypes of `make_state`; nothing is computed or looked at for them."""

    def start(key):
        fresh = init_variables(model, key)
        return init_state(fresh["params"], fresh["stats"], tx, _start_critic(config))

    return jax.eval_shape(start, jax.random.key(0))


def restore_state(
    checkpointer: Checkpointer, abstract_state: TrainState, fallback: bool
) -> TrainState:
    """Returns the newest state; if it is damaged and `fallback`, the newest whole one.

    Then the checkpoints after that one are put aside, and said to be.

    Raises:
      CheckpointError: if it is damaged, or of another model or optimizer.
    """
    try:
        return checkpointer.restore("latest", abstract_state).state
    except DamagedError as error:
        if not fallback or error.whole_step is None:
            raise
        damage, step = error, error.whole_step
    state = checkpointer.restore(step, abstract_state).state
    paths = ", ".join(map(str, checkpointer.put_aside_after(step)))
    print(f"warning: {damage}; going on from step {step}; put aside: {paths}", flush=True)
    return state


def take_parameters(state: TrainState, source: str) -> TrainState:
    """Returns the state with other parameters, and their standardisation.

    Args:
      state: the state.
      source: a run, whose best parameters are taken, or a folder of published weights.

    Raises:
      ValueError: if that network has other parameters.
    """
    _, other = load_pretrained(source) if is_published(source) else runs.load(source)
    shapes = [
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (state.params, other["params"])
    ]
    differing = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
    if differing:
        raise ValueError(
            f"--init_from {source}: its network differs in {differing[0]} "
            f"({shapes[1].get(differing[0])}, here {shapes[0].get(differing[0])})"
        )
    params, stats = (jax.tree.map(jnp.asarray, other[name]) for name in ("params", "stats"))
    ema_params = jax.tree.map(jnp.copy, params)
    return state.replace(params=params, ema_params=ema_params, stats=stats)


def open_batches(dataset: Dataset, config: Config, runner, first_step: int):
    """Returns the iterator of training batches on the devices, from first_step on."""
    data = config.data
    lengths = config.train.clip_lengths
    num_steps = count_steps(config.train, dataset)
    starts = [round(part * num_steps / len(lengths)) for part in range(len(lengths))]
    batches = train_batches(
        dataset.splits["train"],
        config.train.batch_size,
        config.train.seed,
        start_step=first_step,
        process_index=processes.index(),
        process_count=processes.count(),
        augmentation=Augmentation(data.flip, data.crop, data.brightness),
        cuts=Cuts(tuple(zip(starts, lengths, strict=True)), data.images),
    )
    return prefetch(batches, lambda item: runner.place_batch(item[1]))


# --- while it trains -----------------------------------------------------------------------------


class Interrupts:
    """Turns the first Ctrl-C or SIGTERM into a request to save and stop; a second one of either
    ends the process at once, even in the middle of a save."""

    def __init__(self):
        """Nothing is requested yet."""
        self._received = None

    def __enter__(self) -> "Interrupts":
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._request) for number in signals}
        return self

    def __exit__(self, *exception) -> None:
        if not self.requested:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether to save and stop."""
        return self._received is not None

    @property
    def by_hand(self) -> bool:
        """Whether that was Ctrl-C, and not SIGTERM, by which schedulers take a machine back."""
        return self._received == signal.SIGINT

    def _request(self, number: int, _) -> None:
        self._received = number
        for other in self._previous:
            signal.signal(other, signal.SIG_DFL)


@contextlib.contextmanager
def explain_memory(config: Config, num_parts: int):
    """Says of an error for want of memory inside which settings to change.

    Raises:
      MemoryError: in the place of the runtime's error, with its message.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        size = f"data.height={config.data.height}, data.width={config.data.width}"
        raise MemoryError(
            f"the memory does not suffice for a training step: lower {size} or "
            f"train.batch_size={config.train.batch_size}, or compute a batch in more parts than "
            f"{num_parts} by train.accumulate. The runtime says: {error}"
        ) from error


def make_profile(run: runs.Run, first_step: int) -> StepProfile:
    """Returns what traces the steps of train.profile, of which a continued run may be past."""
    steps = run.config.train.profiled_steps()
    if steps is not None and steps[1] <= first_step:
        print(f"train.profile={run.config.train.profile}: these steps are done, nothing is traced")
    return StepProfile(steps if processes.is_first() else None, run.workdir / "profile")


class Report:
    """Progress bar and metrics.jsonl; skips steps that are not finite, or stops the run at one."""

    def __init__(self, run: runs.Run, clips: Clips, runner, schedule, first_step: int):
        """Opens the log, from which the lines after first_step are cut.

        `clips` are the training clips, to be named where the loss is not finite.
        """
        config = run.config
        self._log = None
        if processes.is_first():
            tensorboard = (
                open_tensorboard(run.workdir / "tensorboard") if config.train.tensorboard else None
            )
            self._log = MetricsLog(run.metrics, tensorboard)
            self._log.cut_after(first_step)
        self._progress = Progress(first_step, run.num_steps, disable=not processes.is_first())
        self._frames_per_step = config.train.batch_size * config.data.num_frames
        self._runner, self._schedule = runner, schedule
        self._log_every = config.train.log_every
        self._pending = None
        self._clips, self._guard = clips, FiniteGuard(config.train.skip_nonfinite)
        self._flops_per_step, self._peak = 0, math.inf

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *exception) -> None:
        self._progress.close()

    def describe_step(self, cost: StepCost) -> None:
        """Says what the compiled step takes, and measures the speed by it from here on."""
        self._flops_per_step, self._peak = cost.flops, estimate.find_peak()
        self.say(
            f"compiled: {cost.bytes / 1e6:.0f} MB a device for the step, "
            f"{cost.flops / 1e9:.3g} GFLOP in it"
        )

    def next_batch(self, batches, metrics):
        """Returns the next batch, and counts the time as waiting if no step ran at its end.

        That is the most that the devices can have waited: they may have been busy at first.

        Args:
          batches: iterator of batches.
          metrics: of the step that may still run; they are looked at, not waited for.
        """
        started = time.perf_counter()
        batch = next(batches)
        seconds = time.perf_counter() - started
        if all(value.is_ready() for value in jax.tree.leaves(metrics)):
            self._progress.add_wait(seconds)
        return batch

    def step_done(self, step: int, metrics, index) -> None:
        """Takes the metrics of a step that may still run, and reports those of the step before.

        Args:
          step: its number.
          metrics: as `train_step` gives them.
          index: numbers of its clips, on the devices.

        Raises:
          FloatingPointError: if the loss or the gradient of that step was not finite, and as many
            in a row as may be are skipped already.
        """
        self.flush()
        self._pending = step, metrics, index

    def flush(self) -> None:
        """Reports the step whose metrics were taken last."""
        if self._pending is None:
            return
        step, metrics, index = self._pending
        self._pending = None
        values = {name: float(value) for name, value in self._runner.fetch(metrics).items()}
        speed = self._measure_speed()
        self._progress.advance(values["loss"], values["kl"], _describe_speed(**speed))
        if not values.pop("finite"):
            self.say(self._guard.reject(step, values, _name_clips(self._clips, index)))
            self.write(step, "skipped", values)
            return
        self._guard.accept(step, values)
        if step % self._log_every == 0:
            values["learning_rate"] = float(self._schedule(step - 1))
            self.write(step, "train", values | speed)

    def _measure_speed(self) -> dict[str, float]:
        rate = self._progress.steps_per_second
        return {
            "frames_per_second": rate * self._frames_per_step,
            "flop_utilization": rate * self._flops_per_step / self._peak,
            "data_wait": self._progress.waiting_share,
        }

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl; only the first process does."""
        if self._log is not None:
            self._log.write(step, kind, values)

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        self._progress.write(text)

    @contextlib.contextmanager
    def pause(self):
        """Reports what is pending; the time inside does not count towards frames/s."""
        self.flush()
        started = time.perf_counter()
        yield
        self._progress.exclude(time.perf_counter() - started)


def _name_clips(clips: Clips, index) -> str:
    """Returns the files of these clips with the frames that they begin at."""
    shards = [np.asarray(shard.data).ravel() for shard in index.addressable_shards]
    names = [
        f"{clips.videos[clips.video_index_N[n]].name} from frame {clips.frame_NT[n, 0]}"
        for n in np.unique(np.concatenate(shards))
    ]
    return ", ".join(names)


def _describe_speed(frames_per_second: float, flop_utilization: float, data_wait: float) -> str:
    return (
        f"{frames_per_second:.0f} frames/s, {flop_utilization:.0%} of the FLOP rate, "
        f"data wait {data_wait:.0%}"
    )


def plan_fits(num_warmup: int, every: int, num_steps: int) -> frozenset[int]:
    """Returns the steps after which the mixture prior is fitted: the end of the KL warm-up, the end
    of the training, and the multiples of `every` between them."""
    first = max(1, num_warmup)
    return frozenset({first, *range(-(-first // every) * every, num_steps, every), num_steps})


class PriorFits:
    """Fits the mixture prior of the clip latent to the training clips while the network trains.

    A fit depends on the state alone, so that a continued run repeats it.
    """

    def __init__(self, model, runner, dataset: Dataset, run: runs.Run):
        """Chooses the clips: the same in every fit.

        Raises:
          ValueError: if the mixture has more components than there are clips.
        """
        clips = dataset.splits["train"]
        seen = np.flatnonzero(clips.mask_NT.any(axis=1))
        self._clips = clips.select(spread_evenly(seen, _MAX_PRIOR_CLIPS))
        is_mixture = isinstance(model, SequentialVAE) and model.clip_prior == "mixture"
        if is_mixture and model.num_components > len(self._clips):
            raise ValueError(
                f"model.num_components={model.num_components}: there are {len(self._clips)} "
                "training clips for the mixture prior to be fitted to"
            )
        self._model, self._runner = model, runner
        self._batch_size, self._seed = run.config.train.batch_size, run.config.train.seed
        objective, num_steps = run.config.objective, run.num_steps
        num_warmup = round(objective.kl_warmup * num_steps)
        self._steps = plan_fits(num_warmup, objective.prior_every, num_steps) if is_mixture else ()
        self._encode = jax.jit(self._infer_clip)

    def is_due(self, step: int) -> bool:
        """Whether there is a mixture and it is fitted after this step."""
        return step in self._steps

    def __call__(self, state: TrainState) -> TrainState:
        """Returns the state with the prior fitted to what its parameters infer, and the prior of
        the averaged parameters to what those infer, from there on."""
        host = self._runner.fetch(state)
        last, average = (self._infer(variables(host, ema)) for ema in (False, True))
        mixture = mixture_prior.fit_mixture(last, self._model.num_components, self._seed)
        averaged = mixture_prior.refine_mixture(mixture, average)
        host = host.replace(
            params=replace_clip_prior(host.params, _as_float32(mixture)),
            ema_params=replace_clip_prior(host.ema_params, _as_float32(averaged)),
        )
        # EM ends where rounding leads it, which may differ between machines.
        return self._runner.place_state(processes.share(host))

    def _infer(self, params) -> Gaussian:
        return map_clips(functools.partial(self._encode, params), self._clips, self._batch_size)

    def _infer_clip(self, params, batch) -> Gaussian:
        return contract.encode(self._model, params, batch["video"], batch["mask"]).clip


def _as_float32(tree):
    return jax.tree.map(lambda array: np.asarray(array, np.float32), tree)


class Validation:
    """Measures the averaged parameters on validation clips and draws a reconstruction sheet."""

    def __init__(self, model, runner, dataset: Dataset, run: runs.Run):
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
        self._measure = runner.map_eval(functools.partial(density.measure_batch, model, key))
        self._reconstruct = jax.jit(functools.partial(contract.reconstruct, model))

    def __call__(self, step: int, state: TrainState, report: Report) -> dict[str, float]:
        """Returns the scores, which are logged too; warns where a level has collapsed."""
        params = variables(state, ema=True)
        measured = map_clips_on_all(
            lambda b: self._measure(params, b), self._clips, self._batch_size
        )
        levels = density.collect_levels(self._model, measured, self._clips.mask_NT)
        scores = {"val_elbo": float(measured["elbo"].mean(dtype=np.float64))}
        for name, kl_N in measured["kl"].items():
            scores[f"val_kl_{name}"] = float(kl_N.mean(dtype=np.float64))
        for name, level in levels.items():
            scores |= self._score_level(name, level)
        error, deviation = measured["squared_error"].sum(), measured["squared_deviation"].sum()
        scores["val_error_share"] = float(error / deviation)
        report.write(step, "validation", scores)
        active = {name: level.active_Z for name, level in levels.items()}
        collapsed, verdict = latents.describe_collapse(active, error, deviation)
        if collapsed and step > self._num_warmup:
            report.say(f"step {step}: {verdict}")
        self._draw(step, self._runner.fetch(params))
        return scores

    def _score_level(self, name: str, level: density.Level) -> dict[str, float]:
        information, _ = latents.estimate_mutual_information(
            level.mean_NZ, level.variance_NZ, _MAX_MI_INPUTS, self._seed
        )
        return {
            f"val_active_{name}": float(level.active_Z.sum()),
            f"val_mutual_information_{name}": information,
        }

    def _draw(self, step: int, params) -> None:
        if not processes.is_first():
            return
        videos = self._shown.read(np.arange(len(self._shown)))
        mean_video = self._reconstruct(params, videos, self._shown.mask_NT)
        codes = np.rint(to_codes(np.asarray(mean_video))).astype(np.uint8)
        rows = compare_videos(self._shown.view, videos, codes)
        write_comparison(self._folder / f"step_{step:08d}.png", rows, self._shown)


def draw_curves(run: runs.Run) -> None:
    """Draws metrics.jsonl as curves.png in the run directory; only the first process does."""
    if not processes.is_first():
        return
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


def _format_bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} KB"


def _format_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
