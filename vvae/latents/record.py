"""What is kept about each clip beside its latents: the record, its JSON schema, and lists in short.

A record says where a clip comes from, what was encoded and by what, so that nothing has to be
guessed when the latents are used, and validity is a comparison of hashes.
"""

import functools
import math
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np

from vvae.inference.statistics import ChannelMoments
from vvae.latents.plan import Framing

FORMAT = 1
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_SIZE = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_SERIES = {
    "description": "start + step k for k < count, or every value",
    "oneOf": [
        {
            "type": "object",
            "properties": {name: {"type": "number"} for name in ("start", "step", "count")},
            "required": ["start", "step", "count"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"values": _NUMBERS},
            "required": ["values"],
            "additionalProperties": False,
        },
    ],
}
_FIELDS: dict[str, dict[str, Any]] = {
    "key": {
        "description": "names the tensors KEY.mean and KEY.std; of content and settings alone",
        "type": "string",
    },
    "source": {
        "description": "the video: its name in the collection, SHA-256 and size of its bytes",
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "sha256": _HASH,
            "bytes": {"type": "integer"},
        },
        "required": ["name", "sha256", "bytes"],
    },
    "clip": {"description": "number of the clip in its video, from 0", "type": "integer"},
    "frames": {"description": "numbers of the frames in the file, from 0", **_SERIES},
    "times": {"description": "their times in the file, s", **_SERIES},
    "fps": {
        "description": "mean frames a second of the clip; null for one frame",
        "type": ["number", "null"],
    },
    "original_size": {"description": "(height, width) of the file as shown", **_SIZE},
    "resized": {"description": "(height, width) that whole frames were resized to", **_SIZE},
    "crop": {"description": "(top, left) of what was kept of them", **_SIZE},
    "encoded_size": {"description": "(height, width) of what was encoded", **_SIZE},
    "pixel_aspect": {"description": "width : height of a pixel of the file", **_SIZE},
    "start": {
        "description": "whether the clip was encoded alone or cut from the latents of the video",
        "enum": ["first_frame", "carried"],
    },
    "first_latent": {
        "description": "number of its first latent frame in the stream that was encoded",
        "type": "integer",
    },
    "shape": {
        "description": "(t, h, w, Z) of mean and std",
        "type": "array",
        "items": {"type": "integer"},
        "minItems": 4,
        "maxItems": 4,
    },
    "dtype": {"enum": ["float32", "bfloat16"]},
    "encoder": {
        "description": "SHA-256 of the description of the encoder in collection.json",
        **_HASH,
    },
    "settings": {
        "description": "SHA-256 of encoder, plan of the clips, view and dtype",
        **_HASH,
    },
    "statistics": {
        "description": "of the stored means over the positions of the clip: count, and mean and "
        "standard deviation of each channel",
        "type": "object",
        "properties": {"count": {"type": "integer"}, "mean": _NUMBERS, "std": _NUMBERS},
        "required": ["count", "mean", "std"],
    },
    "crc32": {
        "description": "of the bytes of the tensors",
        "type": "object",
        "properties": {"mean": {"type": "integer"}, "std": {"type": "integer"}},
        "required": ["mean", "std"],
    },
    "metadata": {"description": "what was said beside the video, such as a caption"},
    "vvae": {"description": "version of vvae", "type": "string"},
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A clip of a vvae latent store",
    "type": "object",
    "properties": _FIELDS,
    "required": list(_FIELDS),
    "additionalProperties": False,
}


@functools.cache
def vvae_version() -> str:
    """Returns the version of vvae; `unknown` for a checkout that is not installed."""
    try:
        return metadata.version("vvae")
    except metadata.PackageNotFoundError:
        return "unknown"


def describe_frames(
    framing: Framing, numbers: Sequence[int], times: Sequence[float]
) -> dict[str, Any]:
    """Returns the entries of a record about the frames of a clip."""
    span = times[-1] - times[0]
    return {
        "frames": shorten(numbers),
        "times": shorten([round(time, 6) for time in times]),
        "fps": round((len(times) - 1) / span, 6) if span > 0 else None,
        "original_size": list(framing.original_size),
        "resized": list(framing.resized),
        "crop": list(framing.crop),
        "encoded_size": list(framing.size),
    }


def describe_statistics(moments: ChannelMoments) -> dict[str, Any]:
    """Returns the entry `statistics` of a record."""
    count, mean_Z, std_Z = moments.current()
    return {"count": count, "mean": _round(mean_Z), "std": _round(std_Z)}


def shorten(values: Sequence[float]) -> dict[str, Any]:
    """Writes numbers as start, step and count where they are evenly spaced to 1e-6."""
    count = len(values)
    step = (values[-1] - values[0]) / (count - 1) if count > 1 else 0
    if all(isinstance(value, int) for value in values):
        step = int(step)
    even = all(abs(values[0] + k * step - value) <= 2e-6 for k, value in enumerate(values))
    if not even:
        return {"values": list(values)}
    return {"start": values[0], "step": round(step, 9), "count": count}


def restore(series: dict[str, Any]) -> list[float]:
    """Returns the numbers that `shorten` wrote, times to 1e-6."""
    if "values" in series:
        return list(series["values"])
    return [series["start"] + k * series["step"] for k in range(series["count"])]


def count_frames(record: dict[str, Any]) -> int:
    """Returns the number of frames of a clip."""
    series = record["frames"]
    return len(series["values"]) if "values" in series else series["count"]


def merge_statistics(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the statistics over the clips of all records together; None for none.

    References:
      Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample
      Variances, 1979.
    """
    parts = [record["statistics"] for record in records]
    total = sum(part["count"] for part in parts)
    if not total:
        return None
    count_N1 = np.array([part["count"] for part in parts], np.float64)[:, None]
    mean_NZ = np.array([part["mean"] for part in parts], np.float64)
    std_NZ = np.array([part["std"] for part in parts], np.float64)
    mean_Z = (count_N1 * mean_NZ).sum(0) / total
    square_Z = (count_N1 * (std_NZ**2 + (mean_NZ - mean_Z) ** 2)).sum(0) / total
    return {"count": int(total), "mean": _round(mean_Z), "std": _round(np.sqrt(square_Z))}


def _round(values_Z: np.ndarray) -> list[float]:
    """Rounds to 9 digits, beyond which the order of sums would show."""
    return [float(f"{value:.9g}") if math.isfinite(value) else None for value in values_Z]
