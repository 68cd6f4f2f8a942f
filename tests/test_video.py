"""Reads and writes real files: exact frames and times, or an error that names the file."""

import csv
import pickle
import subprocess
from concurrent.futures import ThreadPoolExecutor

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from vvae import video
from vvae.data.performers import render_clip
from vvae.video import VideoError


def make_frames(length=12, height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (length, height, width, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mp4"])
@pytest.mark.parametrize("size", [(24, 32), (17, 19)])
def test_lossless_files_are_bit_equal_when_read_back(tmp_path, suffix, size):
    path, frames = tmp_path / f"naïve clip{suffix}", make_frames(5, *size)
    video.write_video(path, frames, fps=12, lossless=True)
    times, back = video.read_frames(path)
    np.testing.assert_array_equal(back, frames)
    np.testing.assert_allclose(times, np.arange(5) / 12, atol=2e-3)
    info = video.probe(path)
    assert (info.num_frames, info.height, info.width) == (5, *size)
    np.testing.assert_allclose(info.fps, 12, rtol=1e-2)


def test_ordinary_files_are_close_and_odd_sides_grow(tmp_path):
    ramp = np.linspace(0, 255, 33).astype(np.uint8)
    smooth = np.ascontiguousarray(np.broadcast_to(ramp, (6, 25, 33)))[..., None]
    video.write_video(tmp_path / "a.mp4", smooth, fps=10)
    _, back = video.read_frames(tmp_path / "a.mp4")
    assert back.shape == (6, 26, 34, 3)
    assert np.abs(back[:, :25, :33].astype(int) - smooth).mean() < 3


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".3g2", "mpeg4"),
        (".3gp", "h263"),
        (".asf", "msmpeg4v3"),
        (".f4v", "libx264"),
        (".flv", "flv"),
        (".m2ts", "libx264"),
        (".mpeg", "mpeg1video"),
        (".mpg", "mpeg2video"),
        (".mts", "libx264"),
        (".ogv", "libtheora"),
        (".ts", "libx264"),
        (".vob", "mpeg2video"),
        (".wmv", "wmv2"),
    ],
)
def test_files_of_cameras_and_players_are_read(tmp_path, suffix, codec):
    """The frames and times of a ramp that brightens."""
    ramp_HW = np.broadcast_to(np.linspace(20, 160, 176), (144, 176))
    frames = np.stack([ramp_HW + 5 * t for t in range(13)]).astype(np.uint8)[..., None]
    video.write_video(tmp_path / "a.mkv", frames, fps=25, lossless=True)
    path = tmp_path / f"a{suffix}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "a.mkv")]
    subprocess.run([*command, "-c:v", codec, "-q:v", "2", str(path)], check=True)
    assert video.is_video(path)
    times, back = video.read_frames(path)
    assert back.shape == (13, 144, 176, 3)
    np.testing.assert_allclose(times, np.arange(13) / 25, atol=2e-3)
    np.testing.assert_allclose(back.mean((1, 2, 3)), frames.mean((1, 2, 3)), atol=2)


def test_short_videos_are_written_together_as_each_alone(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"a.mp4": (16, 32, 48, 3), "b.mkv": (5, 16, 16, 1), "c.mp4": (1, 64, 64, 3)}
    clips = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
    video.write_short_videos({tmp_path / name: frames for name, frames in clips.items()}, 12)
    (tmp_path / "alone").mkdir()
    for name, frames in clips.items():
        video.write_video(tmp_path / "alone" / name, frames, 12)
        if name.endswith(".mp4"):  # Matroska holds a random number
            assert (tmp_path / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
        one, other = (video.read_frames(f / name) for f in (tmp_path, tmp_path / "alone"))
        np.testing.assert_array_equal(one[1], other[1])
    with pytest.raises(video.VideoError, match="both sides must be even"):
        video.write_short_videos({tmp_path / "d.mp4": clips["a.mp4"][:, 1:]}, 12)
    with pytest.raises(video.VideoError, match=r"e\.txt"):
        video.write_short_videos({tmp_path / "e.txt": clips["a.mp4"]}, 12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "alone", "b.mkv", "c.mp4"]


@pytest.mark.parametrize("clip", [("wave", 18, 1), ("walk", 0, 0)])
def test_files_are_those_of_an_encoder_without_assembly(tmp_path, clip):
    """The first clip is one that x264's SSE2 writes differently."""
    frames, _ = render_clip(*clip)
    video.write_video(tmp_path / "a.mp4", frames, fps=10)
    (tmp_path / "a.raw").write_bytes(frames.tobytes())
    source = "-f rawvideo -pix_fmt rgb24 -s 64x64 -r 10 -i"
    options = "-c:v libx264 -pix_fmt yuv420p -crf 18 -preset veryfast -x264-params"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source.split()]
    command += [str(tmp_path / "a.raw"), *options.split(), "asm=0:threads=1"]
    subprocess.run([*command, str(tmp_path / "b.mp4")], check=True)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_failed_write_leaves_no_file(tmp_path):
    with pytest.raises(VideoError, match=r"a\.txt"):
        video.write_video(tmp_path / "a.txt", make_frames(), fps=10)
    with pytest.raises(VideoError):
        video.write_video(tmp_path / "a.mp4", make_frames().astype(np.float32), fps=10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("width", "fps", "reason"),
    [(20_000, 5, "invalid width x height"), (8, 1e12, "Unable to parse")],
)
def test_a_failing_encoder_is_one_line_and_the_old_file_stays(tmp_path, capfd, width, fps, reason):
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with pytest.raises(VideoError, match=rf"^{path}: cannot be written \({reason}[^\n]*\)$"):
        video.write_video(path, np.zeros((3, 2, width, 1), np.uint8), fps)
    assert capfd.readouterr() == ("", "")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_every_file_of_the_manifest(shared_data):
    """Natural, odd and corrupt files give the right count and size, or a VideoError."""
    folder = shared_data("clips")
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 60

    def try_probe(row):
        try:
            return video.probe(folder / row["path"])
        except VideoError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(try_probe, rows))
    for row, info in zip(rows, results, strict=True):
        path = folder / row["path"]
        if not row["decodes"].startswith("yes") or row["path"].startswith("corrupt/trunc"):
            assert isinstance(info, VideoError), path
        if isinstance(info, VideoError):
            assert str(info).startswith(str(path))
            assert row["path"].startswith("corrupt/") or row["decodes"].startswith("no"), path
            continue
        assert info.num_frames == int(row["frames"]), row["path"]
        size = (int(row["height"]), int(row["width"]))
        assert (info.height, info.width) == (size[::-1] if "rotated" in path.name else size), path


@pytest.mark.parametrize("name", ["rotated90_bikes.mp4", "nasa_13013_rotated.mp4"])
def test_rotation_equals_that_of_ffmpeg(shared_data, name):
    path = shared_data("clips") / "odd" / name
    _, frame = next(video.iterate_frames(path))
    expected = iio.imread(path, plugin="FFMPEG", index=0)  # the ffmpeg program applies the rotation
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 2


def test_damage_is_an_error_that_names_the_frame(shared_data):
    path = shared_data("clips") / "corrupt" / "bitflips_bikes.mp4"
    seen = 0
    with pytest.raises(VideoError, match=r"frame \d+ is damaged") as caught:
        for _ in video.iterate_frames(path, (34, 80)):
            seen += 1
    # The frame before the damaged one was still held.
    assert seen > 0 and f"frame {seen + 1} " in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    "name",
    [
        "natural/tree.avi",
        "natural/newtonscradle.gif",
        "odd/mjpeg.avi",
        "odd/transparent.webm",
        "odd/vfr_bikes.mkv",
        "odd/odd_161x97.mkv",
    ],
)
def test_truncated_files_give_true_frames_and_then_an_error(shared_data, tmp_path, name, share):
    whole = shared_data("clips") / name
    cut = tmp_path / whole.name
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    _, frames = video.read_frames(whole)
    seen = []
    with pytest.raises(VideoError, match=r"cut in or after|damaged|broken"):
        seen.extend(frame for _, frame in video.iterate_frames(cut))
    assert len(seen) < len(frames)
    for one, other in zip(seen, frames, strict=False):
        np.testing.assert_array_equal(one, other)


def test_variable_frame_rate_keeps_real_frames_and_times(shared_data):
    times, frames = video.read_frames(shared_data("clips") / "odd" / "vfr_bikes.mkv")
    assert len(frames) == 39
    steps = np.diff(times)
    assert steps.min() > 0 and steps.max() > 1.5 * steps.min()


@pytest.mark.parametrize("name", ["testsrc2_vp9.webm", "av1_video.mkv"])
def test_a_file_truncated_after_its_first_frame_is_an_error(shared_data, tmp_path, name):
    whole = shared_data("clips") / "odd" / name
    cut = tmp_path / name
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 10])
    with pytest.raises(VideoError, match="cut in or after frame 0"):
        video.probe(cut)


def test_a_truncated_file_gives_resized_frames_and_then_an_error(shared_data, tmp_path):
    whole = shared_data("clips") / "natural" / "big_buck_bunny_432_433.webm"
    cut = tmp_path / "cut.webm"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    _, frames = video.read_frames(whole, (45, 80))
    seen = []
    with pytest.raises(VideoError, match="after"):
        for _, frame in video.iterate_frames(cut, (45, 80)):
            seen.append(frame)
    assert 0 < len(seen) < len(frames)
    for one, other in zip(seen, frames, strict=False):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(5000)])
def test_errors_name_a_file_that_is_not_a_video(tmp_path, content):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        video.probe(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    with pytest.raises(VideoError, match="no such file"):
        video.probe(tmp_path / "missing.mp4")


def test_folders_of_images_are_sorted_naturally(tmp_path):
    frames = make_frames(11)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    assert video.is_video(tmp_path)
    np.testing.assert_array_equal(video.read_frames(tmp_path)[1], frames)
    Image.fromarray(frames[0, :10]).save(tmp_path / "frame11.png")
    with pytest.raises(VideoError, match="frame 11 is"):
        video.read_frames(tmp_path)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_arrays_are_videos(tmp_path, channels):
    frames = np.random.default_rng(0).integers(0, 256, (4, 6, 8, *channels), np.uint8)
    np.save(tmp_path / "a.npy", frames)
    _, back = video.read_frames(tmp_path / "a.npy")
    expected = frames if channels == (3,) else frames.reshape(4, 6, 8, 1)
    np.testing.assert_array_equal(back, np.broadcast_to(expected, (4, 6, 8, 3)))


def test_an_array_is_read_although_the_parser_of_python_fails(tmp_path, monkeypatch):
    """As that of Python 3.11 does now and then while another thread parses."""
    frames, load, failures = np.zeros((2, 4, 4, 1), np.uint8), np.load, [SystemError] * 3

    def fail_first(*arguments, **options):
        if failures:
            raise failures.pop()("AST constructor recursion depth mismatch (before=39, after=38)")
        return load(*arguments, **options)

    np.save(tmp_path / "a.npy", frames)
    monkeypatch.setattr(np, "load", fail_first)
    _, back = video.read_frames(tmp_path / "a.npy")
    np.testing.assert_array_equal(back[..., :1], frames)
    assert not failures


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"run": "me"}]), allow_pickle=True)
    with pytest.raises(VideoError, match=r"a\.npy"):
        video.read_frames(tmp_path / "a.npy")


def test_shrinking_takes_the_mean_of_the_area(tmp_path):
    frames = make_frames(3, 24, 32)
    video.write_video(tmp_path / "a.mkv", frames, fps=5, lossless=True)
    _, small = video.read_frames(tmp_path / "a.mkv", (6, 8))
    expected = frames.reshape(3, 6, 4, 8, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - expected).max() <= 1
    checkers = np.indices((24, 32)).sum(axis=0) % 2 * np.uint8(255)
    np.save(tmp_path / "b.npy", np.stack([checkers] * 2).astype(np.uint8))
    _, gray = video.read_frames(tmp_path / "b.npy", (12, 16))
    assert np.abs(gray.astype(int) - 127).max() <= 1


def test_is_video_judges_by_name(tmp_path):
    assert video.is_video("a/b.MP4") and video.is_video("x.gif") and video.is_video("x.npy")
    assert not video.is_video("x.txt") and not video.is_video(".hidden.mp4")
    (tmp_path / "empty").mkdir()
    assert not video.is_video(tmp_path / "empty")


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(VideoError("a/b.mp4", "cut after frame 3")))
    assert str(error) == "a/b.mp4: cut after frame 3"
    assert (error.path, error.reason) == ("a/b.mp4", "cut after frame 3")
