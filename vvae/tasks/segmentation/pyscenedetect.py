"""PySceneDetect on frames in memory: the only user of scenedetect, an extra."""

from importlib import metadata

import numpy as np

# Row -> class of scenedetect.detectors, used with its defaults.
DETECTORS = {
    "pyscenedetect_adaptive": "AdaptiveDetector",
    "pyscenedetect_content": "ContentDetector",
    "pyscenedetect_threshold": "ThresholdDetector",
}


def find_pyscenedetect() -> str | None:
    """Returns the installed version of PySceneDetect, None where there is none."""
    try:
        import scenedetect  # noqa: F401  (it needs OpenCV, which may be missing)

        return metadata.version("scenedetect")
    except (ImportError, metadata.PackageNotFoundError):
        return None


def detect_scenes(row: str, frames_THWC: np.ndarray, fps: float) -> list[int]:
    """Returns the frames at which a detector of PySceneDetect begins a new scene.

    Args:
      row: a key of DETECTORS.
      frames_THWC: uint8 RGB.
      fps: frames per second.
    """
    import scenedetect
    from scenedetect import detectors

    detector = getattr(detectors, DETECTORS[row])()
    cuts, time = [], scenedetect.FrameTimecode(0, fps)
    for number, frame_HWC in enumerate(frames_THWC):
        time = scenedetect.FrameTimecode(number, fps)
        cuts += detector.process_frame(time, np.ascontiguousarray(frame_HWC[..., ::-1]))
    cuts += detector.post_process(time)
    return sorted({cut.frame_num for cut in cuts})
