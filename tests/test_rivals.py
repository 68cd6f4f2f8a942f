"""Verdicts on rivals: proven by the paired test, and what to try where a run is not ahead."""

import math
from pathlib import Path

import pytest

from vvae.config import Config, Data
from vvae.metrics.intervals import Difference
from vvae.metrics.verdicts import judge_difference
from vvae.run import Run
from vvae.tasks.question import Question
from vvae.tasks.rivals import Comparison, advise, advise_on_pixels, describe_rival


def compare(value, low, high, p_value, values=(0.8, 0.5)):
    difference = Difference(value, low, high, p_value, "sign flips of 9 videos")
    return Comparison("vae", "pca", "top1", values, difference)


@pytest.mark.parametrize(
    ("low", "high", "p_value", "verdict"),
    [
        (0.1, 0.2, 0.04, "ahead"),
        (-0.2, -0.1, 0.04, "behind"),
        (0.1, 0.2, 0.05, "open"),
        (-0.1, 0.2, 0.01, "open"),
        (math.nan, math.nan, math.nan, "open"),
        (None, None, None, "open"),
    ],
)
def test_a_difference_is_proven_by_test_and_interval(low, high, p_value, verdict):
    assert judge_difference(low, high, p_value) == verdict


@pytest.mark.parametrize(
    ("comparison", "words", "has_advice"),
    [
        (compare(0.3, 0.1, 0.5, 0.01), "vae beats its best rival pca: top1 +0.300", False),
        (compare(-0.3, -0.5, -0.1, 0.01), "vae is beaten by its best rival pca", True),
        (compare(0.3, 0.1, 0.5, 0.25), "vae is not proven to beat its best rival pca", True),
        (compare(0.0, -0.1, 0.1, 1.0), "vae does not beat its best rival pca", True),
        (
            compare(0.0, 0.0, 0.0, 1.0, (1.0, 1.0)),
            "vae and its best rival pca are both perf",
            False,
        ),
    ],
)
def test_advice_follows_where_a_run_is_not_ahead(comparison, words, has_advice):
    text = describe_rival(comparison, "ADVICE")
    assert text.startswith(words) and text.endswith("ADVICE") == has_advice


def ask_with(**data):
    config = Config(data=Data(path="my videos", **data))
    run = Run(Path("run"), config, record={"data": {"num_steps": 300}}, class_names=())
    return Question(run, None, None, None, "test", Path("run"))


def test_advice_names_commands_and_settings():
    text = advise(ask_with(view="gray"), "actions")
    assert "train actions --data.path 'my videos'` (made for labelled short videos)" in text
    assert "--train.num_steps 600" in text
    text = advise(ask_with(view="rootflow", sampling="whole"), "actions")
    assert "train actions" not in text and "--data.view gray)" in text
    text = advise_on_pixels(ask_with())
    assert "--train.num_steps 600" in text and "--model.latent_dim 100" in text
