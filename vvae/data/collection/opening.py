"""Opens a collection for training: its index, and a few videos that are decoded beforehand."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from vvae.data.collection.clips import CollectionClips
from vvae.data.collection.division import divide
from vvae.data.collection.index import Index, open_index
from vvae.data.collection.sources import keep_file, read_texts
from vvae.data.dataset import (
    Dataset,
    Decoding,
    Origin,
    assemble,
    decode_videos,
    list_class_names,
)
from vvae.data.listing import Video
from vvae.data.sampling import ClipFormat
from vvae.data.views import get_view
from vvae.files import is_disk_full
from vvae.video import VideoError

_KEPT = "videos"  # folder in that of an index, of videos that were copied out of tars


def open_collection(
    root: str | os.PathLike,
    clip_format: ClipFormat,
    decoding: Decoding,
    *,
    indices: Path,
    subset: int,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Opens a collection: no more of it is read than its index and `subset` videos a split.

    These videos are decoded into the cache: those of `val` and `test`, and for `train` some of
    those that `Dataset.collection` draws from, on which statistics are measured. Of tars, they are
    copied beside the index. Which they are depends on the collection alone.

    Args:
      root: WebDataset tars, a .csv or .parquet with a column `path`, or a folder of videos.
      clip_format: The view, size and sampling of the clips.
      decoding: How videos are decoded, and where decoded clips are kept.
      indices: The folder of the indices.
      subset: The largest number of videos of each split that are decoded beforehand.
      progress: A function that is called with (tars indexed, tars), then with (videos decoded,
        videos to decode).

    Raises:
      ValueError: As `open_index`, `divide` and `open_dataset`.
      VideoError: For the first broken video if `decoding.on_error` is "raise".
    """
    index = open_index(root, indices, progress)
    division = divide(index, subset)
    broken: dict[str, str] = {}
    sides = {
        split: [
            video
            for row in rows.take(subset)
            if (video := _take_out(index, int(row), split, decoding, broken)) is not None
        ]
        for split, rows in division.splits.items()
    }
    videos = [video for side in sides.values() for video in side]
    decoded = decode_videos(videos, clip_format, decoding, progress)
    class_names = index.classes or list_class_names(videos)
    origin = Origin(root=root, clip_format=clip_format, class_names=class_names, warnings=())
    dataset = assemble(origin, sides, decoded, division.left_out)
    collection = CollectionClips(
        index=index,
        rows=division.splits["train"],
        clip_format=clip_format,
        class_names=class_names,
        num_workers=decoding.num_workers,
        limits=decoding.limits,
        on_error=decoding.on_error,
    )
    facts = [index.digest, asdict(clip_format), subset, *get_view(clip_format.view).versions]
    return replace(
        dataset,
        broken=dict(sorted((dataset.broken | broken).items())),
        fingerprint=hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(),
        collection=collection,
    )


def _take_out(
    index: Index, row: int, split: str, decoding: Decoding, broken: dict[str, str]
) -> Video | None:
    """Returns a video as one of a folder; None, with the reason in `broken`, if it is damaged."""
    source = index[row]
    try:
        metadata = read_texts(source)
        path = keep_file(source, index.folder / _KEPT, f"{row:09}")
    except (ValueError, OSError) as error:
        if is_disk_full(error):
            raise
        if decoding.on_error == "raise":
            raise VideoError(source.name, str(error)) from error
        broken[source.name] = " ".join(str(error).split())
        return None
    return Video(
        path=path,
        name=source.name,
        label=metadata.get("label") or None,
        group=source.name,
        split=split,
        metadata=metadata,
    )
