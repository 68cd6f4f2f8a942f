"""Dense optical flow: the displacement of each pixel from one frame to the next.

The only user of OpenCV.

References:
  G. Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003.
"""

from types import ModuleType

import numpy as np

from vvae.extras import require_extra

# The smallest side, in pixels, of frames that flow is computed from: the neighbourhoods below would
# cover too much of a frame of 24x32.
MIN_SIDE = 60

_PYRAMID_SCALE = 0.5
_PYRAMID_LEVELS = 3
_WINDOW = 9
_ITERATIONS = 3
_NEIGHBOURHOOD = 5
_NEIGHBOURHOOD_SIGMA = 1.1  # OpenCV recommends it for neighbourhoods of 5 pixels


def import_opencv() -> ModuleType:
    """Returns the module `cv2`, limited to one thread, since every core decodes its own video.

    Raises:
      ValueError: If OpenCV is not installed.
    """
    cv2 = require_extra("cv2", "vision", "optical flow and SIFT, computed by OpenCV,")
    cv2.setNumThreads(1)
    return cv2


def find_flow_factor(height: int, width: int, least_side: int = MIN_SIDE) -> int:
    """Returns the factor by which frames must be larger than height x width to compute flow.

    It is the smallest integer that makes the shorter side at least `least_side` pixels.
    """
    return max(1, -(-least_side // min(height, width)))


def compute_flow(gray_FHW: np.ndarray) -> np.ndarray:
    """Computes the flow from each frame to the next.

    Args:
      gray_FHW: uint8 frames.

    Returns:
      float32 [F, H, W, 2]: the displacement from frame f - 1 to frame f, in pixels to the right and
      down, at its place in frame f - 1; zeros for the first frame.

    Raises:
      ValueError: If OpenCV is not installed.
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
