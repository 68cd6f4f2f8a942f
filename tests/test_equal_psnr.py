"""Bits at equal PSNR: curves whose ratio is known."""

import math

import pytest

from benchmarks.equal_psnr import average_bits, compare_bits

# Twice the bits for each 6 dB.
CURVE = [(0.1, 20.0), (0.2, 26.0), (0.4, 32.0)]


def test_between_two_points_the_logarithm_of_the_rate_is_linear():
    assert compare_bits((0.3, 26.0), CURVE) == pytest.approx(1.5)
    assert compare_bits((0.1, 23.0), CURVE) == pytest.approx(1 / math.sqrt(2))
    assert math.isnan(compare_bits((0.3, 19.9), CURVE))
    assert math.isnan(compare_bits((0.3, 32.1), CURVE))


def test_a_curve_of_three_times_the_bits_is_three_times_another_on_average():
    shifted = [(3 * rate, psnr) for rate, psnr in CURVE]
    assert average_bits(shifted, CURVE) == pytest.approx(3.0)
    assert average_bits(CURVE, shifted) == pytest.approx(1 / 3)
    # Only what both cover counts, and points in between change nothing on a straight line.
    part = [(0.3 * math.sqrt(2), 23.0), (0.6, 26.0), (0.6 * math.sqrt(2), 29.0)]
    assert average_bits(part, CURVE) == pytest.approx(3.0)
    assert math.isnan(average_bits([(1.0, 40.0), (2.0, 46.0)], CURVE))
