"""Few labels, predictions and fine-tuning: paired draws, closed forms, a separable problem."""

import csv

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from vvae.config import Evaluate
from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_dataset
from vvae.data.listing import Video
from vvae.metrics.intervals import bootstrap_units, make_units
from vvae.models.contract import init_variables
from vvae.models.sequential import SequentialVAE
from vvae.tasks import probe
from vvae.tasks.recognition import few_labels, finetune, predictions

LABEL = np.repeat([0, 1, 2], [12, 7, 9])


def test_draws_are_nested_hold_every_class_and_depend_on_seed_and_draw_alone():
    drawn = few_labels.draw_labelled(LABEL, (1, 5, 10, 50), 4, seed=3)
    assert list(drawn) == [1, 5, 10]  # no class has more than 12
    for draw in range(4):
        one, five, ten = (set(drawn[count][draw]) for count in drawn)
        assert one < five < ten
        assert np.bincount(LABEL[drawn[5][draw]]).tolist() == [5, 5, 5]
        assert np.bincount(LABEL[drawn[10][draw]]).tolist() == [10, 7, 9]
    more = few_labels.draw_labelled(LABEL, (5,), 9, seed=3)
    for a, b in zip(drawn[5], more[5]):
        np.testing.assert_array_equal(a, b)
    other = few_labels.draw_labelled(LABEL, (5,), 4, seed=4)
    assert any(np.any(a != b) for a, b in zip(drawn[5], other[5]))
    assert any(np.any(drawn[5][0] != draw) for draw in drawn[5][1:])


def make_rows(seed=0):
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(3, 6)) * 3
    train = centre[LABEL] + rng.normal(size=(len(LABEL), 6))
    test_label = np.repeat([0, 1, 2], 20)
    return train, centre[test_label] + rng.normal(size=(60, 6)), test_label


def test_equal_rows_get_equal_draws_and_a_difference_of_exactly_zero():
    train, test, test_label = make_rows()
    noise = np.random.default_rng(1).normal(size=train.shape)
    rows = {"a": (train, test), "b": (train.copy(), test.copy()), "noise": (noise, test)}
    units = make_units(np.arange(60) // 4, "groups", seed=0)
    result = few_labels.measure_few_labels(rows, LABEL, test_label, 0, units)
    assert result["labels"] == [1, 5, 10]
    hits = {name: np.arange(60) % 20 != 0 for name in rows} | {"noise": np.arange(60) % 2 == 0}
    result = few_labels.append_all_labels(result, hits, units)
    assert result["labels"] == [1, 5, 10, "all"]
    assert result["rows"]["a"]["mean"][-1] == pytest.approx(0.95)  # that of the table's probe
    assert result["rows"]["a"]["low"][-1] < 0.95 < result["rows"]["a"]["high"][-1]
    assert result["differences"]["a - noise"]["mean"][-1] == pytest.approx(0.45)
    for a, b in zip(result["rows"]["a"]["top1"], result["rows"]["b"]["top1"]):
        np.testing.assert_array_equal(a, b)
    assert np.all(result["differences"]["a - b"]["mean"] == 0)
    assert np.all(result["differences"]["a - noise"]["low"][1:3] > 0)
    assert len(result["rows"]["a"]["top1"][0]) == few_labels.NUM_DRAWS
    assert len(result["rows"]["a"]["top1"][-1]) == 1
    assert result["rows"]["a"]["mean"][-1] > 0.9


def test_the_interval_is_that_of_resampled_test_groups():
    train, test, test_label = make_rows()
    group = np.arange(60) // 4
    units = make_units(group, "groups", seed=0)
    result = few_labels.measure_few_labels({"a": (train, test)}, LABEL, test_label, 0, units)
    (hits,) = few_labels._measure_row(
        train, test, LABEL, test_label, [few_labels.draw_labelled(LABEL, (1,), 20, 0)[1]]
    )
    low, high = bootstrap_units(np.mean, (hits.mean(axis=0),), group, seed=0)
    row = result["rows"]["a"]
    assert (row["low"][0], row["high"][0]) == pytest.approx((low, high))
    np.testing.assert_allclose(row["top1"][0], hits.mean(axis=1))
    assert low < row["mean"][0] < high


def test_interval_is_that_of_a_t_test():
    values = np.array([0.5, 0.7, 0.6, 0.9])
    mean, low, high = few_labels.estimate_interval(values)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean == pytest.approx(0.675)
    assert (low, high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert few_labels.estimate_interval(values[:1]) == (0.5, 0.5, 0.5)


def test_coordinates_in_the_span_give_the_fit_to_the_vectors():
    train, test, _ = make_rows()
    wide = np.random.default_rng(2).normal(size=(6, 40))  # more features than videos
    train, test = probe.normalize_rows(train @ wide), probe.normalize_rows(test @ wide)
    plain = LogisticRegression(C=few_labels.REGULARIZATION, max_iter=500).fit(train, LABEL)
    found = few_labels.classify_by_products(train @ train.T, test @ train.T, LABEL)
    np.testing.assert_array_equal(found, plain.predict(test))
    assert len(set(found)) == 3


def test_uninformative_features_give_the_most_frequent_class():
    nothing = np.zeros((len(LABEL), len(LABEL)))
    found = few_labels.classify_by_products(nothing, nothing[:2], LABEL)
    assert found.tolist() == [0, 0]


# --- predictions ----------------------------------------------------------------------------------


def test_predictions_are_written_and_mistakes_ordered_by_confidence(tmp_path):
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    label = np.array([0, 1, 0, 1])
    path = tmp_path / "p.csv"
    predictions.write_predictions(path, ["a", "b", "c,d", "e"], label, scores, ("x", "y"))
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "label", "predicted", "score", "correct"],
        ["a", "x", "x", "0.900000", "yes"],
        ["b", "y", "x", "0.600000", "no"],
        ["c,d", "x", "y", "0.800000", "no"],
        ["e", "y", "y", "0.700000", "yes"],
    ]
    assert predictions.find_mistakes(label, scores, 8).tolist() == [2, 1]
    assert predictions.find_mistakes(label, scores, 1).tolist() == [2]


def test_the_predictions_of_every_row_are_written(tmp_path):
    videos = [
        Video(n, n, label=None, group=g, split="test") for n, g in (("a", "anna"), ("b", "=x"))
    ]
    rows = {"vae/linear": np.array([[0.9, 0.1], [0.2, 0.8]]), "chance": np.full((2, 2), 0.5)}
    predictions.write_rows(tmp_path / "rows.csv", videos, np.array([1, 1]), rows, ("x", "y"))
    with open(tmp_path / "rows.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["path", "group", "label", "vae/linear", "chance"],
            ["a", "anna", "y", "x", "x"],
            ["b", "'=x", "y", "y", "x"],
        ]


# --- fine-tuning ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Dark and light videos: separable by one pixel."""
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for split in ("train", "val"):
        for label, level in (("dark", 40), ("light", 200)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(6):
                frames = level + rng.integers(-20, 21, (4, 8, 8, 1))
                np.save(folder / f"{number}.npy", frames.astype(np.uint8))
    clip_format = ClipFormat("gray", 8, 8, Sampling(num_frames=4))
    cache = tmp_path_factory.mktemp("cache")
    dataset = open_dataset(root, clip_format, Decoding(Cache(cache, 2**26)))
    return dataset.splits


MODEL = SequentialVAE((8, 8, 1), widths=(4,), hidden=8, latent_dim=3, clip_latent_dim=2)


def label_of(clips):
    return np.array([int(video.label == "light") for video in clips.videos])


def make_setup(train, params, label_V):
    return finetune.Setup(
        model=MODEL,
        params=params,
        clips=train,
        label_V=label_V,
        num_classes=2,
        pooling="stats",
        batch_size=4,
        seed=0,
    )


def test_fine_tuning_solves_a_separable_problem_and_is_reproducible(clips):
    params = jax.jit(lambda key: init_variables(MODEL, key))(jax.random.key(0))
    train, val = clips["train"], clips["val"]
    setup = make_setup(train, params, label_of(train))
    tuned = finetune.finetune(setup, 20)
    scores = finetune.score_videos(MODEL, tuned.params, tuned.head, val, "stats", 4)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)
    assert np.mean(scores.argmax(axis=1) == label_of(val)) == 1.0
    assert tuned.num_steps in (5, 10, 20) and tuned.accuracy == 1.0
    old, new = params["params"]["encoder"], tuned.params["params"]["encoder"]
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new)))
    again = finetune.finetune(setup, 20)
    jax.tree.map(np.testing.assert_array_equal, again.head, tuned.head)


def test_held_out_videos_are_whole_groups():
    group = np.repeat(["a", "b", "c", "d", "e"], 3)
    held = finetune.hold_out_groups(group, seed=0)
    assert held.sum() == 3 and len(set(group[held])) == 1
    with pytest.raises(ValueError, match="one group"):
        finetune.hold_out_groups(np.array(["a", "a"]), seed=0)


def test_bad_input_is_named(clips):
    train = clips["train"]
    with pytest.raises(ValueError, match="num_steps=0: fine-tuning needs at least one step"):
        finetune.finetune(make_setup(train, {}, label_of(train)), 0)
    with pytest.raises(ValueError, match="nothing to fine-tune on"):
        unlabelled = np.full(len(train.videos), -1)
        finetune.finetune(make_setup(train, {}, unlabelled), 1)
    with pytest.raises(ValueError, match=r"evaluate\.finetune_steps=-1"):
        Evaluate(finetune_steps=-1)
