"""Finds what may spoil a test: copies of training videos, splits that are not stated, masks."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from vvae.data.listing import MANIFEST, Video
from vvae.data.split_names import HOW_TO_STATE, guess_main_split
from vvae.video import VIDEO_SUFFIXES

_HEAD_BYTES = 65536
_MAX_NAMED = 5  # the largest number of copies that are named
# A video named like another one with such an ending, and folders named like this, hold masks.
_MASK = "gt|ground[ _-]?truth|annotations?"
_MASK_OF = re.compile(rf"(.*[^/])[ _-](?:{_MASK}|masks?|labels?)", re.IGNORECASE)
_MASK_FOLDER = re.compile(_MASK, re.IGNORECASE)


def find_copies(videos: Iterable[Video]) -> tuple[tuple[str, ...], ...]:
    """Returns the names of videos that are byte-identical, together.

    Only videos of equal sizes are read, and of those only the first bytes where these differ.
    Folders of frames are identical if their frames are, in the order of their names. Empty and
    unreadable videos are left out.
    """
    groups = [tuple(videos)]
    for measure in (_measure_size, _digest_head, _digest):
        groups = [same for group in groups for same in _collect_equal(group, measure)]
    return tuple(tuple(video.name for video in same) for same in groups)


def find_leaks(
    listed: Sequence[Video], divided: Sequence[Video], copies: Iterable[Sequence[str]]
) -> tuple[str, ...]:
    """Describes what may spoil a test, a sentence for each.

    Args:
      listed: The videos as they are listed.
      divided: The same videos with their splits, or as they are listed if they cannot be divided.
      copies: The result of `find_copies`.
    """
    by_name = {video.name: video for video in divided}
    found = [text for same in copies if (text := _describe_copies([by_name[n] for n in same]))]
    if len(found) > _MAX_NAMED:
        found[_MAX_NAMED:] = [f"{len(found) - _MAX_NAMED} more videos have copies like these"]
    return (*found, *_find_unstated_splits(listed), *find_masks(listed))


def find_masks(videos: Iterable[Video]) -> tuple[str, ...]:
    """Describes videos that are by their names the masks of others, such as Test001_gt."""
    stems = {_remove_suffix(video.name): video.name for video in videos}
    masks = [name for stem, name in stems.items() if _is_mask(stem, stems)]
    if not masks or len(masks) == len(stems):
        return ()
    return (
        f"names such as {masks[0]!r} ({len(masks)} in all) are those of masks: move these out of "
        f"the folder, or list the other videos in a {MANIFEST}",
    )


def _find_unstated_splits(videos: Iterable[Video]) -> tuple[str, ...]:
    """Describes names that sound like different splits where no split is stated."""
    example: dict[str, str] = {}
    for video in videos:
        if video.split is not None:
            return ()
        for part in PurePosixPath(_remove_suffix(video.name)).parts:
            if split := guess_main_split(part):
                example.setdefault(split, video.name)
    if len(example) < 2:
        return ()
    named = ", ".join(f"{name!r} like {split}" for split, name in example.items())
    return (
        f"names sound like splits ({named}), but no splits are stated, and the videos are divided "
        f"without regard to these names: {HOW_TO_STATE}",
    )


def _is_mask(stem: str, stems: Iterable[str]) -> bool:
    match = _MASK_OF.fullmatch(stem)
    if match and match[1] in stems:
        return True
    return any(_MASK_FOLDER.fullmatch(part) for part in PurePosixPath(stem).parts)


def _remove_suffix(name: str) -> str:
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in VIDEO_SUFFIXES else name


def _describe_copies(same: Sequence[Video]) -> str | None:
    """Describes identical videos whose splits or classes differ; None where they agree."""
    first = same[0]
    for other in same[1:]:
        if (first.split, first.label) != (other.split, other.label):
            pair = " and ".join(
                f"{video.name!r} ({_describe_place(video)})" for video in (first, other)
            )
            return f"{pair} are byte-identical: remove one of them"
    return None


def _describe_place(video: Video) -> str:
    label = "no class" if video.label is None else f"class {video.label!r}"
    return label if video.split is None else f"{video.split}, {label}"


def _collect_equal(
    videos: Iterable[Video], measure: Callable[[str], Hashable]
) -> Iterator[tuple[Video, ...]]:
    """Yields videos of the same measure, where there are at least two."""
    by_measure = defaultdict(list)
    for video in videos:
        try:
            value = measure(video.path)
        except OSError:
            continue  # it is named as broken when it is decoded
        if value:
            by_measure[value].append(video)
    yield from (tuple(same) for same in by_measure.values() if len(same) > 1)


def _measure_size(path: str) -> int:
    return sum(os.path.getsize(file) for file in _list_files(path))


def _digest_head(path: str) -> bytes:
    """Returns the digest of the first bytes of a video, or of its first frame."""
    with open(_list_files(path)[0], "rb") as file:
        return hashlib.sha256(file.read(_HEAD_BYTES)).digest()


def _digest(path: str) -> bytes:
    """Returns the digest of a file, or of the digests of all frames."""
    digests = []
    for name in _list_files(path):
        with open(name, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    return hashlib.sha256(b"".join(digests)).digest()


def _list_files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    with os.scandir(path) as entries:
        return sorted(e.path for e in entries if not e.name.startswith(".") and e.is_file())
