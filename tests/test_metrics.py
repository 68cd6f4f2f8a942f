"""Metrics against closed forms and a slow implementation; different cards are not compared."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vvae.metrics.cards import compare, differing_keys, make_metric
from vvae.metrics.classification import mean_class_accuracy, top_k_accuracy
from vvae.metrics.frames import (
    difference_mse,
    first_frame_gap,
    frame_mse,
    frame_psnr,
    frame_ssim,
    lowest_mean,
    pair_mask,
    position_means,
    seam_index,
    video_means,
)
from vvae.tasks.recognition.scores import count_confusions


def random_frames(seed, shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def slow_ssim(x_HW, y_HW):
    """Computes SSIM of one gray frame, window by window, in float64."""
    window = np.array(
        [[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)]
    )
    window /= window.sum()
    values = []
    for i in range(x_HW.shape[0] - 10):
        for j in range(x_HW.shape[1] - 10):
            a, b = (v[i : i + 11, j : j + 11].astype(np.float64) for v in (x_HW, y_HW))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append(
                (2 * mean_a * mean_b + c1)
                * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return np.mean(values)


def test_mse_and_psnr_of_a_constant_error():
    x = np.full((2, 3, 4, 5, 3), 100, np.uint8)
    y = x.copy()
    y[1] += 10
    np.testing.assert_allclose(frame_mse(x, y), [[0.0] * 3, [100.0] * 3], rtol=1e-6)
    psnr_BT = frame_psnr(x, y)
    np.testing.assert_allclose(psnr_BT[1], 20 * math.log10(255 / 10), rtol=1e-6)
    np.testing.assert_allclose(psnr_BT[0], 100.0, rtol=1e-6)


def test_uint8_frames_do_not_wrap_around():
    assert float(frame_mse(np.zeros((4, 4, 1), np.uint8), np.full((4, 4, 1), 255))) == 65025


def test_frames_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 4, 1\).*\(4, 4, 3\)"):
        frame_mse(np.zeros((4, 4, 1)), np.zeros((4, 4, 3)))


@pytest.mark.parametrize("kind", ["textured", "bright", "dark"])
def test_ssim_equals_a_slow_window_by_window_computation(kind):
    x = random_frames(0, (2, 14, 17, 3))
    y = np.clip(x + np.random.default_rng(1).normal(0, 40, x.shape), 0, 255)
    if kind == "bright":  # nearly flat: a case where float32 moments lose precision
        x, y = 250 + x / 60, 250 + y / 60
    if kind == "dark":  # different means: a case where K1 matters
        x, y = x / 60, 5 + y / 60
    expected = [[slow_ssim(x[n, ..., c], y[n, ..., c]) for c in range(3)] for n in range(2)]
    np.testing.assert_allclose(frame_ssim(x, y), np.mean(expected, axis=1), atol=2e-5)


def test_ssim_is_one_only_for_equal_frames_and_symmetric():
    x, y = random_frames(2, (2, 16, 16, 1))
    assert float(frame_ssim(x, x)) == pytest.approx(1.0, abs=1e-6)
    assert float(frame_ssim(x, y)) < 0.2
    np.testing.assert_allclose(frame_ssim(x, y), frame_ssim(y, x), rtol=1e-6)
    assert float(frame_ssim(x, 255 - x)) < 0


def test_ssim_refuses_frames_smaller_than_its_window():
    with pytest.raises(ValueError, match="11x11 pixels, not 10x32"):
        frame_ssim(np.zeros((10, 32, 1)), np.zeros((10, 32, 1)))


def test_difference_error_sees_flicker_and_ignores_a_constant_offset():
    x = random_frames(3, (1, 5, 8, 8, 1)).astype(np.float32)
    assert np.all(np.asarray(difference_mse(x, x + 7)) == 0)
    flicker = np.array([3.0, -3.0, 3.0, -3.0, 3.0], np.float32).reshape(1, 5, 1, 1, 1)
    np.testing.assert_allclose(difference_mse(x, x + flicker), [[36.0] * 4], rtol=1e-5)


def test_frame_metrics_work_under_jit_vmap_and_grad():
    x, y = random_frames(4, (2, 3, 12, 12, 1)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(jax.vmap(frame_ssim))(x, y), frame_ssim(x, y), rtol=1e-5)
    gradient = jax.grad(lambda v: jnp.sum(frame_psnr(v, y)))(jnp.asarray(x))
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


def test_video_means_average_frames_then_clips_of_each_video_and_skip_padding():
    values_NT = np.array([[1.0, 3.0], [5.0, np.nan], [10.0, 20.0], [np.inf, np.nan]])
    mask_NT = np.array([[True, True], [True, False], [True, True], [False, False]])
    video_V, mean_V = video_means(values_NT, mask_NT, np.array([4, 4, 2, 7]))
    assert video_V.tolist() == [2, 4]
    assert mean_V.tolist() == [15.0, 3.0]


def test_a_non_finite_valid_value_is_not_hidden():
    _, mean_V = video_means(np.array([[np.nan, 1.0]]), np.ones((1, 2), bool), np.zeros(1))
    assert np.isnan(mean_V).all()


def test_position_means_and_pair_mask():
    mask_NT = np.array([[True, True, False], [True, False, False]])
    means_T = position_means(np.array([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]]), mask_NT)
    np.testing.assert_array_equal(means_T, [2.0, 2.0, np.nan])
    assert pair_mask(mask_NT).tolist() == [[True, False], [False, False]]


def test_lowest_mean_takes_five_percent_of_the_valid_frames():
    values_NT = np.arange(100.0).reshape(10, 10)[::-1]
    assert lowest_mean(values_NT, np.ones((10, 10), bool)) == 2.0
    assert lowest_mean(values_NT, values_NT >= 60) == 60.5
    assert lowest_mean(values_NT, values_NT == 7) == 7.0
    assert math.isnan(lowest_mean(values_NT, values_NT < 0))


def test_recognition_metrics():
    scores_VK = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    label_V = np.array([0, 2, 0, 1])
    assert top_k_accuracy(scores_VK, label_V, 1) == 0.5
    assert top_k_accuracy(scores_VK, label_V, 2) == 1.0
    confusion_KK = count_confusions(scores_VK, label_V)
    assert confusion_KK.tolist() == [[2, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert mean_class_accuracy(confusion_KK) == pytest.approx(1 / 3)
    without_class_1 = np.array([[2, 0, 0], [0, 0, 0], [1, 0, 1]])
    assert mean_class_accuracy(without_class_1) == 0.75


def test_constant_scores_are_right_only_for_the_first_class():
    assert top_k_accuracy(np.zeros((4, 4)), np.arange(4), 1) == 0.25


def make_psnr(value, **context):
    return make_metric("psnr", value, "dB", "10 log10(255^2/MSE)", "mean", **context)


def test_equal_cards_compare_and_the_method_may_differ():
    ours = make_psnr(30.0, split="test", method="vae")
    assert compare(ours, make_psnr(28.5, split="test", method="pca")) == 1.5


def test_different_cards_refuse_to_be_compared_and_name_every_difference():
    first = make_psnr(30.0, split="test", size="32x32")
    second = make_psnr(30.0, split="val", size="32x32", view="gray")
    assert differing_keys(first, second) == ("split", "view")
    with pytest.raises(ValueError, match=r"split \('test' against 'val'\).*view \('nothing' again"):
        compare(first, second)


def test_a_metric_that_is_not_finite_is_null_in_json():
    text = json.dumps(make_psnr(math.nan, split="test").as_json(), allow_nan=False)
    assert json.loads(text)["value"] is None
    assert json.loads(text)["card"]["unit"] == "dB"


def test_seam_index_in_closed_form():
    """The error steps by 1 at the border, and by 0.5 or 0 elsewhere."""
    x = np.zeros((2, 4, 6, 8, 1), np.float32)
    y = x.copy()
    y[0, :, 3:] = 1.0  # one step, at row 3
    y[0, :, 5] += 0.5  # and one of 0.5 at row 5
    y[1] = np.random.default_rng(0).normal(size=y[1].shape)
    index = seam_index(x, y, 2, np.array([3]))
    # Pairs: rows 1..5; at the border 1, elsewhere (0.5^2 at row 5) / 4.
    np.testing.assert_allclose(index[0], 1.0 / (0.25 / 4), rtol=1e-5)
    swapped = seam_index(x.swapaxes(2, 3), y.swapaxes(2, 3), 3, np.array([3]))
    np.testing.assert_allclose(swapped, index, rtol=1e-5)
    noise = np.random.default_rng(1).normal(size=(1, 3, 400, 40, 1)).astype(np.float32)
    even = seam_index(0 * noise, noise, 2, np.arange(8, 400, 8))
    np.testing.assert_allclose(even, 1.0, atol=0.05)


@pytest.mark.parametrize("borders", [np.array([], int), np.arange(1, 4)])
def test_seam_index_needs_pairs_of_both_kinds(borders):
    x = np.zeros((1, 4, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match="pairs with and without a border"):
        seam_index(x, x, 1, borders)


def test_first_frame_gap_counts_valid_frames_of_clips_with_both():
    psnr = np.array([[30.0, 26.0, 28.0], [20.0, 21.0, 99.0], [10.0, 99.0, 99.0], [99.0, 5.0, 5.0]])
    mask = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], bool)
    np.testing.assert_allclose(first_frame_gap(psnr, mask), [3.0, -1.0])
