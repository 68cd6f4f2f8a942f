"""The exported encoder against the model, in a process that does not import vvae."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_causal import make_named, make_video
from tiny_vae import make_variables as make_sequential_variables

from vvae.models import contract
from vvae.models.sequential import SequentialVAE
from vvae.tasks.storage.encoder import PLATFORMS, export_encoder, write_encoder

SEQUENTIAL = SequentialVAE((8, 8, 2), widths=(4,), hidden=8, latent_dim=3, clip_latent_dim=2)
RUN = """
import sys, numpy as np, jax.export
encoder = jax.export.deserialize(open("encoder.jax", "rb").read())
out = encoder.call(np.load("video.npy"))
assert not any(name.startswith("vvae") for name in sys.modules)
np.savez("out.npz", **out)
"""
encode = jax.jit(contract.encode, static_argnums=0)


def make(name):
    if name == "sequential":
        return SEQUENTIAL, make_sequential_variables(SEQUENTIAL, -0.2, 0.3)
    return make_named(name)


def run_elsewhere(folder, video_BTHWC):
    np.save(folder / "video.npy", video_BTHWC)
    subprocess.run([sys.executable, "-P", "-c", RUN], cwd=folder, check=True)
    with np.load(folder / "out.npz") as out:
        return dict(out)


def check(outputs, model, params, video_BTHWC):
    posterior = encode(model, params, video_BTHWC)
    expected = {
        f"{level}_{name}": getattr(gaussian, name)
        for level, gaussian in model.level_posteriors(posterior).items()
        for name in ("mean", "logvar")
    }
    expected = expected or {"grid_codes": model.posterior_mean(posterior)}
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("sequential", {"frame_mean", "frame_logvar", "clip_mean", "clip_logvar"}),
        ("standard", {"grid_mean", "grid_logvar"}),
        ("codes", {"grid_codes"}),
        ("wan21", {"grid_mean", "grid_logvar"}),
    ],
)
def test_the_file_gives_the_latents_without_vvae(name, outputs, tmp_path):
    model, params = make(name)
    usage = write_encoder(model, params, 6, tmp_path / "encoder.jax")
    length = "T" if name == "sequential" else "6"
    assert f"uint8 [B, {length}, 8, 8, 2]" in usage
    assert all(f"{output}: float32 [B, " in usage for output in outputs)
    video_BTHWC = make_video(6, batch=3)
    found = run_elsewhere(tmp_path, video_BTHWC)
    assert found.keys() == outputs
    check(found, model, params, video_BTHWC)


@pytest.mark.parametrize("name", ["patch8", "pca", "wan22", "ltx", "vidtok"])
def test_other_grids_of_latents_are_exported_for_any_number_of_clips(name):
    model, params = make_named(name)
    exported = export_encoder(model, params, 5)
    assert exported.platforms == PLATFORMS == ("cpu", "cuda", "tpu")
    for batch in (1, 2):
        video_BTHWC = make_video(5, batch=batch)
        check(exported.call(video_BTHWC), model, params, video_BTHWC)
    with pytest.raises(ValueError, match="Shape mismatch"):
        exported.call(make_video(4, batch=1))


@pytest.mark.parametrize("num_frames", [1, 4, 9])
def test_frame_latents_take_any_number_of_frames(num_frames):
    model, params = make("sequential")
    exported = jax.export.deserialize(export_encoder(model, params, 5).serialize())
    video_BTHWC = make_video(num_frames, batch=2)
    check(exported.call(video_BTHWC), model, params, video_BTHWC)
