"""Trains a video VAE: settings and a folder of videos in, a run directory out."""

import shlex

from vvae import cli, processes, runtime
from vvae.commands import generate
from vvae.commands.train_request import Request, read_request
from vvae.program import name_command

__all__ = ["main", "read_request", "train"]


def main(arguments: list[str]) -> int:
    """Reads the command line, trains, evaluates. Returns the exit status."""
    request = read_request(arguments)
    if isinstance(request, generate.PriorRequest):
        return generate.train(request)
    runtime.prepare_jax()
    from vvae.run import lock
    from vvae.session.watch import Ending

    if request.group is not None:
        processes.connect(request.group)
    with processes.first_only(lock(request.workdir)):
        ending = train(request)
        if ending is Ending.FINISHED:
            from vvae.commands.evaluate import evaluate_run

            evaluate_run(request.workdir)
    return cli.TEMPORARY_FAILURE if ending is Ending.PREEMPTED else 0


def train(request: Request):
    """Trains, or continues a training; returns its `Ending`."""
    from vvae import build, progress
    from vvae.run import is_run
    from vvae.session import preview, start, update
    from vvae.session.broken import BrokenVideos
    from vvae.session.prior_fits import PriorFits
    from vvae.session.validation import Validation, draw_curves
    from vvae.session.watch import Ending, Interrupts, Report, explain_memory
    from vvae.training.checkpoint import Checkpointer
    from vvae.training.cost import measure_step
    from vvae.training.parallel import make_runner, run_ahead

    # The order of starting is important:
    # 1. Devices and model, which need the settings alone: what cannot work ends here, in seconds.
    # 2. Data: decoded once into the cache, or a few of a collection. The number of steps may depend
    #    on them.
    # 3. The run directory: a new one, or one that has the same settings and data.
    # 4. The newest checkpoint: a damaged one ends here, before anything is compiled.
    # 5. The step is compiled from shapes alone, while a fresh state is fitted to the data.

    # --- Devices and model
    if request.note is not None:
        print(request.note)
    config, workdir = start.adopt_network(request.config, request.init_from), request.workdir
    runner = make_runner(config.parallel.kind)
    model = build.build_model(config)
    num_micro_batches = preview.count_micro_batches(config, model, runner)
    print(f"run directory: {workdir} ({'continued' if is_run(workdir) else 'new'})", flush=True)
    preview.print_estimate(config, model, runner, num_micro_batches)
    preview.print_objective(config)

    # --- Data
    dataset = processes.do_together(preview.open_data, config, request.videos)
    num_steps = start.count_steps(config.train, len(dataset.stream))
    preview.print_epochs(config, model, num_steps)

    # --- Run
    num_parameters = preview.count_parameters(model)
    run = start.begin_run(
        workdir, config, dataset, num_steps=num_steps, num_parameters=num_parameters
    )

    # --- Step
    schedule = update.make_schedule(config.optim, num_steps)
    tx = update.make_optimizer(model, config, schedule)
    step = update.make_step(
        model, tx, config, num_steps=num_steps, num_micro_batches=num_micro_batches
    )
    step = runner.compile_step(step)
    fit_prior = PriorFits(model, runner, dataset, run)
    validate = Validation(model, runner, dataset, run)
    broken = BrokenVideos(run, dataset)

    with Checkpointer(run.checkpoints) as checkpointer:
        # --- Restore or start
        abstract_state = start.describe_state(model, tx, config)
        state = start.restore_state(checkpointer, abstract_state, config.checkpoint.fallback)
        first_step = 0 if state is None else int(state.step)
        if first_step >= num_steps:
            print(f"{workdir} is finished: all {num_steps} steps are done")
            return Ending.FINISHED
        batches = start.open_batches(
            dataset, config, runner, num_steps=num_steps, first_step=first_step
        )
        shapes = runner.describe_state(abstract_state)
        cost = run_ahead(measure_step, step, shapes, batches.current)
        if state is None:
            with progress.stage("parameters fitted to the data"):
                state = start.start_state(model, tx, dataset, config, request.init_from)
        state = runner.place_state(state)

        # --- Loop
        def save(number, state):
            with report.pause():
                scores = validate(number, state, report)
                broken.record(report.say)
                checkpointer.save(number, state, {"next_step": number}, scores)
                processes.wait_for_all()  # the first process has drawn a sheet
                runtime.release_memory()

        report = Report(
            run,
            dataset.stream,
            runner,
            schedule,
            first_step=first_step,
            num_frames=config.data.num_frames,
        )
        sizes = f"data.height={config.data.height}, data.width={config.data.width}"
        memory = explain_memory(sizes, config.train.batch_size, num_micro_batches)
        with memory, Interrupts() as interrupts, report:
            report.describe_step(cost.result())
            number = report.run_steps(
                step,
                state,
                batches,
                interrupts,
                save=save,
                after=lambda number, state: fit_prior(number, state, report),
            )
        batches.close()

    # --- End
    draw_curves(run)
    broken.summarize()
    if number == num_steps:
        return Ending.FINISHED
    again = f"{name_command('train')} --workdir {shlex.quote(str(workdir))}"
    print(f"stopped at step {number} of {num_steps}; go on: {again}")
    return interrupts.ending
