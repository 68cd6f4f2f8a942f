"""Prepares the process before jax starts, and names the user's cache folder. Imports no jax."""

import ctypes
import gc
import importlib.util
import os
from pathlib import Path

_ACCELERATOR_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")


def cache_folder() -> Path:
    """Returns the user's cache folder for vvae, by the XDG convention."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vvae"


def prepare_jax() -> None:
    """Sets the environment variables that jax reads when it starts, unless they are already set.

    Compiled programs are kept in the user's cache folder. Without an accelerator, XLA optimises
    less: compiling is several times faster, and convolutions are equally fast (measured).
    """
    environment = os.environ
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "jax"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    if not any(importlib.util.find_spec(name) for name in _ACCELERATOR_PLUGINS):
        environment.setdefault("JAX_PLATFORMS", "cpu")
        environment.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")


def release_memory() -> None:
    """Returns free memory that the C library still holds to the system.

    Compiling leaves several hundred MB of it scattered over the heap of glibc, and later
    allocations scatter it further: without this, the memory of a long training grows slowly
    (measured by benchmarks/soak.py). On systems without glibc, only Python's garbage is collected.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
