"""Measures and uses a trained run, or published weights.

Each task writes RUN/eval/TASK.json (each value with a card that states what was computed), pictures
and videos, and prints a table. Answers about new videos go to RUN/eval/NAME, named after the folder
of the videos, or to NAME-2 for another folder of the same name. Answers of published weights go to
FOLDER/eval/NAME.
"""

import os
import shlex
import time
from pathlib import Path

from vvae import processes, runtime
from vvae.commands.checks import Videos, check_evaluation, check_request
from vvae.program import name_command
from vvae.tasks import options as opts
from vvae.tasks.command_line import Evaluation, read_request

__all__ = ["evaluate_run", "main", "read_request"]


def main(arguments: list[str]) -> int:
    """Reads the command line and runs the tasks. Returns the exit status."""
    request = read_request(arguments)
    videos = check_request(request)
    runtime.prepare_jax()
    match request:
        case opts.Check():
            return check(request.data.path)
        case opts.Compare():
            compare(request)
        case opts.Report():
            report(request.workdir)
        case opts.Export():
            export(request)
        case opts.Compress():
            compress(request)
        case opts.Decompress():
            decompress(request)
        case Evaluation():
            evaluate(request, videos)
    return 0


# --- tasks ---------------------------------------------------------------------------------------


def evaluate(request: Evaluation, videos: Videos) -> None:
    """Runs tasks on a run or on published weights, in this process or in several.

    Args:
      request: the tasks.
      videos: the listed videos of --data.path; None where they are not listed yet.
    """
    common, reconstruct = request.common, request.tasks.get("reconstruct")
    if reconstruct is not None and reconstruct.pretrained is not None:
        from vvae.tasks.quality.published import reconstruct_published

        reconstruct_published(reconstruct, common.data.path, videos)
        return
    group = common.parallel.group()
    if group is not None:
        processes.connect(group)
        videos = processes.do_together(check_evaluation, request)
    evaluate_run(common.workdir, request, videos)


def evaluate_run(workdir: Path, request: Evaluation | None = None, videos: Videos = None) -> None:
    """Runs tasks on the test split of a run, or on every video of another folder.

    Args:
      workdir: the run directory.
      request: the tasks. If it names none, those of the run's settings are run; of these, a task
        that the data do not allow, such as `classify` without labels, is left out with a note.
      videos: the listed videos of the other folder; None where they are not listed yet.

    Raises:
      ValueError: if the run, the checkpoint or the data do not allow it.
    """
    from vvae import progress
    from vvae.run import open_run
    from vvae.tasks.question import answer, open_question
    from vvae.tasks.result import publish

    request = request or Evaluation()
    run = open_run(workdir)
    data_path = request.common.data.path
    with open_question(run, data_path, request.common.checkpoint, videos=videos) as question:
        for task in request.tasks or run.config.evaluate.tasks:
            print(f"\n{task} ...", flush=True)
            started = time.perf_counter()
            options = request.tasks.get(task) or opts.find_options(task)()
            try:
                with progress.stage(task, is_logged=False):  # a log gets the seconds below
                    result = answer(question, task, options)
            except ValueError as error:
                if request.tasks:
                    raise
                # The command line does not name this task, and the others can still run.
                print(f"\n{task}: not measured: {error}")
                continue
            publish(result, question.folder)
            print(f"{task}: {time.perf_counter() - started:.1f} s", flush=True)
    print(f"\npictures, videos and JSON files: {question.folder}")
    if processes.is_first():
        report(workdir)


# --- commands ------------------------------------------------------------------------------------


def check(data_path: str) -> int:
    """Prints what a folder of videos holds, and what is broken in it; or what a collection holds.

    Returns:
      The exit status: 1 if no video can be read, otherwise 0.
    """
    from vvae import progress, runtime
    from vvae.data.check import format_summary, summarize
    from vvae.data.collection.index import INDICES, describe_index, find_kind, open_index

    if find_kind(data_path) != "folder":
        with progress.stage("collection indexed"):
            index = open_index(data_path, runtime.cache_folder() / INDICES, progress.show)
        print(describe_index(index, data_path))
        return 0
    with progress.stage("videos read"):
        summary = summarize(data_path, os.cpu_count() or 1, progress.show)
    print(format_summary(summary))
    return 0 if summary.num_frames else 1


def compare(options: opts.Compare) -> None:
    """Prints two runs side by side; writes the comparison to a JSON file if one is given."""
    from vvae.files import write_json
    from vvae.report.compare import compare_runs, format_comparison

    comparison = compare_runs(*options.runs)
    print(format_comparison(comparison))
    if options.out is not None:
        write_json(options.out, comparison)
        print(f"\nwritten: {options.out}")


def report(workdir: Path) -> None:
    """Writes RUN/report.html from the files of a run."""
    from vvae.config_files import load_config_file, to_dict
    from vvae.report.write import write_report

    path = write_report(workdir, to_dict(load_config_file("default")))
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def export(options: opts.Export) -> None:
    """Writes the encoder of a run as one file that runs with jax alone."""
    from vvae import build
    from vvae.run import open_run
    from vvae.tasks.storage.encoder import write_encoder

    run = open_run(options.workdir)
    model, params = build.load(run, options.checkpoint)
    num_frames = run.config.data.num_frames
    print(write_encoder(model, params, num_frames, options.workdir / "encoder.jax"))


def compress(options: opts.Compress) -> None:
    """Writes a video as coded latents, and prints the size and quality."""
    from vvae import build
    from vvae.inference import coding
    from vvae.models.bottleneck import FiniteScalars
    from vvae.run import open_run
    from vvae.tasks.result import format_result
    from vvae.tasks.storage import compress as compressing
    from vvae.tasks.storage.context_files import find_contexts

    run = open_run(options.workdir)
    model, params = build.load(run, options.checkpoint)
    step = coding.DEFAULT_STEP if options.step is None else options.step
    contexts = find_contexts(options.workdir, params)
    result = compressing.compress(
        model, params, *options.files, view=run.config.data.view, step=step, contexts=contexts
    )
    print(f"{format_result(result)}\n\nwritten: {options.files[1]}")
    if contexts is None and not isinstance(model.bottleneck, FiniteScalars):
        command = f"{name_command('evaluate code')} --workdir {shlex.quote(str(options.workdir))}"
        print(f"coded under the prior; contexts make such files smaller: {command}")


def decompress(options: opts.Decompress) -> None:
    """Writes the video of coded latents."""
    from vvae import build
    from vvae.tasks.storage import compress as compressing
    from vvae.tasks.storage.context_files import find_contexts

    model, params = build.load(options.workdir, options.checkpoint)
    contexts = find_contexts(options.workdir, params)
    header = compressing.decompress(
        model, params, *options.files, lossless=options.lossless, contexts=contexts
    )
    print(f"written: {options.files[1]}, {compressing.describe(header)}")
