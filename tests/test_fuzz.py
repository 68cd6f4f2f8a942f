"""Mutated videos: a few of those of benchmarks/fuzz.py, and that its judgement can fail."""

import argparse
import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fuzz
from vvae.data.workers import WorkerError
from vvae.video import VideoError, iterate_frames, read_stated_length, write_video

WHOLE = ("a", "b", "c")
GOOD = fuzz.Reading(WHOLE[:2], "cut in or after frame 1", None, 90.0)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    clips, made = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("made")
    frames = np.random.default_rng(0).integers(0, 256, (6, 24, 32, 3), np.uint8)
    for name in ("a.mp4", "b.mkv", "c.avi"):
        write_video(clips / name, frames, fps=10)
    return fuzz.find_sources(clips, made)


@pytest.mark.parametrize("size", [None, (8, 12)])
def test_mutated_files_end_in_frames_or_in_a_videoerror(sources, tmp_path, monkeypatch, size):
    monkeypatch.setitem(os.environ, "MALLOC_PERTURB_", "0")  # put back afterwards
    assert len(sources) == 22
    assert {path.suffix for path in sources} >= {".png", ".jpg", ".tif", ".bmp", ".webp", ".gif"}
    count = len(sources) * len(fuzz.MUTATIONS)
    mutants = [fuzz.write_mutant(sources, number, tmp_path) for number in range(count)]
    assert {mutant.kind for mutant in mutants} == {name for name, _ in fuzz.MUTATIONS}
    options = argparse.Namespace(workers=2, seconds=60.0, megabytes=300.0, size=size)
    failures, outcomes, _ = fuzz.read_all(sources, mutants, options)
    assert failures == []
    assert outcomes.total() == count and len(outcomes) == 3


def test_a_mutant_is_drawn_from_its_number_alone(sources, tmp_path):
    first, again, other = (
        Path(fuzz.write_mutant(sources, number, tmp_path).path).read_bytes()
        for number in (7, 7, 7 + len(sources) * len(fuzz.MUTATIONS))
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"fault": "KeyError: 3"}, "KeyError: 3"),
        ({"megabytes": 301.0}, "took 301 MB"),
        ({"error": "a\nb"}, "an error of several lines"),
        ({"digests": ("a", "c")}, "depends on memory"),
    ],
)
def test_what_counts_as_a_failure(change, why):
    mutant = fuzz.Mutant("/x", 0, "x", "cut")
    found = fuzz.judge(mutant, GOOD, dataclasses.replace(GOOD, **change), WHOLE, 300.0)
    assert found is why or why in found


def test_invented_frames_and_dead_workers_are_failures():
    mutant = fuzz.Mutant("/x", 0, "x", "cut")
    invented = dataclasses.replace(GOOD, digests=("a", "z"))
    assert "other frames" in fuzz.judge(mutant, invented, invented, WHOLE, 300.0)
    assert fuzz.judge(mutant, WorkerError("died"), GOOD, WHOLE, 300.0) == "died"


@pytest.mark.parametrize(
    "header", ["{'descr': '|u1', (", "{'descr': '|u1', 'fortran_order': Falqe}"]
)
def test_arrays_with_a_damaged_header_are_named(tmp_path, header):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 4, 4), np.uint8))
    data = bytearray(path.read_bytes())
    data[10:127] = header.ljust(117).encode()
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"a\.npy: not a readable \.npy array \(") as caught:
        next(iterate_frames(path))
    assert "0x" not in str(caught.value)
    assert read_stated_length(path) is None


def test_a_promise_of_huge_frames_is_refused_before_memory_is_asked_for(tmp_path):
    data = bytearray(b"GIF89a" + bytes(7) + b"\x2c" + bytes(4))
    data[6:10] = (16_000).to_bytes(2, "little") * 2
    data[14:] = bytes(4) + (1).to_bytes(2, "little") * 2 + b"\0\x02\x02\x4c\x01\x00;"
    (tmp_path / "a.gif").write_bytes(data)
    with pytest.raises(VideoError, match="16000x16000, 256 megapixels, are more than the 64"):
        next(iterate_frames(tmp_path / "a.gif"))
