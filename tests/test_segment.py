"""Shot boundaries and foreground masks: closed forms, synthetic latents, exact masks."""

import csv
import dataclasses
import itertools

import jax
import numpy as np
import pytest
from asking import ask, draw
from sklearn.ensemble import HistGradientBoostingClassifier

from vvae import figures
from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_dataset, open_unsplit
from vvae.data.performers import VERSION, render_clip
from vvae.metrics.cards import compare
from vvae.models.contract import init_variables
from vvae.models.sequential import SequentialVAE
from vvae.tasks.segmentation import (
    boosted_trees,
    boundaries,
    foreground,
    joined_videos,
    pyscenedetect,
    segment,
    shots,
)
from vvae.tasks.segmentation.boundary_counts import (
    Counts,
    count_flash_alarms,
    count_matches,
    match_boundaries,
)
from vvae.tasks.segmentation.joined_videos import Transition
from vvae.video import read_frames

CUT = Transition(10, 10)


def make_scene(level, length=60, size=(8, 8)):
    """Returns frames that hold the level of their scene in red and their number in green."""
    frames = np.zeros((length, *size, 3), np.uint8)
    frames[..., 0] = level
    frames[..., 1] = np.arange(length)[:, None, None]
    return joined_videos.loop_scene(frames)


def random_of(seed):
    return np.random.Generator(np.random.Philox(key=[7, seed]))


# --- matching and F1 ------------------------------------------------------------------------------


def test_matching_is_one_to_one_and_within_the_tolerance():
    assert match_boundaries([10], [CUT], 0) == 1
    assert match_boundaries([11], [CUT], 0) == 0
    assert match_boundaries([12], [CUT], 2) == 1
    assert match_boundaries([13], [CUT], 2) == 0
    assert match_boundaries([9, 10, 11], [CUT], 2) == 1
    assert match_boundaries([10], [CUT, Transition(12, 12)], 2) == 1
    # 11 matches both and 9 matches only the first: the maximum matching uses both frames.
    assert match_boundaries([11, 9], [CUT, Transition(13, 13)], 2) == 2
    fade = Transition(20, 28)
    assert [match_boundaries([t], [fade], 0) for t in (19, 20, 28, 29)] == [0, 1, 1, 0]


def test_matching_is_the_maximum_matching():
    rng = np.random.default_rng(0)
    for _ in range(200):
        edges = np.sort(rng.choice(60, 6, replace=False))
        spans = [Transition(int(a), int(b)) for a, b in edges.reshape(3, 2)]
        found = sorted(int(f) for f in rng.choice(60, 4, replace=False))

        def largest(left, frames, tolerance):
            if not left:
                return 0
            head, rest = left[0], left[1:]
            fits = [f for f in frames if head.first - tolerance <= f <= head.last + tolerance]
            tries = [1 + largest(rest, [g for g in frames if g != f], tolerance) for f in fits]
            return max([largest(rest, frames, tolerance), *tries])

        for tolerance in (0, 2):
            assert match_boundaries(found, spans, tolerance) == largest(spans, found, tolerance)


def test_f1_is_its_closed_form():
    counts = count_matches([[10, 40], [5]], [[CUT], [Transition(6, 6), CUT]], 2)
    assert counts == Counts(matched=2, num_found=3, num_true=3)
    assert counts.f1 == pytest.approx(2 / 3)
    assert (counts.precision, counts.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert np.isnan(Counts(0, 0, 0).f1)
    assert Counts(0, 0, 4).f1 == 0.0


def test_alarms_count_every_flash_once():
    flashes = [(10, 11), (30, 30)]
    assert count_flash_alarms([10, 12], flashes) == 1
    assert count_flash_alarms([13, 29], flashes) == 0


# --- joined videos --------------------------------------------------------------------------------


def test_cuts_are_where_the_scene_changes():
    video = joined_videos.join_scenes([make_scene(v) for v in (50, 100, 150)], "cuts", random_of(0))
    changes = np.flatnonzero(np.diff(video.frames_THWC[:, 0, 0, 0].astype(int))) + 1
    assert changes.tolist() == [t.first for t in video.transitions]
    assert all(t.first == t.last for t in video.transitions)
    lengths = np.diff([0, *changes, len(video.frames_THWC)])
    assert lengths.min() >= 24 and lengths.max() <= 48


def test_frames_of_a_fade_are_neither_scene_and_the_new_scene_goes_on():
    for seed in range(6):
        scenes = [make_scene(200), make_scene(90)]
        video = joined_videos.join_scenes(scenes, "fades", random_of(seed))
        (fade,) = video.transitions
        red = video.frames_THWC[:, 0, 0, 0]
        assert 4 <= fade.last - fade.first <= 12
        assert np.all(red[: fade.first] == 200) and np.all(red[fade.last :] == 90)
        mixed = red[fade.first : fade.last]
        assert (np.all(mixed != 200) and np.all(mixed != 90)) or mixed.min() < 90
        # The new scene continues where the fade ended.
        assert video.frames_THWC[fade.last, 0, 0, 1] == fade.last - fade.first


def test_flashes_are_brighter_and_away_from_the_cuts():
    scenes = [make_scene(60), make_scene(120)]
    video = joined_videos.join_scenes(scenes, "flashes", random_of(1))
    blue = video.frames_THWC[:, 0, 0, 2]
    lit = np.concatenate([np.arange(first, last + 1) for first, last in video.flashes])
    np.testing.assert_array_equal(np.flatnonzero(blue > 0), lit)
    ends = [0, video.transitions[0].first, len(blue)]
    assert min(abs(f - e) for f in lit for e in ends) >= 5


def test_loops_never_jump_and_errors_name_the_bad_input():
    order = joined_videos.find_loop_frames(4, 9)
    assert order.tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert joined_videos.find_loop_frames(1, 3).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="kind='wipes' is not one of cuts, fades, flashes"):
        joined_videos.join_scenes([make_scene(1)] * 2, "wipes", random_of(0))
    with pytest.raises(ValueError, match="two scenes, got 1"):
        joined_videos.join_scenes([make_scene(1)], "cuts", random_of(0))


# --- change points --------------------------------------------------------------------------------


def test_change_is_the_difference_of_medians():
    z = np.concatenate([np.zeros(20), np.full(20, 3.0)])[:, None]
    for width, gap in boundaries.SCALES:
        change = boundaries.measure_change(z, width, gap)[:, 0]
        assert change[20] == 3.0
        far = np.abs(np.arange(40) - 20) > gap + width
        assert np.all(change[far] == 0)
    flash = np.zeros((30, 1))
    flash[15] = 100.0
    assert np.abs(boundaries.measure_change(flash, 1, 0)).max() == 100.0
    assert np.abs(boundaries.measure_change(flash, 4, 0)).max() == 0.0


def test_separation_is_the_least_distance_across_a_frame():
    z = random_of(8).normal(size=(25, 3))
    least = boundaries.measure_separation(z)
    assert least.shape == (len(boundaries.SPANS), 25)
    for row, (width, gap) in zip(least, boundaries.SPANS):
        for t in range(25):
            pairs = [
                np.square(z[a] - z[b]).sum()
                for b in range(max(t - gap - width, 0), t - gap)
                for a in range(t + gap, min(t + gap + width, 25))
            ]
            assert row[t] == pytest.approx(min(pairs, default=np.inf))


def test_separation_ignores_flashes_and_locates_a_cut_to_the_frame():
    z = np.repeat([0.0, 5.0], 20)[:, None]
    z[10:13] = 100.0
    least = dict(zip(boundaries.SPANS, boundaries.measure_separation(z)))
    assert least[1, 0][[10, 13]].tolist() == [100.0**2] * 2
    for width in (4, 8):
        assert np.flatnonzero(least[width, 0][1:]).tolist() == [19]
        assert least[width, 0][20] == 25.0


def test_frames_beside_a_cut_are_labelled_none_and_most_of_a_fade_is_not_used():
    label = boundaries.label_frames(40, [CUT, Transition(20, 26)])
    expected = np.full(40, boundaries.NONE)
    expected[10] = boundaries.CUT
    expected[17:30] = -1
    expected[22:25] = boundaries.FADE
    np.testing.assert_array_equal(label, expected)


def make_latents(seed, with_flash):
    """Returns latents of six scenes of 30 frames, their cuts, and flashes in their middles.

    Each scene is noise around a random mean.
    """
    rng = random_of(seed)
    places = rng.normal(0.0, 6.0, (6, 5))
    z = np.repeat(places, 30, axis=0) + rng.normal(0.0, 0.3, (180, 5))
    flashes = [(k * 30 + 14, k * 30 + 14) for k in range(6)] if with_flash else []
    for first, _ in flashes:
        z[first] += 12.0
    return z, [Transition(t, t) for t in range(30, 180, 30)], flashes


@pytest.fixture(scope="module")
def detector():
    made = [make_latents(seed, seed % 2 == 0) for seed in range(6)]
    return boundaries.fit_detector([(z, cuts) for z, cuts, _ in made], seed=0)


def test_cuts_of_new_latents_are_found_to_the_frame_and_flashes_are_ignored(detector):
    for seed in (100, 101):
        z, cuts, flashes = make_latents(seed, with_flash=True)
        found = boundaries.detect_boundaries(detector, z)
        assert found == [t.first for t in cuts]
        assert count_flash_alarms(found, flashes) == 0


def test_the_threshold_is_good_for_videos_that_the_trees_were_not_fitted_to():
    # Half of the cuts are as small as the changes within scenes. The trees memorize the cuts of
    # their training videos, for which every threshold is optimal.
    def make(seed):
        z, cuts, _ = make_latents(seed, with_flash=False)
        rng = random_of(1000 + seed)
        return z + rng.normal(0.0, 4.0, z.shape), cuts

    def f1_at(threshold, peaks, references):
        found = [[frame for frame, score in video if score >= threshold] for video in peaks]
        return count_matches(found, references, 0).f1

    fitted = boundaries.fit_detector([make(seed) for seed in range(8)], seed=0)
    new = [make(seed) for seed in range(200, 230)]
    peaks = [boundaries.find_peaks(boundaries.score_frames(fitted, z)) for z, _ in new]
    references = [cuts for _, cuts in new]
    best = max(f1_at(t, peaks, references) for t in boundaries.THRESHOLDS)
    assert f1_at(fitted.threshold, peaks, references) > best - 0.03


def test_the_largest_of_equally_good_thresholds_is_chosen(detector):
    # All of these cuts are found with certainty, so that every threshold is as good.
    assert detector.threshold == boundaries.THRESHOLDS[-1]


def test_a_scene_without_a_cut_has_no_boundary(detector):
    still = random_of(5).normal(0.0, 0.3, (90, 5))
    assert boundaries.detect_boundaries(detector, still) == []
    assert boundaries.detect_boundaries(detector, still[:1]) == []


def test_peaks_have_the_least_distance():
    score = np.zeros(40)
    score[[5, 9, 20, 33]] = [0.6, 0.9, 0.7, 0.2]
    assert [frame for frame, _ in boundaries.find_peaks(score)] == [9, 20, 33]


def test_training_videos_without_boundaries_are_refused():
    for some in ([], [(np.zeros((20, 2)), [CUT])]):
        message = (
            f"^{len(some)} of {len(some) + 1} training videos have shot boundaries: a detector"
        )
        with pytest.raises(ValueError, match=message):
            boundaries.fit_detector([(np.zeros((20, 2)), []), *some], seed=0)


@pytest.mark.parametrize("classes", [(0, 1), (0, 2), (0, 1, 2)])
def test_trees_on_codes_give_the_probabilities_of_trees_on_features(classes):
    rng = np.random.default_rng(len(classes))
    # Each of 100 values occurs four times, so that both have 100 bins and some edges are values.
    values = np.sort(rng.normal(size=100))
    train = np.stack([rng.permutation(np.repeat(values, 4)) for _ in range(5)], axis=1)
    new = rng.choice(values, (900, 5))
    label = np.array(classes)[
        np.digitize(train[:, 0] * train[:, 1], [-0.2, 0.3][: len(classes) - 1])
    ]
    trees = boosted_trees.fit_trees(boosted_trees.make_examples(train, label, seed=0))
    plain = HistGradientBoostingClassifier(
        max_depth=4, max_iter=80, learning_rate=0.1, early_stopping=False, random_state=0
    ).fit(train, label)
    expected = plain.predict_proba(new)
    for k, number in enumerate(classes):
        found = boosted_trees.predict_probability(trees, new, number)
        np.testing.assert_allclose(found, expected[:, k], atol=1e-14)
    assert expected.std(axis=0).min() > 0.05


def test_edges_are_quantiles_and_a_value_equal_to_an_edge_is_below_it():
    feature = np.random.default_rng(0).permutation(np.arange(1020.0))[:, None]
    examples = boosted_trees.make_examples(feature, np.zeros(1020, int), seed=0)
    assert examples.edge_XE.shape == (1, 254) and examples.code_NX.dtype == np.uint8
    assert np.bincount(examples.code_NX[:, 0]).tolist() == [4] * 255
    edge = examples.edge_XE[0, 9]
    beside = np.array([[edge], [np.nextafter(edge, np.inf)], [-np.inf], [np.inf]])
    found = boosted_trees.encode_features(examples.edge_XE, beside)
    assert found.tolist() == [[9], [10], [0], [254]]


def test_a_loaded_detector_gives_bit_equal_scores(detector, tmp_path):
    boundaries.save_detector(tmp_path / "boundaries.npz", detector)
    loaded = boundaries.load_detector(tmp_path / "boundaries.npz")
    z, cuts, _ = make_latents(100, with_flash=True)
    scores = [boundaries.score_frames(d, z) for d in (detector, loaded)]
    np.testing.assert_array_equal(*scores)
    assert boundaries.detect_boundaries(loaded, z) == [t.first for t in cuts]
    with pytest.raises(ValueError, match=r"vectors of 5 numbers, not to 7 and 4"):
        boundaries.detect_boundaries(loaded, z[:, :4])
    with pytest.raises(
        ValueError, match=r"none.npz holds no detector of boundaries \(no such file\); run"
    ):
        boundaries.load_detector(tmp_path / "none.npz")


def test_errors_of_bad_detector_files_name_the_file_and_the_remedy(detector, tmp_path):
    path = tmp_path / "boundaries.npz"
    boundaries.save_detector(path, detector)
    whole = dict(np.load(path))
    code, label = whole["examples.code_NX"], whole["examples.label_N"]
    changes = [
        {"examples.code_NX": code[:-1]},
        {"examples.code_NX": code[:, :-1]},
        {"examples.code_NX": code[0]},
        {"examples.label_N": np.full_like(label, boundaries.CUT)},
        {"examples.label_N": np.where(label == boundaries.NONE, boundaries.FADE, label)},
        {"examples.label_N": label.astype(str)},
        {"examples.seed": np.array(-1)},
        {"examples.edge_XE": whole["examples.edge_XE"][0]},
    ]
    contents = [whole | change for change in changes]
    # Earlier versions saved the trees themselves.
    contents.append({"precision_SZZ": whole["precision_SZZ"], "trees.root_E": np.zeros(1, int)})
    for content in contents:
        np.savez(path, **content)
        with pytest.raises(ValueError) as caught:
            boundaries.load_detector(path)
        message = str(caught.value)
        assert message.startswith(f"{path} holds no detector of boundaries (")
        assert message.endswith("); run the task segment on the videos of the run first")


def test_long_vectors_have_no_mahalanobis_length(tmp_path):
    made = [make_latents(seed, with_flash=False) for seed in range(2)]
    videos = [(np.tile(z, (1, 120)), cuts) for z, cuts, _ in made]
    detector = boundaries.fit_detector(videos, seed=0)
    z, cuts = videos[0]
    boundaries.save_detector(tmp_path / "boundaries.npz", detector)
    loaded = boundaries.load_detector(tmp_path / "boundaries.npz")
    assert loaded.precision_SZZ.shape == (7, 0, 0)
    found = boundaries.detect_boundaries(loaded, z)
    assert found == boundaries.detect_boundaries(detector, z)
    assert match_boundaries(found, cuts, 2) == len(cuts)


# --- masks ----------------------------------------------------------------------------------------


def test_iou_has_its_closed_form_and_is_1_for_exact_masks():
    _, mask = render_clip("wave", 30, 0)
    mask = foreground.shrink_mask(mask, (32, 32))[None]
    valid = np.ones(mask.shape[:2], bool)
    assert foreground.measure_iou(mask, mask, valid).tolist() == [1.0]
    assert foreground.measure_iou(~mask, mask, valid).tolist() == [0.0]
    nothing = np.zeros_like(mask)
    assert foreground.measure_iou(nothing, nothing, valid).tolist() == [1.0]
    left, right = np.zeros((2, 1, 2, 4, 4), bool)
    left[..., :2], right[..., 1:3] = True, True
    assert foreground.measure_iou(left, right, np.ones((1, 2), bool)).tolist() == [1 / 3]
    # Masked frames do not count.
    right[:, 1] = left[:, 1]
    only_second = np.array([[False, True]])
    assert foreground.measure_iou(left, right, only_second).tolist() == [1.0]


def test_threshold_of_separable_scores_gives_the_mask():
    rng = np.random.default_rng(0)
    true = rng.random((3, 2, 8, 8)) < 0.3
    scores, valid = true + 0.5 * rng.random(true.shape), np.ones((3, 2), bool)
    threshold = foreground.fit_threshold(scores, true, valid)
    assert foreground.measure_iou(scores > threshold, true, valid).mean() > 0.97


def test_masks_of_another_version_of_the_performers_are_not_evaluated(tmp_path):
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", np.full((4, 16, 16, 3), 60 * number, np.uint8))

    def explain(version):
        rows = [["path", "label", "performer", "take", "seed", "version"]]
        rows += [[f"{number}.npy", "wave", 0, number, 0, version] for number in range(2)]
        with open(tmp_path / "manifest.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
        clip_format = ClipFormat("gray", 16, 16, Sampling(num_frames=4))
        decoding = Decoding(Cache(tmp_path / "c", 2**28))
        dataset = open_unsplit(tmp_path, clip_format, decoding)
        return foreground.explain_missing(make_model((16, 16, 1))[0], dataset.splits["all"])

    assert explain(VERSION) is None
    reason = explain(VERSION - 1)
    assert f"version {VERSION - 1} of the built-in performers" in reason
    assert f"exact masks of version {VERSION};" in reason


def test_pixel_scores_are_in_units_of_the_learned_noise():
    model, params = make_model((8, 8, 1))
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8, 1)).astype(np.uint8)
    valid = np.ones((1, 3), bool)
    first = foreground.score_pixels(model, params, x, valid)
    louder = {**params, "params": {**params["params"], "log_sigma": np.float32(1.0)}}
    second = foreground.score_pixels(model, louder, x, valid)
    sigma = [float(np.exp(model.apply(p, method="effective_log_sigma"))) for p in (params, louder)]
    np.testing.assert_allclose(second, first * sigma[0] / sigma[1], rtol=1e-5)
    assert foreground.score_difference(x[:, :1]).max() == 0.0
    still = np.repeat(x[:, :1], 3, axis=1)
    assert foreground.score_median(still).max() == 0.0


# --- the task, end to end ------------------------------------------------------------------------


def make_model(shape_HWC):
    model = SequentialVAE(shape_HWC, widths=(4, 8), hidden=16, latent_dim=4, clip_latent_dim=2)
    return model, jax.jit(lambda key: init_variables(model, key))(jax.random.key(0))


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1), ("test", 3)):
        (root / split).mkdir()
        for number in range(count):
            level = rng.integers(20, 200, (1, 16, 16, 3))
            frames = level + rng.integers(0, 40, (30, 16, 16, 3))
            if (split, number) == ("test", 0):
                frames[12:] = frames[12:, ::-1] // 8 + 210  # another shot
            np.save(root / split / f"{number}.npy", frames.astype(np.uint8))
    clip_format = ClipFormat("gray", 16, 16, Sampling(num_frames=4))
    cache = tmp_path_factory.mktemp("cache")
    dataset = open_dataset(root, clip_format, Decoding(Cache(cache, 2**28)))
    folder = tmp_path_factory.mktemp("out")
    question = ask(*make_model((16, 16, 1)), dataset, folder)
    return draw(segment.segment(question, num_joined=1), folder), folder, dataset


def test_all_rows_have_comparable_cards_and_baselines_state_whether_they_ran(segmented):
    result, _, _ = segmented
    names = {"vae", "frame_difference", *pyscenedetect.DETECTORS}
    assert set(result.rows) == names
    for row in result.rows.values():
        for name, metric in row.items():
            compare(metric, result.rows["vae"][name])
    row = result.rows["pyscenedetect_content"]
    if pyscenedetect.find_pyscenedetect() is None:
        assert np.isnan(row["joined_cuts_f1_0"].value)
        assert row["joined_cuts_f1_0"].card["method"].startswith("not run: scenedetect is not")
    else:
        assert row["drawn_cuts_f1_0"].value > 0.8


def test_joined_videos_of_any_size_are_read_at_the_size_of_the_model(segmented):
    model, params = make_model((16, 16, 1))
    clips = segmented[2].splits["train"]
    readers = segment._list_readers(shots.make_frame_encoder(model, params, clips), clips)
    frames = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    large = frames.repeat(2, axis=1).repeat(2, axis=2)
    for reader in readers.values():
        vectors = [
            reader.read(joined_videos.JoinedVideo(video, transitions=()))
            for video in (frames, large)
        ]
        np.testing.assert_array_equal(*vectors)


def test_segments_cover_every_frame_once(segmented):
    result, folder, _ = segmented
    with open(folder / "segments.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for number in range(3):
        own = [row for row in rows if row["path"] == f"test/{number}.npy"]
        frames = [
            k for row in own for k in range(int(row["start_frame"]), int(row["end_frame"]) + 1)
        ]
        assert frames == list(range(30))
        assert float(own[0]["start_s"]) == 0.0
        assert all(a["end_s"] == b["start_s"] for a, b in itertools.pairwise(own))
    assert all((folder / name).stat().st_size > 100 for name in result.files)
    pictures = [name for picture in result.pictures for name in picture.names]
    assert pictures == [name for name in result.files if name.endswith(".png")]
    assert any("performers only" in note for note in result.notes)


def test_the_saved_detector_finds_the_same_shots_without_training_videos(segmented, tmp_path):
    _, folder, dataset = segmented
    test_only = dataclasses.replace(dataset, splits={"all": dataset.splits["test"]})
    detector = boundaries.load_detector(folder / segment.DETECTOR_FILE)
    model = make_model((16, 16, 1))
    question = ask(*model, test_only, tmp_path, split="all", is_new=True)
    result = draw(shots.find_shots(question, detector), tmp_path)
    text = (tmp_path / "segments.csv").read_text()
    assert text == (folder / "segments.csv").read_text() and "test/0.npy,12,29," in text
    assert result.rows == {} and result.files == ("segments.csv", "segments.png")
    pictures = [read_frames_of_png(place / "segments.png") for place in (folder, tmp_path)]
    np.testing.assert_array_equal(*pictures)


def test_strips_hold_their_frames(tmp_path):
    strips = [np.full((3, 96, 96, 3), level, np.uint8) for level in (10, 120, 240)]
    figures.write_strips(tmp_path / "strips.png", strips, ["a", "b", "c"], "title")
    image = read_frames_of_png(tmp_path / "strips.png")
    for level in (10, 120, 240):
        assert np.all(image == level, axis=-1).sum() >= 3 * 96 * 96


def read_frames_of_png(path):
    import imageio.v3 as iio

    return iio.imread(path)[..., :3]


def test_pyscenedetect_finds_a_plain_cut():
    pytest.importorskip("scenedetect")
    frames = np.zeros((60, 32, 32, 3), np.uint8)
    frames[30:] = (200, 30, 90)
    for row in ("pyscenedetect_adaptive", "pyscenedetect_content"):
        assert pyscenedetect.detect_scenes(row, frames, 25.0) == [30]


def test_encoding_in_chunks_equals_encoding_the_whole_video(segmented, monkeypatch, tmp_path):
    frames = np.random.default_rng(3).integers(0, 256, (23, 16, 16, 3)).astype(np.uint8)
    np.save(tmp_path / "long.npy", frames)
    clip_format = ClipFormat("difference", 16, 16, Sampling(num_frames=4))
    dataset = open_unsplit(tmp_path, clip_format, Decoding(Cache(tmp_path / "c", 2**28)))
    clips = dataset.splits["all"]
    monkeypatch.setattr(shots, "CHUNK_WINDOWS", 2)

    def encode(some, factor):
        def flatten(video):
            return np.asarray(video, np.float32).reshape(*video.shape[:2], -1)

        return shots.encode_frames(flatten, clips, some, factor)

    latent, number, time = shots._encode_video(encode, clips, str(tmp_path / "long.npy"))
    np.testing.assert_array_equal(latent[1:], encode(read_frames(tmp_path / "long.npy")[1], 1)[1:])
    assert number.tolist() == list(range(23)) and len(time) == 23
