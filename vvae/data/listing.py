"""Lists the videos of a data set: a folder, class folders, split folders, or a manifest.csv."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vvae.video import IMAGE_SUFFIXES, is_video

MANIFEST = "manifest.csv"
MAIN_SPLITS = ("train", "val", "test")
_KNOWN_COLUMNS = ("path", "label", "group", "split")


@dataclass(frozen=True)
class Video:
    """One video of a data set, as listed; none of it has been read yet.

    Attributes:
      path: The absolute path of the file, or of the folder of image frames.
      name: The path relative to the root of the data set, with `/`.
      label: The name of its class; None if it has none.
      group: What a split must not separate (a performer, a place); by default the name of the
        video.
      split: `train`, `val`, `test` or another name; None if it is not stated.
      metadata: All other columns of the manifest, as text.
    """

    path: str
    name: str
    label: str | None
    group: str
    split: str | None
    metadata: dict[str, str] = field(default_factory=dict)


def list_videos(root: str | os.PathLike) -> tuple[Video, ...]:
    """Lists the videos of a data set, ordered by name.

    The layout decides about splits and labels:

    * If `ROOT/manifest.csv` exists, only the videos that it lists count. Their files are not
      accessed here: a missing one shows when it is read.
    * Otherwise, if one of the folders `train`, `val`, `test` exists, every folder of the root is a
      split.
    * The first folder below the root (or the split) is the label of the videos in it; videos
      directly in the root (or the split) have no label.
    * A folder that holds image frames but no video is one video.
    * A root that is itself a video is listed as this one video.

    Hidden files are ignored. Links are followed, except back into a folder that is being listed.

    Args:
      root: The folder, or one video.

    Raises:
      ValueError: If the folder does not exist or holds no video, or if the manifest is invalid (no
        column `path`, duplicate paths, paths outside the folder, ...).
    """
    folder = os.path.abspath(root)
    if not os.path.exists(folder):
        raise ValueError(f"no such folder: {folder}; --data.path must name a folder of videos")
    manifest = os.path.join(folder, MANIFEST)
    if os.path.isfile(manifest):
        videos = _read_manifest(folder, manifest)
    elif not os.path.isdir(folder) or _is_frame_folder(folder):
        name = os.path.basename(folder)
        single = Video(path=folder, name=name, label=None, group=name, split=None)
        videos = [single] if is_video(folder) else []
    else:
        videos = _list_folder(folder)
    if not videos:
        raise ValueError(
            f"no videos in {folder}: put video files, folders of image frames, or a {MANIFEST} "
            "with a column `path` there"
        )
    return tuple(sorted(videos, key=lambda video: video.name))


def _list_folder(root: str) -> list[Video]:
    names = [
        Path(path).relative_to(root).as_posix() for path in _walk(root, (os.path.realpath(root),))
    ]
    has_splits = any(os.path.isdir(os.path.join(root, split)) for split in MAIN_SPLITS)
    if not has_splits:
        return [_make_video(root, name, name.split("/"), None) for name in names]
    for name in names:
        if "/" not in name:
            raise ValueError(
                f"{os.path.join(root, name)} is outside the split folders: move it into one of "
                f"{', '.join(MAIN_SPLITS)}"
            )
    return [_make_video(root, name, name.split("/")[1:], name.split("/")[0]) for name in names]


def _make_video(root: str, name: str, below_split: list[str], split: str | None) -> Video:
    label = below_split[0] if len(below_split) > 1 else None
    path = os.path.join(root, *name.split("/"))
    return Video(path=path, name=name, label=label, group=name, split=split)


def _walk(folder: str, ancestors: tuple[str, ...]) -> Iterator[str]:
    """Yields the paths of the videos below a folder; `ancestors` break cycles of links."""
    with os.scandir(folder) as entries:
        visible = sorted(entry.path for entry in entries if not entry.name.startswith("."))
    for path in visible:
        if not os.path.isdir(path):
            if is_video(path):
                yield path
        elif os.path.realpath(path) not in ancestors:
            if _is_frame_folder(path):
                yield path
            else:
                yield from _walk(path, (*ancestors, os.path.realpath(path)))


def _is_frame_folder(folder: str) -> bool:
    """Whether a folder is one video: it holds image frames, and neither videos nor folders.

    Images beside videos (posters, thumbnails) do not make their folder a video.
    """
    if not os.path.isdir(folder):
        return False
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    if any(entry.is_dir() or is_video(entry.path) for entry in visible):
        return False
    return any(Path(entry.name).suffix.lower() in IMAGE_SUFFIXES for entry in visible)


def _read_manifest(root: str, manifest: str) -> list[Video]:
    videos: dict[str, Video] = {}
    for line, row in _read_rows(manifest):
        video = _parse_row(root, f"{manifest}, line {line}", row)
        if video.path in videos:
            raise ValueError(f"{manifest}, line {line}: {video.name!r} is listed twice")
        videos[video.path] = video
    return list(videos.values())


def _read_rows(manifest: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the line number and the stripped cells of every row that is not blank."""
    try:
        with open(manifest, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", skipinitialspace=True, strict=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            _check_columns(manifest, columns)
            reader.fieldnames = columns
            for row in reader:
                if None in row:
                    raise ValueError(
                        f"{manifest}, line {reader.line_num}: {len(row[None])} more cells than "
                        "columns; put quotes around text that contains a comma"
                    )
                yield reader.line_num, {column: cell.strip() for column, cell in row.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{manifest}: not a CSV file in UTF-8 ({error})") from error


def _check_columns(manifest: str, columns: list[str]) -> None:
    if "path" not in columns:
        raise ValueError(f"{manifest}: no column `path` (columns: {', '.join(columns) or 'none'})")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise ValueError(f"{manifest}: column {twice[0]!r} appears twice")


def _parse_row(root: str, where: str, row: dict[str, str]) -> Video:
    if not row["path"]:
        raise ValueError(f"{where}: the cell `path` is empty")
    if "\0" in row["path"]:
        raise ValueError(f"{where}: {row['path']!r} is not a valid path")
    path = os.path.normpath(os.path.join(root, row["path"]))
    if not path.startswith(os.path.join(root, "")):
        raise ValueError(f"{where}: {row['path']!r} is outside the folder; name files in {root}")
    name = Path(path).relative_to(root).as_posix()
    return Video(
        path=path,
        name=name,
        label=row.get("label") or None,
        group=row.get("group") or name,
        split=row.get("split") or None,
        metadata={column: cell for column, cell in row.items() if column not in _KNOWN_COLUMNS},
    )
