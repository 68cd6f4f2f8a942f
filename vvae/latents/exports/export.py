"""Exports a store of latents to the format of a trainer."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vvae.latents.dataset import LatentDataset
from vvae.latents.exports import fastvideo, maxdiffusion, musubi, torch_caches
from vvae.latents.exports.clip import ExportClip, strip_suffix


def _accept(network: str) -> None:
    """Accepts every encoder."""
    del network


@dataclass(frozen=True)
class Format:
    """A format of latents.

    Attributes:
      write: (clips, folder to write to, where the folder will lie) -> nothing.
      check: raises ValueError for the class of an encoder that the format has no place for.
      needs_text: whether its reader fails on clips without embeddings of a caption.
      note: what the trainer needs beside the export.
    """

    write: Callable[[Iterator[ExportClip], Path, Path], None]
    check: Callable[[str], None] = _accept
    needs_text: bool = False
    note: str = ""


FORMATS = {
    "maxdiffusion": Format(
        lambda clips, out, final: maxdiffusion.write(clips, out),
        needs_text=True,
        note="each folder CxTxHxW is a data set of its own",
    ),
    "fastvideo": Format(
        lambda clips, out, final: fastvideo.write(clips, out),
        note="each folder CxTxHxW is a data set of its own; without --text it has no captions' "
        "embeddings",
    ),
    "musubi": Format(
        lambda clips, out, final: musubi.write(clips, out),
        musubi.check_network,
        note="give the folder as cache_directory; musubi-tuner caches the captions itself",
    ),
    "ltx2": Format(
        lambda clips, out, final: torch_caches.write_ltx2(clips, out),
        note="its script process_captions.py writes .precomputed/conditions beside the latents",
    ),
    "finetrainers": Format(
        lambda clips, out, final: torch_caches.write_finetrainers(clips, out),
        note="captions are cached as condition-N.pt beside latent-N.pt",
    ),
    "automodel": Format(
        torch_caches.write_automodel,
        torch_caches.check_automodel,
        needs_text=True,
        note="metadata.json holds absolute paths: export again rather than moving the folder",
    ),
}


@dataclass(frozen=True)
class Exported:
    """What was exported: the number of clips, of each shape (C, T, H, W), and a note."""

    num_clips: int
    shapes: dict[tuple[int, ...], int]
    note: str


def export_store(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    name: str,
    *,
    text: str | os.PathLike | None = None,
    seed: int = 0,
) -> Exported:
    """Exports all clips of a store; the folder is there when it is complete.

    Args:
      folder: the store.
      out: the folder to make.
      name: one of FORMATS.
      text: folder of embeddings of captions, NAME.npy, float [L, D], for each video NAME.mp4.
      seed: of the noise, where a format holds samples; it depends on the clip besides.

    Raises:
      ValueError: for an unknown format, an encoder or a clip that it has no place for, missing
        text, a folder that exists, a damaged store, or a missing package.
    """
    if name not in FORMATS:
        raise ValueError(f"no format {name!r}: choose {', '.join(FORMATS)}")
    dataset, form, out = LatentDataset(folder), FORMATS[name], Path(out)
    network = dataset.settings["encoder"]["network"].get("_class_name", "unknown")
    form.check(network)
    if form.needs_text and text is None:
        raise ValueError(
            f"{name} reads latents together with embeddings of captions: give a folder of them "
            "(--text), NAME.npy [L, D] for each video NAME.mp4"
        )
    if out.exists():
        raise ValueError(f"{out} exists: give the name of a new folder")
    names = name_clips(dataset)
    shapes: Counter[tuple[int, ...]] = Counter()

    def iterate() -> Iterator[ExportClip]:
        for index, clip in enumerate(dataset):
            found = ExportClip(
                mean=np.asarray(clip["mean"], np.float32),
                std=np.asarray(clip["std"], np.float32),
                record=clip["record"],
                scale=dataset.scale,
                network=network,
                name=names[index],
                text=None if text is None else read_text(Path(text), clip["record"]),
                seed=seed,
            )
            shapes[found.shape] += 1
            yield found

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    part.mkdir()
    try:
        form.write(iterate(), part, out)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(len(dataset), dict(shapes), form.note)


def name_clips(dataset: LatentDataset) -> list[str]:
    """Returns a path without suffix for each clip, unique: the video's, with the clip's number
    where videos have several.

    Raises:
      ValueError: if two videos differ in nothing but the suffix, or in where a list says they are.
    """
    records = [(record["source"]["name"], record["clip"]) for record in dataset.records()]
    videos: dict[str, str] = {}
    for video, _ in records:
        other = videos.setdefault(strip_suffix(video), video)
        if other != video:
            raise ValueError(f"{other} and {video} would be one file: rename one")
    if all(clip == 0 for _, clip in records):
        return [strip_suffix(video) for video, _ in records]
    return [f"{strip_suffix(video)}_{clip:05}" for video, clip in records]


def read_text(folder: Path, record) -> np.ndarray:
    """Reads the embeddings of the caption of a clip's video, float32 [L, D].

    Raises:
      ValueError: naming the file, if it is missing or is no array of two axes.
    """
    path = folder / f"{strip_suffix(record['source']['name'])}.npy"
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: the embeddings cannot be read: {error}") from error
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{path}: embeddings are float [L, D], not {array.dtype} {array.shape}")
    return np.asarray(array, np.float32)
