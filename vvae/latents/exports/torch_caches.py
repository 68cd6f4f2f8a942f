"""Caches of trainers that read them by torch.load: LTX-2, finetrainers and NeMo Automodel.

    OUT/.precomputed/latents/NAME.pt                        ltx2
    OUT/finetrainers-precomputed-data/latent-0.pt           finetrainers
    OUT/metadata.json, OUT/WxH/NAME.meta                    automodel

LTX-2: normalised mean, bfloat16 [C, T, H, W], with `num_frames`, `height` and `width` of the
latents and `fps` of the frames; its trainer encodes the captions to `conditions/NAME.pt` beside it.

finetrainers: raw moments [1, 2 C, T, H, W], of which a sample is drawn in each step, with what the
family needs to normalise them; its `latents_std` holds 1 / std. Captions go to condition-0.pt.

NeMo Automodel: normalised mean, float16 [1, C, T, H, W], with `text_embeddings` [1, L, D], the
sizes and the caption; metadata.json names a list of the files with their absolute paths.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vvae.files import write_json
from vvae.latents.exports import torch_files
from vvae.latents.exports.clip import BFLOAT16, ExportClip

PRECOMPUTED = "finetrainers-precomputed-data"
_AUTOMODEL_TYPES = {
    "AutoencoderKLWan": ("wan", "wan2.1"),
    "AutoencoderKLHunyuanVideo15": ("hunyuan", "hunyuanvideo-1.5"),
    "AutoencoderKLLTXVideo": ("ltx", "ltx"),
    "AutoencoderKLLTX2Video": ("ltx2", "ltx2"),
}


def write_ltx2(clips: Iterator[ExportClip], out: Path) -> None:
    """Writes clips for the LTX-2 trainer."""
    for clip in clips:
        path = out / ".precomputed" / "latents" / f"{clip.name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        _, num_frames, height, width = clip.shape
        value = {
            "latents": clip.mode().astype(BFLOAT16),
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "fps": float(clip.record["fps"] or 1.0),  # an image has none
        }
        torch_files.save(path, value)


def write_finetrainers(clips: Iterator[ExportClip], out: Path) -> None:
    """Writes clips for finetrainers."""
    folder = out / PRECOMPUTED
    folder.mkdir()
    for number, clip in enumerate(clips):
        value = {"latents": clip.moments()[None]} | _describe_scale(clip)
        torch_files.save(folder / f"latent-{number}.pt", value)


def _describe_scale(clip: ExportClip) -> dict[str, Any]:
    mean, std = (np.asarray(a, np.float32) for a in (clip.scale.mean, clip.scale.std))
    if clip.network in ("AutoencoderKLWan", "AutoencoderKLQwenImage"):
        return {"latents_mean": mean, "latents_std": 1.0 / std}
    if clip.network.startswith("AutoencoderKLLTX"):
        _, num_frames, height, width = clip.shape
        sizes = {"num_frames": num_frames, "height": height, "width": width}
        return sizes | {"latents_mean": mean, "latents_std": std}
    return {}


def write_automodel(clips: Iterator[ExportClip], out: Path, final: Path) -> None:
    """Writes clips, which have text, for NeMo Automodel.

    Args:
      clips: the clips.
      out: the folder to write to.
      final: where the folder will lie: its reader takes absolute paths.
    """
    items = []
    for clip in clips:
        item = _describe_item(clip)
        width, height = item["bucket_resolution"]
        name = Path(f"{width}x{height}", f"{clip.name}.meta")
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        kind, version = _AUTOMODEL_TYPES[clip.network]
        value = {
            "video_latents": clip.mode()[None].astype(np.float16),
            "text_embeddings": clip.text[None],
            "first_frame": None,
            "original_resolution": tuple(item["original_resolution"]),
            "bucket_resolution": tuple(item["bucket_resolution"]),
            "bucket_id": None,
            "aspect_ratio": item["aspect_ratio"],
            "num_frames": clip.num_frames,
            "prompt": clip.caption,
            "video_path": item["video_path"],
            "deterministic_latents": True,
            "model_version": version,
            "processing_mode": "video",
            "model_type": kind,
        }
        torch_files.save(out / name, value)
        items.append({"cache_file": str(final.absolute() / name)} | item)
    write_json(out / "metadata_shard_0000.json", items)
    write_json(out / "metadata.json", {"shards": ["metadata_shard_0000.json"]})


def check_automodel(network: str) -> None:
    """Raises ValueError for an encoder that NeMo Automodel has no processor for."""
    if network not in _AUTOMODEL_TYPES:
        raise ValueError(
            f"NeMo Automodel has no cache for latents of {network}: it takes those of "
            f"{', '.join(_AUTOMODEL_TYPES)}"
        )


def _describe_item(clip: ExportClip) -> dict[str, Any]:
    height, width = clip.size
    return {
        "video_path": clip.record["source"]["name"],
        "bucket_resolution": [width, height],
        "original_resolution": clip.record["original_size"][::-1],
        "num_frames": clip.num_frames,
        "prompt": clip.caption,
        "bucket_id": None,
        "aspect_ratio": width / height,
        "pixels": width * height,
        "model_type": _AUTOMODEL_TYPES[clip.network][0],
    }
