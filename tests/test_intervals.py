"""Intervals and tests over units: closed forms, coverage, and pairs."""

import math

import numpy as np
import pytest
from scipy import stats

from vvae.metrics import intervals
from vvae.metrics.classification import f1_from_counts
from vvae.metrics.detection import auroc, average_precision
from vvae.metrics.intervals import (
    NUM_PERMUTATIONS,
    bootstrap_difference,
    bootstrap_units,
    estimate_share,
    permute_difference,
)


def mean(value_V):
    return float(value_V.mean())


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (7, 300)])
def test_the_interval_of_a_share_equals_that_of_scipy(count, total):
    expected = stats.binomtest(count, total).proportion_ci(method="wilson")
    assert estimate_share(count, total) == pytest.approx((expected.low, expected.high))
    assert all(math.isnan(x) for x in estimate_share(0, 0))


def test_the_bootstrap_draws_whole_units():
    score, unwanted = np.arange(8.0), np.arange(8) >= 4
    pairs = np.arange(8) % 4  # a wanted and an unwanted video in each

    def balanced_mean(score_V, unwanted_V):
        assert unwanted_V.mean() == 0.5
        return float(score_V.mean())

    low, high = bootstrap_units(balanced_mean, (score, unwanted), pairs, seed=0)
    assert 2.0 <= low < 3.5 < high <= 5.0  # group means are 2, 3, 4, 5
    assert bootstrap_units(auroc, (score, unwanted), unwanted, seed=0) == (1.0, 1.0)
    undefined = bootstrap_units(auroc, (score, np.ones(8, bool)), pairs, seed=0)
    assert all(math.isnan(x) for x in undefined)


def test_the_bootstrap_of_a_share_of_single_cases_is_a_binomial():
    # The mean of n draws from k ones among n cases is binomial(n, k / n) / n.
    hits = np.arange(200) < 150
    low, high = bootstrap_units(mean, (hits,), np.arange(200), seed=0)
    expected = stats.binom.ppf([0.025, 0.975], 200, 0.75) / 200
    assert [low, high] == pytest.approx(expected, abs=0.01)


def test_units_alone_decide_the_width_if_their_cases_are_equal():
    # 20 units of 50 equal cases are 20 cases: the interval is as for these, to the last draw.
    hit_U = np.arange(20) < 14
    once = bootstrap_units(mean, (hit_U,), np.arange(20), seed=3)
    often = bootstrap_units(mean, (np.repeat(hit_U, 50),), np.repeat(np.arange(20), 50), seed=3)
    assert often == pytest.approx(once, abs=1e-12)
    apart = bootstrap_units(mean, (np.repeat(hit_U, 50),), np.arange(1000), seed=3)
    assert apart[1] - apart[0] < 0.3 * (often[1] - often[0])  # sqrt(1 / 50) is 0.14


def test_intervals_over_units_cover_the_truth_and_those_over_cases_do_not():
    rng = np.random.default_rng(0)
    units, trials = np.repeat(np.arange(30), 10), 60
    covered = {"units": 0, "cases": 0}
    for trial in range(trials):
        chance_U = rng.beta(1.4, 0.6, 30)  # of mean 0.7; people differ
        hits = rng.random(300) < chance_U[units]
        for name, unit_V in (("units", units), ("cases", np.arange(300))):
            low, high = bootstrap_units(mean, (hits,), unit_V, seed=trial)
            covered[name] += low <= 0.7 <= high
    assert covered["units"] >= 0.87 * trials  # 0.95 less 3 standard errors
    assert covered["cases"] < 0.80 * trials


def test_f1_of_units_is_that_of_their_counts_together():
    hit, false, missed = np.array([3, 0]), np.array([1, 0]), np.array([0, 2])
    assert f1_from_counts(hit, false, missed) == pytest.approx(6 / 9)
    assert math.isnan(f1_from_counts(*np.zeros((3, 2))))
    # Of two units, both drawn alike or each once; that of the second alone is 0.
    interval = bootstrap_units(f1_from_counts, (hit, false, missed), np.arange(2), seed=0)
    assert interval == pytest.approx((0.0, 6 / 7))


def test_what_makes_a_unit_hard_for_both_methods_cancels():
    rng = np.random.default_rng(1)
    unit_V = np.repeat(np.arange(12), 20)
    truth_V = np.tile(np.arange(20) >= 10, 12)
    hardness_V = rng.normal(size=12)[unit_V]
    first_V = truth_V + hardness_V + 0.5 * rng.normal(size=240)
    same = bootstrap_difference(auroc, (first_V, first_V), truth_V, unit_V, seed=0)
    assert same == (0.0, 0.0)
    second_V = first_V + 0.5 * rng.normal(size=240)
    low, high = bootstrap_difference(auroc, (first_V, second_V), truth_V, unit_V, seed=0)
    alone = bootstrap_units(auroc, (first_V, truth_V), unit_V, seed=0)
    gain = auroc(first_V, truth_V) - auroc(second_V, truth_V)
    assert low <= gain <= high
    assert high - low < alone[1] - alone[0]


@pytest.mark.parametrize("num_units", [1, 5, 10])
def test_a_difference_of_one_sign_has_the_least_p_value_there_is(num_units):
    assert permute_difference(np.ones(num_units), seed=0) == 2 / 2**num_units
    assert permute_difference(-np.arange(1.0, num_units + 1), seed=0) == 2 / 2**num_units
    assert permute_difference(np.zeros(num_units), seed=0) == 1.0


def test_unit_differences_give_the_sign_test():
    # 9 wins and 3 losses: the exact two-sided sign test; drawn patterns agree with it.
    few = np.r_[np.ones(9), -np.ones(3)]
    assert permute_difference(few, seed=0) == pytest.approx(stats.binomtest(9, 12).pvalue)
    many = np.r_[np.ones(25), -np.ones(13)]
    expected = stats.binomtest(25, 38).pvalue
    error = math.sqrt(expected * (1 - expected) / NUM_PERMUTATIONS)
    assert permute_difference(many, seed=0) == pytest.approx(expected, abs=4 * error)
    # No p-value of drawn patterns is 0.
    assert permute_difference(np.ones(60), seed=0) == 1 / (NUM_PERMUTATIONS + 1)


@pytest.mark.parametrize("bad", [[], [0.5, math.nan]])
def test_a_test_of_nothing_is_an_error(bad):
    with pytest.raises(ValueError, match="needs finite differences"):
        permute_difference(np.array(bad), seed=0)


# --- measures of all resamples at once ------------------------------------------------------------


@pytest.fixture(scope="module")
def frames():
    """Scores with ties, truth and units of 60 frames; some units have one kind only."""
    rng = np.random.default_rng(3)
    unit, truth = np.repeat(np.arange(8), [9, 3, 7, 12, 5, 8, 6, 10]), rng.random(60) < 0.4
    truth[unit == 1] = False
    score = np.round(rng.normal(size=60) + truth, 1)
    return score, truth, np.array([f"unit {u}" for u in unit])


@pytest.mark.parametrize(
    ("measure", "resample"),
    [(auroc, intervals.resample_auroc), (average_precision, intervals.resample_average_precision)],
)
def test_all_resamples_at_once_are_the_resamples_one_by_one(frames, measure, resample):
    score, truth, unit = frames
    units = intervals.make_units(unit, "units", seed=5)
    low, high = intervals.find_percentiles(resample(units, score, truth))
    slow = intervals.bootstrap_units(measure, (score, truth), unit, seed=5)
    assert (low, high) == pytest.approx(slow, abs=1e-12)
    assert low < measure(score, truth) < high


def test_ratios_of_all_resamples_at_once(frames):
    score, truth, unit = frames
    units = intervals.make_units(unit, "units", seed=5)
    value_R = intervals.resample_ratio(units, (score > 0) & truth, truth)
    slow = intervals.bootstrap_units(
        lambda s, t: float(np.mean(s[t] > 0)) if t.any() else np.nan, (score, truth), unit, seed=5
    )
    assert intervals.find_percentiles(value_R) == pytest.approx(slow, abs=1e-12)


def test_certainty_is_never_claimed():
    units = intervals.make_units(np.repeat(np.arange(5), 3), "people", seed=0)
    right = intervals.estimate_mean(units, np.ones(15, bool))
    # Wilson's interval of 5 of 5, not of 15 of 15: the takes of a person are alike.
    assert (right.low, right.high) == intervals.estimate_share(5, 5)
    assert right.low < 0.6 and "5 people" in right.text
    alone = intervals.make_units(np.zeros(15), "people", seed=0)
    assert intervals.estimate_mean(alone, np.arange(15) < 9) is None
    videos = intervals.make_units(np.arange(15), "videos", seed=0)
    nine = intervals.estimate_mean(videos, np.arange(15) < 9)
    assert (nine.low, nine.high) == intervals.estimate_share(9, 15)


def test_paired_differences_know_what_is_the_same():
    hit = np.random.default_rng(0).random(40) < 0.5
    units = intervals.make_units(np.arange(40) // 4, "groups", seed=0)
    same = intervals.compare_means(units, hit, hit)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    better = intervals.compare_means(units, np.ones(40), hit)
    expected = intervals.permute_difference(np.bincount(np.arange(40) // 4, ~hit), seed=0)
    assert better.p_value == expected < 0.01 < better.low
    worse = intervals.compare_resamples(
        units, (0.2, 0.9), (np.linspace(0.1, 0.3, 1000), np.full(1000, 0.9))
    )
    assert worse.high < 0 and worse.p_value == pytest.approx(2 / 1001)


def test_no_videos_have_no_interval():
    units = intervals.make_units(np.array([], int), "videos", seed=0)
    assert len(units) == 0
