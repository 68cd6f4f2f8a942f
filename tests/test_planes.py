"""Shrinking Y'CbCr planes: checked against the formulas and against RGB of full size."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from vvae import video
from vvae.video import planes

BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


def to_ycc(rgb_XC, weights, is_full):
    """Converts RGB to Y'CbCr by definition: ITU-T H.273 (2021), equations 38 to 43."""
    red, green, blue = np.moveaxis(np.asarray(rgb_XC, float) / 255, -1, 0)
    k_r, k_b = weights
    y = k_r * red + (1 - k_r - k_b) * green + k_b * blue
    c_b, c_r = (blue - y) / (2 * (1 - k_b)), (red - y) / (2 * (1 - k_r))
    if is_full:
        return np.stack([255 * y, 255 * c_b + 128, 255 * c_r + 128], axis=-1)
    return np.stack([219 * y + 16, 224 * c_b + 128, 224 * c_r + 128], axis=-1)


def area_means(plane, size):
    """Returns means over areas whose edges may lie within pixels."""
    for axis, number in enumerate(size):
        length = plane.shape[axis]
        edge, pixel = np.linspace(0, length, number + 1), np.arange(length)
        overlap = np.minimum(edge[1:, None], pixel + 1) - np.maximum(edge[:-1, None], pixel)
        weight = np.clip(overlap, 0, None) * number / length
        plane = np.moveaxis(np.tensordot(weight, plane, (1, axis)), 0, axis)
    return plane


def make_frame(height, width, seed=0):
    """Makes a 4:2:0 frame with known means: luma is noise, chroma is constant."""
    y = np.random.default_rng(seed).integers(16, 236, (height, width), np.uint8)
    quarter = (height // 2, width // 2)
    colours = [np.full(quarter, value, np.uint8).reshape(-1, width) for value in (120, 140)]
    return y, av.VideoFrame.from_ndarray(np.concatenate([y, *colours]), format="yuv420p")


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("weights", [BT601, BT709])
def test_conversion_undoes_the_definition(weights, is_full):
    rgb = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    ycc = to_ycc(rgb, weights, is_full)
    back = planes.convert_to_rgb(np.rint(ycc).astype(np.uint8), weights, is_full)
    # Each component is rounded by up to half a level before the matrix, and RGB again after it.
    assert np.abs(back.astype(int) - rgb).max() <= 2


@pytest.mark.parametrize(("is_full", "black", "white"), [(False, 16, 235), (True, 0, 255)])
def test_black_is_0_and_white_is_255(is_full, black, white):
    ycc = np.array([[[black, 128, 128], [white, 128, 128]]], np.uint8)
    rgb = planes.convert_to_rgb(ycc, BT601, is_full)
    np.testing.assert_array_equal(rgb[0], [[0, 0, 0], [255, 255, 255]])


@pytest.mark.parametrize("size", [(12, 16), (10, 14), (23, 31), (1, 1)])
def test_luma_is_the_mean_of_the_area_to_one_level(size):
    y, frame = make_frame(48, 64)
    rgb = planes.make_shrinker()(frame, size)
    ycc = np.stack([area_means(y, size), *(np.full(size, c) for c in (120.0, 140.0))], axis=-1)
    expected = (ycc - [16, 128, 128]) @ np.linalg.inv(to_ycc(np.eye(3) * 255, BT601, False) - ycc_0)
    assert rgb.shape == (*size, 3) and rgb.dtype == np.uint8
    # Luma is rounded before the matrix, which stretches it by 255 / 219, and again after it.
    assert np.abs(rgb - np.clip(expected * 255, 0, 255)).max() <= 0.5 * 255 / 219 + 0.51


ycc_0 = np.array([16.0, 128.0, 128.0])


def test_the_stated_range_of_the_frame_is_used():
    _, frame = make_frame(16, 16)
    limited = planes.make_shrinker()(frame, (4, 4))
    frame.color_range = ColorRange.JPEG
    full = planes.make_shrinker()(frame, (4, 4))
    assert np.abs(limited.astype(int) - full).max() > 5
    y = area_means(np.frombuffer(frame.planes[0], np.uint8).reshape(16, -1)[:, :16], (4, 4))
    green = y - 0.344136 * (120 - 128) - 0.714136 * (140 - 128)  # JFIF 1.02
    assert np.abs(full[..., 1] - green).max() <= 1.01


@pytest.mark.parametrize(
    ("name", "height", "width", "size"),
    [
        ("rgb24", 16, 16, (4, 4)),  # not Y'CbCr
        ("yuv420p10le", 16, 16, (4, 4)),  # not 8 bits
        ("yuv420p", 16, 16, (4, 9)),  # chroma would grow
        ("yuv420p", 16, 16, (9, 4)),
    ],
)
def test_unsupported_formats_and_sizes_return_none(name, height, width, size):
    frame = av.VideoFrame(width, height, name)
    assert planes.make_shrinker()(frame, size) is None


def test_an_unsupported_colour_matrix_returns_none():
    _, frame = make_frame(16, 16)
    frame.colorspace = 9  # BT.2020
    assert planes.make_shrinker()(frame, (4, 4)) is None


@pytest.mark.parametrize(
    "name", ["natural/bikes.mp4", "natural/vtest.avi", "natural/cockatoo.mp4", "odd/mjpeg.avi"]
)
def test_real_frames_are_the_means_of_their_rgb(shared_data, name):
    path = str(shared_data("clips") / name)
    with av.open(path) as container:
        frame = next(container.decode(video=0))
    size = (frame.height // 5, frame.width // 5)
    small = planes.make_shrinker()(frame, size)
    rows, columns = planes._PLANAR[frame.format.name]
    full = [
        np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width]
        for plane in frame.planes
    ]
    full[1:] = [
        colour.repeat(rows, axis=0).repeat(columns, axis=1)[: frame.height, : frame.width]
        for colour in full[1:]
    ]
    is_full = frame.format.name.startswith("yuvj")
    rgb = planes.convert_to_rgb(np.stack(full, axis=-1), BT601, is_full)
    expected = np.stack([area_means(rgb[..., k].astype(float), size) for k in range(3)], axis=-1)
    assert np.abs((small - expected).mean()) < 0.2
    assert np.abs(small - expected).mean() < 0.7


def test_a_rotated_video_is_shrunk_before_its_rotation(shared_data):
    path = shared_data("clips") / "odd" / "rotated90_bikes.mp4"
    _, whole = video.read_frames(path)
    height, width = whole.shape[1] // 4, whole.shape[2] // 4
    _, small = video.read_frames(path, (height, width))
    expected = whole[:, : 4 * height, : 4 * width].reshape(-1, height, 4, width, 4, 3)
    assert np.abs(small - expected.mean(axis=(2, 4))).mean() < 3
