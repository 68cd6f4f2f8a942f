"""Steps that are not finite are skipped up to a limit in a row, counted and described."""

import math

import pytest

from vvae.training.finite import FiniteGuard

BAD = {"loss": math.nan, "grad_norm": math.inf}


def test_the_first_one_stops_by_default_and_says_everything():
    guard = FiniteGuard(0)
    guard.accept(6, {"loss": 12.5, "kl": 0.25})
    with pytest.raises(FloatingPointError) as caught:
        guard.reject(7, BAD, "a.mp4 from frame 8")
    for part in (
        "step 7: the loss (nan) or its gradient (inf) is not finite",
        "clips of the batch: a.mp4 from frame 8",
        "the last finite step was 6: loss 12.5, kl 0.25",
        "stopped, the last checkpoint is unchanged",
    ):
        assert part in str(caught.value)


def test_so_many_in_a_row_are_skipped_and_a_finite_one_begins_anew():
    guard = FiniteGuard(2)
    assert "there was no finite step since this start" in guard.reject(1, BAD, "a")
    assert "skipped, 2 so far" in guard.reject(2, BAD, "b")
    guard.accept(3, {"loss": 1.0})
    guard.reject(4, BAD, "c")
    assert "skipped, 4 so far" in guard.reject(5, BAD, "d")
    with pytest.raises(FloatingPointError, match=r"clips of the batch: e; .*after 2 skipped in a"):
        guard.reject(6, BAD, "e")
    assert guard.num_skipped == 4
