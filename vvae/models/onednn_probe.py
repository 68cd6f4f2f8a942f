"""Whether convolutions by the oneDNN inside jaxlib work on this machine.

The way to it is not a public interface (`convolutions_onednn`), and a wrong call ends the process.
So it is tried in a process of its own, once for each version of jaxlib and each processor, and the
answer is kept in the user's cache folder.

By default it computes convolutions of float32 on processors with AVX-512, and of bfloat16 on those
that multiply matrices of bfloat16 (AMX, AVX512-BF16): where it was measured to be faster, or to
take less memory at equal speed. The environment variable `VVAE_ONEDNN` decides for every processor
and dtype: 1 switches it on, 0 off. Its programs stay out of the compilation cache, so each process
compiles them anew.
"""

import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import jaxlib
import numpy as np

from vvae import files
from vvae.runtime import cache_folder

SWITCH = "VVAE_ONEDNN"
_SECONDS = 300.0
_ROOT = Path(__file__).resolve().parents[2]
# The answer to another question than that of an older file.
_VERSION = 1
_MACHINES = ("x86_64", "AMD64")
_INSTRUCTIONS = {"float32": {"avx512f"}, "bfloat16": {"amx_bf16", "avx512_bf16"}}
_FROM_CPUINFO = ("model name", "cpu family", "model", "stepping", "flags")


def is_usable(dtype: np.dtype) -> bool:
    """Whether oneDNN is switched on for inputs of this dtype, and works here.

    Raises:
      ValueError: if the environment variable is neither 0 nor 1.
    """
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "0", "1"):
        raise ValueError(f"{SWITCH}={switch}: must be 0 or 1, or not be set")
    wanted = switch == "1" or (switch == "" and _is_faster(np.dtype(dtype)))
    return wanted and works_here()


@functools.cache
def works_here() -> bool:
    """Whether oneDNN works here; the first call on a machine starts a process, for seconds."""
    if platform.machine() not in _MACHINES:
        return False
    path = _locate_answer()
    try:
        return json.loads(path.read_text())["works"]
    except (OSError, ValueError, KeyError):
        pass  # no answer yet, or not a whole one
    answer = _try_in_a_process()
    if answer is None:
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, answer)
    except OSError as error:
        warnings.warn(f"whether oneDNN works cannot be kept in {path}: {error}", stacklevel=2)
    return answer["works"]


def _locate_answer() -> Path:
    machine = hashlib.sha256(_describe_processor().encode()).hexdigest()[:16]
    return cache_folder() / "onednn" / f"{_VERSION}-jaxlib-{jaxlib.__version__}-{machine}.json"


def _describe_processor() -> str:
    """Returns the model and the instructions of the processor."""
    described = _read_cpuinfo()
    if not described:
        return platform.processor()
    return "\n".join(described.get(name, "") for name in _FROM_CPUINFO)


@functools.cache
def _is_faster(dtype: np.dtype) -> bool:
    """Whether the processor has one of the instructions for this dtype."""
    return not _INSTRUCTIONS[dtype.name].isdisjoint(_read_cpuinfo().get("flags", "").split())


def _read_cpuinfo() -> dict[str, str]:
    """Returns what Linux says of the first processor; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":")[::2] for line in lines)
    return {name.strip(): value for name, value in pairs}


def _try_in_a_process() -> dict | None:
    """Returns what is kept: whether oneDNN works, and what was said; None without an answer."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    paths = [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    try:
        process = subprocess.run(
            [sys.executable, "-m", __name__],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        warnings.warn(f"no answer whether oneDNN works here, so without it: {error}", stacklevel=3)
        return None
    return {"works": process.returncode == 0, "said": process.stderr[-2000:]}


def _check() -> None:
    """Compares oneDNN with jax.lax, and checks that its programs are not cached.

    Raises:
      AssertionError: if something is not as it should be.
    """
    import jax
    from jax import numpy as jnp

    from vvae.models import convolutions_onednn as onednn

    rng = np.random.default_rng(0)

    def draw(*shape: int):
        return rng.standard_normal(shape, np.float32)

    def convolve(x, kernel, strides, padding):
        letters = "DHW"[-len(strides) :]
        numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=numbers, precision="highest"
        )

    def run(dtype) -> float:
        """Returns the largest error against the largest entry."""
        results = []
        for shape, taps, strides, padding in (
            ((2, 5, 7, 6, 5), (3, 3, 3), (1, 1, 1), ((2, 0), (1, 1), (1, 1))),
            ((3, 10, 8, 17), (4, 4), (2, 2), ((1, 1), (1, 1))),
        ):
            x, kernel = (a.astype(dtype) for a in (draw(*shape), draw(*taps, shape[-1], 9)))

            def onednn_probe(x, kernel, strides=strides, padding=padding):
                return onednn.convolve(x, kernel, strides, padding)

            found = jax.jit(onednn_probe)(x, kernel)
            exact = [jnp.asarray(a, jnp.float32) for a in (x, kernel)]
            results.append((found, convolve(*exact, strides, padding)))
        return max(
            float(jnp.abs(found.astype(jnp.float32) - exact).max() / jnp.abs(exact).max())
            for found, exact in results
        )

    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        errors = {dtype: run(dtype) for dtype in (jnp.float32, jnp.bfloat16)}
        names = {path.name.partition("-")[0] for path in Path(folder).iterdir()}
    assert errors[jnp.float32] < 1e-5, errors
    assert errors[jnp.bfloat16] < 2.0**-7, errors
    assert names, "no program at all was cached"
    assert "jit_onednn_probe" not in names, "a program with oneDNN was cached"


if __name__ == "__main__":
    warnings.simplefilter("error")
    _check()
