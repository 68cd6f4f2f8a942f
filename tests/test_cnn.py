"""The supervised network: its data, the choice of its steps, and that it learns motion."""

import dataclasses

import jax
import numpy as np
import pytest

from vvae.data.dataset import NO_LABEL, Cache, ClipFormat, Decoding, Sampling, open_dataset
from vvae.tasks.recognition import cnn

CLASSES = ("left", "right")


def draw_bar(direction, seed):
    """A bar that moves over noise; a video and its reverse show the same frames. [8, 16, 20, 1]"""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 60, (8, 16, 20, 1))
    start = rng.integers(0, 3)
    for t in range(8):
        column = start + 2 * t
        frames[t, :, column : column + 3] = 200
    return frames[:: 1 if direction == "right" else -1].astype(np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Eight groups of a left and a right training video, two in val, four in test."""
    root = tmp_path_factory.mktemp("bars")
    rows, seed = ["path,label,group,split"], 0
    for split, count in (("train", 8), ("val", 2), ("test", 4)):
        for number in range(count):
            for label in (*CLASSES, ""):
                name, seed = f"{split}{number}{label}.npy", seed + 1
                np.save(root / name, draw_bar(label, seed))
                rows.append(f"{name},{label},{split}{number},{split}")
    (root / "manifest.csv").write_text("\n".join(rows))
    return open_dataset(
        root,
        ClipFormat("gray", 16, 20, Sampling(4)),
        Decoding(Cache(tmp_path_factory.mktemp("cache"), 2**28)),
    )


@pytest.fixture(scope="module")
def network(dataset):
    clips = cnn.gather_labelled(dataset, "test", CLASSES, seed=0)
    return cnn.train_network(clips, 2, num_steps=40, seed=0)


def count_videos(clips):
    return {video.split for video in clips.videos}, len(clips.videos)


def test_steps_are_chosen_by_validation_and_never_by_the_measured_split(dataset):
    clips = cnn.gather_labelled(dataset, "test", CLASSES, seed=0)
    assert count_videos(clips.train) == ({"train"}, 16)
    assert count_videos(clips.choice) == ({"val"}, 4) and clips.source == "the validation split"
    unlabelled = dataclasses.replace(
        dataset.splits["val"], label_N=np.full(len(dataset.splits["val"]), NO_LABEL, np.int32)
    )
    without = dataclasses.replace(dataset, splits={**dataset.splits, "val": unlabelled})
    for data, measured in ((dataset, "val"), (without, "test")):
        clips = cnn.gather_labelled(data, measured, CLASSES, seed=0)
        assert clips.source == "held-out groups of the training videos"
        assert count_videos(clips.train) == ({"train"}, 12)
        assert count_videos(clips.choice) == ({"train"}, 4)
        groups = [{video.group for video in part.videos} for part in (clips.train, clips.choice)]
        assert groups[0].isdisjoint(groups[1])


def test_classes_are_numbered_as_asked_for_and_others_left_out(dataset):
    clips = cnn.gather_labelled(dataset, "test", ("right", "left"), seed=0).train
    for video, label in zip(clips.videos, clips.label_V):
        assert ("right", "left")[label] == video.label
    alone = cnn.gather_labelled(dataset, "test", ("right",), seed=0).train
    assert {video.label for video in alone.videos} == {"right"} and set(alone.label_N) == {0}


def test_motion_that_no_single_frame_shows_is_learned(network, dataset):
    test = dataset.splits["test"]
    logits_VK = cnn.score_videos(network.model, network.params, test)
    known_V = test.label_V != NO_LABEL
    assert np.mean(logits_VK.argmax(axis=1)[known_V] == test.label_V[known_V]) == 1.0
    # Played backwards it is the other class: nothing else separates the two.
    video_NTHWC = test.read(np.flatnonzero(known_V[test.video_index_N]))
    logits_NK = cnn._predict(network.model, network.params, video_NTHWC[:, ::-1])
    label_N = test.label_N[known_V[test.video_index_N]]
    assert np.mean(logits_NK.argmax(axis=1) == 1 - label_N) > 0.9


def test_logits_of_a_video_are_the_mean_over_its_clips(network, dataset):
    test = dataset.splits["test"]
    logits_VK = cnn.score_videos(network.model, network.params, test)
    for number in range(len(test.videos)):
        own = np.flatnonzero(test.video_index_N == number)
        assert len(own) == 2
        each = network.model.apply(network.params, test.read(own) / np.float32(127.5) - 1, False)
        np.testing.assert_allclose(logits_VK[number], each.mean(axis=0), atol=1e-4)


def test_the_kept_steps_are_the_best_and_the_seed_decides_everything(dataset):
    clips = cnn.gather_labelled(dataset, "test", CLASSES, seed=0)
    # With swapped labels, more training makes the accuracy worse.
    swapped = dataclasses.replace(clips.choice, label_N=1 - clips.choice.label_N)
    clips = dataclasses.replace(clips, choice=swapped)
    first, second = (cnn.train_network(clips, 2, num_steps=10, seed=3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    qualities = {}
    for step, params in cnn._train(first.model, clips.train, 10, seed=3):
        logits_VK = cnn.score_videos(first.model, params, clips.choice)
        shifted = logits_VK - logits_VK.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        right = logits_VK.argmax(axis=1) == clips.choice.label_V
        qualities[step] = right.mean(), log_p[np.arange(len(right)), clips.choice.label_V].mean()
    assert list(qualities) == list(range(1, 11))
    assert first.num_steps == max(qualities, key=qualities.get) < 10
    assert first.accuracy == qualities[first.num_steps][0]


def test_parameters_are_counted_and_sides_are_padded_to_multiples(network):
    # 3 x 4 x 4 kernels over 1, 16 and 32 channels; norms; 2 x 3 x 1 positions of 64 channels.
    convolutions = 48 * (1 * 16 + 16 * 32 + 32 * 64) + (16 + 32 + 64)
    norms, dense = 2 * (16 + 32 + 64), (2 * 3 * 64 + 1) * 128 + (128 + 1) * 2
    assert network.num_parameters == convolutions + norms + dense


def test_bounds_of_the_number_of_steps(dataset):
    clips = dataset.splits["train"]
    assert cnn.choose_num_steps(clips) == 300
    assert cnn.choose_num_steps(clips.select([0] * 1000)) == 14 * 1000 // 32
    assert cnn.choose_num_steps(clips.select([0] * 10**4)) == 3000
    with pytest.raises(ValueError, match="num_steps=0: a network needs at least one step"):
        cnn.train_network(cnn.LabelledClips(clips, clips, ""), 2, num_steps=0, seed=0)
