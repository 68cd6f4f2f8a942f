"""Exports of stores to the formats of trainers, read by others than their writer.

The readers are written from what the trainers' own readers do, on the packages that they use:
protobuf for TFRecords, pyarrow, safetensors, and PyTorch where it is installed.
"""

import io
import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from tfrecords import read_examples
from tiny_latents import encode, find_clip, write_videos

from vvae import latents
from vvae.latents.exports import torch_files
from vvae.latents.exports.export import FORMATS, export_store
from vvae.latents.plan import ClipPlan
from vvae.pretrained.load import load_pretrained

LENGTHS = {"a": 9, "b": 5, "d/c": 9}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Returns a store of latents of a Wan VAE of random weights, with captions."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder, LENGTHS, size=(16, 24))
    rows = [f"{name}.npy,a {name} falls" for name in LENGTHS]
    (folder / "manifest.csv").write_text("\n".join(["path,caption", *rows]) + "\n")
    out = tmp_path_factory.mktemp("store") / "store"
    encode(folder, out, network=load_pretrained("tests/golden/wan21"))
    return out


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "d").mkdir()
    for number, name in enumerate(LENGTHS):
        np.save(folder / f"{name}.npy", np.full((4, 6), number, np.float16))
    return folder


def first(array):
    return np.moveaxis(array, -1, 0)


def load_torch(path):
    """Reads a file as torch.load does: with PyTorch if it is there, else by pickle."""
    try:
        import torch
    except ImportError:
        return load_without_torch(path)
    return torch.load(path, weights_only=True)


STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive):
        super().__init__(io.BytesIO(archive.read("archive/data.pkl")))
        self.archive = archive

    def persistent_load(self, place):
        kind, dtype, key, device, size = place
        assert (kind, device) == ("storage", "cpu")
        array = np.frombuffer(self.archive.read(f"archive/data/{key}"), dtype)
        assert array.size == size
        return array

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch":
            return STORAGES[name]
        assert (module, name) == ("torch._utils", "_rebuild_tensor_v2")
        return self.rebuild

    @staticmethod
    def rebuild(storage, offset, size, stride, requires_grad, hooks):
        assert not requires_grad and not hooks
        array = storage[offset:]
        bytes_ = [step * array.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(array, size, bytes_)


def load_without_torch(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.read("archive/version") == b"3\n"
        return _Unpickler(archive).load()


def as_array(tensor):
    """Returns a tensor of either loader as float32."""
    return tensor.float().numpy() if hasattr(tensor, "float") else np.asarray(tensor, np.float32)


# --- maxdiffusion --------------------------------------------------------------------------------


def test_maxdiffusion_reads_samples_and_embeddings(store, text, tmp_path):
    pytest.importorskip("google_crc32c")
    exported = export_store(store, tmp_path / "out", "maxdiffusion", text=text, seed=5)
    assert exported.shapes == {(3, 3, 4, 6): 2, (3, 2, 4, 6): 1}
    files = [p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert sorted(map(str, files)) == [
        "3x2x4x6/file_00000.tfrec",
        "3x3x4x6/file_00000.tfrec",
    ]

    found = {}
    for file in files:
        for values in read_examples(tmp_path / "out" / file):
            assert set(values) == {"latents", "encoder_hidden_states"}
            assert values["encoder_hidden_states"].shape == (4, 6)
            found[values["encoder_hidden_states"][0, 0]] = values["latents"]
    dataset = latents.open(store)
    for number, name in enumerate(LENGTHS):
        clip = find_clip(dataset, f"{name}.npy")
        noise = latents.draw_noise(5, clip["record"]["key"], clip["mean"].shape)
        expected = latents.sample(clip["mean"], clip["std"], noise)
        np.testing.assert_array_equal(found[number], first(expected))


# --- the others ----------------------------------------------------------------------------------


def test_fastvideo_reads_raw_means_in_float32(store, text, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export_store(store, tmp_path / "out", "fastvideo", text=text)
    table = parquet.read_table(tmp_path / "out" / "3x3x4x6" / "worker_0" / "data_chunk_0.parquet")
    rows = {row["file_name"]: row for row in table.to_pylist()}
    dataset = latents.open(store)
    assert set(rows) == {"a.npy", "d/c.npy"}
    for name, row in rows.items():
        # Its reader: np.frombuffer(bytes, float32).reshape(shape), whatever the dtype says.
        found = np.frombuffer(row["vae_latent_bytes"], np.float32).reshape(row["vae_latent_shape"])
        np.testing.assert_allclose(found, first(dataset.raw(find_clip(dataset, name))), rtol=1e-6)
        assert row["text_embedding_shape"] == [4, 6] and row["num_frames"] == 3
        assert (row["width"], row["height"], row["fps"]) == (24, 16, 25.0)
        assert row["caption"] == f"a {name.removesuffix('.npy')} falls"
        assert row["media_type"] == "video" and row["duration_sec"] == pytest.approx(9 / 25)


def test_musubi_reads_normalised_means_in_bfloat16(store, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    export_store(store, tmp_path / "out", "musubi")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "a_00000-009_0024x0016_wan.safetensors",
        "b_00000-005_0024x0016_wan.safetensors",
        "c_00000-009_0024x0016_wan.safetensors",
    ]
    with safetensors.safe_open(tmp_path / "out" / names[0], framework="numpy") as file:
        assert list(file.keys()) == ["latents_3x4x6_bfloat16"]
        found = file.get_tensor("latents_3x4x6_bfloat16")
        assert file.metadata() == {
            "architecture": "wan",
            "width": "24",
            "height": "16",
            "frame_count": "9",
            "format_version": "1.0.1",
        }
    mean = find_clip(latents.open(store), "a.npy")["mean"]
    np.testing.assert_array_equal(found, first(mean).astype(ml_dtypes.bfloat16))


def test_ltx2_reads_normalised_means_and_sizes_of_latents(store, tmp_path):
    export_store(store, tmp_path / "out", "ltx2")
    root = tmp_path / "out" / ".precomputed" / "latents"
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*.pt")) == [
        "a.pt",
        "b.pt",
        "d/c.pt",
    ]
    value = load_torch(root / "d" / "c.pt")
    sizes = {name: value[name] for name in ("num_frames", "height", "width", "fps")}
    assert sizes == {"num_frames": 3, "height": 4, "width": 6, "fps": 25.0}
    assert "bfloat16" in str(value["latents"].dtype)
    mean = find_clip(latents.open(store), "d/c.npy")["mean"]
    expected = first(mean).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(as_array(value["latents"]), expected)


def test_finetrainers_reads_moments_and_the_reciprocal_of_the_deviation(store, tmp_path):
    export_store(store, tmp_path / "out", "finetrainers")
    folder = tmp_path / "out" / "finetrainers-precomputed-data"
    dataset = latents.open(store)
    for index in range(len(dataset)):
        value = {k: as_array(v) for k, v in load_torch(folder / f"latent-{index}.pt").items()}
        clip = dataset[index]
        moments = value["latents"]
        assert moments.shape == (1, 6, *clip["mean"].shape[:3])
        np.testing.assert_allclose(moments[0], first(dataset.moments(clip)), rtol=1e-5)
        # Its trainer: (mean - latents_mean) * latents_std.
        lift = (-1, 1, 1, 1)
        normal = (moments[0, :3] - value["latents_mean"].reshape(lift)) * value[
            "latents_std"
        ].reshape(lift)
        np.testing.assert_allclose(normal, first(clip["mean"]), atol=1e-5)


def test_automodel_reads_its_list_and_its_files(store, text, tmp_path):
    out = tmp_path / "out"
    export_store(store, out, "automodel", text=text)
    shards = json.loads((out / "metadata.json").read_text())["shards"]
    items = [item for name in shards for item in json.loads((out / name).read_text())]
    assert len(items) == 3
    for item in items:
        assert out.absolute() in type(out)(item["cache_file"]).parents
        value = load_torch(item["cache_file"])
        assert as_array(value["video_latents"]).shape[:2] == (1, 3)
        assert as_array(value["text_embeddings"]).shape == (1, 4, 6)
        assert item["bucket_resolution"] == [24, 16] and value["prompt"].endswith(" falls")
        assert value["first_frame"] is None and value["deterministic_latents"] is True
        mean = find_clip(latents.open(store), item["video_path"])["mean"]
        expected = first(mean).astype(np.float16)
        np.testing.assert_array_equal(as_array(value["video_latents"])[0], expected)


@pytest.mark.parametrize("load", [load_without_torch, load_torch])
def test_files_for_torch_hold_any_structure(tmp_path, load):
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(2, 3, 4)).astype(dtype)
        for dtype in (np.float32, np.float16, ml_dtypes.bfloat16)
    ]
    value = {
        "tensors": [*arrays, np.arange(3), np.float32([[1]])],
        "pair": (1, -(2**40)),
        "text": "Straße",
        "empty": [{}, (), None, True, False, 0.5],
    }
    torch_files.save(tmp_path / "x.pt", value)
    found = load(tmp_path / "x.pt")
    for expected, tensor in zip(value["tensors"], found["tensors"], strict=True):
        assert tuple(tensor.shape) == expected.shape
        np.testing.assert_array_equal(as_array(tensor), np.asarray(expected, np.float32))
    assert {k: found[k] for k in ("pair", "text", "empty")} == {
        k: value[k] for k in ("pair", "text", "empty")
    }
    first_bytes = (tmp_path / "x.pt").read_bytes()
    torch_files.save(tmp_path / "x.pt", value)
    assert (tmp_path / "x.pt").read_bytes() == first_bytes
    with pytest.raises(TypeError, match="set has no place"):
        torch_files.save(tmp_path / "y.pt", {"a": {1}})
    assert not (tmp_path / "y.pt").exists()


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(store, text, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no format 'kohya': choose maxdiffusion"):
        export_store(store, out, "kohya")
    for name in FORMATS:
        if FORMATS[name].needs_text:
            with pytest.raises(ValueError, match="embeddings of captions"):
                export_store(store, out, name)
    (text / "b.npy").rename(text / "hidden.npy")
    with pytest.raises(ValueError, match=r"b.npy: the embeddings cannot be read"):
        export_store(store, out, "automodel", text=text)
    (text / "hidden.npy").rename(text / "b.npy")
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with pytest.raises(ValueError, match="exists: give the name of a new folder"):
        export_store(store, out, "ltx2")


def test_videos_of_a_list_stay_below_the_folder_and_two_of_one_name_are_refused(tmp_path):
    folder = write_videos(tmp_path / "videos", {"a": 5})
    write_videos(folder / "d", {"a": 5}, seed=1)
    (folder / "list.csv").write_text(f"path\n{folder}/a.npy\nd/../d/a.npy\n")
    encode(folder / "list.csv", tmp_path / "store")
    export_store(tmp_path / "store", tmp_path / "out", "ltx2")
    written = sorted(path for path in tmp_path.rglob("*.pt"))
    place = tmp_path / "out" / ".precomputed" / "latents"
    assert written == [place / "d/a.pt", place / str(folder).lstrip("/") / "a.pt"]
    (folder / "d" / "list.csv").write_text("path\na.npy\n../a.npy\n")
    encode(folder / "d" / "list.csv", tmp_path / "other")
    with pytest.raises(ValueError, match=r"\.\./a\.npy and a\.npy would be one file"):
        export_store(tmp_path / "other", tmp_path / "again", "ltx2")


def test_encoders_and_names_that_a_format_has_no_place_for_are_refused(tmp_path):
    folder = write_videos(tmp_path / "videos", {"a": 5})
    encode(folder, tmp_path / "own")
    for name in ("musubi", "automodel"):
        with pytest.raises(ValueError, match="no cache for latents of CausalVideoVAE"):
            export_store(tmp_path / "own", tmp_path / "out", name, text=tmp_path)
    export_store(tmp_path / "own", tmp_path / "out", "ltx2")
    write_videos(folder / "d", {"a": 5}, seed=1)
    network = load_pretrained("tests/golden/wan21")
    encode(folder, tmp_path / "store", network=network, plan=ClipPlan(frames=(5,)))
    with pytest.raises(ValueError, match=r"a.npy and d/a.npy: musubi-tuner tells"):
        export_store(tmp_path / "store", tmp_path / "wan", "musubi")
