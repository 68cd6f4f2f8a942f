"""Divides the videos of a data set into training, validation and test, group by group."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from vvae.data.listing import MAIN_SPLITS, Video

_VAL_SHARE = 0.1
_HELD_OUT = {"val", "test"}
HOW_TO_STATE = "state them in a column `split` of manifest.csv or by folders train, val, test"


def assign_splits(videos: tuple[Video, ...]) -> tuple[Video, ...]:
    """Gives every video its split.

    Stated splits stay; if none is `val`, 10 % of the training groups (at least one, the first by
    hash) become it. Where none is stated, the groups are ordered by the SHA-256 of their names and
    filled to 80/10/10 by number of videos; no group is on two sides, and no side is empty.

    Raises:
      ValueError: if only some videos state a split, none is `train`, a group is in two of train,
        val and test, or there are too few groups to divide.
    """
    stated = [video for video in videos if video.split is not None]
    if not stated:
        return _draw_splits(videos)
    if len(stated) < len(videos):
        lost = next(video for video in videos if video.split is None)
        raise ValueError(f"{lost.name!r} states no split while others do: state all or none")
    _check_stated(videos)
    if any(video.split == "val" for video in videos):
        return videos
    return _draw_val(videos)


def find_label_problems(videos: tuple[Video, ...]) -> tuple[str, ...]:
    """Says in words which classes cannot be learned or tested; empty if all is well.

    Args:
      videos: videos with their splits; unlabelled ones and splits other than train, val and test
        are not looked at.
    """
    by_label = defaultdict(list)
    for video in videos:
        if video.label is not None and video.split in MAIN_SPLITS:
            by_label[video.label].append(video)
    problems = []
    for label, members in sorted(by_label.items()):
        if len(members) == 1:
            problems.append(
                f"class {label!r} has a single video ({members[0].name}): add more or remove it"
            )
        elif not any(video.split == "train" for video in members):
            problems.append(
                f"class {label!r} has {len(members)} videos and none in train: {HOW_TO_STATE}"
            )
    return tuple(problems)


def check_groups(videos: tuple[Video, ...]) -> None:
    """Refuses videos of which one group is on two sides.

    Splits of other names than val and test count as training, which is what they are asked for.

    Raises:
      ValueError: names the first such group and its splits.
    """
    split_of_group: dict[str, str] = {}
    for video in videos:
        other = split_of_group.setdefault(video.group, video.split)
        if other != video.split and not {other, video.split}.isdisjoint(_HELD_OUT):
            raise ValueError(
                f"group {video.group!r} is in {other} and, with {video.name!r}, in {video.split}: "
                "keep each group on one side"
            )


def _check_stated(videos: tuple[Video, ...]) -> None:
    found = Counter(video.split for video in videos)
    if "train" not in found:
        listed = ", ".join(f"{split} ({count})" for split, count in sorted(found.items()))
        raise ValueError(f"no video is in the split train, only in {listed}: {HOW_TO_STATE}")
    check_groups(tuple(video for video in videos if video.split in MAIN_SPLITS))


def _draw_val(videos: tuple[Video, ...]) -> tuple[Video, ...]:
    groups = _order_groups({video.group for video in videos if video.split == "train"})
    if len(groups) < 2:
        raise ValueError(
            f"the split train has one group ({groups[0]!r}) and none can become val: add training "
            "groups or state a split val"
        )
    chosen = set(groups[: max(1, round(_VAL_SHARE * len(groups)))])
    return tuple(
        replace(video, split="val") if video.split == "train" and video.group in chosen else video
        for video in videos
    )


def _draw_splits(videos: tuple[Video, ...]) -> tuple[Video, ...]:
    size_of_group = Counter(video.group for video in videos)
    groups = _order_groups(size_of_group)
    if len(groups) < 3:
        raise ValueError(
            f"{len(groups)} group(s) of videos cannot be divided into train, val and test, which "
            f"takes three: add videos, or {HOW_TO_STATE}"
        )
    # A group goes where the middle of its videos falls, and each side keeps at least one group.
    size_G = np.array([size_of_group[group] for group in groups], np.float64)
    middle_G = (np.cumsum(size_G) - size_G / 2) / size_G.sum()
    train_end = int(np.clip(np.searchsorted(middle_G, 0.8), 1, len(groups) - 2))
    val_end = int(np.clip(np.searchsorted(middle_G, 0.9), train_end + 1, len(groups) - 1))
    side = dict.fromkeys(groups[:train_end], "train")
    side |= dict.fromkeys(groups[train_end:val_end], "val")
    side |= dict.fromkeys(groups[val_end:], "test")
    return tuple(replace(video, split=side[video.group]) for video in videos)


def _order_groups(groups: Iterable[str]) -> list[str]:
    """Orders groups by a hash: without regard to their names, the same on every machine."""
    # File names that are not UTF-8 reach us with surrogates.
    return sorted(
        groups, key=lambda group: hashlib.sha256(group.encode(errors="surrogateescape")).digest()
    )
