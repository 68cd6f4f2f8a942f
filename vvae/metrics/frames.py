"""Metrics of frames, and their aggregation.

Functions of frames take arrays [..., H, W, C] in 8-bit units (0 to 255, uint8 or float) and return
one float32 number for each frame; they work under jit and vmap. The aggregation to one number
(means over valid frames, videos, positions) is NumPy.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

PEAK = 255.0
MAX_PSNR = 100.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = (0.01 * PEAK) ** 2
SSIM_C2 = (0.03 * PEAK) ** 2


def _as_float(frames: jax.Array) -> jax.Array:
    return jnp.asarray(frames).astype(jnp.float32)


def _check_same_shape(x: jax.Array, y: jax.Array) -> None:
    if jnp.shape(x) != jnp.shape(y) or jnp.ndim(x) < 3:
        raise ValueError(
            f"frames to compare need equal shapes [..., H, W, C], "
            f"not {jnp.shape(x)} and {jnp.shape(y)}"
        )


def frame_mse(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared error of each frame, squared 8-bit units; [..., H, W, C] -> [...].

    Raises:
      ValueError: If the shapes differ.
    """
    _check_same_shape(x, y)
    return jnp.mean(jnp.square(_as_float(x) - _as_float(y)), axis=(-3, -2, -1))


def psnr_from_mse(mse: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio 10 log10(255^2 / mse) in dB, at most 100 dB (also for mse 0)."""
    floor = PEAK**2 * 10.0 ** (-MAX_PSNR / 10.0)
    return 10.0 * (2.0 * math.log10(PEAK) - jnp.log10(jnp.maximum(mse, floor)))


def frame_psnr(x: jax.Array, y: jax.Array) -> jax.Array:
    """PSNR of each frame in dB (see `psnr_from_mse`); [..., H, W, C] -> [...]."""
    return psnr_from_mse(frame_mse(x, y))


def _gaussian_filter_matrix(length: int) -> np.ndarray:
    """Returns [length - 10, length]: row i is the normalised Gaussian window from i on."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    window /= window.sum()
    rows = length - SSIM_WINDOW + 1
    matrix = np.zeros((rows, length), np.float32)
    for i in range(rows):
        matrix[i, i : i + SSIM_WINDOW] = window
    return matrix


def frame_ssim(x: jax.Array, y: jax.Array) -> jax.Array:
    """Structural similarity of each frame, in [-1, 1]; [..., H, W, C] -> [...].

    The settings are those of the paper (equation 13): an 11x11 Gaussian window of sigma 1.5 at
    every position where it fits into the frame, K1 = 0.01, K2 = 0.03, L = 255, biased local
    moments. The result is the mean over positions, then over channels.

    Raises:
      ValueError: If the shapes differ or a side is shorter than 11 pixels.

    References:
      Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
      Transactions on Image Processing 13(4), 2004
    """
    _check_same_shape(x, y)
    height, width = jnp.shape(x)[-3:-1]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, "
            f"not {height}x{width}"
        )
    rows, columns = _gaussian_filter_matrix(height), _gaussian_filter_matrix(width)

    def smooth(frames):
        # Accelerators would round the operands, and variances are small differences of large terms.
        return jnp.einsum(
            "ih,...hwc,jw->...ijc", rows, frames, columns, precision=jax.lax.Precision.HIGHEST
        )

    # Moments about mid gray: smaller squares lose less precision in their difference.
    centre = PEAK / 2
    x, y = _as_float(x) - centre, _as_float(y) - centre
    mean_x, mean_y = smooth(x), smooth(y)
    variance_x = smooth(x * x) - mean_x**2
    variance_y = smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + centre, mean_y + centre
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variance_x + variance_y + SSIM_C2)
    return jnp.mean(luminance * structure, axis=(-3, -2, -1))


def difference_mse(x_BTHWC: jax.Array, y_BTHWC: jax.Array) -> jax.Array:
    """Mean squared error of the frame-to-frame differences, squared 8-bit units; [B, T-1].

    It measures flicker, which hardly changes the error of single frames. Its mask is `pair_mask`.
    """
    _check_same_shape(x_BTHWC, y_BTHWC)
    error = _as_float(x_BTHWC) - _as_float(y_BTHWC)
    return jnp.mean(jnp.square(error[:, 1:] - error[:, :-1]), axis=(-3, -2, -1))


def seam_index(x: jax.Array, y: jax.Array, axis: int, borders: np.ndarray) -> jax.Array:
    """Ratio of the error's steps across borders to its steps elsewhere; [B, ...] -> [B].

    It is the mean squared step of the error y - x between neighbours on two sides of a border,
    divided by the mean over all other neighbours: 1 without seams.

    Args:
      x: Videos.
      y: Videos of the same shape.
      axis: The axis along which neighbours are compared.
      borders: int; for each border, the number of the first element behind it, from 1 to size - 1.

    Raises:
      ValueError: If there is no border, or nothing but borders.
    """
    _check_same_shape(x, y)
    is_border = np.zeros(x.shape[axis], bool)
    is_border[borders] = True
    is_border = is_border[1:]
    if is_border.all() or not is_border.any():
        raise ValueError(f"borders={borders}: there must be pairs with and without a border")
    error = _as_float(y) - _as_float(x)
    steps = jnp.square(jnp.diff(error, axis=axis))
    others = tuple(a for a in range(1, steps.ndim) if a != axis % steps.ndim)
    energy_BN = steps.mean(others)
    inside_B = energy_BN[:, ~is_border].mean(1)
    return energy_BN[:, is_border].mean(1) / jnp.maximum(inside_B, 1e-12)


def first_frame_gap(psnr_NT: np.ndarray, mask_NT: np.ndarray) -> np.ndarray:
    """PSNR of the first frame minus the mean of the valid later frames, dB; float64 [n].

    The n clips are those whose first frame and at least one later frame are valid, in order.
    """
    later_NT = mask_NT[:, 1:]
    kept = mask_NT[:, 0] & later_NT.any(axis=1)
    psnr_NT = psnr_NT[kept].astype(np.float64)
    total = np.where(later_NT[kept], psnr_NT[:, 1:], 0.0).sum(axis=1)
    return psnr_NT[:, 0] - total / later_NT[kept].sum(axis=1)


def pair_mask(mask_NT: np.ndarray) -> np.ndarray:
    """True where a frame and the one before it are valid; bool [N, T] -> [N, T-1]."""
    return mask_NT[:, 1:] & mask_NT[:, :-1]


def video_means(
    values_NT: np.ndarray, mask_NT: np.ndarray, video_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means of frame values over the valid frames of each video.

    Args:
      values_NT: The value of each frame of each clip.
      mask_NT: bool; True for valid frames.
      video_N: int; the number of each clip's video.

    Returns:
      (video_V, mean_V): the numbers of the videos with a valid frame, ascending, and their float64
      means.
    """
    videos, index_N = np.unique(video_N, return_inverse=True)
    masked = np.where(mask_NT, values_NT, 0.0).astype(np.float64)
    total_V = np.bincount(index_N, masked.sum(axis=1), minlength=len(videos))
    count_V = np.bincount(index_N, mask_NT.sum(axis=1), minlength=len(videos))
    kept = count_V > 0
    return videos[kept], total_V[kept] / count_V[kept]


def position_means(values_NT: np.ndarray, mask_NT: np.ndarray) -> np.ndarray:
    """Mean over the clips at each frame position, float64 [T]; NaN where no frame is valid."""
    count_T = mask_NT.sum(axis=0)
    total_T = np.where(mask_NT, values_NT, 0.0).sum(axis=0, dtype=np.float64)
    return np.where(count_T > 0, total_T / np.maximum(count_T, 1), np.nan)


def lowest_mean(values_NT: np.ndarray, mask_NT: np.ndarray, fraction: float = 0.05) -> float:
    """Mean of the lowest `fraction` of the valid values (at least one); NaN if none is valid."""
    values = np.sort(values_NT[mask_NT].astype(np.float64))
    if not len(values):
        return math.nan
    return float(values[: max(1, round(fraction * len(values)))].mean())
