"""CSV files: no text is taken for a formula, and every text comes back."""

import csv

import pytest

from vvae.tasks.anomaly.intervals import Interval, write_intervals
from vvae.tasks.csv_files import guard, open_csv, unguard
from vvae.tasks.recognition.predictions import write_predictions

FORMULAS = (
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    " =1",
    "＝1",
    "=",
    "-a.mp4",
    "'=1",
    "''=1",
)
TEXTS = (
    "",
    "left",
    'a,"b"',
    "größe 動画 🎬",
    "line\nbreak",
    "<b>x</b>",
    "'quoted'",
    "a=b",
    "\udcff.mp4",
)


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_guarded_and_come_back(text):
    assert guard(text) == f"'{text}" and unguard(guard(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_stay_as_they_are(text):
    assert guard(text) == text == unguard(text)


@pytest.mark.parametrize("number", [-1.5, 3, "-0.250000", "+1e-05", "-inf", "nan", None])
def test_numbers_stay_numbers(number):
    assert guard(number) is number


def test_a_file_holds_every_text(tmp_path):
    texts = [*FORMULAS, *TEXTS]
    with open_csv(tmp_path / "a.csv") as writer:
        writer.writerow(["path", "=label"])
        writer.writerows([text, -1.0] for text in texts)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "'=label"]
    assert [unguard(row[0]) for row in rows[1:]] == texts
    assert {row[1] for row in rows[1:]} == {"-1.0"}
    assert not any(row[0].lstrip().startswith(("=", "+", "-", "@")) for row in rows[1:])


def test_answers_are_guarded(tmp_path):
    import numpy as np

    path = tmp_path / "predictions.csv"
    write_predictions(path, ["@a.mp4"], np.array([0]), np.array([[0.25, 0.75]]), ["=x", "-y"])
    assert path.read_text().splitlines()[1] == "'@a.mp4,'=x,'-y,0.750000,no"
    write_intervals(path, [Interval("=b.mp4", 1, 2, 0.0, 0.1, -3.0)])
    assert path.read_text().splitlines()[1].startswith("'=b.mp4,1,2,") and ",-3" in path.read_text()
