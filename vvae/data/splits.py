"""Divides the videos of a data set into training, validation and test, group by group."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from vvae.data.listing import Video
from vvae.data.split_names import HOW_TO_STATE, MAIN_SPLITS

_VAL_SHARE = _TEST_SHARE = 0.1
_HELD_OUT = {"val", "test"}


def assign_splits(
    videos: tuple[Video, ...], copies: Iterable[Sequence[str]] = ()
) -> tuple[Video, ...]:
    """Returns the videos, each with a split.

    Stated splits stay. If none of them is `val`, 10 % of the training groups become it: at least
    one, the first ones in the order of hashes. If no split is stated, the groups are ordered by the
    SHA-256 of their names and divided 80/10/10 by number of videos, class by class where videos
    have labels; no group is on two sides, and no side is empty.

    Args:
      videos: The videos, as listed.
      copies: The names of videos that are byte-identical, together. Their groups count as one where
        splits are drawn.

    Raises:
      ValueError: If only some videos state a split, no video is in `train`, a group is in two of
        train, val and test, or there are too few groups to divide.
    """
    join = _make_join(videos, copies)
    stated = [video for video in videos if video.split is not None]
    if not stated:
        return _draw_splits(videos, join)
    if len(stated) < len(videos):
        lost = next(video for video in videos if video.split is None)
        raise ValueError(f"{lost.name!r} has no split while others do: state all splits or none")
    _check_stated(videos)
    if any(video.split == "val" for video in videos):
        return videos
    return _draw_val(videos, join)


def find_label_problems(videos: tuple[Video, ...]) -> tuple[str, ...]:
    """Describes the classes that cannot be learned or tested, a sentence for each.

    Args:
      videos: The videos with their splits. Unlabelled videos, and splits other than train, val and
        test, are ignored.
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
    """Checks that no group is on two sides.

    Splits with names other than val and test count as training, since they serve as training data.

    Raises:
      ValueError: For the first group on two sides; names it and its splits.
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


def _make_join(videos: Iterable[Video], copies: Iterable[Sequence[str]]) -> Callable[[Video], str]:
    """Returns a function: a video -> its group, one and the same for groups that share a copy."""
    group_of = {video.name: video.group for video in videos}
    joined_to: dict[str, str] = {}

    def find(group: str) -> str:
        while group in joined_to:
            group = joined_to[group]
        return group

    for first, *others in copies:
        for other in others:
            low, high = sorted((find(group_of[first]), find(group_of[other])))
            if low != high:
                joined_to[high] = low
    return lambda video: find(video.group)


def _draw_val(videos: tuple[Video, ...], join: Callable[[Video], str]) -> tuple[Video, ...]:
    groups = _order_groups({join(video) for video in videos if video.split == "train"})
    if len(groups) < 2:
        raise ValueError(
            f"the split train has a single group ({groups[0]!r}), so that none can become val "
            "(byte-identical videos count as one group): add training groups or state a split val"
        )
    chosen = set(groups[: max(1, round(_VAL_SHARE * len(groups)))])
    return tuple(
        replace(video, split="val") if video.split == "train" and join(video) in chosen else video
        for video in videos
    )


def _draw_splits(videos: tuple[Video, ...], join: Callable[[Video], str]) -> tuple[Video, ...]:
    members = defaultdict(list)
    for video in videos:
        members[join(video)].append(video)
    groups = _order_groups(members)
    if len(groups) < 3:
        raise ValueError(
            f"{len(groups)} group(s) of videos cannot be divided into train, val and test, which "
            "needs at least three (byte-identical videos count as one group): add videos, or "
            f"{HOW_TO_STATE}"
        )
    if len({video.label for video in videos}) > 1:
        labels = {group: Counter(video.label for video in members[group]) for group in groups}
        side = _divide_by_class(groups, labels)
    else:
        side = _divide(groups, [len(members[group]) for group in groups])
    return tuple(replace(video, split=side[join(video)]) for video in videos)


def _divide(groups: Sequence[str], sizes: Sequence[int]) -> dict[str, str]:
    """Divides ordered groups 80/10/10: each goes to the side that its middle video falls into."""
    size_G = np.array(sizes, np.float64)
    middle_G = (np.cumsum(size_G) - size_G / 2) / size_G.sum()
    train_end = int(np.clip(np.searchsorted(middle_G, 0.8), 1, len(groups) - 2))
    val_end = int(np.clip(np.searchsorted(middle_G, 0.9), train_end + 1, len(groups) - 1))
    side = dict.fromkeys(groups[:train_end], "train")
    side |= dict.fromkeys(groups[train_end:val_end], "val")
    return side | dict.fromkeys(groups[val_end:], "test")


def _divide_by_class(groups: Sequence[str], labels: dict[str, Counter]) -> dict[str, str]:
    """Divides ordered groups 80/10/10 within each class.

    Each side wants a number of videos of each class (`_share_class`). A group goes to the side that
    still wants most of its videos; of equal ones, to that which has the least of what it wants.

    Args:
      groups: The groups, in the order in which they are placed.
      labels: Group -> label -> number of its videos; videos without a label are a class, too.
    """
    wanted = {label: _share_class(count) for label, count in _add(labels.values()).items()}
    left = {label: dict(shares) for label, shares in wanted.items()}

    def rate(side: str, own: Counter) -> tuple[float, float]:
        open_ = {label: max(left[label][side], 0) for label in own}
        missing = sum(min(count, open_[label]) for label, count in own.items())
        relative = sum(
            count * open_[label] / max(wanted[label][side], 1) for label, count in own.items()
        )
        return missing, relative

    side = {}
    for group in groups:
        own = labels[group]
        # max takes the first of equals.
        side[group] = max(("train", "test", "val"), key=lambda name: rate(name, own))
        for label, count in own.items():
            left[label][side[group]] -= count
    for empty in {"test", "val", "train"} - set(side.values()):
        side[_find_spare(groups, labels, side)] = empty
    return side


def _add(counts: Iterable[Counter]) -> Counter:
    total: Counter = Counter()
    for count in counts:
        total.update(count)
    return total


def _share_class(count: int) -> dict[str, int]:
    """Returns how many of the videos of a class each side wants.

    Two training videos come first, since recognition cannot be learned from fewer, then a test
    video, then one of `val`.
    """
    test = max(1, round(_TEST_SHARE * count)) if count > 2 else 0
    val = max(1, round(_VAL_SHARE * count)) if count > 3 else 0
    return {"train": count - test - val, "test": test, "val": val}


def _find_spare(groups: Sequence[str], labels: dict[str, Counter], side: dict[str, str]) -> str:
    """Returns the group that is missed least on its side, which keeps a group.

    It is the last one of the largest side, if possible one whose classes stay in train twice.
    """
    largest = Counter(side[group] for group in groups).most_common(1)[0][0]
    own = [group for group in groups if side[group] == largest]
    kept = _add(labels[group] for group in own)
    spare = [g for g in own if all(kept[label] - n >= 2 for label, n in labels[g].items())]
    return (spare or own)[-1]


def _order_groups(groups: Iterable[str]) -> list[str]:
    """Orders groups by a hash: not alphabetically, and in the same order on every machine."""
    # Python decodes file names that are not UTF-8 to surrogates.
    return sorted(
        groups, key=lambda group: hashlib.sha256(group.encode(errors="surrogateescape")).digest()
    )
