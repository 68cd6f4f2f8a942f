"""What must be set before jax starts, and where the user's caches are. Imports no jax."""

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
    """Sets what jax reads when it starts, unless the environment says otherwise.

    Compiled programs are kept in the user's cache folder. Without an accelerator, XLA optimises
    less: compiling is several times faster and the convolutions are as fast (measured).
    """
    environment = os.environ
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "jax"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    environment.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
    if not any(importlib.util.find_spec(name) for name in _ACCELERATOR_PLUGINS):
        environment.setdefault("JAX_PLATFORMS", "cpu")
        environment.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")


def release_memory() -> None:
    """Gives memory that is free but still held by the C library back to the system.

    Compiling leaves several hundred MB of it scattered over the heap of glibc, and what is
    allocated and freed later scatters it further: without this a long training grows slowly
    (measured: benchmarks/soak.py). Elsewhere than on glibc only Python's garbage is collected.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
