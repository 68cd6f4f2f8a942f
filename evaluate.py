"""Measures and uses a trained run, or published weights.

    python evaluate.py --workdir RUN                            the tasks that its settings name
    python evaluate.py reconstruct density --workdir RUN        some of them
    python evaluate.py classify --workdir RUN --data.path NEW   labels new videos
    python evaluate.py check --data.path DIR                    looks at a folder of videos
    python evaluate.py export --workdir RUN                     the encoder as one file
    python evaluate.py compare RUN RUN                          two runs side by side
    python evaluate.py search --workdir RUN --query VIDEO       the clips most similar to one
    python evaluate.py compress IN.mp4 OUT.vvz --workdir RUN    a video as coded latents
    python evaluate.py decompress OUT.vvz BACK.mp4 --workdir RUN
    python evaluate.py moderate --workdir RUN --marks FILE.csv  learns unwanted content from marks
    python evaluate.py moderate --workdir RUN --data.path NEW   finds it in new videos
    python evaluate.py report --workdir RUN                     one HTML page of all of it
    python evaluate.py reconstruct --pretrained FOLDER --data.path DIR    published weights

Each task writes RUN/eval/TASK.json (values with what exactly was computed), pictures and videos,
and prints a table. Answers about new videos lie in RUN/eval/NAME, by the last name of their folder;
those about another folder of the same last name in NAME-2. Answers of published weights lie in
FOLDER/eval/NAME.
"""

import argparse
import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vvae import cli, processes, runtime
from vvae.config import BASELINES, TASKS

OTHER_TASKS = ("check", "export", "compare", "report", "compress", "decompress")
# Task -> the files that it takes after its name.
OPERANDS = {
    "compare": ("RUN", "RUN"),
    "compress": ("IN.mp4", "OUT.vvz"),
    "decompress": ("IN.vvz", "OUT.mp4"),
}


def main(arguments: list[str]) -> int:
    """Reads the command line and runs the tasks. Returns the exit status."""
    request = read_request(arguments)
    if request.tasks == ["check"]:
        check(request.data_path)
        return 0
    if request.tasks == ["compare"]:
        compare(request)
        return 0
    if request.tasks == ["report"]:
        report(request.workdir)
        return 0
    runtime.prepare_jax()
    if request.tasks == ["export"]:
        export(request)
        return 0
    if request.tasks == ["compress"]:
        compress(request)
        return 0
    if request.tasks == ["decompress"]:
        decompress(request)
        return 0
    if request.pretrained is not None:
        evaluate_pretrained(request.pretrained, request.data_path, request.clip)
        return 0
    if request.group is not None:
        processes.connect(request.group)
    evaluate_run(
        request.workdir,
        request.tasks,
        request.data_path,
        request.which,
        request.search,
        request.baselines,
        request.moderation,
    )
    return 0


# --- the command line ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SearchRequest:
    """What the task search looks for: a clip, and how many similar ones."""

    query: str | None = None
    count: int = 8


@dataclasses.dataclass(frozen=True)
class ModerateRequest:
    """What the task moderate learns from: a class that is declared unwanted, or a file of marks."""

    unwanted: str | None = None
    marked_videos: Path | None = None
    num_marks: int | None = None


@dataclasses.dataclass(frozen=True)
class ClipRequest:
    """What published weights are given: the size of the frames, and their number in a clip."""

    height: int = 256
    width: int = 256
    num_frames: int = 17


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    tasks: list[str]
    workdir: Path | None
    data_path: str | None
    which: str
    search: SearchRequest
    operands: tuple[Path, ...]
    out: Path | None
    baselines: tuple[str, ...] | None = None
    moderation: ModerateRequest = ModerateRequest()
    step: float | None = None
    lossless: bool = False
    group: processes.Group | None = None
    pretrained: Path | None = None
    clip: ClipRequest = ClipRequest()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        known = [name for action in self._actions for name in action.option_strings]
        for word in message.removeprefix("unrecognized arguments: ").split():
            if word.startswith("--") and word not in known:
                raise ValueError(cli.describe_unknown("option", word, known))
        raise ValueError(message)


def read_request(arguments: list[str]) -> Request:
    """Reads the command line.

    Raises:
      ValueError: for unknown tasks and options, and for tasks that lack a run or a folder.
    """
    parser = _Parser(
        "evaluate.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("tasks", nargs="*", help=f"among {', '.join((*TASKS, *OTHER_TASKS))}")
    parser.add_argument("--workdir", type=Path, help="run directory")
    parser.add_argument("--data.path", dest="data_path", help="folder of other videos")
    parser.add_argument("--which", default="best", help="checkpoint: best, latest or a step")
    parser.add_argument(
        "--query", metavar="VIDEO[:CLIP]", help="search: name of a video, or a file"
    )
    parser.add_argument("--count", type=int, default=8, help="search: how many clips (8)")
    parser.add_argument("--out", type=Path, help="compare: JSON file to write")
    parser.add_argument(
        "--baselines",
        nargs="+",
        metavar="NAME",
        help=f"classify: rows beside the latents, among {', '.join(BASELINES)}",
    )
    parser.add_argument("--unwanted", metavar="CLASS", help="moderate: the class to find")
    parser.add_argument(
        "--num_marks", type=int, metavar="N", help="moderate: training videos of it marked (10)"
    )
    parser.add_argument(
        "--marks",
        type=Path,
        metavar="FILE.csv",
        help="moderate: videos with columns path and label, wanted or unwanted",
    )
    parser.add_argument(
        "--step",
        type=float,
        help="compress: of the quantisation, in standard deviations of the posterior (2)",
    )
    parser.add_argument(
        "--lossless", action="store_true", help="decompress: write the frames bit by bit"
    )
    cli.add_process_options(parser)
    parser.add_argument(
        "--pretrained",
        type=Path,
        metavar="FOLDER",
        help="reconstruct: published weights, a folder with config.json and .safetensors files",
    )
    for name, default in dataclasses.asdict(ClipRequest()).items():
        text = f"--pretrained: of the clips ({default})"
        parser.add_argument(f"--data.{name}", dest=name, type=int, metavar="N", help=text)
    options = parser.parse_intermixed_args(arguments)
    operands = _take_operands(options)
    for task in options.tasks:
        if task not in (*TASKS, *OTHER_TASKS):
            raise ValueError(cli.describe_unknown("task", task, (*TASKS, *OTHER_TASKS)))
    for alone in OTHER_TASKS:
        if alone in options.tasks and len(options.tasks) > 1:
            raise ValueError(f"the task {alone} is run alone, not with {options.tasks}")
    if options.tasks == ["check"]:
        if options.data_path is None:
            raise ValueError("check needs a folder of videos: --data.path DIR")
    elif options.pretrained is None and options.workdir is None and options.tasks != ["compare"]:
        raise ValueError("give the run to evaluate: --workdir RUN")
    which = int(options.which) if options.which.isdigit() else options.which
    _check_search(options)
    _check_moderate(options)
    _check_compress(options)
    clip = _read_clip(options)
    return Request(
        options.tasks,
        options.workdir,
        options.data_path,
        which,
        SearchRequest(options.query, options.count),
        operands,
        options.out,
        None if options.baselines is None else tuple(options.baselines),
        ModerateRequest(options.unwanted, options.marks, options.num_marks),
        options.step,
        options.lossless,
        _read_group(options),
        options.pretrained,
        clip,
    )


def _read_group(options) -> processes.Group | None:
    group = cli.read_group(options)
    if group is not None and options.pretrained is not None:
        raise ValueError("--pretrained is the work of one process: no --parallel.coordinator")
    if group is not None and set(options.tasks) & set(OTHER_TASKS):
        raise ValueError(
            f"{options.tasks[0]} is the work of one process: no --parallel.coordinator"
        )
    return group


def _take_operands(options) -> tuple[Path, ...]:
    """Takes the paths of a task of `OPERANDS` out of the tasks; none for other tasks."""
    if options.out is not None and "compare" not in options.tasks:
        raise ValueError("--out is an option of compare")
    named = [task for task in OPERANDS if task in options.tasks]
    if not named:
        return ()
    task = options.tasks[0]
    if task not in OPERANDS or len(options.tasks) != 1 + len(OPERANDS[task]):
        words = " ".join((named[0], *OPERANDS[named[0]]))
        kind = "runs" if named[0] == "compare" else "files"
        raise ValueError(f"{named[0]} takes two {kind} and nothing else: {words}")
    operands = tuple(Path(path) for path in options.tasks[1:])
    options.tasks = [task]
    return operands


def _read_clip(options) -> ClipRequest:
    """Returns the clips that published weights are given, and checks what goes with them."""
    names = [field.name for field in dataclasses.fields(ClipRequest)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.pretrained is None:
        if given:
            raise ValueError(f"--data.{min(given)} is an option of --pretrained: a run has its own")
    elif options.tasks != ["reconstruct"] or options.data_path is None or options.workdir:
        raise ValueError(
            "published weights answer reconstruct, without a run: "
            "reconstruct --pretrained FOLDER --data.path DIR"
        )
    return ClipRequest(**given)


def _check_compress(options) -> None:
    if options.step is not None and options.tasks != ["compress"]:
        raise ValueError("--step is an option of compress")
    if options.lossless and options.tasks != ["decompress"]:
        raise ValueError("--lossless is an option of decompress")
    if options.step is not None and not 0 < options.step < float("inf"):
        raise ValueError(f"--step={options.step}: must be positive")


def _check_search(options) -> None:
    if ("search" in options.tasks) != (options.query is not None):
        raise ValueError("the task search needs --query VIDEO, and no other task takes it")
    if options.count < 1:
        raise ValueError(f"--count={options.count}: must be greater than 0")


def _check_moderate(options) -> None:
    given = sum(option is not None for option in (options.unwanted, options.marks))
    learns = "moderate" in options.tasks and options.data_path is None
    if learns and given != 1:
        raise ValueError(
            "the task moderate learns from --unwanted CLASS or from --marks FILE.csv: give one of "
            "them"
        )
    if given and not learns:
        raise ValueError(
            "--unwanted and --marks are options of moderate on the run's own videos; on others "
            "(--data.path) what it has learned there is used"
        )
    if options.num_marks is not None and options.unwanted is None:
        raise ValueError("--num_marks is an option of moderate, beside --unwanted CLASS")
    if options.num_marks is not None and options.num_marks < 2:
        raise ValueError(f"--num_marks={options.num_marks}: must be at least 2")


# --- tasks --------------------------------------------------------------------------------------


def evaluate_run(
    workdir,
    tasks=(),
    data_path: str | None = None,
    which="best",
    search: SearchRequest = SearchRequest(),
    baselines: tuple[str, ...] | None = None,
    moderation: ModerateRequest = ModerateRequest(),
) -> None:
    """Runs tasks on a run directory: on its test split, or on every video of another folder.

    Args:
      workdir: the run directory.
      tasks: names; if empty those of the run's settings, of which one that the data do not allow,
        such as `classify` without labels, is named and left out.
      data_path: folder of other videos.
      which: checkpoint, "best", "latest" or a step.
      search: what the task search looks for.
      baselines: rows of classify, instead of those that the run's settings name.
      moderation: what the task moderate learns from.

    Raises:
      ValueError: if the run, the checkpoint or the data do not allow it.
    """
    from vvae import build
    from vvae.run import open_run
    from vvae.tasks.result import format_result, write_result

    if "features" in tasks:
        from vvae.tasks.storage.feature_index import require_pyarrow

        require_pyarrow()
    run = open_run(workdir)
    run.config.check_tasks(tasks)
    if baselines is not None:
        settings = dataclasses.replace(run.config.evaluate, baselines=baselines)
        run = dataclasses.replace(run, config=dataclasses.replace(run.config, evaluate=settings))
    model, params = build.load(workdir, which)
    task_data = processes.do_together(lambda: _open_data(run, data_path))
    with _open_folder(run, data_path) as folder:
        question = _Question(run, model, params, task_data, folder, search, moderation)
        for task in tasks or run.config.evaluate.tasks:
            print(f"\n{task} ...", flush=True)
            try:
                result = _ANSWERS[task](question)
            except ValueError as error:
                if tasks:
                    raise
                # Nobody asked for this task by name, and the others can still be answered.
                print(f"\n{task}: not measured: {error}")
                continue
            write_result(result, folder)
            print(f"\n{format_result(result)}", flush=True)
    print(f"\npictures, videos and JSON files: {folder}")
    if processes.is_first():
        report(workdir)


def evaluate_pretrained(weights: Path, data_path: str, clip: ClipRequest) -> None:
    """Reconstructs the videos of a folder with published weights.

    The test split is measured, or the validation split where there is none; PCA is fitted to the
    training split, which the weights do not know.

    Args:
      weights: the folder of the weights; the answer goes into its eval/NAME.
      data_path: folder of videos.
      clip: what the weights are given.

    Raises:
      ValueError: if the weights or the data cannot be read.
    """
    from vvae import build
    from vvae import config as settings
    from vvae.data.dataset import describe_flaws
    from vvae.pretrained.load import load_pretrained
    from vvae.tasks import answer_folder
    from vvae.tasks.quality import reconstruct
    from vvae.tasks.result import format_result, write_result

    model, params = load_pretrained(weights)
    config = settings.Config(
        data=settings.Data(path=data_path, view="rgb", **dataclasses.asdict(clip)),
        model=settings.Model(kind="causal"),
        evaluate=settings.Evaluate(tasks=("reconstruct",)),
    )
    dataset = build.open_data(config, data_path)
    for line in describe_flaws(dataset):
        print(line)
    split = _choose_split(dataset)
    model = model.clone(shape_HWC=(clip.height, clip.width, model.shape_HWC[-1]))
    folder = answer_folder.open_folder(weights / "eval", data_path)
    # A clip at a time: these networks are large.
    result = reconstruct.reconstruct(model, params, dataset, folder, batch_size=1, split=split)
    write_result(result, folder)
    print(f"\n{format_result(result)}\n\npictures, videos and JSON files: {folder}")


def _choose_split(dataset) -> str:
    """Returns the split that is measured."""
    if "test" in dataset.splits:
        return "test"
    print("note: the data have no test split; the validation split is measured")
    return "val"


@contextlib.contextmanager
def _open_folder(run, data_path: str | None) -> Iterator[Path]:
    """Gives the folder of the answers; that of all processes but the first is thrown away."""
    if processes.is_first():
        yield _choose_folder(run, data_path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _choose_folder(run, data_path: str | None) -> Path:
    """Returns the folder of the answers, and says so where it has not the name of the videos'."""
    from vvae.tasks import answer_folder

    folder = run.workdir / "eval"
    folder.mkdir(exist_ok=True)
    if data_path is None:
        return folder
    name = Path(data_path).resolve().name
    chosen = answer_folder.open_folder(folder, data_path)
    if name not in ("", chosen.name):
        other = answer_folder.read_source(folder / name) or "unknown videos"
        print(f"note: {folder / name} holds answers about {other}: these go to {chosen}")
    return chosen


@dataclasses.dataclass(frozen=True)
class _TaskData:
    """The data set of a task, the split that it measures, and whether that is new to the run."""

    dataset: object
    split: str
    is_new: bool


def _open_data(run, data_path: str | None) -> _TaskData:
    from vvae import build
    from vvae.data.dataset import UNSPLIT, describe_flaws

    if data_path is None:
        known = build.open_data(run.config, run.record["data"]["path"])
        return _TaskData(known, _choose_split(known), is_new=False)
    new = build.open_new_data(run.config, data_path, run.class_names)
    for line in describe_flaws(new):
        print(line)
    return _TaskData(new, UNSPLIT, is_new=True)


def _add_training(run, data: _TaskData):
    """Returns the data set with the run's training clips, which PCA is fitted to."""
    from vvae import build

    if "train" in data.dataset.splits:
        return data.dataset
    known = build.open_data(run.config, run.record["data"]["path"])
    splits = {"train": known.splits["train"], **data.dataset.splits}
    return dataclasses.replace(data.dataset, splits=splits)


@dataclasses.dataclass(frozen=True)
class _Question:
    """What a task works on: the run, its model, the data, and the folder of the answer."""

    run: object
    model: object
    params: object
    data: _TaskData
    folder: Path
    search: SearchRequest
    moderation: ModerateRequest

    @property
    def arguments(self) -> tuple:
        """The first arguments of every task's function."""
        return self.model, self.params, self.data.dataset, self.folder

    @property
    def common(self) -> dict:
        """The keyword arguments that every task's function has."""
        train = self.run.config.train
        return {"batch_size": train.batch_size, "split": self.data.split, "seed": train.seed}


def _reconstruct(question: _Question):
    from vvae.tasks.quality import reconstruct

    model, params, _, folder = question.arguments
    dataset = _add_training(question.run, question.data)
    lpips_nets = question.run.config.evaluate.lpips
    return reconstruct.reconstruct(
        model, params, dataset, folder, **question.common, lpips_nets=lpips_nets
    )


def _density(question: _Question):
    from vvae import build
    from vvae.tasks.quality import density

    model, params, dataset, folder = question.arguments
    dataset = build.cut_data(question.run.config, dataset)
    num_samples = question.run.config.evaluate.num_samples
    return density.density(
        model, params, dataset, folder, **question.common, num_samples=num_samples
    )


def _generate(question: _Question):
    from vvae.tasks.quality import generate

    return generate.generate(*question.arguments, **question.common)


def _classify(question: _Question):
    from vvae.tasks.recognition import classify

    if question.data.is_new:
        return _label_new_videos(question)
    pooling = question.run.config.evaluate.pooling
    return classify.classify(
        *question.arguments,
        **question.common,
        baselines=question.run.config.evaluate.baselines,
        pooling=pooling,
        finetune_steps=question.run.config.evaluate.finetune_steps,
    )


def _features(question: _Question):
    from vvae.tasks.storage.features import store_features

    return store_features(
        *question.arguments,
        batch_size=question.run.config.train.batch_size,
        pooling=question.run.config.evaluate.pooling,
    )


def _cluster(question: _Question):
    from vvae.tasks.clustering import cluster

    model, params, _, folder = question.arguments
    dataset = _add_training(question.run, question.data)
    pooling = question.run.config.evaluate.pooling
    return cluster.cluster(model, params, dataset, folder, **question.common, pooling=pooling)


def _search(question: _Question):
    from vvae import build
    from vvae.data.dataset import UNSPLIT
    from vvae.tasks.storage import search

    run = question.run

    def open_file(path):
        return build.open_new_data(run.config, path, run.class_names).splits[UNSPLIT]

    result = search.search(
        *question.arguments,
        query=question.search.query,
        count=question.search.count,
        open_file=open_file,
        batch_size=run.config.train.batch_size,
        pooling=run.config.evaluate.pooling,
    )
    asked = question.search
    return _record_options(result, {"--query": asked.query, "--count": asked.count})


def _record_options(result, options: dict):
    """Adds the options that the answer came from, for the command in the report."""
    words = [str(word) for option in options.items() if option[1] is not None for word in option]
    return dataclasses.replace(result, details={**result.details, "options": words})


def _anomaly(question: _Question):
    from vvae.tasks.anomaly import anomaly
    from vvae.tasks.anomaly import scorer as scorers

    model, params, dataset, folder = question.arguments
    settings, common = question.run.config.evaluate, question.common
    if question.data.is_new:
        scorer = scorers.load_scorer(question.run.workdir / "eval" / scorers.SCORER_FILE)
        del common["seed"]
        return anomaly.detect(model, params, scorer, dataset, folder, **common)
    return anomaly.anomaly(
        model,
        params,
        dataset,
        folder,
        **common,
        block=settings.anomaly_block,
        headline=settings.anomaly_score,
        false_positive_rate=settings.false_positive_rate,
        regret_steps=settings.regret_steps,
    )


def _segment(question: _Question):
    from vvae.tasks.segmentation import boundaries, segment

    model, params, dataset, folder = question.arguments
    if question.data.is_new:
        path = question.run.workdir / "eval" / segment.DETECTOR_FILE
        detector = boundaries.load_detector(path)
        split = question.data.split
        return segment.apply_detector(model, params, detector, dataset, folder, split=split)
    return segment.segment(*question.arguments, **question.common)


def _moderate(question: _Question):
    from vvae.tasks.moderation import detector as detectors
    from vvae.tasks.moderation import marked_videos, moderate

    model, params, dataset, folder = question.arguments
    settings, asked, common = question.run.config.evaluate, question.moderation, question.common
    if question.data.is_new:
        path = question.run.workdir / "eval" / detectors.DETECTOR_FILE
        detector = detectors.load_detector(path)
        return moderate.apply_detector(model, params, detector, dataset, folder, **common)
    if asked.marks is not None:
        known = marked_videos.read_marks(asked.marks, dataset)
    elif asked.unwanted is not None:
        count = asked.num_marks or marked_videos.DEFAULT_NUM_MARKS
        split, seed = common["split"], common["seed"]
        known = marked_videos.mark_class(dataset, asked.unwanted, count, split, seed)
    else:
        raise ValueError("it learns from --unwanted CLASS or from --marks FILE.csv: name the task")
    result = moderate.moderate(
        model,
        params,
        dataset,
        folder,
        known,
        **common,
        pooling=settings.pooling,
        false_positive_rate=settings.false_positive_rate,
    )
    given = {
        "--unwanted": asked.unwanted,
        "--num_marks": asked.num_marks,
        "--marks": asked.marks,
    }
    return _record_options(result, given)


def _latents(question: _Question):
    from vvae.config_files import to_dict
    from vvae.tasks.storage import latents

    data = question.data
    return latents.export_latents(
        *question.arguments,
        batch_size=question.run.config.train.batch_size,
        settings=to_dict(question.run.config),
        statistics_split=data.split if data.is_new else "train",
    )


# Task -> the function that answers it; each calls one function of vvae.tasks.
_ANSWERS = {
    "reconstruct": _reconstruct,
    "density": _density,
    "classify": _classify,
    "generate": _generate,
    "features": _features,
    "cluster": _cluster,
    "search": _search,
    "anomaly": _anomaly,
    "segment": _segment,
    "moderate": _moderate,
    "latents": _latents,
}


def _label_new_videos(question: _Question):
    from vvae.tasks.probe import load_probe
    from vvae.tasks.recognition import classify
    from vvae.tasks.result import Result

    run, data, folder = question.run, question.data, question.folder
    path = run.workdir / "eval" / "probe.npz"
    if not path.exists():
        raise ValueError(
            f"{path} is not there: run `python evaluate.py classify --workdir {run.workdir}` first"
        )
    clips = data.dataset.splits[data.split]
    count = classify.label_videos(
        question.model,
        question.params,
        load_probe(path),
        clips,
        folder / "classify.csv",
        batch_size=run.config.train.batch_size,
    )
    broken = data.dataset.broken
    note = f"{count} videos are labelled, with scores: {folder / 'classify.csv'}"
    left_out = f"{len(broken)} videos cannot be read and are left out"
    return Result(
        task="classify",
        rows={},
        details={"broken": broken},
        notes=(note, left_out) if broken else (note,),
        files=("classify.csv",),
    )


def check(data_path: str) -> None:
    """Prints what a folder of videos holds, and what is broken."""
    import os

    from vvae.data.check import format_summary, summarize

    print(format_summary(summarize(data_path, num_workers=os.cpu_count() or 1)))


def compare(request: Request) -> None:
    """Prints two runs side by side, and writes what was found where --out says."""
    from vvae.files import write_json
    from vvae.report import compare as comparing

    comparison = comparing.compare_runs(*request.operands)
    print(comparing.format_comparison(comparison))
    if request.out is not None:
        write_json(request.out, comparison)
        print(f"\nwritten: {request.out}")


def report(workdir: Path) -> None:
    """Writes RUN/report.html from the files of a run, and says where it is."""
    from vvae.config_files import load_config_file, to_dict
    from vvae.report.write import write_report

    defaults = load_config_file(Path(__file__).resolve().parent / "configs" / "default.py")
    path = write_report(workdir, to_dict(defaults))
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def export(request: Request) -> None:
    """Writes the encoder of a run as one file that needs jax, not vvae."""
    from vvae import build
    from vvae.files import replacing
    from vvae.tasks.storage.encoder import export_encoder

    model, params = build.load(request.workdir, request.which)
    path = request.workdir / "encoder.jax"
    with replacing(path) as part:
        part.write_bytes(export_encoder(model, params))
    shape = ", ".join(map(str, model.shape_HWC))
    print(f"{path} runs with jax alone, on a CPU, a CUDA GPU or a TPU:\n")
    print("    import jax.export")
    print(f'    encoder = jax.export.deserialize(open("{path}", "rb").read())')
    print(f"    latents = encoder.call(video)  # uint8 [B, T, {shape}] -> dict of float32 arrays")


def compress(request: Request) -> None:
    """Writes a video as coded latents of a run's model, and prints size and quality."""
    from vvae import build
    from vvae.inference import coding
    from vvae.run import open_run
    from vvae.tasks.result import format_result
    from vvae.tasks.storage import compress as compressing

    coding.require_coder()
    view = open_run(request.workdir).config.data.view
    model, params = build.load(request.workdir, request.which)
    step = coding.DEFAULT_STEP if request.step is None else request.step
    result = compressing.compress(model, params, *request.operands, view=view, step=step)
    print(f"{format_result(result)}\n\nwritten: {request.operands[1]}")


def decompress(request: Request) -> None:
    """Writes the video of coded latents."""
    from vvae import build
    from vvae.inference import coding
    from vvae.tasks.storage import compress as compressing

    coding.require_coder()
    model, params = build.load(request.workdir, request.which)
    source, target = request.operands
    header = compressing.decompress(model, params, source, target, request.lossless)
    num_frames, height, width = header.shape_THW
    rate = header.fps[0] / header.fps[1]
    print(f"written: {target}, {num_frames} frames of {width}x{height}, {rate:g} a second")


if __name__ == "__main__":
    cli.run_main(main, end=processes.end)
