"""Baselines from PySceneDetect. Only this module imports scenedetect, an optional package."""

from importlib import metadata

import numpy as np

# Row of the table -> class of scenedetect.detectors, used with its default settings.
DETECTORS = {
    "pyscenedetect_adaptive": "AdaptiveDetector",
    "pyscenedetect_content": "ContentDetector",
    "pyscenedetect_threshold": "ThresholdDetector",
}


def find_pyscenedetect() -> str | None:
    """Returns the installed version of PySceneDetect, or None if it cannot be imported."""
    try:
        import scenedetect  # noqa: F401  (the import fails without OpenCV)

        return metadata.version("scenedetect")
    except (ImportError, metadata.PackageNotFoundError):
        return None


def detect_scenes(row: str, frames_THWC: np.ndarray, fps: float) -> list[int]:
    """Runs a detector of PySceneDetect on frames in memory.

    Args:
      row: A key of DETECTORS.
      frames_THWC: uint8 RGB.
      fps: The frame rate, frames/s.

    Returns:
      The numbers of the first frames of new scenes, ascending.
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
