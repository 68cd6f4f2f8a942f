"""Writes the latents of a folder of videos to disk, with the settings that they come from.

latents/
  SPLIT.npy      float32 [N, t, h, w, Z]: posterior means of the clips, not normalised
  latents.json   settings of the run, digests of parameters and data, statistics of the channels
                 (`vvae.inference.statistics`), and a description of each row of the arrays: its
                 video, its first frame, and the latent frames that have a valid frame
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vvae.config_files import to_dict
from vvae.data.clips import Clips
from vvae.files import allocate, replacing, write_json
from vvae.inference.statistics import ChannelMoments, LatentStatistics, as_json
from vvae.measure.examples import name_clips
from vvae.measure.mapping import map_clips
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.models import contract
from vvae.models.causal import CausalVideoVAE
from vvae.models.digest import digest_params
from vvae.tasks.options import Latents
from vvae.tasks.question import Question
from vvae.tasks.result import Result, describe_data, require_split

FOLDER = "latents"
RECORD = "latents.json"
_PART_CLIPS = 256


def answer(question: Question, options: Latents) -> Result:
    """Writes the posterior means of every clip of every split, in constant memory.

    The statistics are those of the training clips, or of all clips if the videos are new. Only
    latent frames with a valid frame count.

    Raises:
      ValueError: if there is no such split, or latents are not finite.
    """
    del options
    dataset = question.dataset
    measured = question.split if question.is_new else "train"
    require_split(dataset, measured)
    target = question.folder / FOLDER
    target.mkdir(exist_ok=True)
    encode = functools.partial(jax.jit(functools.partial(_encode, question.model)), question.params)
    moments, rows = ChannelMoments(), {}
    for split, clips in dataset.splits.items():
        counted = moments if split == measured else None
        path = target / f"{split}.npy"
        rows[split] = _write_split(encode, clips, path, question.batch_size, counted)
    provenance = {
        "params": digest_params(question.params).hex(),
        "data": dataset.fingerprint,
        "split": measured,
        "of": "posterior means of latent frames with a real frame",
    }
    statistics = moments.finish(provenance)
    record = {
        "settings": to_dict(question.run.config),
        "params": provenance["params"],
        "data": dataset.fingerprint,
        "statistics": as_json(statistics),
        "splits": rows,
    }
    write_json(target / RECORD, record)
    context = describe_data(dataset, measured) | {METHOD: "vae"}
    files = (*(f"{FOLDER}/{split}.npy" for split in rows), f"{FOLDER}/{RECORD}")
    return Result(
        task="latents", rows={"vae": _summarize_statistics(statistics, context)}, files=files
    )


def _summarize_statistics(
    statistics: LatentStatistics, context: Mapping[str, Any]
) -> dict[str, Metric]:
    values = {
        "count": (statistics.count, "positions", "latents that the statistics are of"),
        "largest_mean": (np.abs(statistics.mean_Z).max(), "", "of a channel, absolute"),
        "least_std": (statistics.std_Z.min(), "", "of a channel"),
        "largest_std": (statistics.std_Z.max(), "", "of a channel"),
    }
    return {
        name: make_metric(name, value, unit, text, "over channels", **context)
        for name, (value, unit, text) in values.items()
    }


def _encode(model: CausalVideoVAE, params, batch) -> dict[str, jax.Array]:
    posterior = contract.encode(model, params, batch["video"], batch["mask"])
    return {"z": model.posterior_mean(posterior), "mask": model.latent_mask(batch["mask"])}


def _write_split(encode, clips: Clips, path: Path, batch_size: int, moments) -> list[dict]:
    """Writes the array of a split part by part; returns a description of each row.

    Adds the latent frames that have a valid frame to `moments`, unless it is None.
    """
    array, masks = None, []
    with replacing(path) as part:
        for start in range(0, len(clips), _PART_CLIPS):
            chosen = clips.select(np.arange(start, min(start + _PART_CLIPS, len(clips))))
            found = map_clips(encode, chosen, batch_size)
            if array is None:
                shape = (len(clips), *found["z"].shape[1:])
                array = np.lib.format.open_memmap(part, "w+", np.float32, shape)
                allocate(part)
            array[start : start + len(chosen)] = found["z"]
            masks.append(found["mask"])
            if moments is not None:
                moments.add(found["z"][found["mask"]])
        array.flush()
    rows = zip(name_clips(clips), clips.frame_NT, np.concatenate(masks), strict=True)
    return [
        {
            "path": name,
            "first_frame": int(frame_T[0]),
            "latent_frames": np.flatnonzero(mask_t).tolist(),
        }
        for name, frame_T, mask_t in rows
    ]
