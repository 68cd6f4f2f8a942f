"""Writes videos that a prior draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vvae import progress
from vvae.generate.flow import Sampling
from vvae.generate.prior import Prior, draw_videos
from vvae.video import write_video

_AT_ONCE = 16


def write_videos(
    prior: Prior,
    vae: tuple[Any, Any],
    out: Path,
    *,
    classes: Sequence[str | None],
    count: int,
    seed: int,
    sampling: Sampling,
    num_frames: int | None = None,
) -> list[Path]:
    """Writes OUT/CLASS_0000.mp4 and so on; sample_0000.mp4 where there are no classes.

    Video k of a class depends on the seed, the class and k alone.

    Args:
      prior: the prior.
      vae: see `draw_videos`.
      out: the folder; made if it is missing.
      classes: names of classes; None means any.
      count: videos of each.
      seed: of the noise.
      sampling: see `Prior.sampling`.
      num_frames: see `draw_videos`.

    Raises:
      ValueError: for an unknown class, and before anything is drawn for a file that exists.
    """
    labels = {name: prior.find_label(name) for name in classes}
    paths = {
        name: [out / f"{name or 'sample'}_{number:04}.mp4" for number in range(count)]
        for name in classes
    }
    taken = [path for row in paths.values() for path in row if path.exists()]
    if taken:
        raise ValueError(f"{taken[0]} exists: give another folder")
    out.mkdir(parents=True, exist_ok=True)
    total, done = count * len(labels), 0
    with progress.stage("videos drawn"):
        for name, label in labels.items():
            for first in range(0, count, _AT_ONCE):
                numbers = range(first, min(first + _AT_ONCE, count))
                videos = draw_videos(
                    prior,
                    vae,
                    [label] * len(numbers),
                    keys=[(seed, label, number) for number in numbers],
                    sampling=sampling,
                    num_frames=num_frames,
                )
                for number, video in zip(numbers, videos, strict=True):
                    write_video(paths[name][number], video, prior.record["fps"])
                done += len(numbers)
                progress.show(done, total)
    return [path for row in paths.values() for path in row]
