"""Unwanted content from few marked videos: closed forms, held-out groups, planted content."""

import csv
import dataclasses
import html
import json
import math

import numpy as np
import pytest
from asking import ask, draw
from tiny_vae import make_variables

import evaluate
from vvae.data.dataset import (
    UNSPLIT,
    Cache,
    ClipFormat,
    Decoding,
    Sampling,
    open_dataset,
    open_unsplit,
)
from vvae.metrics.detection import (
    auroc,
    balance_kinds,
    measure_calibration,
)
from vvae.models.sequential import SequentialVAE
from vvae.report.write import write_report
from vvae.tasks.moderation import detector as detectors
from vvae.tasks.moderation import marked_videos
from vvae.tasks.moderation import moderate as moderating
from vvae.tasks.moderation.answer import find_mistakes, judge
from vvae.tasks.options import Moderate
from vvae.tasks.result import write_result

MODEL = SequentialVAE((16, 16, 1), widths=(4,), hidden=8, latent_dim=3, clip_latent_dim=2)
FORMAT = ClipFormat("gray", 16, 16, Sampling(num_frames=4))
SETTINGS = {"batch_size": 3, "false_positive_rate": 0.1}
NUM_TRAIN, NUM_TEST, NUM_FRAMES, FLASH = 8, 4, 12, range(8, 12)


# --- numbers --------------------------------------------------------------------------------------


def test_calibration_errors_by_hand_do_not_depend_on_class_frequencies():
    probability = np.array([0.05, 0.15, 0.95])
    unwanted = np.array([False, True, True])
    found = measure_calibration(probability, unwanted)
    # The wanted video has a weight of one half, each unwanted one a weight of a quarter.
    assert found["brier"] == pytest.approx(0.5 * 0.05**2 + 0.25 * (0.85**2 + 0.05**2))
    assert found["ece"] == pytest.approx(0.5 * 0.05 + 0.25 * 0.85 + 0.25 * 0.05)
    many = np.r_[np.repeat(probability[:1], 40), probability[1:]]
    again = measure_calibration(many, np.arange(42) >= 40)
    assert again == pytest.approx(found)
    constant = measure_calibration(np.full(3, 0.5), unwanted)
    assert constant == {"brier": 0.25, "ece": 0.0}
    assert math.isnan(measure_calibration(probability, np.ones(3, bool))["brier"])


def test_opposite_errors_within_a_bin_cancel_and_across_bins_do_not():
    unwanted = np.array([True, False])
    assert measure_calibration(np.array([0.55, 0.45]), unwanted)["ece"] == pytest.approx(0.45)
    assert measure_calibration(np.array([0.52, 0.52]), unwanted)["ece"] == pytest.approx(0.02)


# --- the detector ---------------------------------------------------------------------------------


def make_marked(num_wanted=60, num_unwanted=12, distance=4.0, num_groups=6, windows=2, seed=0):
    """Draws windows around two centres; only the last window of an unwanted video is unwanted."""
    rng = np.random.default_rng(seed)
    unwanted = np.arange(num_wanted + num_unwanted) >= num_wanted
    video = np.repeat(np.arange(len(unwanted)), windows)
    feature = rng.normal(size=(len(video), 5))
    last = np.arange(len(video)) % windows == windows - 1
    feature[:, 0] += distance * (unwanted[video] & last)
    group = np.array([f"g{k % num_groups}" for k in range(len(unwanted))])
    return detectors.Marked(feature, video, unwanted, group)


def test_no_group_is_in_both_parts_of_a_fold():
    marked = make_marked()
    folds = detectors.split_groups(marked)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(72))
    for fitted, held_out in folds:
        assert not set(marked.group_V[fitted]) & set(marked.group_V[held_out])
        assert set(marked.unwanted_V[fitted]) == {False, True}


def test_held_out_scores_of_noise_are_at_chance_even_if_the_fit_is_perfect():
    marked = make_marked(30, 30, distance=0.0, num_groups=10, windows=1)
    wide = np.random.default_rng(3).normal(size=(60, 200))
    marked = dataclasses.replace(marked, feature_NF=wide)
    fit = detectors.fit_detector(marked, 0.1, "p", "")
    assert auroc(detectors.score_windows(fit.detector, wide), marked.unwanted_V) > 0.99
    assert abs(auroc(fit.score_V, marked.unwanted_V) - 0.5) < 0.25


def test_constant_features_score_0_for_any_class_frequencies_of_a_fold():
    marked = make_marked(25, 7, num_groups=5)
    marked = dataclasses.replace(marked, feature_NF=np.zeros_like(marked.feature_NF))
    fit = detectors.fit_detector(marked, 0.1, "p", "")
    np.testing.assert_allclose(fit.score_V, 0.0, atol=1e-3)  # the tolerance of the solver
    assert auroc(np.round(fit.score_V, 2), marked.unwanted_V) == 0.5


def test_the_threshold_keeps_its_rate_on_new_wanted_videos():
    fit = detectors.fit_detector(make_marked(400, 20, distance=5.0), 0.05, "p", "")
    new = make_marked(4000, 400, distance=5.0, seed=1)
    score = detectors.score_windows(fit.detector, new.feature_NF).reshape(-1, 2).max(axis=1)
    called = score > fit.detector.threshold
    assert fit.detector.num_wanted == 400
    assert 0.02 < called[~new.unwanted_V].mean() < 0.09
    assert called[new.unwanted_V].mean() > 0.8
    probability = detectors.to_probability(fit.detector, score)
    assert measure_calibration(probability, new.unwanted_V)["ece"] < 0.1


def test_calibration_minimizes_the_weighted_cross_entropy():
    rng = np.random.default_rng(0)
    unwanted = np.arange(200) >= 150
    score = 100.0 + 7.0 * (rng.normal(size=200) + 1.5 * unwanted)
    slope, offset = detectors.fit_calibration(score, unwanted)
    weight = balance_kinds(unwanted)
    target = np.where(unwanted, 51 / 52, 1 / 152)

    def loss(a, b):
        logit = a * score + b
        return np.sum(weight * (np.logaddexp(0.0, logit) - target * logit))

    best = loss(slope, offset)
    for a, b in [(1.01, 0), (0.99, 0), (1, 0.05), (1, -0.05)]:
        assert loss(a * slope, offset * a + b) > best
    assert slope > 0


def test_calibration_keeps_the_ranking_and_is_uncertain_after_few_marked_videos():
    unwanted = np.array([False, False, True, True])
    slope, offset = detectors.fit_calibration(np.array([5.0, 6, 1, 2]), unwanted)
    assert slope == 0.0
    assert offset == pytest.approx(0.0)  # the mean of the targets 1/4 and 3/4 is 1/2
    slope, offset = detectors.fit_calibration(np.array([-1.0, -1, 1, 1]), unwanted)
    probability = 1 / (1 + np.exp(-(slope * np.array([-1.0, 1]) + offset)))
    assert probability == pytest.approx([0.25, 0.75], abs=1e-3)


def test_a_loaded_detector_equals_the_saved_one(tmp_path):
    fit = detectors.fit_detector(make_marked(), 0.1, "ordered", "walk")
    detectors.save_detector(tmp_path / "d.npz", fit.detector)
    loaded = detectors.load_detector(tmp_path / "d.npz")
    feature = np.random.default_rng(5).normal(size=(7, 5))
    np.testing.assert_array_equal(
        detectors.score_windows(loaded, feature), detectors.score_windows(fit.detector, feature)
    )
    assert (loaded.unwanted_class, loaded.probe.pooling) == ("walk", "ordered")
    for name in ("slope", "offset", "threshold", "rate", "num_wanted"):
        assert getattr(loaded, name) == getattr(fit.detector, name)
    (tmp_path / "broken.npz").write_bytes(b"PK")
    for name in ("broken.npz", "missing.npz"):
        with pytest.raises(
            ValueError, match=f"{name} holds no detector .*moderate --workdir .* --unwanted"
        ):
            detectors.load_detector(tmp_path / name)


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        (make_marked(60, 1), "1 training videos are marked unwanted"),
        (make_marked(1, 6), "1 training videos are marked wanted"),
        (make_marked(num_groups=1), "marked wanted belong to one group \\(.*'g0'"),
    ],
)
def test_errors_count_too_few_marked_videos_and_groups(marked, message):
    with pytest.raises(ValueError, match=message):
        detectors.fit_detector(marked, 0.1, "p", "")


# --- real files -----------------------------------------------------------------------------------


def write_videos(root, kinds, num_videos, seed):
    """Writes 12 frames of noise for each video; the last 4 of the class `flash` are bright."""
    rng = np.random.default_rng(seed)
    for kind in kinds:
        (root / kind).mkdir(parents=True)
        for number in range(num_videos):
            video = rng.integers(40, 90, (NUM_FRAMES, 16, 16, 1))
            if kind == "flash":
                video[FLASH, 3:13, 3:13] = 250
            np.save(root / kind / f"{number}.npy", video.astype(np.uint8))


@pytest.fixture(scope="module")
def params():
    return make_variables(MODEL, -0.5, 0.3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, cache):
    root = tmp_path_factory.mktemp("videos")
    for split, count in (("train", NUM_TRAIN), ("val", 1), ("test", NUM_TEST)):
        write_videos(root / split, ("calm", "flash"), count, seed=len(split))
    return open_dataset(root, FORMAT, Decoding(Cache(cache, 2**28)))


def open_new(root, cache, class_names):
    return open_unsplit(root, FORMAT, Decoding(Cache(cache, 2**28)), class_names=class_names)


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def answered(tmp_path_factory, params, dataset):
    out = tmp_path_factory.mktemp("eval")
    marks = marked_videos.mark_class(dataset, "flash", 5, "test", seed=0)
    question = ask(MODEL, params, dataset, out, **SETTINGS)
    return draw(moderating.moderate(question, marks), out), out, marks


def test_a_declared_class_is_found_with_its_frames(answered):
    result, out, _ = answered
    assert list(result.rows) == ["vae", "random_encoder", "frame_pca", "chance"]
    row = {name: metric.value for name, metric in result.rows["vae"].items()}
    assert (row["auroc"], row["ap"], row["recall"], row["precision"], row["fpr"]) == (1, 1, 1, 1, 0)
    assert row["brier"] < 0.1
    chance = {name: metric.value for name, metric in result.rows["chance"].items()}
    assert (chance["auroc"], chance["ap"], chance["recall"], chance["brier"]) == (0.5, 0.5, 0, 0.25)
    card = result.rows["vae"]["recall"].card
    assert (card["num_unwanted_marks"], card["num_wanted_marks"]) == (5, NUM_TRAIN)
    assert (card["num_unwanted"], card["num_videos"]) == (NUM_TEST, 2 * NUM_TEST)
    verdicts = {row["path"]: row["verdict"] for row in read_csv(out / "moderate.csv")}
    assert verdicts == {
        f"test/{kind}/{k}.npy": verdict
        for kind, verdict in (("calm", "wanted"), ("flash", "unwanted"))
        for k in range(NUM_TEST)
    }
    found = read_csv(out / "moderate_intervals.csv")
    # Frames before the flash inherit the mark of their video and may be above the threshold, too.
    assert {row["path"] for row in found if int(row["end_frame"]) == 11} == {
        f"test/flash/{k}.npy" for k in range(NUM_TEST)
    }
    assert {row["path"] for row in found} == {n for n, v in verdicts.items() if v == "unwanted"}
    assert (out / "moderate.png").stat().st_size > 1000
    assert not (out / "moderate_mistakes.png").exists()
    assert all((out / name).exists() for name in result.files)
    pictures = [name for picture in result.pictures for name in picture.names]
    assert pictures == [name for name in result.files if name.endswith(".png")] == ["moderate.png"]


def test_notes_state_counts_and_the_rate_that_so_few_videos_can_guarantee(answered):
    result, out, _ = answered
    text = "\n".join(result.notes)
    assert "Learned from 5 unwanted and 8 wanted training videos (class flash unwanted" in text
    assert "3 training videos are not marked" in text
    assert "by 8 wanted training videos" in text
    assert "can vouch for a rate of 0.11 at best" in text
    assert "found 4 of 4 unwanted videos, with 0 false alarms among 4 wanted ones" in text
    assert "FEW TEST VIDEOS: 8" in text
    recall = result.rows["vae"]["recall"].interval
    assert (recall.low, recall.high) == (pytest.approx(0.510, abs=1e-3), 1.0)  # 4 / (4 + 1.96^2)
    auroc = result.rows["vae"]["auroc"].interval
    assert auroc.low < 1.0 == auroc.high and "8 videos" in auroc.text
    assert write_result(result, out).name == "moderate.json"


def test_few_wanted_marks_lead_and_all_of_them_are_a_row_of_their_own(
    tmp_path, params, dataset, monkeypatch
):
    monkeypatch.setattr(marked_videos, "NUM_WANTED", 4)
    marks = marked_videos.mark_class(dataset, "flash", None, "test", seed=0)
    result = moderating.moderate(ask(MODEL, params, dataset, tmp_path, **SETTINGS), marks)
    first, *_, last = result.rows.items()
    assert (first[0], last[0]) == ("vae", "vae_all_wanted")
    counts = [
        (row["auroc"].card["num_unwanted_marks"], row["auroc"].card["num_wanted_marks"])
        for _, row in (first, last)
    ]
    assert counts == [(NUM_TRAIN, 4), (NUM_TRAIN, NUM_TRAIN)]  # there are fewer than ten
    assert len(read_csv(tmp_path / "moderate_marks.csv")) == NUM_TRAIN + 4
    # The kept scores give the same figures again.
    videos = read_csv(tmp_path / "moderate_scores.csv")
    unwanted = np.array([video["unwanted"] == "yes" for video in videos])
    assert unwanted.sum() == NUM_TEST and len(unwanted) == 2 * NUM_TEST
    for name in ("vae", "random_encoder", "frame_pca", "vae_all_wanted"):
        score = np.array([float(video[f"score_{name}"]) for video in videos])
        called = np.array([video[f"called_{name}"] == "yes" for video in videos])
        assert auroc(score, unwanted) == result.rows[name]["auroc"].value
        assert called[unwanted].mean() == result.rows[name]["recall"].value


def test_marks_of_a_file_give_the_detector_of_the_class(tmp_path, answered, params, dataset):
    result, out, marks = answered
    rows = [*read_csv(out / "moderate_marks.csv")]
    assert len(rows) == 13
    assert {r["path"]: r["label"] == "unwanted" for r in rows} == {
        name: flag for name, flag in marks.unwanted.items() if name.startswith("train/")
    }
    rows += [{"path": f"test/flash/{k}.npy", "label": "unwanted"} for k in range(2)]
    rows += [{"path": "test/calm/0.npy", "label": "wanted"}]
    rows += [{"path": "val/calm/0.npy", "label": "wanted"}]
    path = tmp_path / "marks.csv"
    path.write_text("path,label\n" + "".join(f"{r['path']},{r['label']}\n" for r in rows))
    given = marked_videos.read_marks(path, dataset)
    again = moderating.moderate(ask(MODEL, params, dataset, tmp_path, **SETTINGS), given)
    for name in ("threshold", "slope", "offset"):
        assert again.details[name] == pytest.approx(result.details[name])
    assert again.rows["vae"]["recall"].card["num_videos"] == 3
    assert "1 marks are of videos of other splits and are not used." in again.notes
    assert len(read_csv(tmp_path / "moderate.csv")) == 2 * NUM_TEST


def test_the_file_of_marks_is_not_replaced_by_those_that_were_used(tmp_path, params, dataset):
    path = tmp_path / "moderate_marks.csv"
    path.write_text("path,label\n")
    question = ask(MODEL, params, dataset, tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match=r"moderate_marks\.csv is the same file as the input"):
        moderating.answer(question, Moderate(marks=path))
    assert path.read_text() == "path,label\n"


def test_without_marks_of_the_split_nothing_is_measured(tmp_path, answered, params, dataset):
    marks = {n: flag for n, flag in answered[2].unwanted.items() if n.startswith("train/")}
    given = marked_videos.Marks(marks, "", "by hand")
    (tmp_path / "moderate_mistakes.png").write_bytes(b"of an earlier answer")
    result = moderating.moderate(ask(MODEL, params, dataset, tmp_path, **SETTINGS), given)
    assert result.rows == {}
    assert any("Nothing is measured" in note for note in result.notes)
    assert result.files[-2:] == ("moderate.png", "moderate_highest.png")
    draw(result, tmp_path)
    assert (tmp_path / "moderate_highest.png").stat().st_size > 1000
    assert not (tmp_path / "moderate_mistakes.png").exists()


def test_a_run_that_sees_whole_videos_gives_verdicts_and_no_intervals(
    tmp_path, answered, params, dataset, cache
):
    whole = ClipFormat("gray", 16, 16, Sampling(num_frames=4, mode="whole"))
    videos = open_dataset(dataset.root, whole, Decoding(Cache(cache, 2**28)))
    result = moderating.moderate(ask(MODEL, params, videos, tmp_path, **SETTINGS), answered[2])
    assert result.rows["vae"]["recall"].value == 1.0
    assert "moderate_intervals.csv" not in result.files
    assert not (tmp_path / "moderate_intervals.csv").exists()
    assert any("No intervals: the run sees a whole video" in note for note in result.notes)


def test_new_videos_get_the_verdicts_of_the_saved_detector(
    tmp_path, answered, params, dataset, cache
):
    detector = detectors.load_detector(answered[1] / "moderate.npz")
    write_videos(tmp_path / "new", ("flash", "strange"), 2, seed=9)
    new = open_new(tmp_path / "new", cache, dataset.class_names)
    question = ask(MODEL, params, new, tmp_path, batch_size=3, split=UNSPLIT, is_new=True)
    result = moderating.apply_detector(question, detector)
    # The run has no class `strange`, so that it is unknown whether its videos are unwanted.
    assert result.rows["vae"]["recall"].card["num_videos"] == 2
    assert result.rows["vae"]["recall"].value == 1.0
    assert math.isnan(result.rows["vae"]["fpr"].value)
    verdicts = {row["path"]: row["verdict"] for row in read_csv(tmp_path / "moderate.csv")}
    assert verdicts["flash/0.npy"] == "unwanted" and verdicts["strange/0.npy"] == "wanted"
    by_hand = dataclasses.replace(detector, unwanted_class="")
    result = moderating.apply_detector(question, by_hand)
    assert result.rows == {}


def test_false_alarms_and_misses_come_farthest_first(answered, dataset):
    detector = detectors.load_detector(answered[1] / "moderate.npz")
    clips = dataset.splits["test"]
    judgement = judge(detector, np.zeros((len(clips), len(detector.probe.mean_F))), clips)
    score = np.array([3.0, 5, -1, 0, 9, -7, -2, 4])
    judgement = dataclasses.replace(judgement, score_V=score, called_V=score > 2)
    unwanted = np.array([False, False, True, True, True, True, False, False])
    alarms, misses = find_mistakes(judgement, np.arange(8) < 7, unwanted)
    assert alarms.tolist() == [1, 0]  # the truth of the last video is unknown
    assert misses.tolist() == [5, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\ntrain/calm/0.npy,bad\n", "line 2: .* got path 'train/calm/0.npy' and label"),
        ("name,label\ntrain/calm/0.npy,wanted\n", "needs a path, .* the columns path and label"),
        ("path,label\ntrain/calm/77.npy,wanted\n", "'train/calm/77.npy' is not a video of"),
        ("path,label\n" + 2 * "train/calm/0.npy,wanted\n", "line 3: .* is marked twice"),
    ],
)
def test_errors_of_files_of_marks_name_file_and_line(tmp_path, dataset, text, message):
    (tmp_path / "marks.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        marked_videos.read_marks(tmp_path / "marks.csv", dataset)
    with pytest.raises(ValueError, match=r"none\.csv cannot be read"):
        marked_videos.read_marks(tmp_path / "none.csv", dataset)


def test_errors_of_classes_name_the_known_ones_and_the_counts(tmp_path, params, dataset):
    with pytest.raises(ValueError, match=r"--unwanted flush is not a class of .* calm, flash"):
        marked_videos.mark_class(dataset, "flush", 2, "test", seed=0)
    with pytest.raises(ValueError, match="--num_marks 9: the class flash has only 8"):
        marked_videos.mark_class(dataset, "flash", 9, "test", seed=0)
    marks = marked_videos.mark_class(dataset, "flash", None, "test", seed=0)
    text = "class flash unwanted, 8 training videos of it and 8 of other classes marked"
    assert marks.text == text
    nothing = marked_videos.Marks({"test/calm/0.npy": False}, "", "marks of a.csv")
    with pytest.raises(ValueError, match=r"no training video is marked \(marks of a.csv\)"):
        moderating.moderate(ask(MODEL, params, dataset, tmp_path, **SETTINGS), nothing)


def test_the_report_names_the_command_with_its_options(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "eval").mkdir()
    for task, options in (("density", None), ("moderate", ["--unwanted", "a b"])):
        content = {"task": task, "rows": {}, "details": {"options": options}}
        (tmp_path / "eval" / f"{task}.json").write_text(json.dumps(content))
    page = html.unescape(write_report(tmp_path, {}).read_text(encoding="utf-8"))
    assert f"evaluate.py density moderate --workdir {tmp_path} --unwanted 'a b'<" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["moderate"], "give one of them"),
        (["moderate", "--unwanted", "a", "--marks", "b"], "give one of them"),
        (["density", "--unwanted", "a"], "--unwanted is an option of moderate, not of density"),
        (["moderate", "--marks", "a", "--data.path", "b"], "are options of moderate on the run's"),
        (["moderate", "--marks", "a", "--num_marks", "3"], "--num_marks is an option of"),
        (["moderate", "--unwanted", "a", "--num_marks", "1"], "--num_marks=1: must be at least 2"),
    ],
)
def test_contradictory_command_lines_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate.read_request([*arguments, "--workdir", "run"])
