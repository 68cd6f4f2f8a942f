"""Figures, read back from their files, with exact pixels where these are promised."""

import warnings

import imageio.v3 as iio
import numpy as np
import pytest

from vvae import figures
from vvae.figures.canvas import cut_text, measure_text, render_text, wrap_text
from vvae.video import probe, read_frames


def solid(color, count=1, size=(8, 8)):
    return np.broadcast_to(np.array(color, np.uint8), (count, *size, 3)).copy()


def count_pixels(image, color):
    return int(np.all(image[..., :3] == color, axis=-1).sum())


def test_enlarge_repeats_pixels_by_whole_factors():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), dtype=np.uint8)
    large = figures.enlarge(images, 12)
    assert large.shape == (2, 9, 15, 3)
    np.testing.assert_array_equal(large[:, ::3, ::3], images)
    np.testing.assert_array_equal(large[:, 2::3, 2::3], images)
    assert figures.enlarge(images, 5).shape == images.shape


def test_error_colors_grow_brighter_and_saturate():
    colors = figures.color_error(np.array([[0.0, 10.0, 32.0, 64.0, 500.0]]), 64.0)
    brightness = colors.astype(int).sum(axis=-1)[0]
    assert np.all(np.diff(brightness[:4]) > 0) and brightness[3] == brightness[4]
    assert brightness[0] < 20


def test_grid_places_every_video_and_leaves_missing_tiles_white():
    videos = np.stack(
        [solid(color, 2, (4, 4)) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    )
    grid = figures.compose_grid(videos, num_columns=2)
    tile = 128
    assert grid.shape == (2, 2 * tile + 4, 2 * tile + 4, 3)
    assert grid[1, 0, 0].tolist() == [255, 0, 0]
    assert grid[1, 0, -1].tolist() == [0, 255, 0]
    assert grid[1, -1, 0].tolist() == [0, 0, 255]
    assert np.all(grid[:, -tile:, -tile:] == 255)


def test_sheet_shows_every_image_pixel_by_pixel(tmp_path):
    rows = [
        np.concatenate([solid((250, 10, 10)), solid((10, 250, 10))]),
        np.concatenate([solid((10, 10, 250)), solid((10, 250, 10))]),
    ]
    path = tmp_path / "sheet.png"
    figures.write_sheet(path, rows, ["original", "reconstruction"], ["frame 0", "frame 1"], "Title")
    image = iio.imread(path)
    tile = figures.TILE_PIXELS**2
    assert count_pixels(image, (250, 10, 10)) == tile
    assert count_pixels(image, (10, 10, 250)) == tile
    assert count_pixels(image, (10, 250, 10)) == 2 * tile


def test_sheet_needs_a_label_for_every_row(tmp_path):
    with pytest.raises(ValueError, match="1 rows of images, but 2 row labels"):
        figures.write_sheet(tmp_path / "x.png", [solid((0, 0, 0))], ["a", "b"], ["0"], "Title")


def test_charts_are_written_and_show_their_data(tmp_path):
    def chart(name, scale):
        path = tmp_path / f"{name}_{scale}.png"
        x, y = np.arange(5), scale * np.arange(5.0) ** 2
        if name == "curves":
            figures.write_curves(
                path, {"vae": (x, y), "pca": (x, 1 + 0 * y)}, "frame", "dB", "PSNR"
            )
        elif name == "training":
            panels = {"loss (nats/clip)": {"train": (x, y), "val": (x, y + 1)}, "KL": {"z": (x, x)}}
            figures.write_training_curves(path, panels, "run")
        elif name == "bars":
            kl = {"frame": 0.1 * y, "clip": np.array([1.0, scale])}
            active = {"frame": y > 1, "clip": np.array([True, False])}
            figures.write_dimension_bars(path, kl, active, "KL")
        else:
            counts = np.array([[9, 1], [scale, 5]])
            figures.write_confusion_matrix(path, counts, ["walk", "run"], "top-1")
        return iio.imread(path)

    for name in ("curves", "training", "bars", "confusion"):
        first, second = chart(name, 1), chart(name, 3)
        assert min(first.shape[:2]) >= 200
        assert first.shape == second.shape and np.any(first != second), name


def test_a_panel_without_a_curve_is_left_out(tmp_path):
    panels, paths = (
        {"loss": {"train": (np.arange(3), np.arange(3))}},
        (tmp_path / "a", tmp_path / "b"),
    )
    for path, more in zip(paths, ({}, {"KL": {}})):
        with warnings.catch_warnings(action="error"):
            figures.write_training_curves(path.with_suffix(".png"), panels | more, "run")
    first, second = (iio.imread(path.with_suffix(".png")) for path in paths)
    np.testing.assert_array_equal(first, second)


def test_inactive_units_are_gray(tmp_path):
    kl, path = {"frame": np.array([3.0, 2.0])}, tmp_path / "bars.png"
    figures.write_dimension_bars(path, kl, {"frame": np.array([True, False])}, "KL")
    image = iio.imread(path)
    gray, blue = count_pixels(image, (211, 211, 211)), count_pixels(image, (31, 119, 180))
    assert 0.5 < gray / blue < 0.8  # bars of heights 2 and 3


def test_grid_video_has_the_frames_rows_and_rate(tmp_path):
    videos = np.stack([solid(color, 5, (16, 16)) for color in ((200, 30, 30), (30, 30, 200))])
    path = tmp_path / "grid.mp4"
    figures.write_grid_video(path, {"original": videos, "reconstruction": videos[::-1]}, 12.0)
    info = probe(path)
    assert (info.num_frames, info.fps) == (5, 12.0)
    assert (info.height, info.width) == (2 * (128 + 24), 2 * 128 + 4)
    _, frames = read_frames(path)
    top, bottom = frames[2, 24 + 64].astype(int), frames[2, 24 + 128 + 24 + 64].astype(int)
    for row, colors in ((top, (200, 30)), (bottom, (30, 200))):
        assert abs(row[64, 0] - colors[0]) < 12 and abs(row[-64, 0] - colors[1]) < 12
    caption = frames[2, :24]
    assert caption.max() > 230 and caption.min() < 100  # black text on white


NAMES = [
    "take$a_$1",
    "cost_$a_$b^{",
    "$a$",
    "_hidden",
    "\\frac{a}{b}",
    "a{b}^2 %",
    "caf\udce9",  # a name in Latin-1, as the system decodes it
    "\ud800",
    "\u0645\u0631\u062d\u0628\u0627",
    "\U0001f600 film",
    "two\nlines",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_drawn(tmp_path, name):
    path, tiles = tmp_path / "a.png", np.stack([solid((250, 10, 10))[0]] * 2)
    line, score = (np.arange(3), np.arange(3)), np.array([0.1, 0.9])
    category, names = np.array([0, 1, -1]), [name, f"_{name}"]
    curve = figures.ScoreCurve(name, np.arange(2.0), score)
    with warnings.catch_warnings(action="error"):
        figures.write_curves(path, {name: line}, name, name, name)
        figures.write_training_curves(path, {name: {name: line}}, name)
        figures.write_confusion_matrix(path, np.eye(2, dtype=int), names, name)
        figures.write_maps(path, {name: np.eye(3)[:, :2]}, {name: (category, names)}, name)
        figures.write_score_curves(path, [curve], 0.5, name, name)
        figures.write_boundary_curves(path, {name: (score, [(0, 1)], [])}, 0.5, name)
        figures.write_label_curves(path, {name: (score, score, score)}, ["1", "2"], name)
        figures.write_score_groups(path, {name: score}, [name], 0.5, name, name)
        figures.write_sheet(path, [tiles], [name], [name, name], name)
        figures.write_strips(path, [tiles], [name], name)
        figures.write_grid_video(tmp_path / "a.mp4", {name: tiles[:, None]}, 5)


def count_columns(text):
    """Returns the number of columns in which a text is drawn."""
    return int((render_text(text, 300) < 128).any(axis=(0, 2)).sum())


def test_names_are_drawn_as_they_are():
    assert count_columns("$a$") > 2 * count_columns("a")
    assert count_columns("\\$a\\$") > count_columns("$a$")
    assert count_columns("caf\udce9") > count_columns("caf")
    np.testing.assert_array_equal(render_text("caf\udce9", 99), render_text("caf\ufffd", 99))


def test_names_with_an_underscore_are_in_the_legends(tmp_path):
    path, blue, points = tmp_path / "a.png", [], np.zeros((2, 2))
    for names in (["_a", "b"], ["xa", "b"]):
        # No point is of the first category: blue is in the legend alone.
        figures.write_maps(path, {"map": points}, {"class": (np.ones(2, int), names)}, "maps")
        image = iio.imread(path).astype(int)
        blue.append(int((image[..., 2] > image[..., 0] + 60).sum()))
    assert blue[0] == blue[1] > 20

    def draw_label_curves(name):
        curve = np.array([0.2, 0.4])
        figures.write_label_curves(path, {name: (curve, curve, curve)}, ["1", "2"], "labels")
        return int((iio.imread(path)[:, -150:, :3] < 128).any(axis=2).sum())

    assert abs(draw_label_curves("_a") - draw_label_curves("xa")) < 40


LONG = "frame latents of circle_anticlockwise/performer34_take2.mp4 kept, one dimension at a time"


@pytest.mark.parametrize("pixels", [90, 200, 5000])
def test_lines_break_where_they_no_longer_fit_and_lose_no_character(pixels):
    lines = wrap_text(LONG, pixels, 11).split("\n")
    assert all(measure_text(line, 11) <= pixels for line in lines)
    assert "".join(lines).replace(" ", "") == LONG.replace(" ", "")
    assert (len(lines) == 1) == (pixels == 5000)
    assert wrap_text("a\n\nb", 200, 11) == "a\n\nb"
    cut = cut_text(LONG, pixels, 11)
    assert measure_text(cut, 11) <= pixels and LONG.endswith(cut.removeprefix("..."))


def test_text_is_not_cut_at_the_right(tmp_path):
    for width in (120, 301):
        picture = render_text(LONG, width)
        assert picture.shape[1:] == (width, 3) and np.all(picture[:, -2:] == 255)
    path, tiles = tmp_path / "a.png", solid((250, 10, 10), 2)
    figures.write_sheet(path, [tiles], ["row"], ["a", "b"], LONG)
    assert np.all(iio.imread(path)[:, -6:, :3] == 255)


def test_a_legend_is_below_the_sheet(tmp_path):
    path, tiles, wheel = tmp_path / "a.png", solid((250, 10, 10), 4), solid((10, 250, 10))[0]
    figures.write_sheet(path, [tiles], ["row"], ["a"] * 4, "Title")
    plain = iio.imread(path)
    figures.write_sheet(
        path, [tiles], ["row"], ["a"] * 4, "Title", legend=figures.Legend(wheel, LONG)
    )
    image = iio.imread(path)
    assert count_pixels(image, (10, 250, 10)) == 64
    height, width = plain.shape[:2]
    assert image.shape[0] > height + 30 and image.shape[1] == width
    np.testing.assert_array_equal(image[: height - 16], plain[: height - 16])


def test_an_odd_panel_fills_its_row(tmp_path):
    path, line = tmp_path / "a.png", (np.arange(3), np.arange(3))
    figures.write_training_curves(path, {name: {"train": line} for name in "abc"}, "run")
    image = iio.imread(path)[..., :3]
    below = image[image.shape[0] * 2 // 3 :]
    assert (below[:, below.shape[1] * 3 // 4 :] < 128).any()


@pytest.mark.parametrize("is_known", [False, True])
def test_score_videos_tell_the_verdict_and_shade_what_is_abnormal(tmp_path, is_known):
    path, frames = tmp_path / "a.mp4", solid((90, 90, 90), 6, (16, 16))
    score = np.array([0.0, 0, 0, 9, 9, 9])
    known = np.array([True] * 2 + [False] * 4) if is_known else None
    curve = figures.ScoreCurve("a.mp4", np.arange(6.0), score, known)
    heat = np.zeros((6, 16, 16))
    figures.write_score_video(path, [frames], [heat], [curve], 5.0, 5.0, "squared error")
    _, shown = read_frames(path)
    normal, alarm = shown[1].astype(int), shown[4].astype(int)
    assert alarm[2, 2, 0] > 150 > 100 > alarm[2, 2, 2] and normal[2, 2, 2] > 130 > normal[2, 2, 0]
    left, right = [
        (part[..., 0] - part[..., 2] > 25).mean() for part in np.array_split(normal[360:400], 2, 1)
    ]
    assert (left > right) if is_known else (right > left)


def test_labels_of_a_matrix_are_not_cut(tmp_path):
    path, names = tmp_path / "a.png", ["circlecc", "down", "left", "right", "square", "up"]
    figures.write_confusion_matrix(
        path, 4 * np.eye(6, dtype=int), names, "Saved probe: top-1 1.000"
    )
    image = iio.imread(path)[..., :3]
    for edge in (image[:, :2], image[:, -2:], image[:2], image[-2:]):
        assert np.all(edge == 255)
