"""Settings: ranges, identity, files, command line."""

import dataclasses
from pathlib import Path

import pytest
from programs import parse_settings

from vvae.config import Causal, Config, Data, Evaluate, Model, Optim, Train, difference
from vvae.config_files import from_dict, load_config_file, to_dict

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_survives_json(path):
    config = load_config_file(path, object)
    assert from_dict(to_dict(config), type(config)) == config


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Data(height=0), "data.height=0"),
        (lambda: Config(data=Data(height=30)), "data.height=30: must be a multiple of 8"),
        (lambda: Train(num_steps=None), "train.num_steps, train.num_epochs"),
        (lambda: Train(num_steps=3, num_epochs=3), "train.num_steps, train.num_epochs"),
        *(
            (lambda text=text: Train(profile=text), f"train.profile='{text}'")
            for text in ("20", "0:3", "5:4", "a:b", "3:-1")
        ),
        (lambda: Evaluate(tasks=("clasify",)), "evaluate.tasks='clasify'"),
        (lambda: Config(model=Model(likelihood="bernoulli")), "needs otsu"),
        (
            lambda: Config(
                data=Data(view="motion"), model=Model(likelihood="discretized_logistic")
            ),
            "gray or rgb",
        ),
        (
            lambda: Config(data=Data(view="flow"), model=Model(likelihood="discretized_logistic")),
            "data.view='flow'",
        ),
        (lambda: Config(train=Train(batch_size=6, accumulate=4)), "train.accumulate=4"),
    ],
)
def test_values_out_of_range_are_named(build, text):
    with pytest.raises(ValueError, match=text):
        build()


def test_identity_leaves_runtime_settings_out():
    config = Config()
    moved = dataclasses.replace(config, data=Data(path="elsewhere", workers=0), name="other")
    assert difference(config, moved) == {}
    other = dataclasses.replace(config, train=Train(seed=3))
    assert difference(config, other) == {"train.seed": (0, 3)}


def test_unknown_and_missing_settings_of_a_file():
    values = to_dict(Config())
    del values["optim"]["ema_decay"]
    assert from_dict(values) == Config()
    with pytest.raises(ValueError, match=r"no setting optim.ema; those of this version are optim"):
        from_dict({"optim": {"ema": 0.9}})


def test_arguments_change_settings():
    arguments = "--optim.learning_rate 3e-4 --data.flip true --model.widths 8 16 --data.path a b"
    config = parse_settings(arguments.split()[:-1], Config())
    assert config.optim.learning_rate == 3e-4
    assert config.data.flip is True
    assert config.model.widths == (8, 16)
    assert config.data.path == "a"


@pytest.mark.parametrize("option", ["--optim.freeze", "--causal.stem"])
def test_none_is_a_word_where_a_setting_has_it(option):
    start = Config(
        model=Model(kind="causal"),
        causal=Causal(stem="patch"),
        optim=Optim(freeze="encoder"),
        evaluate=Evaluate(tasks=("density",)),
    )
    section, name = option[2:].split(".")
    changed = parse_settings([option, "none", "--train.profile", "none"], start)
    assert getattr(getattr(changed, section), name) == "none"
    assert changed.train.profile is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--optim.learning_rat 3", "did you mean --optim.learning_rate (highest learning rate)?"),
        ("--optim.learning-rat=3", "did you mean --optim.learning_rate (highest learning rate)?"),
        ("--train.num_step 1", "--train.num_steps (steps; none to count in epochs)?"),
        ("--data.height 31", "data.height=31: must be a multiple of 8"),
        ("--model.hidden -1", "model.hidden=-1: must be greater than 0"),
        ("--no.such.setting 1", "no option --no.such.setting; --help-all lists them"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, text):
    with pytest.raises(ValueError) as caught:
        parse_settings(arguments.split(), Config())
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--optim.learning_rate abc", "must be a number (highest learning rate)"),
        ("--data.sampling windwos", "must be one of windows, whole (windows: consecutive clips"),
        ("--data.flip maybe", "must be true or false (augmentation: mirror half of the clips)"),
        ("--data.height", "must be a whole number (rows of a frame after resizing)"),
        ("--train.num_steps abc", "must be a whole number or none (steps; none to count in epo"),
        ("--causal.blocks 1", "must be 2 whole numbers (residual blocks per resolution"),
        ("--evaluate.lpips vgg", "must be some of alexnet, vgg16 (reconstruct: networks of LPIPS"),
    ],
)
def test_values_of_another_type_are_refused_by_name_and_meaning(arguments, text):
    with pytest.raises(ValueError) as caught:
        parse_settings(arguments.split(), Config())
    message = str(caught.value)
    assert message.startswith(f"{arguments}: {text}") and "\n" not in message


@pytest.mark.parametrize("word", ["true", "True"])
def test_words_are_spelt_plainly_or_as_in_python(word):
    config = parse_settings(["--data.flip", word, "--train.accumulate", "none"], Config())
    assert config.data.flip is True and config.train.accumulate is None
    assert parse_settings(["--data.flip", "false"], config).data.flip is False


def test_a_missing_configuration_names_those_there_are():
    with pytest.raises(ValueError, match=r"no configuration configs/nope\.py"):
        load_config_file("configs/nope.py")
