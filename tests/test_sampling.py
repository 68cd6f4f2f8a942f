"""Clips of real video files against slices made by hand."""

import numpy as np
import pytest

from vvae.data.sampling import ClipFormat, Sampling, cut_sequence, decode_clips, find_spread_frames
from vvae.data.views import encode_view, get_view
from vvae.video import VideoError, read_frames, write_video


def write_noise(path, num_frames, size=(6, 8), seed=0):
    shape = (num_frames, *size, 3)
    frames = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    write_video(path, frames, fps=10, lossless=True)
    return frames


def make_format(view="rgb", size=(6, 8), **sampling):
    return ClipFormat(view, *size, Sampling(**sampling))


@pytest.mark.parametrize("num_frames", [1, 4, 7, 8, 9])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_hold_every_kept_frame_exactly_once(tmp_path, num_frames, stride):
    frames = write_noise(tmp_path / "a.mp4", num_frames)
    clips = decode_clips(tmp_path / "a.mp4", make_format(num_frames=4, frame_stride=stride))
    kept = np.arange(0, num_frames, stride)
    np.testing.assert_array_equal(clips.frame_NT[clips.mask_NT], kept)
    np.testing.assert_array_equal(clips.codes_NTHWC, frames[clips.frame_NT])
    np.testing.assert_allclose(clips.time_NT, clips.frame_NT / 10, atol=1e-6)
    padding = clips.frame_NT[~clips.mask_NT]
    assert (padding == kept[-1]).all()
    assert clips.num_padded == int(len(kept) % 4 != 0)
    assert clips.num_frames == num_frames


def test_whole_spreads_frames_over_the_video(tmp_path):
    frames = write_noise(tmp_path / "a.mp4", 13)
    clips = decode_clips(tmp_path / "a.mp4", make_format(num_frames=5, mode="whole"))
    assert clips.frame_NT.tolist() == [[0, 3, 6, 9, 12]]
    np.testing.assert_array_equal(clips.codes_NTHWC[0], frames[[0, 3, 6, 9, 12]])
    assert clips.mask_NT.all() and clips.num_padded == 0


def test_whole_pads_a_short_video(tmp_path):
    frames = write_noise(tmp_path / "a.mp4", 3)
    clips = decode_clips(tmp_path / "a.mp4", make_format(num_frames=5, mode="whole"))
    np.testing.assert_array_equal(clips.codes_NTHWC[0], frames[[0, 1, 2, 2, 2]])
    assert clips.mask_NT.tolist() == [[True, True, True, False, False]]
    assert clips.num_padded == 1


def test_whole_spaces_frames_by_time_and_not_by_number():
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 4.0])
    assert find_spread_frames(times, 5).tolist() == [0, 4, 4, 5, 5]
    assert find_spread_frames(times, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert find_spread_frames(times, 1).tolist() == [0]


def test_whole_of_evenly_timed_frames_takes_different_ones():
    for num_frames in range(1, 40):
        chosen = find_spread_frames(np.arange(40) / 29.97, num_frames)
        assert len(set(chosen.tolist())) == num_frames
        assert chosen[0] == 0 and (num_frames == 1 or chosen[-1] == 39)


def test_view_is_computed_from_the_video_and_not_from_the_clip(tmp_path):
    """Differences continue across clips; only the first frame of the video has none."""
    frames = write_noise(tmp_path / "a.mp4", 7)
    clips = decode_clips(
        tmp_path / "a.mp4", make_format("gray+difference", num_frames=3, frame_stride=2)
    )
    codes, _, _ = encode_view(get_view("gray+difference"), frames[::2])
    np.testing.assert_array_equal(clips.codes_NTHWC[0], codes[:3])
    np.testing.assert_array_equal(clips.codes_NTHWC[1], codes[[3, 3, 3]])
    assert clips.mask_NT.tolist() == [[False, True, True], [True, False, False]]


def test_a_video_without_a_valid_frame_is_broken(tmp_path):
    write_noise(tmp_path / "a.mp4", 1)
    with pytest.raises(VideoError, match=r"a\.mp4: 1 frame\(s\) are too few for the view diff"):
        decode_clips(tmp_path / "a.mp4", make_format("difference", num_frames=4))


def test_frames_are_resized_to_the_format(tmp_path):
    write_noise(tmp_path / "a.mp4", 4, size=(24, 32))
    clips = decode_clips(tmp_path / "a.mp4", make_format(size=(6, 8), num_frames=4))
    np.testing.assert_array_equal(clips.codes_NTHWC[0], read_frames(tmp_path / "a.mp4", (6, 8))[1])


def test_positions_are_cut_in_order():
    position, filled = cut_sequence(5, 2)
    assert position.tolist() == [[0, 1], [2, 3], [4, 4]]
    assert filled.tolist() == [[False, False], [False, False], [False, True]]


def test_clip_format_knows_its_shape():
    clip_format = make_format("gray+difference", size=(6, 8), num_frames=5)
    assert clip_format.clip_shape == (5, 6, 8, 2)
    assert clip_format.clip_bytes == 480


def test_impossible_formats_name_the_setting():
    with pytest.raises(ValueError, match=r"data\.num_frames must be at least 1, got 0"):
        Sampling(0)
    with pytest.raises(ValueError, match=r"data\.frame_stride must be at least 1, got -1"):
        Sampling(4, -1)
    with pytest.raises(ValueError, match=r"data\.sampling must be windows or whole, got 'all'"):
        Sampling(4, 1, "all")
    with pytest.raises(ValueError, match="at least 1x1 pixel, got 0x8"):
        make_format(size=(0, 8), num_frames=4)
    with pytest.raises(ValueError, match="did you mean 'gray'"):
        make_format("grey", num_frames=4)
