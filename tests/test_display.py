"""Frames come out as the ffmpeg program shows them: each test asks the program itself."""

import gc
import struct
import subprocess
from fractions import Fraction

import av
import imageio_ffmpeg
import numpy as np
import pytest

from vvae import video
from vvae.video import VideoError

SIZE = (24, 32)


def run_ffmpeg(*arguments):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y"]
    return subprocess.run([*command, *map(str, arguments)], check=True, capture_output=True).stdout


def make_video(path, *options, size=SIZE, rate=10):
    """Makes a video of pale colours, none of which is outside RGB after its chroma is shrunk."""
    source = f"testsrc=size={size[1]}x{size[0]}:rate={rate}:duration=0.2,format=yuv444p"
    source += ",lutyuv=y=64+val/2:u=112+val/8:v=112+val/8"
    run_ffmpeg("-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", *options, path)
    return path


def show(path, size):
    """Returns the frames that ffmpeg shows, uint8 [T, H, W, 3]; of another size, they are torn."""
    raw = run_ffmpeg(
        "-i", path, "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"
    )
    return np.frombuffer(raw, np.uint8).reshape(-1, *size, 3)


def check_shown(path, size):
    """Checks the frames as they are, and as means over areas of 4x4 pixels."""
    expected = show(path, size)
    _, frames = video.read_frames(path)
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).max() <= 2
    small = (size[0] // 4, size[1] // 4)
    cut = expected[:, : 4 * small[0], : 4 * small[1]]
    means = cut.reshape(-1, small[0], 4, small[1], 4, 3).mean(axis=(2, 4))
    if size == tuple(4 * side for side in small):
        _, resized = video.read_frames(path, small)
        assert np.abs(resized - means).mean() < 3


@pytest.mark.parametrize("mirroring", [[], ["-display_hflip"]])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_all_orientations(tmp_path, degrees, mirroring):
    stored = make_video(tmp_path / "stored.mp4")
    path = tmp_path / "a.mp4"
    run_ffmpeg("-display_rotation", degrees, *mirroring, "-i", stored, "-c", "copy", path)
    check_shown(path, SIZE[::-1] if degrees % 180 else SIZE)


def test_frames_are_freed_without_the_collector_of_garbage(tmp_path):
    path = make_video(tmp_path / "a.mp4", rate=100)
    gc.collect()
    gc.disable()
    try:
        assert video.probe(path).num_frames == 20
        assert sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects()) <= 2
    finally:
        gc.enable()


def test_other_rotations_are_refused_by_name(tmp_path):
    stored = make_video(tmp_path / "stored.mp4")
    run_ffmpeg("-display_rotation", 30, "-i", stored, "-c", "copy", tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="only multiples of 90 degrees"):
        video.probe(tmp_path / "a.mp4")


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc", None])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le", "yuv444p10le"])
def test_colour_matrices_ranges_and_depths(tmp_path, pixels, matrix, is_full):
    colours = ["-color_range", "pc" if is_full else "tv"]
    colours += ["-colorspace", matrix] if matrix else []
    stored = make_video(tmp_path / "stored.mkv", "-c:v", "ffv1", "-pix_fmt", pixels)
    run_ffmpeg("-i", stored, "-c", "copy", *colours, tmp_path / "a.mkv")
    check_shown(tmp_path / "a.mkv", SIZE)


@pytest.mark.parametrize("pixels", ["rgba", "gray", "gray10le", "gbrp", "yuva420p"])
def test_other_pixel_formats(tmp_path, pixels):
    path = make_video(tmp_path / "a.mkv", "-c:v", "ffv1", "-pix_fmt", pixels)
    check_shown(path, SIZE)


def test_a_colour_matrix_that_ffmpeg_does_not_know_is_an_error(tmp_path):
    stored = make_video(tmp_path / "stored.mkv", "-c:v", "ffv1")
    run_ffmpeg("-i", stored, "-c", "copy", "-colorspace", "ictcp", tmp_path / "a.mkv")
    with pytest.raises(VideoError, match="not supported"):
        video.probe(tmp_path / "a.mkv")


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", ["libx264"]), ("a.mpg", ["mpeg2video", "-q:v", "2"])]
)
def test_interlaced_frames_have_both_fields(tmp_path, name, codec):
    fields = ["-vf", "tinterlace=interleave_top,fieldorder=tff", "-flags", "+ilme+ildct"]
    path = make_video(tmp_path / name, *fields, "-c:v", *codec, size=(64, 64), rate=50)
    check_shown(path, (64, 64))


def test_a_crop_of_the_codec_at_the_left_edge(tmp_path):
    crop = "h264_metadata=crop_left=4:crop_top=2:crop_right=12:crop_bottom=10"
    path = make_video(tmp_path / "a.mp4", "-bsf:v", crop, size=(26, 36))
    check_shown(path, (20, 32))


def add_clean_aperture(data, stored, shown, corner):
    """Adds a box `clap` to the only track of an MP4 whose `moov` is at its end."""
    box = struct.pack(">I4s", 40, b"clap")
    for axis in (1, 0):
        box += struct.pack(">2I", shown[axis], 1)
    for axis in (1, 0):
        box += struct.pack(">iI", 2 * corner[axis] + shown[axis] - stored[axis], 2)
    data, place = bytearray(data), 0
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        while data[place + 4 : place + 8] != kind:
            place += int.from_bytes(data[place : place + 4])
        length = int.from_bytes(data[place : place + 4])
        data[place : place + 4] = (length + len(box)).to_bytes(4)
        end, place = place + length, place + (16 if kind == b"stsd" else 8)
    data[end:end] = box
    return bytes(data)


@pytest.mark.parametrize(
    ("stated", "corner", "shown"),
    [((12, 20), (6, 4), (12, 20)), ((15, 21), (3, 5), (14, 20))],  # rounded to samples of chroma
)
def test_a_crop_of_the_container(tmp_path, stated, corner, shown):
    stored, path = make_video(tmp_path / "stored.mp4"), tmp_path / "a.mp4"
    path.write_bytes(add_clean_aperture(stored.read_bytes(), SIZE, stated, corner))
    check_shown(path, shown)
    run_ffmpeg("-i", path, "-c", "copy", tmp_path / "a.mkv")
    check_shown(tmp_path / "a.mkv", shown)
    turned = ["-display_rotation", 90, "-i", path, "-c", "copy", tmp_path / "turned.mp4"]
    run_ffmpeg(*turned)
    check_shown(tmp_path / "turned.mp4", shown[::-1])


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 7])
def test_a_crop_of_negative_numbers_is_none(tmp_path, number):
    stored, path = make_video(tmp_path / "stored.mp4"), tmp_path / "a.mp4"
    data = bytearray(add_clean_aperture(stored.read_bytes(), SIZE, (12, 20), (6, 4)))
    place = data.index(b"clap") + 4 + 4 * number
    data[place : place + 4] = bytes([255] * 4)
    path.write_bytes(data)
    check_shown(path, SIZE)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
def test_pixels_that_are_not_square_stay_as_they_are_stored(tmp_path, name):
    path = make_video(tmp_path / name, "-vf", "setsar=2", "-c:v", "libx264")
    check_shown(path, SIZE)
    assert video.probe(path).pixel_aspect == 2
    _, frames = video.read_frames(path)
    again = tmp_path / f"again{path.suffix}"
    video.write_video_pieces(again, [frames], SIZE, 10, pixel_aspect=Fraction(16, 11))
    assert video.probe(again).pixel_aspect == Fraction(16, 11)
    video.write_video(again, frames, 10)
    assert video.probe(again).pixel_aspect == 1


def test_a_quarter_turn_inverts_the_aspect_of_pixels(tmp_path):
    stored = make_video(tmp_path / "stored.mp4", "-vf", "setsar=2")
    run_ffmpeg("-display_rotation", 90, "-i", stored, "-c", "copy", tmp_path / "a.mp4")
    assert video.probe(tmp_path / "a.mp4").pixel_aspect == Fraction(1, 2)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_alone_is_no_video(tmp_path, suffix):
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", tmp_path / f"a{suffix}")
    with pytest.raises(VideoError, match=r"holds no video, only sound$"):
        video.probe(tmp_path / f"a{suffix}")


def test_sound_with_a_cover_is_no_video(tmp_path):
    sound = ["-f", "lavfi", "-i", "sine=d=0.2"]
    picture = ["-f", "lavfi", "-i", "color=red:s=32x24", "-map", "0", "-map", "1"]
    options = ["-frames:v", "1", "-c:v", "png", "-disposition:v", "attached_pic"]
    run_ffmpeg(*sound, *picture, *options, tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="holds no video, only sound and a cover picture"):
        video.probe(tmp_path / "a.mp4")


def test_a_container_without_streams_is_no_video(tmp_path):
    movie = struct.pack(">8xIIIIH10x9I24xI", 1000, 0, 0x10000, 0x100, 0, *[0x10000] * 9, 1)
    boxes = [(b"ftyp", b"isom\0\0\2\0isom"), (b"mdat", b"")]
    header = struct.pack(">I4sI", 12 + len(movie), b"mvhd", 0) + movie
    content = [struct.pack(">I4s", 8 + len(data), kind) + data for kind, data in boxes]
    content.insert(1, struct.pack(">I4s", 8 + len(header), b"moov") + header)
    (tmp_path / "a.mp4").write_bytes(b"".join(content))
    with pytest.raises(VideoError, match=r"holds no video$"):
        video.probe(tmp_path / "a.mp4")
