"""TFRecords as maxdiffusion's Wan trainer reads them.

    OUT/CxTxHxW/file_00000.tfrec    features `latents` and `encoder_hidden_states`

`latents` are a normalised sample of the posterior, float32 [C, T, H, W], `encoder_hidden_states`
the embeddings of the caption, float32 [L, D]; both as tf.io.serialize_tensor writes them. The
trainer reads every file of its folder and batches without padding, so each shape has a folder of
its own and nothing else lies there.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vvae.latents.exports.clip import ExportClip
from vvae.latents.exports.tfrecord import make_example, serialize_tensor, write_record

RECORDS_PER_FILE = 256


def write(clips: Iterator[ExportClip], out: Path) -> None:
    """Writes clips; each has text."""
    counts: dict[tuple[int, ...], int] = {}
    with contextlib.ExitStack() as stack:
        files = {}
        for clip in clips:
            number = counts.setdefault(clip.shape, 0)
            if number % RECORDS_PER_FILE == 0:
                if clip.shape in files:
                    files[clip.shape].close()
                folder = out / "x".join(map(str, clip.shape))
                folder.mkdir(exist_ok=True)
                path = folder / f"file_{number // RECORDS_PER_FILE:05}.tfrec"
                files[clip.shape] = stack.enter_context(open(path, "wb"))
            features = {
                "latents": serialize_tensor(clip.sample()),
                "encoder_hidden_states": serialize_tensor(clip.text),
            }
            write_record(files[clip.shape], make_example(features))
            counts[clip.shape] += 1
