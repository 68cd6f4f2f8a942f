"""Published weights: golden parity, folders written back, and errors that say what is wrong."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from published import GOLDEN, GOLDEN_FOLDER, assert_same, run_ours
from safetensors.numpy import load_file, save_file

import vvae
from vvae.latents.encoder import make_encoder
from vvae.models import contract
from vvae.models.bottleneck import ScaledLatents
from vvae.pretrained import folder as folders
from vvae.pretrained import locate, ltx_blocks
from vvae.pretrained.load import is_published, load_pretrained, save_pretrained


@pytest.fixture
def copy_of(tmp_path):
    """Returns a function: name -> a copy of a golden folder, to be damaged."""
    return lambda name: shutil.copytree(GOLDEN_FOLDER / name, tmp_path / name)


def change_config(folder, **changes):
    path = folder / folders.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, change):
    tensors = load_file(folder / folders.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / folders.WEIGHTS)


# --- parity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values_and_gradients(name):
    """They equal what diffusers computed with these weights, in float32."""
    model, params = load_pretrained(GOLDEN_FOLDER / name)
    golden = dict(np.load(GOLDEN_FOLDER / name / "golden.npz"))
    x = golden.pop("x")
    assert_same(run_ours(model, params, x, golden), golden, 1e-4)


def test_golden_files_are_small():
    size = sum(path.stat().st_size for path in GOLDEN_FOLDER.rglob("*") if path.is_file())
    assert size < 4e6


def test_the_latents_come_with_their_mean_and_standard_deviation():
    model, _ = vvae.load_pretrained(GOLDEN_FOLDER / "wan21")
    assert model.bottleneck == ScaledLatents(3, (0.1, -0.2, 0.3), (1.0, 2.0, 0.5))
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
    normalized = model.bottleneck.normalize(z)
    np.testing.assert_allclose(normalized[..., 1], (z[..., 1] + 0.2) / 2.0, rtol=1e-6)
    np.testing.assert_allclose(model.bottleneck.denormalize(normalized), z, rtol=1e-5, atol=1e-6)


def test_the_prior_of_the_latents_has_their_mean_and_standard_deviation():
    """The closed forms equal those of N(0, 1) for normalised latents."""
    bottleneck = ScaledLatents(2, (0.5, -1.0), (2.0, 0.25))
    assert not bottleneck.has_standard_prior
    z = jnp.asarray(np.random.default_rng(0).normal(size=(7, 2)), jnp.float32)
    standard = -0.5 * (bottleneck.normalize(z) ** 2 + np.log(2 * np.pi))
    expected = (standard - np.log([[2.0, 0.25]])).sum(-1)
    np.testing.assert_allclose(bottleneck.log_prior(z), expected, rtol=1e-5)
    draws = np.asarray(bottleneck.sample_prior(jax.random.key(0), (20_000,)))
    np.testing.assert_allclose(draws.mean(0), (0.5, -1.0), atol=0.05)
    np.testing.assert_allclose(draws.std(0), (2.0, 0.25), rtol=0.02)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ((2, (0.0,), (1.0, 1.0)), r"prior_mean=\(0.0,\): must have a number for each of 2"),
        ((2, (0.0, 0.0), (1.0,)), r"prior_std=\(1.0,\): must have a number for each of 2"),
        ((1, (0.0,), (0.0,)), r"prior_std=\(0.0,\)"),
    ],
)
def test_impossible_latents_say_why(settings, text):
    with pytest.raises(ValueError, match=text):
        ScaledLatents(*settings)


def test_latents_of_image_models_come_with_their_published_scale(copy_of):
    folder = copy_of("kl")
    model, _ = load_pretrained(folder)
    assert model.bottleneck == ScaledLatents(3, (0.0,) * 3, (1 / 0.18215,) * 3)
    change_config(folder, scaling_factor=0.3611, shift_factor=0.1159)
    z = jnp.full((1, 3), 2.0)
    normalized = load_pretrained(folder)[0].bottleneck.normalize(z)
    np.testing.assert_allclose(normalized, (z - 0.1159) * 0.3611, rtol=1e-6)
    lists = {"latents_mean": [0.5, 1.0, 2.0], "latents_std": [4.0, 2.0, 1.0]}
    change_config(folder, scaling_factor=0.5, shift_factor=None, **lists)
    model, params = load_pretrained(folder)
    # What generators of such latents multiply and add when they decode: z std / scale + mean.
    restored = model.bottleneck.denormalize(z)
    np.testing.assert_allclose(restored, [[16.5, 9.0, 6.0]], rtol=1e-6)
    save_pretrained(folder.parent / "again", model, params)
    assert load_pretrained(folder.parent / "again")[0] == model


def test_latents_of_flux2_have_the_statistics_of_its_batch_norm():
    model, _ = load_pretrained(GOLDEN_FOLDER / "flux2")
    stored = load_file(GOLDEN_FOLDER / "flux2" / folders.WEIGHTS)
    mean, variance = (stored[f"bn.running_{name}"].astype(np.float32) for name in ("mean", "var"))
    z = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    expected = (z - mean) / np.sqrt(variance + 1e-4)
    np.testing.assert_allclose(model.bottleneck.normalize(z), expected, rtol=1e-5, atol=1e-6)


def test_names_that_attention_had_in_older_versions_are_read(copy_of):
    folder = copy_of("kl")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def change(tensors):
        for new, old in names.items():
            for name in [name for name in tensors if f".attentions.0.{new}." in name]:
                tensors[name.replace(new, old)] = tensors.pop(name)

    change_tensors(folder, change)
    assert "encoder.mid_block.attentions.0.query.weight" in load_file(folder / folders.WEIGHTS)
    expected = load_pretrained(GOLDEN_FOLDER / "kl")[1]
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(folder)[1], expected)
    # Both names at once contradict each other.
    name = "encoder.mid_block.attentions.0.query.bias"
    change_tensors(folder, lambda t: t.update({name.replace("query", "to_q"): t[name]}))
    with pytest.raises(
        ValueError, match=r"to_q\.bias and \S+query\.bias are the same|query\.bias and"
    ):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("kl", {"norm_num_groups": 3}, "norm_num_groups=3: does not divide the channels"),
        ("kl", {"act_fn": "relu"}, "act_fn='relu': must be 'silu'"),
        ("kl", {"down_block_types": ["DownEncoderBlock2D"]}, "must be 'DownEncoderBlock2D', 2 tim"),
        ("kl", {"scaling_factor": 0.0}, r"scaling_factor=0\.0: must be positive"),
        ("kl", {"shift_factor": "a"}, r"shift_factor='a': must have the type of the default, 0\.0"),
        ("kl", {"use_quant_conv": False}, r"extra: quant_conv\.bias, quant_conv\.weight"),
        ("flux2", {"patch_size": [1, 1]}, r"patch_size=\(1, 1\): must be \(2, 2\)"),
        ("flux2", {"decoder_block_out_channels": [4]}, "have different lengths"),
        ("tiny", {"act_fn": "gelu"}, "act_fn='gelu': must be 'relu'"),
        ("tiny", {"num_encoder_blocks": [1]}, r"for each of num_encoder_blocks=\(1,\) and"),
        ("taef2", {"_class_name": "AutoencoderTiny"}, r"extra: .*pool\.0\.weight"),
        ("dc", {"decoder_norm_types": ["batch_norm"] * 2}, "only rms_norm can be read"),
        ("dc", {"encoder_block_types": "UNet"}, "must be among ResBlock, EfficientViTBlock"),
        ("dc", {"encoder_block_types": 3}, "encoder_block_types=3: must have the type of"),
        ("dc", {"upsample_block_type": "pixel"}, "only pixel_shuffle, interpolate are known"),
        ("taehv", {"encoder_time_downscale": [True] * 3}, "as many of them true"),
    ],
)
def test_another_frame_model_says_why(copy_of, name, changes, text):
    folder = copy_of(name)
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=text):
        load_pretrained(folder)


# --- decoders that remove noise ------------------------------------------------------------------


def test_a_decoder_can_be_conditioned_on_another_timestep():
    model, params = load_pretrained(GOLDEN_FOLDER / "ltx_noisy")
    assert model.decoding.timestep == 0.05
    noisier = model.clone(decoding=dataclasses.replace(model.decoding, timestep=0.5))
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 2, 5)), jnp.float32)
    expected = contract.decode(model, params, z)
    assert np.abs(contract.decode(noisier, params, z) - expected).max() > 0.1
    again = model.clone(decoding=dataclasses.replace(noisier.decoding, timestep=0.05))
    np.testing.assert_array_equal(contract.decode(again, params, z), expected)


def test_noise_is_one_value_a_position_times_a_scale_a_channel():
    """In a block whose second convolution returns zeros, x + noise * scale is left."""
    spec = ltx_blocks.BlockSpec(causal=True, epsilon=1e-6, dtype=jnp.float32)
    block = ltx_blocks.ResBlock(features=3, spec=spec, noisy=True)
    x = jax.random.normal(jax.random.key(0), (2, 4, 24, 32, 3))
    params = block.init(jax.random.key(1), x, None)["params"]
    scale = jnp.array([0.5, -1.0, 2.0])
    params["conv2"]["conv"]["kernel"] = jnp.zeros_like(params["conv2"]["conv"]["kernel"])
    params["per_channel_scale2"] = scale.reshape(3, 1, 1)

    def draw(seed=None):
        rngs = None if seed is None else {"noise": jax.random.key(seed)}
        return block.apply({"params": params}, x, None, rngs=rngs)[0] - x

    assert not np.any(draw())
    noise = draw(0) / scale.reshape(1, 1, 1, 1, 3)
    np.testing.assert_allclose(noise, jnp.broadcast_to(noise[:1, :1, ..., :1], x.shape), atol=1e-5)
    assert abs(float(noise[0, 0, ..., 0].std()) - 1) < 0.1
    np.testing.assert_array_equal(draw(0), draw(0))
    assert np.abs(draw(0) - draw(1)).max() > 1


def test_noise_is_added_for_a_key_alone():
    model, params = load_pretrained(GOLDEN_FOLDER / "ltx_noisy")
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 2, 5)), jnp.float32)
    rngs = {"noise": jax.random.key(0)}

    def decode(params, rngs=None):
        return model.apply(params, z, method="decode", rngs=rngs)

    # The golden scales are zero, so they add no noise; nor does a decoder without a key.
    np.testing.assert_array_equal(decode(params, rngs), decode(params))
    block = params["params"]["decoder"]["mid_block"]["resnets.0"]
    block["per_channel_scale1"] = jnp.ones_like(block["per_channel_scale1"])
    assert np.abs(decode(params, rngs) - decode(params)).max() > 0.01


# --- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_a_written_folder_is_the_one_that_was_read(name, tmp_path):
    """Every tensor is equal bit by bit, and so are the model and its variables when read again."""
    model, params = load_pretrained(GOLDEN_FOLDER / name)
    save_pretrained(tmp_path / "out", model, params)
    expected = load_file(GOLDEN_FOLDER / name / folders.WEIGHTS)
    written = load_file(tmp_path / "out" / folders.WEIGHTS)
    assert written.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(written[key], value)
    again, params_again = load_pretrained(tmp_path / "out")
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, params_again, params)


@pytest.mark.parametrize("variant", ["", "fp16"])
@pytest.mark.parametrize("is_indexed", [False, True])
def test_weights_may_lie_in_several_files(copy_of, variant, is_indexed):
    folder = copy_of("wan21")
    index = cut_weights(folder, variant)
    if is_indexed:
        write_index(folder, index, variant)
    assert_golden(folder)


def cut_weights(folder, variant=""):
    """Cuts the weights of a folder into two shards. Returns name of a tensor -> its shard."""
    tensors = load_file(folder / folders.WEIGHTS)
    names, index = sorted(tensors), {}
    stem = ".".join(filter(None, ("diffusion_pytorch_model", variant)))
    for number, part in enumerate((names[:40], names[40:]), 1):
        shard = f"{stem}-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard)
        index |= dict.fromkeys(part, shard)
    (folder / folders.WEIGHTS).unlink()
    return index


def write_index(folder, index, variant=""):
    path = folder / ".".join(filter(None, (folders.WEIGHTS, "index", variant, "json")))
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))


def assert_golden(folder):
    """Checks that a copy of wan21 has its parameters."""
    expected = load_pretrained(GOLDEN_FOLDER / "wan21")[1]
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(folder)[1], expected)


def zero_weights(folder, name):
    """Writes other weights of the same shapes."""
    tensors = load_file(GOLDEN_FOLDER / "wan21" / folders.WEIGHTS)
    save_file({key: np.zeros_like(value) for key, value in tensors.items()}, folder / name)


def test_the_only_variant_is_read_and_the_main_one_before_others(copy_of):
    folder = copy_of("wan21")
    half = folder / "diffusion_pytorch_model.fp16.safetensors"
    (folder / folders.WEIGHTS).rename(half)
    assert_golden(folder)
    half.rename(folder / folders.WEIGHTS)
    zero_weights(folder, half.name)
    assert_golden(folder)
    (folder / folders.WEIGHTS).rename(folder / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(ValueError, match=r"several variants of the weights \(fp16, non_ema\)"):
        load_pretrained(folder)


def test_the_autoencoder_of_a_pipeline_is_read(copy_of, tmp_path):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    copy_of("wan21").rename(tmp_path / "pipeline" / "vae")
    assert_golden(tmp_path / "pipeline")
    assert is_published(tmp_path / "pipeline")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_types_are_read_as_float32(copy_of, dtype):
    folder = copy_of("wan21")
    change_tensors(folder, lambda t: t.update({k: v.astype(dtype) for k, v in t.items()}))
    kernel = load_pretrained(folder)[1]["params"]["decoder"]["conv_in"]["kernel"]
    whole = load_pretrained(GOLDEN_FOLDER / "wan21")[1]["params"]["decoder"]["conv_in"]["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, np.asarray(whole).astype(dtype).astype(np.float32))


def test_only_published_families_with_published_variables_are_written(tmp_path):
    model, params = load_pretrained(GOLDEN_FOLDER / "wan21")
    stats = {"mean": jnp.zeros(3), "std": jnp.full(3, 0.5)}
    with pytest.raises(ValueError, match=r"standardises videos by .*0\.5"):
        save_pretrained(tmp_path / "out", model, params | {"stats": stats})
    with pytest.raises(ValueError, match="CausalVideoVAE has no published form; only WanVAE"):
        save_pretrained(tmp_path / "out", vvae.CausalVideoVAE((8, 8, 3)), params)
    assert not (tmp_path / "out").exists()


# --- errors --------------------------------------------------------------------------------------


def test_missing_extra_and_misshapen_tensors_are_listed(copy_of):
    folder = copy_of("wan21")

    def change(tensors):
        tensors["decoder.third.weight"] = tensors.pop("decoder.conv_in.weight")
        tensors["quant_conv.bias"] = np.zeros(5, np.float32)
        tensors["post_quant_conv.bias"] = np.zeros(3, np.int32)

    change_tensors(folder, change)
    with pytest.raises(ValueError) as error:
        load_pretrained(folder)
    for text in (
        str(folder),
        "missing: decoder.conv_in.weight;",
        "extra: decoder.third.weight;",
        "misshapen: quant_conv.bias is (5,) and should be (6,)",
        "of another type: post_quant_conv.bias (I32)",
    ):
        assert text in str(error.value)


@pytest.mark.parametrize("share", [0.5, 0.999, 0.0001])
def test_a_file_that_is_cut_says_so(copy_of, share):
    path = copy_of("wan21") / folders.WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=rf"{path} cannot be read: \S"):
        load_pretrained(path.parent)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"_class_name": "AutoencoderKLAllegro"},
            "cannot read the class 'AutoencoderKLAllegro': only AutoencoderKLWan",
        ),
        ({"_class_name": None}, "it has no _class_name"),
        ({"window": 3}, "unknown settings of AutoencoderKLWan: window=3"),
        ({"base_dim": "4"}, "base_dim='4': must have the type of the default, 96"),
        ({"z_dim": True}, "z_dim=True: must have the type of the default, 16"),
        ({"is_residual": 1}, "is_residual=1: must have the type of the default, False"),
        ({"num_res_blocks": 0}, "num_res_blocks=0: must be at least 1"),
        ({"attn_scales": [1.0]}, r"attn_scales=\(1.0,\): must be empty"),
        ({"dim_mult": [1, 2]}, "temperal_downsample="),
        ({"latents_std": [1.0]}, r"prior_std=\(1.0,\): must have a number for each of 3"),
        ({"out_channels": 4}, "in_channels=3 and out_channels=4"),
        ({"patch_size": 2}, "whole squares of patch_size=2"),
        ({"base_dim": 3}, r"misshapen: .*decoder.conv_in.weight is \(8, 3, 3, 3, 3\) and should"),
        ({"is_residual": True}, r"missing: .*decoder\.up_blocks\.0\.upsampler\.resample"),
    ],
)
def test_another_config_says_why(copy_of, changes, text):
    folder = copy_of("wan21")
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=text) as error:
        load_pretrained(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("ltx2", {"upsample_type": ["conv", "spatial"]}, "only spatial, temporal and spatiotempor"),
        ("ltx2", {"upsample_type": ["spatial"] * 2}, "do not compress by the same factors"),
        ("ltx2", {"decoder_spatial_padding_mode": "circular"}, "only zeros, replicate, reflect"),
        ("ltx2", {"spatio_temporal_scaling": [True, False]}, "all true"),
        ("hunyuan", {"temporal_compression_ratio": 8}, "temporal_compression_ratio=8 must be 4"),
        ("hunyuan", {"down_block_types": ["A"] * 3}, "must be 'HunyuanVideoDownBlock3D', 3 times"),
        ("hunyuan15", {"spatial_compression_ratio": 3}, "must be powers of two"),
        ("hunyuan15", {"block_out_channels": [8, 8, 6]}, "must be multiples of 8"),
        ("cogvideox", {"use_quant_conv": True}, "use_quant_conv=True: must be False"),
        ("cogvideox", {"temporal_compression_ratio": 8}, "temporal_compression_ratio=8: must be 4"),
        ("qwen21", {"attn_scales": [1.0]}, "attn_scales"),
        ("mochi", {"in_channels": 3}, "in_channels=3: must be 15"),
        ("mochi", {"spatial_expansions": [1]}, r"spatial_expansions=\(1,\): must be \(2,\)"),
        ("mochi", {"layers_per_block": [1]}, r"layers_per_block=\(1,\): must have 3 values"),
        ("mochi", {"encoder_block_out_channels": [32, 48]}, "must be multiples of 32"),
        ("cosmos", {"patch_type": "dct"}, "patch_type='dct': only haar, rearrange"),
        ("cosmos", {"patch_size": 3}, "patch_size=3: must be powers of two"),
        ("cosmos", {"decode_block_out_channels": [4, 4]}, "must have the same number of values"),
        ("cosmos", {"resolution": 64}, "attention in the middle alone can be read"),
        ("cosmos", {"temporal_compression_ratio": 16}, "are too few for spatial_compression_rat"),
        ("cosmos", {"latents_std": [1.0]}, "latents_mean with 9 values and latents_std with 1:"),
        ("magvit", {"spatial_group_norm": False}, "spatial_group_norm=False: must be True"),
        ("magvit", {"up_block_types": ["SpatialUpBlock3D"] * 3}, "compress time by the same facto"),
    ],
)
def test_another_video_model_says_why(copy_of, name, changes, text):
    folder = copy_of(name)
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=text):
        load_pretrained(folder)


def test_latents_of_cosmos_have_a_scale_for_each_frame():
    """The scale of channel c and frame t is number 3 c + t of the lists in config.json."""
    latents = load_pretrained(GOLDEN_FOLDER / "cosmos")[0].bottleneck
    z = np.random.default_rng(0).normal(size=(2, 3, 1, 2, 3)).astype(np.float32)
    order = np.arange(9).reshape(3, 3).T.reshape(1, 3, 1, 1, 3)
    expected = (z - 0.1 * order) / (0.5 + 0.1 * order)
    np.testing.assert_allclose(latents.normalize(z), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(latents.denormalize(latents.normalize(z)), z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(latents.normalize(z[:, :1]), expected[:, :1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"latents of 4 frames: .* for the first 3 alone"):
        latents.normalize(np.zeros((1, 4, 1, 1, 3), np.float32))
    # Overall, channel 0 is an even mixture of N(0, 0.5^2), N(0.1, 0.6^2) and N(0.2, 0.7^2).
    assert latents.prior_mean[0] == pytest.approx(0.1)
    square = (0.25 + 0.36 + 0.49 + 0.01 + 0.04) / 3 - 0.01
    assert latents.prior_std[0] == pytest.approx(np.sqrt(square))


def test_latent_frames_of_a_vidtok_that_is_not_causal_cover_whole_groups():
    model, params = load_pretrained(GOLDEN_FOLDER / "vidtok_centred")
    sizes = {n: model.grid_shape((n, 8, 8))[0] for n in (1, 4, 5, 8, 9, 16)}
    assert sizes == {1: 1, 4: 1, 5: 2, 8: 2, 9: 3, 16: 4}
    assert model.covered_shape((4, 2, 2)) == (16, 8, 8)
    frames = jnp.arange(6)[None]
    assert model.latent_mask(frames < 4).tolist() == [[True, False]]
    assert model.latent_mask(frames[:, :3] > 1).tolist() == [[True]]
    with pytest.raises(ValueError, match="first latent frame of this VidTokVAE covers 4 frames"):
        make_encoder(model, params)


def test_latents_of_cogvideox_come_in_pieces():
    model, params = load_pretrained(GOLDEN_FOLDER / "cogvideox")
    assert model.grid_shape((13, 16, 16)) == (5, 4, 4)
    assert model.latent_mask(jnp.arange(13)[None] < 10).tolist() == [[True] * 4 + [False]]
    with pytest.raises(ValueError, match=r"latents of 4 frames: .* come as 1 \+ 2 n frames"):
        contract.decode(model, params, jnp.zeros((1, 4, 1, 1, 3)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"decoder_inject_noise": [True]}, r"and decoder_inject_noise=\(True,\) do not fit"),
        ({"upsample_factor": [2, 1]}, "where neither timestep conditioning nor noise is possible"),
        ({"timestep_conditioning": False}, r"extra: .*decoder\.mid_block\.time_embedder"),
        ({"decoder_inject_noise": [True] * 3}, r"missing: .*up_blocks.1.*per_channel_scale2"),
    ],
)
def test_another_decoder_of_ltx_says_why(copy_of, changes, text):
    folder = copy_of("ltx_noisy")
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=text):
        load_pretrained(folder)


def test_folders_without_weights_say_so(tmp_path, copy_of):
    with pytest.raises(ValueError, match=r"there is no config\.json; it is empty"):
        load_pretrained(tmp_path)
    (tmp_path / "refs").mkdir()
    with pytest.raises(ValueError, match=r"there is no config\.json; it holds refs"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        load_pretrained(tmp_path)
    folder = copy_of("wan21")
    (folder / folders.WEIGHTS).rename(folder / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"holds no weights, neither diffusion_pytorch_model\.safetensors nor .*; it holds "
        r"config\.json, golden\.npz, model\.safetensors",
    ):
        load_pretrained(folder)
    (folder / "config.json").unlink()
    assert is_published(folder)
    with pytest.raises(ValueError, match=r"no config\.json; it holds golden\.npz, model"):
        load_pretrained(folder)


def test_paths_that_are_no_folders_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such folder$"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"Hub must be downloaded first: hf download Wan-AI/Wan2\.1 "
    ):
        load_pretrained("Wan-AI/Wan2.1")
    file = GOLDEN_FOLDER / "wan21" / folders.WEIGHTS
    # Some authors publish a single file; only reading it tells whether it is one of those.
    assert is_published(file)
    with pytest.raises(ValueError, match=rf"is a file: give the folder .* {file.parent}$"):
        load_pretrained(file)
    note = tmp_path / "note.txt"
    note.write_text("")
    for read in (load_pretrained, is_published):
        with pytest.raises(ValueError, match="is a file: give the folder"):
            read(note)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize("name", [folders.WEIGHTS, folders.CONFIG, locate.INDEX])
def test_pointers_of_git_lfs_say_so(copy_of, name):
    folder = copy_of("wan21")
    (folder / name).write_text(POINTER)
    with pytest.raises(ValueError, match=rf"{folder / name} is a pointer of git-lfs.*git lfs pull"):
        load_pretrained(folder)


def test_an_index_decides_which_files_are_meant(copy_of):
    folder = copy_of("wan21")
    index = cut_weights(folder)
    write_index(folder, index)
    shards = sorted(set(index.values()))
    for stray in (folders.WEIGHTS, shards[0].replace("-of-00002", "-of-00003")):
        zero_weights(folder, stray)
        with pytest.raises(
            ValueError, match=rf"nothing names {stray}, beside the files .*{shards[1]}"
        ):
            load_pretrained(folder)
        (folder / stray).unlink()
    zero_weights(folder, "diffusion_pytorch_model.fp16.safetensors")
    assert_golden(folder)
    (folder / shards[1]).unlink()
    with pytest.raises(
        ValueError, match=rf"files of the weights are missing: {shards[1]}; download"
    ):
        load_pretrained(folder)


def test_an_index_that_does_not_fit_its_files_is_refused(copy_of):
    folder = copy_of("wan21")
    index = cut_weights(folder)
    first, second = sorted(set(index.values()))
    changes = {
        "a.weight is in no file and by the index in": {"a.weight": first},
        f"conv_out.bias is in {first} and by the index in {second}": {
            "decoder.conv_out.bias": second
        },
    }
    for text, change in changes.items():
        write_index(folder, index | change)
        with pytest.raises(ValueError, match=rf"the index does not fit the files: .*{text}"):
            load_pretrained(folder)
    name = min(index)
    write_index(folder, {key: shard for key, shard in index.items() if key != name})
    with pytest.raises(
        ValueError, match=rf"files: {name} is in {first} and by the index in no file"
    ):
        load_pretrained(folder)
    for broken in ({}, {"a": "../a.safetensors"}, {"a": 3}, []):
        write_index(folder, broken)
        with pytest.raises(ValueError, match=r"index\.json is not a readable index of weights"):
            load_pretrained(folder)


def test_shards_without_an_index_must_be_one_complete_set(copy_of):
    folder = copy_of("wan21")
    first, second = sorted(set(cut_weights(folder).values()))
    other = folder / first.replace("-of-00002", "-of-00003")
    shutil.copy(folder / first, other)
    with pytest.raises(ValueError, match=r"shards of several sets \(-of-00002, -of-00003\)"):
        load_pretrained(folder)
    other.rename(folder / folders.WEIGHTS)
    with pytest.raises(ValueError, match=rf"nothing names {first}, {second}, beside"):
        load_pretrained(folder)
    (folder / folders.WEIGHTS).rename(folder / second)
    with pytest.raises(ValueError, match=rf"tensor \S+ is both in {first} and in {second}"):
        load_pretrained(folder)
    (folder / second).unlink()
    with pytest.raises(ValueError, match=rf"files of the weights are missing: {second}"):
        load_pretrained(folder)


def test_a_folder_of_shards_is_not_written_into(copy_of):
    model, params = load_pretrained(GOLDEN_FOLDER / "wan21")
    folder = copy_of("wan21")
    index = cut_weights(folder)
    with pytest.raises(ValueError, match=r"holds other weights \(.*-00001-of-00002.*\): write to"):
        save_pretrained(folder, model, params)
    write_index(folder, index)
    for shard in set(index.values()):
        (folder / shard).unlink()
    with pytest.raises(ValueError, match=rf"holds other weights \({locate.INDEX}\)"):
        save_pretrained(folder, model, params)
    assert not (folder / folders.WEIGHTS).exists()


def test_weights_and_records_are_not_replaced_unasked(copy_of, tmp_path):
    folder = copy_of("wan21")
    model, params = load_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=rf"{folders.WEIGHTS} exists: .* overwrite=True"):
        save_pretrained(folder, model, params)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json exists"):
        save_pretrained(tmp_path / "run", model, params)
    save_pretrained(folder, model, params, overwrite=True)
    _, after = load_pretrained(folder)
    jax.tree.map(np.testing.assert_array_equal, params, after)


def test_latents_of_another_width_say_so():
    model, params = load_pretrained(GOLDEN_FOLDER / "wan21")
    with pytest.raises(ValueError, match=r"\[B, t, h, w, 3\].*\(1, 1, 2, 2, 4\)"):
        contract.decode(model, params, jnp.zeros((1, 1, 2, 2, 4)))
    with pytest.raises(ValueError, match="videos of 3 channels"):
        contract.encode(model, params, jnp.zeros((1, 1, 16, 16, 4)))


# --- evaluate.py ---------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path):
    """A folder of two training videos and a test video, each of three 16x16 frames."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("test", 1)):
        folder = tmp_path / "videos" / split / "noise"
        folder.mkdir(parents=True)
        for number in range(count):
            frames = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
            np.save(folder / f"{number}.npy", frames)
    return tmp_path / "videos"


SMALL = ["--data.height", "16", "--data.width", "16", "--data.num_frames", "3"]


def test_reconstruct_measures_published_weights(copy_of, videos, capsys):
    """The reported error of the test video is that of its reconstruction."""
    import evaluate

    folder = copy_of("wan21")
    arguments = ["reconstruct", "--pretrained", str(folder), "--data.path", str(videos), *SMALL]
    assert evaluate.main(arguments) == 0
    answers = folder / "eval" / "videos"
    assert (answers / "reconstruct.png").exists() and str(answers) in capsys.readouterr().out
    rows = json.loads((answers / "reconstruct.json").read_text())["rows"]
    assert rows.keys() == {"vae", "pca", "mean_frame"}
    x = np.load(videos / "test" / "noise" / "0.npy")[None]
    y = contract.reconstruct(*load_pretrained(folder), x)
    error = (np.clip((np.asarray(y) + 1) * 127.5, 0, 255) - x.astype(np.float64)) ** 2
    assert rows["vae"]["mse"]["value"] == pytest.approx(error.mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["density", "--pretrained", "W", "--data.path", "D"],
            "--pretrained is an option of recon",
        ),
        (["reconstruct", "--pretrained", "W"], "published weights need videos and no run"),
        (
            ["reconstruct", "--workdir", "R", "--data.height", "8"],
            r"--data\.height needs --pretrained",
        ),
    ],
)
def test_what_published_weights_cannot_answer_says_so(arguments, text):
    import evaluate

    with pytest.raises(ValueError, match=text):
        evaluate.main(arguments)
