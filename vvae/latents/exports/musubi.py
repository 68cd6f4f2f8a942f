"""Latent caches of musubi-tuner: one safetensors file a clip.

    OUT/STEM_00000-081_0832x0480_wan.safetensors

The name says the first frame, the number of frames, width x height of the *original* video, from
which musubi-tuner finds its bucket, and the architecture. The tensor `latents_TxHxW_DTYPE` is
[C, T, H, W]; its form and dtype are those of the architecture. Captions are cached by musubi-tuner
itself (STEM_wan_te.safetensors); without them it leaves a clip out with a warning.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from vvae.latents.exports.clip import BFLOAT16, ExportClip
from vvae.latents.safetensors_files import write_tensors

FORMAT_VERSION = "1.0.1"


@dataclass(frozen=True)
class _Architecture:
    """How musubi-tuner caches the latents of an architecture."""

    short: str
    full: str
    dtype: np.dtype
    form: str  # normalised mode, or raw mode or sample, which the trainer scales itself


_ARCHITECTURES = {
    "AutoencoderKLWan": _Architecture("wan", "wan", BFLOAT16, "mode"),
    "AutoencoderKLQwenImage": _Architecture("qi", "qwen_image", BFLOAT16, "mode"),
    "AutoencoderKLHunyuanVideo": _Architecture(
        "hv", "hunyuan_video", np.dtype(np.float16), "raw_sample"
    ),
    "AutoencoderKLHunyuanVideo15": _Architecture(
        "hv15", "hunyuan_video_1_5", np.dtype(np.float16), "raw_mode"
    ),
}


def check_network(network: str) -> None:
    """Raises ValueError for an encoder that musubi-tuner has no architecture for."""
    if network not in _ARCHITECTURES:
        raise ValueError(
            f"musubi-tuner has no cache for latents of {network}: it takes those of "
            f"{', '.join(_ARCHITECTURES)}"
        )


def write(clips: Iterator[ExportClip], out: Path) -> None:
    """Writes clips.

    Raises:
      ValueError: if two videos of different folders have one file name.
    """
    names: dict[str, str] = {}
    for clip in clips:
        architecture = _ARCHITECTURES[clip.network]
        latents = _choose_form(clip, architecture.form).astype(architecture.dtype)
        name = _make_name(clip, architecture.short)
        video = clip.record["source"]["name"]
        other = names.setdefault(PurePosixPath(video).stem, video)
        if other != video:
            raise ValueError(
                f"{other} and {video}: musubi-tuner tells videos apart by file name alone: rename "
                "one"
            )
        size = "x".join(map(str, latents.shape[1:]))
        height, width = clip.record["original_size"]
        metadata = {
            "architecture": architecture.full,
            "width": str(width),
            "height": str(height),
            "format_version": FORMAT_VERSION,
            "frame_count": str(clip.num_frames),
        }
        write_tensors(out / name, {f"latents_{size}_{latents.dtype.name}": latents}, metadata)


def _choose_form(clip: ExportClip, form: str) -> np.ndarray:
    if form == "mode":
        return clip.mode()
    return clip.raw(clip.mode() if form == "raw_mode" else clip.sample())


def _make_name(clip: ExportClip, architecture: str) -> str:
    stem = PurePosixPath(clip.record["source"]["name"]).stem
    height, width = clip.record["original_size"]
    frames = clip.record["frames"]
    first = frames["values"][0] if "values" in frames else frames["start"]
    size = f"{width:04d}x{height:04d}"
    return f"{stem}_{first:05d}-{clip.num_frames:03d}_{size}_{architecture}.safetensors"
