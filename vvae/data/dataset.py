"""Opens a folder of videos as clips, split by split: the door to the data.

`vvae.data.listing` says which layouts of folders are understood, `vvae.data.splits` how videos are
divided, `vvae.data.sampling` how clips are cut, `vvae.data.cache` where decoded clips are kept.
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
from vvae.data.listing import MAIN_SPLITS, Video, list_videos
from vvae.data.sampling import ClipFormat, Sampling
from vvae.data.splits import HOW_TO_STATE, assign_splits, check_groups, find_label_problems
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
_MAX_NAMED = 5  # broken files in a message


@dataclass(frozen=True, eq=False)
class Dataset:
    """An opened data set.

    Attributes:
      root: its folder.
      view: what its codes mean.
      class_names: sorted; a label is an index into it.
      splits: name -> clips, none empty.
      broken: name of a video that was left out -> why.
      num_padded: clips that repeat their last frame because their video, or what was left of it,
        is shorter than a clip.
      num_clipped: values of flow that are larger than their code can say, and clipped.
      num_decoded: videos that were decoded by this opening; the others came from the cache.
      left_out_splits: name of a split that was not opened -> number of videos.
      unknown_labels: label that is no class -> number of opened videos; their clips have
        NO_LABEL.
      fingerprint: SHA-256 of what the data are (relative names, file sizes, labels, splits,
        groups, clip format), wherever they lie.
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
) -> Dataset:
    """Opens the splits `train`, `val` and, if there is one, `test` of a data set.

    Args:
      root: The folder of videos; see `list_videos` for its layout.
      clip_format: The view, size and sampling of the clips.
      decoding: How videos are decoded, and where the decoded clips are kept.
      extra_splits: The names of further splits to open. Their labels count only if they are classes
        of the main splits.
      progress: A function that is called with (videos decoded, videos to decode).

    Raises:
      ValueError: If the folder cannot be listed or divided into splits, an extra split does not
        exist, a split has no usable clip, or the clips exceed the quota of the cache.
      VideoError: For the first broken video if `decoding.on_error` is "raise".
    """
    listed = assign_splits(list_videos(root))
    for split in extra_splits:
        if all(video.split != split for video in listed):
            raise ValueError(
                f"{root} has no split {split!r}; it has "
                f"{', '.join(sorted({video.split for video in listed}))}"
            )
    sides = {
        split: [video for video in listed if video.split == split]
        for split in (*MAIN_SPLITS, *extra_splits)
    }
    opened = [video for side in sides.values() for video in side]
    check_groups(opened)
    named = (video for video in opened if video.split in MAIN_SPLITS)
    decoded = _decode(opened, clip_format, decoding, progress)
    left_out = Counter(video.split for video in listed if video.split not in sides)
    source = _Source(root, clip_format, list_class_names(named))
    return _assemble(source, sides, decoded, dict(left_out))


def open_unsplit(
    root: str | os.PathLike,
    clip_format: ClipFormat,
    decoding: Decoding,
    *,
    class_names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
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

    Raises:
      ValueError: If the folder cannot be listed, no clip is usable, or the clips exceed the quota
        of the cache.
      VideoError: For the first broken video if `decoding.on_error` is "raise".
    """
    videos = list_videos(root)
    if class_names is None:
        class_names = list_class_names(videos)
    decoded = _decode(videos, clip_format, decoding, progress)
    return _assemble(_Source(root, clip_format, tuple(class_names)), {UNSPLIT: videos}, decoded, {})


def list_class_names(videos: Iterable[Video]) -> tuple[str, ...]:
    """Returns the labels of videos, sorted, each once."""
    return tuple(sorted({video.label for video in videos if video.label is not None}))


def describe_flaws(dataset: Dataset) -> tuple[str, ...]:
    """Says what of a data set is left out, unknown, filled up or clipped: a line for each."""
    lines = [f"left out, cannot be read: {name}: {why}" for name, why in dataset.broken.items()]
    lines += [
        f"left out: split {split!r} with {count} videos"
        for split, count in dataset.left_out_splits.items()
    ]
    lines += [
        f"data: {count} videos have the label {label!r}, which is no class"
        for label, count in dataset.unknown_labels.items()
    ]
    if dataset.num_padded:
        lines.append(f"data: {dataset.num_padded} clips are filled up by repeating a frame, masked")
    if dataset.num_clipped:
        lines.append(f"data: {_describe_clipped(dataset)}")
    return tuple(lines)


def _describe_clipped(dataset: Dataset) -> str:
    """Says how many values of flow are larger than their code can say."""
    shown = dataset.splits.values()
    num_frames = sum(int(clips.mask_NT.sum()) for clips in shown)
    clip_format = next(iter(shown)).clip_format
    frame_size = clip_format.height * clip_format.width * dataset.view.num_flow_channels
    total = num_frames * frame_size
    return (
        f"{dataset.num_clipped:,} of {total:,} values of flow ({dataset.num_clipped / total:.2%}) "
        "are clipped: larger than 8 bits can say"
    )


@dataclass(frozen=True)
class _Source:
    """What is opened, and with which classes."""

    root: str | os.PathLike
    clip_format: ClipFormat
    class_names: tuple[str, ...]


@dataclass
class _Decoded:
    """The outcome of decoding, by name of the video."""

    entries: dict[str, Entry] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    num_decoded: int = 0


def _decode(
    videos: Sequence[Video],
    clip_format: ClipFormat,
    decoding: Decoding,
    progress: Callable[[int, int], None] | None,
) -> _Decoded:
    decoded = _Decoded()
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


def _assemble(
    source: _Source,
    sides: dict[str, Sequence[Video]],
    decoded: _Decoded,
    left_out_splits: dict[str, int],
) -> Dataset:
    splits = {
        split: _collect_clips(source, split, side, decoded) for split, side in sides.items() if side
    }
    opened = [video for side in sides.values() for video in side]
    unknown = Counter(v.label for v in opened if v.label not in (None, *source.class_names))
    return Dataset(
        root=Path(source.root),
        view=get_view(source.clip_format.view),
        class_names=source.class_names,
        splits=splits,
        broken=dict(sorted(decoded.broken.items())),
        num_padded=sum(entry.num_padded for entry in decoded.entries.values()),
        num_clipped=sum(entry.num_clipped for entry in decoded.entries.values()),
        num_decoded=decoded.num_decoded,
        left_out_splits=left_out_splits,
        unknown_labels=dict(sorted(unknown.items())),
        fingerprint=_compute_fingerprint(opened, source.clip_format),
    )


def _collect_clips(source: _Source, split: str, side: Sequence[Video], decoded: _Decoded) -> Clips:
    usable = [video for video in side if video.name in decoded.entries]
    if not usable:
        raise ValueError(_describe_unusable(source.root, split, side, decoded.broken))
    entries = [decoded.entries[video.name] for video in usable]
    return gather_clips(source.clip_format, usable, entries, source.class_names)


def _describe_unusable(
    root: str | os.PathLike, split: str, side: Sequence[Video], broken: dict[str, str]
) -> str:
    """Says of which broken files a split consists, and what can be done.

    Splits are drawn from names alone, so that they stay when the means to decode change: another
    split is not drawn because files are broken.
    """
    named = [f"{video.name!r} ({broken[video.name]})" for video in side[:_MAX_NAMED]]
    if len(side) > _MAX_NAMED:
        named.append(f"{len(side) - _MAX_NAMED} more")
    remedy = "repair or remove them"
    if split in MAIN_SPLITS:
        remedy += f", or choose the splits yourself: {HOW_TO_STATE}"
    return (
        f"no usable clip in split {split} of {root}: all {len(side)} video(s) of it are "
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
    """Size in bytes; -1 for a file that is not there, which is not an empty one."""
    try:
        return identify_file(path)[0]
    except VideoError:
        return -1
