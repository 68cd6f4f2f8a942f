"""Opens a folder of videos as clips, split by split: the entrance to this package.

See `vvae.data.listing` for the layouts of folders, `vvae.data.splits` for how videos are divided,
`vvae.data.sampling` for how clips are cut, and `vvae.data.cache` for where they are kept.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from vvae.data.cache import NO_TIME_LIMIT, Entry, Limits, cache_videos, identify_file
from vvae.data.cache_quota import Cache
from vvae.data.clips import NO_LABEL, Clips, gather_clips
from vvae.data.collection.clips import CollectionClips
from vvae.data.leaks import find_copies, find_leaks, find_masks
from vvae.data.listing import Video, list_videos
from vvae.data.sampling import ClipFormat, Sampling
from vvae.data.split_names import HOW_TO_STATE, MAIN_SPLITS
from vvae.data.splits import assign_splits, check_groups, find_label_problems
from vvae.data.stream import Stream
from vvae.data.views import View, get_view
from vvae.video import VideoError

__all__ = [
    "MAIN_SPLITS",
    "NO_LABEL",
    "UNSPLIT",
    "Cache",
    "ClipFormat",
    "Clips",
    "Dataset",
    "Decoding",
    "Sampling",
    "Video",
    "assign_splits",
    "describe_flaws",
    "find_label_problems",
    "list_class_names",
    "list_videos",
    "open_dataset",
    "open_unsplit",
]

UNSPLIT = "all"
_MAX_NAMED = 5  # the largest number of broken files that a message names


@dataclass(frozen=True, eq=False)
class Dataset:
    """An opened data set.

    Attributes:
      root: Its folder.
      view: The view that the codes belong to.
      class_names: The sorted names of the classes; a label is an index into them.
      splits: Name -> clips; no split is empty.
      broken: Name of a video that was left out -> reason.
      num_padded: The number of clips that repeat their last frame, because what was left of their
        video is shorter than a clip.
      num_clipped: The number of flow values that exceed the range of their code and were clipped.
      num_decoded: The number of videos that were decoded now; the others came from the cache.
      left_out_splits: Name of a split that was not opened -> number of videos.
      unknown_labels: Label that is not a class -> number of opened videos; their clips have
        NO_LABEL.
      fingerprint: SHA-256 of the contents (relative names, file sizes, labels, splits, groups, clip
        format), which does not depend on where the folder is.
      warnings: What may spoil a test, in words; see `vvae.data.leaks`.
      collection: The training clips of a collection that is decoded as needed; `splits` then holds
        a few of its videos, `train` some of those that are trained on. None if all are decoded.
    """

    root: Path
    view: View
    class_names: tuple[str, ...]
    splits: dict[str, Clips]
    broken: dict[str, str]
    num_padded: int
    num_clipped: int
    num_decoded: int
    left_out_splits: dict[str, int]
    unknown_labels: dict[str, int]
    fingerprint: str
    warnings: tuple[str, ...]
    collection: CollectionClips | None = None

    @property
    def stream(self) -> Stream:
        """The clips that a training reads."""
        return self.splits["train"] if self.collection is None else self.collection


@dataclass(frozen=True)
class Decoding:
    """How videos are decoded into clips, and where these are kept.

    Attributes:
      cache: The folder of decoded clips and its quota; clips that it lacks are decoded into it.
      num_workers: The number of worker processes that decode; 0 decodes in this process.
      on_error: "skip" leaves broken videos out and lists them in `Dataset.broken`; "raise" stops at
        the first one.
      limits: What decoding one video may take; a video that exceeds them counts as broken.

    Raises:
      ValueError: If `on_error` is neither "skip" nor "raise".
    """

    cache: Cache
    num_workers: int = 0
    on_error: Literal["skip", "raise"] = "skip"
    limits: Limits = NO_TIME_LIMIT

    def __post_init__(self):
        if self.on_error not in ("skip", "raise"):
            raise ValueError(f"data.on_error must be skip or raise, got {self.on_error!r}")


def open_dataset(
    root: str | os.PathLike,
    clip_format: ClipFormat,
    decoding: Decoding,
    *,
    extra_splits: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    videos: Sequence[Video] | None = None,
) -> Dataset:
    """Opens the splits `train`, `val` and, if there is one, `test` of a data set.

    Args:
      root: The folder of videos; see `list_videos` for its layout.
      clip_format: The view, size and sampling of the clips.
      decoding: How videos are decoded, and where the decoded clips are kept.
      extra_splits: The names of further splits to open. Their labels count only if they are classes
        of the main splits.
      progress: A function that is called with (videos decoded, videos to decode).
      videos: What `list_videos` has returned for the root; None to list it now.

    Raises:
      ValueError: If the folder cannot be listed or divided into splits, an extra split does not
        exist, a split has no usable clip, or the clips exceed the quota of the cache.
      VideoError: For the first broken video if `decoding.on_error` is "raise".
    """
    listed = list_videos(root) if videos is None else videos
    copies = find_copies(listed)
    divided = assign_splits(listed, copies)
    for split in extra_splits:
        if all(video.split != split for video in divided):
            raise ValueError(
                f"{root} has no split {split!r}; it has "
                f"{', '.join(sorted({video.split for video in divided}))}"
            )
    sides = {
        split: [video for video in divided if video.split == split]
        for split in (*MAIN_SPLITS, *extra_splits)
    }
    opened = [video for side in sides.values() for video in side]
    check_groups(opened)
    named = (video for video in opened if video.split in MAIN_SPLITS)
    decoded = decode_videos(opened, clip_format, decoding, progress)
    left_out = Counter(video.split for video in divided if video.split not in sides)
    origin = Origin(
        root=root,
        clip_format=clip_format,
        class_names=list_class_names(named),
        warnings=find_leaks(listed, divided, copies),
    )
    return assemble(origin, sides, decoded, dict(left_out))


def open_unsplit(
    root: str | os.PathLike,
    clip_format: ClipFormat,
    decoding: Decoding,
    *,
    class_names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    videos: Sequence[Video] | None = None,
) -> Dataset:
    """Opens every video of a folder as the single split `UNSPLIT`, whatever split it states.

    Use it for new videos of a trained model (`root` may be a single video) and for
    cross-validation: the videos keep their own `split` and `group`, by which `Clips.select` can
    choose.

    Args:
      root: The folder of videos, or one video.
      clip_format: The view, size and sampling of the clips.
      decoding: How videos are decoded, and where the decoded clips are kept.
      class_names: The classes of a trained model; videos with other labels are counted in
        `Dataset.unknown_labels`. By default, the labels of these videos.
      progress: A function that is called with (videos decoded, videos to decode).
      videos: What `list_videos` has returned for the root; None to list it now.

    Raises:
      ValueError: If the folder cannot be listed, no clip is usable, or the clips exceed the quota
        of the cache.
      VideoError: For the first broken video if `decoding.on_error` is "raise".
    """
    videos = list_videos(root) if videos is None else videos
    if class_names is None:
        class_names = list_class_names(videos)
    decoded = decode_videos(videos, clip_format, decoding, progress)
    origin = Origin(
        root=root,
        clip_format=clip_format,
        class_names=tuple(class_names),
        warnings=find_masks(videos),
    )
    return assemble(origin, {UNSPLIT: videos}, decoded, {})


def list_class_names(videos: Iterable[Video]) -> tuple[str, ...]:
    """Returns the labels of videos, sorted and without duplicates."""
    return tuple(sorted({video.label for video in videos if video.label is not None}))


def describe_flaws(dataset: Dataset) -> tuple[str, ...]:
    """Describes what may spoil a test, was left out, is unknown, was padded or was clipped."""
    lines = [f"warning: {text}" for text in dataset.warnings]
    lines += [f"left out, cannot be read: {name}: {why}" for name, why in dataset.broken.items()]
    lines += [
        f"left out: split {split!r} with {count} videos"
        for split, count in dataset.left_out_splits.items()
    ]
    lines += [
        f"data: {count} videos have the label {label!r}, which is not a class"
        for label, count in dataset.unknown_labels.items()
    ]
    if dataset.num_padded:
        lines.append(
            f"data: {dataset.num_padded} clips are padded by repeating their last frame, masked"
        )
    if dataset.num_clipped:
        lines.append(f"data: {_describe_clipped(dataset)}")
    return tuple(lines)


def _describe_clipped(dataset: Dataset) -> str:
    """Describes how many flow values exceed the range of their code."""
    shown = dataset.splits.values()
    num_frames = sum(int(clips.mask_NT.sum()) for clips in shown)
    clip_format = next(iter(shown)).clip_format
    frame_size = clip_format.height * clip_format.width * dataset.view.num_flow_channels
    total = num_frames * frame_size
    return (
        f"{dataset.num_clipped:,} of {total:,} flow values ({dataset.num_clipped / total:.2%}) "
        "are clipped: they exceed the range of the 8-bit code"
    )


@dataclass(frozen=True)
class Origin:
    """What is opened, with which classes, and what may spoil a test of it."""

    root: str | os.PathLike
    clip_format: ClipFormat
    class_names: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass
class Decoded:
    """The outcome of decoding, by name of the video."""

    entries: dict[str, Entry] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    num_decoded: int = 0


def decode_videos(
    videos: Sequence[Video],
    clip_format: ClipFormat,
    decoding: Decoding,
    progress: Callable[[int, int], None] | None,
) -> Decoded:
    """Decodes the videos that the cache lacks.

    Raises:
      ValueError: If the clips exceed the quota of the cache.
      VideoError: For the first broken video if `decoding.on_error` is "raise".
    """
    decoded = Decoded()
    paths = [video.path for video in videos]
    results = cache_videos(
        paths,
        clip_format,
        decoding.cache,
        num_workers=decoding.num_workers,
        limits=decoding.limits,
        progress=progress,
    )
    with contextlib.closing(results):
        for position, entry, is_new in results:
            video = videos[position]
            decoded.num_decoded += is_new
            if isinstance(entry, Entry):
                decoded.entries[video.name] = entry
            elif decoding.on_error == "raise":
                raise VideoError(video.path, entry.reason)
            else:
                decoded.broken[video.name] = entry.reason
    return decoded


def assemble(
    origin: Origin,
    sides: dict[str, Sequence[Video]],
    decoded: Decoded,
    left_out_splits: dict[str, int],
) -> Dataset:
    """Makes a data set of decoded videos.

    Args:
      origin: What was opened.
      sides: Name of a split -> its videos.
      decoded: The outcome of decoding them.
      left_out_splits: As in `Dataset`.

    Raises:
      ValueError: If a split has no usable clip.
    """
    splits = {
        split: _collect_clips(origin, split, side, decoded) for split, side in sides.items() if side
    }
    opened = [video for side in sides.values() for video in side]
    unknown = Counter(v.label for v in opened if v.label not in (None, *origin.class_names))
    return Dataset(
        root=Path(origin.root),
        view=get_view(origin.clip_format.view),
        class_names=origin.class_names,
        splits=splits,
        broken=dict(sorted(decoded.broken.items())),
        num_padded=sum(entry.num_padded for entry in decoded.entries.values()),
        num_clipped=sum(entry.num_clipped for entry in decoded.entries.values()),
        num_decoded=decoded.num_decoded,
        left_out_splits=left_out_splits,
        unknown_labels=dict(sorted(unknown.items())),
        fingerprint=_compute_fingerprint(opened, origin.clip_format),
        warnings=origin.warnings,
    )


def _collect_clips(origin: Origin, split: str, side: Sequence[Video], decoded: Decoded) -> Clips:
    usable = [video for video in side if video.name in decoded.entries]
    if not usable:
        raise ValueError(_describe_unusable(origin.root, split, side, decoded.broken))
    entries = [decoded.entries[video.name] for video in usable]
    return gather_clips(origin.clip_format, usable, entries, origin.class_names)


def _describe_unusable(
    root: str | os.PathLike, split: str, side: Sequence[Video], broken: dict[str, str]
) -> str:
    """Names the broken files of a split without a usable clip, and the remedy.

    Splits are drawn from names and identical files alone, so that they do not change with what can
    be decoded: no other split is drawn because files are broken.
    """
    named = [f"{video.name!r} ({broken[video.name]})" for video in side[:_MAX_NAMED]]
    if len(side) > _MAX_NAMED:
        named.append(f"{len(side) - _MAX_NAMED} more")
    remedy = "repair or remove them"
    if split in MAIN_SPLITS:
        remedy += f", or choose the splits yourself: {HOW_TO_STATE}"
    return (
        f"no usable clip in split {split} of {root}: all of its {len(side)} video(s) are "
        f"broken: {', '.join(named)}; {remedy}"
    )


def _compute_fingerprint(videos: Sequence[Video], clip_format: ClipFormat) -> str:
    rows = sorted(
        [video.name, _measure(video.path), video.label, video.split, video.group]
        for video in videos
    )
    versions = get_view(clip_format.view).versions
    text = json.dumps([rows, asdict(clip_format), *versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _measure(path: str) -> int:
    """Returns the size in bytes; -1 for a missing file, which differs from an empty one."""
    try:
        return identify_file(path)[0]
    except VideoError:
        return -1
