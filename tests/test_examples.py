"""The programs in examples/ run and reach what they promise, here with few steps."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def examples():
    """Makes the programs importable, as they are when one of them is started."""
    sys.path.insert(0, str(ROOT / "examples"))
    yield
    sys.path.remove(str(ROOT / "examples"))


def run(name, num_steps):
    return importlib.import_module(name).main(num_steps)


def test_own_data():
    assert run("own_data", 20) > 14


def test_own_model():
    before, after = run("own_model", 30)
    assert after > before + 100


def test_own_likelihood():
    gaussian, laplace = run("own_likelihood", 5)
    assert laplace != gaussian
