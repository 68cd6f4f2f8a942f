"""What `vvae.prepare` does before jax is imported, before it computes, and afterwards."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from vvae.runtime import list_compile_flags

ROOT = Path(__file__).resolve().parents[1]
PREFIXES = ("JAX_", "XLA_", "MALLOC_", "GLIBC_TUNABLES")

COMPUTE = """
import warnings
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    {program}
print(jax.config.jax_persistent_cache_min_compile_time_secs)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # keep this program too
print(jax.devices()[0].platform, os.environ.get("XLA_FLAGS"))
for warning in caught:
    if "vvae.prepare" in str(warning.message):
        print(warning.filename, warning.message)
jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((3, 3))).block_until_ready()
"""
SETTING = " ".join(list_compile_flags(optimization_level=1))


def run(program, cache, *arguments):
    """Runs a program in a process whose environment sets nothing; returns its lines."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=clean | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


ORDERS = {
    "before jax": "import os, vvae; vvae.prepare(); import jax",
    "before the first computation": "import os, jax, vvae; vvae.prepare()",
    "later": "import os, jax, vvae; jax.numpy.ones(3) + 1; vvae.prepare()",
}


@pytest.mark.parametrize("order", ORDERS)
def test_programs_are_kept_whenever_it_is_called(order, tmp_path):
    lines = run(COMPUTE.format(program=ORDERS[order]), tmp_path)
    is_late = order == "later"
    assert lines[:2] == ["0.2", f"cpu {None if is_late else SETTING}"]
    assert len(lines) == 2 + is_late
    if is_late:
        assert lines[2].startswith("<string> jax is running already") and SETTING in lines[2]
    assert any((tmp_path / "vvae" / "jax").iterdir())


KEEP = """
import mmap, numpy as np
from vvae import runtime

def read_mb():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE / 1e6

def take_and_free():
    before = read_mb()
    np.ones(10_000_000)
    return read_mb() - before

print(take_and_free())
runtime.keep_memory()
print(take_and_free())
before = read_mb()
runtime.release_memory()
print(before - read_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings")
def test_freed_memory_stays_until_it_is_released(tmp_path):
    default, kept, released = map(float, run(KEEP, tmp_path))
    assert default < 10 and kept > 70 and released > 70


HEAPS = """
import ctypes, threading, sys
from vvae import runtime

if sys.argv[1] == "shared":
    runtime.share_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
start = threading.Barrier(8)

def allocate():
    start.wait()
    libc.malloc(1000)
    start.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
stream = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, stream)
libc.fclose(stream)
print(open(sys.argv[2]).read().count("<heap nr="))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings")
def test_threads_share_two_heaps_where_memory_counts(tmp_path):
    shared, default = (
        int(run(HEAPS, tmp_path, kind, tmp_path / "heaps.xml")[0]) for kind in ("shared", "default")
    )
    assert shared == 2 < default
