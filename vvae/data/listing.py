"""Lists the videos of a data set: a folder, class folders, split folders, or a manifest.csv."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vvae.data.manifest import read_rows
from vvae.data.split_names import MAIN_SPLITS, find_main_split, unify_splits
from vvae.files import is_same_file
from vvae.video import IMAGE_SUFFIXES, is_video

MANIFEST = "manifest.csv"
# What a manifest is called where it was saved under another name or in another format.
_MISNAMED_MANIFESTS = (
    MANIFEST,
    "manifest.csv.txt",
    "manifest.tsv",
    "manifest.xlsx",
    "manifest.ods",
)
_KNOWN_COLUMNS = ("path", "label", "group", "split")
_MAX_NAMED = 3  # the largest number of folders that a message names


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
      metadata: All other columns of the manifest, by their names in lower case, as text.
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
    * Otherwise, if the folders of the root have the names of two main splits, or of one and there
      is no other folder, every folder of the root is a split.
    * The first folder below the root (or the split) is the label of the videos in it; videos
      directly in the root (or the split) have no label.
    * A folder that holds image frames but no video is one video.
    * A root that is itself a video is listed as this one video.

    The main splits `train`, `val` and `test` may be spelled in any case, and as `training`;
    `valid`, `validation` or `dev`; `testing`, `eval` or `evaluation`. Hidden files are ignored.
    Links are followed, except back into a folder that is being listed.

    Args:
      root: The folder, or one video.

    Raises:
      ValueError: If the folder does not exist or holds no video, if the manifest is invalid (no
        column `path`, duplicate paths, paths outside the folder, ...), if two folders (or names in
        the manifest) spell the same split, or if one folder has the name of a split and others have
        not: it may be a split or a class.
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
        _refuse_misnamed_manifest(folder)
        videos = _list_folder(folder)
    if not videos:
        found = ", ".join(f"{suffix} ({n})" for suffix, n in count_other_files(folder, ()).items())
        raise ValueError(
            f"no videos in {folder}{f', only other files: {found}' if found else ''}: put video "
            f"files, folders of image frames, or a {MANIFEST} with a column `path` and a row for "
            "each video there"
        )
    return tuple(sorted(videos, key=lambda video: video.name))


def refuse_listed(folder: str | os.PathLike, root: str | os.PathLike) -> None:
    """Raises ValueError if pictures written below `folder` would be listed as videos of `root`.

    They would be if the folder is the root or inside it, unless it is hidden or the root has a
    manifest.
    """
    if os.path.isfile(os.path.join(root, MANIFEST)):
        return
    resolved = Path(folder).resolve()
    for ancestor in (resolved, *resolved.parents):
        if is_same_file(ancestor, root):
            raise ValueError(
                f"{folder} is inside the folder of videos {root}: what is written there would be "
                f"read as videos. Move one of them, or list the videos in a {MANIFEST}"
            )
        if ancestor.name.startswith("."):
            return


def count_other_files(root: str, videos: Collection[Video]) -> dict[str, int]:
    """Counts, by suffix, the visible files that are neither a listed video nor a frame of one."""
    listed = {video.path for video in videos}
    others: Counter[str] = Counter()
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.join(folder, name) not in listed
        ]
        for name in files:
            path = os.path.join(folder, name)
            if not name.startswith(".") and path not in listed and folder not in listed:
                others[Path(name).suffix.lower() or "no suffix"] += name != MANIFEST
    return dict(sorted((+others).items()))


def _list_folder(root: str) -> list[Video]:
    names = [
        Path(path).relative_to(root).as_posix() for path in _walk(root, (os.path.realpath(root),))
    ]
    folders = sorted({name.partition("/")[0] for name in names if "/" in name})
    spelled = [folder for folder in folders if find_main_split(folder)]
    if not spelled:
        return [_make_video(root, name, name.split("/"), None) for name in names]
    for name in names:
        if "/" not in name:
            raise ValueError(
                f"{os.path.join(root, name)} is outside the split folders: move it into one of "
                f"{', '.join(MAIN_SPLITS)}"
            )
    split_of = unify_splits(folders, root)
    others = [folder for folder in folders if folder not in spelled]
    if others and len({split_of[folder] for folder in spelled}) == 1:
        _refuse_lone_split(root, spelled[0], others)
    return [
        _make_video(root, name, name.split("/")[1:], split_of[name.partition("/")[0]])
        for name in names
    ]


def _refuse_lone_split(root: str, name: str, others: list[str]) -> None:
    named = ", ".join(map(repr, others[:_MAX_NAMED]))
    more = f" and {len(others) - _MAX_NAMED} more" if len(others) > _MAX_NAMED else ""
    raise ValueError(
        f"{root}: the folder {name!r} has the name of a split, {named}{more} beside it not. If it "
        f"is a split, give every video one by folders {', '.join(MAIN_SPLITS)}; if it is a class, "
        f"rename it, or list the videos in a {MANIFEST} with the columns `path` and `label`"
    )


def _refuse_misnamed_manifest(root: str) -> None:
    for name in sorted(os.listdir(root)):
        if name.casefold() in _MISNAMED_MANIFESTS:
            raise ValueError(
                f"{os.path.join(root, name)} is not read: save it as {MANIFEST} (CSV in UTF-8), or "
                "rename it if it does not list the videos"
            )


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
    for line, row in read_rows(manifest):
        video = _parse_row(root, f"{manifest}, line {line}", row)
        if video.path in videos:
            raise ValueError(f"{manifest}, line {line}: {video.name!r} is listed twice")
        videos[video.path] = video
    stated = {video.split for video in videos.values() if video.split is not None}
    split_of = unify_splits(stated, f"{manifest}, column split")
    return [replace(video, split=split_of.get(video.split)) for video in videos.values()]


def _parse_row(root: str, where: str, row: dict[str, str]) -> Video:
    if not row["path"]:
        raise ValueError(f"{where}: the cell `path` is empty")
    if "\0" in row["path"]:
        raise ValueError(f"{where}: {row['path']!r} is not a valid path")
    path = os.path.normpath(os.path.join(root, row["path"]))
    if not path.startswith(os.path.join(root, "")):
        raise ValueError(f"{where}: {row['path']!r} is outside the folder; name files in {root}")
    if "\\" in row["path"] and not os.path.exists(path):
        raise ValueError(f"{where}: {row['path']!r}: no such file; paths take / in place of \\")
    name = Path(path).relative_to(root).as_posix()
    return Video(
        path=path,
        name=name,
        label=row.get("label") or None,
        group=row.get("group") or name,
        split=row.get("split") or None,
        metadata={column: cell for column, cell in row.items() if column not in _KNOWN_COLUMNS},
    )
