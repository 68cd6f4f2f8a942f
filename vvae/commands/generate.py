"""`vvae train generate`, which trains a prior on latents, and `vvae sample`, which draws videos."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vvae import cli, cli_help, processes, runtime
from vvae.generate.config import GenerateConfig
from vvae.generate.run import (
    check_prior_settings,
    is_prior,
    name_prior_run,
    open_prior_run,
    refuse_foreign_prior,
    resolve_paths,
)
from vvae.run import lock
from vvae.tasks.options import parse_checkpoint

DEFAULT = "generate"


# --- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PriorPlace:
    """Where a training is written, and the processes that share it."""

    workdir: Path | None = None
    """Run directory, new or to be continued with its own settings."""
    parallel: cli.ProcessOptions = field(default_factory=cli.ProcessOptions)


@dataclass(frozen=True)
class PriorRequest:
    """What the command line asks for; see `PriorPlace`."""

    config: GenerateConfig
    workdir: Path
    group: processes.Group | None = None


def read_prior_request(options: list[list[str]], defaults: GenerateConfig) -> PriorRequest:
    """Reads the options of a training.

    Args:
      options: each option with its values.
      defaults: the settings that they change.

    Raises:
      ValueError: for what the settings and the paths do not allow.
      SystemExit: with status 0 after --help.
    """
    parts = (PriorPlace, GenerateConfig)
    if cli.asks_for_help(options):
        print(
            f"usage: vvae train {DEFAULT} --latents STORE [--vae RUN] [--section.name VALUE ...]\n"
        )
        print(cli_help.format_options(parts, defaults))
        raise SystemExit(0)
    cli.check_options(options, parts)
    place, config = cli.parse_options(parts, options, defaults)
    config = resolve_paths(config)
    group = place.parallel.group()
    if config.latents is None:
        raise ValueError("name the latents to learn: --latents STORE, as vvae latents writes it")
    if group is not None and place.workdir is None:
        raise ValueError("several processes need the same run directory: give --workdir RUN")
    workdir = place.workdir or name_prior_run(config)
    refuse_foreign_prior(workdir)
    if is_prior(workdir):
        check_prior_settings(open_prior_run(workdir), config)
    return PriorRequest(config, workdir, group)


def train(request: PriorRequest) -> int:
    """Trains a prior, draws samples. Returns the exit status."""
    runtime.prepare_jax()
    from vvae.generate.train import train_prior
    from vvae.session.watch import Ending

    if request.group is not None:
        processes.connect(request.group)
    with processes.first_only(lock(request.workdir)):
        ending = train_prior(request.config, request.workdir)
    return cli.TEMPORARY_FAILURE if ending is Ending.PREEMPTED else 0


# --- sampling ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleVideos:
    """Draws new videos from a trained prior: RUN is its run directory, OUT a folder."""

    operands = ("RUN", "OUT")

    files: tuple[Path, Path]
    count: int = 8
    """Videos of each class."""
    classes: tuple[str, ...] = ()
    """Classes to draw; by default all."""
    frames: int | None = None
    """Frames of a video; by default as many as in training. More are drawn piece by piece."""
    guidance: float = 1.0
    """1 for the class as it is; more exaggerates what is typical of it."""
    steps: int = 25
    """Steps of the sampler; fewer are faster and worse."""
    seed: int = 0
    """Of the noise: the same seed draws the same videos."""
    vae: Path | None = None
    """Run, or published weights, of the decoder; by default those of the training."""
    which: str = "best"
    """Checkpoint: best, latest or a step."""

    def __post_init__(self):
        if min(self.count, self.steps, 1 if self.frames is None else self.frames) < 1:
            raise ValueError(
                f"--count={self.count}, --steps={self.steps}, --frames={self.frames}: must be at "
                "least 1"
            )
        if self.guidance < 0:
            raise ValueError(f"--guidance={self.guidance}: must not be negative")


def read_sample_request(arguments: Sequence[str]) -> SampleVideos:
    """Reads the command line of `vvae sample`, without its first word."""
    part = SampleVideos
    words, options = cli.divide(arguments, cli.count_values([part], of_bool=0))
    usage = f"vvae sample {' '.join(part.operands)}"
    if cli.asks_for_help(options):
        print(f"usage: {usage} [OPTIONS]\n\n{inspect.cleandoc(part.__doc__ or '')}\n")
        print(cli_help.format_options([part]))
        raise SystemExit(0)
    cli.check_options(options, [part])
    if len(words) != len(part.operands):
        raise ValueError(f"sample takes RUN and OUT, not {' '.join(words) or 'nothing'}: {usage}")
    return cli.parse_command([part], words, options)[0]


def sample(arguments: Sequence[str]) -> int:
    """Draws videos into a folder, CLASS_0000.mp4 and so on. Returns the exit status."""
    request = read_sample_request(arguments)
    source, out = request.files
    run = open_prior_run(source)
    path = request.vae or run.config.vae
    if path is None:
        raise ValueError(f"{source} names no VAE to decode with: give --vae RUN")
    runtime.prepare_jax()
    from vvae.generate.draw import write_videos
    from vvae.generate.prior import load, load_vae

    prior = load(run, parse_checkpoint(request.which))
    vae = load_vae(path, prior.record)
    sampling = prior.sampling(request.steps, request.guidance)
    paths = write_videos(
        prior,
        vae,
        out,
        classes=request.classes or prior.class_names or (None,),
        count=request.count,
        seed=request.seed,
        sampling=sampling,
        num_frames=request.frames,
    )
    print(f"{len(paths)} videos: {out}")
    return 0
