"""Features of frames that benchmarks compare latents with."""

import numpy as np
import pytest

from benchmarks import frame_features as ff


def test_vectors_are_reduced_by_training_frames_and_pooled_like_latents():
    random = np.random.default_rng(0)
    frames = random.normal(size=(6, 16, 5)).astype(np.float32) * np.array([9, 5, 1e-3, 1e-3, 1e-3])
    frames = frames.astype(np.float32)
    mask = np.ones((6, 16), bool)
    means, scaled = (
        pool(frames, mask) for pool in ff.fit_poolings(frames[:4], ("means", "ordered"), 2)
    )
    assert means.shape == (6, 16 * 2)
    # Two components keep nearly all distances between frames.
    flat, kept = frames.reshape(-1, 5), means.reshape(-1, 2)
    before = np.linalg.norm(flat[0] - flat[1:], axis=1)
    np.testing.assert_allclose(np.linalg.norm(kept[0] - kept[1:], axis=1), before, atol=0.05)
    # In units of their deviation over training frames.
    np.testing.assert_allclose(scaled[:4].reshape(-1, 2).std(axis=0), 1.0, rtol=1e-3)
    steps = ff.fit_poolings(frames[:4], ("steps",), 2)[0](frames, mask)
    expected = np.abs(np.diff(scaled.reshape(6, 16, 2), axis=1)).reshape(6, -1)
    np.testing.assert_allclose(steps, expected, rtol=1e-3, atol=1e-4)


def test_wide_and_narrow_training_sets_give_the_same_components():
    random = np.random.default_rng(1)
    mixing = random.normal(size=(3, 40)) * np.array([[9.0], [4.0], [1.0]])
    frames = (random.normal(size=(1, 30, 3)) @ mixing).astype(np.float32)
    wide = ff.fit_poolings(frames, ("means",), 2)[0]  # 30 frames of 40 numbers: by SVD
    narrow = ff.fit_poolings(np.concatenate([frames, frames]), ("means",), 2)[0]
    mask = np.ones((1, 30), bool)
    signs = np.sign(wide(frames, mask) * narrow(frames, mask)).reshape(-1, 2).mean(axis=0)
    assert (np.abs(signs) == 1).all()
    np.testing.assert_allclose(
        np.abs(wide(frames, mask)), np.abs(narrow(frames, mask)), rtol=1e-3, atol=1e-2
    )


def test_maps_are_averaged_over_quarters():
    maps = np.zeros((1, 3, 4, 2), np.float32)
    maps[0, :, :2, 0], maps[0, 2, :, 1] = 6.0, 4.0
    # The middle row belongs to the upper and the lower quarters.
    np.testing.assert_allclose(ff.average_parts(maps), [[6, 0, 0, 0, 6, 2, 0, 2]])


def test_words_are_counted_frame_by_frame():
    first, second = np.zeros((2, 4), np.float32), np.full((1, 4), 9, np.float32)
    described = [[first, second], [np.concatenate([first, second]), np.zeros((0, 4), np.float32)]]
    bags = ff.count_bags(described, [0], 0)
    assert bags.shape == (2, 2, 3)
    assert bags[0, 0].max() == bags[0, 1].max() == 1.0
    assert not np.array_equal(bags[0, 0], bags[0, 1])
    np.testing.assert_allclose(bags[1, 0], (2 * bags[0, 0] + bags[0, 1]) / 3, rtol=1e-6)
    assert bags[1, 1].sum() == 0.0
    with pytest.raises(ValueError, match="no keypoint"):
        ff.count_bags([[np.zeros((0, 4), np.float32)]], [0], 0)
