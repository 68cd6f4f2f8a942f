"""What is printed before a training begins: its cost, its objective, its data."""

import functools
import math
from collections.abc import Sequence

import jax

from vvae import build, progress
from vvae.config import Config, Train
from vvae.data.collection.index import Index, open_index
from vvae.data.dataset import Dataset, describe_flaws, find_label_problems
from vvae.data.listing import Video, list_videos
from vvae.data.size import DataSize, estimate_size
from vvae.models.contract import init_variables
from vvae.task_table import TASKS
from vvae.training import estimate
from vvae.units import format_bytes

# A CPU is fastest with about 32 frames of 64x64 or 64 of 32x32 in a micro-batch: more leave its
# caches, and fewer pay for the start of every operation (benchmarks/train_step.py). This is that
# number of frames times the side of a square of as many places as the first layer computes.
_CPU_SIDES = 32 * 64
# Compiling the step, validation and report, timed as `Task.seconds`.
_COMPILE_SECONDS = 25.0


def count_micro_batches(config: Config, model, runner) -> int:
    """Returns the number of micro-batches into which a device divides its share of a batch.

    Raises:
      ValueError: if the batch cannot be divided over the devices and the micro-batches.
    """
    batch_size, wanted = config.train.batch_size, config.train.accumulate
    check_batch_size(config.train, runner)
    if wanted is not None:
        return wanted
    if jax.default_backend() != "cpu":
        return 1
    clips = batch_size // runner.num_devices
    side = math.sqrt(model.count_first_places())
    most = max(1, int(_CPU_SIDES / (side * config.data.num_frames)))
    return clips // max(n for n in range(1, clips + 1) if clips % n == 0 and n <= most)


def check_batch_size(train: Train, runner) -> None:
    """Raises ValueError if the batch cannot be divided over the devices and the micro-batches."""
    divisor = runner.num_devices * (train.accumulate or 1)
    if train.batch_size % divisor:
        raise ValueError(
            f"train.batch_size={train.batch_size} cannot be divided over {runner.num_devices} "
            f"device(s) and train.accumulate={train.accumulate}: choose a multiple of {divisor}"
        )


def count_parameters(model) -> int:
    """Returns the number of learned parameters."""
    shapes = jax.eval_shape(functools.partial(init_variables, model), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


def print_estimate(config: Config, model, runner, num_micro_batches: int) -> None:
    """Prints the memory and the time that the training will take.

    A published network has no formula: only its number of parameters is printed.
    """
    num_parameters, cost = count_parameters(model), model.estimate_frame_cost()
    if cost is None:
        print(f"estimate: {num_parameters:,} parameters of a published network", flush=True)
        return
    train = config.train
    frames = train.batch_size * config.data.num_frames
    frames_at_once = frames // (num_micro_batches * runner.num_devices)
    memory = estimate.estimate_bytes(cost, num_parameters, frames_at_once)
    parts = [
        f"{num_parameters:,} parameters",
        f"about {memory / 1e6:.0f} MB a device for the step",
    ]
    print(f"estimate: {', '.join(parts)}", flush=True)
    if train.num_steps is not None:
        print(f"estimate: {_estimate_duration(config, cost, train.num_steps)}", flush=True)


def print_epochs(config: Config, model, num_steps: int) -> None:
    """Prints the time that training in epochs will take, which is known once the data are."""
    cost = model.estimate_frame_cost()
    if config.train.num_epochs is not None and cost is not None:
        text = _estimate_duration(config, cost, num_steps)
        print(f"estimate: {config.train.num_epochs} epochs, {text}", flush=True)


def _estimate_duration(config: Config, cost, num_steps: int) -> str:
    num_frames = config.train.batch_size * config.data.num_frames * num_steps
    seconds = estimate.estimate_seconds(cost, num_frames, num_steps, estimate.measure_rate())
    tasks = config.evaluate.tasks
    measured = {task: TASKS[task].seconds for task in tasks if TASKS[task].seconds is not None}
    others = [task for task in tasks if task not in measured]
    after = _COMPILE_SECONDS + sum(measured.values())
    text = (
        f"about {_format_duration(seconds + after)} in all: {_format_duration(seconds)} for "
        f"{num_steps} steps, {_format_duration(after)} to compile and for {', '.join(measured)} "
        "(more for many videos)"
    )
    return f"{text}; without {', '.join(others)}, which was not timed" if others else text


def print_objective(config: Config) -> None:
    """Prints the weight of every term of the loss."""
    objective, critic = config.objective, config.critic
    terms = [f"{objective.likelihood:g} x -log p(x | z)", f"{objective.beta:g} x KL"]
    names = {
        "l1": "|error|",
        "mse": "error^2",
        "lpips": f"LPIPS ({objective.lpips_net})",
        "wavelet": "|Haar error|",
        "teacher": "|difference from the published decoder|",
        "features": "|difference of the published encoder's latents|",
    }
    for name, text in names.items():
        weight = getattr(objective, name)
        terms += [f"{weight:g} x {text}"] if weight else []
    if critic.weight:
        begin = f", from step {critic.start}, LeCam {critic.lecam:g}"
        terms.append(f"{critic.weight:g} x critic (adaptive{begin})")
    print(f"objective: {' + '.join(terms)}", flush=True)


def open_data(config: Config, videos: Sequence[Video] | None) -> Dataset:
    """Opens the clips that the model sees; prints what was found, broken and left out.

    The expected sizes, from listings and headers, are printed before anything is decoded.

    Args:
      config: the settings.
      videos: the listed videos of data.path; None where they are not listed yet.

    Raises:
      ValueError: if there are no videos, or `classify` cannot learn their classes.
    """
    if config.data.path is None and config.data.name == "performers":
        print("data: the built-in performers (written once, about 13 MB)", flush=True)
    with progress.stage("built-in videos written"):
        folder = build.find_videos(config, progress.show)
    if build.decodes_as_needed(config, folder, videos):
        index = _open_index(config, folder)
        files = f" (tars: {index.num_files:,})" if index.num_files else ""
        print(f"data: {len(index):,} videos{files}, decoded as needed", flush=True)
    else:
        videos = list_videos(folder) if videos is None else videos
        size = estimate_size(videos, build.clip_format(config))
        print(f"data: {_describe_size(size)}", flush=True)
    with progress.stage("videos decoded"):
        dataset = build.open_data(config, folder, progress.show, videos=videos)
    for split, clips in dataset.splits.items():
        size = format_bytes(len(clips) * clips.clip_format.clip_bytes)
        name = split if dataset.collection is None else f"{split}, decoded beforehand"
        print(f"data: {name}: {len(clips.videos)} videos, {len(clips)} clips, {size}")
    if dataset.collection is not None:
        print(f"data: train, decoded as needed: {len(dataset.collection):,} videos")
    for line in describe_flaws(dataset):
        print(line)
    _check_labels(config, dataset)
    return build.cut_data(config, dataset)


def _open_index(config: Config, folder) -> Index:
    with progress.stage("tars indexed"):
        return open_index(folder, build.find_indices(config), progress.show)


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
    decoded = "an unknown size" if size.decoded_bytes is None else format_bytes(size.decoded_bytes)
    files = f"{size.num_videos:,} videos of {format_bytes(size.file_bytes)}"
    return f"{files}; decoded once, about {decoded} in the cache"


def _format_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
