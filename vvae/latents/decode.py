"""Decodes stores of latents to videos: piece by piece, with memory for one piece."""

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vvae import video
from vvae.inference import streaming
from vvae.latents import posterior
from vvae.latents.dataset import LatentDataset
from vvae.latents.encoder import describe_encoder
from vvae.latents.exports.clip import strip_suffix
from vvae.latents.exports.export import name_clips
from vvae.latents.record import count_frames
from vvae.models import contract
from vvae.models.grid import GridVideoVAE

LATENTS_PER_PIECE = 4
_MAX_DENOMINATOR = 4096


@dataclass(frozen=True)
class Decoded:
    """What was written: the videos, and how many were there already."""

    paths: tuple[Path, ...]
    num_kept: int


@dataclass(frozen=True)
class _Target:
    """A video to write: clips that follow one another in the stream that was encoded."""

    name: str
    indices: tuple[int, ...]
    records: tuple[dict[str, Any], ...]

    @property
    def shape_THW(self) -> tuple[int, int, int]:
        return sum(map(count_frames, self.records)), *self.records[0]["encoded_size"]


def decode_store(
    model: GridVideoVAE,
    params,
    folder: str | os.PathLike,
    out: str | os.PathLike,
    *,
    suffix: str = ".mp4",
    only: Sequence[str] | None = None,
    seed: int | None = None,
    lossless: bool = False,
    say: Callable[[str], None] = print,
) -> Decoded:
    """Writes the videos of a store.

    Clips that were encoded alone are videos of their own; clips that carry the state of their video
    are put together again. Videos that are there already are kept: each is written whole or not at
    all.

    Args:
      model: a GridVideoVAE; its encoder is the one of the store.
      params: its variables.
      folder: the store.
      out: the folder to write to; made if it is missing.
      suffix: of the videos, which chooses the container.
      only: names of videos in the collection; None for all.
      seed: of a sample of the posterior; None for its mean.
      lossless: whether frames are written bit-exactly (see `vvae.video.write_video`).
      say: takes a line about each video.

    Raises:
      ValueError: for latents of another encoder, names that the store has not, or damage.
      VideoError: if a video cannot be written.
    """
    dataset, out = LatentDataset(folder), Path(out)
    check_encoder(dataset, model, params)
    targets = list_targets(dataset, only)
    paths, num_kept = [], 0
    for number, target in enumerate(targets, start=1):
        path = out / f"{target.name}{suffix}"
        paths.append(path)
        if path.exists():
            num_kept += 1
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(model, params, dataset, target, path, seed=seed, lossless=lossless)
        say(f"{number}/{len(targets)} {path}")
    return Decoded(tuple(paths), num_kept)


def decode_file(
    model: GridVideoVAE,
    params,
    folder: str | os.PathLike,
    path: str | os.PathLike,
    *,
    name: str | None = None,
    seed: int | None = None,
    lossless: bool = False,
) -> None:
    """Writes one video of a store to a file, which is replaced if it exists.

    Args:
      model, params, folder, seed, lossless: as for `decode_store`.
      path: the file; its suffix chooses the container.
      name: of the video in the collection; not needed where the store has one.

    Raises:
      ValueError: as `decode_store`, and if the store has several such videos.
    """
    dataset = LatentDataset(folder)
    check_encoder(dataset, model, params)
    targets = list_targets(dataset, None if name is None else [name])
    if len(targets) != 1:
        raise ValueError(
            f"{folder}: {len(targets)} videos would be written to {path}: name one by --name, or "
            "give a folder"
        )
    _write(model, params, dataset, targets[0], Path(path), seed=seed, lossless=lossless)


def check_encoder(dataset: LatentDataset, model: GridVideoVAE, params) -> None:
    """Raises ValueError unless the latents of a store were encoded by this encoder."""
    theirs, ours = dataset.settings["encoder"], describe_encoder(model, params)
    for name in theirs:
        if theirs[name] != ours[name]:
            raise ValueError(
                f"{dataset.folder} holds latents of another encoder ({name} differs): give the "
                "weights, or the run, that they were encoded with"
            )


def list_targets(dataset: LatentDataset, only: Sequence[str] | None) -> list[_Target]:
    """Returns the videos of a store, or those of the given names in the collection.

    Raises:
      ValueError: for a name that the store has not.
    """
    records = list(dataset.records())
    known = {record["source"]["name"] for record in records}
    for name in only or ():
        if name not in known:
            raise ValueError(f"{dataset.folder} holds no latents of {name!r}")
    groups: dict[str, list[int]] = {}
    for index, (record, name) in enumerate(zip(records, name_clips(dataset), strict=True)):
        source = record["source"]["name"]
        if only is not None and source not in only:
            continue
        whole = record["start"] == "carried"
        groups.setdefault(strip_suffix(source) if whole else name, []).append(index)
    return [
        _Target(name, tuple(indices), tuple(records[index] for index in indices))
        for name, indices in groups.items()
    ]


def decode_clips(
    model: GridVideoVAE,
    params,
    dataset: LatentDataset,
    indices: Sequence[int],
    seed: int | None = None,
) -> Iterator[np.ndarray]:
    """Decodes a clip, or several that follow one another and carry the state of their video.

    Args:
      model: a GridVideoVAE.
      params: its variables.
      dataset: the store.
      indices: numbers of the clips; the first one begins a stream.
      seed: of a sample of the posterior; None for its mean.

    Yields:
      Frames uint8 [n, H, W, C], as latents arrive; all at once if the decoder looks ahead.
    """
    records = tuple(dataset.record(index) for index in indices)
    shape_THW = _Target("", tuple(indices), records).shape_THW
    latents = _read_pieces(dataset, indices, seed)
    if model.decodes_causally:
        yield from streaming.decode_video(model, params, latents, shape_THW)
        return
    z_BthwZ = np.concatenate(list(latents), axis=1)
    x_BTHWC = _decode(model)(params, z_BthwZ)
    codes = contract.to_codes(contract.crop(x_BTHWC, shape_THW))
    yield np.rint(np.asarray(codes[0])).astype(np.uint8)


@functools.lru_cache(1)
def _decode(model: GridVideoVAE):
    return jax.jit(functools.partial(contract.decode, model))


def _read_pieces(
    dataset: LatentDataset, indices: Sequence[int], seed: int | None
) -> Iterator[np.ndarray]:
    """Yields raw latents, float32 [1, n, h, w, Z]."""
    for index in indices:
        record = dataset.record(index)
        count = record["shape"][0]
        noise = None
        if seed is not None:
            noise = posterior.draw_noise(seed, record["key"], tuple(record["shape"]))
        for start in range(0, count, LATENTS_PER_PIECE):
            rows = slice(start, start + LATENTS_PER_PIECE)
            clip = dataset.read(index, rows)
            yield dataset.raw(clip, None if noise is None else noise[rows])[None]


def _write(
    model, params, dataset, target: _Target, path: Path, *, seed: int | None, lossless: bool
) -> None:
    first = target.records[0]
    video.write_video_pieces(
        path,
        decode_clips(model, params, dataset, target.indices, seed),
        target.shape_THW[1:],
        first["fps"] or video.NOMINAL_FPS,
        lossless,
        pixel_aspect=_find_aspect(first),
    )


def _find_aspect(record: dict[str, Any]) -> Fraction:
    """Returns the aspect of the pixels of what was encoded."""
    aspect = Fraction(*record["pixel_aspect"])
    (height, width), (rows, columns) = record["original_size"], record["resized"]
    stretch = Fraction(width * rows, height * columns)
    # Rounding of a resized side is no stretch.
    return aspect if math.isclose(stretch, 1, rel_tol=0.02) else (
        (aspect * stretch).limit_denominator(_MAX_DENOMINATOR)
    )  # fmt: skip
