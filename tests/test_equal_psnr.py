"""Bits at equal PSNR: curves whose ratio is known."""

import math

import pytest

from benchmarks.equal_psnr import compare_bits, compare_videos, keep_rising, measure_bd_rate

# Twice the bits for each 6 dB.
CURVE = [(0.1, 20.0), (0.2, 26.0), (0.4, 32.0)]


def test_between_two_points_the_logarithm_of_the_rate_is_linear():
    assert compare_bits((0.3, 26.0), CURVE) == pytest.approx(1.5)
    assert compare_bits((0.1, 23.0), CURVE) == pytest.approx(1 / math.sqrt(2))
    assert math.isnan(compare_bits((0.3, 19.9), CURVE))
    assert math.isnan(compare_bits((0.3, 32.1), CURVE))


def test_a_curve_of_three_times_the_bits_has_a_bd_rate_of_200_percent():
    shifted = [(3 * rate, psnr) for rate, psnr in CURVE]
    assert measure_bd_rate(shifted, CURVE) == pytest.approx(200.0)
    assert measure_bd_rate(CURVE, shifted) == pytest.approx(-200.0 / 3)
    assert measure_bd_rate(CURVE, CURVE) == 0.0
    # Only what both cover counts, and points in between change nothing on a straight line.
    part = [(0.3 * math.sqrt(2), 23.0), (0.6, 26.0), (0.6 * math.sqrt(2), 29.0)]
    assert measure_bd_rate(part, CURVE) == pytest.approx(200.0)
    assert math.isnan(measure_bd_rate([(1.0, 40.0), (2.0, 46.0)], CURVE))
    assert math.isnan(measure_bd_rate(CURVE[:1], CURVE))


def test_the_bd_rate_of_a_parabola_is_its_mean_distance():
    # log2 of the rate is (psnr / 6)^2 / 100 above a line; its mean over 20 to 32 dB is known.
    levels = [20.0 + 0.25 * k for k in range(49)]
    line = [(2 ** (psnr / 6), psnr) for psnr in levels]
    bent = [(2 ** (psnr / 6 + (psnr / 6) ** 2 / 100), psnr) for psnr in levels]
    mean = (32.0**3 - 20.0**3) / 3 / 12 / 3600
    assert measure_bd_rate(bent, line) == pytest.approx(100 * (2**mean - 1), rel=1e-3)


def test_points_that_another_one_is_better_than_do_not_count():
    points = [(0.4, 32.0), (0.1, 20.0), (0.2, 26.0), (0.3, 25.0), (0.2, 24.0)]
    assert keep_rising(points) == CURVE


def test_videos_are_compared_one_by_one():
    factors = (1.1, 1.2, 1.3)
    first = [[(f * rate, psnr) for rate, psnr in reversed(CURVE)] for f in factors]
    found = compare_videos([*first, CURVE[:1]], [CURVE] * 4)
    assert found["mean"] == pytest.approx(20.0)
    assert 10.0 <= found["low"] < 20.0 < found["high"] <= 30.0 + 1e-9
    assert (found["num_videos"], found["num_without_overlap"]) == (3, 1)
    with pytest.raises(ValueError, match="no video share"):
        compare_videos([CURVE[:1]], [CURVE])
