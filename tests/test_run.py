"""A run directory: who may write to it, and config.json of other versions and other hands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vvae.config import Config, difference
from vvae.config_files import to_dict
from vvae.files import write_json
from vvae.run import is_run, lock, open_run

ROOT = Path(__file__).resolve().parents[1]
HOLD_THE_LOCK = """
import sys
from vvae import run as runs
with runs.lock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_others_out_and_dies_with_its_process(tmp_path):
    workdir = tmp_path / "run"
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(workdir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as owner:
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match="another process is writing"), lock(workdir):
            pass
        owner.kill()
        owner.wait()
    with lock(workdir):
        (workdir / "config.json").write_text("{}")
    assert is_run(workdir)


def test_the_second_of_two_trainings_in_one_directory_is_refused(tmp_path):
    with lock(tmp_path / "run"):
        command = [sys.executable, "train.py", "--workdir", str(tmp_path / "run")]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert f"another process is writing to {tmp_path / 'run'}" in result.stderr


@pytest.fixture
def write_run(tmp_path):
    """Returns a function that writes a run whose record `change` has changed, and opens it."""

    def write(change):
        record = {"config": to_dict(Config()), "data": {}, "history": []}
        record["versions"] = {"vvae": "0.0.7"}
        change(record)
        (tmp_path / "config.json").write_text(json.dumps(record))
        (tmp_path / "classes.json").write_text("[]")
        return open_run(tmp_path)

    return write


def test_a_setting_that_an_older_version_lacks_takes_its_default(write_run):
    def lack(record):
        del record["config"]["optim"]["ema_decay"], record["config"]["checkpoint"]

    run = write_run(lack)
    assert run.config == Config()
    assert difference(run.config, Config()) == {}


@pytest.mark.parametrize(
    ("section", "name"), [("optim", "ema"), ("evaluate", "false_alarms"), (None, "logging")]
)
def test_a_setting_that_is_no_more_is_an_error_that_says_what_to_do(write_run, section, name):
    def keep(record):
        values = record["config"] if section is None else record["config"][section]
        values[name] = 0.5

    full_name = name if section is None else f"{section}.{name}"
    with pytest.raises(ValueError) as caught:
        write_run(keep)
    message = str(caught.value)
    assert f"config.json, written by vvae 0.0.7: no setting {full_name}; those of" in message
    assert "use that version, or edit the file (rename the setting, or remove its line" in message


@pytest.mark.parametrize(
    ("section", "name", "value", "text"),
    [
        ("data", "height", "32", "data.height='32': must be int"),
        ("data", "height", True, "data.height=True: must be int"),
        ("data", "flip", 1, "data.flip=1: must be bool"),
        ("data", "path", 3, "data.path=3: must be str or null"),
        ("data", "sampling", "os.system", "must be one of windows, whole"),
        ("optim", "learning_rate", [1], r"optim.learning_rate=\[1\]: must be float"),
        ("model", "widths", 3, "model.widths=3: must be a list"),
        ("model", "widths", [8, "x"], "model.widths='x': must be int"),
        ("causal", "blocks", [1, 2, 3], "must be 2 values"),
        ("data", None, [], r"data=\[\]: must be a JSON object"),
    ],
)
def test_values_of_another_type_are_refused(write_run, section, name, value, text):
    def change(record):
        if name is None:
            record["config"][section] = value
        else:
            record["config"][section][name] = value

    with pytest.raises(ValueError, match=text):
        write_run(change)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"config": {}}', "\udcff", "[" * 10**5])
def test_what_is_no_record_of_a_run_is_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        open_run(tmp_path)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_json_holds_names_that_are_no_utf_8(tmp_path):
    value = {"broken": {"caf\udce9 \\udce9.mp4": "größe 動画 🎬"}}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value
    assert "動画" in (tmp_path / "a.json").read_text(encoding="utf-8")
