"""The command line of evaluate.py: which words select what, and which are refused."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from vvae.task_table import TASKS
from vvae.tasks import options
from vvae.tasks.command_line import Evaluation, read_request

RUN = Path("run")


def read(line):
    return read_request(line.split())


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_options_and_an_answer(task):
    row = TASKS[task]
    assert issubclass(options.find_options(task), options.TaskOptions)
    answer = importlib.import_module(f"vvae.tasks.{row.module}").answer
    assert list(inspect.signature(answer).parameters) == ["question", "options"]
    assert row.sequential or row.grid


@pytest.mark.parametrize(
    "line",
    [
        "classify density --workdir run --baselines hog time --which 12",
        "--workdir run classify --which 12 density --baselines hog time",
        "--which=12 --workdir=run classify density --baselines hog time",
        "classify --baselines hog time --workdir run density --which 12",
    ],
)
def test_options_stand_before_or_after_the_tasks(line):
    request = read(line)
    assert request.common == options.CommonOptions(workdir=RUN, which="12")
    assert request.common.checkpoint == 12
    assert list(request.tasks.items()) == [
        ("classify", options.Classify(("hog", "time"))),
        ("density", options.Density()),
    ]


def test_without_a_task_those_of_the_run_are_selected():
    request = read("--workdir run --data.path new")
    assert request == Evaluation(options.CommonOptions(RUN, data=options.Videos("new")), {})


def test_several_tasks_take_the_options_of_each():
    tasks = read("search moderate --workdir run --query a:1 --unwanted b --num_marks 3").tasks
    assert tasks["search"] == options.Search("a:1", 8)
    assert tasks["moderate"] == options.Moderate("b", 3)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("check --data.path new", options.Check(options.Videos("new"))),
        ("--workdir run report", options.Report(RUN)),
        ("export --workdir run --which latest", options.Export(RUN, "latest")),
        ("compare a b --out c.json", options.Compare((Path("a"), Path("b")), Path("c.json"))),
        (
            "--workdir run compress a.mp4 b.vvz --step 3",
            options.Compress(workdir=RUN, files=(Path("a.mp4"), Path("b.vvz")), step=3.0),
        ),
        (
            "decompress --lossless b.vvz a.mp4 --workdir run",
            options.Decompress(workdir=RUN, files=(Path("b.vvz"), Path("a.mp4")), lossless=True),
        ),
    ],
)
def test_commands_have_options_of_their_own(line, expected):
    assert read(line) == expected


def test_published_weights_are_reconstructed_without_a_run():
    request = read("reconstruct --pretrained w --data.path d --data.height 16")
    assert request.common.data == options.Videos("d") and request.common.workdir is None
    assert request.tasks == {"reconstruct": options.Reconstruct(Path("w"), options.ClipSize(16))}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "^give the run to evaluate: --workdir RUN"),
        ("density", "^give the run to evaluate: --workdir RUN"),
        ("report", "^give the run to evaluate: --workdir RUN"),
        ("recontruct --workdir run", "^no task 'recontruct'; did you mean reconstruct"),
        (
            "density --workdri run",
            r"^no option --workdri; did you mean --workdir \(run directory\)\?$",
        ),
        (
            "density --data-pth run",
            r"^no option --data_pth; did you mean --data.path \(folder of videos\)\?$",
        ),
        ("density --workdir run --count 3", "^--count is an option of search, not of density"),
        ("--workdir run --count 3", "^--count is an option of search: name it"),
        ("report --workdir run --which 3", "^--which is an option of the tasks, not of report"),
        ("export --workdir run --parallel.coordinator auto", "of the tasks, not of export"),
        ("check density --workdir run", "^the task check is run alone, not with density"),
        ("classify --workdir run --baselines hgo", "^--baselines: no baseline 'hgo'; did you mean"),
        ("density reconstruct --pretrained w --data.path d", "give the run"),
        (
            "reconstruct --pretrained w --data.path d --parallel.coordinator auto",
            "runs in one process",
        ),
    ],
)
def test_wrong_command_lines_are_refused(line, message):
    with pytest.raises(ValueError, match=message):
        read(line)


def write_files(folder):
    """Writes a video, coded latents and a run that are none, and links to the video."""
    for name in ("a.mp4", "b.vvz", "old.vvz", "old.mp4", "old.json"):
        (folder / name).write_text(f"content of {name}")
    (folder / "soft.vvz").symlink_to("a.mp4")
    (folder / "hard.vvz").hardlink_to(folder / "a.mp4")
    (folder / "hard.mp4").hardlink_to(folder / "b.vvz")
    (folder / "to_b").symlink_to(".")
    (folder / "run" / "eval").mkdir(parents=True)
    for name in ("config.json", "eval/density.json"):
        (folder / "run" / name).write_text("{}")
    (folder / "record.json").symlink_to("run/eval/density.json")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *(
            (
                f"compress a.mp4 {name} --workdir run",
                f"^the output {Path(name)} is the same .* a.mp4,",
            )
            for name in ("a.mp4", "./a.mp4", "soft.vvz", "hard.vvz", "to_b/run/../a.mp4")
        ),
        ("compress a.mp4 soft.vvz --workdir run --overwrite", "same file as the input a.mp4"),
        ("compress new.mp4 to_b/new.mp4 --workdir run", "same file as the input new.mp4"),
        ("decompress b.vvz to_b/hard.mp4 --workdir run --overwrite", "the input b.vvz"),
        ("compare run run --out run/config.json --overwrite", "the input run/config.json"),
        ("compare run run --out record.json --overwrite", "the input run/eval/density.json"),
        ("compress a.mp4 old.vvz --workdir run", "^old.vvz exists: .* or --overwrite"),
        ("decompress b.vvz old.mp4 --workdir run", "^old.mp4 exists"),
        ("compare run run --out old.json", "^old.json exists"),
        ("compress a.mp4 run --workdir run", "^run is a folder: .* run/NAME.vvz"),
        ("decompress b.vvz run --workdir run", "^run is a folder: .* run/NAME.avi"),
        ("compress a.mp4 no/b.vvz --workdir run", "^no/b.vvz: there is no folder .*/no: make"),
        ("decompress b.vvz no/b.mp4 --workdir run", "^no/b.mp4: there is no folder"),
        ("compare run run --out no/c.json", "^no/c.json: there is no folder"),
        ("compress a.mp4 old.mp4 --workdir run --overwrite", r"cannot write '\.mp4'; use \.vvz"),
        ("decompress b.vvz c --workdir run", "^c: cannot write ''; use .* or .mp4 for the output"),
        ("compare run run --out c", r"^c: cannot write ''; use \.json"),
    ],
)
def test_an_output_that_would_destroy_a_file_or_cannot_be_written_is_refused(
    line, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message):
        read(line)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "line",
    [
        "compress a.mp4 new.VVZ --workdir run",
        "compress a.mp4 old.vvz --workdir run --overwrite",
        "decompress b.vvz old.mp4 --workdir run --overwrite",
        "compare run run --out run/comparison.json",
        "compare run run --out /dev/null",
    ],
)
def test_other_outputs_are_allowed(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    read(line)


def test_a_folder_among_the_words_is_the_run_or_the_videos(tmp_path):
    for name in ("config.json", "classes.json"):
        (tmp_path / name).write_text("{}")
    assert read(f"report {tmp_path}") == options.Report(tmp_path)
    assert read(f"{tmp_path} density").common.workdir == tmp_path
    assert read(f"check {tmp_path}") == options.Check(options.Videos(str(tmp_path)))
    assert read(f"compare {tmp_path} {tmp_path}").runs == (tmp_path, tmp_path)


def test_a_folder_that_can_be_meant_in_several_ways_names_the_options(tmp_path):
    with pytest.raises(ValueError, match=f"not a task: give videos by --data.path {tmp_path}"):
        read(f"{tmp_path}")
    (tmp_path / "config.json").write_text("{}")  # of published weights
    with pytest.raises(ValueError, match="not a task"):
        read(f"reconstruct {tmp_path}")
    (tmp_path / "classes.json").write_text("[]")
    with pytest.raises(ValueError, match="not a task"):  # the run is given already
        read(f"density {tmp_path} --workdir run")
    with pytest.raises(ValueError, match=r"^report nowhere: no such run"):
        read("report nowhere")


def test_a_value_of_the_wrong_type_is_refused_with_its_option():
    message = r"^--count many: must be a whole number \(number of clips to find\)$"
    with pytest.raises(ValueError, match=message):
        read("search --workdir run --query a --count many")


@pytest.mark.parametrize("line", ["classify --help", "-h --workdir run classify"])
def test_help_of_a_task_shows_its_options_alone(line, capsys):
    with pytest.raises(SystemExit) as stop:
        read(line)
    assert not stop.value.code
    text = capsys.readouterr().out
    for option in ("--workdir", "--which", "--data.path", "--parallel.coordinator", "--baselines"):
        assert option in text
    assert "--query" not in text and "--pretrained" not in text
    titles = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert titles == ["options", "data", "parallel"] and "|none" not in text


@pytest.mark.parametrize("command", options.COMMANDS)
def test_help_of_a_command_needs_no_files(command, capsys):
    with pytest.raises(SystemExit) as stop:
        read(f"{command} --help")
    assert not stop.value.code
    text = capsys.readouterr().out
    assert f"usage: vvae {command}" in text and "--parallel" not in text
    assert text.count("usage:") == 1


def test_help_lists_every_task_by_its_question(capsys):
    with pytest.raises(SystemExit) as stop:
        read("--help")
    assert not stop.value.code
    names = re.findall(r"^  (\w+) +[A-Z]", capsys.readouterr().out, re.MULTILINE)
    assert sorted(names) == sorted([*TASKS, *options.COMMANDS])
