"""Codecs of FFmpeg: what comes back, and which bytes count."""

import numpy as np
import pytest

from benchmarks import codecs
from benchmarks.codec_curves import split_videos


def make_video(channels=3):
    ramp = np.add.outer(np.arange(5) * 4, np.add.outer(np.arange(64), np.arange(64)))
    return np.repeat(ramp[..., None], channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name", codecs.CODECS)
def test_a_coded_clip_comes_back_with_fewer_bytes_at_a_higher_rate_factor(name):
    codec, video = codecs.CODECS[name], make_video()
    coded = [codecs.code_clip(video, codec, codec.pixel_formats[-1], crf) for crf in (20, 45)]
    for one in coded:
        assert one.frames.shape == video.shape
        assert np.abs(one.frames.astype(int) - video).mean() < 12
        assert 0 < one.payload < one.total
    assert coded[1].payload < coded[0].payload
    # All that is left out is information for people: x264 writes 600 bytes of it.
    packets = codecs._encode(video, codec, codec.pixel_formats[-1], 20)
    left_out = sum(packet.size for packet in packets) - coded[0].total
    assert 0 <= left_out < 900


def test_gray_clips_come_back_gray():
    coded = codecs.code_clip(make_video(1), codecs.CODECS["x264"], "yuv420p", 30)
    assert coded.frames.shape == (5, 64, 64, 1)


def test_h264_counts_units_1_and_5_and_parameter_sets():
    units = [b"\x67sets", b"\x68set", b"\x06sei", b"\x65" + 9 * b"a", b"\x41" + 4 * b"b"]
    stream = b"\x00\x00\x00\x01" + b"\x00\x00\x01".join(units)
    assert codecs.count_h264(stream) == (10 + 5, 5 + 4)


def test_hevc_counts_units_below_32_and_parameter_sets():
    kinds = (32, 33, 34, 39, 19, 1)
    units = [bytes([kind << 1, 1]) + kind * b"a" for kind in kinds]
    stream = b"\x00\x00\x00\x01" + b"\x00\x00\x01".join(units)
    assert codecs.count_hevc(stream) == (19 + 1 + 4, 32 + 33 + 34 + 6)


def test_obus_are_counted_by_their_sizes():
    long = bytes([6 << 3 | 2, 0x80 | 72, 1]) + bytes(200)  # 72 + 128 bytes in two of LEB128
    stream = bytes([2 << 3 | 2, 0]) + bytes([1 << 3 | 2, 3, 9, 9, 9]) + long
    assert list(codecs.iterate_obus(stream)) == [(2, 2), (1, 5), (6, 203)]
    assert codecs.count_av1(stream) == (203, 5)
    with pytest.raises(ValueError, match="beyond the end"):
        list(codecs.iterate_obus(stream[:-1]))
    with pytest.raises(ValueError, match="states no size"):
        list(codecs.iterate_obus(bytes([6 << 3, 0])))


def test_curves_of_videos_come_from_all_points():
    points = [
        {"by_video": {"rate": [1, 2], "psnr": [30, 31]}},
        {"by_video": {"rate": [3, 4], "psnr": [32, 33]}},
    ]
    assert split_videos(points, "rate") == [[(1, 30), (3, 32)], [(2, 31), (4, 33)]]
