"""Views of flow: known velocities, signs, clipping, masks, stacks, files, missing OpenCV."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from vvae.data.cache import cache_videos
from vvae.data.dataset import Cache, Decoding, describe_flaws, open_dataset, open_unsplit
from vvae.data.flow import compute_flow, find_flow_factor
from vvae.data.loader import Augmentation, train_batches
from vvae.data.sampling import ClipFormat, Sampling, decode_clips
from vvae.data.views import (
    decode_view,
    encode_view,
    find_decode_factor,
    get_view,
    mirror_codes,
    view_to_rgb,
)
from vvae.video import write_video

FLOW = get_view("flow")


def make_texture(height, width, shortest=6):
    """Makes a smooth periodic texture, uint8; its shortest wave is about `shortest` pixels."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    waves = sum(
        np.sin(2 * np.pi * (a * y + b * x + random.random()))
        for a in range(height // shortest)
        for b in range(-width // shortest, width // shortest)
    )
    return np.rint(127.5 * (1 + waves / np.abs(waves).max())).astype(np.uint8)


def move_texture(num_frames=4, size=(72, 96), right=0, down=0, shortest=6):
    """Makes an RGB texture that moves periodically by whole pixels per frame."""
    texture = make_texture(*size, shortest)
    gray = [np.roll(texture, (k * down, k * right), (0, 1)) for k in range(num_frames)]
    return np.repeat(np.stack(gray)[..., None], 3, axis=-1)


def find_middle(flow_FHWC):
    """Returns the middle of all frames but the first, without the borders that objects leave."""
    height, width = flow_FHWC.shape[1:3]
    return flow_FHWC[1:, height // 4 : -(height // 4), width // 4 : -(width // 4)]


@pytest.mark.parametrize(("right", "down"), [(3, 0), (-3, 0), (0, 2), (0, -2), (2, -3), (0, 0)])
@pytest.mark.parametrize("factor", [1, 3])
def test_moved_texture_has_its_velocity(right, down, factor):
    frames = move_texture(right=right, down=down)
    codes, valid, num_clipped = encode_view(FLOW, frames, factor)
    assert codes.shape == (4, 72 // factor, 96 // factor, 2) and codes.dtype == np.uint8
    assert valid.tolist() == [False, True, True, True]
    assert (codes[0] == 128).all() and num_clipped == 0
    middle = find_middle(decode_view(FLOW, codes))
    wanted = np.array([right, down]) / factor  # in pixels of the clip
    # Half a code step is 0.03; Farneback itself is off by some hundredths of a pixel.
    np.testing.assert_allclose(middle.mean(axis=(0, 1, 2)), wanted, atol=0.1 / factor + 0.03)
    assert np.abs(middle - wanted).max() < 0.4 / factor + 0.04


def test_codes_are_the_area_mean_of_the_flow():
    frames = move_texture(right=3, down=1)
    codes, _, _ = encode_view(FLOW, frames, 3)
    flow = compute_flow(frames[..., 0])
    mean = flow.reshape(4, 24, 3, 32, 3, 2).astype(np.float64).mean(axis=(2, 4))
    exact = 128 + 16 * mean / 3
    assert np.abs(codes - exact).max() <= 0.5 + 1e-4


def test_flow_that_is_too_large_is_clipped_and_counted():
    frames = move_texture(right=11, shortest=24)
    codes, _, num_clipped = encode_view(FLOW, frames)
    exact = np.rint(16 * compute_flow(frames[..., 0]))
    assert num_clipped == (np.abs(exact) > 127).sum() > 1000
    assert codes.min() >= 1
    np.testing.assert_array_equal(codes, 128 + np.clip(exact, -127, 127))
    np.testing.assert_array_equal(find_middle(codes)[..., 0], 255)
    left, _, num_clipped = encode_view(FLOW, move_texture(right=-11, shortest=24))
    assert num_clipped > 1000
    np.testing.assert_array_equal(find_middle(left)[..., 0], 1)


def test_rootflow_is_the_signed_root_of_the_averaged_flow():
    frames = move_texture(right=-3, down=1)
    codes, valid, num_clipped = encode_view(get_view("rootflow"), frames, 3)
    mean = compute_flow(frames[..., 0]).reshape(4, 24, 3, 32, 3, 2).astype(np.float64)
    mean = mean.mean(axis=(2, 4)) / 3
    physical = decode_view(get_view("rootflow"), codes)
    assert valid.tolist() == [False, True, True, True] and num_clipped == 0
    np.testing.assert_allclose(physical * np.abs(physical), mean, atol=0.04)
    assert np.abs(physical - np.sign(mean) * np.sqrt(np.abs(mean))).max() <= 0.5 / 40 + 1e-4
    both, _, _ = encode_view(get_view("flow+rootflow"), frames, 3)
    np.testing.assert_array_equal(both[..., 2:], codes)
    np.testing.assert_array_equal(both[..., :2], encode_view(FLOW, frames, 3)[0])


def measure_speed(frames, factor):
    """Computes the root of speed by its definition, one pixel and frame after the other."""
    flow = compute_flow(frames[..., 0]).astype(np.float64)
    size = np.hypot(flow[..., 0], flow[..., 1]) / factor
    num_frames, height, width = size.shape
    shape = (num_frames, height // factor, factor, width // factor, factor)
    small = size.reshape(shape).mean(axis=(2, 4))
    wanted = np.zeros(small.shape)
    for f, y, x in np.ndindex(*small.shape):
        if f:
            past = slice(max(1, f - 3), f + 1)
            around = (slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2))
            wanted[f, y, x] = np.sqrt(small[past, *around].mean())
    return wanted


@pytest.mark.parametrize("factor", [1, 3])
def test_rootspeed_is_the_root_of_the_mean_magnitude_over_recent_frames_and_neighbours(factor):
    frames = move_texture(num_frames=12, size=(36, 48), right=1, down=-1)
    frames[5:] = np.roll(frames[5:], 4, axis=2)  # a jump, which the following frames average in
    view = get_view("rootspeed")
    codes, valid, num_clipped = encode_view(view, frames, factor)
    assert codes.shape == (12, 36 // factor, 48 // factor, 1) and num_clipped == 0
    assert valid.tolist() == [False] + 11 * [True] and view.history == 4
    physical = decode_view(view, codes)[..., 0]
    assert np.abs(physical - measure_speed(frames, factor)).max() <= 0.5 / 100 + 1e-4
    assert physical[8:].std() > 0.01


def test_rootspeed_does_not_depend_on_the_direction_and_is_clipped_and_counted():
    view = get_view("rootspeed")
    speeds = [
        decode_view(view, encode_view(view, move_texture(right=r, down=d))[0])[2:, 20:50, 20:70]
        for r, d in ((3, 0), (-3, 0), (0, 3))
    ]
    for speed in speeds:
        np.testing.assert_allclose(speed.mean(), np.sqrt(3), atol=0.03)
    codes, _, num_clipped = encode_view(view, move_texture(right=11, shortest=24))
    assert 100 < num_clipped <= (codes == 255).sum()
    mirrored = mirror_codes(view, codes)
    np.testing.assert_array_equal(mirrored, codes[:, :, ::-1])


def test_speed_is_computed_from_finer_frames_than_flow():
    assert find_decode_factor(get_view("rootspeed"), 24, 36) == 5
    assert find_decode_factor(get_view("flow"), 24, 36) == 3
    assert find_decode_factor(get_view("gray+flow+rootspeed"), 24, 36) == 5


def test_other_parts_of_a_stack_see_the_averaged_frames():
    frames = np.random.default_rng(0).integers(0, 256, (3, 72, 96, 3), np.uint8)
    view = get_view("gray+flow+difference")
    codes, valid, _ = encode_view(view, frames, 3)
    assert valid.tolist() == [False, True, True]
    assert view.offset == (0, 128, 128, 128) and view.scale == (1, 1 / 16, 1 / 16, 2)
    assert view.intensity_channels == (True, False, False, False) and not view.is_8bit
    mean = frames.reshape(3, 24, 3, 32, 3, 3).astype(np.float64).mean(axis=(2, 4))
    small = np.rint(mean).astype(np.uint8)
    gray, _, _ = encode_view(get_view("gray"), small)
    difference, _, _ = encode_view(get_view("difference"), small)
    flow, _, _ = encode_view(FLOW, frames, 3)
    np.testing.assert_array_equal(codes, np.concatenate([gray, flow, difference], axis=-1))
    other, _, _ = encode_view(get_view("flow+gray"), frames, 3)
    np.testing.assert_array_equal(other, np.concatenate([flow, gray], axis=-1))


def test_frames_that_the_factor_does_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 73, 96, 3\) cannot be divided by the factor 3"):
        encode_view(FLOW, np.zeros((3, 73, 96, 3), np.uint8), 3)


def test_flow_is_computed_from_at_least_sixty_pixels():
    assert [find_flow_factor(*size) for size in ((24, 32), (32, 32), (64, 64), (48, 8))] == [
        3, 2, 1, 8,
    ]  # fmt: skip
    for view in ("gray", "rgb", "difference", "motion", "otsu", "gray+motion"):
        assert find_decode_factor(get_view(view), 24, 32) == 1
    assert find_decode_factor(get_view("gray+flow"), 24, 32) == 3


def test_mirrored_codes_are_those_of_the_mirrored_video():
    frames = move_texture(right=3, down=2)
    view = get_view("gray+flow")
    codes, _, _ = encode_view(view, frames)
    mirrored = mirror_codes(view, codes)
    wanted, _, _ = encode_view(view, frames[:, :, ::-1])
    np.testing.assert_array_equal(mirrored[..., 0], wanted[..., 0])
    difference = find_middle(mirrored.astype(int) - wanted)
    assert np.abs(difference).mean() < 1 and find_middle(mirrored)[..., 1].mean() < 128 - 40
    np.testing.assert_array_equal(mirror_codes(view, mirrored), codes)
    gray = get_view("gray")
    np.testing.assert_array_equal(mirror_codes(gray, codes[..., :1]), codes[:, :, ::-1, :1])


def write_moving(path, num_frames=9, size=(72, 96), right=3):
    """Writes a moving texture in which steps of up to 12 pixels can be followed."""
    frames = move_texture(num_frames, size, right, shortest=24)
    write_video(path, frames, fps=10, lossless=True)


def test_flipped_batches_reverse_the_flow(tmp_path):
    for k in range(3):
        (tmp_path / "data" / "train").mkdir(parents=True, exist_ok=True)
        write_moving(tmp_path / "data" / "train" / f"{k}.mp4")
    (tmp_path / "data" / "val").mkdir()
    write_moving(tmp_path / "data" / "val" / "v.mp4")
    clip_format = ClipFormat("flow", 24, 32, Sampling(9))
    dataset = open_dataset(
        tmp_path / "data", clip_format, Decoding(Cache(tmp_path / "cache", 10**9))
    )
    batches = train_batches(dataset.splits["train"], 3, 0, augmentation=Augmentation(flip=True))
    signs = set()
    for _ in range(4):
        _, batch = next(batches)
        signs |= {round(m / 16) for m in (batch["video"][:, 4, 12, 16, 0] - 128.0)}
    batches.close()
    assert signs == {-1, 1}


def test_clips_of_a_file(tmp_path):
    write_moving(tmp_path / "a.mp4")
    clips = decode_clips(tmp_path / "a.mp4", ClipFormat("flow", 24, 32, Sampling(4)))
    assert clips.codes_NTHWC.shape == (3, 4, 24, 32, 2)
    assert clips.mask_NT.sum() == 8 and not clips.mask_NT[0, 0]
    wanted, _, _ = encode_view(FLOW, move_texture(9, right=3, shortest=24), 3)
    np.testing.assert_array_equal(clips.codes_NTHWC.reshape(12, 24, 32, 2)[:9], wanted)


def test_flow_between_sampled_frames(tmp_path):
    """Between every second frame, the displacement is twice as large."""
    write_moving(tmp_path / "a.mp4")
    clips = decode_clips(tmp_path / "a.mp4", ClipFormat("flow", 24, 32, Sampling(5, 2)))
    middle = find_middle(decode_view(FLOW, clips.codes_NTHWC[0]))
    assert abs(middle[..., 0].mean() - 2) < 0.1 and clips.num_clipped == 0


def test_flow_of_a_still_video_is_zero(tmp_path):
    write_moving(tmp_path / "a.mp4", 3, right=0)
    clips = decode_clips(tmp_path / "a.mp4", ClipFormat("flow", 24, 32, Sampling(6, 1, "whole")))
    off = np.abs(clips.codes_NTHWC.astype(int) - 128)
    assert off.max() <= 1 and off.mean() < 0.02 and (off[:, 0] == 0).all()
    assert clips.mask_NT.tolist() == [[False, True, True, False, False, False]]


def test_clipped_values_reach_cache_and_data_set(tmp_path):
    folder = tmp_path / "data"
    for split, number in (("train", 2), ("val", 1)):
        (folder / split).mkdir(parents=True)
        for k in range(number):
            write_moving(folder / split / f"{k}.mp4", 3, (64, 64), right=11)
    clip_format = ClipFormat("flow", 64, 64, Sampling(3))
    alone = decode_clips(folder / "val" / "0.mp4", clip_format)
    assert alone.num_clipped > 100
    decoding = Decoding(Cache(tmp_path / "cache", 10**9))
    for _ in range(2):  # decoded, then from the cache
        assert open_dataset(folder, clip_format, decoding).num_clipped == 3 * alone.num_clipped


def test_workers_compute_the_same_codes(tmp_path):
    """Fresh processes compute bit-equal codes."""
    paths = [str(tmp_path / f"{k}.mp4") for k in range(2)]
    for path in paths:
        write_moving(path)
    clip_format = ClipFormat("gray+flow", 24, 32, Sampling(9))
    cache = Cache(tmp_path / "cache", 10**9)
    for position, entry, is_new in cache_videos(paths, clip_format, cache, num_workers=2):
        here = decode_clips(paths[position], clip_format)
        assert is_new
        np.testing.assert_array_equal(np.load(entry.codes.path), here.codes_NTHWC)
        assert entry.num_clipped == here.num_clipped


def test_a_new_version_of_a_view_keeps_entries_of_other_views(tmp_path, monkeypatch):
    """After a new version of flow, only its entries are decoded again."""
    write_moving(tmp_path / "a.mp4", 3)
    cache = Cache(tmp_path / "cache", 10**9)

    def fill(view):
        clip_format = ClipFormat(view, 24, 32, Sampling(3))
        ((_, _, is_new),) = cache_videos([str(tmp_path / "a.mp4")], clip_format, cache)
        return is_new

    assert [fill(view) for view in ("gray", "flow", "gray", "flow")] == [True, True, False, False]
    monkeypatch.setitem(sys.modules["vvae.data.views"]._VERSIONS, "flow", 99)
    assert [fill(view) for view in ("gray", "flow")] == [False, True]


def test_colours_show_direction_and_magnitude():
    """Right angles have distinct hues; the brightness grows from 0 to full at 2 pixels."""
    directions = np.array([[127, 0], [0, 127], [-127, 0], [0, -127]])
    full = view_to_rgb(FLOW, (128 + directions).astype(np.uint8))
    wanted = [[255, 0, 0], [127.5, 255, 0], [0, 255, 255], [127.5, 0, 255]]
    np.testing.assert_allclose(full, wanted, atol=0.6)
    assert view_to_rgb(FLOW, np.array([128, 128], np.uint8)).tolist() == [0, 0, 0]
    sizes = np.stack([128 + np.arange(128), np.full(128, 128)], axis=-1).astype(np.uint8)
    red = view_to_rgb(FLOW, sizes)[:, 0].astype(int)
    assert (np.diff(red[:33]) > 0).all() and (red[32:] == 255).all()  # 2 pixels are 32 steps
    np.testing.assert_allclose(red[:32], 255 * np.sqrt(np.arange(32) / 32), atol=0.5 + 1e-3)
    # The same flow looks the same under its root.
    frames = move_texture(right=1, down=2)
    pictures = [
        view_to_rgb(view, encode_view(view, frames)[0]).astype(int)
        for view in (FLOW, get_view("rootflow"))
    ]
    assert np.abs(pictures[0] - pictures[1]).mean() < 6


def test_stack_is_shown_by_its_image_part():
    view = get_view("flow+gray")
    codes = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    np.testing.assert_array_equal(view_to_rgb(view, codes), np.repeat(codes[..., 2:], 3, axis=-1))


def test_missing_opencv_is_an_error_of_one_line():
    """Without cv2, other views work, and flow names the package to install."""
    script = """
import sys
sys.modules["cv2"] = None
import numpy as np
from vvae.data.views import encode_view, get_view
frames = np.zeros((2, 4, 4, 3), np.uint8)
encode_view(get_view("gray"), frames)
try:
    encode_view(get_view("flow"), frames)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert "pip install 'vvae[vision]'" in done.stdout


def test_fingerprint_depends_on_the_version_of_the_view(tmp_path, monkeypatch):
    for split in ("train", "val"):
        (tmp_path / "data" / split).mkdir(parents=True)
        write_moving(tmp_path / "data" / split / "a.mp4", 3)
    decoding = Decoding(Cache(tmp_path / "cache", 10**9))
    formats = [ClipFormat(view, 24, 32, Sampling(3)) for view in ("gray", "flow")]
    before = [open_dataset(tmp_path / "data", f, decoding).fingerprint for f in formats]
    monkeypatch.setitem(sys.modules["vvae.data.views"]._VERSIONS, "flow", 99)
    after = [open_dataset(tmp_path / "data", f, decoding).fingerprint for f in formats]
    assert before[0] == after[0] and before[1] != after[1]
    assert dataclasses.replace(formats[0], view="flow") == formats[1]


def test_clipped_values_are_described(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "data" / split).mkdir(parents=True)
        path = tmp_path / "data" / split / "a.mp4"
        write_moving(path, 3, (64, 64), right=11)
    # The same frames in another file: identical files in two splits are a warning of their own.
    path.write_bytes(path.read_bytes() + b"\0\0\0\x08free")
    decoding = Decoding(Cache(tmp_path / "cache", 10**9))
    dataset = open_dataset(
        tmp_path / "data", ClipFormat("gray+flow", 64, 64, Sampling(3)), decoding
    )
    total = 2 * 2 * 64 * 64 * 2  # two videos of two valid frames
    number = dataset.num_clipped
    assert describe_flaws(dataset) == (
        f"data: {number:,} of {total:,} flow values ({number / total:.2%}) are clipped: they "
        "exceed the range of the 8-bit code",
    )
    # The same function describes new videos, which have no training split.
    new = open_unsplit(
        tmp_path / "data" / "val", ClipFormat("gray+flow", 64, 64, Sampling(3)), decoding
    )
    assert f"data: {number // 2:,} of {total // 2:,} flow values" in describe_flaws(new)[0]


def test_opening_new_videos_prints_what_is_left_out_unknown_and_clipped(tmp_path, capsys):
    from vvae.config import Config, Data
    from vvae.run import Run
    from vvae.tasks.question import open_videos

    (tmp_path / "new" / "odd").mkdir(parents=True)
    write_moving(tmp_path / "new" / "odd" / "a.mp4", 3, (64, 64), right=11)
    (tmp_path / "new" / "odd" / "b.mp4").write_bytes(b"no video")
    data = Data(view="flow", height=64, width=64, num_frames=3, workers=0)
    config = Config(data=dataclasses.replace(data, cache_dir=str(tmp_path / "cache")))
    run = Run(tmp_path, config, {}, ("walk",))
    opened, _ = open_videos(run, str(tmp_path / "new"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("left out, cannot be read: odd/b.mp4: ")
    assert lines[1] == "data: 2 videos have the label 'odd', which is not a class"
    assert "flow values" in lines[2] and opened.num_clipped > 100
