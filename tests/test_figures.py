"""Figures, read back from their files, with exact pixels where these are promised."""

import warnings

import imageio.v3 as iio
import numpy as np
import pytest

from vvae import figures
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
