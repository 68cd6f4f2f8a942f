"""Parquet files as FastVideo's trainers read them (text to video).

    OUT/CxTxHxW/worker_0/data_chunk_0.parquet

Latents are the raw mean of the posterior, which the trainer normalises itself, as the bytes of
float32 [C, T, H, W]: its reader takes no other dtype. Batches are stacked, so each shape has a
folder of its own. `num_frames` counts latent frames, as its own writer does.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vvae.extras import require_extra
from vvae.latents.exports.clip import ExportClip

ROWS_PER_FILE = 64


def write(clips: Iterator[ExportClip], out: Path) -> None:
    """Writes clips; those without text have embeddings of no bytes.

    Raises:
      ValueError: if pyarrow is not installed.
    """
    arrow = require_extra("pyarrow", "latents", "writing Parquet files")
    parquet = require_extra("pyarrow.parquet", "latents", "writing Parquet files")
    schema, rows, counts = _make_schema(arrow), {}, {}

    def flush(shape: tuple[int, ...]) -> None:
        folder = out / "x".join(map(str, shape)) / "worker_0"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"data_chunk_{counts.setdefault(shape, 0)}.parquet"
        table = arrow.Table.from_pylist(rows.pop(shape), schema=schema)
        parquet.write_table(table, path, compression="zstd")
        counts[shape] += 1

    for clip in clips:
        rows.setdefault(clip.shape, []).append(_make_row(clip))
        if len(rows[clip.shape]) == ROWS_PER_FILE:
            flush(clip.shape)
    for shape in list(rows):
        flush(shape)


def _make_schema(arrow) -> Any:
    fields = [("id", arrow.string())]
    for name in ("vae_latent", "text_embedding"):
        fields += [
            (f"{name}_bytes", arrow.binary()),
            (f"{name}_shape", arrow.list_(arrow.int64())),
            (f"{name}_dtype", arrow.string()),
        ]
    fields += [(name, arrow.string()) for name in ("file_name", "caption", "media_type")]
    fields += [(name, arrow.int64()) for name in ("width", "height", "num_frames")]
    fields += [(name, arrow.float64()) for name in ("duration_sec", "fps")]
    return arrow.schema(fields)


def _make_row(clip: ExportClip) -> dict[str, Any]:
    latents = clip.raw(clip.mode())
    text = np.zeros((0, 0), np.float32) if clip.text is None else clip.text
    fps, (height, width) = clip.record["fps"] or 0.0, clip.size
    return {
        "id": clip.name,
        "vae_latent_bytes": latents.tobytes(),
        "vae_latent_shape": list(latents.shape),
        "vae_latent_dtype": "float32",
        "text_embedding_bytes": text.tobytes(),
        "text_embedding_shape": list(text.shape),
        "text_embedding_dtype": "float32",
        "file_name": clip.record["source"]["name"],
        "caption": clip.caption,
        "media_type": "video" if clip.num_frames > 1 else "image",
        "width": width,
        "height": height,
        "num_frames": latents.shape[1],
        "duration_sec": clip.num_frames / fps if fps else 0.0,
        "fps": fps,
    }
