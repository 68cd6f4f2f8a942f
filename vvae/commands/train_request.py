"""Reads the command line of a training, and refuses what cannot work, before jax is imported."""

import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from vvae import cli, cli_help, processes
from vvae.commands.checks import check_init_from, check_settings_alone
from vvae.commands.generate import PriorRequest, read_prior_request
from vvae.config import Config
from vvae.config_files import format_configs, load_config_file
from vvae.data.collection.index import find_kind
from vvae.data.listing import Video, list_videos
from vvae.data.recommend import recommend
from vvae.generate.config import GenerateConfig
from vvae.generate.run import is_prior, open_prior_run
from vvae.program import name_command
from vvae.run import check_settings, is_run, open_run, refuse_foreign

_FIRST_OPTIONS = (
    "--data.path",
    "--data.view",
    "--data.height",
    "--data.width",
    "--data.num_frames",
    "--data.sampling",
    "--train.num_steps",
    "--train.batch_size",
    "--optim.learning_rate",
    "--evaluate.tasks",
)


@dataclass(frozen=True)
class Place:
    """Where a training is written, what it starts from, and the processes that share it."""

    workdir: Path | None = None
    """Run directory, new or to be continued with its own settings."""
    init_from: str | None = None
    """Run, or folder of published weights, to take the first parameters from."""
    parallel: cli.ProcessOptions = field(default_factory=cli.ProcessOptions)


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
      config: the settings.
      workdir: the run directory, new or to be continued.
      init_from: a run, or published weights, to take the first parameters from.
      group: which of several processes this one is; None for one process.
      note: how the settings were chosen, where the command line does not name them.
      videos: the listed videos of data.path; None where they are not listed yet.
    """

    config: Config
    workdir: Path
    init_from: str | None = None
    group: processes.Group | None = None
    note: str | None = None
    videos: tuple[Video, ...] | None = None


def read_request(arguments: list[str]) -> Request | PriorRequest:
    """Reads the command line; that of a prior if it names the settings, or the run, of one.

    A word that belongs to no option is a configuration. Without one, the defaults of all settings
    are those of the run in --workdir, or of the run in --init_from, or of the configuration that
    fits the videos of --data.path, or else of the configuration `default`.

    Raises:
      ValueError: for what the settings, the paths and the installed packages do not allow.
      SystemExit: with status 0 after --help.
    """
    parts = (Place, Config)
    words, options = cli.divide(arguments, cli.count_values(parts, of_bool=1))
    name = _find_name(words)
    named = None if name is None else load_config_file(name, Config, GenerateConfig)
    workdir = cli.find_value(options, "--workdir")
    if named is None and workdir is not None and is_prior(workdir):
        named = open_prior_run(workdir).config
    if isinstance(named, GenerateConfig):
        return read_prior_request(options, named)
    if cli.asks_for_help(options):
        _print_help(named or load_config_file("default"), is_whole=["--help_all"] in options)
        raise SystemExit(0)
    cli.check_options(options, parts)
    list_once = functools.cache(_list_folder)
    defaults, note = (named, None) if named else _find_defaults(options, list_once)
    place, config = cli.parse_options(parts, options, defaults)
    group = place.parallel.group()
    if group is not None and place.workdir is None:
        raise ValueError("several processes need the same run directory: give --workdir RUN")
    workdir = place.workdir or Path("runs") / _name_run(config, options)
    refuse_foreign(workdir)
    check_settings_alone(config, workdir)
    videos = None
    if group is None:  # several processes are all told what one of them lacks
        check_init_from(place.init_from)
        videos = None if config.data.path is None else list_once(config.data.path)
    if is_run(workdir):
        _check_run(workdir, config)
    return Request(config, workdir, place.init_from, group, note, videos)


def _find_name(words: list[str]) -> str | None:
    """Returns the word that names a configuration."""
    if len(words) > 1:
        raise ValueError(
            f"{name_command('train')} takes one configuration, not {' '.join(words)}; a setting "
            "begins with --"
        )
    return words[0] if words else None


def _list_folder(path: str) -> tuple[Video, ...] | None:
    """Lists the videos of a folder; None for a collection, which is not listed beforehand."""
    return list_videos(path) if find_kind(path) == "folder" else None


def _find_defaults(
    options: list[list[str]],
    list_folder: Callable[[str], tuple[Video, ...] | None],
) -> tuple[Config, str | None]:
    """Returns the settings that the options change, and how they were chosen if nothing says it."""
    workdir, source = (cli.find_value(options, name) for name in ("--workdir", "--init_from"))
    if workdir is not None and is_run(workdir):
        return open_run(workdir).config, None
    # Published weights have a config.json, too.
    if source is not None and is_run(source) and (Path(source) / "classes.json").exists():
        return open_run(source).config, None
    path = cli.find_value(options, "--data.path")
    if path in (None, "", "none", "None"):
        return load_config_file("default"), None
    videos = list_folder(path)
    if videos is None:
        chosen, reason = "default", "a collection is not looked through"
    else:
        advice = recommend(videos)
        chosen, reason = advice.config, advice.reason
    note = (
        f"settings: {chosen} ({reason}); for others: {name_command('train')} CONFIG ..., --help "
        "lists them"
    )
    return load_config_file(chosen), note


def _name_run(config: Config, options: list[list[str]]) -> str:
    """Returns NAME-TIME; the name is that of the folder of videos, and of the configuration."""
    name = config.name
    if config.data.path is not None and cli.find_value(options, "--name") is None:
        folder = re.sub(r"\s+", "_", Path(config.data.path).resolve().stem)
        name = folder if name == "default" else f"{folder}-{name}"
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _check_run(workdir: Path, config: Config) -> None:
    """Raises ValueError if the run in a directory may not be continued with these settings."""
    run = open_run(workdir)
    if config.model.kind == "published" and not config.model.network:
        # --init_from sets it, once the weights are read, and it is compared then.
        model = replace(config.model, network=run.config.model.network)
        config = replace(config, model=model)
    check_settings(run, config)


def _print_help(config: Config, is_whole: bool) -> None:
    program = name_command("train")
    examples = [
        (program, "the built-in performers, a few minutes"),
        (f"{program} --data.path DIR", "your own videos, with settings that fit them"),
        (f"{program} actions --data.path DIR", "settings by name, or a file of your own"),
        (f"{program} --workdir RUN", "continues RUN with its own settings"),
        (f"{program} --init_from RUN", "a new run, from the parameters of RUN"),
    ]
    print(f"usage: {program} [CONFIG] [--workdir RUN] [--section.name VALUE ...]\n")
    print(cli_help.format_short_list(examples, width=4 + max(len(text) for text, _ in examples)))
    print(f"\nCONFIG, a file or one of:\n{format_configs()}\n")
    parts = (Place, Config)
    if is_whole:
        print(cli_help.format_options(parts, config))
        return
    shown = ("--workdir", "--init_from", *_FIRST_OPTIONS)
    print("the first settings, with their values in brackets:")
    print(cli_help.format_short_list(cli_help.select_options(shown, parts, config)))
    print(f"\nall {len(cli.list_options(Config))} settings: {program} [CONFIG] --help-all")
