"""Views encode frames to codes: checked against closed forms and direct definitions."""

import numpy as np
import pytest

from vvae.data.views import decode_view, encode_view, find_otsu_threshold, get_view, view_to_rgb
from vvae.measure.legends import draw_wheel, explain_view


def make_frames(num_frames=5, height=4, width=6, seed=0):
    shape = (num_frames, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def repeat_channel(gray_FHW):
    return np.repeat(np.asarray(gray_FHW, np.uint8)[..., None], 3, axis=-1)


def test_rgb_codes_are_the_frames():
    frames = make_frames()
    codes, valid, _ = encode_view(get_view("rgb"), frames)
    np.testing.assert_array_equal(codes, frames)
    assert valid.all()


def test_gray_keeps_every_gray_level_exactly():
    levels = np.arange(256).reshape(1, 16, 16)
    codes, _, _ = encode_view(get_view("gray"), repeat_channel(levels))
    np.testing.assert_array_equal(codes[..., 0], levels)


def test_gray_is_bt601_luma():
    frames = make_frames()
    codes, valid, _ = encode_view(get_view("gray"), frames)
    luma = frames.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert np.abs(codes[..., 0] - luma).max() <= 0.5 + 1e-9
    assert codes.dtype == np.uint8 and codes.shape == (5, 4, 6, 1) and valid.all()


def test_difference_of_every_possible_step():
    steps = np.arange(-255, 256)
    before, after = np.maximum(-steps, 0), np.maximum(steps, 0)
    codes, valid, _ = encode_view(
        get_view("difference"), repeat_channel(np.stack([before, after])[:, None, :])
    )
    assert valid.tolist() == [False, True]
    assert (codes[0] == 128).all()
    code = codes[1, 0, :, 0].astype(int)
    expected = np.clip(np.rint(128 + steps / 2), 0, 255)
    np.testing.assert_array_equal(code, expected)
    physical = decode_view(get_view("difference"), codes)[1, 0, :, 0]
    assert np.abs(physical - steps).max() <= 1.0
    inner = slice(1, -1)  # the code of +255 would be 256
    np.testing.assert_array_equal(code[inner] - 128, -(code[inner] - 128)[::-1])


def test_motion_is_the_magnitude_of_the_difference():
    random = np.random.default_rng(0)
    frames = repeat_channel(random.integers(0, 256, (5, 4, 6), dtype=np.uint8))
    motion, valid, _ = encode_view(get_view("motion"), frames)
    np.testing.assert_array_equal(valid, [False, True, True, True, True])
    np.testing.assert_array_equal(motion[0], 0)
    exact = np.abs(np.diff(frames[..., 0].astype(int), axis=0))
    np.testing.assert_array_equal(motion[1:, ..., 0], exact)
    difference, _, _ = encode_view(get_view("difference"), frames)
    physical = np.abs(decode_view(get_view("difference"), difference))
    assert np.abs(physical - decode_view(get_view("motion"), motion)).max() <= 1


def test_difference_is_between_neighbouring_frames():
    gray = np.array([10, 14, 14, 4]).reshape(4, 1, 1)
    codes, _, _ = encode_view(get_view("difference"), repeat_channel(gray))
    assert codes.ravel().tolist() == [128, 130, 128, 123]


def find_threshold_by_definition(values):
    """Returns the threshold with the smallest variance within the two classes."""
    best, best_threshold = np.inf, None
    for threshold in range(256):
        dark, bright = values[values <= threshold], values[values > threshold]
        if len(dark) and len(bright):
            within = len(dark) * dark.var() + len(bright) * bright.var()
            if within < best - 1e-6:
                best, best_threshold = within, threshold
    return best_threshold


@pytest.mark.parametrize("seed", range(4))
def test_otsu_threshold_is_the_best_one(seed):
    random = np.random.default_rng(seed)
    values = np.concatenate([random.normal(70, 15, 300), random.normal(170, 25, 150)])
    values = np.clip(values, 0, 255).astype(np.uint8)
    assert find_otsu_threshold(values) == find_threshold_by_definition(values.astype(float))


def test_otsu_uses_one_threshold_for_the_whole_video():
    gray = np.stack([np.full((4, 4), 20), np.full((4, 4), 30), np.full((4, 4), 200)])
    gray[2, 0] = 25
    codes, valid, _ = encode_view(get_view("otsu"), repeat_channel(gray))
    np.testing.assert_array_equal(codes[..., 0], np.where(gray == 200, 255, 0))
    assert valid.all()
    assert set(np.unique(decode_view(get_view("otsu"), codes))) == {0.0, 1.0}


def test_otsu_of_a_constant_video_is_dark():
    codes, _, _ = encode_view(get_view("otsu"), np.full((2, 3, 3, 3), 255, np.uint8))
    assert (codes == 0).all()


def test_a_stack_concatenates_the_codes_of_its_parts():
    frames = make_frames()
    view = get_view("rgb+difference+otsu")
    codes, valid, _ = encode_view(view, frames)
    parts = [encode_view(get_view(name), frames)[0] for name in view.parts]
    np.testing.assert_array_equal(codes, np.concatenate(parts, axis=-1))
    assert valid.tolist() == [False] + [True] * 4
    assert view.num_channels == 5
    assert view.intensity_channels == (True, True, True, False, False)
    physical = decode_view(view, codes)
    assert physical.dtype == np.float32
    np.testing.assert_array_equal(physical[..., 3], (codes[..., 3].astype(float) - 128) * 2)


def test_only_intensities_are_8bit():
    names = ("gray", "rgb", "difference", "otsu", "gray+difference")
    assert [name for name in names if get_view(name).is_8bit] == ["gray", "rgb"]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("rgb", [0, 1, 2]),
        ("gray", [0, 0, 0]),
        ("difference", [0, 0, 0]),
        ("difference+gray", [1, 1, 1]),
        ("difference+rgb", [1, 2, 3]),
    ],
)
def test_a_stack_is_shown_by_its_first_image_part(name, channels):
    view = get_view(name)
    codes = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, view.num_channels), np.uint8)
    np.testing.assert_array_equal(view_to_rgb(view, codes), codes[..., channels])


def test_unknown_view_names_the_closest():
    with pytest.raises(ValueError, match=r"unknown view 'grey': did you mean 'gray'\?"):
        get_view("grey")
    names = "rgb, gray, difference, motion, flow, rootflow, rootspeed, otsu"
    with pytest.raises(ValueError, match=f"the views are {names}"):
        get_view("gray+zzz")
    with pytest.raises(ValueError, match="'gray\\+gray' names a part twice"):
        get_view("gray+gray")


@pytest.mark.parametrize("frames", [np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 4, 4, 3))])
def test_frames_of_another_dtype_or_shape_are_refused(frames):
    with pytest.raises(ValueError, match=r"must be uint8 \[F, H, W, 3\], got"):
        encode_view(get_view("gray"), frames)


def test_the_wheel_of_flow_has_the_colours_of_the_pictures():
    for name in ("flow", "rootflow"):
        wheel = draw_wheel(name).astype(int)
        last, middle = len(wheel) - 2, len(wheel) // 2
        assert np.all(wheel[0, 0] == 255) and wheel[middle, middle].sum() < 160
        right, left = wheel[middle, last], wheel[middle, 1]
        assert right[0] > 230 and right[1:].max() < 30  # red
        assert left[0] < 30 and left[1:].min() > 230  # cyan
        legend = explain_view(get_view(name))
        assert legend.picture is not None and "first frame of a video is black" in legend.text
    assert explain_view(get_view("gray+flow")) is None
    assert "is gray" in explain_view(get_view("difference")).text
