"""Settings -> data, model, loaded run."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vvae import runtime
from vvae.config import Config, require_videos
from vvae.data.cache import Limits
from vvae.data.clips import Clips
from vvae.data.collection.index import INDICES, find_kind
from vvae.data.collection.opening import open_collection
from vvae.data.dataset import (
    Cache,
    ClipFormat,
    Dataset,
    Decoding,
    Sampling,
    open_dataset,
    open_unsplit,
)
from vvae.data.listing import refuse_listed
from vvae.data.performers import write_performers
from vvae.data.tiles import cut_tiles
from vvae.models.bottleneck import FiniteScalars, GaussianLatents
from vvae.models.causal import CausalVideoVAE
from vvae.models.grid import GridVideoVAE
from vvae.models.sequential import SequentialVAE
from vvae.pretrained.distilled import DistilledVAE, distil
from vvae.pretrained.load import build_network, is_published, load_pretrained
from vvae.run import Run, open_run
from vvae.training.checkpoint import Checkpointer


def find_videos(config: Config, progress=None) -> Path:
    """Returns the folder of the videos; writes the built-in data set where that is asked for.

    Args:
      config: the settings.
      progress: called with (videos written, videos to write).

    Raises:
      ValueError: if the settings are for another data set and name no folder.
    """
    if config.data.path is not None:
        return Path(config.data.path)
    require_videos(config)
    folder = runtime.cache_folder() / "performers"
    write_performers(folder, num_workers=count_workers(config), progress=progress)
    return folder


def count_workers(config: Config) -> int:
    """Returns the number of processes that decode videos."""
    return os.cpu_count() or 1 if config.data.workers is None else config.data.workers


def open_data(config: Config, folder, progress=None, *, videos=None) -> Dataset:
    """Opens the training, validation and test clips of a folder, or of a collection.

    Args:
      config: the settings.
      folder: of the videos.
      progress: called with (videos decoded, videos to decode).
      videos: what `vvae.data.listing.list_videos` has returned for the folder, if it was asked.

    Raises:
      ValueError: if the data are invalid (`open_dataset`, `open_collection`), or hold the folder of
        decoded clips.
    """
    refuse_listed(_cache_folder(config), folder)
    if decodes_as_needed(config, folder, videos):
        return open_collection(
            folder,
            clip_format(config),
            find_decoding(config),
            indices=find_indices(config),
            subset=config.data.subset,
            progress=progress,
        )
    return open_dataset(
        folder, clip_format(config), find_decoding(config), progress=progress, videos=videos
    )


def decodes_as_needed(config: Config, folder, videos=None) -> bool:
    """Whether videos are decoded when a training needs them, and not beforehand.

    Args:
      config: the settings.
      folder: of the videos, or a collection.
      videos: the listed videos of a folder; None where it may be a collection.

    Raises:
      ValueError: if data.cache or data.tile does not go with these videos.
    """
    kind = find_kind(folder) if videos is None else "folder"
    cache = config.data.cache
    if kind != "folder" and cache == "clips":
        raise ValueError(
            f"data.cache=clips needs a folder of videos, and {folder} is none ({kind}): leave "
            "data.cache out, or unpack the videos"
        )
    needed = cache == "none" or kind != "folder"
    if needed and config.data.tile is not None:
        raise ValueError(
            f"data.tile={config.data.tile} cuts clips that were decoded beforehand: give a folder "
            "of videos and data.cache=clips"
        )
    return needed


def find_indices(config: Config) -> Path:
    """Returns the folder of the indices of collections."""
    return Path(config.data.cache_dir or runtime.cache_folder()) / INDICES


def open_new_data(config: Config, folder, class_names, progress=None, *, videos=None) -> Dataset:
    """Opens every video of a folder as one split, for a trained model; otherwise as `open_data`."""
    refuse_listed(_cache_folder(config), folder)
    return open_unsplit(
        folder,
        clip_format(config),
        find_decoding(config),
        class_names=class_names,
        progress=progress,
        videos=videos,
    )


def clip_format(config: Config) -> ClipFormat:
    """Returns the view, the size and the sampling of a clip."""
    data = config.data
    sampling = Sampling(data.num_frames, data.frame_stride, data.sampling)
    return ClipFormat(view=data.view, height=data.height, width=data.width, sampling=sampling)


def _cache_folder(config: Config) -> Path:
    return Path(config.data.cache_dir or runtime.cache_folder() / "clips")


def find_decoding(config: Config) -> Decoding:
    """Returns how videos are decoded, and where their clips are kept."""
    data = config.data
    return Decoding(
        Cache(_cache_folder(config), _round_down(data.cache_gb * 1e9)),
        num_workers=count_workers(config),
        on_error=data.on_error,
        limits=Limits(_round_down(data.max_megapixels * 1e6), data.decode_seconds),
    )


def _round_down(value: float) -> int:
    """Returns the whole part of a number; the largest that the system counts for infinity."""
    return int(min(value, sys.maxsize))


def cut_data(config: Config, dataset: Dataset) -> Dataset:
    """Returns the clips that the model sees: cut into tiles if data.tile is set."""
    splits = {name: cut_clips(config, clips) for name, clips in dataset.splits.items()}
    return replace(dataset, splits=splits)


def cut_clips(config: Config, clips: Clips) -> Clips:
    """Returns the clips that the model sees of one split; see `cut_data`."""
    return clips if config.data.tile is None else cut_tiles(clips, *frame_size(config))


def frame_size(config: Config) -> tuple[int, int]:
    """Returns the (height, width) that the model sees, of a frame or of a tile."""
    data = config.data
    return (data.height, data.width) if data.tile is None else (data.tile, data.tile)


def build_model(config: Config) -> SequentialVAE | GridVideoVAE:
    """Returns the model that the settings describe.

    Raises:
      ValueError: if a published network is missing, takes videos of other channels, or has a
        compression that the small decoder does not undo.
    """
    builders = {
        "sequential": _build_sequential,
        "causal": _build_causal,
        "published": _build_published,
    }
    num_channels = clip_format(config).clip_shape[-1]
    return builders[config.model.kind](config, (*frame_size(config), num_channels))


def _build_published(config: Config, shape_HWC: tuple[int, int, int]) -> GridVideoVAE:
    if not config.model.network:
        raise ValueError("model.kind=published needs --init_from FOLDER, of published weights")
    model = build_network(config.model.network)
    if config.model.decoder_widths and not isinstance(model, DistilledVAE):
        model = distil(model, config.model.decoder_widths)
    channels = model.shape_HWC[-1]
    if channels != shape_HWC[-1]:
        raise ValueError(
            f"data.view={config.data.view!r} has {shape_HWC[-1]} channel(s), and the published "
            f"network takes videos of {channels}"
        )
    return model.clone(shape_HWC=shape_HWC)


def _build_causal(config: Config, shape_HWC: tuple[int, int, int]) -> CausalVideoVAE:
    causal = config.causal
    bottleneck = FiniteScalars(causal.levels) if causal.levels else GaussianLatents(causal.channels)
    return CausalVideoVAE(
        shape_HWC=shape_HWC,
        widths=causal.widths,
        blocks=causal.blocks,
        temporal_compression=causal.temporal_compression,
        spatial_compression=causal.spatial_compression,
        stem=causal.stem,
        components=causal.components,
        attention=causal.attention,
        norm=causal.norm,
        bottleneck=bottleneck,
        dtype=jnp.dtype(causal.dtype),
    )


def _build_sequential(config: Config, shape_HWC: tuple[int, int, int]) -> SequentialVAE:
    model = config.model
    return SequentialVAE(
        shape_HWC=shape_HWC,
        widths=model.widths,
        hidden=model.hidden,
        latent_dim=model.latent_dim,
        clip_latent_dim=model.clip_latent_dim,
        prior=model.prior,
        clip_prior=model.clip_prior,
        num_components=model.num_components,
        posterior=model.posterior,
        linear=model.linear,
        likelihood=model.likelihood,
        dtype=jnp.dtype(model.dtype),
    )


def load_any(path: str | os.PathLike) -> tuple[SequentialVAE | GridVideoVAE, dict[str, Any]]:
    """Loads published weights, or the best checkpoint of a run.

    Raises:
      ValueError: if there are none at the path, or if they are damaged.
    """
    return load_pretrained(path) if is_published(path) else load(path)


def load(
    run: Run | str | os.PathLike, which: str | int = "best", ema: bool = True
) -> tuple[SequentialVAE | GridVideoVAE, dict[str, Any]]:
    """Loads a trained model.

    Args:
      run: a run directory, or its path.
      which: "best" (by validation ELBO), "latest", or the step of a checkpoint.
      ema: whether to load the moving average of the parameters, which evaluation uses, or the last
        parameters.

    Returns:
      (model, params), to be used with `vvae.encode`, `vvae.decode`, ...

    Raises:
      ValueError: if there is no run or no such checkpoint, or if a checkpoint is damaged.
    """
    run = run if isinstance(run, Run) else open_run(run)
    model = build_model(run.config)
    with Checkpointer(run.checkpoints, read_only=True) as checkpointer:
        return model, jax.tree.map(jnp.asarray, checkpointer.restore_variables(which, ema=ema))
