"""Features of classical vision against closed forms; what they fit; the rows of classify."""

import dataclasses
import math

import cv2
import jitted
import numpy as np
import pytest
from asking import ask
from sklearn.cluster import KMeans

from vvae import config as settings
from vvae.data.dataset import Cache, Decoding, open_dataset
from vvae.data.sampling import ClipFormat, Sampling
from vvae.tasks import probe as probes
from vvae.tasks.options import Classify
from vvae.tasks.pooling import VideoFeatures, average_by_video
from vvae.tasks.recognition import classical, classify, cnn
from vvae.tasks.recognition.scores import match_labels
from vvae.video import write_video


def draw_video(kind, seed, size=24, num_frames=6):
    """Squares or discs that move to the right, on noise; RGB uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    frames = []
    for k in range(num_frames):
        away_y, away_x = y - size / 2, x - size / 4 - 1.5 * k
        far = np.maximum(abs(away_y), abs(away_x)) if kind else np.hypot(away_y, away_x)
        gray = np.where(far < size / 5, 220, 40) + random.integers(-8, 8, (size, size))
        frames.append(np.repeat(gray[..., None], 3, axis=-1).astype(np.uint8))
    return np.stack(frames)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        for kind in (0, 1):
            for k in range(count):
                path = root / split / f"kind{kind}" / f"{split}{kind}{k}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                seed = ["train", "val", "test"].index(split) * 100 + kind * 10 + k
                write_video(path, draw_video(kind, seed), 10, lossless=True)
    return root


def open_view(folder, tmp_path_factory, view):
    return open_dataset(
        folder,
        ClipFormat(view, 24, 24, Sampling(6)),
        Decoding(Cache(tmp_path_factory.getbasetemp() / "classical_cache", 10**9)),
    )


@pytest.fixture(scope="module")
def dataset(folder, tmp_path_factory):
    return open_view(folder, tmp_path_factory, "gray")


def test_haar_of_a_constant_has_no_details():
    first, details = classical.transform_haar(np.full((2, 8, 12), 5))
    np.testing.assert_array_equal(first, np.full((2, 4, 6), 10.0))  # 5 * 2: the map halves twice
    np.testing.assert_array_equal(details, np.zeros((2, 3, 4, 6)))
    vector = classical.compute_haar(np.full((8, 12), 5)).reshape(7, 2, 3)
    np.testing.assert_array_equal(vector[0], np.full((2, 3), 20.0))
    np.testing.assert_array_equal(vector[1:], 0.0)


def test_haar_keeps_the_sum_of_squares_and_separates_directions():
    image = np.random.default_rng(0).normal(size=(3, 8, 8))
    first, details = classical.transform_haar(image)
    energy = (first**2).sum() + (details**2).sum()
    assert energy == pytest.approx((image**2).sum(), rel=1e-6)
    stripes = np.tile([0.0, 1.0], (8, 4))  # from left to right
    _, details = classical.transform_haar(stripes)
    np.testing.assert_array_equal(details[0], -1.0)
    np.testing.assert_array_equal(details[1:], 0.0)
    _, turned = classical.transform_haar(stripes.T)
    np.testing.assert_array_equal(turned, details[[1, 0, 2]].transpose(0, 2, 1))


def test_haar_of_odd_frames():
    assert classical.compute_haar(np.zeros((9, 13))).shape == (7 * 2 * 3,)


@pytest.mark.parametrize("degrees", [0, 30, 70, 90, 130])
def test_hog_of_a_ramp_has_one_direction(degrees):
    """All gradients of a ramp are one vector: two neighbouring bins share it, in closed form."""
    angle = math.radians(degrees)
    y, x = np.mgrid[:16, :16]
    vector = classical.compute_hog(3 * (np.cos(angle) * x + np.sin(angle) * y))
    histogram_4K = vector.reshape(4, 9)
    place = degrees / 20
    wanted = np.zeros(9)
    wanted[int(place) % 9] = 1 - place % 1
    wanted[(int(place) + 1) % 9] += place % 1
    # Clipping at 0.2 cannot matter for 4 equal cells unless an entry is above it.
    block = np.tile(wanted, 4)
    block = np.minimum(block / np.linalg.norm(block), 0.2)
    np.testing.assert_allclose(histogram_4K.ravel(), block / np.linalg.norm(block), atol=1e-3)


def test_hog_ignores_brightness_and_contrast():
    image = np.random.default_rng(0).uniform(0, 100, (24, 32))
    vector = classical.compute_hog(image)
    assert vector.shape == (2 * 3 * 4 * 9,)  # 2x3 blocks of 2x2 cells
    np.testing.assert_allclose(classical.compute_hog(2 * image + 30), vector, atol=1e-5)
    assert np.abs(classical.compute_hog(image[:, ::-1]) - vector).max() > 0.05


def test_hog_of_small_and_of_flat_frames():
    assert classical.compute_hog(np.zeros((2, 4, 6))).shape == (2, 9)
    assert (classical.compute_hog(np.full((16, 16), 7)) == 0).all()


def test_flow_histogram_of_one_direction():
    flow = np.zeros((2, 8, 8, 2), np.float32)
    flow[1, :2, :2] = [0, 3]  # down, in the first part
    histogram = classical.compute_flow_histogram(flow).reshape(2, 8, 4, 4)
    wanted = np.zeros((2, 8, 4, 4))
    wanted[1, 2, 0, 0] = 3.0  # a quarter turn is bin 2 of 8
    np.testing.assert_allclose(histogram, wanted, atol=1e-6)


def test_flow_histogram_sums_to_the_mean_size():
    flow = np.random.default_rng(0).normal(size=(3, 8, 12, 2))
    histogram = classical.compute_flow_histogram(flow).reshape(3, 8, 16)
    size = np.linalg.norm(flow, axis=-1).mean(axis=(1, 2))
    np.testing.assert_allclose(histogram.sum(axis=1).mean(axis=1), size, rtol=1e-5)


def test_times_are_those_of_the_valid_frames():
    frames = np.arange(12.0).reshape(2, 6, 1)
    mask = np.array([[False, True, True, True, False, False], [False] * 6])
    joined = classical.sample_times(frames, mask)
    np.testing.assert_allclose(joined[0], np.linspace(1, 3, 16), rtol=1e-6)
    np.testing.assert_array_equal(joined[1], 0.0)


def test_times_agree_with_the_pooling_of_latents():
    import jax.numpy as jnp

    from vvae.distributions import Gaussian
    from vvae.models.sequential import SequentialPosterior
    from vvae.tasks.pooling import pool_ordered

    random = np.random.default_rng(0)
    frames = random.normal(size=(3, 7, 2)).astype(np.float32)
    mask = random.random((3, 7)) < 0.7
    posterior = SequentialPosterior(
        frame=Gaussian(jnp.asarray(frames), jnp.zeros(frames.shape)), clip=None
    )
    wanted = pool_ordered(posterior, jnp.asarray(mask))
    np.testing.assert_allclose(classical.sample_times(frames, mask), wanted, atol=1e-5)


def test_bag_of_words_counts_the_nearest():
    words = np.array([[0.0, 0.0], [10.0, 0.0]])
    counts = classical.count_words(np.array([[1.0, 1], [9, 2], [8, 0], [2, 1]]), words)
    assert counts.tolist() == [0.5, 0.5]
    assert classical.count_words(np.zeros((0, 2)), words).tolist() == [0, 0]
    descriptors = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    word_KD = classical.fit_vocabulary(descriptors, 7, 0)
    means = KMeans(7, n_init=1, random_state=0).fit(descriptors)
    shares = np.bincount(means.predict(descriptors), minlength=7) / 200
    np.testing.assert_allclose(classical.count_words(descriptors, word_KD), shares, atol=0.011)
    assert len(classical.fit_vocabulary(descriptors[:3], 7, 0)) == 3


@pytest.mark.parametrize("name", ["sift", "orb"])
def test_bags_sum_to_one_and_are_fitted_to_training_clips_only(name, dataset):
    train, test = dataset.splits["train"], dataset.splits["test"]
    feature = classical.FEATURES[name](train, 0)
    bags = feature.extract(test)
    np.testing.assert_allclose(bags.sum(axis=1), 1.0)
    assert "enlarged 6 times" in feature.text and "training clips" in feature.text
    # One clip alone has the same bag: the vocabulary does not depend on what it is applied to.
    np.testing.assert_array_equal(feature.extract(test.select([1]))[0], bags[1])
    again = classical.FEATURES[name](train, 0)
    np.testing.assert_array_equal(again.extract(test), bags)


def test_descriptors_are_those_of_opencv(dataset):
    """Those of the first frame are computed here from its enlarged codes."""
    train = dataset.splits["train"]
    codes = train.read([0])[0, 0, ..., 0]
    large = cv2.resize(codes, (144, 144), interpolation=cv2.INTER_CUBIC)
    wanted = cv2.SIFT_create(nfeatures=100).detectAndCompute(large, None)[1]
    sift = cv2.SIFT_create(nfeatures=100)
    bag = classical._describe_clips(
        train.select([0]), lambda image: sift.detectAndCompute(image, None)[1], 6
    )[0]
    np.testing.assert_array_equal(bag[: len(wanted)], wanted)


def test_training_clips_without_a_keypoint_are_an_error(tmp_path, tmp_path_factory):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write_video(tmp_path / split / "a.mp4", np.zeros((6, 24, 24, 3), np.uint8), 10)
    clips = open_view(tmp_path, tmp_path_factory, "gray").splits["train"]
    with pytest.raises(ValueError, match="SIFT finds no keypoint in the training clips"):
        classical.fit_sift(clips, 0)


@pytest.mark.parametrize("view", ["gray", "flow", "rootflow", "gray+flow"])
def test_flow_of_any_view_points_right(view, folder, tmp_path_factory):
    clips = open_view(folder, tmp_path_factory, view).splits["train"]
    feature = classical.fit_flow_histogram(clips, 0)
    histogram = feature.extract(clips).reshape(len(clips), 16, 8, 16)[:, 4:].sum(axis=(0, 1, 3))
    assert histogram.argmax() == 0 and histogram[0] > 0.5 * histogram.sum()
    assert ("of the view" in feature.text) == ("flow" in view)


def test_raw_and_pca_and_controls(dataset):
    clips = dataset.splits["train"]
    raw = classical.fit_raw(clips, 0).extract(clips)
    codes = clips.read(np.arange(len(clips)))
    assert raw.shape == (len(clips), 16 * 24 * 24)
    np.testing.assert_array_equal(raw[:, :576], codes[:, 0].reshape(len(clips), -1))
    np.testing.assert_array_equal(raw[:, -576:], codes[:, -1].reshape(len(clips), -1))
    pca = classical.fit_raw_pca(clips, 0).extract(clips)
    assert pca.shape == (len(clips), 16 * min(50, 48))  # 8 videos of 6 frames
    brightness = classical.fit_brightness(clips, 0).extract(clips)
    np.testing.assert_allclose(brightness[:, 0], codes.mean(axis=(1, 2, 3, 4)), rtol=1e-5)
    time = classical.fit_time(clips, 0).extract(clips)
    np.testing.assert_allclose(time, np.tile([0, 0, 5, 0.5, 6], (len(clips), 1)), atol=1e-6)


def test_masked_frames_do_not_count(dataset):
    clips = dataset.splits["train"]
    mask = clips.mask_NT.copy()
    mask[:, 3:] = False
    cut = dataclasses.replace(clips, mask_NT=mask)
    codes = clips.read(np.arange(len(clips)))[:, :3]
    brightness = classical.fit_brightness(cut, 0).extract(cut)
    np.testing.assert_allclose(brightness[:, 0], codes.mean(axis=(1, 2, 3, 4)), rtol=1e-5)
    raw = classical.fit_raw(cut, 0).extract(cut)
    np.testing.assert_array_equal(raw[:, -576:], codes[:, -1].reshape(len(clips), -1))


@pytest.mark.parametrize("name", ["hog", "haar", "raw"])
def test_features_separate_squares_from_discs(name, dataset):
    train, test = dataset.splits["train"], dataset.splits["test"]
    feature = classical.FEATURES[name](train, 0)
    fitted, held_out = (average_by_video(feature.extract(c), c) for c in (train, test))
    probe = probes.fit_probe(
        fitted.feature_VF, fitted.label_V, probes.Settings(0.01, "one"), ("a", "b"), name
    )
    predicted = probes.predict_scores(probe, held_out.feature_VF).argmax(axis=1)
    np.testing.assert_array_equal(predicted, held_out.label_V)


def make_random_features(num_videos, num_features, seed):
    random = np.random.default_rng(seed)
    label_V = np.arange(num_videos, dtype=np.int32) % 4
    feature_VF = (
        random.normal(size=(num_videos, num_features)) + 3 * np.eye(4, num_features)[label_V]
    )
    return VideoFeatures(feature_VF, label_V, np.arange(num_videos) // 4, np.arange(num_videos))


def test_shuffled_labels_give_chance():
    """With features that separate four classes, true labels are learned, shuffled ones are not."""
    train, test = make_random_features(160, 6, 0), make_random_features(400, 6, 1)
    features = classify._Features(train, test, "random")
    labels = match_labels(train.label_V, test.label_V, ("a", "b", "c", "d"))
    right = classify._classify(features, labels, "x").scores["linear"][0]
    assert (right.argmax(axis=1) == test.label_V).mean() > 0.9
    shuffled = [classify._classify_shuffled(features, labels, seed)[0] for seed in range(4)]
    top1 = [(scores_VK.argmax(axis=1) == test.label_V).mean() for scores_VK in shuffled]
    # A whole cluster may get one class by chance, so that single runs scatter about a quarter.
    assert 0.1 < np.mean(top1) < 0.4


def test_names_agree_with_the_settings():
    special = {*settings.DEFAULT_BASELINES, "shuffled_labels", "cnn", *classify.NOT_RUN}
    assert set(settings.BASELINES) == special | set(classical.FEATURES)
    with pytest.raises(ValueError, match=r"evaluate.baselines='hogg': is not among random_encoder"):
        settings.Evaluate(baselines=("hogg",))


def test_rows_of_classify(dataset, tmp_path, monkeypatch):
    import jax

    from vvae.models.sequential import SequentialVAE

    monkeypatch.setattr(cnn, "MIN_STEPS", 30)
    model = SequentialVAE(shape_HWC=(24, 24, 1), widths=(4,), latent_dim=3, clip_latent_dim=2)
    params = jitted.init_variables(model, jax.random.key(0))
    question = ask(model, params, dataset, tmp_path)
    result = classify.answer(question, Classify(settings.BASELINES))
    wanted = {f"{n}/{c}" for n in classical.FEATURES for c in ("linear", "knn")}
    wanted |= {
        f"{n}/{c}" for n in ("vae", "random_encoder", "frame_pca") for c in ("linear", "knn")
    }
    assert set(result.rows) == wanted | {"shuffled_labels/linear", "chance", "cnn", "surf"}
    surf = result.rows["surf"]["top1"]
    assert math.isnan(surf.value) and surf.card["method"].startswith("not run: ")
    assert any(note.startswith("surf: not run: ") for note in result.notes)
    assert "HOG of each channel" in result.rows["hog/linear"]["top1"].card["method"]
    assert result.rows["hog/linear"]["top1"].value == 1.0
    assert result.rows["time/linear"]["top1"].value == 0.5
    card, facts = result.rows["cnn"]["top1"].card, result.details["cnn"]
    assert card["method"].startswith("supervised 3-D convolutional network of ")
    assert f"{facts['num_parameters']:,} parameters" in card["method"]
    assert f"{facts['num_steps']} of {facts['max_steps']} steps" in card["method"]
    assert result.rows["cnn"]["top1"].value == 1.0
    few = classify.answer(question, Classify(()))
    assert set(few.rows) == {"vae/linear", "vae/knn"}
    assert not any("not run" in note for note in few.notes)
