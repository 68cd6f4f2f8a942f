"""An answer is on disk before its first picture, and no picture ends an evaluation."""

import json

import pytest

from vvae import figures
from vvae.tasks.result import Picture, Result, publish


def fail(folder):
    assert json.loads((folder / "task.json").read_text())["task"] == "task", "not written yet"
    raise ZeroDivisionError("of a picture\nin two lines")


def make_result():
    pictures = (
        Picture({"a.png": "A", "a.mp4": "A, playing"}, fail),
        Picture({"b.png": "B"}, lambda folder: (folder / "b.png").write_bytes(b"drawn")),
    )
    names = ("a.png", "table.csv", "a.mp4", "b.png")
    return Result(task="task", rows={}, notes=("a note",), files=names, pictures=pictures)


def test_a_picture_that_fails_is_one_warning_and_the_rest_is_there(tmp_path, capsys):
    publish(make_result(), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "",
        "a note",
        "warning: a.png, a.mp4 cannot be drawn (ZeroDivisionError: of a picture in two lines); no "
        "number depends on it",
    ]
    written = json.loads((tmp_path / "task.json").read_text())
    assert written["files"] == ["table.csv", "b.png"]
    assert written["captions"]["b.png"] == "B"
    assert (tmp_path / "b.png").read_bytes() == b"drawn"


def test_what_only_the_previous_answer_had_is_removed(tmp_path):
    names = ("old.csv", "old.png", "a.png", "b.png", "../kept.csv")
    (tmp_path / "eval").mkdir()
    for name in (*names, "mine.csv"):
        (tmp_path / "eval" / name).write_text("before")
    (tmp_path / "eval" / "task.json").write_text(json.dumps({"files": names}))
    publish(make_result(), tmp_path / "eval")
    left = sorted(path.name for path in (tmp_path / "eval").iterdir())
    assert left == ["b.png", "mine.csv", "task.json"]  # a.png is old, and its new one failed
    assert (tmp_path / "kept.csv").exists()


def test_a_traceback_can_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("VVAE_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        publish(make_result(), tmp_path)
    assert (tmp_path / "task.json").exists()


def test_an_interrupt_is_not_a_failure_of_a_picture():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        figures.try_to_draw(["a.png"], stop)
