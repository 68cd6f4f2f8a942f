"""Moving digits and the models of pixels that a VAE is compared with on them."""

import gzip

import jax
import numpy as np
import pytest
from scipy import stats

from benchmarks import moving_digits as md
from benchmarks import pixel_models as pm


@pytest.fixture(scope="module")
def digits():
    """A digit number d is a square whose brightness tells d's last two digits."""
    squares = np.zeros((10000, 28, 28), np.uint8)
    squares[:, 4:24, 4:24] = (np.arange(10000) % 100 + 100)[:, None, None]
    return squares


def test_a_sequence_is_the_same_each_time_and_others_differ(digits):
    first = md.draw_sequence(digits, "train", 3)
    assert first.shape == (20, 64, 64, 1) and first.dtype == np.uint8
    assert np.array_equal(first, md.draw_sequence(digits, "train", 3))
    assert not np.array_equal(first, md.draw_sequence(digits, "train", 4))
    assert not np.array_equal(first, md.draw_sequence(digits, "test", 3))


def test_digits_stay_inside_and_move_in_straight_lines_that_bounce():
    ways = np.array(
        [md.trace_bounces(np.random.Generator(np.random.Philox(key=[0, n]))) for n in range(300)]
    )
    assert ways.min() == 0 and ways.max() == 36
    # 3.6 pixels a frame; both ends are rounded to whole pixels.
    length = np.linalg.norm(np.diff(ways, axis=1), axis=-1)
    assert length.max() < 3.6 + np.sqrt(2)
    turns = np.abs(np.diff(ways, n=2, axis=1)) > 2
    assert 0.02 < turns.mean() < 0.3  # each of 36 / 3.6 frames or more a wall is met
    assert (turns.sum(axis=1) <= 2 * 3).all()


def test_overlapping_digits_show_the_brighter_pixel(digits):
    sequence = md.draw_sequence(digits, "val", 0)
    values = np.unique(sequence[sequence > 0])
    assert 1 <= len(values) <= 2
    areas = (sequence == values.max()).sum(axis=(1, 2, 3))
    assert (areas == 400).all()  # the brighter one is never covered


def test_no_digit_is_in_two_splits_and_the_folder_is_written_once(tmp_path, monkeypatch):
    ranges = [set(chosen) for chosen, _ in md.SPLITS.values()]
    assert sum(map(len, ranges)) == len(set.union(*ranges)) == 10000
    header = np.array([2051, 10000, 28, 28], ">i4").tobytes()
    data = header + np.random.default_rng(0).bytes(10000 * 784)
    (tmp_path / md.DIGITS_FILE).write_bytes(gzip.compress(data, 1))
    small = {split: (chosen, 2) for split, (chosen, _) in md.SPLITS.items()}
    monkeypatch.setattr(md, "SPLITS", small)
    out = tmp_path / "videos"
    md.write_folder(tmp_path, out)
    lines = (out / "manifest.csv").read_text().splitlines()
    assert lines[0] == "path,split" and lines[-1] == "test0001.npy,test" and len(lines) == 7
    assert np.load(out / "val0000.npy").shape == (20, 64, 64, 1)
    (out / "val0000.npy").unlink()
    md.write_folder(tmp_path, out)  # a finished folder is left as it is
    assert not (out / "val0000.npy").exists()
    with pytest.raises(ValueError, match="has no t10k-images"):
        md.write_folder(out, tmp_path / "other")


def draw_videos(count, seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3, 6, 5, 1)).astype(np.uint8)


def make_params(seed):
    params = pm.PastNetwork().init(jax.random.key(seed), np.zeros((1, 162), np.float32))
    return jax.tree.map(lambda a: 5 * a, params)  # so that values depend much on the past


def test_past_is_the_same_for_drawn_pixels_and_for_whole_videos():
    videos = draw_videos(4, 0)
    params = make_params(0)
    drawn = pm.draw_pixels(pm.pad_past(videos), videos, np.random.default_rng(5))
    found = np.asarray(pm._log_mixture(params, *drawn))
    random = np.random.default_rng(5)
    n, t, y, x = (random.integers(size, size=pm.PIXELS_A_STEP) for size in videos.shape[:4])
    whole = np.stack([pm._score_past(params, pm._scale(video[..., 0])) for video in videos])
    np.testing.assert_allclose(found, whole[n, t, y, x], rtol=1e-4, atol=1e-4)
    assert whole.std() > 0.1  # or else agreement would say little


def test_a_value_depends_on_the_two_frames_before_alone():
    params = make_params(0)
    video = np.random.default_rng(0).uniform(-1, 1, (5, 6, 5)).astype(np.float32)
    before = np.asarray(pm._score_past(params, video))
    changed = video.copy()
    changed[1] = -changed[1]
    after = np.asarray(pm._score_past(params, changed))
    moved = [t for t in range(5) if np.abs(after[t] - before[t]).max() > 0]
    assert moved == [1, 2, 3]


def test_probabilities_of_all_values_sum_to_one():
    params = make_params(1)
    context = np.random.default_rng(0).uniform(-1, 1, (1, 162)).astype(np.float32)
    values = pm._scale(np.arange(256, dtype=np.uint8))
    log = pm._log_mixture(params, np.repeat(context, 256, axis=0), values)
    assert np.exp(np.asarray(log, np.float64)).sum() == pytest.approx(1.0, abs=1e-4)


def test_histogram_counts_by_pixel():
    train = np.zeros((7, 2, 1, 2, 1), np.uint8)
    train[..., 1, 0] = 9
    test = np.array([0, 9, 0, 8], np.uint8).reshape(1, 2, 1, 2, 1)
    (found,) = pm.measure_histogram(train, test)
    common, new = 15 / (14 + 256), 1 / (14 + 256)
    assert found == pytest.approx(3 * np.log(common) + np.log(new))


def test_pca_is_the_normal_distribution_of_its_covariance_and_below_a_probability():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(6, 6))
    values = np.rint(random.normal(size=(4000, 6)) @ mixing * 8 + 120).clip(0, 255)
    train = values.astype(np.uint8).reshape(2000, 2, 2, 3, 1)
    test = train[:50]
    spectrum = pm.fit_spectrum(train)
    found = pm.measure_pca(spectrum, test, 2)
    frames = train.reshape(-1, 6).astype(np.float64)
    eigenvalues, vectors = np.linalg.eigh(np.cov(frames.T, bias=True) + np.eye(6) / 12)
    eigenvalues[:4] = eigenvalues[:4].mean()
    covariance = vectors @ np.diag(eigenvalues) @ vectors.T
    noise = np.random.Generator(np.random.Philox(key=[0, 2])).random((100, 6))
    normal = stats.multivariate_normal(frames.mean(axis=0) + 0.5, covariance)
    expected = normal.logpdf(test.reshape(-1, 6) + noise).reshape(50, 2).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    fuller = pm.measure_pca(spectrum, test, 5)
    assert fuller.mean() > found.mean()
