"""What may spoil a test is named: copies, splits that are not stated, masks."""

import shutil

import numpy as np
import pytest

from vvae.data.leaks import find_copies, find_leaks
from vvae.data.listing import Video, list_videos


def make_video(name, split=None, label=None):
    return Video(path=f"/data/{name}", name=name, label=label, group=name, split=split)


def find_all(*videos, copies=()):
    return find_leaks(videos, videos, copies)


def write_array(path, value, *, last=0):
    """Writes 100 kB of one value that ends with another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.full((10, 100, 100), value, np.uint8)
    frames[-1, -1, -1] = last
    np.save(path, frames)


def write_frames(folder, values):
    for number, value in enumerate(values):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(bytes([value] * 7))


def test_copies_are_byte_identical(tmp_path):
    write_array(tmp_path / "a/1.npy", 1)
    write_array(tmp_path / "b/2.npy", 1)
    write_array(tmp_path / "b/same_size.npy", 2)
    write_array(tmp_path / "b/same_beginning.npy", 1, last=3)
    write_array(tmp_path / "c/4.npy", 2)
    for name in ("empty.mp4", "also_empty.mp4"):
        (tmp_path / name).touch()
    assert find_copies(list_videos(tmp_path)) == (
        ("a/1.npy", "b/2.npy"),
        ("b/same_size.npy", "c/4.npy"),
    )


def test_copies_of_frame_folders(tmp_path):
    write_frames(tmp_path / "a/take", (1, 2, 3))
    write_frames(tmp_path / "b/other_end", (1, 2, 4))
    write_frames(tmp_path / "b/other_order", (2, 1, 3))
    shutil.copytree(tmp_path / "a/take", tmp_path / "b/copy")
    (tmp_path / "b/copy/.DS_Store").write_bytes(b"x")
    assert find_copies(list_videos(tmp_path)) == (("a/take", "b/copy"),)


def test_missing_files_have_no_copies(tmp_path):
    (tmp_path / "manifest.csv").write_text("path\na.mp4\nb.mp4\n")
    assert find_copies(list_videos(tmp_path)) == ()


def test_copies_in_two_splits_or_classes_are_named():
    videos = (
        make_video("a", "train", "walk"),
        make_video("b", "train", "walk"),
        make_video("c", "test", "walk"),
        make_video("d", "train", "run"),
        make_video("e", "train"),
    )
    assert find_all(*videos, copies=[("a", "b")]) == ()
    assert find_all(*videos, copies=[("a", "b", "c"), ("b", "d"), ("b", "e")]) == (
        "'a' (train, class 'walk') and 'c' (test, class 'walk') are byte-identical: remove one of "
        "them",
        "'b' (train, class 'walk') and 'd' (train, class 'run') are byte-identical: remove one of "
        "them",
        "'b' (train, class 'walk') and 'e' (train, no class) are byte-identical: remove one of "
        "them",
    )


def test_many_copies_are_counted_after_the_first():
    pairs = [(f"{number}a", f"{number}b") for number in range(9)]
    videos = [
        make_video(name, split) for pair in pairs for name, split in zip(pair, ("train", "test"))
    ]
    found = find_all(*videos, copies=pairs)
    assert len(found) == 6 and found[-1] == "4 more videos have copies like these"


@pytest.mark.parametrize(
    "names",
    [
        ("a/train/1.mp4", "a/test/2.mp4"),
        ("UCSDped2/Train/Train001", "UCSDped2/Test/Test001"),
        ("train_videos/1.mp4", "test_videos/2.mp4"),
        ("TrainSet/1.mp4", "ValSet/2.mp4"),
        ("ucf_train01.mp4", "ucf_test01.mp4"),
    ],
)
def test_names_that_sound_like_splits_are_named(names):
    (problem,) = find_all(*map(make_video, names))
    for name in names:
        assert repr(name) in problem
    assert "no splits are stated" in problem and "column `split`" in problem
    assert find_all(*(make_video(name, "train") for name in names)) == ()


@pytest.mark.parametrize(
    "names", [("training/1.mp4", "match/2.mp4"), ("latest/1.mp4", "trainer/2.mp4", "evaluate.mp4")]
)
def test_other_names_do_not_sound_like_splits(names):
    assert find_all(*map(make_video, names)) == ()


@pytest.mark.parametrize(
    "mask", ["Test/Test001_gt", "Test/Test001_GT", "x/gt/Test001", "Ground Truth/Test001"]
)
def test_masks_are_named(mask):
    videos = (make_video("Test/Test001", "test"), make_video(mask, "test"))
    assert find_all(*videos) == (
        f"names such as {mask!r} (1 in all) are those of masks: move these out of the folder, or "
        "list the other videos in a manifest.csv",
    )


def test_other_videos_do_not_look_like_masks():
    names = ("with_mask/1.mp4", "without_mask/2.mp4", "a_gt.mp4", "mask.mp4", "gta/1.mp4")
    assert find_all(*map(make_video, names)) == ()
    assert find_all(make_video("gt/1.mp4"), make_video("gt/2.mp4")) == ()
