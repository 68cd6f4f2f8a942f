"""How a training starts: its run directory, its first state, its batches."""

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
from vvae.data.loader import Augmentation, Cuts, train_batches
from vvae.measure.statistics import ClipStatistics
from vvae.models.contract import init_variables
from vvae.pretrained.distilled import DistilledVAE, adopt
from vvae.pretrained.load import describe_network, is_published, load_network
from vvae.run import Run, check_data, check_settings, create_run, is_run, open_run, record_start
from vvae.session.update import make_critic
from vvae.training.checkpoint import Checkpointer, DamagedError
from vvae.training.parallel import Lookahead, prefetch
from vvae.training.state import CriticState, TrainState, init_critic, init_state

_INITIALISATION_STREAM = 0
_CRITIC_STREAM = 3


def adopt_network(config: Config, init_from: str | None) -> Config:
    """Returns the settings with the network of the published weights that training starts from.

    Args:
      config: the settings.
      init_from: published weights, or a run; None for a fresh start.

    Raises:
      ValueError: for published weights without model.kind=published, and for a path that holds
        neither published weights nor a run.
    """
    if init_from is None:
        return config
    holds_weights, wants_weights = is_published(init_from), config.model.kind == "published"
    if holds_weights and not wants_weights:
        raise ValueError(
            f"--init_from {init_from} holds published weights: they need "
            f"model.kind=published, not {config.model.kind}; name the configuration published"
        )
    if holds_weights:
        network = describe_network(load_network(init_from))
    else:
        network = open_run(init_from).config.model.network
    if not wants_weights:
        return config
    return replace(config, model=replace(config.model, network=network))


def count_steps(train: Train, num_clips: int) -> int:
    """Returns the number of steps of the whole training, on so many clips.

    Raises:
      ValueError: if train.profile names later steps.
    """
    num_steps = train.num_steps
    if num_steps is None:
        num_steps = math.ceil(train.num_epochs * num_clips / train.batch_size)
    profiled = train.profiled_steps()
    if profiled is not None and profiled[1] > num_steps:
        raise ValueError(f"train.profile={train.profile!r}: the training has {num_steps} steps")
    return num_steps


# --- the run directory ---------------------------------------------------------------------------


def begin_run(
    workdir: Path, config: Config, dataset: Dataset, *, num_steps: int, num_parameters: int
) -> Run:
    """Creates the run directory, or checks that it may be continued with these settings and data.

    The first of several processes writes it; all must have the same settings and data.

    Raises:
      ValueError: for a run of other settings or other data, and for processes that differ.
    """
    processes.require_same("the settings", json.dumps(identity(config), sort_keys=True))
    processes.require_same("the data set", f"{dataset.fingerprint}, broken: {dataset.broken}")
    facts = _describe_work(dataset, num_steps, num_parameters)
    processes.do_first(_write_start, workdir, config, facts, dataset.class_names)
    return open_run(workdir)


def _write_start(workdir: Path, config: Config, facts: dict, class_names) -> None:
    if is_run(workdir):
        run = open_run(workdir)
        check_settings(run, config)
        check_data(run, facts["fingerprint"])
        record_start(run, config, facts)
    else:
        create_run(workdir, config, facts, class_names)


def _describe_work(dataset: Dataset, num_steps: int, num_parameters: int) -> dict:
    return {
        "path": str(Path(dataset.root).resolve()),
        "fingerprint": dataset.fingerprint,
        "num_channels": dataset.view.num_channels,
        "num_steps": num_steps,
        "num_parameters": num_parameters,
        "num_clips": {split: len(clips) for split, clips in dataset.splits.items()},
        "num_videos": {
            split: len({video.name for video in clips.videos})  # tiles share their video's name
            for split, clips in dataset.splits.items()
        },
        "broken": dataset.broken,
        "num_padded": dataset.num_padded,
        "num_clipped": dataset.num_clipped,
        "left_out_splits": dataset.left_out_splits,
    } | _describe_collection(dataset)


def _describe_collection(dataset: Dataset) -> dict:
    """Counts the videos of a collection, of which `num_clips` and `num_videos` are a subset."""
    if dataset.collection is None:
        return {}
    index = dataset.collection.index
    return {"collection": {"num_videos": len(index), "num_training": len(dataset.collection)}}


# --- the state -----------------------------------------------------------------------------------


def describe_state(model, tx, config: Config) -> TrainState:
    """Returns the shapes and dtypes of the state; computes nothing and reads no data."""

    def start(key):
        fresh = init_variables(model, key)
        if isinstance(model, DistilledVAE):
            fresh = adopt(fresh, init_variables(model.network, key))
        return init_state(fresh["params"], fresh["stats"], tx, _start_critic(config))

    return jax.eval_shape(start, jax.random.key(0))


def restore_state(
    checkpointer: Checkpointer, abstract_state: TrainState, fallback: bool
) -> TrainState | None:
    """Returns the newest state of a run, or None where there is no checkpoint yet.

    If that checkpoint is damaged and `fallback` is set, returns the newest whole one, and
    quarantines the checkpoints after it with a warning that names them.

    Raises:
      CheckpointError: if the checkpoint is damaged, or of another model or optimizer.
    """
    if checkpointer.latest_step is None:
        return None
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


def start_state(model, tx, dataset: Dataset, config: Config, init_from: str | None) -> TrainState:
    """Returns the state before the first step: fresh, or with the parameters of `init_from`.

    Several processes share the first one's, because what is fitted to the data may round
    differently on another machine.

    Raises:
      ValueError: if the network of `init_from` has other parameters, or if a published network has
        nothing to start from.
    """
    if init_from is None and config.model.kind == "published":
        raise ValueError(
            "the run has no checkpoint yet: give the published weights again, --init_from FOLDER"
        )
    state = make_state(model, tx, dataset, config)
    if init_from is not None:
        state = take_parameters(state, model, init_from)
    return processes.share(state)


def make_state(model, tx, dataset: Dataset, config: Config) -> TrainState:
    """Returns a fresh state, standardised by the training clips."""
    key = jax.random.fold_in(jax.random.key(config.train.seed), _INITIALISATION_STREAM)
    fresh = init_variables(model, key)
    statistics = ClipStatistics(dataset.splits["train"], config.train.seed)
    started = model.start(fresh, statistics, config.objective.beta)
    start = jax.jit(functools.partial(init_state, tx=tx))  # one program instead of one an array
    return start(started["params"], started["stats"], critic=_start_critic(config))


def _start_critic(config: Config) -> CriticState | None:
    """Returns the state of a fresh critic; None without one."""
    if not config.critic.weight:
        return None
    critic, tx = make_critic(config.critic)
    key = jax.random.fold_in(jax.random.key(config.train.seed), _CRITIC_STREAM)
    video = jnp.zeros((1, *build.clip_format(config).clip_shape))
    return init_critic(jax.jit(critic.init)(key, video)["params"], tx)


def take_parameters(state: TrainState, model, source: str) -> TrainState:
    """Returns the state with the parameters and the standardisation of another network.

    A small decoder starts fresh where the other network has a published one, which teaches it.

    Args:
      state: the state.
      model: the model of the state.
      source: a run, whose best parameters are taken, or a folder of published weights.

    Raises:
      ValueError: if that network has other parameters.
    """
    other_model, other = build.load_any(source)
    if isinstance(model, DistilledVAE) and not isinstance(other_model, DistilledVAE):
        other = adopt({"params": state.params, "stats": state.stats}, other)
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


# --- the batches ---------------------------------------------------------------------------------


def open_batches(
    dataset: Dataset, config: Config, runner, *, num_steps: int, first_step: int
) -> Lookahead:
    """Returns the training batches after first_step, on the devices."""
    data, lengths = config.data, config.train.clip_lengths
    starts = [round(part * num_steps / len(lengths)) for part in range(len(lengths))]
    batches = train_batches(
        dataset.stream,
        config.train.batch_size,
        config.train.seed,
        start_step=first_step,
        process_index=processes.index(),
        process_count=processes.count(),
        augmentation=Augmentation(data.flip, data.crop, data.brightness),
        cuts=Cuts(tuple(zip(starts, lengths, strict=True)), data.images),
    )
    return Lookahead(prefetch(batches, lambda item: runner.place_batch(item[1])))
