"""Blocks of pixels, their principal components, and the PCA start of a causal model."""

import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from tiny_causal import make_model

from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_dataset
from vvae.measure.pca import fit_block_pca, fit_first_pca
from vvae.models import block_pca, contract
from vvae.models.bottleneck import GaussianLatents
from vvae.models.contract import init_variables
from vvae.models.ppca import decompose, start_blocks_at_ppca, whiten_blocks

SHAPE = (2, 2, 4)


def test_blocks_hold_their_own_pixels_and_join_again():
    x = np.arange(2 * 4 * 6 * 8 * 3).reshape(2, 4, 6, 8, 3)
    cut = block_pca.split_blocks(x, SHAPE)
    assert cut.shape == (2, 2, 3, 2, 48)
    np.testing.assert_array_equal(cut[1, 1, 2, 0], x[1, 2:4, 4:6, 0:4].ravel())
    np.testing.assert_array_equal(block_pca.join_blocks(cut, SHAPE), x)


def write_videos(folder, num_frames=9):
    rng = np.random.default_rng(0)
    for number in range(6):
        # Smooth in time, so that the variances of the components differ much.
        video = rng.normal(size=(num_frames, 9, 8, 1)).cumsum(0) * 8 + 120
        for split in ("train", "val", "test"):
            (folder / split).mkdir(exist_ok=True, parents=True)
            np.save(folder / split / f"{number}.npy", np.clip(video, 0, 255).astype(np.uint8))


@pytest.fixture
def clips(tmp_path):
    write_videos(tmp_path / "videos")
    clip_format = ClipFormat("gray", 8, 8, Sampling(num_frames=9))
    dataset = open_dataset(
        tmp_path / "videos", clip_format, Decoding(Cache(tmp_path / "cache", 10**9))
    )
    return dataset.splits["train"]


def test_pca_of_blocks_is_that_of_all_of_them_together(clips):
    videos = clips.read(np.arange(len(clips))).astype(np.float64)
    for pca, part, shape in (
        (fit_block_pca(clips, (4, 4, 4)), videos[:, 1:], (4, 4, 4)),
        (fit_first_pca(clips, (4, 4)), videos[:, :1], (1, 4, 4)),
    ):
        cut = block_pca.split_blocks(part, shape)
        cut = cut.reshape(-1, cut.shape[-1])
        np.testing.assert_allclose(pca.mean_D, cut.mean(0))
        _, singular, _ = np.linalg.svd(cut - cut.mean(0), full_matrices=False)
        variance = np.zeros(cut.shape[1])
        variance[: len(singular)] = singular**2 / len(cut)
        np.testing.assert_allclose(pca.variance_D, variance, atol=1e-6 * variance[0])
        projected = (cut - pca.mean_D) @ pca.components_DD.T
        np.testing.assert_allclose(projected.var(0), variance, atol=1e-6 * variance[0])


def test_clips_without_a_whole_block_are_refused(clips):
    with pytest.raises(ValueError, match="no training clip holds a whole block of 16 real frames"):
        fit_block_pca(clips, (16, 4, 4))


@pytest.mark.parametrize("beta", [1.0, 6.0])
def test_start_is_the_optimum_of_a_linear_vae_of_blocks(beta):
    """KL and error in closed form: 1/2 log(v / (beta e)) per latent, and e by water-filling.

    References:
      Tipping and Bishop, Probabilistic Principal Component Analysis, 1999.
      Cover and Thomas, Elements of Information Theory, 2006, section 10.3.3.
    """
    model = make_model(
        stem="pca",
        widths=(4,),
        components=12,
        attention=False,
        bottleneck=GaussianLatents(8),
        temporal_compression=2,
    )
    rng = np.random.default_rng(1)
    x = rng.normal(size=(16, 9, 16, 16, 2)).cumsum(1).cumsum(2).cumsum(3)
    x = (x / np.abs(x).max()).astype(np.float32)
    mean, std = x.mean((0, 1, 2, 3)), x.std((0, 1, 2, 3))
    codes = 127.5 * (x[:, 1:].astype(np.float64) + 1.0)
    cut = block_pca.split_blocks(codes, model.block_shape)
    cut = cut.reshape(-1, cut.shape[-1])
    pca = decompose(cut.mean(0), np.cov(cut.T, bias=True))
    stats, variance_D = whiten_blocks(pca, {"mean": mean, "std": std}, model.components)
    params = jitted.init_variables(model, jax.random.key(0))["params"]
    params = start_blocks_at_ppca(model, params, stats, variance_D, beta)
    for part in ("encoder", "decoder"):  # the linear path alone
        params[part]["head"]["conv"]["kernel"] *= 0.0
    variables = {"params": params, "stats": stats}

    level = beta * _solve(variance_D, 8, beta)
    kl = 0.5 * np.log(np.maximum(variance_D[:8] / level, 1.0)).sum()
    num_used = np.sum(variance_D[:8] > level)
    assert num_used == 8 if beta == 1.0 else 0 < num_used < 8
    posterior = jitted.encode(model, variables, x)
    measured = model.bottleneck.kl_by_dim(posterior)[:, 1:].sum(-1).mean()
    np.testing.assert_allclose(measured, kl, rtol=1e-4)

    z = jax.vmap(
        lambda key: (
            posterior.mean
            + jnp.exp(posterior.logvar / 2) * jax.random.normal(key, posterior.mean.shape)
        )
    )(jax.random.split(jax.random.key(3), 8))
    decode = jax.jit(jax.vmap(lambda z: contract.decode(model, variables, z)))
    left = np.square((decode(z) - x[None]) / std.reshape(1, 1, 1, 1, 1, -1))[:, :, 1:].mean()
    np.testing.assert_allclose(left, level / beta, rtol=0.02)


def _solve(variance_D, num_latents, beta):
    """Finds the smallest e with e = water-filling(beta e), on a grid."""
    e_N = np.geomspace(1e-9, variance_D.sum(), 200001)
    kept_N = np.minimum(variance_D[:num_latents], beta * e_N[:, None]).sum(1)
    left_N = (kept_N + variance_D[num_latents:].sum()) / len(variance_D) - e_N
    return e_N[np.argmax(left_N <= 0)]


def test_the_first_frame_has_a_map_of_its_own_and_taps_reach_back():
    """Gradients of a latent by the blocks before it: NUM_TAPS blocks, newest first."""
    layer = block_pca.TemporalTaps(2)
    x = jax.random.normal(jax.random.key(0), (1, 8, 1, 1, 3))
    params = layer.init(jax.random.key(1), x, None)

    def see(t):
        gradient = jax.jit(jax.grad(lambda x: layer.apply(params, x, None)[0][0, t].sum()))(x)
        return np.flatnonzero(np.abs(gradient).sum((0, 2, 3, 4)))

    np.testing.assert_array_equal(see(0), [0])
    np.testing.assert_array_equal(see(2), [0, 1, 2])
    np.testing.assert_array_equal(see(7), [3, 4, 5, 6, 7])


def test_more_components_than_a_block_has_are_refused():
    model = make_model(stem="pca", widths=(4,), components=129)
    with pytest.raises(ValueError, match=r"components=129: must be between 1 and 128"):
        init_variables(model, jax.random.key(0))
