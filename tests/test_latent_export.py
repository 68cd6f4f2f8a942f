"""Statistics of latents in closed form, and the export of a folder's latents."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from asking import ask
from tiny_causal import make_named, make_video

import vvae
from vvae.config_files import to_dict
from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_dataset
from vvae.inference.statistics import ChannelMoments, as_json, read_statistics
from vvae.models import contract
from vvae.tasks.options import Latents
from vvae.tasks.storage import latents


def measure(parts):
    moments = ChannelMoments()
    for part in parts:
        moments.add(part)
    return moments.finish({"params": "none"})


def test_moments_of_parts_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    # With a mean this large, sums of squares would lose the deviation, even in float64.
    values = 1e8 + rng.normal(size=(7, 3, 4, 2)) * np.array([1.0, 3.0])
    statistics = measure([values[:1], values[1:1], values[1:6], values[6:]])
    flat = values.reshape(-1, 2)
    np.testing.assert_allclose(statistics.mean_Z, flat.mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.std_Z, flat.std(0), rtol=1e-6)
    assert statistics.count == 84


def test_normalised_latents_have_mean_0_and_deviation_1_and_can_be_denormalised():
    z = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4, 5, 3)) * 4 + 2, jnp.float32)
    statistics = measure([np.asarray(z)])
    normal = jax.jit(lambda z: vvae.normalize(statistics, z))(z)
    assert normal.dtype == jnp.float32
    np.testing.assert_allclose(normal.mean((0, 1, 2, 3)), 0.0, atol=1e-5)
    np.testing.assert_allclose(normal.std((0, 1, 2, 3)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(vvae.denormalize(statistics, normal), z, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="have 3 channels, but the latents have shape"):
        vvae.normalize(statistics, z[..., :2])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "no latents were added"),
        ([np.ones((4, 2))], "channel 0 of the latents is constant"),
        ([np.array([[1.0, np.nan]])], "not finite"),
    ],
)
def test_latents_without_statistics_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        measure(parts)


@pytest.fixture
def dataset(tmp_path):
    lengths = {"train": (9, 7, 4), "val": (5,), "test": (6,)}
    for split, counts in lengths.items():
        (tmp_path / "videos" / split).mkdir(parents=True)
        for n, count in enumerate(counts):
            frames = make_video(count, 1, (8, 8), 1, seed=n + count)[0]
            np.save(tmp_path / "videos" / split / f"{n}.npy", frames)
    return open_dataset(
        tmp_path / "videos",
        ClipFormat("gray+difference", 8, 8, Sampling(num_frames=5)),
        Decoding(Cache(tmp_path / "cache", 10**9)),
    )


def test_export_holds_the_latents_their_statistics_and_their_provenance(tmp_path, dataset):
    model, params = make_named("local")
    question = ask(model, params, dataset, tmp_path, batch_size=2, seed=3)
    result = latents.answer(question, Latents())
    assert set(result.files) == {
        *(f"latents/{split}.npy" for split in dataset.splits),
        "latents/latents.json",
    }
    kept = []
    record = json.loads((tmp_path / "latents" / "latents.json").read_text())
    encode = jax.jit(lambda x, mask: contract.encode(model, params, x, mask).mean)
    for split, clips in dataset.splits.items():
        stored = np.load(tmp_path / "latents" / f"{split}.npy")
        expected = np.asarray(encode(clips.read(np.arange(len(clips))), clips.mask_NT))
        np.testing.assert_allclose(stored, expected, atol=1e-5)
        rows = record["splits"][split]
        assert [row["path"] for row in rows] == [clips.videos[v].name for v in clips.video_index_N]
        # Latent frame 0 covers frame 0, which has no difference; latent frame 1 covers the others.
        mask = np.stack([clips.mask_NT[:, 0], clips.mask_NT[:, 1:].any(1)], axis=1)
        assert not mask.all()
        assert [row["latent_frames"] for row in rows] == [np.flatnonzero(m).tolist() for m in mask]
        if split == "train":
            kept = stored[mask]
    flat = kept.reshape(-1, kept.shape[-1]).astype(np.float64)
    statistics = read_statistics(tmp_path / "latents" / "latents.json")
    np.testing.assert_allclose(statistics.mean_Z, flat.mean(0), rtol=1e-10)
    np.testing.assert_allclose(statistics.std_Z, flat.std(0), rtol=1e-10)
    assert statistics.count == len(flat)
    assert (
        record["settings"] == to_dict(question.run.config) and record["data"] == dataset.fingerprint
    )
    assert statistics.provenance["params"] == record["params"]
    with pytest.raises(ValueError, match="has no split 'other'"):
        latents.answer(dataclasses.replace(question, split="other", is_new=True), Latents())


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        '{"statistics": {"mean": [0], "std": [0], "count": 2, "provenance": {}}}',
        '{"statistics": {"mean": [0, 1], "std": [1], "count": 2, "provenance": {}}}',
        '{"statistics": {"mean": [NaN], "std": [1], "count": 2, "provenance": {}}}',
    ],
)
def test_a_file_without_statistics_is_named(tmp_path, content):
    path = tmp_path / "latents.json"
    path.write_text(content)
    with pytest.raises(
        ValueError, match=r"latents.json: (does not hold|holds impossible) statistics"
    ):
        read_statistics(path)
    with pytest.raises(ValueError, match=r"none.json: does not hold statistics"):
        read_statistics(tmp_path / "none.json")


def test_statistics_keep_every_digit(tmp_path):
    statistics = measure([np.random.default_rng(0).normal(size=(9, 3))])
    path = tmp_path / "latents.json"
    path.write_text(json.dumps({"statistics": as_json(statistics)}))
    back = read_statistics(path)
    np.testing.assert_array_equal(back.mean_Z, statistics.mean_Z)
    np.testing.assert_array_equal(back.std_Z, statistics.std_Z)
