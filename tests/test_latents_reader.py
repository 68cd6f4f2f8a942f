"""Reading stores: any clip at once, shuffled batches that one integer continues, slices, grain."""

import itertools
import pickle
import shutil

import numpy as np
import pytest
from tfrecords import read_examples
from tiny_latents import encode, write_videos

from vvae import latents
from vvae.latents import dataset as reading
from vvae.latents import posterior
from vvae.latents.encode import Work
from vvae.latents.exports.export import export_store
from vvae.latents.shards import PartWriter, Shard, read_part, write_shard
from vvae.pretrained import pytorch_files

LENGTHS = {f"{number}": (5, 5, 3)[number % 3] for number in range(11)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = write_videos(tmp_path_factory.mktemp("videos"), LENGTHS)
    work = Work(latents_per_piece=2, shard_bytes=1500)
    out = tmp_path_factory.mktemp("store") / "store"
    return encode(folder, out, work=work)[1]


def test_clips_are_found_by_number_over_shards(dataset):
    assert len(dataset) == 11 and len(list((dataset.folder / "shards").iterdir())) > 2
    records = list(dataset.records())
    for index in (0, 3, 10, -1):
        clip = dataset[index]
        assert clip["record"] == records[index] == dataset.record(index)
        assert list(clip["mean"].shape) == clip["record"]["shape"]
    for index in (11, -12):
        with pytest.raises(IndexError, match="the store has 11"):
            dataset[index]
    assert sum(1 for _ in dataset) == 11


def test_slices_in_time_are_those_of_the_clip(dataset):
    whole, part = dataset[0], dataset.read(0, slice(1, 3))
    for name in ("mean", "std"):
        np.testing.assert_array_equal(part[name], whole[name][1:3])


def take(dataset, count, **options):
    return list(dataset.batches(3, count=count, **options))


def test_an_epoch_takes_each_clip_once_and_one_integer_continues_it(dataset):
    # Of 8 and 3 clips of two shapes, 2 + 1 batches are filled.
    whole = take(dataset, 9, seed=4)
    for start in range(0, 9, 3):
        epoch = whole[start : start + 3]
        seen = np.concatenate([batch["index"] for batch in epoch])
        assert len(set(seen)) == 9
        for batch in epoch:
            assert len({tuple(record["shape"]) for record in batch["records"]}) == 1
            assert batch["latents"].shape == (3, *batch["records"][0]["shape"])
    assert [batch["position"] for batch in whole] == list(range(1, 10))
    for position in (1, 3, 7):
        rest = take(dataset, 9 - position, seed=4, position=position)
        for batch, expected in zip(rest, whole[position:], strict=True):
            np.testing.assert_array_equal(batch["latents"], expected["latents"])
            np.testing.assert_array_equal(batch["index"], expected["index"])
    order = [tuple(batch["index"]) for batch in whole]
    assert order[:3] != order[3:6]
    assert order != [tuple(batch["index"]) for batch in take(dataset, 9, seed=5)]


def test_samples_are_new_in_every_epoch_and_modes_are_not(dataset):
    batches = list(itertools.islice(dataset.batches(3, seed=1), 6))
    by_epoch = [
        {int(i): z for b in part for i, z in zip(b["index"], b["latents"], strict=True)}
        for part in (batches[:3], batches[3:])
    ]
    shared = by_epoch[0].keys() & by_epoch[1].keys()
    assert shared
    for index in shared:
        clip = dataset[index]
        for z in (by_epoch[0][index], by_epoch[1][index]):
            noise = (z - clip["mean"]) / clip["std"]
            assert 0.3 < noise.std() < 2.0
        assert (by_epoch[0][index] != by_epoch[1][index]).any()
    for batch in take(dataset, 3, read=reading.read_mode):
        expected = np.stack([dataset[int(index)]["mean"] for index in batch["index"]])
        np.testing.assert_array_equal(batch["latents"], expected)
    with pytest.raises(ValueError, match="the largest group has 8"):
        next(dataset.batches(9))


def test_noise_is_standard_normal_and_the_clip_s_own():
    noise = posterior.draw_noise(1, "a", (20_000,))
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    other = posterior.draw_noise(1, "b", (20_000,))
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.03
    np.testing.assert_array_equal(noise, posterior.draw_noise(1, "a", (20_000,)))


def test_other_processes_get_a_copy_by_pickle(dataset):
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy[5]["mean"], dataset[5]["mean"])


def test_grain_shuffles_and_batches_a_store(dataset):
    grain = pytest.importorskip("grain")
    source = (
        grain.MapDataset.source(dataset)
        .shuffle(seed=3)
        .filter(lambda clip: clip["record"]["shape"][0] == 3)
        .map(lambda clip: clip["mean"])
    )
    batches = list(source.to_iter_dataset().batch(2))
    assert [batch.shape for batch in batches] == [(2, 3, 2, 2, 3)] * 4
    expected = [clip["mean"] for clip in dataset if clip["record"]["shape"][0] == 3]
    found = np.concatenate(batches)
    assert sorted(array.tobytes() for array in found) == sorted(a.tobytes() for a in expected)


def test_shards_that_are_missing_leave_the_others(dataset, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(dataset.folder, store)
    first = sorted((store / "shards").iterdir())[0]
    lost = len(Shard(first).read_records())
    first.unlink()
    assert len(latents.open(store)) == 11 - lost


# --- real latents --------------------------------------------------------------------------------


def test_real_wan_latents_are_stored_measured_and_exported_bit_by_bit(
    shared_data, dataset, tmp_path
):
    safetensors = pytest.importorskip("safetensors")
    pytest.importorskip("google_crc32c")
    stored = pytorch_files.read_tensors(shared_data("weights") / "wan21_latents.pth")
    (z_CTHW,) = stored[""]
    assert z_CTHW.shape == (16, 16, 40, 64)
    z_thwZ = np.ascontiguousarray(np.moveaxis(z_CTHW, 0, -1))
    record = dataset.record(0) | {
        "dtype": "bfloat16",
        "encoded_size": [320, 512],
        "original_size": [320, 512],
        "frames": {"start": 0, "step": 1, "count": 61},
    }
    with PartWriter(tmp_path / "wan.part", "bfloat16") as part:
        for start in range(0, 16, 5):
            rows = z_thwZ[start : start + 5]
            part.append(rows, np.zeros_like(rows))
        part.end_clip(record)
        part.commit({"name": "wan", "clips": 1, "error": None, "left_out": 0})
    store = tmp_path / "store"
    shutil.copytree(dataset.folder, store, ignore=lambda folder, names: [
        name for name in names if name.endswith(".safetensors")
    ])  # fmt: skip
    collection = (store / "collection.json").read_text()
    (store / "collection.json").write_text(
        collection.replace('"CausalVideoVAE"', '"AutoencoderKLWan"')
    )
    path = dataset._store.shard_path(0).name
    write_shard(store / "shards" / path, [read_part(tmp_path / "wan.part")], {})
    opened = latents.open(store)
    np.testing.assert_array_equal(opened[0]["mean"], z_thwZ)
    statistics = opened.statistics()
    mean, std = (np.array(statistics[name]) for name in ("mean", "std"))
    overall = np.sqrt(np.mean(std**2 + (mean - mean.mean()) ** 2))
    # As published with the latents: mean .028, deviation .942.
    assert (round(mean.mean(), 3), round(overall, 3)) == (0.028, 0.942)
    export_store(store, tmp_path / "musubi", "musubi")
    (file,) = (tmp_path / "musubi").iterdir()
    assert file.name.endswith("_00000-061_0512x0320_wan.safetensors")
    with safetensors.safe_open(file, framework="numpy") as opened_file:
        np.testing.assert_array_equal(opened_file.get_tensor("latents_16x40x64_bfloat16"), z_CTHW)
    video = opened.record(0)["source"]["name"]
    np.save((tmp_path / video).with_suffix(".npy"), np.ones((2, 3), np.float32))
    export_store(store, tmp_path / "maxdiffusion", "maxdiffusion", text=tmp_path)
    (example,) = read_examples(tmp_path / "maxdiffusion" / "16x16x40x64" / "file_00000.tfrec")
    # A sample of a posterior without width is its mean.
    np.testing.assert_array_equal(example["latents"], z_CTHW.astype(np.float32))
