"""The program `vvae`: its commands, its help, and what they refuse before jax is there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vvae.cli import list_options
from vvae.commands import dispatch, evaluate
from vvae.commands.train_request import Place, read_request
from vvae.config import Config
from vvae.config_files import ALIASES, find_configs, list_configs, load_config_file, to_dict
from vvae.files import write_json
from vvae.task_table import TASKS
from vvae.tasks.command_line import QUESTIONS
from vvae.tasks.options import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def run(*words, **options):
    """Runs `vvae` in a process of its own."""
    command = [sys.executable, "-m", "vvae", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """Six short videos in two class folders of `my class`; the test runs beside it."""
    for number in range(6):
        path = tmp_path / "my class" / ("left", "right")[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((4, 8, 8), number, np.uint8))
    monkeypatch.chdir(tmp_path)
    return "my class"


def write_run(path, config):
    """Writes the record of a run of 8 steps, as far as a command line reads it."""
    record = {"config": to_dict(config), "history": [], "data": {"num_steps": 8, "path": "x"}}
    Path(path).mkdir()
    write_json(Path(path) / "config.json", record)
    write_json(Path(path) / "classes.json", [])


# --- the commands --------------------------------------------------------------------------------


def test_every_task_and_command_is_listed_under_one_question(capsys):
    listed = [name for names in QUESTIONS.values() for name in names]
    assert sorted(listed) == sorted([*TASKS, *COMMANDS])
    assert dispatch.main(["--help"]) == dispatch.main([]) == 0
    printed = re.findall(r"^  (\w+) +[A-Z]", capsys.readouterr().out, re.MULTILINE)
    assert printed == [*["train", "evaluate", *listed, "latents", "decode", "sample"] * 2]


@pytest.mark.parametrize("words", [["check"], ["evaluate", "check"]])
def test_a_task_is_a_command_and_one_of_evaluate(words, videos, capsys):
    assert dispatch.main([*words, videos]) == 0
    assert "classes  2: left (3), right (3)" in capsys.readouterr().out


def test_a_task_may_stand_behind_its_options():
    with pytest.raises(ValueError, match="nowhere is not a run directory"):
        dispatch.main(["--workdir", "nowhere", "density"])


def test_a_misspelt_command_names_the_closest():
    with pytest.raises(ValueError, match=r"^no command 'trian'; did you mean train\?$"):
        dispatch.main(["trian", "--data.path", "x"])


def test_the_version_is_that_of_the_package():
    assert re.fullmatch(r"vvae (\d+\.\d+\.\d+.*|of a checkout.*)\n", run("--version").stdout)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_ends_quietly_where_nothing_reads_it(unbuffered, tmp_path):
    command = f'"{sys.executable}" -m vvae train --help-all | true; echo "${{PIPESTATUS[0]}}"'
    environment = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    result = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | environment,
    )
    assert result.stderr == "" and result.stdout.strip() == "141"


# --- configurations ------------------------------------------------------------------------------


def test_configurations_are_found_by_name_alias_and_path_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = load_config_file(ROOT / "configs" / "actions.py")
    assert expected.data.view == "rootflow"
    for name in ("actions", "gestures", "configs/actions.py", "configs/gestures.py", "actions.py"):
        assert load_config_file(name) == expected
    assert set(ALIASES.values()) <= set(list_configs()) and not set(ALIASES) & set(list_configs())


def test_a_file_of_ones_own_comes_before_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "configs" / "tiny.py", "actions")
    assert load_config_file("actions").name == "tiny"


def test_an_unknown_configuration_lists_all_with_a_line_of_80_columns(tmp_path):
    result = run("train", "surveilance", cwd=tmp_path)
    first, *lines = result.stderr.splitlines()
    assert result.returncode == 2 and first.startswith("error: no configuration surveilance")
    names = [line.split()[0] for line in lines if not line.startswith("   ")]
    assert sorted(names) == sorted(list_configs()) and max(map(len, lines)) <= 80
    assert all(list_configs().values())


def test_the_configurations_lie_inside_an_installed_package_or_beside_a_checkout(
    tmp_path, monkeypatch
):
    assert find_configs() == ROOT / "configs"
    monkeypatch.setattr("vvae.config_files.__file__", str(tmp_path / "vvae" / "config_files.py"))
    (tmp_path / "configs").mkdir()
    assert find_configs() == tmp_path / "configs"
    (tmp_path / "vvae" / "configs").mkdir(parents=True)
    assert find_configs() == tmp_path / "vvae" / "configs"


def test_an_installed_wheel_trains_from_another_folder(videos, tmp_path):
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, str(tmp_path / "site"), str(ROOT)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def call(*words):
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
        command = [tmp_path / "site" / "bin" / "vvae", *words]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=elsewhere, env=environment
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "usage: vvae COMMAND" in call("--help")
    assert re.fullmatch(r"vvae \d+\.\d+\.\d+\n", call("--version"))
    assert "Steps; none to count in epochs [12]" in call("train", "tiny", "--help")
    code = "import vvae.configs.actions as a; print(a.__file__, a.get_config().name)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(
        command, capture_output=True, text=True, cwd=elsewhere, env=environment, check=True
    ).stdout
    assert printed == f"{tmp_path / 'site' / 'vvae' / 'configs' / 'actions.py'} actions\n"
    short = ["--train.num_steps", "2", "--evaluate.tasks", "density"]
    printed = call("train", "tiny", "--data.path", str(tmp_path / videos), *short)
    (workdir,) = (elsewhere / "runs").iterdir()
    assert workdir.name.startswith("my_class-tiny-") and (workdir / "report.html").exists()
    assert "elbo" in printed and "elbo" in call("density", f"runs/{workdir.name}")


# --- help ----------------------------------------------------------------------------------------


def read_help(*words, capsys):
    with pytest.raises(SystemExit) as stop:
        read_request([*words])
    assert not stop.value.code
    return capsys.readouterr().out


def test_help_shows_the_first_settings_and_the_configurations(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = read_help("surveillance", "--help", capsys=capsys)
    assert text.count("usage:") == 1 and max(map(len, text.splitlines())) <= 80
    settings = re.findall(r"^  (--\w+\.\w+) ", text, re.MULTILINE)
    assert len(settings) == 10 and set(settings) <= set(list_options(Config))
    assert "  --data.height N           Rows of a frame after resizing [18]\n" in text
    for name in list_configs():
        assert f"\n  {name} " in text


def test_help_all_shows_every_setting_with_its_value_and_meaning(capsys):
    text = read_help("tiny", "--help-all", capsys=capsys)
    shown = re.findall(r"^  (--[\w.]+) ?(.*)\n      (\S.*)", text, re.MULTILINE)
    assert {name for name, *_ in shown} == {*list_options(Config), *list_options(Place)}
    assert all(values for _, values, _ in shown) and "--model.widths N ...\n" in text
    assert text.count("usage:") == 1 and "Rows of a frame after resizing. [16]" in text
    assert not re.search(r"--[a-z.]*-(?!all)", text.replace("--help-all", ""))


# --- what is trained -----------------------------------------------------------------------------


def test_own_videos_without_a_configuration_get_the_one_that_fits(videos):
    request = read_request(["--data.path", videos])
    assert request.config.name == "actions" and request.config.data.sampling == "whole"
    assert "settings: actions (6 videos of 2 classes" in request.note
    assert re.fullmatch(r"my_class-actions-\d{8}-\d{6}", request.workdir.name)


def test_named_settings_and_names_are_kept(videos):
    request = read_request(["tiny", "--data.path", videos])
    assert request.config.name == "tiny" and request.note is None
    assert request.workdir.name.startswith("my_class-tiny-")
    request = read_request(["default", "--data.path", videos])
    assert re.fullmatch(r"my_class-\d{8}-\d{6}", request.workdir.name)
    request = read_request(["--data.path", videos, "--name", "mine"])
    assert re.fullmatch(r"mine-\d{8}-\d{6}", request.workdir.name)
    assert read_request([]).workdir.name.startswith("default-")


def test_a_run_goes_on_with_its_own_settings_and_is_what_another_begins_with(videos):
    config = load_config_file("tiny")
    write_run("old", config)
    going_on = read_request(["--workdir", "old", "--data.path", videos])
    assert going_on.config.model == config.model and going_on.note is None
    begun = read_request(["--init_from", "old", "--data.path", videos, "--train.num_steps", "3"])
    assert begun.config.model == config.model and begun.config.train.num_steps == 3
    assert begun.workdir.name.startswith("my_class-tiny-")


def test_a_run_becomes_longer_where_its_length_decides_nothing(videos):
    constant = ["--optim.warmup", "0", "--optim.final_fraction", "1", "--objective.kl_warmup", "0"]
    config = read_request(["tiny", "--data.path", videos, *constant]).config
    write_run("old", config)
    longer = ["--workdir", "old", "--data.path", videos, "--train.num_steps", "20"]
    assert read_request(longer).config.train.num_steps == 20
    write_run("cosine", load_config_file("tiny"))
    with pytest.raises(ValueError) as caught:
        read_request(["--workdir", "cosine", "--train.num_steps", "20"])
    message = str(caught.value)
    assert "optim.warmup, optim.final_fraction, objective.kl_warmup count in parts" in message
    assert message.endswith("in a new run: vvae train --init_from cosine --train.num_steps 12")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--optim.learning_rate 0.1", "vvae train --init_from old --optim.learning_rate 0.1"),
        ("--model.hidden 8", "(model.hidden: 32 -> 8); give another --workdir"),
    ],
)
def test_other_settings_of_a_run_end_with_what_to_do(option, text, videos):
    write_run("old", load_config_file("tiny"))
    with pytest.raises(ValueError) as caught:
        read_request(["--workdir", "old", *option.split()])
    assert str(caught.value).endswith(text)


@pytest.mark.parametrize("name", ["classes.json", "metrics.jsonl", "eval"])
def test_a_directory_with_files_of_others_is_refused(name, videos):
    Path("other").mkdir()
    (Path("other") / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"other is not a run .*\({name}\): give another"):
        read_request(["--workdir", "other"])
    assert (Path("other") / name).read_text() == "mine"


REFUSED = {
    "train my_class": "is a folder, not a configuration: videos are given with --data.path",
    "train old": "a run is continued with --workdir old",
    "train tiny stray": "takes one configuration, not tiny stray",
    "train --data.path no/such": "no such folder",
    "train --data.view grey": "unknown view 'grey': did you mean 'gray'",
    "train --init_from Wan-AI/Wan2.1": "hf download Wan-AI/Wan2.1",
    "train actions": "these settings are for your videos",
    "reconstruct --pretrained Wan-AI/Wan2.1 --data.path my_class": "hf download Wan-AI/Wan",
    "density --workdir old --data.path no/such": "no such folder",
    "classify --workdir old --data.path my_class": "run `vvae classify --workdir old` first",
    "moderate --workdir old --data.path my_class": "--workdir old --unwanted CLASS` first",
    "density anomaly --workdir old --data.path my_class": "eval/anomaly.npz is missing, which anom",
    "latents --workdir old": "those of the run's own clips: vvae evaluate latents",
    "latents --pretrained Wan-AI/Wan --data.path my_class --out s": "hf download Wan-AI/Wan",
    "evaluate latents --workdir old": "evaluate.tasks='latents': needs model.kind=causal",
    "report nowhere": "report nowhere: no such run",
    "report --workdir nowhere": "nowhere",
    "compress a.mp4 b.vvz --workdir old": "a.mp4: no such file",
}


def test_bad_words_are_refused_without_jax_and_without_a_trace(videos):
    Path(videos).rename("my_class")
    write_run("old", load_config_file("tiny"))
    before = sorted(Path().rglob("*"))
    check = (
        "import json, sys\nfrom vvae.commands.dispatch import main\n"
        "def refuse(words):\n"
        "    try:\n        main(words.split())\n"
        "    except ValueError as error:\n        return str(error)\n"
        "print(json.dumps([refuse(words) for words in sys.argv[1:]]))\n"
        "sys.exit('jax' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", check, *REFUSED],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    for message, text in zip(json.loads(result.stdout), REFUSED.values(), strict=True):
        assert message is not None and text in message
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "package"),
    [("--train.tensorboard true", "tensorboardX"), ("--data.view flow", "cv2")],
)
def test_a_package_that_is_missing_is_named_at_once(option, package, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name)
    )
    with pytest.raises(ValueError, match=rf"needs {package} .*: pip install"):
        read_request(option.split())


def test_evaluate_names_itself_by_the_task(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["classify", "--help"])
    assert capsys.readouterr().out.startswith("usage: vvae classify [OPTIONS]\n")
