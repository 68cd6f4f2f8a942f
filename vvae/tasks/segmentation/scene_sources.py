"""Joined videos of every source and kind, to fit and evaluate detectors of shot boundaries."""

from collections.abc import Iterator

import numpy as np

from vvae.data.clips import Clips
from vvae.tasks.segmentation import joined_videos
from vvae.tasks.segmentation.joined_videos import JoinedVideo
from vvae.tasks.segmentation.shots import choose_size

SCENES_PER_VIDEO = 12
SOURCES = {
    "joined": "scenes are the first frames of the split's own videos, played to and fro",
    "drawn": "scenes are drawn: moving bodies before a drifting wall",
}


def iterate_joined_videos(
    clips: Clips, seed: int, stream: int, num_joined: int
) -> Iterator[tuple[tuple[str, str], JoinedVideo]]:
    """Makes joined videos one at a time.

    Args:
      clips: The clips of the split that provides the scenes.
      seed: The seed of the random numbers.
      stream: The stream of random numbers: other streams of a seed give other videos.
      num_joined: The number of videos of each source and kind.

    Yields:
      (source, kind) and a video. The source "joined" is omitted if the split has only one video.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, stream]))
    size, _ = choose_size(clips)
    for source in SOURCES:
        if source == "joined" and len(clips.videos) < 2:
            continue
        for kind in joined_videos.KINDS:
            for _ in range(num_joined):
                scenes = _take_scenes(source, clips, size, rng)
                yield (source, kind), joined_videos.join_scenes(scenes, kind, rng)


def make_joined_videos(
    clips: Clips, seed: int, stream: int, num_joined: int
) -> dict[tuple[str, str], list[JoinedVideo]]:
    """Returns (source, kind) -> the videos of `iterate_joined_videos`."""
    made = {}
    for key, video in iterate_joined_videos(clips, seed, stream, num_joined):
        made.setdefault(key, []).append(video)
    return made


def _take_scenes(source: str, clips: Clips, size, rng) -> list[joined_videos.Scene]:
    if source == "drawn":
        return [joined_videos.draw_scene(rng, size) for _ in range(SCENES_PER_VIDEO)]
    count = min(SCENES_PER_VIDEO, len(clips.videos))
    chosen = rng.choice(len(clips.videos), count, replace=False)
    stride = clips.clip_format.sampling.frame_stride
    return [joined_videos.read_scene(clips.videos[k], size, stride) for k in chosen]
