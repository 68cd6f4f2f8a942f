"""Dense optical flow: how far, and where to, each pixel moves.

The only user of OpenCV, which is the extra `vision`.

G. Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003.
"""

from types import ModuleType

import numpy as np

from vvae.extras import require_extra

# Least number of rows and columns that flow is computed at: the neighbourhoods below are pixels,
# and of a frame of 24x32 they would cover too much.
MIN_SIDE = 60

_PYRAMID_SCALE = 0.5
_PYRAMID_LEVELS = 3
_WINDOW = 9
_ITERATIONS = 3
_NEIGHBOURHOOD = 5
_NEIGHBOURHOOD_SIGMA = 1.1  # as OpenCV advises for neighbourhoods of 5 pixels


def import_opencv() -> ModuleType:
    """Returns the module `cv2`, set to one thread: videos are decoded by a process a core.

    Raises:
        ValueError: if it is not installed.
    """
    cv2 = require_extra("cv2", "vision", "optical flow and SIFT, computed by OpenCV,")
    cv2.setNumThreads(1)
    return cv2


def find_flow_factor(height: int, width: int, least_side: int = MIN_SIDE) -> int:
    """Returns by how much larger than height x width the frames are that flow is computed from.

    The least integer that makes the shorter side at least `least_side` pixels.
    """
    return max(1, -(-least_side // min(height, width)))


def compute_flow(gray_FHW: np.ndarray) -> np.ndarray:
    """Computes the flow that leads from each frame to the next.

    Args:
        gray_FHW: uint8 [F, H, W].

    Returns:
        float32 [F, H, W, 2]: pixels to the right and pixels down from frame f - 1 to frame f, at
        the place in frame f - 1; zeros for the first frame.

    Raises:
        ValueError: if OpenCV is not installed.
    """
    cv2 = import_opencv()
    flow_FHWC = np.zeros((*gray_FHW.shape, 2), np.float32)
    for frame in range(1, len(gray_FHW)):
        flow_FHWC[frame] = cv2.calcOpticalFlowFarneback(
            gray_FHW[frame - 1],
            gray_FHW[frame],
            None,
            _PYRAMID_SCALE,
            _PYRAMID_LEVELS,
            _WINDOW,
            _ITERATIONS,
            _NEIGHBOURHOOD,
            _NEIGHBOURHOOD_SIGMA,
            0,
        )
    return flow_FHWC
