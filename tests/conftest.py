"""Test settings that must stand before jax starts: eight CPU devices, fast compilation, a cache."""

import gc
import os
from pathlib import Path

from compiling import xla_flags

os.environ["XLA_FLAGS"] = xla_flags(8)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "vvae" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# The same convolutions on every processor; tests of oneDNN switch it on.
os.environ["VVAE_ONEDNN"] = "0"

import jax
import numpy as np
import pytest

# Validations and files of tests end with a collection of garbage; what jax has brought need not be
# looked through each time.
gc.collect()
gc.freeze()
# Tracing makes so many objects that the default thresholds spend a tenth of the time here.
gc.set_threshold(50_000, 20, 20)

jax.config.update("jax_numpy_rank_promotion", "raise")

# The longest tests, whose subjects have fast tests too. Lines are FILE, FILE::TEST or
# FILE::TEST[CASE]; `pytest --durations=0` shows which tests take long.
SLOW_TESTS = frozenset(Path(__file__).with_name("slow.txt").read_text().split())
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks the tests of slow.txt as slow; refuses lines that name no test of a collected file."""
    found = set()
    for item in items:
        name = f"{item.path.name}::{item.name}"
        lines = SLOW_TESTS & {item.path.name, name, name.partition("[")[0]}
        if lines:
            item.add_marker("slow")
        found |= lines
    if not any("::" in argument for argument in config.args):
        files = {item.path.name for item in items}
        lost = {line for line in SLOW_TESTS if line.partition("::")[0] in files} - found
        if lost:
            raise pytest.UsageError(f"tests/slow.txt: no test is named {', '.join(sorted(lost))}")


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs end with the file that needs them.

    Each lies in several pieces of mapped memory. A process may have 65,530 pieces, and XLA crashes
    beyond.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def shared_data():
    """Returns a function: name -> folder of real videos, or skips where it is missing."""

    def find(name: str) -> Path:
        folder = SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"the data set {name!r} is not at {folder}")
        return folder

    return find


@pytest.fixture(scope="session")
def brightness_folder(tmp_path_factory) -> Path:
    """Returns a folder SPLIT/CLASS/*.npy of three classes of brightness, dark, light and middle:
    6, 1 and 4 videos a class in train, val and test, of 4, 6, 8 and 3 frames of 16x16."""
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 1), ("test", 4)):
        for label, level in (("dark", 40), ("light", 210), ("middle", 120)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                shape = ((4, 6, 8, 3)[number % 4], 16, 16, 1)
                frames = np.clip(level + rng.integers(-20, 21, shape), 0, 255)
                np.save(folder / f"{number}.npy", frames.astype(np.uint8))
    return root
