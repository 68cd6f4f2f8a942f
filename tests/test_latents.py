"""Stores of latents: exact values, clips, records, and what makes latents valid."""

import json
import shutil
import tarfile
from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny_causal import make_variables
from tiny_latents import encode, find_clip, read_tree, tiny, write_videos

import vvae
from vvae import latents
from vvae.latents import encoder as encoders
from vvae.latents import record as records
from vvae.latents.ahead import run_ahead
from vvae.latents.encode import Work
from vvae.latents.estimate import check_disk
from vvae.latents.plan import ClipPlan, choose_framing, plan_pieces, resample
from vvae.latents.posterior import Scale
from vvae.latents.shards import Shard
from vvae.pretrained.load import load_pretrained
from vvae.run import lock

LENGTHS = {"a": 9, "b": 1, "c": 22, "d/e": 5, "f": 14}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), LENGTHS)


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    return encode(videos, tmp_path_factory.mktemp("whole") / "store")


def encode_whole(model, params, frames_THWC):
    return jax.jit(vvae.encode, static_argnums=0)(model, params, frames_THWC[None])


def test_latents_are_those_of_the_whole_video_for_any_length(videos, whole):
    summary, dataset = whole
    assert len(dataset) == len(LENGTHS) == summary.encoded
    model, params = tiny()
    for name, length in LENGTHS.items():
        clip = find_clip(dataset, f"{name}.npy")
        posterior = encode_whole(model, params, np.load(videos / f"{name}.npy"))
        np.testing.assert_allclose(clip["mean"], posterior.mean[0], atol=2e-5)
        np.testing.assert_allclose(clip["std"], np.exp(0.5 * posterior.logvar[0]), rtol=2e-5)
        assert records.count_frames(clip["record"]) == length


def test_published_latents_are_normalised_and_come_back_in_every_form(tmp_path):
    network = load_pretrained("tests/golden/wan21")
    folder = write_videos(tmp_path / "videos", {"a": 7}, size=(15, 17))
    _, dataset = encode(folder, tmp_path / "store", network=network)
    posterior = encode_whole(*network, np.load(folder / "a.npy"))
    mean, logvar = np.asarray(posterior.mean[0]), np.asarray(posterior.logvar[0])
    clip = dataset[0]
    assert clip["record"]["encoded_size"] == [15, 17]
    scale = network[0].bottleneck.prior_mean, network[0].bottleneck.prior_std
    np.testing.assert_allclose(clip["mean"], (mean - scale[0]) / scale[1], atol=1e-5)
    np.testing.assert_allclose(dataset.raw(clip), mean, atol=1e-5)
    moments = dataset.moments(clip)
    np.testing.assert_allclose(moments, np.concatenate([mean, logvar], -1), atol=1e-4)
    noise = latents.draw_noise(3, "key", mean.shape)
    np.testing.assert_allclose(
        dataset.raw(clip, noise), mean + np.exp(0.5 * logvar) * noise, atol=1e-5
    )
    assert dataset.scale == Scale(*scale)


def test_an_encoder_without_a_posterior_is_stored_without_a_width(tmp_path):
    network = load_pretrained("tests/golden/taef2")
    folder = write_videos(tmp_path / "videos", {"a": 2}, size=(16, 16))
    _, dataset = encode(folder, tmp_path / "store", network=network)
    frames = np.load(folder / "a.npy")
    mean = np.asarray(encode_whole(*network, frames).mean[0])
    clip = dataset[0]
    np.testing.assert_allclose(dataset.raw(clip), mean, atol=1e-5)
    assert not np.any(clip["std"])


def test_functions_of_a_posterior_work_in_jax_as_in_numpy():
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(2, 3, 4)), rng.uniform(0.5, 2, (2, 3, 4))
    mean, std = mean.astype(np.float32), std.astype(np.float32)
    scale = Scale((1.0, 2.0, 3.0, 4.0), (0.5, 1.0, 2.0, 4.0))
    found = jax.jit(lambda m, s: latents.moments(scale, m, s))(mean, std)
    np.testing.assert_allclose(found, latents.moments(scale, mean, std), rtol=1e-6)
    np.testing.assert_array_equal(latents.sample(mean, std, np.zeros_like(mean)), mean)
    assert np.isfinite(latents.moments(scale, mean, 0 * std)).all()


def test_clips_are_encoded_alone_and_the_longest_that_fits_is_taken(videos, tmp_path):
    plan = ClipPlan(frames=(5, 9))
    summary, dataset = encode(videos, tmp_path / "store", plan=plan)
    found = [
        (r["source"]["name"], r["clip"], r["frames"]["start"], records.count_frames(r))
        for r in dataset.records()
    ]
    assert sorted(found) == [
        ("a.npy", 0, 0, 9),
        ("c.npy", 0, 0, 9),
        ("c.npy", 1, 9, 9),
        ("d/e.npy", 0, 0, 5),
        ("f.npy", 0, 0, 9),
        ("f.npy", 1, 9, 5),
    ]
    assert summary.index["frames_left_out"] == sum(LENGTHS.values()) - 46
    frames = np.load(videos / "c.npy")[9:18]
    expected = encode_whole(*tiny(), frames).mean[0]
    np.testing.assert_allclose(find_clip(dataset, "c.npy", 1)["mean"], expected, atol=2e-5)


def test_clips_that_carry_the_state_are_slices_of_the_latents_of_the_video(videos, whole, tmp_path):
    plan = ClipPlan(frames=(9,), start="carried")
    summary, dataset = encode(videos, tmp_path / "store", plan=plan)
    assert summary.index["failed"] == []
    for index, record in enumerate(dataset.records()):
        uncut = find_clip(whole[1], record["source"]["name"])["mean"]
        first, count = record["first_latent"], record["shape"][0]
        assert count == 5 and first == 5 * record["clip"]
        # 9 frames fill the first five latent frames, 10 frames the next five.
        start = 0 if first == 0 else 9 + 10 * (record["clip"] - 1)
        assert record["frames"]["start"] == start
        assert records.count_frames(record) == (9 if first == 0 else 10)
        np.testing.assert_array_equal(dataset[index]["mean"], uncut[first : first + count])
    alone = encode(videos, tmp_path / "alone", plan=ClipPlan(frames=(9,)))[1]
    carried, fresh = (find_clip(d, "c.npy", 1)["mean"][1] for d in (dataset, alone))
    assert np.abs(carried - fresh).max() > 1e-3
    assert summary.index["clips"] == 4


def test_frames_that_fill_no_latent_frame_can_be_left_out(videos, tmp_path):
    summary, dataset = encode(videos, tmp_path / "store", plan=ClipPlan(tail="drop"))
    shapes = {
        r["source"]["name"]: (r["shape"][0], records.count_frames(r)) for r in dataset.records()
    }
    assert shapes["c.npy"] == (11, 21)
    assert shapes["a.npy"] == (5, 9)
    assert summary.index["frames_left_out"] == 2


def test_bfloat16_is_the_rounded_float32(videos, whole, tmp_path):
    _, dataset = encode(videos, tmp_path / "store", dtype="bfloat16")
    exact, rounded = (find_clip(d, "a.npy")["mean"] for d in (whole[1], dataset))
    assert rounded.dtype.name == "bfloat16"
    np.testing.assert_array_equal(exact.astype(rounded.dtype), rounded)


# --- the plan ------------------------------------------------------------------------------------


def test_the_nearest_frame_is_taken_for_each_time():
    times = [0.0, 0.1, 0.2, 0.5, 0.6]
    frames = [(t, k) for k, t in enumerate(times)]
    assert [n for n, _ in resample(frames, None)] == [0, 1, 2, 3, 4]
    assert [n for n, _ in resample(frames, 5.0)] == [0, 2, 3, 4]
    assert [n for n, _ in resample(frames, 10.0)] == [0, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [
        ((100, 200), "center", ((50, 100), (0, 2), (50, 96))),
        ((200, 100), "center", ((192, 96), (46, 0), (100, 96))),
        ((100, 200), "stretch", ((50, 96), (0, 0), (50, 96))),
    ],
)
def test_a_video_goes_into_the_bucket_of_its_aspect(size, crop, expected):
    framing = choose_framing(ClipPlan(sizes=((50, 96), (100, 96)), crop=crop), size)
    assert (framing.resized, framing.crop, framing.size) == expected
    assert framing.original_size == size


def test_pieces_of_known_streams_are_of_nearly_equal_size():
    for total in range(1, 40):
        pieces = list(plan_pieces(total, 4))
        assert sum(pieces) == total and max(pieces) <= 4 and max(pieces) - min(pieces) <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": "left"}, "crop='left': choose center or stretch"),
        ({"frames": (0,)}, "must be at least 1"),
        ({"start": "carried"}, "state their length"),
        ({"fps": -1.0}, "fps=-1.0"),
        ({"frames": (5, 6)}, "frames=6: .* must be 1 \\+ 2 k, such as 5 or 7"),
    ],
)
def test_plans_that_make_no_sense_are_refused(videos, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        encode(videos, tmp_path / "store", plan=ClipPlan(**settings))
    assert not (tmp_path / "store").exists()


def test_sizes_and_rates_are_stated_and_kept_apart_from_the_original(tmp_path):
    folder = write_videos(tmp_path / "videos", {"a": 26}, size=(20, 30))
    plan = ClipPlan(sizes=((8, 12),), fps=12.5)
    _, dataset = encode(folder, tmp_path / "store", plan=plan)
    record = dataset.record(0)
    assert record["original_size"] == [20, 30] and record["encoded_size"] == [8, 12]
    assert record["frames"] == {"start": 0, "step": 2, "count": 13}
    assert record["fps"] == 12.5


# --- the files -----------------------------------------------------------------------------------


def test_a_store_is_described_by_itself(whole):
    jsonschema = pytest.importorskip("jsonschema")
    summary, dataset = whole
    schema = json.loads((summary.folder / "record.schema.json").read_text())
    for record in dataset.records():
        jsonschema.validate(record, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(dataset.record(0) | {"clip": "first"}, schema)
    readme = (summary.folder / "README.md").read_text()
    assert "CausalVideoVAE" in readme and "float32 [t, h, w, Z]" in readme
    values = np.concatenate([clip["mean"].reshape(-1, 3) for clip in dataset])
    statistics = summary.index["statistics"]
    assert statistics["count"] == len(values)
    np.testing.assert_allclose(statistics["mean"], values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics["std"], values.std(0), rtol=1e-5)


def test_the_safetensors_package_reads_the_shards(whole):
    safetensors = pytest.importorskip("safetensors.numpy")
    summary, dataset = whole
    found = {}
    for path in sorted((summary.folder / "shards").iterdir()):
        found |= safetensors.load_file(path)
    for clip in dataset:
        for name in ("mean", "std"):
            np.testing.assert_array_equal(found[f"{clip['record']['key']}.{name}"], clip[name])


def test_evenly_spaced_numbers_are_kept_in_short():
    for values in ([3], [0, 1, 2], [0.0, 0.033333, 0.066667], [0.0, 0.1, 0.25], [5, 7, 8]):
        short = records.shorten(values)
        np.testing.assert_allclose(records.restore(short), values, atol=3e-6)
    assert records.shorten([4, 6, 8]) == {"start": 4, "step": 2, "count": 3}
    assert records.shorten([0.0, 0.1, 0.25]) == {"values": [0.0, 0.1, 0.25]}


# --- what is encoded anew, and what is not --------------------------------------------------------


def test_the_files_do_not_depend_on_how_they_came_about(videos, tmp_path):
    work = Work(latents_per_piece=2, shard_bytes=2000)
    copy = tmp_path / "copy"
    shutil.copytree(videos, copy)
    store = tmp_path / "whole"
    encode(copy, store, work=work)
    moved = tmp_path / "moved.npy"
    shutil.move(copy / "c.npy", moved)
    (copy / "b.npy").write_bytes(b"broken")
    part = tmp_path / "part"
    # The number of shards is chosen once, from what is there at first.
    shutil.copytree(store, part)
    shutil.rmtree(part / "shards")
    summary, _ = encode(copy, part, work=work)
    assert [entry["name"] for entry in summary.index["failed"]] == ["b.npy"]
    shutil.copy2(videos / "b.npy", copy / "b.npy")
    shutil.move(moved, copy / "c.npy")
    summary, _ = encode(copy, part, work=work)
    assert (summary.encoded, summary.reused) == (2, 0)
    assert len(list((store / "shards").iterdir())) > 1
    assert read_tree(part) == read_tree(store)


def test_content_decides_and_not_the_name_or_the_time(videos, tmp_path):
    copy, store = tmp_path / "copy", tmp_path / "store"
    shutil.copytree(videos, copy)
    encode(copy, store)
    assert encode(copy, store)[0].encoded == 0
    (copy / "a.npy").touch()
    shutil.move(copy / "c.npy", copy / "z.npy")
    np.save(copy / "f.npy", np.load(copy / "f.npy")[:, ::-1])
    summary, dataset = encode(copy, store)
    # Only f was encoded: a is the same under another time, z the same as c was.
    assert (summary.encoded, summary.reused, summary.absent) == (1, 2, 1)
    np.testing.assert_array_equal(
        find_clip(dataset, "z.npy")["mean"], find_clip(dataset, "c.npy")["mean"]
    )
    expected = encode_whole(*tiny(), np.load(copy / "f.npy")).mean[0]
    np.testing.assert_allclose(find_clip(dataset, "f.npy")["mean"], expected, atol=2e-5)


def test_equal_videos_are_stored_once_and_listed_twice(tmp_path):
    folder = write_videos(tmp_path / "videos", {"a": 5})
    shutil.copy(folder / "a.npy", folder / "b.npy")
    _, dataset = encode(folder, tmp_path / "store")
    assert [r["source"]["name"] for r in dataset.records()] == ["a.npy", "b.npy"]
    np.testing.assert_array_equal(dataset[0]["mean"], dataset[1]["mean"])
    assert len({r["key"] for r in dataset.records()}) == 1


def test_another_encoder_is_refused_and_another_decoder_is_not(videos, whole, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(whole[0].folder, store)
    model, params = tiny()
    other = make_variables(model, seed=1)
    with pytest.raises(ValueError, match=r"other settings \(encoder.weights was"):
        encode(videos, store, network=(model, other))
    with pytest.raises(ValueError, match=r"other settings \(plan.frames was \[\] and is \[9\]"):
        encode(videos, store, plan=ClipPlan(frames=(9,)))
    decoder = other["params"]["decoder"]
    mixed = params | {"params": params["params"] | {"decoder": decoder}}
    assert encode(videos, store, network=(model, mixed))[0].encoded == 0


def test_latents_of_another_store_are_reused_where_the_settings_are_equal(videos, whole, tmp_path):
    work = Work(latents_per_piece=2, reuse=(whole[0].folder,))
    summary, _ = encode(videos, tmp_path / "store", work=work)
    assert (summary.encoded, summary.reused) == (0, len(LENGTHS))
    assert read_tree(tmp_path / "store") == read_tree(whole[0].folder)
    with pytest.raises(ValueError, match="other settings"):
        encode(videos, tmp_path / "other", work=work, dtype="bfloat16")


# --- failures ------------------------------------------------------------------------------------


def test_two_writers_at_once_are_refused(videos, whole):
    with lock(whole[0].folder), pytest.raises(ValueError, match="another process is writing"):
        encode(videos, whole[0].folder)


def test_the_estimate_of_memory_covers_every_piece_of_a_video(monkeypatch):
    """A later piece has more frames than the first one, and a state beside them."""
    piece_encoder = encoders.make_encoder(*tiny(), latents_per_piece=1)
    estimated = piece_encoder.estimate_memory((16, 16))
    compile_piece, taken = encoders._compile_piece, []

    def note(*arguments):
        program = compile_piece(*arguments)
        taken.append(encoders._count_bytes(program))
        return program

    monkeypatch.setattr(encoders, "_compile_piece", note)
    frames = np.zeros((9, 16, 16, 3), np.uint8)
    assert sum(len(mean) for mean, _ in piece_encoder.encode(frames)) == 5
    assert estimated == max(taken) > taken[0]


def test_a_piece_of_no_latent_frame_is_refused(videos, tmp_path):
    with pytest.raises(ValueError, match="latents_per_piece=0: must be at least 1"):
        vvae.latents.encode_collection(
            *tiny(), videos, tmp_path / "store", work=Work(latents_per_piece=0)
        )
    assert not (tmp_path / "store").exists()


def test_a_store_inside_the_videos_or_over_other_files_is_refused(videos, tmp_path):
    with pytest.raises(ValueError, match="inside the folder of videos"):
        encode(videos, videos / "store")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"holds other files \(thesis.txt\)"):
        encode(videos, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["thesis.txt"]


def test_damage_is_named(whole, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(whole[0].folder, store)
    (path,) = (store / "shards").iterdir()
    shard, data = Shard(path), bytearray(path.read_bytes())
    record = shard.read_records()[1]
    data[shard.read_sources()[1].clips[0].arrays["std"].offset + 3] ^= 1
    path.write_bytes(data)
    dataset = latents.open(store)
    dataset[0]
    with pytest.raises(ValueError, match=rf"the std of {record['source']['name']}, clip 0, is dam"):
        dataset[1]
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="not a whole shard"):
        latents.open(store)
    with pytest.raises(ValueError, match="is not a store of latents"):
        latents.open(tmp_path)


def test_a_disk_that_is_too_small_is_named_before_the_work(tmp_path):
    with pytest.raises(ValueError, match="the latents need about 1e"):
        check_disk(tmp_path, 1e21)


def test_latents_that_are_not_finite_are_the_failure_of_their_video(tmp_path):
    model, params = tiny()
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params)
    folder = write_videos(tmp_path / "videos", {"a": 3})
    summary, dataset = encode(folder, tmp_path / "store", network=(model, broken))
    assert summary.index["failed"] == [{"name": "a.npy", "error": "the latents are not finite"}]
    assert len(dataset) == 0


def test_iterators_run_ahead_in_order_and_end_with_their_reader():
    closed = []

    def count(start):
        try:
            yield from range(start, start + 100)
        finally:
            closed.append(start)

    found = [(n, [next(items) for _ in range(3)]) for n, items in run_ahead(count, range(5), 2, 4)]
    assert found == [(n, [n, n + 1, n + 2]) for n in range(5)]
    assert sorted(closed) == list(range(5))

    def fail(number):
        yield number
        raise OSError(f"video {number}")

    with pytest.raises(OSError, match="video 0"):
        for _, items in run_ahead(fail, range(3), 2, 1):
            list(items)


# --- other inputs --------------------------------------------------------------------------------


def test_tars_are_read_by_offset_and_give_the_latents_of_the_files(videos, whole, tmp_path):
    (tmp_path / "a.txt").write_text("a red ball\n")
    (tmp_path / "a.json").write_text('{"views": 3}')
    with tarfile.open(tmp_path / "000.tar", "w") as tar:
        tar.add(videos / "a.npy", "k1.npy")
        tar.add(tmp_path / "a.txt", "k1.txt")
        tar.add(tmp_path / "a.json", "k1.json")
        tar.add(videos / "c.npy", "k2.npy")
    for _ in range(2):  # from the headers, then from the cached index
        summary, dataset = encode(tmp_path / "000.tar", tmp_path / "store")
    assert summary.encoded == 0 and len(dataset) == 2
    clip = find_clip(dataset, "000.tar/k1.npy")
    np.testing.assert_array_equal(clip["mean"], find_clip(whole[1], "a.npy")["mean"])
    assert clip["record"]["metadata"] == {"caption": "a red ball", "views": 3}
    assert clip["record"]["source"]["sha256"] == find_clip(whole[1], "a.npy")["record"]["source"][
        "sha256"
    ]  # fmt: skip
    data = (tmp_path / "000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut.tar is cut within k"):
        encode(tmp_path / "cut.tar", tmp_path / "other")


def test_a_csv_file_lists_paths_anywhere(videos, whole, tmp_path):
    (tmp_path / "list.csv").write_text(
        f"path,caption\n{videos}/a.npy,first\n{videos / 'd'}/e.npy,second\n"
    )
    _, dataset = encode(tmp_path / "list.csv", tmp_path / "store")
    captions = {r["metadata"]["caption"]: r["source"]["sha256"] for r in dataset.records()}
    assert captions["first"] == find_clip(whole[1], "a.npy")["record"]["source"]["sha256"]
    assert len(dataset) == 2


def test_a_parquet_list_gives_the_store_of_the_same_csv_list(videos, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    paths = [f"{videos}/a.npy", f"{videos / 'd'}/e.npy"]
    table = arrow.table({"path": paths, "caption": ["first", None], "embedding": [[1.0], [2.0]]})
    parquet.write_table(table, tmp_path / "list.parquet")
    (tmp_path / "list.csv").write_text(f"path,caption\n{paths[0]},first\n{paths[1]},\n")
    trees = []
    for suffix in ("parquet", "csv"):
        _, dataset = encode(tmp_path / f"list.{suffix}", tmp_path / suffix)
        trees.append(read_tree(tmp_path / suffix))
    assert trees[0] == trees[1] and len(dataset) == 2


def test_a_model_without_a_grid_is_refused(videos, tmp_path):
    model, params = tiny()
    with pytest.raises(ValueError, match=r"channels; files have 3"):
        encode(videos, tmp_path / "store", network=(model.clone(shape_HWC=(8, 8, 2)), params))
    assert replace(ClipPlan(), frames=(5,)).longest == 5
