"""Prepares the process before jax starts, and names the user's cache folder. Imports no jax."""

import ctypes
import gc
import importlib.metadata
import importlib.util
import os
import platform
import sys
import warnings
from pathlib import Path

_ACCELERATOR_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
# Settings of jax that work at any time: environment variable -> name in `jax.config`.
_CACHE_SETTINGS = {
    "JAX_COMPILATION_CACHE_DIR": "jax_compilation_cache_dir",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "jax_persistent_cache_min_compile_time_secs",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "jax_persistent_cache_min_entry_size_bytes",
}
# Settings that a running backend keeps as they were.
_BACKEND_SETTINGS = ("JAX_PLATFORMS", "XLA_FLAGS")
# Parameters of mallopt in glibc's malloc.h, in bytes. Larger buffers still come from the system and
# go back to it at once: few programs have so many of them that this costs time.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = {_M_MMAP_THRESHOLD: 2**28, _M_TRIM_THRESHOLD: 2**29}


def cache_folder() -> Path:
    """Returns the user's cache folder for vvae, by the XDG convention."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vvae"


def prepare() -> None:
    """Prepares jax for vvae: call it at the start of a program or notebook that uses the library.

    Compiled programs are kept in the user's cache folder, so that the next process does not compile
    them again. Without an accelerator, XLA optimises less and uses its older emitters: compiling is
    several times faster, and training steps as fast (measured). Freed memory stays with the
    process (`keep_memory`).
    What the environment sets already stays as it is. The commands do all this by themselves.

    Best before jax computes anything. Afterwards the cache still works, and a warning names what
    can no longer be set.
    """
    if "jax" in sys.modules:
        _configure(_choose_settings())
        keep_memory()
    else:
        prepare_jax()


def prepare_jax() -> None:
    """Prepares a jax that is not imported yet, as the commands do; see `prepare`."""
    os.environ.update(_choose_settings())
    keep_memory()


def _choose_settings() -> dict[str, str]:
    """Returns the environment variables to set: those that are not set yet."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(cache_folder() / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    if not any(importlib.util.find_spec(name) for name in _ACCELERATOR_PLUGINS):
        settings["JAX_PLATFORMS"] = "cpu"
        settings["XLA_FLAGS"] = " ".join(list_compile_flags(optimization_level=1))
    return {name: value for name, value in settings.items() if name not in os.environ}


def list_compile_flags(optimization_level: int) -> list[str]:
    """Returns flags with which XLA compiles faster for a CPU, at an LLVM level from 0 to 3."""
    flags = [f"--xla_backend_optimization_level={optimization_level}"]
    # The newer emitters of fusions take twice as long to compile. A flag that XLA does not know
    # ends the process, and jaxlib 0.11 begins to remove this one.
    major, minor = importlib.metadata.version("jaxlib").split(".")[:2]
    if (int(major), int(minor)) < (0, 11):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return flags


def _configure(chosen: dict[str, str]) -> None:
    """Applies settings to a jax that has read the environment already."""
    import jax
    from jax._src import xla_bridge  # the only place that tells without starting a backend
    from jax.experimental.compilation_cache import compilation_cache

    is_running = xla_bridge.backends_are_initialized()
    late = [name for name in _BACKEND_SETTINGS if is_running and name in chosen]
    os.environ.update({name: value for name, value in chosen.items() if name not in late})
    missing = {name: chosen[var] for var, name in _CACHE_SETTINGS.items() if var in chosen}
    for name, value in missing.items():
        default = getattr(jax.config, name)
        jax.config.update(name, value if default is None else type(default)(value))
    if missing:
        compilation_cache.reset_cache()  # jax has noted that there was none
    if "JAX_PLATFORMS" in chosen and not is_running:
        jax.config.update("jax_platforms", chosen["JAX_PLATFORMS"])
    if late:
        settings = ", ".join(f"{name}={chosen[name]}" for name in late)
        warnings.warn(
            f"jax is running already, so that {settings} cannot be set: call vvae.prepare() "
            "before the first computation",
            stacklevel=3,
        )


def keep_memory() -> None:
    """Tells glibc to keep freed memory instead of returning it after every computation.

    XLA frees and allocates the same large buffers in every step. By default glibc maps each of them
    anew, and the kernel has to fill every page with zeros. With memory that stays, 60 steps of
    configs/compression.py made 437 frames/s instead of 385, and the peak of the process was 1.9 GB
    instead of 1.7 GB (one run each on two shared cores). `release_memory` returns it at the end of
    a stage. On systems without glibc, and if the environment sets malloc by itself, nothing is
    done.
    """
    _set_malloc(_KEPT_BYTES)


def share_heaps() -> None:
    """Lets all threads share two heaps: each keeps what was freed in it (`keep_memory`).

    By default glibc has eight for each core. Encoding a video of 257 frames of 256x256 by a small
    Wan 2.1 peaked at 550 to 600 MB in four runs instead of 510 to 770 MB, and took 4 % longer.
    Call it before other threads start. On systems without glibc, and if the environment sets malloc
    by itself, nothing is done.
    """
    _set_malloc({_M_ARENA_MAX: 2})


def _set_malloc(parameters: dict[int, int]) -> None:
    # GLIBC_TUNABLES and MALLOC_*_ are glibc's own way to set the same.
    tuned = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if tuned or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in parameters.items():
        mallopt(parameter, value)


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
