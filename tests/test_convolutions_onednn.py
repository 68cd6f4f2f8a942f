"""Convolutions by oneDNN: they equal those of jax.lax, and stay where they work."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from compiling import xla_flags
from jax import export, lax
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vvae.models import convolutions_onednn as onednn
from vvae.models import onednn_probe

ROOT = Path(__file__).resolve().parents[1]
TARGET = "__onednn$convolution"
BOUNDS = {jnp.float32: 1e-5, jnp.bfloat16: 2.0**-7}

works = pytest.mark.skipif(
    not onednn_probe.works_here(), reason="no oneDNN here: another processor or wheel"
)


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    monkeypatch.setenv(onednn_probe.SWITCH, "1")


def _draw(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _convolve_by_lax(x, kernel, strides, padding):
    letters = "DHW"[-len(strides) :]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, precision="highest"
    )


def _assert_close(actual, expected, bound):
    """Largest error against the largest entry."""
    assert actual.shape == expected.shape
    error = float(jnp.abs(actual.astype(expected.dtype) - expected).max() / jnp.abs(expected).max())
    assert error <= bound, f"error {error:.1e} of the largest entry exceeds {bound:.0e}"


# Shape of the inputs, taps, features, strides, padding.
CONVOLUTIONS = [
    ((2, 5, 7, 6, 5), (3, 3, 3), 9, (1, 1, 1), ((2, 0), (1, 1), (1, 1))),
    ((1, 3, 5, 3, 24), (1, 3, 3), 24, (1, 1, 1), ((0, 0), (1, 1), (1, 1))),
    ((3, 1, 9, 17), (3, 3), 1, (1, 1), ((1, 1), (1, 1))),
    ((3, 10, 6, 3), (4, 4), 33, (2, 2), ((1, 1), (1, 1))),
    ((1, 7, 9, 16), (3, 2), 5, (2, 1), ((0, 1), (2, 0))),
]


@works
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("shape,taps,features,strides,padding", CONVOLUTIONS)
def test_a_convolution_equals_that_of_lax(shape, taps, features, strides, padding, dtype):
    x, kernel = _draw(0, *shape), _draw(1, *taps, shape[-1], features)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    y = jax.jit(lambda x, k: onednn.convolve(x, k, strides, padding))(x, kernel)
    assert y.dtype == dtype
    exact = (x.astype(jnp.float32), kernel.astype(jnp.float32))
    _assert_close(y, _convolve_by_lax(*exact, strides, padding), BOUNDS[dtype])


# Shape of the outputs, channels, taps: whole and filled-up blocks, of frames and of rows.
GRADIENTS = [
    ((2, 5, 8, 7, 9), 6, (3, 3, 3)),
    ((1, 7, 5, 6, 24), 24, (1, 3, 3)),
    ((3, 1, 1, 1, 4), 5, (3, 3, 3)),
    ((6, 3, 5, 4, 17), 3, (2, 3, 3)),
]


@works
@pytest.mark.parametrize("block_bytes,columns", [(1, 1), (3_000, 12), (2 << 20, 64)])
@pytest.mark.parametrize("outputs,channels,taps", GRADIENTS)
def test_gradient_by_kernel_equals_that_of_lax(
    outputs, channels, taps, block_bytes, columns, monkeypatch
):
    monkeypatch.setattr(onednn, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(onednn, "_COLUMNS", columns)
    batch, length, height, width, features = outputs
    x = _draw(0, batch, length + taps[0] - 1, height, width, channels)
    y, strides, padding = _draw(1, *outputs), (1, 1, 1), ((0, 0), (1, 1), (1, 1))
    kernel = jax.ShapeDtypeStruct((*taps, channels, features), jnp.float32)
    convolve = lambda k: _convolve_by_lax(x, k, strides, padding)  # noqa: E731
    (expected,) = jax.linear_transpose(convolve, kernel)(y)

    def differentiate(dtype):
        gradient = jax.jit(lambda x, y: onednn.kernel_gradient(x, y, taps))
        return gradient(x.astype(dtype), y.astype(dtype))

    for dtype, bound in BOUNDS.items():
        found = differentiate(dtype)
        assert found.dtype == dtype
        _assert_close(found, expected, bound)


@works
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (1, 2)])
def test_vmap_over_inputs_and_over_kernels(axes):
    def place(array, axis):
        return array[0] if axis is None else jnp.moveaxis(array, 0, axis)

    arrays = (_draw(0, 3, 2, 5, 6, 4), _draw(1, 3, 3, 3, 4, 5))
    arrays = [place(*pair) for pair in zip(arrays, axes)]
    found, expected = (
        jax.vmap(lambda x, k, f=f: f(x, k, (1, 1), ((1, 1), (1, 1))), in_axes=axes)(*arrays)
        for f in (onednn.convolve, _convolve_by_lax)
    )
    _assert_close(found, expected, 1e-5)


def test_another_dtype_is_refused():
    """oneDNN itself would end the process."""
    with jax.enable_x64(True):
        x, kernel = _draw(0, 1, 4, 4, 2, dtype=np.float64), _draw(1, 3, 3, 2, 2, dtype=np.float64)
        with pytest.raises(TypeError, match="float64"):
            onednn.convolve(x, kernel, (1, 1), ((1, 1), (1, 1)))


def _choose(x, kernel):
    """A convolution, by oneDNN or 1000 more, so that it is seen which it was."""

    def portable(x, kernel):
        return _convolve_by_lax(x, kernel, (1, 1), ((1, 1), (1, 1))) + 1000

    def by_onednn(x, kernel):
        return onednn.convolve(x, kernel, (1, 1), ((1, 1), (1, 1)))

    return onednn.dispatch(by_onednn, portable)(x, kernel)


def _draw_pair(batch=2, dtype=np.float32):
    return _draw(0, batch, 5, 6, 4, dtype=dtype), _draw(1, 3, 3, 4, 5, dtype=dtype)


def _is_by_onednn(y):
    return float(jnp.min(y)) < 500


@works
def test_onednn_is_chosen_where_it_works():
    x, kernel = _draw_pair(8)
    assert _is_by_onednn(_choose(x, kernel))
    assert _is_by_onednn(jax.jit(_choose)(x, kernel))
    assert _is_by_onednn(jax.vmap(_choose)(jnp.stack([x, x]), jnp.stack([kernel, kernel])))
    run = jax.pmap(_choose, in_axes=(0, None))
    assert _is_by_onednn(run(x[:, None], kernel))


def test_the_portable_function_is_chosen_elsewhere(monkeypatch):
    x, kernel = _draw_pair(8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shared = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert not _is_by_onednn(jax.jit(_choose)(shared, kernel))
    assert not _is_by_onednn(jax.jit(_choose)(x[:0], kernel).sum() + 1000)
    with jax.enable_x64(True):
        assert not _is_by_onednn(jax.jit(_choose)(*_draw_pair(dtype=np.float64)))


@works
@pytest.mark.parametrize(
    "flags,chosen",
    [
        ("avx2 avx512f amx_bf16", {"float32", "bfloat16"}),
        ("avx2 avx512f", {"float32"}),
        ("avx2", set()),
    ],
)
def test_by_default_the_processor_decides(flags, chosen, monkeypatch):
    monkeypatch.setattr(onednn_probe, "_read_cpuinfo", lambda: {"flags": flags})

    def is_chosen(dtype):
        onednn_probe._is_faster.cache_clear()
        arrays = (a.astype(dtype) for a in _draw_pair())
        return _is_by_onednn(jax.jit(lambda *a: _choose(*a))(*arrays))

    for dtype in ("float32", "bfloat16"):
        monkeypatch.setenv(onednn_probe.SWITCH, "0")
        assert not is_chosen(dtype)
        monkeypatch.setenv(onednn_probe.SWITCH, "1")
        assert is_chosen(dtype)
        monkeypatch.delenv(onednn_probe.SWITCH)
        assert is_chosen(dtype) == (dtype in chosen)
    onednn_probe._is_faster.cache_clear()


def test_another_value_of_the_switch_is_refused(monkeypatch):
    monkeypatch.setenv(onednn_probe.SWITCH, "yes")
    with pytest.raises(ValueError, match="VVAE_ONEDNN=yes: must be 0 or 1"):
        jax.jit(lambda *a: _choose(*a))(*_draw_pair())


@pytest.mark.parametrize("platforms", [("cpu",), ("cuda",), ("cpu", "cuda", "tpu")])
def test_an_exported_program_has_the_portable_function(platforms):
    x, kernel = _draw_pair()
    exported = export.export(jax.jit(_choose), platforms=platforms)(x, kernel)
    assert TARGET not in exported.mlir_module()
    if "cpu" in platforms:
        assert not _is_by_onednn(export.deserialize(exported.serialize()).call(x, kernel))


def _run(program, *arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, *program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@works
@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_many_convolutions_at_once_end(num_devices):
    done = _run([ROOT / "tests" / "onednn_threads.py"], XLA_FLAGS=xla_flags(num_devices))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["devices", str(num_devices)]


@works
def test_no_program_with_onednn_is_in_the_compilation_cache(tmp_path):
    program = """
import jax, warnings
from jax import numpy as jnp
from vvae.models.convolutions_onednn import convolve
warnings.simplefilter("error")
def with_onednn(x, k):
    return convolve(x, k, (1, 1), ((1, 1), (1, 1)))
def without(x):
    return jnp.sin(x) + 2
x, k = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
jax.block_until_ready((jax.jit(with_onednn)(x, k), jax.jit(without)(x)))
"""
    done = _run(["-c", program], JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert "jit_without" in names
    assert "jit_with_onednn" not in names


def _ask_probe(monkeypatch, folder):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    onednn_probe.works_here.cache_clear()
    try:
        return onednn_probe.is_usable(np.float32)
    finally:
        onednn_probe.works_here.cache_clear()


@works
def test_the_probe_is_asked_once_and_its_answer_is_kept(tmp_path, monkeypatch):
    assert _ask_probe(monkeypatch, tmp_path)
    (path,) = (tmp_path / "vvae" / "onednn").iterdir()
    # The file is believed, and one that is no answer is written anew.
    path.write_text('{"works": false}')
    assert not _ask_probe(monkeypatch, tmp_path)
    path.write_text("{")
    assert _ask_probe(monkeypatch, tmp_path)


@works
def test_a_process_that_dies_says_no(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert not _ask_probe(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.warns(UserWarning, match="without it"):
        assert not _ask_probe(monkeypatch, tmp_path / "other")
    assert not (tmp_path / "other").exists()
