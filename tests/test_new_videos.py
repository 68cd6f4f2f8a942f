"""Folders of answers about new videos: one for each path, even if last names are equal."""

import os

from vvae.config import Config
from vvae.run import Run
from vvae.tasks.answer_folder import open_folder, read_source
from vvae.tasks.question import choose_folder


def make_place(*parts):
    place = os.path.join(*map(str, parts))
    os.makedirs(place)
    return place


def test_every_path_has_a_folder_of_its_own_and_keeps_it(tmp_path, monkeypatch):
    places = [make_place(tmp_path, where, "new") for where in "abc"]
    answers = tmp_path / "eval"
    folders = [open_folder(answers, place) for place in places]
    assert [folder.name for folder in folders] == ["new", "new-2", "new-3"]
    assert [str(read_source(folder)) for folder in folders] == places
    assert [open_folder(answers, place) for place in places[::-1]] == folders[::-1]
    # Other paths to the same folder.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(places[1])
    assert open_folder(answers, "b/../b/new") == open_folder(answers, "link") == folders[1]


def test_answers_about_unknown_videos_are_left_alone(tmp_path):
    place = make_place(tmp_path, "new")
    answers = tmp_path / "eval"
    make_place(answers, "new")
    assert open_folder(answers, place).name == "new"  # an empty folder is free
    other = make_place(tmp_path, "old")
    make_place(answers, "old")
    (answers / "old" / "classify.csv").write_text("x")
    (answers / "old-2").write_text("a file")
    assert open_folder(answers, other).name == "old-3"
    assert open_folder(answers, other).name == "old-3"
    assert os.listdir(answers / "old") == ["classify.csv"]


def test_names_that_are_not_utf_8_and_the_root_have_a_folder(tmp_path):
    place = make_place(tmp_path, os.fsdecode(b"caf\xe9"))
    folder = open_folder(tmp_path / "eval", place)
    assert str(read_source(folder)) == place and open_folder(tmp_path / "eval", place) == folder
    assert open_folder(tmp_path / "eval", "/").name == "videos"


def test_a_note_says_where_answers_go_if_the_name_is_taken(tmp_path, capsys):
    run = Run(tmp_path, Config(), {}, ())
    places = [make_place(tmp_path, where, "new") for where in "ab"]
    assert choose_folder(run, None) == tmp_path / "eval"
    folders = [choose_folder(run, place) for place in places]
    assert folders == [tmp_path / "eval" / "new", tmp_path / "eval" / "new-2"]
    assert capsys.readouterr().out == (
        f"note: {folders[0]} holds answers about {places[0]}: these go to {folders[1]}\n"
    )
