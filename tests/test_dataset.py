"""Opening data sets: exact clips, labels, splits, broken files, fingerprints."""

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vvae.data.dataset import (
    UNSPLIT,
    Cache,
    ClipFormat,
    Decoding,
    Sampling,
    assign_splits,
    describe_flaws,
    list_videos,
    open_dataset,
    open_unsplit,
)
from vvae.data.views import encode_view, get_view
from vvae.video import VideoError, read_frames, write_video

FORMAT = ClipFormat("rgb", 6, 8, Sampling(4))


def write_noise(path, num_frames=4, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, 6, 8, 3), np.uint8)
    write_video(path, frames, fps=10, lossless=True)
    return frames


@pytest.fixture
def root(tmp_path):
    """Writes two classes, with 3, 1 and 2 videos in train, val and test, and 1 in another split."""
    root = tmp_path / "my videos ü"
    for seed, (name, num_frames) in enumerate(
        {
            "train/walk/a.mp4": 9,
            "train/walk/b.mp4": 8,
            "train/run/c d.mp4": 3,
            "val/run/e.mp4": 4,
            "test/walk/f.mp4": 4,
            "test/run/g.mp4": 5,
            "extra/jump/h.mp4": 4,
        }.items()
    ):
        write_noise(root / name, num_frames, seed)
    return root


@pytest.fixture
def decoding(tmp_path):
    return Decoding(Cache(tmp_path / "cache", 10**9))


def test_clips_of_every_split(root, decoding):
    dataset = open_dataset(root, FORMAT, decoding)
    assert {name: len(clips) for name, clips in dataset.splits.items()} == {
        "train": 6,
        "val": 1,
        "test": 3,
    }
    train = dataset.splits["train"]
    assert [video.name for video in train.videos] == [
        "train/run/c d.mp4",
        "train/walk/a.mp4",
        "train/walk/b.mp4",
    ]
    assert dataset.class_names == ("run", "walk")
    assert train.video_index_N.tolist() == [0, 1, 1, 1, 2, 2]
    assert train.label_N.tolist() == [0, 1, 1, 1, 1, 1]
    assert train.mask_NT.sum() == 9 + 8 + 3
    assert dataset.num_padded == 3  # c d: 3 of 4; a: 1 of 4; g: 1 of 4
    assert dataset.left_out_splits == {"extra": 1}
    assert dataset.broken == {} and dataset.unknown_labels == {}
    assert dataset.view == get_view("rgb")


def test_clips_equal_the_frames_of_the_files(root, decoding):
    clips = open_dataset(root, FORMAT, decoding).splits["train"]
    ids = [5, 0, 3, 3]
    codes = clips.read(ids)
    assert codes.dtype == np.uint8 and codes.shape == (4, 4, 6, 8, 3)
    for row, clip in enumerate(ids):
        times, frames = read_frames(clips.videos[clips.video_index_N[clip]].path)
        np.testing.assert_array_equal(codes[row], frames[clips.frame_NT[clip]])
        np.testing.assert_array_equal(clips.time_NT[clip], times[clips.frame_NT[clip]])
    with pytest.raises(IndexError):
        clips.read([6])


def test_select_renumbers_and_keeps_only_its_videos(root, decoding):
    clips = open_dataset(root, FORMAT, decoding).splits["train"]
    some = clips.select([5, 1, 2])
    assert [video.name for video in some.videos] == ["train/walk/a.mp4", "train/walk/b.mp4"]
    assert some.video_index_N.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(some.read([0, 1, 2]), clips.read([5, 1, 2]))
    for name in ("label_N", "mask_NT", "frame_NT", "time_NT"):
        np.testing.assert_array_equal(getattr(some, name), getattr(clips, name)[[5, 1, 2]])
    by_mask = clips.select(np.flatnonzero(clips.label_N == 0))
    assert len(by_mask) == 1 and len(by_mask.videos) == 1


def test_second_opening_decodes_nothing(root, decoding):
    seen = []
    first = open_dataset(root, FORMAT, decoding, progress=lambda *done: seen.append(done))
    assert first.num_decoded == 6
    assert seen == [(k, 6) for k in range(1, 7)]
    second = open_dataset(str(root), FORMAT, decoding, progress=lambda *done: seen.append(done))
    assert second.num_decoded == 0 and len(seen) == 6
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.splits["train"].read(range(6)), read_all(first, "train"))


def read_all(dataset, split):
    clips = dataset.splits[split]
    return clips.read(range(len(clips)))


def test_workers_give_the_same_data_set(root, decoding, tmp_path):
    here = open_dataset(root, FORMAT, decoding)
    elsewhere = Decoding(Cache(tmp_path / "other", 10**9), num_workers=2)
    there = open_dataset(root, FORMAT, elsewhere)
    assert there.num_decoded == 6
    for split in here.splits:
        np.testing.assert_array_equal(read_all(here, split), read_all(there, split))
        assert here.splits[split].videos == there.splits[split].videos


def test_extra_splits_are_opened_when_asked_for(root, decoding):
    dataset = open_dataset(root, FORMAT, decoding, extra_splits=("extra",))
    extra = dataset.splits["extra"]
    assert len(extra) == 1 and extra.label_N.tolist() == [-1]
    assert dataset.class_names == ("run", "walk")
    assert dataset.unknown_labels == {"jump": 1} and dataset.left_out_splits == {}
    with pytest.raises(ValueError, match="no split 'more'; it has extra, test, train, val"):
        open_dataset(root, FORMAT, decoding, extra_splits=("more",))


def test_broken_videos_are_left_out_and_named(root, decoding):
    (root / "train" / "run" / "bad.mp4").write_text("not a video")
    dataset = open_dataset(root, FORMAT, decoding)
    assert list(dataset.broken) == ["train/run/bad.mp4"]
    assert len(dataset.splits["train"]) == 6
    with pytest.raises(VideoError, match=r"bad\.mp4: not a readable video"):
        open_dataset(root, FORMAT, replace(decoding, on_error="raise"))
    with pytest.raises(ValueError, match=r"data\.on_error must be skip or raise, got 'stop'"):
        open_dataset(root, FORMAT, replace(decoding, on_error="stop"))


def test_file_missing_from_the_manifest_is_broken(root, decoding):
    rows = [("path", "split"), ("train/walk/a.mp4", "train"), ("train/walk/b.mp4", "train")]
    write_manifest(root, [*rows, ("gone.mp4", "test"), ("test/walk/f.mp4", "test")])
    dataset = open_dataset(root, FORMAT, decoding)
    assert dataset.broken == {"gone.mp4": "no such file"}
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
        open_dataset(root, FORMAT, replace(decoding, on_error="raise"))


def write_manifest(root, rows):
    with open(root / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_split_without_a_usable_clip_is_an_error(root, decoding):
    (root / "val" / "run" / "e.mp4").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"no usable clip in split val of .*all of its 1 .*'val/run/e"
    ):
        open_dataset(root, FORMAT, decoding)


def test_a_drawn_split_of_broken_files_names_them_and_the_remedy(tmp_path, decoding):
    for number in range(12):
        write_noise(tmp_path / "flat" / f"{number}.mp4", seed=number)
    videos = assign_splits(list_videos(tmp_path / "flat"))
    (drawn,) = (video for video in videos if video.split == "val")
    Path(drawn.path).write_bytes(b"no video")
    with pytest.raises(ValueError) as error:
        open_dataset(tmp_path / "flat", FORMAT, decoding)
    for words in (
        f"split val of {tmp_path / 'flat'}: all of its 1 video(s) are broken: {drawn.name!r} (not",
        "repair or remove them, or choose the splits yourself: state them in a column `split` of",
    ):
        assert words in str(error.value)
    # The remedy works: without the file, another one is drawn.
    Path(drawn.path).unlink()
    assert len(open_dataset(tmp_path / "flat", FORMAT, decoding).splits["val"].videos) == 1


def test_copies_are_on_one_side_of_drawn_splits(tmp_path, decoding):
    for number in range(10):
        write_noise(tmp_path / "a" / f"{number}.mp4", seed=number)
        shutil.copy(tmp_path / "a" / f"{number}.mp4", tmp_path / "a" / f"copy of {number}.mp4")
    dataset = open_dataset(tmp_path / "a", FORMAT, decoding)
    sides = {}
    for split, clips in dataset.splits.items():
        for video in clips.videos:
            sides.setdefault(video.name.removeprefix("copy of "), set()).add(split)
    assert len(sides) == 10 and all(len(splits) == 1 for splits in sides.values())
    assert describe_flaws(dataset) == ()


def test_copies_in_stated_splits_are_a_warning(root, decoding):
    shutil.copy(root / "train/walk/a.mp4", root / "test/walk/copy.mp4")
    dataset = open_dataset(root, FORMAT, decoding)
    warning, left_out, padded = describe_flaws(dataset)
    assert warning == (
        "warning: 'test/walk/copy.mp4' (test, class 'walk') and 'train/walk/a.mp4' (train, class "
        "'walk') are byte-identical: remove one of them"
    )
    assert left_out.startswith("left out: split 'extra'") and "padded" in padded


def test_masks_are_a_warning_among_new_videos(tmp_path, decoding):
    for name in ("Test001.mp4", "Test001_gt.mp4"):
        write_noise(tmp_path / "new" / name)
    (warning,) = describe_flaws(open_unsplit(tmp_path / "new", FORMAT, decoding))
    assert warning.startswith(
        "warning: names such as 'Test001_gt.mp4' (1 in all) are those of masks"
    )


def test_many_broken_files_are_counted_after_the_first(tmp_path, decoding):
    for number in range(7):
        (tmp_path / f"{number}.mp4").write_bytes(b"no video")
    with pytest.raises(
        ValueError, match=r"all of its 7 .*'4\.mp4' \(.*\), 2 more; repair or remove them$"
    ):
        open_unsplit(tmp_path, FORMAT, decoding)


def test_view_and_stride_reach_the_clips(root, decoding):
    clip_format = ClipFormat("gray+difference", 6, 8, Sampling(2, 3, "windows"))
    clips = open_dataset(root, clip_format, decoding).splits["train"]
    _, frames = read_frames(root / "train/walk/a.mp4")
    codes, _, _ = encode_view(get_view("gray+difference"), frames[::3])
    names = [video.name for video in clips.videos]
    (ids,) = np.nonzero(clips.video_index_N == names.index("train/walk/a.mp4"))
    np.testing.assert_array_equal(clips.read(ids).reshape(-1, 6, 8, 2)[:3], codes)
    assert clips.mask_NT[ids].tolist() == [[False, True], [True, False]]
    assert clips.frame_NT[ids].tolist() == [[0, 3], [6, 6]]


def test_fingerprint_does_not_depend_on_the_folder(root, decoding, tmp_path):
    fingerprint = open_dataset(root, FORMAT, decoding).fingerprint
    shutil.copytree(root, tmp_path / "copy")
    os.utime(tmp_path / "copy/train/walk/a.mp4", (1, 1))
    moved = open_dataset(tmp_path / "copy", FORMAT, decoding)
    assert moved.num_decoded == 6 and moved.fingerprint == fingerprint


def test_fingerprint_changes_with_the_data(root, decoding):
    seen = {open_dataset(root, FORMAT, decoding).fingerprint}
    other_format = ClipFormat("gray", 6, 8, Sampling(4))
    seen.add(open_dataset(root, other_format, decoding).fingerprint)
    write_noise(root / "train/walk/b.mp4", 12)
    seen.add(open_dataset(root, FORMAT, decoding).fingerprint)
    os.rename(root / "train/walk/b.mp4", root / "train/walk/b2.mp4")
    seen.add(open_dataset(root, FORMAT, decoding).fingerprint)
    os.rename(root / "train/walk/b2.mp4", root / "train/run/b2.mp4")
    seen.add(open_dataset(root, FORMAT, decoding).fingerprint)
    assert len(seen) == 5


def test_unsplit_takes_every_video(root, decoding):
    dataset = open_unsplit(root, FORMAT, decoding)
    clips = dataset.splits[UNSPLIT]
    assert len(clips.videos) == 7 and len(clips) == 11
    assert dataset.class_names == ("jump", "run", "walk")
    assert {video.split for video in clips.videos} == {"train", "val", "test", "extra"}


def test_unsplit_of_a_trained_model_uses_its_classes(root, decoding):
    dataset = open_unsplit(root, FORMAT, decoding, class_names=("walk", "run"))
    clips = dataset.splits[UNSPLIT]
    labels = {video.label: set() for video in clips.videos}
    for video, label in zip(clips.video_index_N, clips.label_N):
        labels[clips.videos[video].label].add(int(label))
    assert labels == {"walk": {0}, "run": {1}, "jump": {-1}}
    assert dataset.unknown_labels == {"jump": 1}


def test_unsplit_opens_a_single_video(root, decoding):
    dataset = open_unsplit(root / "val/run/e.mp4", FORMAT, decoding)
    assert len(dataset.splits[UNSPLIT]) == 1 and dataset.class_names == ()


def test_image_frames_and_arrays_are_videos_too(tmp_path, decoding):
    frames = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), np.uint8)
    (tmp_path / "set").mkdir()
    np.save(tmp_path / "set" / "array.npy", frames)
    write_video(tmp_path / "set" / "file.mp4", frames, fps=10, lossless=True)
    dataset = open_unsplit(tmp_path / "set", FORMAT, decoding)
    codes = read_all(dataset, UNSPLIT)
    np.testing.assert_array_equal(codes, np.stack([frames, frames]))


def test_real_gestures_are_read_exactly(shared_data, tmp_path, decoding):
    root = tmp_path / "gestures"
    root.mkdir()
    source = shared_data("gestures")
    chosen = [v for v in list_videos(source) if v.label in ("tick", "up")][::6]
    rows = [("path", "label", "group", "split")]
    for video in chosen:
        (root / video.label).mkdir(exist_ok=True)
        os.symlink(video.path, root / video.name)
        rows.append((video.name, video.label, video.group, video.split))
    write_manifest(root, rows)
    clip_format = ClipFormat("difference", 24, 32, Sampling(16, 1, "whole"))
    dataset = open_unsplit(root, clip_format, replace(decoding, num_workers=2))
    clips = dataset.splits[UNSPLIT]
    assert len(clips) == len(chosen) and dataset.broken == {}
    times, frames = read_frames(clips.videos[0].path, (24, 32))
    wanted = np.linspace(times[0], times[-1], 16)
    nearest = [min(range(len(times)), key=lambda k: abs(times[k] - time)) for time in wanted]
    codes, valid, _ = encode_view(get_view("difference"), frames[nearest])
    np.testing.assert_array_equal(clips.read([0])[0], codes)
    np.testing.assert_array_equal(clips.mask_NT[0], valid)


def test_every_corrupt_file_is_counted(shared_data, decoding):
    corrupt = shared_data("clips") / "corrupt"
    format_16 = ClipFormat("gray", 16, 16, Sampling(8))
    dataset = open_unsplit(corrupt, format_16, replace(decoding, num_workers=2))
    assert len(dataset.broken) + len(dataset.splits[UNSPLIT].videos) == len(list_videos(corrupt))
    assert {"empty.mp4", "text_as.mp4", "trunc60_bikes.mp4", "bitflips_bikes.mp4"} <= set(
        dataset.broken
    )
