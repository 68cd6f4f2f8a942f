"""Collections: what is indexed, in which order it is drawn, and what a broken video changes."""

import contextlib
import io
import itertools
import json
import os
import signal
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from vvae import video
from vvae.commands import evaluate
from vvae.data.cache_quota import Cache
from vvae.data.clips import NO_LABEL
from vvae.data.collection import tars
from vvae.data.collection.clips import CollectionClips, decode_draw
from vvae.data.collection.division import divide
from vvae.data.collection.index import find_kind, list_sources, open_index, refuse_collection
from vvae.data.collection.opening import open_collection
from vvae.data.collection.permutation import Permutation
from vvae.data.collection.sources import open_path, read_metadata
from vvae.data.dataset import Decoding, open_unsplit
from vvae.data.loader import Augmentation, train_batches
from vvae.data.sampling import ClipFormat, Sampling, decode_clip, decode_clips
from vvae.video import VideoError

FORMAT = ClipFormat("gray", 8, 8, Sampling(num_frames=4))
NAMES = tuple(f"{letter}.npy" for letter in "abcdefghijkl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve videos of 5 to 16 frames, all of them different."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        np.save(folder / name, rng.integers(0, 256, (5 + number, 8, 8, 3), np.uint8))
    return folder


def pack(tar_path, files):
    """Writes a tar of name -> bytes."""
    tar_path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar_path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return tar_path


def read_files(folder):
    return {name: (folder / name).read_bytes() for name in NAMES}


@pytest.fixture
def tar(folder, tmp_path):
    return pack(tmp_path / "tars" / "000.tar", read_files(folder))


def draw_all(root, indices, **options):
    """Every video of a collection as training clips."""
    index = open_index(root, indices)
    rows = divide(index, 1).splits["train"]
    return CollectionClips(index, replace(rows, first=0, count=len(index)), FORMAT, **options)


def take(clips, count, batch_size=4, seed=3, **options):
    with contextlib.closing(train_batches(clips, batch_size, seed, **options)) as batches:
        return list(itertools.islice(batches, count))


def assert_equal(first, second):
    assert [step for step, _ in first] == [step for step, _ in second]
    for (_, one), (_, other) in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


# --- the permutation ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 6, 16, 17, 1000, 65_537])
def test_a_permutation_holds_every_number_once(count):
    found = Permutation(count, (5, 7))(np.arange(count))
    assert sorted(found) == list(range(count))
    np.testing.assert_array_equal(found, Permutation(count, (5, 7))(np.arange(count)))


def test_permutations_of_other_keys_are_others_and_look_random():
    count, keys = 10_000, 40
    found = np.stack([Permutation(count, (0, k))(np.arange(count)) for k in range(keys)])
    # Of random permutations, one place in `count` is its own number, and two of them agree in one.
    assert (found == np.arange(count)).sum() < 5 * keys
    assert (found[0] == found[1:]).sum() < 5 * keys
    centred = found / count - 0.5
    assert abs((centred[:, 1:] * centred[:, :-1]).mean() * 12) < 0.01  # 1 / sqrt(400,000) = 0.0016
    counts = np.bincount([int(Permutation(6, (1, k))(np.array([0]))[0]) for k in range(1200)])
    assert counts.min() > 140 and counts.max() < 260  # 200 +- 13 each


def test_a_place_out_of_range_and_an_empty_permutation_are_refused():
    with pytest.raises(IndexError):
        Permutation(6, (0, 0))(np.array([6]))
    with pytest.raises(ValueError, match="at least 1"):
        Permutation(0, (0, 0))


# --- the index ------------------------------------------------------------------------------------


def test_offsets_give_the_bytes_that_tarfile_gives(folder, tmp_path):
    long_name = "x" * 120 + "/k.npy"  # needs a header of its own
    path = pack(tmp_path / "000.tar", read_files(folder) | {long_name: b"123", "a.json": b"{}"})
    index = open_index(path, tmp_path / "indices")
    assert len(index) == len(NAMES) + 1
    with tarfile.open(path) as tar:
        for source in index:
            with open_path(source) as copy, open(copy, "rb") as file:
                assert file.read() == tar.extractfile(source.member.name).read()


def test_an_index_is_read_again_and_written_anew_for_other_files(
    folder, tar, tmp_path, monkeypatch
):
    pack(tar.with_name("001.tar"), {"z.npy": (folder / "a.npy").read_bytes()})
    indexed = []
    index_tar = tars.index_tar
    monkeypatch.setattr(tars, "index_tar", lambda p: indexed.append(p.name) or index_tar(p))
    root, indices = tar.parent, tmp_path / "indices"
    first = open_index(root, indices)
    assert sorted(indexed) == ["000.tar", "001.tar"] and first.num_files == 2
    assert open_index(root, indices).digest == first.digest
    assert len(indexed) == 2
    pack(tar.with_name("001.tar"), {"y.npy": (folder / "a.npy").read_bytes(), "y.txt": b"red"})
    second = open_index(root, indices)
    assert indexed[2:] == ["001.tar"]  # the other one is copied from the index before
    assert [source.name for source in second] == [f"000.tar/{n}" for n in NAMES] + ["001.tar/y.npy"]
    assert read_metadata(second[12]) == {"caption": "red"}
    assert len(list(indices.iterdir())) == 1
    damaged = next(indices.iterdir()) / "rows.bin"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    assert open_index(root, indices).digest == second.digest


def test_lists_in_csv_and_parquet_are_one_collection(folder, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = [str(folder / name) for name in NAMES]
    table = {
        "Path": paths,
        "label": [f"c{k % 2}" for k in range(12)],
        "frames": list(range(12)),
        "embedding": [[1.0, 2.0]] * 12,
    }
    parquet.write_table(arrow.table(table), tmp_path / "list.parquet", row_group_size=5)
    rows = [f"{p},c{k % 2},{k}" for k, p in enumerate(paths)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,frames", *rows]))
    found = [open_index(tmp_path / f"list.{s}", tmp_path / "i") for s in ("csv", "parquet")]
    assert list(found[0]) == list(found[1])
    assert found[0].digest == found[1].digest
    assert found[0].classes == ("c0", "c1")
    assert found[0][3].path == paths[3] and found[0][3].metadata["frames"] == "3"
    sources = list_sources(tmp_path / "list.parquet", tmp_path / "i")
    assert [source.path for source in sources] == sorted(paths)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\na.npy\nb.npy\na.npy\n", r"line 4: 'a\.npy' is listed twice"),
        ("path,label\n,x\n", r"line 2: the cell `path` is empty"),
        ("file\na.npy\n", r"no column `path`"),
        ("path\n", r"holds no video"),
    ],
)
def test_bad_lists_are_named(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_index(tmp_path / "list.csv", tmp_path / "indices")
    assert not list((tmp_path / "indices").iterdir())


def test_a_parquet_file_without_paths_or_that_is_none_is_named(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"file": ["a"]}), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=r"no column `path` of text \(columns: file\)"):
        open_index(tmp_path / "list.parquet", tmp_path / "indices")
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"list\.parquet is not a readable Parquet list"):
        open_index(tmp_path / "list.parquet", tmp_path / "indices")


def test_kinds_of_collections(folder, tar, tmp_path):
    assert find_kind(folder) == "folder" and find_kind(folder / "a.npy") == "folder"
    assert find_kind(tar) == "tars" and find_kind(tar.parent) == "tars"
    (tmp_path / "list.csv").write_text("path\n")
    assert find_kind(tmp_path / "list.csv") == "list"
    (tar.parent / "a.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="holds tars and other videos"):
        find_kind(tar.parent)
    (tar.parent / "manifest.csv").write_text("path\na.npy\n")
    assert find_kind(tar.parent) == find_kind(tar.parent / "manifest.csv") == "folder"


def test_check_describes_a_collection_and_evaluation_refuses_it(tar, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert evaluate.main(["check", "--data.path", str(tar)]) == 0
    said = capsys.readouterr().out
    assert f"{tar}: {len(NAMES)} videos (tars: 1), not opened yet\n" in said
    assert f"train --data.path {tar}\n" in said
    with pytest.raises(ValueError, match=r"000\.tar is a collection \(tars\)"):
        refuse_collection(tar)


def test_a_folder_of_indices_that_cannot_be_written_is_named(tar, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write the index .* --data\.cache_dir"):
        open_index(tar, tmp_path / "file" / "indices")


# --- the division ---------------------------------------------------------------------------------


def list_split(index, rows):
    return {index[int(row)].name for row in rows(np.arange(len(rows)))}


def test_a_collection_is_divided_in_the_same_way_every_time(tar, tmp_path):
    index = open_index(tar, tmp_path / "indices")
    splits = {name: list_split(index, rows) for name, rows in divide(index, 5).splits.items()}
    assert {name: len(videos) for name, videos in splits.items()} == {
        "val": 1,
        "test": 1,
        "train": 10,
    }
    assert len(set.union(*splits.values())) == 12
    again = divide(index, 5).splits
    assert {name: list_split(index, rows) for name, rows in again.items()} == splits


def test_stated_splits_hold_and_val_is_drawn_from_train(folder, tmp_path):
    for path, names in (("train/0.tar", NAMES[:8]), ("testing/0.tar", NAMES[8:])):
        pack(tmp_path / "c" / path, {name: (folder / name).read_bytes() for name in names})
    index = open_index(tmp_path / "c", tmp_path / "indices")
    splits = {name: list_split(index, rows) for name, rows in divide(index, 5).splits.items()}
    assert splits["test"] == {f"testing/0.tar/{name}" for name in NAMES[8:]}
    assert splits["train"] | splits["val"] == {f"train/0.tar/{name}" for name in NAMES[:8]}
    assert len(splits["val"]) == 1
    pack(tmp_path / "c" / "0.tar", {"q.npy": b""})
    with pytest.raises(ValueError, match=r"put every tar into train, val or test, or none"):
        open_index(tmp_path / "c", tmp_path / "indices")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,group\na,x\nb,x\nc,y\n", "states groups and no splits"),
        ("path,split\na,train\nb,\nc,val\n", "b and 0 others have no split"),
        ("path,split\na,test\nb,val\n", "no split train"),
        ("path\na\nb\n", "2 videos are too few"),
    ],
)
def test_what_cannot_be_divided_is_refused(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        divide(open_index(tmp_path / "list.csv", tmp_path / "indices"), 5)


# --- clips ----------------------------------------------------------------------------------------


def test_a_tar_and_a_folder_give_the_same_batches(folder, tar, tmp_path):
    options = {"augmentation": Augmentation(flip=True, crop=1)}
    packed = take(draw_all(tar, tmp_path / "i"), 7, **options)
    assert_equal(packed, take(draw_all(folder, tmp_path / "i"), 7, **options))


def test_clips_are_those_of_the_decoded_folder_and_an_epoch_takes_every_video_once(
    folder, tar, tmp_path
):
    decoded = open_unsplit(folder, FORMAT, Decoding(Cache(tmp_path / "cache", 2**28)))
    clips = decoded.splits["all"]
    by_name = {
        video.name: clips.read(np.flatnonzero(clips.video_index_N == number))
        for number, video in enumerate(clips.videos)
    }
    lazy = draw_all(tar, tmp_path / "i")
    seen, windows = [], set()
    for _, batch in take(lazy, 12):
        for codes, mask, row in zip(batch["video"], batch["mask"], batch["index"]):
            name = lazy.describe_clip(row).removeprefix("000.tar/")
            found = [k for k, known in enumerate(by_name[name]) if (known == codes).all()]
            number = clips.video_index_N == [v.name for v in clips.videos].index(name)
            assert len(found) == 1
            np.testing.assert_array_equal(mask, clips.mask_NT[number][found[0]])
            seen.append(name)
            windows.add((name, found[0]))
    for epoch in range(4):
        assert sorted(seen[12 * epoch : 12 * (epoch + 1)]) == list(NAMES)
    assert seen[:12] != seen[12:24]
    assert len(windows) > 20  # of 37: other windows in other epochs


@pytest.mark.parametrize("start", [1, 5])
def test_a_stream_continues_from_any_step_bit_by_bit(tar, tmp_path, start):
    whole = take(draw_all(tar, tmp_path / "i"), 8)
    rest = take(draw_all(tar, tmp_path / "i"), 8 - start, start_step=start)
    assert_equal(rest, whole[start:])
    other = take(draw_all(tar, tmp_path / "i"), 1, seed=4)
    assert list(other[0][1]["index"]) != list(whole[0][1]["index"])


def test_hosts_see_disjoint_shares_that_are_together_the_whole(tar, tmp_path):
    clips = draw_all(tar, tmp_path / "i")
    whole = take(clips, 3)
    shares = [take(clips, 3, process_index=k, process_count=2) for k in range(2)]
    for (_, batch), (_, first), (_, second) in zip(whole, *shares, strict=True):
        for name in batch:
            np.testing.assert_array_equal(np.concatenate([first[name], second[name]]), batch[name])
    epoch = [[int(row) for _, batch in share for row in batch["index"]] for share in shares]
    assert not set(epoch[0]) & set(epoch[1])
    assert sorted(epoch[0] + epoch[1]) == list(range(12))


def test_labels_and_captions_come_from_json_and_csv(folder, tmp_path):
    files = read_files(folder)
    files |= {f"{n[0]}.json": json.dumps({"label": f"c{n < 'g'}"}).encode() for n in NAMES}
    names = ("cFalse", "cTrue")
    packed = draw_all(pack(tmp_path / "0.tar", files), tmp_path / "i", class_names=names)
    (_, batch), *_ = take(packed, 1, batch_size=12)
    wanted = [packed.describe_clip(row)[6] < "g" for row in batch["index"]]
    np.testing.assert_array_equal(batch["label"], wanted)
    rows = [f"{folder / n},{'c0' if n < 'g' else ''}" for n in NAMES]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    listed = draw_all(tmp_path / "list.csv", tmp_path / "i", class_names=("c0",))
    (_, batch), *_ = take(listed, 1, batch_size=12)
    assert sorted(batch["label"]) == [NO_LABEL] * 6 + [0] * 6


# --- broken videos --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_video_is_named_and_replaced_by_the_next(folder, tmp_path, num_workers):
    whole = draw_all(pack(tmp_path / "a" / "000.tar", read_files(folder)), tmp_path / "i")
    clean = take(whole, 6)
    files = read_files(folder) | {"c.npy": b"this is no video", "f.npy": b""}
    damaged = pack(tmp_path / "b" / "000.tar", files)
    clips = draw_all(damaged, tmp_path / "i", num_workers=num_workers)
    found = take(clips, 6)
    assert set(clips.broken) == {"000.tar/c.npy", "000.tar/f.npy"}
    assert all(reason and str(tmp_path) not in reason for reason in clips.broken.values())
    order = [int(row) for _, batch in clean for row in batch["index"]]
    for begin in (0, 12):
        epoch = order[begin : begin + 12]
        got = [int(row) for _, batch in found for row in batch["index"]][begin : begin + 12]
        for place, row in enumerate(got):
            wanted = next(r for r in epoch[place:] + epoch[:place] if r not in (2, 5))
            assert row == wanted
    assert_equal(found[2:], take(replace(clips, broken={}), 4, start_step=2))
    with pytest.raises(VideoError, match=r"000\.tar/[cf]\.npy"):
        take(replace(clips, on_error="raise"), 3)


def test_a_collection_that_is_gone_ends_the_training(tar, tmp_path):
    clips = draw_all(tar, tmp_path / "i")
    tar.unlink()
    with pytest.raises(ValueError, match=r"12 videos in a row cannot be read.*still there"):
        take(clips, 1)


def test_text_beside_a_video_that_is_no_json_is_the_failure_of_the_video(folder, tmp_path):
    files = read_files(folder) | {"c.json": b"{"}
    clips = draw_all(pack(tmp_path / "000.tar", files), tmp_path / "i")
    take(clips, 3)
    assert list(clips.broken) == ["000.tar/c.npy"]


def kill_first(draw):
    """Decodes a clip; the first process that is asked is killed before it answers."""
    flag = os.path.join(os.path.dirname(draw.source.path), "killed")
    with contextlib.suppress(FileExistsError):
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_draw(draw)


def test_a_killed_worker_changes_nothing(tar, tmp_path, monkeypatch):
    whole = take(draw_all(tar, tmp_path / "i"), 4)
    monkeypatch.setattr("vvae.data.collection.clips.decode_draw", kill_first)
    clips = draw_all(tar, tmp_path / "i", num_workers=1)
    assert_equal(take(clips, 4), whole)
    assert (tar.parent / "killed").exists() and not clips.broken


# --- one clip of a video --------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["gray", "rgb", "difference", "otsu"])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_clip_is_that_of_the_whole_video(tmp_path, view, stride):
    frames = np.random.default_rng(0).integers(0, 256, (21, 16, 16, 3), np.uint8)
    video.write_video(tmp_path / "v.mkv", frames, fps=10, lossless=True)
    clip_format = ClipFormat(view, 8, 8, Sampling(num_frames=4, frame_stride=stride))
    whole = decode_clips(tmp_path / "v.mkv", clip_format)
    count = len(whole.mask_NT)
    for number in range(count):
        one = decode_clip(tmp_path / "v.mkv", clip_format, (number + 0.5) / count)
        for name in ("codes_NTHWC", "mask_NT", "frame_NT", "time_NT"):
            np.testing.assert_array_equal(
                getattr(one, name)[0], getattr(whole, name)[number], err_msg=name
            )


@pytest.mark.parametrize("stated", [None, 3, 1000])
def test_a_wrong_or_missing_length_of_the_header_gives_a_clip(folder, monkeypatch, stated):
    monkeypatch.setattr("vvae.data.sampling.read_stated_length", lambda path: stated)
    whole = decode_clips(folder / "l.npy", FORMAT)
    one = decode_clip(folder / "l.npy", FORMAT, 0.99)
    number = 0 if stated == 3 else 3
    np.testing.assert_array_equal(one.codes_NTHWC[0], whole.codes_NTHWC[number])


def test_only_the_frames_up_to_the_clip_are_decoded(folder):
    assert decode_clip(folder / "l.npy", FORMAT, 0.3).num_frames == 8


# --- opening --------------------------------------------------------------------------------------


def test_a_collection_opens_with_a_few_decoded_videos(tar, tmp_path):
    decoding = Decoding(Cache(tmp_path / "cache", 2**28))
    options = {"indices": tmp_path / "i", "subset": 3}
    dataset = open_collection(tar, FORMAT, decoding, **options)
    assert {name: len(c.videos) for name, c in dataset.splits.items()} == {
        "train": 3,
        "val": 1,
        "test": 1,
    }
    held = {video.name for name in ("val", "test") for video in dataset.splits[name].videos}
    drawn = {
        dataset.stream.describe_clip(r) for _, b in take(dataset.stream, 3) for r in b["index"]
    }
    assert dataset.stream is dataset.collection and len(dataset.stream) == 10
    assert drawn == {f"000.tar/{name}" for name in NAMES} - held
    assert {video.name for video in dataset.splits["train"].videos} < drawn
    again = open_collection(tar, FORMAT, decoding, **options)
    assert again.fingerprint == dataset.fingerprint and again.num_decoded == 0
    assert open_collection(tar, FORMAT, decoding, indices=tmp_path / "i", subset=1).fingerprint != (
        dataset.fingerprint
    )
