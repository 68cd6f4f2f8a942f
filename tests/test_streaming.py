"""A video in chunks equals the whole video: values, gradients, files and memory."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny_causal import LOOKING_AHEAD, NAMES, make_exact, make_model, make_named, make_variables
from tiny_causal import make_video as make_noise

from vvae import video
from vvae.inference import streaming
from vvae.models import contract

ROOT = Path(__file__).resolve().parents[1]
encode_chunk = jax.jit(streaming.encode_chunk, static_argnums=0)
end_encode = jax.jit(streaming.end_encode, static_argnums=0)
decode_chunk = jax.jit(streaming.decode_chunk, static_argnums=0)
encode = jax.jit(contract.encode, static_argnums=0)
decode = jax.jit(contract.decode, static_argnums=0)


def draw_plan(total, largest, seed):
    """Draws chunk sizes between 1 and the largest that add up to the total."""
    rng, plan = np.random.default_rng(seed), []
    while sum(plan) < total:
        plan.append(min(int(rng.integers(1, largest + 1)), total - sum(plan)))
    return plan


def cut(x, plan):
    assert sum(plan) == x.shape[1]
    return [x[:, end - size : end] for size, end in zip(plan, np.cumsum(plan), strict=True)]


def join(pieces):
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=1), *pieces)


def encode_pieces(model, variables, x, plan):
    """Returns the posterior of a whole video, encoded in chunks."""
    cache, pieces = streaming.begin_encode(), []
    for chunk in cut(x, plan):
        cache, posterior = encode_chunk(model, variables, cache, chunk)
        pieces.append(posterior)
    rest = end_encode(model, variables, cache)
    return join(pieces if rest is None else [*pieces, rest])


def decode_pieces(model, variables, z, plan):
    cache, pieces = streaming.begin_decode(), []
    for chunk in cut(z, plan):
        cache, y = decode_chunk(model, variables, cache, chunk)
        pieces.append(y)
    return join(pieces)


def assert_near(tree, expected, tolerance):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance), tree, expected
    )


@pytest.mark.parametrize(
    ("total", "plan"),
    [(10, [1] * 10), (10, draw_plan(10, 6, 0)), (9, [3, 6]), (3, [2, 1]), (1, [1])],
)
def test_any_plan_gives_the_latents_of_the_whole(total, plan):
    model, variables = make_named("standard")
    x = make_noise(total)
    whole, pieces = encode(model, variables, x), encode_pieces(model, variables, x, plan)
    assert whole.mean.shape[1] == 1 + -(-(total - 1) // 4)
    assert_near(pieces, whole, 1e-5)


@pytest.mark.parametrize("plan", [[1, 1, 1], [2, 1], [1, 2]])
def test_any_plan_gives_the_frames_of_the_whole(plan):
    model, variables = make_named("standard")
    z = encode(model, variables, make_noise(9)).mean
    whole = decode(model, variables, z)
    assert whole.shape[1] == 9
    assert_near(decode_pieces(model, variables, z, plan), whole, 1e-5)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"standard"}))
def test_every_configuration_streams(name):
    model, variables = make_named(name)
    step = model.temporal_compression
    x = make_noise(2 + 2 * step)
    posterior = encode(model, variables, x)
    plan = [1, 1, 2 * step]
    assert_near(encode_pieces(model, variables, x, plan), posterior, 1e-5)
    z = model.posterior_mean(posterior)
    plan = [1, z.shape[1] - 1]
    assert_near(decode_pieces(model, variables, z, plan), decode(model, variables, z), 1e-5)


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_what_looks_ahead_decodes_whole_videos_only(name):
    model, variables = make_named(name)
    step = model.temporal_compression
    x = make_noise(2 + 2 * step)
    posterior = encode(model, variables, x)
    assert_near(encode_pieces(model, variables, x, [1, 1, 2 * step]), posterior, 1e-5)
    z = model.posterior_mean(posterior)
    with pytest.raises(ValueError, match=f"decoder of this {type(model).__name__} looks ahead"):
        streaming.decode_chunk(model, variables, streaming.begin_decode(), z[:, :1])


@pytest.mark.parametrize("name", ["wavelet", "wan22"])
def test_float64_values_and_gradients_of_any_plan_are_those_of_the_whole(name):
    with jax.enable_x64(True):
        _compare_exactly(*make_exact(name))


def _compare_exactly(model, variables):
    """Compares a loss on the reconstruction, and its gradients by all parameters and the video."""
    x = contract.as_unit_range(make_noise(4, batch=1)).astype(np.float64)
    params = {name: variables["params"][name] for name in ("encoder", "decoder")}

    def score(posterior, y):
        weight = jnp.arange(y.size).reshape(y.shape) % 7 - 3.0
        return jnp.sum(weight * jnp.sin(y)) + jnp.sum(jnp.square(posterior.logvar)), (posterior, y)

    def whole(params, x):
        variables_ = variables | {"params": variables["params"] | params}
        posterior = contract.encode(model, variables_, x)
        return score(posterior, contract.decode(model, variables_, posterior.mean))

    def pieces(params, x):
        variables_ = variables | {"params": variables["params"] | params}
        posterior = encode_pieces(model, variables_, x, [1, 3])
        return score(posterior, decode_pieces(model, variables_, posterior.mean, [1, 2]))

    def measure(function):
        run = jax.jit(jax.value_and_grad(function, argnums=(0, 1), has_aux=True))
        return run(params, x)

    (_, values), gradients = measure(whole)
    (_, values_in_pieces), gradients_in_pieces = measure(pieces)
    assert_near(values_in_pieces, values, 1e-12)
    for a, b in zip(jax.tree.leaves(gradients_in_pieces), jax.tree.leaves(gradients), strict=True):
        assert b.dtype == np.float64 and np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, np.abs(b).max()))


# --- the cache is a pytree -----------------------------------------------------------------------


def start_stream(model, variables, x):
    cache, _ = encode_chunk(model, variables, streaming.begin_encode(), x)
    return cache


def test_streams_are_mapped_over_like_any_batch():
    """vmap over two caches of one video each equals one cache of two videos."""
    model, variables = make_named("wavelet")
    x = make_noise(6)
    first, second = x[:, :4], x[:, 4:]
    cache, posterior = encode_chunk(model, variables, start_stream(model, variables, first), second)
    run = jax.jit(jax.vmap(functools.partial(streaming.encode_chunk, model, variables)))
    begin = jax.jit(jax.vmap(functools.partial(start_stream, model, variables)))
    caches = begin(first[:, None])
    mapped_cache, mapped = run(caches, second[:, None])
    assert_near(jax.tree.map(lambda a: a[:, 0], mapped), posterior, 1e-5)
    assert jax.tree.structure(mapped_cache) == jax.tree.structure(cache)


def test_a_cache_comes_back_from_a_checkpoint(tmp_path):
    model, variables = make_named("wavelet")
    x = make_noise(6)
    cache = start_stream(model, variables, x[:, :4])
    assert len(cache.pending) == 1
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "cache", cache)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "cache", jax.eval_shape(lambda: cache))
    expected = encode_chunk(model, variables, cache, x[:, 4:])
    jax.tree.map(
        np.testing.assert_array_equal,
        encode_chunk(model, variables, restored, x[:, 4:]),
        expected,
    )


def test_chunks_of_whole_latents_run_under_scan():
    model, variables = make_named("wavelet")
    x = contract.as_unit_range(make_noise(9))

    @jax.jit
    def run(x):
        cache, first = streaming.encode_chunk(model, variables, streaming.begin_encode(), x[:, :1])
        # After the first latent frame, encoded outside the loop, the cache keeps its structure.
        cache, second = streaming.encode_chunk(model, variables, cache, x[:, 1:3])
        chunks = jnp.moveaxis(x[:, 3:].reshape(2, 3, 2, *x.shape[2:]), 1, 0)
        _, rest = jax.lax.scan(
            functools.partial(streaming.encode_chunk, model, variables), cache, chunks
        )
        rest = jax.tree.map(lambda a: jnp.moveaxis(a[:, :, 0], 0, 1), rest)
        return join([first, second, rest])

    assert_near(run(x), encode(model, variables, x), 1e-5)


def test_a_cache_holds_no_more_however_long_the_video():
    model, variables = make_named("wavelet")
    cache, sizes = streaming.begin_encode(), []
    for chunk in cut(make_noise(9), [3, 2, 2, 2]):
        cache, _ = encode_chunk(model, variables, cache, chunk)
        sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(cache)))
    assert sizes[0] <= sizes[1] == sizes[2] == sizes[3]


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rgb_model():
    model = make_model(shape_HWC=(8, 8, 3), attention=False)
    return model, make_variables(model)


def test_a_file_comes_back_as_a_whole_video_does(tmp_path, rgb_model):
    model, variables = rgb_model
    frames = make_noise(11, batch=1, size=(6, 10), channels=3)[0]
    video.write_video(tmp_path / "noise.mkv", frames, fps=25, lossless=True)
    pieces = list(streaming.encode_video(model, variables, tmp_path / "noise.mkv", 2))
    assert [piece.mean.shape[1] for piece in pieces] == [2, 2]
    whole = encode(model, variables, frames[None])
    assert_near(join(pieces), whole, 1e-5)
    latents = [piece.mean for piece in pieces]
    decoded = list(streaming.decode_video(model, variables, latents, frames.shape[:3]))
    assert [len(piece) for piece in decoded] == [5, 6]
    y = contract.reconstruct(model, variables, frames[None])[0]
    codes = np.clip(np.rint((np.asarray(y, np.float64) + 1) * 127.5), 0, 255)
    difference = np.abs(np.concatenate(decoded) - codes)
    # Where a value lies halfway between two codes, rounding may differ by one.
    assert difference.max() <= 1 and difference.mean() < 1e-3


MEMORY = """
import re, sys
import jax, numpy as np
from tests.tiny_causal import make_model, make_variables
from vvae.inference import streaming
from vvae.models import contract

model = make_model(shape_HWC=(8, 8, 3), attention=False)
variables = make_variables(model)
size = (96, 96)

def frames(count):
    for t in range(count):
        yield np.full((*size, 3), t % 256, np.uint8)

def run_in_pieces(count):
    latents = (p.mean for p in streaming.encode_frames(model, variables, frames(count), 2))
    return sum(len(y) for y in streaming.decode_video(model, variables, latents, (count, *size)))

def run_whole(count):
    x = np.stack(list(frames(count)))[None]
    y = jax.jit(contract.reconstruct, static_argnums=0)(model, variables, x)
    return jax.block_until_ready(y).shape[1]

def read_peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

assert run_in_pieces(33) == 33  # compiles
for run, count in ((run_in_pieces, 33), (run_in_pieces, 257), (run_whole, 257)):
    assert run(count) == count
    print(read_peak())
"""
# Without them, freed memory stays with the process, in amounts that vary from run to run.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
MALLOC |= {"MALLOC_TRIM_THRESHOLD_": "65536"}


def test_memory_does_not_grow_with_the_video():
    """Peak memory of a process that encodes and decodes 33, then 257 frames; then as a whole."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY],
        cwd=ROOT,
        env=os.environ | MALLOC,
        capture_output=True,
        text=True,
        check=True,
    )
    short, long, whole = map(int, run.stdout.split())
    assert long <= 1.1 * short
    # The measurement can tell: the whole video does need more.
    assert whole > 1.3 * long


# --- errors --------------------------------------------------------------------------------------


def test_wrong_chunks_say_why(rgb_model):
    model, variables = make_named("standard")
    cache = start_stream(model, variables, make_noise(6))
    with pytest.raises(ValueError, match=r"cache holds frames \(2, 8, 8, 2\).*\(2, 8, 4, 2\)"):
        encode_chunk(model, variables, cache, make_noise(4, size=(8, 4)))
    cache = start_stream(model, variables, make_noise(5))
    with pytest.raises(ValueError, match=r"cache holds features \(2, 8, 8, 2\).*\(1, 8, 8, 2\)"):
        encode_chunk(model, variables, cache, make_noise(4, batch=1))
    with pytest.raises(ValueError, match="at least one frame"):
        encode_chunk(model, variables, cache, make_noise(0))
    with pytest.raises(ValueError, match="2 channels, but files have 3"):
        next(streaming.encode_video(model, variables, "any.mp4"))
    model, variables = rgb_model
    with pytest.raises(video.VideoError, match="no such file"):
        next(streaming.encode_video(model, variables, "missing.mp4"))
    with pytest.raises(ValueError, match="latents_per_chunk=0"):
        next(streaming.encode_frames(model, variables, [], 0))


@pytest.mark.parametrize(
    ("num_frames", "counts"), [(9, "3 latent frames, not 2"), (1, "1 .*, not 2")]
)
def test_latents_of_another_length_say_so(rgb_model, num_frames, counts):
    model, variables = rgb_model
    latents = [jnp.zeros((1, 2, 2, 2, 3))]
    with pytest.raises(ValueError, match=counts):
        list(streaming.decode_video(model, variables, latents, (num_frames, 8, 8)))


def test_the_example_of_the_docs_runs():
    blocks = (ROOT / "docs" / "models.md").read_text().split("```python\n")[1:]
    code = next(block.split("```")[0] for block in blocks if "begin_encode" in block)
    scope = {}
    exec(code, scope)
    # 9 of the 12 frames fill 1 + 2 latent frames; 3 wait for the end.
    assert len(scope["cache"].pending) == 3
    assert scope["rest"].mean.shape == (1, 1, 3, 4, 16)
