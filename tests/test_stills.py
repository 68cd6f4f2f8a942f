"""Folders of images of any kind: the right pixels, or an error that names the file."""

import struct
import subprocess
import warnings

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageCms

from vvae import video
from vvae.data.check import summarize
from vvae.video import FrameTooLargeError, VideoError

COLOUR = (80, 50, 175)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings(action="error"):
        yield


def make_plain():
    return Image.new("RGB", (8, 6), COLOUR)


def make_lab():
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return ImageCms.applyTransform(make_plain(), ImageCms.buildTransform(*profiles, "RGB", "LAB"))


def save(image, path, **options):
    path.parent.mkdir(exist_ok=True)
    image.save(path, **options)
    return path.parent


def read_colour(folder):
    _, frames = video.read_frames(folder)
    assert (frames == frames[0, 0, 0]).all()
    return frames[0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("cmyk.jpg", lambda: make_plain().convert("CMYK"), {"quality": 98}),
        ("cmyk.tif", lambda: make_plain().convert("CMYK"), {}),
        ("ycc.tif", lambda: make_plain().convert("YCbCr"), {}),
        ("lab.tif", make_lab, {}),
        ("palette.png", lambda: make_plain().quantize(4), {}),
        ("palette.bmp", lambda: make_plain().quantize(4), {}),
        ("palette.tif", lambda: make_plain().quantize(4), {}),
        ("one_clear.png", lambda: make_plain().quantize(4), {"transparency": 0}),
        ("clear.png", lambda: make_plain().quantize(4), {"transparency": bytes([9, 20, 30, 255])}),
        ("key.png", make_plain, {"transparency": COLOUR}),
        ("alpha.png", lambda: Image.new("RGBA", (8, 6), (*COLOUR, 10)), {}),
        ("alpha.tif", lambda: Image.new("RGBA", (8, 6), (*COLOUR, 10)), {}),
        ("alpha.webp", lambda: Image.new("RGBA", (8, 6), (*COLOUR, 10)), {"exact": True}),
        ("rgb.webp", make_plain, {}),
    ],
)
def test_every_mode_is_the_colour_that_it_means(tmp_path, name, make, options):
    if name.endswith(".webp"):
        options = {"lossless": True, **options}
    folder = save(make(), tmp_path / "a" / name, **options)
    assert np.abs(np.subtract(read_colour(folder), COLOUR)).max() <= 2


@pytest.mark.parametrize("name", ["0.png", "0.tif", "0.bmp"])
def test_one_bit_is_black_and_white(tmp_path, name):
    for value in (0, 1):
        folder = save(Image.new("1", (8, 6), value), tmp_path / str(value) / name)
        assert read_colour(folder) == [255 * value] * 3


def test_gray_with_alpha_is_gray(tmp_path):
    assert (
        read_colour(save(Image.new("LA", (8, 6), (77, 10)), tmp_path / "a" / "0.png")) == [77] * 3
    )


def write_deep_rgb(path, value):
    """Writes a picture of 16 bits a channel, which Pillow cannot write."""
    path.parent.mkdir()
    raw = np.full((6, 8, 3), value, "<u2").tobytes()
    source = ["-f", "rawvideo", "-s", "8x6", "-pix_fmt", "rgb48le", "-i", "-"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *source, path]
    subprocess.run(command, input=raw, check=True)
    return path.parent


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_scaled_from_65535(tmp_path, suffix):
    gray = Image.fromarray(np.full((6, 8), 40000, np.uint16))
    assert read_colour(save(gray, tmp_path / "gray" / f"0{suffix}")) == [156] * 3
    folder = write_deep_rgb(tmp_path / "rgb" / f"0{suffix}", (40000, 20000, 60000))
    assert read_colour(folder) == [156, 78, 234]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_12_bits_in_16_are_refused_at_the_end(tmp_path, suffix):
    dark, folder = Image.fromarray(np.full((6, 8), 4095, np.uint16)), tmp_path / "gray"
    save(dark, folder / f"0{suffix}")
    save(dark, folder / f"1{suffix}")
    rgb = write_deep_rgb(tmp_path / "rgb" / f"0{suffix}", 4095)
    for place in (folder, rgb):
        with pytest.raises(VideoError, match="16-bit frames without a value of 16384 or above"):
            video.probe(place)
    # Dark frames of a video that uses 16 bits are dark.
    save(Image.fromarray(np.full((6, 8), 65535, np.uint16)), folder / f"2{suffix}")
    assert video.read_frames(folder)[1][:, 0, 0, 0].tolist() == [15, 15, 255]


def test_white_may_be_zero(tmp_path):
    folder = save(Image.fromarray(np.full((6, 8), 40000, np.uint16)), tmp_path / "a" / "0.tif")
    path = folder / "0.tif"
    photometric = [struct.pack("<HHIH", 262, 3, 1, value) for value in (1, 0)]
    path.write_bytes(path.read_bytes().replace(*photometric))
    assert read_colour(folder) == [(65535 - 40000) >> 8] * 3


@pytest.mark.parametrize(("dtype", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_floats_and_signed_integers_are_refused_by_name(tmp_path, dtype, mode):
    folder = save(Image.fromarray(np.full((6, 8), 70, dtype)), tmp_path / "a" / "0.tif")
    with pytest.raises(VideoError, match=rf"0\.tif: pixels of mode {mode}; 8 bits or unsigned 16"):
        video.probe(folder)


ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_the_orientation_of_exif_is_applied(tmp_path, suffix, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    folder = save(Image.fromarray(pixels), tmp_path / "a" / f"0{suffix}", exif=exif, **options)
    [frame] = video.read_frames(folder)[1]
    np.testing.assert_array_equal(frame, ORIENTATIONS[orientation](pixels))


def make_pages(count=5):
    return [Image.new("L", (8, 6), 40 * number) for number in range(count)]


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
def test_every_page_is_a_frame(tmp_path, suffix):
    first, *others = make_pages()
    options = {"lossless": True} if suffix == ".webp" else {}
    folder = tmp_path / "a"
    save(first, folder / f"1{suffix}", save_all=True, append_images=others, **options)
    save(Image.new("L", (8, 6), 250), folder / "2.png")
    times, frames = video.read_frames(folder)
    assert frames[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 250]
    np.testing.assert_allclose(times, np.arange(6) / video.NOMINAL_FPS)
    (folder / "2.png").unlink()
    assert video.read_stated_length(folder) == 5


def test_pictures_that_are_no_frames_are_left_out(tmp_path):
    first, *others = make_pages()
    animated = {"save_all": True, "append_images": others}
    still = save(first, tmp_path / "png" / "0.png", default_image=True, **animated)
    assert video.read_frames(still)[1][:, 0, 0, 0].tolist() == [40, 80, 120, 160]
    preview = tmp_path / "jpg" / "0.jpg"
    save(others[0], preview, format="MPO", **animated)
    assert video.probe(preview.parent).num_frames == 1
    first, *others = make_pages()
    pages = {"save_all": True, "append_images": others, "tiffinfo": {254: 0}}
    folder = save(first, tmp_path / "tif" / "0.tif", **pages)
    path = folder / "0.tif"
    data, entry = path.read_bytes(), struct.pack("<HHI", 254, 4, 1)
    parts = data.split(entry + bytes(4))
    assert len(parts) == 6
    thumbnail = entry + struct.pack("<I", 1)
    path.write_bytes(thumbnail.join([(entry + bytes(4)).join(parts[:2]), *parts[2:]]))
    assert video.read_frames(folder)[1][:, 0, 0, 0].tolist() == [0]


def test_digits_of_other_kinds_are_letters(tmp_path):
    for number, name in enumerate(["1.png", "2.png", "01 b.png", "\u00b25.png", "\u0663.png"]):
        save(Image.new("L", (8, 6), number), tmp_path / "a" / name)
    # Superscript two is a letter, Arabic three is a number; ties are broken by the name.
    assert video.read_frames(tmp_path / "a")[1][:, 0, 0, 0].tolist() == [2, 0, 1, 4, 3]
    for value, name in ((0, "01.png"), (1, "1.png"), (2, "001.png")):
        save(Image.new("L", (8, 6), value), tmp_path / "b" / name)
    assert video.read_frames(tmp_path / "b")[1][:, 0, 0, 0].tolist() == [2, 0, 1]


def test_the_setting_decides_how_large_an_image_may_be(tmp_path):
    folder = save(Image.new("1", (20_000, 10_000)), tmp_path / "a" / "0.png")
    limit = Image.MAX_IMAGE_PIXELS
    for max_pixels in (64_000_000, 150_000_000):
        with pytest.raises(FrameTooLargeError, match="200 megapixels are more than the"):
            next(video.iterate_frames(folder, (6, 8), max_pixels))
    _, frame = next(video.iterate_frames(folder, (1, 2), 250_000_000))
    assert frame.shape == (1, 2, 3) and limit == Image.MAX_IMAGE_PIXELS


def break_tiff(data):
    # The place of the pixels becomes a rational number. Pillow: TypeError.
    return data.replace(struct.pack("<HH", 273, 4), struct.pack("<HH", 273, 5))


def break_png(data):
    return data.replace(b"IDAT", b"ID\xffT")  # Pillow: SyntaxError


def break_bmp(data):
    return data[:14] + (13).to_bytes(4, "little") + data[18:]


@pytest.mark.parametrize(
    ("suffix", "damage"), [(".tif", break_tiff), (".png", break_png), (".bmp", break_bmp)]
)
def test_one_broken_image_is_one_broken_video(tmp_path, suffix, damage):
    root = tmp_path / "data"
    root.mkdir()
    folder = save(make_plain(), root / "x" / f"0{suffix}")
    save(make_plain(), root / "y" / "0.png")
    path = folder / f"0{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    summary = summarize(root)
    assert list(summary.broken) == ["x"] and summary.num_frames == (1,)
    assert f"frame 0 (0{suffix}) is unreadable" in summary.broken["x"]


@pytest.mark.parametrize("shape", [(5, 0, 4, 3), (5, 4, 0), (0, 4, 4, 3), (0, 0, 0)])
def test_an_array_without_pixels_is_refused_by_its_shape(tmp_path, shape):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(shape, np.uint8))
    with pytest.raises(VideoError, match=r"a\.npy: holds no pixels: its shape is \("):
        video.read_frames(path, (4, 4))
