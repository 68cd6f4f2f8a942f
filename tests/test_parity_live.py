"""Imported models against diffusers itself, element by element; needs the extra `parity`.

diffusers builds each model with random weights and saves it, vvae loads it, and both run on the
same video. In float64 they differ only by rounding.
"""

import contextlib
import functools
import json

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra parity: pip install '.[parity]'")
pytest.importorskip("diffusers", reason="needs the extra parity: pip install '.[parity]'")

import diffusers
import torch
from conftest import SHARED_DATA
from diffusers.models import attention_processor, embeddings, normalization
from diffusers.models.autoencoders import (
    autoencoder_kl_cosmos,
    autoencoder_kl_mochi,
    autoencoder_vidtok,
)
from published import (
    OWN,
    RELEASES,
    SETTINGS,
    assert_same,
    find_class,
    make_model,
    make_video,
    run_ours,
    run_reference,
)

from benchmarks import torch_tiny
from vvae.models import contract
from vvae.pretrained import folder as folders
from vvae.pretrained.load import build_network, load_pretrained, save_pretrained

torch.set_num_threads(1)
TAEF2 = SHARED_DATA / "weights" / "taef2_encoder.pth"
BUFFERS = ("latents_mean", "latents_std", "bn.running_mean", "bn.running_var")
BUFFERS += ("bn.num_batches_tracked",)
# Frames of whole latent frames, where 5 or 9 are not.
WHOLE = {"taehv_patch": 9, "cogvideox": 9, "mochi_deep": 7}
WHOLE |= {"vidtok_centred": 16, "vidtok_centred_fsq": 16}
# Several lengths for one model, 9 frames for the others, and a single frame for Wan 2.2.
LENGTHS = [("wan21", length) for length in (1, 5, 9, 13, 17, 21)]
LENGTHS += [(name, WHOLE.get(name, 9)) for name in SETTINGS if name != "wan21"] + [("wan22", 1)]


@functools.cache
def make_pair(name, folder):
    """Returns (model of diffusers, our model, our variables) of one of SETTINGS."""
    reference = make_model(name)
    reference.save_pretrained(folder)
    return reference, *load_pretrained(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return lambda name: make_pair(name, root / name)


def double(reference, model, params):
    """Returns the same in float64, for use under jax.enable_x64."""
    exact = type(reference).from_config(reference.config).eval().requires_grad_(False).double()
    exact.load_state_dict(reference.state_dict())
    return exact, model.clone(dtype=np.dtype("float64")), jax.tree.map(np.float64, params)


class _Float64Torch:
    """The module torch, but with float64 as its float32."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def keep_float64(monkeypatch):
    """Keeps float64 in diffusers where it rounds to float32.

    It does so before pixels are repeated or interpolated, in norms, in the embedding of a timestep,
    in the sines of pixels, and in the coefficients of wavelets.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    rounding = (attention_processor, embeddings, normalization)
    for module in (*rounding, autoencoder_vidtok, autoencoder_kl_mochi):
        monkeypatch.setattr(module, "torch", _Float64Torch())
    wavelet = torch.full((2,), 0.5, dtype=torch.float64).sqrt()
    monkeypatch.setitem(autoencoder_kl_cosmos._WAVELETS, "haar", wavelet)


@contextlib.contextmanager
def float64_constants():
    """Keeps constants that diffusers computes from integers, for finite scalars, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("name", "length"), LENGTHS)
def test_float64_is_the_same(pair, keep_float64, name, length):
    with jax.enable_x64(True):
        reference, model, params = double(*pair(name))
        x = make_video(length).astype(np.float64)
        with float64_constants():
            expected = run_reference(reference, x)
        assert_same(run_ours(model, params, x, expected), expected, 1e-10)


@pytest.mark.parametrize("name", SETTINGS)
def test_float32_is_the_same(pair, name):
    reference, model, params = pair(name)
    x = make_video(WHOLE.get(name, 5), size=(32, 16))
    expected = run_reference(reference, x)
    # The norms of hunyuan_deep have groups of few numbers: the float32 gradient of diffusers is
    # 2e-4 standard deviations from its own in float64, and ours 1e-4.
    tolerance = 5e-4 if name == "hunyuan_deep" else 1e-4
    assert_same(run_ours(model, params, x, expected), expected, tolerance)


@pytest.mark.parametrize("length", [2, 3, 4, 7])
def test_other_lengths_are_those_of_the_video_with_its_last_frame_repeated(pair, length):
    """diffusers drops frames after the last whole group of four; vvae keeps them."""
    reference, model, params = pair("wan21")
    x = make_video(length)
    padded = np.concatenate([x, *[x[:, -1:]] * (-(length - 1) % 4)], axis=1)
    expected = run_reference(reference, padded)
    found = contract.encode(model, params, x)
    y = contract.decode(model, params, found.mean, x.shape[1:4])
    assert_same(
        {"mean": np.asarray(found.mean), "y": np.asarray(y)},
        {"mean": expected["mean"], "y": expected["y"][:, :length]},
        1e-4,
    )


def test_diffusers_decodes_other_first_frames_of_mochi_than_its_authors(pair):
    """It drops surplus frames after the last step alone; ours are those of the authors' code."""
    reference, model, params = pair("mochi_deep")
    z = np.random.default_rng(0).normal(size=(1, 3, 2, 2, 3)).astype(np.float32)
    y = np.asarray(contract.decode(model, params, z))
    latents = torch.from_numpy(np.moveaxis(z, -1, 1).copy())
    theirs = np.moveaxis(reference.decode(latents).sample.numpy(), 1, -1)
    assert theirs.shape == y.shape == (1, 13, 16, 16, 3)
    assert np.abs(theirs - y)[:, 0].max() > 0.1 * y.std()


@pytest.mark.parametrize("name", [name for name, (kind, _) in SETTINGS.items() if kind not in OWN])
def test_diffusers_loads_what_we_write(pair, name, tmp_path):
    reference, model, params = pair(name)
    save_pretrained(tmp_path / "ours", model, params)
    kind = find_class(read_class(tmp_path / "ours"))
    again, report = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = reference.state_dict()
    assert again.state_dict().keys() == state.keys()
    for key, value in again.state_dict().items():
        assert torch.equal(value, state[key]), key
    # from_pretrained maps the file into memory, where tensors may begin anywhere; for other
    # alignments PyTorch chooses other kernels, which round differently.
    for tensor in (*again.parameters(), *again.buffers()):
        tensor.data = tensor.data.clone()
    x = make_video(WHOLE.get(name, 5))
    expected = run_reference(reference, x)
    assert_same(run_reference(again.eval().requires_grad_(False), x), expected, 0.0)


@pytest.mark.parametrize("name", RELEASES)
def test_published_networks_have_the_tensors_of_diffusers(name):
    """Names and shapes at full size, without allocating memory."""
    kind, settings = RELEASES[name]
    with torch.device("meta"):
        reference = find_class(kind)(**settings)
    record = {"_class_name": kind} | dict(reference.config)
    if record.get("latents_mean") is None:
        record |= {f"_latents_{part}": [1.0] * 128 for part in ("mean", "std")}
    model = build_network(json.dumps(record))
    shapes = jax.eval_shape(functools.partial(contract.init_variables, model), jax.random.key(0))
    shapes["params"].pop("log_sigma")
    found = {
        folders.tensor_name(path): folders.tensor_shape(path, leaf.shape)
        for path, leaf in folders.list_paths(shapes["params"]).items()
    }
    expected = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    for buffer in BUFFERS:
        expected.pop(buffer, None)
    assert found == expected


def read_class(folder):
    return folders.read_config(folder)["_class_name"]


def test_noise_is_distributed_as_that_of_diffusers(tmp_path):
    """Mean and standard deviation of each decoded value over draws of the noise are equal."""
    reference, rng = make_model("ltx_noisy"), np.random.default_rng(0)
    for name, parameter in reference.named_parameters():
        if "per_channel_scale" in name:
            parameter.copy_(torch.from_numpy(0.3 * rng.normal(size=parameter.shape)))
    reference.save_pretrained(tmp_path)
    model, params = load_pretrained(tmp_path)
    z = rng.normal(size=(1, 2, 3, 3, 5)).astype(np.float32)
    torch.manual_seed(0)
    latents, timestep = torch.from_numpy(np.moveaxis(z, -1, 1).copy()), torch.full((1,), 0.05)
    expected = np.stack([reference.decode(latents, timestep).sample.numpy() for _ in range(400)])
    expected = np.moveaxis(expected, 2, -1)

    @jax.jit
    def draw(key):
        return model.apply(params, z, method="decode", rngs={"noise": key})

    found = np.stack([draw(key) for key in jax.random.split(jax.random.key(0), 400)])
    error = np.sqrt((expected.var(0) + found.var(0)) / 400)
    z_scores = (found.mean(0) - expected.mean(0)) / error
    assert 0.8 < z_scores.std() < 1.2
    ratio = found.std(0) / expected.std(0)
    assert abs(np.median(ratio) - 1) < 0.02 and ratio.std() < 0.1


@pytest.mark.skipif(not TAEF2.is_file(), reason=f"{TAEF2} is missing: real published weights")
def test_real_weights_of_taef2_compute_the_same():
    """The same network in PyTorch, with the weights as PyTorch reads them, on noise."""
    model, params = load_pretrained(TAEF2)
    reference = torch_tiny.TAESD(64, 32, (1, 3, 3, 3)).eval().requires_grad_(False)
    state = {}
    for side, shift in (("encoder", 0), ("decoder", 1)):
        stored = torch.load(TAEF2.with_name(f"taef2_{side}.pth"), weights_only=True)
        for name, value in stored.items():
            number, _, rest = name.partition(".")
            state[f"{side}.layers.{int(number) - shift}.{rest}"] = value.float()
    reference.load_state_dict(state)
    x = make_video(1, size=(40, 24))
    expected = run_reference(reference, x)
    assert_same(run_ours(model, params, x, expected), expected, 1e-4)


@pytest.mark.slow
def test_full_size_wan_is_the_same(tmp_path):
    """126.9 M random parameters, 5 frames of 64x64; values only, as tiny models test gradients."""
    torch.manual_seed(0)
    reference = diffusers.AutoencoderKLWan().eval().requires_grad_(False)
    assert sum(p.numel() for p in reference.parameters()) == 126_892_531
    reference.save_pretrained(tmp_path)
    model, params = load_pretrained(tmp_path)
    x = make_video(5, size=(64, 64))
    expected = run_reference(reference, x)
    posterior = jax.jit(contract.encode, static_argnums=0)(model, params, x)
    y = jax.jit(contract.decode, static_argnums=0)(model, params, expected["mean"])
    found = {"mean": posterior.mean, "logvar": posterior.logvar, "y": y}
    found = {name: np.asarray(value) for name, value in found.items()}
    assert_same(found, {name: expected[name] for name in found}, 1e-4)
