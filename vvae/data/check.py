"""Summarizes a folder of videos: what it contains, and what is broken."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vvae.data.leaks import find_copies, find_leaks
from vvae.data.listing import Video, count_other_files, list_videos
from vvae.data.recommend import Recommendation, recommend
from vvae.data.split_names import MAIN_SPLITS
from vvae.data.splits import assign_splits, find_label_problems
from vvae.data.workers import run_in_workers
from vvae.program import name_command
from vvae.video import VideoError, VideoInfo, probe

_MAX_ROWS = 20
# Videos that are not read. Files with other suffixes are hardly videos.
_UNREAD_SUFFIXES = (
    ".264", ".265", ".amv", ".apng", ".braw", ".divx", ".dv", ".h264", ".h265", ".hevc", ".insv",
    ".lrv", ".m1v", ".m2v", ".mjpeg", ".mjpg", ".mk3d", ".mod", ".mxf", ".nut", ".ogm", ".qt",
    ".r3d", ".rm", ".rmvb", ".swf", ".tod", ".webp", ".wtv", ".y4m", ".yuv",
)  # fmt: skip
_SECONDS = 3600.0  # the limit on decoding one video: the default of data.decode_seconds


@dataclass(frozen=True)
class Summary:
    """The result of `summarize`.

    Attributes:
      root: The folder.
      num_videos: The number of listed videos, broken ones included.
      num_frames: The number of frames of each readable video, in the order of names.
      classes: Label -> number of videos.
      unlabelled: The names of the videos without a label.
      copies: The names of videos that are byte-identical, together.
      num_groups: The number of different groups.
      splits: Split -> number of readable videos; empty if the videos cannot be divided.
      sizes: "WIDTHxHEIGHT" after rotation -> number of videos.
      rates: Mean frames/s, rounded to 0.01 -> number of videos.
      broken: Name of an unreadable video -> reason.
      ignored: Suffix -> number of other files in the folder.
      problems: The obstacles to training, in words.
      recommendation: The configuration to train with; None if no video can be read.
    """

    root: Path
    num_videos: int
    num_frames: tuple[int, ...]
    classes: dict[str, int]
    unlabelled: tuple[str, ...]
    copies: tuple[tuple[str, ...], ...]
    num_groups: int
    splits: dict[str, int]
    sizes: dict[str, int]
    rates: dict[float, int]
    broken: dict[str, str]
    ignored: dict[str, int]
    problems: tuple[str, ...]
    recommendation: Recommendation | None


def summarize(
    root: str | os.PathLike,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Decodes every video of a folder once, without storing anything, and sums up the result.

    Args:
      root: The folder of videos; see `list_videos`.
      num_workers: The number of worker processes that decode; 0 decodes in this process.
      progress: A function that is called with (videos decoded so far, videos).

    Raises:
      ValueError: If the folder cannot be listed. Broken videos and impossible splits are reported
        in the summary instead.
    """
    videos = list_videos(root)
    infos: dict[str, VideoInfo] = {}
    broken: dict[str, str] = {}
    paths = [video.path for video in videos]
    results = run_in_workers(_probe_or_explain, paths, num_workers, _SECONDS)
    for num_done, (position, info) in enumerate(results, start=1):
        video = videos[position]
        if isinstance(info, VideoInfo):
            infos[video.name] = info
        else:
            broken[video.name] = str(info).removeprefix(f"{video.path}: ")
        if progress is not None:
            progress(num_done, len(videos))
    ordered = [infos[video.name] for video in videos if video.name in infos]
    copies = find_copies(videos)
    splits, problems = _summarize_splits(videos, copies, broken)
    return Summary(
        root=Path(root),
        num_videos=len(videos),
        num_frames=tuple(info.num_frames for info in ordered),
        classes=_count(video.label for video in videos if video.label is not None),
        unlabelled=tuple(video.name for video in videos if video.label is None),
        copies=copies,
        num_groups=len({video.group for video in videos}),
        splits=splits,
        sizes=_count(f"{info.width}x{info.height}" for info in ordered),
        rates=_count(round(info.fps, 2) for info in ordered),
        broken=dict(sorted(broken.items())),
        ignored=count_other_files(os.path.abspath(root), videos),
        problems=problems,
        recommendation=recommend(readable) if (readable := _drop(videos, broken)) else None,
    )


def _drop(videos: Iterable[Video], broken: dict[str, str]) -> tuple[Video, ...]:
    return tuple(video for video in videos if video.name not in broken)


def format_summary(summary: Summary) -> str:
    """Formats a summary as lines of text."""
    num_frames = summary.num_frames
    lines = [
        f"{summary.root}",
        f"  videos   {summary.num_videos} ({len(summary.broken)} broken)",
    ]
    if num_frames:
        lines += [
            f"  frames   {sum(num_frames):,} in all, {min(num_frames)} to {max(num_frames)} a "
            f"video, median {np.median(num_frames):.0f}",
            f"  sizes    {_format_counts(summary.sizes)}",
            f"  rates    {_format_counts({f'{fps:g}/s': n for fps, n in summary.rates.items()})}",
        ]
    lines += [
        f"  classes  {_format_classes(summary)}",
        f"  groups   {summary.num_groups}",
        *_format_many("copies", [" = ".join(same) for same in summary.copies]),
        f"  splits   {_format_counts(summary.splits) or 'none'}",
    ]
    others = [split for split in summary.splits if split not in MAIN_SPLITS]
    if others:
        lines.append(f"           left out unless asked for: {', '.join(others)}")
    lines += _format_ignored(summary.ignored)
    lines += [f"  broken   {name}: {reason}" for name, reason in summary.broken.items()]
    lines += [f"  problem  {problem}" for problem in summary.problems]
    return "\n".join([*lines, *_format_advice(summary)])


def _format_advice(summary: Summary) -> list[str]:
    """Formats the command to train with, and why."""
    advice = summary.recommendation
    if advice is None:
        return []
    path = shlex.quote(str(summary.root))
    return [
        f"  advice   {name_command('train')} {advice.config} --data.path {path}",
        f"           ({advice.reason})",
    ]


def _format_classes(summary: Summary) -> str:
    if not summary.classes:
        return "none: the videos have no labels"
    text = f"{len(summary.classes)}: {_format_counts(summary.classes)}"
    if summary.unlabelled:
        text += f"; {len(summary.unlabelled)} without a label, such as {summary.unlabelled[0]}"
    return text


def _format_many(title: str, rows: list[str]) -> list[str]:
    """Formats a line for each of the first rows, and one that counts the others."""
    if len(rows) > _MAX_ROWS:
        rows = [*rows[:_MAX_ROWS], f"and {len(rows) - _MAX_ROWS} more"]
    return [f"  {title:<8} {row}" for row in rows]


def _format_ignored(ignored: dict[str, int]) -> list[str]:
    unread = {suffix: n for suffix, n in ignored.items() if suffix in _UNREAD_SUFFIXES}
    others = {suffix: n for suffix, n in ignored.items() if suffix not in _UNREAD_SUFFIXES}
    lines = []
    if unread:
        lines.append(
            f"  ignored  videos of unread formats: {_format_counts(unread)}; convert them to .mp4"
        )
    if others:
        lines.append(f"  ignored  other files: {_format_counts(others)}")
    return lines


def _probe_or_explain(path: str) -> VideoInfo | VideoError:
    try:
        return probe(path)
    except VideoError as error:
        return error


def _summarize_splits(
    videos: tuple[Video, ...], copies: tuple[tuple[str, ...], ...], broken: dict[str, str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Counts the readable videos of each split, and lists the problems of splits and classes."""
    if len(broken) == len(videos):
        return {}, ("no video can be read", *find_leaks(videos, videos, copies))
    try:
        divided = assign_splits(videos, copies)
    except ValueError as error:
        return {}, (str(error), *find_leaks(videos, videos, copies))
    readable = _drop(divided, broken)
    counts = Counter(video.split for video in readable)
    names = [*MAIN_SPLITS, *sorted(set(counts) - set(MAIN_SPLITS))]
    sizes = {name: counts[name] for name in names if name in counts}
    return sizes, (*find_leaks(videos, divided, copies), *find_label_problems(readable))


def _count(values: Iterable) -> dict:
    """Counts equal values; the most frequent come first, then the smaller values."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _format_counts(counts: dict[str, int]) -> str:
    """Formats counts in one line; sums up the rarest if there are many."""
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:_MAX_ROWS]]
    if len(counts) > _MAX_ROWS:
        shown.append(f"and {len(counts) - _MAX_ROWS} more")
    return ", ".join(shown)
