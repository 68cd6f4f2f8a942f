"""Finds the videos of a data set: a folder, class folders, split folders, or a manifest.csv."""

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
    """One video of a data set, as listed; nothing of it has been read yet.

    Attributes:
      path: absolute path of the file, or of the folder of image frames.
      name: path relative to the data set's root, with `/`.
      label: name of its class, None if it has none.
      group: what must not be cut by a split (a performer, a place); its own name by default.
      split: `train`, `val`, `test` or another name; None if not stated.
      metadata: every other column of the manifest, as text.
    """

    path: str
    name: str
    label: str | None
    group: str
    split: str | None
    metadata: dict[str, str] = field(default_factory=dict)


def list_videos(root: str | os.PathLike) -> tuple[Video, ...]:
    """Lists the videos of a data set, ordered by name.

    With `ROOT/manifest.csv` the manifest alone counts. Else, if one of the folders `train`, `val`,
    `test` is there, every folder of the root is a split. The first folder below the root (or the
    split) is the label of the videos in it; videos that lie directly there have none. A folder
    that holds image frames and no video is one video. Hidden files are ignored; links are
    followed, except back into a folder that is being listed. A root that is itself a video is
    listed as this one video. Files named by a manifest are not looked at here: a missing one shows
    when it is read.

    Raises:
      ValueError: if there is no such folder or no video in it, and for manifests that cannot be
        followed (no `path` column, duplicate paths, paths out of the folder, ...).
    """
    folder = os.path.abspath(root)
    if not os.path.exists(folder):
        raise ValueError(f"no such folder: {folder}; --data.path must name a folder of videos")
    manifest = os.path.join(folder, MANIFEST)
    if os.path.isfile(manifest):
        videos = _read_manifest(folder, manifest)
    elif not os.path.isdir(folder) or _is_frame_folder(folder):
        name = os.path.basename(folder)
        videos = [Video(folder, name, None, name, None)] if is_video(folder) else []
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
                f"{os.path.join(root, name)} lies beside the split folders: move it into one of "
                f"{', '.join(MAIN_SPLITS)}"
            )
    return [_make_video(root, name, name.split("/")[1:], name.split("/")[0]) for name in names]


def _make_video(root: str, name: str, below_split: list[str], split: str | None) -> Video:
    label = below_split[0] if len(below_split) > 1 else None
    return Video(os.path.join(root, *name.split("/")), name, label, name, split)


def _walk(folder: str, ancestors: tuple[str, ...]) -> Iterator[str]:
    """Yields the paths of the videos below a folder; `ancestors` end loops of links."""
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

    Pictures that lie beside videos (posters, thumbnails) do not make their folder a video.
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
    """Yields line number and stripped cells of every row that is not blank."""
    try:
        with open(manifest, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", skipinitialspace=True, strict=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            _check_columns(manifest, columns)
            reader.fieldnames = columns
            for row in reader:
                if None in row:
                    raise ValueError(
                        f"{manifest}, line {reader.line_num}: {len(row[None])} cells more than "
                        "columns; put quotes around text that holds a comma"
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
        raise ValueError(f"{where}: {row['path']!r} is no path of a file")
    path = os.path.normpath(os.path.join(root, row["path"]))
    if not path.startswith(os.path.join(root, "")):
        raise ValueError(f"{where}: {row['path']!r} leaves the folder; name files inside {root}")
    name = Path(path).relative_to(root).as_posix()
    return Video(
        path=path,
        name=name,
        label=row.get("label") or None,
        group=row.get("group") or name,
        split=row.get("split") or None,
        metadata={column: cell for column, cell in row.items() if column not in _KNOWN_COLUMNS},
    )
