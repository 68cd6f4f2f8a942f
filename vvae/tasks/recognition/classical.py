"""Features of classical vision for the probe that the latents get: baselines for a VAE to beat.

Each function of `FEATURES` takes training clips and a seed. What a feature fits (principal
components, vocabularies) it fits to these clips alone. It returns a `Feature`: a function from
clips to one vector per clip, and its description. Images are the 8-bit codes of the view, channel
by channel, unless the description says otherwise. OpenCV (the extra `vision`) is needed by SIFT and
ORB, and by flow histograms of views that are not flow themselves.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from vvae.data.clips import Clips
from vvae.data.flow import compute_flow, find_flow_factor, import_opencv
from vvae.data.views import decode_view, view_to_rgb
from vvae.measure.examples import spread_evenly
from vvae.measure.pca import fit_frame_pca, project_frames

NUM_TIMES = 16
RAW_COMPONENTS = 50
HOG_CELL = 8
HOG_BINS = 9
HOG_CLIP = 0.2
FLOW_BINS = 8
FLOW_GRID = 4
NUM_WORDS = 64
KEYPOINT_SIDE = 128
KEYPOINTS_A_FRAME = 100
KEYPOINT_FRAMES = 8
MAX_DESCRIPTORS = 20_000
_READ_CLIPS = 64

IN_ORDER = f"at {NUM_TIMES} equal times, joined in order"


@dataclasses.dataclass(frozen=True)
class Feature:
    """A fitted feature.

    Attributes:
      extract: clips -> one vector per clip, float [N, F].
      text: its description in metric cards.
    """

    extract: Callable[[Clips], np.ndarray]
    text: str


# --- images ---------------------------------------------------------------------------------------


def sample_times(frame_NTF: np.ndarray, mask_NT: np.ndarray) -> np.ndarray:
    """Concatenates the vectors of a clip at 16 equal times, float32 [N, 16 * F].

    The times reach from the first valid frame to the last. Between two frames, vectors are
    interpolated linearly, so that clips of any length can be compared. A clip without a valid frame
    gives zeros. The pooling `ordered` follows the same rule.

    Args:
      frame_NTF: one vector per frame.
      mask_NT: bool, the valid frames.
    """
    order_NT = np.argsort(~mask_NT, axis=1, kind="stable")  # valid frames first, in order of time
    frame_NTF = np.take_along_axis(frame_NTF, order_NT[..., None], axis=1)
    last_N = np.maximum(mask_NT.sum(axis=1) - 1, 0)
    position_NS = np.linspace(0.0, 1.0, NUM_TIMES)[None] * last_N[:, None]
    lower_NS = np.floor(position_NS).astype(int)
    upper_NS = np.minimum(lower_NS + 1, last_N[:, None])
    rows_N1 = np.arange(len(frame_NTF))[:, None]
    share_NS1 = (position_NS - lower_NS)[..., None]
    joined_NSF = (1 - share_NS1) * frame_NTF[rows_N1, lower_NS]
    joined_NSF += share_NS1 * frame_NTF[rows_N1, upper_NS]
    joined_NSF[~mask_NT.any(axis=1)] = 0.0
    return joined_NSF.reshape(len(joined_NSF), -1).astype(np.float32)


def compute_hog(image: np.ndarray) -> np.ndarray:
    """Computes histograms of oriented gradients of each image, [..., H, W] -> float32 [..., F].

    Gradients are central differences. Each votes with its magnitude for the two nearest of 9
    unsigned orientations. A cell has 8x8 pixels; remaining rows and columns are not used, and a
    shorter side is one cell. A block has 2x2 cells and is normalised, clipped at 0.2 and normalised
    again; neighbouring blocks overlap by one cell. Unlike in the paper, votes are not interpolated
    between cells.

    References:
      N. Dalal and B. Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005
    """
    down, right = np.gradient(image.astype(np.float32), axis=(-2, -1))
    size = np.hypot(down, right)
    turn = (np.arctan2(down, right) / np.pi % 1.0) * HOG_BINS
    lower = np.floor(turn).astype(int)
    share = turn - lower
    cell_H, cell_W = (min(HOG_CELL, side) for side in image.shape[-2:])
    cells = []
    for bin_ in range(HOG_BINS):
        weight = np.where(lower % HOG_BINS == bin_, 1 - share, 0.0)
        weight += np.where((lower + 1) % HOG_BINS == bin_, share, 0.0)
        cells.append(_sum_cells(size * weight, cell_H, cell_W))
    cell_YXK = np.stack(cells, axis=-1)
    rows, columns = cell_YXK.shape[-3:-1]
    height, width = min(2, rows), min(2, columns)
    blocks = [
        cell_YXK[..., y : y + height, x : x + width, :].reshape(*image.shape[:-2], -1)
        for y in range(rows - height + 1)
        for x in range(columns - width + 1)
    ]
    blocks = [_normalize(np.minimum(_normalize(block), HOG_CLIP)) for block in blocks]
    return np.concatenate(blocks, axis=-1).astype(np.float32)


def _sum_cells(image: np.ndarray, cell_H: int, cell_W: int) -> np.ndarray:
    rows, columns = image.shape[-2] // cell_H, image.shape[-1] // cell_W
    whole = image[..., : rows * cell_H, : columns * cell_W]
    return whole.reshape(*image.shape[:-2], rows, cell_H, columns, cell_W).sum(axis=(-3, -1))


def _normalize(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt(np.sum(vector**2, axis=-1, keepdims=True) + 1e-6)


def transform_haar(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes one level of the orthonormal Haar wavelet of each image.

    Args:
      image: [..., H, W]; an odd last row or column is left out.

    Returns:
      The approximation [..., H // 2, W // 2], and the details [..., 3, H // 2, W // 2]: horizontal,
      vertical and diagonal differences. The transform keeps the sum of squares.
    """
    height, width = (side // 2 * 2 for side in image.shape[-2:])
    image = image[..., :height, :width].astype(np.float32)
    a, b = image[..., ::2, ::2], image[..., ::2, 1::2]
    c, d = image[..., 1::2, ::2], image[..., 1::2, 1::2]
    details = np.stack([a - b + c - d, a + b - c - d, a - b - c + d], axis=-3)
    return (a + b + c + d) / 2, details / 2


def compute_haar(image: np.ndarray) -> np.ndarray:
    """Computes a two-level Haar wavelet of each image, [..., H, W] -> float32 [..., F].

    It keeps the approximation of the second level, and the magnitudes of the details of both
    levels: signed details are linear in the pixels, so that a linear probe on raw pixels has them
    already. Magnitudes of the first level are averaged over 2x2, so that all maps are H/4 x W/4.
    """
    first, first_details = transform_haar(image)
    second, second_details = transform_haar(first)
    sizes = np.abs(first_details)
    rows, columns = second.shape[-2:]
    sizes = sizes[..., : 2 * rows, : 2 * columns]
    sizes = _sum_cells(sizes, 2, 2) / 4
    maps = np.concatenate([second[..., None, :, :], np.abs(second_details), sizes], axis=-3)
    return maps.reshape(*image.shape[:-2], -1).astype(np.float32)


def compute_flow_histogram(flow_FHWC: np.ndarray) -> np.ndarray:
    """Computes histograms of flow over 8 directions in each of 4x4 parts of a frame, [F, 128].

    Each pixel votes with the magnitude of its flow for the two nearest directions. A histogram is
    the mean over the pixels of its part.

    Args:
      flow_FHWC: float [F, H, W, 2], flow to the right and down.
    """
    right, down = np.moveaxis(flow_FHWC, -1, 0)
    size = np.hypot(right, down)
    turn = (np.arctan2(down, right) / (2 * np.pi) % 1.0) * FLOW_BINS
    lower = np.floor(turn).astype(int)
    share = turn - lower
    rows = np.array_split(np.arange(flow_FHWC.shape[1]), min(FLOW_GRID, flow_FHWC.shape[1]))
    columns = np.array_split(np.arange(flow_FHWC.shape[2]), min(FLOW_GRID, flow_FHWC.shape[2]))
    bins = []
    for bin_ in range(FLOW_BINS):
        weight = np.where(lower % FLOW_BINS == bin_, 1 - share, 0.0)
        weight = size * (weight + np.where((lower + 1) % FLOW_BINS == bin_, share, 0.0))
        bins += [weight[:, y[0] : y[-1] + 1, x[0] : x[-1] + 1] for y in rows for x in columns]
    return np.stack([part.mean(axis=(1, 2)) for part in bins], axis=-1).astype(np.float32)


# --- features -------------------------------------------------------------------------------------


def fit_raw(train: Clips, seed: int) -> Feature:
    """Takes the codes of the frames themselves."""
    del train, seed
    return Feature(_by_frame(_flatten_frames), f"codes of the frames {IN_ORDER}")


def fit_raw_pca(train: Clips, seed: int) -> Feature:
    """Fits principal components of single frames."""
    pca = fit_frame_pca(train, RAW_COMPONENTS, seed)
    text = f"{len(pca.components_KD)} principal components of each frame, {IN_ORDER}"
    return Feature(_by_frame(lambda clips, codes: project_frames(pca, codes)), text)


def fit_hog(train: Clips, seed: int) -> Feature:
    """Takes histograms of oriented gradients."""
    del train, seed
    text = f"HOG of each channel, cells of {HOG_CELL}x{HOG_CELL}, {HOG_BINS} orientations"
    return Feature(_by_channel(compute_hog), f"{text}, {IN_ORDER}")


def fit_haar(train: Clips, seed: int) -> Feature:
    """Takes Haar wavelets."""
    del train, seed
    text = "Haar wavelets of 2 levels of each channel, sizes of details"
    return Feature(_by_channel(compute_haar), f"{text}, {IN_ORDER}")


def fit_flow_histogram(train: Clips, seed: int) -> Feature:
    """Takes histograms of optical flow."""
    del seed
    source = (
        "of the view"
        if any(train.view.flow_channels)
        else "by Farneback, from the picture that is shown"
    )
    text = f"flow {source}: sizes by {FLOW_BINS} directions in {FLOW_GRID}x{FLOW_GRID} parts"
    return Feature(_by_frame(_histogram_flow), f"{text}, {IN_ORDER}")


def fit_sift(train: Clips, seed: int) -> Feature:
    """Fits a bag of SIFT words.

    References:
      D. Lowe, Distinctive Image Features from Scale-Invariant Keypoints, IJCV 60(2), 2004
    """
    sift = import_opencv().SIFT_create(nfeatures=KEYPOINTS_A_FRAME)
    return _fit_bag("SIFT", train, seed, lambda image: sift.detectAndCompute(image, None)[1])


def fit_orb(train: Clips, seed: int) -> Feature:
    """Fits a bag of ORB words; the 256 bits of a descriptor are read as the numbers 0 and 1.

    References:
      E. Rublee et al., ORB: An Efficient Alternative to SIFT or SURF, ICCV 2011
    """
    orb = import_opencv().ORB_create(nfeatures=KEYPOINTS_A_FRAME)

    def describe(image: np.ndarray) -> np.ndarray | None:
        packed = orb.detectAndCompute(image, None)[1]
        return None if packed is None else np.unpackbits(packed, axis=1)

    return _fit_bag("ORB", train, seed, describe)


def fit_time(train: Clips, seed: int) -> Feature:
    """Takes the position of a clip in its video, and its length: a control without any pixels."""
    del train, seed

    def extract(clips: Clips) -> np.ndarray:
        last = (clips.frame_NT[:, -1], clips.time_NT[:, -1], clips.mask_NT.sum(axis=1))
        return np.stack([clips.frame_NT[:, 0], clips.time_NT[:, 0], *last], axis=1).astype(float)

    return Feature(extract, "control: first and last frame number and time, number of valid frames")


def fit_brightness(train: Clips, seed: int) -> Feature:
    """Takes the mean of each channel: a control without any shapes."""
    del train, seed

    def extract(clips: Clips) -> np.ndarray:
        means_NTC = _map_codes(lambda part, codes: codes.mean(axis=(2, 3)), clips)
        count_N1 = np.maximum(clips.mask_NT.sum(axis=1, keepdims=True), 1)
        return (means_NTC * clips.mask_NT[..., None]).sum(axis=1) / count_N1

    return Feature(extract, "control: mean code of each channel over the valid frames")


# Name of a baseline -> (training clips, seed) -> Feature.
FEATURES: dict[str, Callable[[Clips, int], Feature]] = {
    "raw": fit_raw,
    "raw_pca": fit_raw_pca,
    "hog": fit_hog,
    "haar": fit_haar,
    "sift": fit_sift,
    "orb": fit_orb,
    "flow_histogram": fit_flow_histogram,
    "time": fit_time,
    "brightness": fit_brightness,
}


def _map_codes(function: Callable[[Clips, np.ndarray], np.ndarray], clips: Clips) -> np.ndarray:
    """Applies (clips, codes_NTHWC) -> [N, ...] to the clips, a portion of them at a time."""
    parts = []
    for start in range(0, len(clips), _READ_CLIPS):
        part = clips.select(np.arange(start, min(start + _READ_CLIPS, len(clips))))
        parts.append(function(part, part.read(np.arange(len(part)))))
    return np.concatenate(parts)


def _by_frame(describe: Callable[[Clips, np.ndarray], np.ndarray]) -> Callable:
    """Turns (clips, codes_NTHWC) -> [N, T, F] into clips -> [N, 16 * F]; see `sample_times`."""
    return lambda clips: _map_codes(
        lambda part, codes: sample_times(describe(part, codes), part.mask_NT), clips
    )


def _by_channel(describe: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """Turns images [..., H, W] -> [..., F] into clips -> [N, F'], with all channels."""

    def describe_frames(clips: Clips, codes_NTHWC: np.ndarray) -> np.ndarray:
        vector_NTCF = describe(np.moveaxis(codes_NTHWC, -1, 2))
        return vector_NTCF.reshape(*vector_NTCF.shape[:2], -1)

    return _by_frame(describe_frames)


def _flatten_frames(clips: Clips, codes_NTHWC: np.ndarray) -> np.ndarray:
    return codes_NTHWC.reshape(*codes_NTHWC.shape[:2], -1).astype(np.float32)


def _draw_gray(clips: Clips, codes: np.ndarray) -> np.ndarray:
    """Shows codes [..., C] in gray, uint8 [...]: the largest of the three colours."""
    return view_to_rgb(clips.view, codes).max(axis=-1)


def _histogram_flow(clips: Clips, codes_NTHWC: np.ndarray) -> np.ndarray:
    return np.stack([compute_flow_histogram(flow) for flow in _find_flow(clips, codes_NTHWC)])


def _find_flow(clips: Clips, codes_NTHWC: np.ndarray) -> np.ndarray:
    """Returns flow in pixels per frame, float32 [N, T, H, W, 2]: that of the view, or computed."""
    view = clips.view
    if any(view.flow_channels):
        first = view.flow_channels.index(True)
        value = decode_view(view, codes_NTHWC)[..., first : first + 2]
        is_root = next(part for part in view.parts if part.endswith("flow")) == "rootflow"
        return value * np.abs(value) if is_root else value
    factor = find_flow_factor(*codes_NTHWC.shape[2:4])
    gray_NTHW = _enlarge(_draw_gray(clips, codes_NTHWC), factor)
    flow = np.stack([compute_flow(gray_THW) for gray_THW in gray_NTHW])
    shape = (*codes_NTHWC.shape[:3], factor, codes_NTHWC.shape[3], factor, 2)
    return flow.reshape(shape).mean(axis=(3, 5)) / factor


def _enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Enlarges uint8 [..., H, W] by cubic interpolation."""
    if factor == 1:
        return image
    cv2 = import_opencv()
    height, width = (side * factor for side in image.shape[-2:])
    flat = image.reshape(-1, *image.shape[-2:])
    large = [cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in flat]
    return np.stack(large).reshape(*image.shape[:-2], height, width)


# --- bags of words --------------------------------------------------------------------------------


def fit_vocabulary(descriptor_ND: np.ndarray, num_words: int, seed: int) -> np.ndarray:
    """Finds words by k-means, float32 [K, D]; K is at most the number of descriptors."""
    with threadpool_limits(1):
        means = KMeans(min(num_words, len(descriptor_ND)), n_init=1, random_state=seed)
        return means.fit(descriptor_ND.astype(np.float32)).cluster_centers_.astype(np.float32)


def count_words(descriptor_ND: np.ndarray, word_KD: np.ndarray) -> np.ndarray:
    """Returns the fraction of descriptors nearest to each word, [K]; zeros without descriptors."""
    if not len(descriptor_ND):
        return np.zeros(len(word_KD))
    distance_NK = (word_KD**2).sum(axis=1) - 2 * descriptor_ND.astype(np.float32) @ word_KD.T
    return np.bincount(distance_NK.argmin(axis=1), minlength=len(word_KD)) / len(descriptor_ND)


def _fit_bag(name: str, train: Clips, seed: int, describe: Callable) -> Feature:
    """Fits a vocabulary of training descriptors.

    Raises:
      ValueError: if no training clip has a keypoint.
    """
    factor = max(1, -(-KEYPOINT_SIDE // min(train.clip_format.height, train.clip_format.width)))
    bags = _describe_clips(train, describe, factor)
    descriptor_ND = np.concatenate(bags)
    if not len(descriptor_ND):
        raise ValueError(f"{name} finds no keypoint in the training clips under this view")
    if len(descriptor_ND) > MAX_DESCRIPTORS:
        random = np.random.Generator(np.random.Philox(key=[seed, 0]))
        descriptor_ND = random.choice(descriptor_ND, MAX_DESCRIPTORS, replace=False)
    word_KD = fit_vocabulary(descriptor_ND, NUM_WORDS, seed)

    def extract(clips: Clips) -> np.ndarray:
        bags = _describe_clips(clips, describe, factor)
        return np.stack([count_words(bag, word_KD) for bag in bags])

    text = (
        f"bag of {len(word_KD)} {name} words (k-means on training clips) over up to "
        f"{KEYPOINT_FRAMES} frames, pictures enlarged {factor} times"
    )
    return Feature(extract, text)


def _describe_clips(clips: Clips, describe: Callable, factor: int) -> list[np.ndarray]:
    """Returns the descriptors [n, D] of each clip, from frames spread over its valid ones."""
    bags = []
    for clip in range(len(clips)):
        valid = np.nonzero(clips.mask_NT[clip])[0]
        frames = spread_evenly(valid, KEYPOINT_FRAMES)
        pictures = _draw_gray(clips, clips.read([clip])[0, frames])
        found = [describe(image) for image in _enlarge(pictures, factor)] if len(frames) else []
        bags.append([descriptors for descriptors in found if descriptors is not None])
    widths = {descriptors.shape[1] for bag in bags for descriptors in bag}
    empty = np.zeros((0, widths.pop() if widths else 0), np.float32)
    return [np.concatenate(bag) if bag else empty for bag in bags]
