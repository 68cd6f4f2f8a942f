"""Trains a video VAE: settings and a folder of videos in, a run directory out.

python train.py                                     the built-in performers, a few minutes
python train.py --data.path FOLDER                  your own videos
python train.py configs/article.py --optim.learning_rate 3e-4
python train.py --workdir RUN                       continues RUN with its own settings
python train.py --init_from RUN                     starts from the parameters of RUN
python train.py configs/published.py --init_from FOLDER --data.path FOLDER     published weights
python train.py --workdir RUN --parallel.coordinator auto     one of several: docs/distributed.md
"""

import argparse
import contextlib
import dataclasses
import sys
import time
from pathlib import Path

from vvae import cli, processes, runtime
from vvae.config import Config, load_config_file

DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "default.py"


def main(arguments: list[str]) -> int:
    """Reads the command line, trains, evaluates. Returns the exit status."""
    request = read_request(arguments)
    runtime.prepare_jax()
    from vvae.run import lock

    if request.group is not None:
        processes.connect(request.group)
    with contextlib.ExitStack() as held:
        processes.do_first(lambda: held.enter_context(lock(request.workdir)))
        finished = train(request)
        if finished:
            import evaluate

            evaluate.evaluate_run(request.workdir)
    return 0


# --- the command line ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for: settings, run directory, a run to take parameters from, and
    which of several processes this one is."""

    config: Config
    workdir: Path
    init_from: str | None
    group: processes.Group | None


def read_request(arguments: list[str]) -> Request:
    """Reads the command line.

    A first word without hyphens is a configuration file. Without one, the settings that the
    arguments leave open are those of the run in --workdir, else those of configs/default.py.
    """
    has_file = bool(arguments) and not arguments[0].startswith("-")
    file, arguments = (arguments[0], arguments[1:]) if has_file else (None, arguments)
    parser = argparse.ArgumentParser("train.py", add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--workdir", type=Path, metavar="RUN", help="run directory, new or to go on with"
    )
    parser.add_argument(
        "--init_from",
        "--init-from",
        metavar="RUN",
        help="run, or folder of published weights, to take the first parameters from",
    )
    cli.add_process_options(parser)
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{parser.format_help()}\nSettings:\n")
    options, arguments = parser.parse_known_args(arguments)
    defaults = _find_defaults(file, options.workdir)
    names = ("--workdir", "--init_from", *cli.PROCESS_OPTIONS)
    config = cli.parse_settings(arguments, defaults, options=names)
    group = cli.read_group(options)
    if group is not None and options.workdir is None:
        raise ValueError("several processes need the same run directory: give --workdir RUN")
    workdir = options.workdir or Path("runs") / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Request(config, workdir, options.init_from, group)


def _find_defaults(file: str | None, workdir: Path | None) -> Config:
    if file is None and workdir is not None and (workdir / "config.json").exists():
        from vvae.run import open_run

        return open_run(workdir).config
    return load_config_file(file or DEFAULT_CONFIG)


# --- the story of a run --------------------------------------------------------------------------


def train(request: Request) -> bool:
    """Trains, or goes on training; returns whether the training is finished."""
    from vvae import build
    from vvae.run import is_run
    from vvae.session.preview import (
        count_micro_batches,
        open_data,
        print_epochs,
        print_estimate,
        print_objective,
    )
    from vvae.session.prior_fits import PriorFits
    from vvae.session.start import (
        adopt_network,
        begin_run,
        count_steps,
        describe_state,
        make_state,
        open_batches,
        restore_state,
        take_parameters,
    )
    from vvae.session.update import make_optimizer, make_schedule, make_step
    from vvae.session.validation import Validation, draw_curves
    from vvae.session.watch import Interrupts, Report, explain_memory, make_profile
    from vvae.training.checkpoint import Checkpointer
    from vvae.training.cost import measure_step
    from vvae.training.parallel import make_runner, run_ahead

    config, workdir = adopt_network(request.config, request.init_from), request.workdir

    # Devices, and what the work will take.
    runner = make_runner(config.parallel.kind)
    num_micro_batches = count_micro_batches(config, runner)
    print(f"run directory: {workdir} ({'continued' if is_run(workdir) else 'new'})", flush=True)
    print_estimate(config, runner, num_micro_batches)
    print_objective(config)

    # Data: decoded once into the cache, then read from it.
    dataset = processes.do_together(lambda: build.cut_data(config, open_data(config)))
    num_steps = count_steps(config.train, dataset)
    print_epochs(config, num_steps)

    # The run directory: a new one, or the one that is continued.
    run = begin_run(workdir, config, dataset, num_steps)

    # Model, optimizer, step.
    model = build.build_model(config, dataset.view.num_channels)
    schedule = make_schedule(config.optim, num_steps)
    tx = make_optimizer(config, schedule)
    step = runner.compile_step(make_step(model, tx, config, num_steps, num_micro_batches))
    fit_prior = PriorFits(model, runner, dataset, run)
    validate = Validation(model, runner, dataset, run)

    with Checkpointer(run.checkpoints) as checkpointer:
        # Of a run that is continued, the state.
        abstract_state = describe_state(model, tx, config)
        host_state = None
        if checkpointer.latest_step is not None:
            fallback = config.checkpoint.fallback
            host_state = restore_state(checkpointer, abstract_state, fallback)
        first_step = 0 if host_state is None else int(host_state.step)
        if first_step >= num_steps:
            print(f"{workdir} is finished: all {num_steps} steps are done")
            return True

        # The step is compiled meanwhile: it needs the shapes alone.
        batches = open_batches(dataset, config, runner, first_step)
        batch = next(batches)
        cost = run_ahead(measure_step, step, runner.describe_state(abstract_state), batch)

        # Of a new one, another run's parameters, or fresh ones.
        if host_state is None:
            host_state = make_state(model, tx, dataset, config)
            if request.init_from is not None:
                host_state = take_parameters(host_state, request.init_from)
            # Fitted to the data, which may round differently on another machine.
            host_state = processes.share(host_state)

        # The loop. A step's metrics are fetched when the next one runs, so that no device waits.
        state = runner.place_state(host_state)
        clips = dataset.splits["train"]
        report = Report(run, clips, runner, schedule, first_step)
        profile = make_profile(run, first_step)
        explain = explain_memory(config, num_micro_batches)
        with explain, Interrupts() as interrupts, report, profile:
            report.describe_step(cost.result())
            processes.wait_for_all()  # compiled now, by some later than by others
            for done in range(first_step + 1, num_steps + 1):
                asked_to_stop = runner.share_flag(interrupts.requested)
                with profile.step(done):
                    state, metrics = step(state, batch)
                    used, batch = batch, report.next_batch(batches, metrics)
                    report.step_done(done, metrics, used["index"])
                if profile.is_due(done):
                    with report.pause():
                        report.say(f"profile: {profile.write()}, for TensorBoard and Perfetto")
                if fit_prior.is_due(done):
                    with report.pause():
                        state = fit_prior(state)
                is_last = done == num_steps or asked_to_stop()
                if is_last or done % config.train.validate_every == 0:
                    with report.pause():
                        scores = validate(done, state, report)
                        checkpointer.save(done, state, {"next_step": done}, scores)
                        processes.wait_for_all()  # the first one has drawn a sheet
                        runtime.release_memory()
                if is_last:
                    break
        batches.close()

    draw_curves(run)
    if done < num_steps:
        print(f"stopped at step {done} of {num_steps}; go on: python train.py --workdir {workdir}")
        if not interrupts.by_hand:
            sys.exit(cli.TEMPORARY_FAILURE)
    return done == num_steps


if __name__ == "__main__":
    cli.run_main(main, end=processes.end)
