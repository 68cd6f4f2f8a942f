"""What is shown of a long computation, on a terminal and in a log."""

import io
import itertools
import sys
import threading

import pytest

from vvae import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock takes two seconds."""
    ticks = itertools.count(step=2)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))


def test_a_log_gets_one_line_for_a_long_stage(clock, capsys):
    assert list(progress.track("reading", [3, 1, 2])) == [3, 1, 2]
    assert capsys.readouterr().out == "reading 3/3, 10 s\n"


def test_fast_stages_print_nothing(capsys, monkeypatch):
    assert list(progress.track("reading", range(100))) == list(range(100))
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert list(progress.track("reading", range(100))) == list(range(100))
    assert sys.stdout.getvalue() == ""
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_line_that_changes_and_ends_empty(clock, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    with progress.stage("features"):
        assert list(progress.count("ab", 2)) == ["a", "b"]
    shown = sys.stdout.getvalue().split("\r\x1b[K")
    assert [text.partition(",")[0] for text in shown] == [
        "",
        "features",
        "features 1/2",
        "features 2/2",
        "",
    ]
    assert progress._open == []


def test_a_stage_that_fails_is_closed(capsys):
    with pytest.raises(ZeroDivisionError), progress.stage("dividing"):
        list(progress.count((1 / 0 for _ in "a"), 1))
    assert progress._open == []
    assert list(progress.count("ab", 2)) == ["a", "b"]  # outside of any stage


def test_the_seconds_of_a_stage_go_on_while_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(progress, "LIVE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0.001)
    drawn = threading.Event()

    class Watched(Terminal):
        def write(self, text):
            super().write(text)
            if self.getvalue().count("compiling") > 2:  # the first is drawn at the start
                drawn.set()

    monkeypatch.setattr(sys, "stdout", Watched())
    with progress.stage("compiling"):
        assert drawn.wait(60)
    assert sys.stdout.getvalue().endswith("\r\x1b[K")
    shown = sys.stdout.getvalue()
    with progress.stage("outer"), progress.stage("inner"):
        pass
    assert "outer" not in sys.stdout.getvalue().removeprefix(shown).partition("inner")[2]


def test_a_stage_whose_seconds_are_printed_anyway_leaves_no_line(clock, capsys):
    with progress.stage("reconstruct", is_logged=False):
        progress.show(1, 2)
    assert capsys.readouterr().out == ""
