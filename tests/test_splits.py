"""Videos are divided so that no group is on two sides and stated splits stay."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from vvae.data.listing import Video, list_videos
from vvae.data.splits import assign_splits, check_groups, find_label_problems


def make_video(name, group=None, split=None, label=None):
    return Video(path=f"/data/{name}", name=name, label=label, group=group or name, split=split)


def make_grouped(sizes):
    return tuple(
        make_video(f"{group}-{k}.mp4", f"group{group}")
        for group, size in enumerate(sizes)
        for k in range(size)
    )


def collect_sides(videos):
    sides = defaultdict(set)
    for video in videos:
        sides[video.group].add(video.split)
    return sides


def test_hundred_groups_are_divided_80_10_10():
    videos = assign_splits(make_grouped([1] * 100))
    assert Counter(video.split for video in videos) == {"train": 80, "val": 10, "test": 10}


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_never_cut_and_no_side_is_empty(seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 30, random.integers(3, 12)).tolist()
    divided = assign_splits(make_grouped(sizes))
    sides = collect_sides(divided)
    assert all(len(splits) == 1 for splits in sides.values())
    assert set.union(*sides.values()) == {"train", "val", "test"}


def test_division_does_not_depend_on_order_and_hardly_on_growth():
    videos = make_grouped([2] * 200)
    before = {video.name: video.split for video in assign_splits(videos)}
    assert before == {video.name: video.split for video in assign_splits(videos[::-1])}
    grown = assign_splits((*videos, make_video("new.mp4")))
    moved = [v for v in grown if v.name in before and before[v.name] != v.split]
    assert len(moved) <= 4  # a group at each border


def test_splits_do_not_follow_the_alphabet():
    """Groups are ordered by hash, so that the test split has names from all over the alphabet."""
    videos = assign_splits(make_grouped([1] * 300))
    test = [int(v.group.removeprefix("group")) for v in videos if v.split == "test"]
    assert min(test) < 100 and max(test) > 200


@pytest.mark.parametrize("stated", [None, "train"])
def test_copies_stay_on_one_side(stated):
    """Copies join their groups: here each group shares a copy with the next one of its ten."""
    videos = tuple(
        make_video(f"{g}-{k}", f"g{g}", stated) for g in range(100) for k in ("left", "right")
    )
    copies = [(f"{g}-right", f"{g + 1}-left") for g in range(99) if g % 10 != 9]
    divided = assign_splits(videos, copies)
    tens = defaultdict(set)
    for video in divided:
        tens[int(video.name.split("-")[0]) // 10].add(video.split)
    assert all(len(splits) == 1 for splits in tens.values())
    assert [video.group for video in divided] == [video.group for video in videos]
    expected = {"train": 180, "val": 20} if stated else {"train": 160, "val": 20, "test": 20}
    assert Counter(video.split for video in divided) == expected


def test_every_class_is_divided_80_10_10():
    videos = tuple(make_video(f"{k}/{n}", label=k) for k in "abcd" for n in range(20))
    sides = Counter((v.label, v.split) for v in assign_splits(videos))
    for label in "abcd":
        assert [sides[label, split] for split in ("train", "val", "test")] == [16, 2, 2]
    assert assign_splits(videos[::-1]) == assign_splits(videos)[::-1]


def test_small_classes_keep_two_training_videos_and_then_get_a_test_video():
    sizes = {"one": 1, "two": 2, "three": 3, "four": 4, "many": 12}
    videos = tuple(
        make_video(f"{k}/{n}", label=k) for k, size in sizes.items() for n in range(size)
    )
    sides = Counter((v.label, v.split) for v in assign_splits(videos))
    found = {k: [sides[k, split] for split in ("train", "val", "test")] for k in sizes}
    assert found == {
        "one": [1, 0, 0],
        "two": [2, 0, 0],
        "three": [2, 0, 1],
        "four": [2, 1, 1],
        "many": [10, 1, 1],
    }


def test_people_who_perform_every_class_are_not_cut():
    videos = tuple(
        make_video(f"{g}-{k}", f"person{g}", label=k) for g in range(10) for k in ("up", "down")
    )
    divided = assign_splits(videos)
    assert all(len(splits) == 1 for splits in collect_sides(divided).values())
    assert Counter(v.split for v in divided) == {"train": 16, "val": 2, "test": 2}


@pytest.mark.parametrize("seed", range(20))
def test_labelled_groups_of_any_size_leave_no_side_empty(seed):
    random = np.random.default_rng(seed)
    groups = random.integers(3, 9)
    videos = tuple(
        make_video(f"{g}-{n}", f"g{g}", label=str(random.integers(3)))
        for g in range(groups)
        for n in range(random.integers(1, 9))
    )
    sides = collect_sides(assign_splits(videos))
    assert all(len(splits) == 1 for splits in sides.values())
    assert set.union(*sides.values()) == {"train", "val", "test"}


def test_copies_count_once():
    videos = tuple(make_video(name) for name in "abcd")
    with pytest.raises(ValueError, match=r"2 group\(s\).*byte-identical videos count as one group"):
        assign_splits(videos, [("a", "b", "c")])


@pytest.mark.parametrize("sizes", [[5], [3, 4]])
def test_too_few_groups(sizes):
    with pytest.raises(
        ValueError, match=rf"{len(sizes)} group\(s\).*needs at least three.*`split`"
    ):
        assign_splits(make_grouped(sizes))


def test_stated_splits_stay():
    videos = (
        make_video("a", split="train"),
        make_video("b", split="val"),
        make_video("c", split="test"),
        make_video("d", split="extra"),
    )
    assert assign_splits(videos) == videos


def test_tenth_of_the_training_groups_becomes_val():
    videos = [make_video(f"{g}-{k}", f"g{g}", "train") for g in range(40) for k in range(3)]
    videos += [make_video("t", split="test"), make_video("e", split="extra")]
    divided = assign_splits(tuple(videos))
    sides = collect_sides(divided)
    assert all(len(splits) == 1 for splits in sides.values())
    assert sum(splits == {"val"} for splits in sides.values()) == 4
    assert sides["t"] == {"test"} and sides["e"] == {"extra"}


def test_two_training_groups_give_one_to_val():
    divided = assign_splits((make_video("a", split="train"), make_video("b", split="train")))
    assert sorted(video.split for video in divided) == ["train", "val"]
    with pytest.raises(ValueError, match="a single group \\('a'\\), so that none can become val"):
        assign_splits((make_video("a", split="train"),))


def test_group_on_two_sides_is_named():
    videos = (
        make_video("a", "anna", "train"),
        make_video("b", "anna", "test"),
        make_video("c", split="val"),
    )
    with pytest.raises(ValueError, match="group 'anna' is in train and, with 'b', in test"):
        assign_splits(videos)


def test_extra_splits_count_as_training():
    train = make_video("a", "anna", "train")
    extra = make_video("b", "anna", "extra")
    check_groups((train, extra))
    with pytest.raises(ValueError, match="group 'anna' is in extra and, with 'c', in test"):
        check_groups((extra, make_video("c", "anna", "test")))


def test_splits_must_be_stated_by_all_or_none():
    with pytest.raises(ValueError, match="'b' has no split while others do"):
        assign_splits((make_video("a", split="train"), make_video("b")))


def test_stated_splits_without_train_name_what_is_there():
    with pytest.raises(ValueError, match=r"no video is in the split train, only in any \(2\)"):
        assign_splits((make_video("a", split="any"), make_video("b", split="any")))


def test_classes_that_cannot_be_learned_are_named():
    videos = (
        make_video("a", split="train", label="walk"),
        make_video("b", split="test", label="walk"),
        make_video("c", split="test", label="run"),
        make_video("d", split="val", label="run"),
        make_video("e", split="train", label="wave"),
        make_video("f", split="extra", label="other"),
        make_video("g", split="train"),
    )
    run, wave = find_label_problems(videos)
    assert run.startswith("class 'run' has 2 videos and none in train")
    assert wave.startswith("class 'wave' has a single video (e)")
    assert find_label_problems(videos[:2]) == ()


def test_splits_of_real_sets(shared_data):
    ped2 = assign_splits(list_videos(shared_data("ped2")))
    assert Counter(video.split for video in ped2) == {"train": 14, "val": 2, "test": 12}
    gestures = list_videos(shared_data("gestures"))
    assert assign_splits(gestures) == gestures
