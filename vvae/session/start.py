"""The parts of a training that know its settings; `train.py` tells in which order they act."""

import functools
import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from vvae import build, processes
from vvae.config import Config, Train, identity
from vvae.data.dataset import Dataset
from vvae.data.loader import Augmentation, Cuts, channel_statistics, pixel_statistics, train_batches
from vvae.measure.pca import fit_block_pca, fit_frame_pca
from vvae.models.bottleneck import GaussianLatents
from vvae.models.causal import CausalVideoVAE
from vvae.models.contract import init_variables
from vvae.models.grid import GridVideoVAE
from vvae.models.ppca import FrameSpectrum, start_at_ppca, start_blocks_at_ppca, whiten_blocks
from vvae.pretrained.load import describe_network, is_published, load_network, load_pretrained
from vvae.run import Run, check_identity, create_run, is_run, open_run, record_start
from vvae.session.preview import count_parameters
from vvae.session.update import make_critic
from vvae.training.checkpoint import Checkpointer, DamagedError
from vvae.training.parallel import prefetch
from vvae.training.state import CriticState, TrainState, init_critic, init_state

_INITIALISATION_STREAM = 0
_CRITIC_STREAM = 3


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
        network = open_run(init_from).config.model.network
    if not wants_weights:
        return config
    return replace(config, model=replace(config.model, network=network))


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


def begin_run(workdir: Path, config: Config, dataset: Dataset, num_steps: int) -> Run:
    """Creates the run directory, or checks that it may be continued with these settings.

    With several processes the first one writes, and all others must have the same settings and
    data.
    """
    processes.require_same("the settings", json.dumps(identity(config), sort_keys=True))
    processes.require_same("the data set", f"{dataset.fingerprint}, broken: {dataset.broken}")
    processes.do_first(lambda: _write_start(workdir, config, dataset, num_steps))
    return open_run(workdir)


def _write_start(workdir: Path, config: Config, dataset: Dataset, num_steps: int) -> None:
    data_path = str(Path(dataset.root).resolve())
    if is_run(workdir):
        run = open_run(workdir)
        check_identity(run, config, dataset.fingerprint)
        record_start(run, config, data_path)
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
    create_run(workdir, config, facts, dataset.class_names)


def _start_critic(config: Config) -> CriticState | None:
    """Returns the state of a fresh critic; None where there is none."""
    if not config.critic.weight:
        return None
    critic, tx = make_critic(config)
    key = jax.random.fold_in(jax.random.key(config.train.seed), _CRITIC_STREAM)
    video = jnp.zeros((1, *build.clip_format(config).clip_shape))
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
    """Restores the newest state; if it is damaged and `fallback` is set, the newest intact one.

    The checkpoints after that one are then quarantined, and a warning lists them.

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
    paths = ", ".join(map(str, checkpointer.quarantine_after(step)))
    print(f"warning: {damage}; continuing from step {step}; quarantined: {paths}", flush=True)
    return state


def take_parameters(state: TrainState, source: str) -> TrainState:
    """Returns the state with other parameters, and their standardisation.

    Args:
      state: the state.
      source: a run, whose best parameters are taken, or a folder of published weights.

    Raises:
      ValueError: if that network has other parameters.
    """
    _, other = load_pretrained(source) if is_published(source) else build.load(source)
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
