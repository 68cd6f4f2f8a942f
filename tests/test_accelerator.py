"""benchmarks.accelerator runs with small models on a CPU, and goes on where it was stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch (extra bench)")
pytest.importorskip("diffusers", reason="needs diffusers (extra parity)")

from benchmarks.accelerator.pieces import PIECES

ROOT = Path(__file__).resolve().parent.parent


def run(path: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.accelerator", "--tiny", "--json", str(path)]
    return subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("accelerator") / "out.json"
    only = ("causal-small vvae", "17x480x832", "agreement", "feeding")
    done = run(path, "--only", *only)
    assert done.returncode == 0, done.stdout + done.stderr
    return path, done


def test_every_piece_has_rows_of_positive_numbers(measured):
    pieces = json.loads(measured[0].read_text())["pieces"]
    assert len(pieces) == 5
    for name, piece in pieces.items():
        assert name in PIECES
        assert piece["rows"], name
        for row in piece["rows"]:
            assert all(value >= 0 for value in row.values() if isinstance(value, float)), row


def test_the_output_ends_with_the_json(measured):
    path, done = measured
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(path.read_text())


def test_the_same_device_agrees_with_itself(measured):
    rows = json.loads(measured[0].read_text())["pieces"]["agreement"]["rows"]
    errors = {row["name"]: row for row in rows}
    assert errors["causal-small, float32"]["video_rms"] == 0.0
    assert errors["causal-small, float32"]["gradient_relative"] == 0.0
    assert 1e-5 < errors["causal-small, bfloat16"]["video_rms"] < 0.1


def test_a_finished_piece_is_not_measured_again(measured):
    path = measured[0]
    before = path.read_text()
    assert run(path, "--only", "feeding").returncode == 0
    assert path.read_text() == before


def test_results_of_another_machine_are_not_continued(measured, tmp_path):
    content = json.loads(measured[0].read_text())
    content["origin"]["git_commit"] = "another"
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    done = run(path, "--only", "feeding")
    assert done.returncode == 1
    assert "another origin" in done.stderr
    assert json.loads(path.read_text()) == content
