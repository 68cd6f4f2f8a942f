"""What is said before the training begins: the work, the data, the objective."""

import functools
import math
import sys

import jax

from vvae import build
from vvae.config import Config
from vvae.data.dataset import Dataset, describe_flaws, find_label_problems
from vvae.data.size import DataSize, estimate_size
from vvae.models.contract import init_variables
from vvae.training import estimate

# Frames that are computed at a time on a CPU, times the side of a square of as many places as the
# first layer has of each: 32 frames of 64x64 pixels, 64 of 32x32. More leave its caches, and fewer
# pay for the start of every operation (benchmarks/train_step.py).
_CPU_SIDES = 32 * 64


def count_micro_batches(config: Config, runner) -> int:
    """Returns the number of micro-batches that a device splits its share of a batch into.

    Raises:
      ValueError: if the batch cannot be divided over the devices and the micro-batches.
    """
    batch_size, num_micro_batches = config.train.batch_size, config.train.accumulate
    divisor = runner.num_devices * (num_micro_batches or 1)
    if batch_size % divisor:
        raise ValueError(
            f"train.batch_size={batch_size} cannot be divided over {runner.num_devices} "
            f"device(s) and train.accumulate={num_micro_batches}: choose a multiple of {divisor}"
        )
    if num_micro_batches is not None:
        return num_micro_batches
    clips = batch_size // runner.num_devices
    if jax.default_backend() != "cpu":
        return 1
    side = math.sqrt(_count_places(config))
    wanted = max(1, int(_CPU_SIDES / (side * config.data.num_frames)))
    return clips // max(n for n in range(1, clips + 1) if clips % n == 0 and n <= wanted)


def _count_places(config: Config) -> float:
    """Returns of how many places of a frame the network's first layer computes something."""
    pixels = math.prod(build.frame_size(config))
    if config.model.kind != "causal":
        return pixels
    model = build.build_model(config, build.clip_format(config).clip_shape[-1])
    frames = model.temporal_compression if model.stem == "pca" else 1
    return pixels / (model.stem_scale**2 * frames)


def print_estimate(config: Config, runner, num_micro_batches: int) -> None:
    """Prints what the training will take, before anything long begins.

    Of published networks, which have no formula, only the number of parameters.
    """
    num_parameters = count_parameters(config)
    if config.model.kind == "published":
        print(f"estimate: {num_parameters:,} parameters of a published network", flush=True)
        return
    train, network = config.train, _describe_network(config)
    frames = train.batch_size * config.data.num_frames
    frames_at_once = frames // (num_micro_batches * runner.num_devices)
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
    model = build.build_model(config, build.clip_format(config).clip_shape[-1])
    shapes = jax.eval_shape(functools.partial(init_variables, model), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


def _describe_network(config: Config) -> estimate.Network | estimate.GridNetwork:
    # The channels of a view are known without opening the data.
    shape_HWC = (*build.frame_size(config), build.clip_format(config).clip_shape[-1])
    if config.model.kind == "sequential":
        return estimate.Network(shape_HWC, config.model.widths, config.model.hidden)
    model = build.build_model(config, shape_HWC[-1])
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
    folder = build.find_videos(config)
    print(f"data: {_describe_size(estimate_size(folder, build.clip_format(config)))}", flush=True)
    dataset = build.open_data(config, folder, show_decoding)
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


def print_epochs(config: Config, num_steps: int) -> None:
    """Prints what training in epochs will take, which is known once the data are."""
    if config.train.num_epochs is not None and config.model.kind != "published":
        text = _estimate_duration(config, num_steps)
        print(f"estimate: {config.train.num_epochs} epochs, {text}", flush=True)


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


def _format_bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} KB"


def _format_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
