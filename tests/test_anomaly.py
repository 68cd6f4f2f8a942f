"""Anomaly detection: metrics by hand, thresholds in closed form, live against offline, the task."""

import csv
import math

import jax
import numpy as np
import pytest
from asking import ask, draw
from sklearn.mixture import GaussianMixture
from tiny_vae import make_variables

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
    average_precision,
    find_threshold,
    judge_scores,
    normalize_by_video,
    smooth_by_video,
)
from vvae.metrics.intervals import estimate_share
from vvae.models.contract import init_variables
from vvae.models.sequential import SequentialVAE, surprise
from vvae.tasks.anomaly import anomaly, intervals
from vvae.tasks.anomaly import scorer as scorers
from vvae.tasks.anomaly.controls import average_blocks
from vvae.tasks.anomaly.scores import (
    begin_live,
    max_block,
    score_stream,
    score_windows,
    step_live,
)
from vvae.tasks.anomaly.streams import ScoreSettings, compute_streamed
from vvae.tasks.options import Anomaly
from vvae.tasks.random_params import randomize_params
from vvae.video import probe as probe_video

MODEL = SequentialVAE((16, 16, 1), widths=(4,), hidden=8, latent_dim=3, clip_latent_dim=2)
FORMAT = ClipFormat("gray", 16, 16, Sampling(num_frames=4))
SETTINGS = {"batch_size": 3, "anomaly_block": 4, "regret_steps": 1}
ABNORMAL = {"test/0.npy": "5-7", "test/1.npy": ""}


# --- metrics --------------------------------------------------------------------------------------


def test_auroc_and_average_precision_by_counting_with_ties():
    rng = np.random.default_rng(0)
    score, abnormal = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.3
    high, low = score[abnormal][:, None], score[~abnormal][None]
    assert auroc(score, abnormal) == pytest.approx(np.mean((high > low) + 0.5 * (high == low)))
    area, recall = 0.0, 0.0
    for level in sorted(set(score), reverse=True):
        chosen = score >= level
        reached = abnormal[chosen].sum() / abnormal.sum()
        area += (reached - recall) * abnormal[chosen].mean()
        recall = reached
    assert average_precision(score, abnormal) == pytest.approx(area)
    assert math.isnan(auroc(score, np.ones(40, bool)))
    assert math.isnan(average_precision(score, np.zeros(40, bool)))


def test_infinite_scores_are_ranked_and_nan_scores_give_nan():
    abnormal = np.array([False, True, False, True])
    for measure, value in ((auroc, 0.75), (average_precision, 0.8333333333333333)):
        finite = measure(np.array([-9.0, 1.0, 2.0, 9.0]), abnormal)
        assert measure(np.array([-np.inf, 1.0, 2.0, np.inf]), abnormal) == finite == value
        assert math.isnan(measure(np.array([0.0, 1.0, np.nan, 2.0]), abnormal))


def test_protocols_of_hand_made_scores():
    # Video 0 is separated; 1 is all abnormal, so not part of macro; 2 is constant, so chance.
    score = np.array([1.0, 2, 5, 9, 3, 3])
    abnormal = np.array([False, True, True, True, False, True])
    video = np.array([0, 0, 1, 1, 2, 2])
    found = judge_scores(score, abnormal, video)
    assert found.values["macro"] == 0.75 and found.num_macro_videos == 2
    assert found.values["micro_raw"] == pytest.approx((4 + 2 + 0.5) / 8)
    scaled = normalize_by_video(score, video)
    assert scaled.tolist() == [0, 1, 0, 1, 0, 0]


def test_smoothing_keeps_constants_and_stays_inside_a_video():
    video = np.repeat([0, 1], 41)
    score = np.where(video == 0, 2.0, 7.0)
    np.testing.assert_allclose(smooth_by_video(score, video), score)
    score[20] += 1
    smoothed = smooth_by_video(score, video)
    assert smoothed[20] == pytest.approx(2 + 1 / (3 * math.sqrt(2 * math.pi)), abs=1e-4)
    assert smoothed[20] > smoothed[17] == pytest.approx(smoothed[23])
    assert np.all(smoothed[41:] == pytest.approx(7.0))


def test_thresholds_have_the_stated_rate():
    normal = np.random.default_rng(0).permutation(np.arange(1, 100.0))
    assert find_threshold(normal, 0.1).value == 90  # rank 0.9 * (99 + 1)
    assert find_threshold(np.arange(1, 11.0), 0.1).value == 10  # rank 9.9, not 9
    few = find_threshold(np.array([1.0, 4.0]), 0.01)
    assert (few.value, few.num_normal, few.resolvable_rate) == (4.0, 2, pytest.approx(1 / 3))
    gaussian = np.random.default_rng(1).normal(size=200_000)
    assert find_threshold(gaussian, 0.01).value == pytest.approx(2.326, abs=0.03)
    with pytest.raises(ValueError, match="false_positive_rate=1"):
        find_threshold(normal, 1)


@pytest.mark.parametrize("text", ["a-b", "3-", "9-3", "-1"])
def test_errors_of_intervals_name_the_video(text):
    with pytest.raises(ValueError, match=r"v\.mp4: "):
        intervals.parse_intervals(text, "v.mp4")


def test_the_largest_block_agrees_between_numpy_and_jax_and_a_loop():
    maps = np.random.default_rng(0).random((2, 7, 9))
    loop = [max(m[i : i + 3, j : j + 3].mean() for i in range(5) for j in range(7)) for m in maps]
    np.testing.assert_allclose(average_blocks(maps, 3).max(axis=(1, 2)), loop)
    np.testing.assert_allclose(max_block(maps[None], 3)[0], loop, rtol=1e-5)
    with pytest.raises(ValueError, match="block=8"):
        average_blocks(maps, 8)


# --- real files -----------------------------------------------------------------------------------


def write_videos(root, labelled=True, bad_train=False):
    """Writes videos of a drifting bright spot; in frames 5 to 7 of test/0 a large one flashes."""
    rng, rows = np.random.default_rng(0), []
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            video = rng.integers(90, 110, (10, 16, 16, 1))
            for t in range(10):
                video[t, 6:9, (number + t) % 13 : (number + t) % 13 + 3] = 180
            name = f"{split}/{number}.npy"
            if name == "test/0.npy":
                video[5:8, 2:14, 2:14] = 255
            np.save(root / name, video.astype(np.uint8))
            cell = "2-3" if bad_train and name == "train/0.npy" else ABNORMAL.get(name, "")
            rows.append([name, split, *([cell] if labelled else [])])
    with open(root / "manifest.csv", "w", newline="") as file:
        head = ["path", "split", *(["abnormal"] if labelled else [])]
        csv.writer(file).writerows([head, *rows])


def open_videos(root, cache):
    return open_dataset(root, FORMAT, Decoding(Cache(cache, 2**28)))


@pytest.fixture(scope="module")
def params():
    return make_variables(MODEL, -0.2, 0.3)


@pytest.fixture(scope="module")
def answered(tmp_path_factory, params):
    root, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("eval")
    write_videos(root)
    dataset = open_videos(root, tmp_path_factory.mktemp("cache"))
    question = ask(MODEL, params, dataset, out, **SETTINGS)
    return draw(anomaly.answer(question, Anomaly()), out), dataset, out


def test_a_planted_anomaly_is_found_and_every_frame_is_scored(answered):
    result, _, out = answered
    assert result.rows["reconstruction"]["micro_raw"].value == 1.0
    assert result.rows["reconstruction"]["micro_raw"].card["num_frames_judged"] == 20
    assert result.rows["reconstruction"]["macro"].card["num_macro_videos"] == 1
    assert result.rows["time_index"]["micro_raw"].value < 0.8
    with open(out / "anomaly_intervals.csv", newline="") as file:
        found = list(csv.DictReader(file))
    # Two normal videos cannot rule out an alarm in a third; the planted anomaly must score highest.
    top = max(found, key=lambda row: float(row["peak_score"]))
    assert top["path"] == "test/0.npy"
    assert int(top["start_frame"]) <= 6 <= int(top["end_frame"])
    with open(out / "anomaly_videos.csv", newline="") as file:
        verdicts = {row["path"]: row for row in csv.DictReader(file)}
    assert verdicts["test/0.npy"]["verdict"] == "abnormal"
    planted, other = (float(verdicts[f"test/{k}.npy"]["peak_score"]) for k in (0, 1))
    assert planted > 2 * abs(other)
    assert probe_video(out / "anomaly.mp4").num_frames == 20
    assert all((out / name).stat().st_size for name in result.files)
    pictures = [name for picture in result.pictures for name in picture.names]
    assert pictures == [name for name in result.files if name.endswith((".png", ".mp4"))]


def test_the_headline_leads_and_what_it_rests_on_is_kept(answered):
    result, _, out = answered
    assert next(iter(result.rows)) == result.details["headline"] == "fusion"
    text = "\n".join(result.notes)
    assert "First row: fusion, the headline" in text and "micro_raw: AUROC over all frames" in text
    assert "n = 2 videos" in text and "FEW TEST VIDEOS: 2" in text
    assert "best rival" in text and "(untrained)" in text
    micro = result.rows["reconstruction"]["micro_raw"]
    assert (micro.interval.low, micro.interval.high) == estimate_share(2, 2)
    assert result.rows["fusion"]["fpr"].interval is not None
    with open(out / "anomaly_frames.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["frame"]) for row in rows] == [
        (f"test/{video}.npy", str(frame)) for video in range(2) for frame in range(10)
    ]
    truth = np.array([row["abnormal"] == "yes" for row in rows])
    for name, row in result.rows.items():
        score = np.array([float(frame[f"raw_{name}"]) for frame in rows])
        assert auroc(score, truth) == pytest.approx(row["micro_raw"].value, abs=0.02)


def test_without_a_clip_latent_there_is_no_row_of_its_kl():
    def names(model):
        video, mask = np.zeros((1, 4, 16, 16, 1), np.uint8), np.ones((1, 4), bool)
        batch = {"video": video, "mask": mask, "index": np.zeros(1, int)}

        def score(key):
            variables = {**init_variables(model, key), "stats": make_stats(model)}
            return score_windows(model, variables, key, batch, num_samples=1, regret_steps=0)

        return set(jax.eval_shape(score, jax.random.key(0)))

    without = SequentialVAE((16, 16, 1), widths=(4,), hidden=8, latent_dim=3, clip_latent_dim=0)
    assert names(MODEL) - names(without) == {"clip_kl"}


def make_stats(model):
    return {"mean": np.zeros(model.shape_HWC, np.float32), "std": np.float32(1.0)}


def test_a_saved_scorer_gives_equal_scores_in_any_folder(answered, params, tmp_path):
    _, dataset, out = answered
    scorer = scorers.load_scorer(out / scorers.SCORER_FILE)
    new = open_unsplit(dataset.root / "test", FORMAT, Decoding(Cache(tmp_path, 2**28)))
    arguments = (MODEL, params, scorer.reference, scorer.settings)
    frames, known = scorers.compute_scores(*arguments, dataset.splits["test"], 3)
    _, again = scorers.compute_scores(*arguments, new.splits[UNSPLIT], 3)
    # The second video alone: its clips have other numbers there.
    path = dataset.root / "test" / "1.npy"
    alone = open_unsplit(path, FORMAT, Decoding(Cache(tmp_path, 2**28)))
    _, single = scorers.compute_scores(*arguments, alone.splits[UNSPLIT], 3)
    for name, score_F in known.items():
        np.testing.assert_array_equal(again[name], score_F, err_msg=name)
        own_F = score_F[frames.video_F == 1]
        np.testing.assert_allclose(single[name], own_F, rtol=1e-4, atol=1e-4, err_msg=name)
    question = ask(MODEL, params, new, tmp_path, batch_size=3, split=UNSPLIT, is_new=True)
    result = anomaly.judge(question, scorer)
    assert set(result.rows["fusion"]) == {"alarm_rate"}
    with open(tmp_path / "anomaly_frames.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and {row["abnormal"] for row in rows} == {""}
    assert {row["verdict"] for row in rows} <= {"normal", "abnormal"}
    for stage in ("intervals", "videos"):
        lines = (tmp_path / f"anomaly_{stage}.csv").read_text().replace("\n", "\ntest/")
        first = (out / f"anomaly_{stage}.csv").read_text().splitlines()
        assert lines.splitlines()[: len(first)] == first


def test_live_scores_are_those_of_windows_and_of_the_whole_video(answered, params):
    clips = answered[1].splits["test"]
    offline = compute_streamed(MODEL, params, clips, 4, batch_size=2)
    frames = intervals.list_frames(clips)
    own = frames.video_F == 0
    codes_FHWC = clips.read(np.arange(len(clips)))[frames.clip_F, frames.position_F][own]
    step = jax.jit(lambda state, frame: step_live(MODEL, params, state, frame, 4))
    state, live = begin_live(MODEL, params), []
    for frame_HWC in codes_FHWC:
        state, scores = step(state, frame_HWC[None])
        live.append(scores)
    for name in ("reconstruction", "reconstruction_block", "surprise"):
        values = np.array([float(scores[name][0]) for scores in live])
        np.testing.assert_allclose(
            values, frames.take(offline[name])[own][:, 0, 0], rtol=1e-5, atol=1e-5
        )
    whole = surprise(MODEL, params, codes_FHWC[None])[0]
    np.testing.assert_allclose([s["surprise"][0] for s in live], whole, rtol=1e-5, atol=1e-5)


def test_streamed_scores_do_not_look_ahead(params):
    x = np.random.default_rng(0).integers(0, 256, (1, 6, 16, 16, 1)).astype(np.uint8)
    changed, mask = x.copy(), np.ones((1, 6), bool)
    changed[:, 4:] = 255 - changed[:, 4:]
    state = begin_live(MODEL, params)
    before, after = (
        score_stream(MODEL, params, state, video, mask, 4)[1] for video in (x, changed)
    )
    for name, value in before.items():
        np.testing.assert_array_equal(value[:, :4], after[name][:, :4])
        assert np.any(value[:, 4:] != after[name][:, 4:])


def test_random_encoder_is_latent_knn_of_a_network_with_random_weights(answered, params):
    dataset = answered[1]
    settings = ScoreSettings(block=4, num_samples=2, regret_steps=1, seed=3)
    fresh = randomize_params(MODEL, params, 3)
    splits = dataset.splits["train"], dataset.splits["test"]
    reference = scorers.fit_reference(MODEL, params, splits[0], settings, 3)
    _, scores = scorers.compute_scores(MODEL, params, reference, settings, splits[1], 3)
    untrained = scorers.fit_reference(MODEL, fresh, splits[0], settings, 3)
    _, wanted = scorers.compute_scores(MODEL, fresh, untrained, settings, splits[1], 3)
    np.testing.assert_allclose(scores["random_encoder"], wanted["latent_knn"], rtol=1e-5)
    assert np.abs(scores["random_encoder"] - scores["latent_knn"]).max() > 1e-3


def test_mixture_and_neighbours_agree_with_scikit_learn_and_brute_force():
    rng = np.random.default_rng(0)
    known, new = rng.normal(size=(80, 3)), rng.normal(size=(7, 3))
    mixture = GaussianMixture(2, random_state=0).fit(known)
    reference = scorers.Reference(
        untrained=None,
        latent_MZ=known,
        random_MZ=known,
        weight_K=mixture.weights_,
        mean_KZ=mixture.means_,
        factor_KZZ=mixture.precisions_cholesky_,
    )
    expected = -mixture.score_samples(new)
    np.testing.assert_allclose(scorers.score_mixture(reference, new), expected)
    distance = np.sort(np.linalg.norm(new[:, None] - known, axis=-1), axis=1)[:, :5].mean(1)
    np.testing.assert_allclose(scorers.score_neighbours(known, new), distance)


def test_without_labels_there_are_verdicts_and_no_auroc(params, tmp_path):
    write_videos(tmp_path / "videos", labelled=False)
    dataset = open_videos(tmp_path / "videos", tmp_path / "cache")
    result = anomaly.answer(ask(MODEL, params, dataset, tmp_path, **SETTINGS), Anomaly())
    assert set(result.rows["fusion"]) == {"alarm_rate"}
    assert any("AUROC is left out" in note for note in result.notes)
    assert (tmp_path / "anomaly_intervals.csv").exists()


def test_abnormal_training_videos_and_other_bad_input_are_refused(answered, params, tmp_path):
    write_videos(tmp_path / "videos", bad_train=True)
    dataset = open_videos(tmp_path / "videos", tmp_path / "cache")
    split = next(k for k in ("train", "val") if "train/0.npy" in str(dataset.splits[k].videos))
    with pytest.raises(ValueError, match=f"train/0.npy, in the split {split}, has abnormal frames"):
        anomaly.answer(ask(MODEL, params, dataset, tmp_path, **SETTINGS), Anomaly())
    with pytest.raises(ValueError, match="cannot be measured on val"):
        anomaly.fit(ask(MODEL, params, answered[1], tmp_path, split="val", **SETTINGS))
    # A gray view has no motion.
    with pytest.raises(ValueError, match="anomaly_score='motion' is not one of"):
        anomaly.fit(ask(MODEL, params, answered[1], tmp_path, anomaly_score="motion", **SETTINGS))
    (tmp_path / "broken.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"broken\.npz holds no anomaly scorer"):
        scorers.load_scorer(tmp_path / "broken.npz")
