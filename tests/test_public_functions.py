"""Public functions compile once, and are the same inside jit, vmap, grad, pmap and export."""

import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_causal

import vvae
from vvae.inference import tiling
from vvae.models import contract

SHAPE_HWC = (8, 8, 2)
KEY = jax.random.key(0)


@functools.cache
def make(kind):
    if kind == "sequential":
        model = vvae.SequentialVAE(
            SHAPE_HWC, widths=(4,), hidden=8, latent_dim=3, clip_latent_dim=2
        )
        return model, vvae.init_variables(model, KEY)
    return tiny_causal.make_named("local")


def make_calls(kind):
    """Returns name -> a call of a public function, as a program would write it."""
    model, params = make(kind)
    x = tiny_causal.make_video(5)
    if kind == "sequential":
        return {
            "encode": lambda: vvae.encode(model, params, x),
            "masked": lambda: vvae.encode(model, params, x, np.ones((2, 5), bool)),
            "elbo": lambda: vvae.elbo(model, params, x, KEY, num_samples=2),
            "iwae": lambda: vvae.iwae(model, params, x, KEY, num_samples=4, chunk=2),
            "sample": lambda: vvae.sample(model, params, KEY, 2, 5),
            "init": lambda: vvae.init_variables(model, KEY),
            "surprise": lambda: vvae.surprise(model, params, x),
        }
    latents = model.posterior_mean(vvae.encode(model, params, x))
    frames = tiny_causal.make_video(11)[0]

    def write():
        pieces = vvae.encode_frames(model, params, frames, 2)
        latents = [model.posterior_mean(piece) for piece in pieces]
        return list(vvae.decode_video(model, params, latents, frames.shape[:3]))

    return {
        "decode": lambda: vvae.decode(model, params, latents, (5, 8, 8)),
        "reconstruct": lambda: vvae.reconstruct(model, params, x),
        "stream": write,
        "tiles": lambda: tiling.encode_tiled(model, params, x, (1, 1)),
        "blended": lambda: tiling.decode_blended(model, params, latents, (2, 2), 1),
    }


@pytest.mark.parametrize("kind", ["sequential", "causal"])
def test_a_second_call_traces_and_compiles_nothing(kind):
    for name, call in make_calls(kind).items():
        first = jax.block_until_ready(call())
        with jax.no_tracing():
            second = call()
        jax.tree.map(functools.partial(np.testing.assert_array_equal, err_msg=name), first, second)


def test_the_guard_of_the_test_sees_a_new_compilation():
    model, params = make("sequential")
    with jax.no_tracing(), pytest.raises(RuntimeError, match="trac"):
        vvae.encode(model, params, tiny_causal.make_video(7))


def test_an_equal_model_shares_what_is_compiled():
    model, params = make("sequential")
    x = tiny_causal.make_video(5)
    vvae.encode(model, params, x)
    with jax.no_tracing():
        vvae.encode(model.clone(), params, x)


def test_values_are_those_without_a_compiler():
    model, params = make("sequential")
    x = tiny_causal.make_video(5)
    with jax.disable_jit():
        mask = jnp.ones(x.shape[:2], bool)
        plain = model.apply(params, contract.as_unit_range(x), mask, method="encode")
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        vvae.encode(model, params, x),
        plain,
    )


def test_the_functions_work_inside_transformations():
    model, params = make("sequential")
    x = tiny_causal.make_video(5)
    y = np.asarray(vvae.reconstruct(model, params, x))
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)

    def reconstruct(x):
        return vvae.reconstruct(model, params, x)

    near(jax.jit(reconstruct)(x), y)
    near(jax.vmap(reconstruct)(x[:, None])[:, 0], y)
    near(jax.pmap(reconstruct, devices=jax.devices()[:2])(x[:, None])[:, 0], y)
    exported = jax.export.export(jax.jit(reconstruct))(x)
    near(jax.export.deserialize(exported.serialize()).call(x), y)
    # The gradient against a difference quotient along itself.
    bound = jax.jit(lambda p: vvae.elbo(model, p, x, KEY).mean())
    slope = jax.grad(lambda p: vvae.elbo(model, p, x, KEY).mean())(params)["params"]
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(slope)))

    def move(step):
        moved = jax.tree.map(lambda a, d: a + step / norm * d, params["params"], slope)
        return float(bound(params | {"params": moved}))

    assert (move(1e-2) - move(-1e-2)) / 2e-2 == pytest.approx(norm, rel=0.02)


def test_inside_jit_the_functions_are_part_of_one_program():
    model, params = make("sequential")
    program = jax.make_jaxpr(functools.partial(vvae.elbo, model))(
        params, tiny_causal.make_video(5), KEY
    )
    names = {eqn.params.get("name") for eqn in program.eqns}
    assert not names & {"_elbo", "_terms", "_encode"}


def test_a_model_that_is_not_hashable_says_so():
    model = vvae.SequentialVAE(SHAPE_HWC, widths=[4])
    with pytest.raises(ValueError, match=r"give tuples instead of {'widths': \[4\]}$"):
        vvae.init_variables(model, KEY)


TRACED = []


class CountingVAE(vvae.CausalVideoVAE):
    """Notes the shapes that it is compiled for."""

    def extend_encode(self, past, x_BTHWC):
        TRACED.append(("encode", past is None, x_BTHWC.shape))
        return super().extend_encode(past, x_BTHWC)

    def extend_decode(self, past, z_BthwZ):
        TRACED.append(("decode", past is None, z_BthwZ.shape))
        return super().extend_decode(past, z_BthwZ)


def test_videos_of_any_length_share_what_is_compiled_for_the_first():
    plain, params = make("causal")
    fields = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    model = CountingVAE(**fields)
    frames = tiny_causal.make_video(20)[0]
    whole = np.asarray(vvae.encode(plain, params, frames[None]).mean)
    for count in (20, 1, 4, 6, 9, 11, 17):
        pieces = list(vvae.encode_frames(model, params, frames[:count], 2))
        joined = np.concatenate([piece.mean for piece in pieces], axis=1)
        assert joined.shape[1] == 1 + -(-(count - 1) // 4)
        complete = 1 + (count - 1) // 4
        np.testing.assert_allclose(joined[:, :complete], whole[:, :complete], atol=1e-5)
        if count > 5:  # a single chunk has the default size, and others that of the chunk before
            latents = [model.posterior_mean(piece) for piece in pieces]
            decoded = list(vvae.decode_video(model, params, latents, (count, 8, 8)))
            assert np.concatenate(decoded).shape == (count, 8, 8, 2)
    found = {(name, is_first, shape[1]) for name, is_first, shape in TRACED}
    assert found == {("encode", True, 5), ("encode", False, 8), ("decode", True, 2)} | {
        ("decode", False, 2)
    }
    assert len(TRACED) == len(set(TRACED))


def test_a_last_latent_frame_that_is_not_full_is_that_of_the_whole_video():
    model, params = make("causal")
    frames = tiny_causal.make_video(11)[0]
    pieces = list(vvae.encode_frames(model, params, frames, 2))
    whole = vvae.encode(model, params, frames[None])
    for joined, expected in zip(
        jax.tree.leaves(jax.tree.map(lambda *a: np.concatenate(a, axis=1), *pieces)),
        jax.tree.leaves(whole),
        strict=True,
    ):
        np.testing.assert_allclose(joined, expected, atol=1e-5)
    latents = [model.posterior_mean(piece) for piece in pieces]
    decoded = np.concatenate(list(vvae.decode_video(model, params, latents, (11, 8, 8))))
    y = (np.asarray(vvae.reconstruct(model, params, frames[None]))[0] + 1) * 127.5
    assert np.abs(decoded - np.clip(np.rint(y), 0, 255)).max() <= 1
