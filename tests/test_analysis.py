"""Pooling, probes, baselines and latents against closed forms; the tasks end to end."""

import csv
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from asking import ask, draw
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from tiny_vae import draw_variables

from vvae import task_table
from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_dataset
from vvae.distributions import Gaussian
from vvae.measure import collapse
from vvae.measure.examples import choose_examples, spread_evenly
from vvae.measure.frames import score_frames
from vvae.measure.mapping import map_clips
from vvae.measure.pca import (
    fit_frame_pca,
    middle_frames,
    project_frames,
    reconstruct_frames,
    sample_frames,
)
from vvae.metrics.cards import make_metric
from vvae.metrics.intervals import estimate_share
from vvae.metrics.table import format_number, format_table
from vvae.models import contract
from vvae.models.sequential import Latents, SequentialPosterior, SequentialVAE
from vvae.objectives.elbo import elbo
from vvae.tasks import options
from vvae.tasks import probe as probes
from vvae.tasks.pooling import (
    POOLINGS,
    extract,
    make_encoder,
    pool_clip,
    pool_dynamics,
    pool_mean_dynamics,
    pool_means,
    pool_ordered,
    pool_stats,
    pool_steps,
)
from vvae.tasks.quality import density, generate
from vvae.tasks.quality import reconstruct as reconstruction
from vvae.tasks.random_params import randomize_params
from vvae.tasks.recognition import classify, label
from vvae.tasks.recognition.scores import match_labels
from vvae.tasks.result import Result, as_json, format_result, publish, write_result
from vvae.video import probe as probe_video

MODEL = SequentialVAE((16, 16, 1), widths=(4, 8), hidden=16, latent_dim=3, clip_latent_dim=2)
CLASSES = ("dark", "light", "middle")


# --- a small real data set and an untrained model -------------------------------------------------


@pytest.fixture(scope="module")
def dataset(brightness_folder, tmp_path_factory):
    """Three classes of brightness; clips of 4 frames, some videos of 3, 6 and 8 frames."""
    clip_format = ClipFormat("gray", 16, 16, Sampling(num_frames=4))
    cache = tmp_path_factory.mktemp("cache")
    return open_dataset(brightness_folder, clip_format, Decoding(Cache(cache, 2**28)))


@pytest.fixture(scope="module")
def params():
    variables = draw_variables(MODEL)
    # As after training, a latent is about equally uncertain in all frames.
    head = variables["params"]["frame_head"]["dense"]
    head["kernel"] = head["kernel"].at[:, MODEL.latent_dim :].set(0.0)
    return variables


# --- pooling --------------------------------------------------------------------------------------


def make_posterior(mean_BTZ):
    mean_BTZ = jnp.asarray(mean_BTZ, jnp.float32)
    clip = Gaussian(mean_BTZ[:, 0, :2] * 10, mean_BTZ[:, 0, :2])
    return SequentialPosterior(Gaussian(mean_BTZ, jnp.zeros_like(mean_BTZ)), clip)


def test_ordered_pooling_of_16_valid_frames_keeps_them_as_they_are():
    mean_BTZ = np.random.default_rng(0).normal(size=(2, 16, 3)).astype(np.float32)
    pooled = pool_ordered(make_posterior(mean_BTZ), jnp.ones((2, 16), bool))
    np.testing.assert_allclose(pooled, mean_BTZ.reshape(2, -1), atol=1e-5)


def test_ordered_pooling_is_linear_in_time_between_the_first_and_last_valid_frame():
    time = np.array([900.0, 0.0, 1.0, 2.0, 3.0, 500.0, 700.0])
    mask = np.array([[False, True, True, True, True, False, False]])
    mean_BTZ = np.stack([time, -2 * time], axis=-1)[None]
    pooled = pool_ordered(make_posterior(mean_BTZ), jnp.asarray(mask))
    expected = np.linspace(0, 3, 16)
    np.testing.assert_allclose(pooled.reshape(16, 2)[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(pooled.reshape(16, 2)[:, 1], -2 * expected, atol=1e-6)


def test_dynamics_adds_the_sizes_of_the_steps():
    mean_BTZ = np.random.default_rng(0).normal(size=(2, 16, 3)).astype(np.float32)
    mask_BT = jnp.ones((2, 16), bool)
    pooled = pool_dynamics(make_posterior(mean_BTZ), mask_BT)
    ordered = pool_ordered(make_posterior(mean_BTZ), mask_BT)
    np.testing.assert_array_equal(pooled[:, : 16 * 3], ordered)
    steps = np.abs(np.diff(np.asarray(ordered).reshape(2, 16, 3), axis=1)).reshape(2, -1)
    np.testing.assert_allclose(pooled[:, 16 * 3 :], steps, rtol=1e-6)
    alone = pool_steps(make_posterior(mean_BTZ), mask_BT)
    np.testing.assert_array_equal(alone, pooled[:, 16 * 3 :])


def test_means_are_what_ordered_pooling_divides_by_the_uncertainty():
    rng = np.random.default_rng(4)
    mean_BTZ, logvar_BTZ = (rng.normal(size=(2, 16, 3)).astype(np.float32) for _ in range(2))
    posterior = make_posterior(mean_BTZ)
    posterior = posterior.replace(frame=Gaussian(mean_BTZ, logvar_BTZ))
    mask_BT = jnp.ones((2, 16), bool)
    pooled = pool_means(posterior, mask_BT)
    np.testing.assert_allclose(pooled, mean_BTZ.reshape(2, -1), atol=1e-5)
    np.testing.assert_allclose(
        pool_ordered(posterior, mask_BT),
        pooled * np.exp(-0.5 * logvar_BTZ).reshape(2, -1),
        atol=1e-5,
    )
    both = pool_mean_dynamics(posterior, mask_BT)
    plain = pool_dynamics(make_posterior(mean_BTZ), mask_BT)
    np.testing.assert_array_equal(both, plain)


@pytest.mark.parametrize("pooling", ["dynamics", "ordered", "means", "stats", "steps"])
def test_masked_frames_do_not_enter_pooling(pooling):
    rng = np.random.default_rng(2)
    mean_BTZ, mask = rng.normal(size=(3, 6, 2)), rng.random((3, 6)) < 0.6
    mask[:, 0] = True
    pool = POOLINGS[pooling]
    changed = np.where(mask[..., None], mean_BTZ, 1e6)
    np.testing.assert_array_equal(
        pool(make_posterior(mean_BTZ), mask), pool(make_posterior(changed), mask)
    )


def test_stats_pooling_gives_mean_and_sd_and_clip_pooling_the_clip_latent():
    mean_BTZ = np.random.default_rng(3).normal(size=(2, 5, 3))
    mask = np.arange(5) < np.array([[5], [3]])
    pooled = pool_stats(make_posterior(mean_BTZ), mask)
    np.testing.assert_allclose(pooled[1, :3], mean_BTZ[1, :3].mean(0), atol=1e-6)
    np.testing.assert_allclose(pooled[1, 3:], mean_BTZ[1, :3].std(0), atol=1e-6)
    posterior = make_posterior(mean_BTZ)
    np.testing.assert_array_equal(pool_clip(posterior, mask), posterior.clip.mean)


def test_unknown_pooling_is_named():
    with pytest.raises(
        ValueError,
        match="pooling='mean' is not one of clip, dynamics, mean_dynamics, means, ordered",
    ):
        make_encoder(MODEL, "mean")


def test_features_of_a_video_are_the_mean_over_its_clips(dataset, params):
    clips = dataset.splits["train"]
    assert len(clips) > len(clips.videos)  # some videos have two clips
    encoder = make_encoder(MODEL, "ordered")
    result = extract(encoder, params, clips, batch_size=4)
    own = np.flatnonzero(clips.video_index_N == 1)
    assert len(own) == 2
    alone = [encoder(params, clips.read([n]), clips.mask_NT[[n]])[0] for n in own]
    np.testing.assert_allclose(result.feature_VF[1], np.mean(alone, axis=0), rtol=1e-4, atol=1e-5)
    assert result.name_V.tolist() == [video.name for video in clips.videos]
    assert [dataset.class_names[k] for k in result.label_V] == [v.label for v in clips.videos]


# --- batches --------------------------------------------------------------------------------------


def test_map_clips_returns_every_clip_once_in_order(dataset):
    clips = dataset.splits["train"]
    for batch_size in (1, 5, 64):
        index_N = map_clips(lambda batch: batch["index"], clips, batch_size)
        np.testing.assert_array_equal(index_N, np.arange(len(clips)))


def test_examples_are_full_clips_of_different_videos(dataset):
    clips = dataset.splits["train"]
    chosen = choose_examples(clips, 5)
    assert len(set(clips.video_index_N[chosen])) == 5
    assert clips.mask_NT[chosen].all()
    assert len(choose_examples(clips, 1000)) <= len(clips.videos)


def test_spread_evenly_takes_the_middles_of_equal_parts():
    assert spread_evenly(np.arange(9), 3).tolist() == [1, 4, 7]
    assert spread_evenly(np.arange(2), 5).tolist() == [0, 1]


# --- probes ---------------------------------------------------------------------------------------


def make_blobs(num_classes, per_class, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, 12))
    label = np.repeat(np.arange(num_classes), per_class)
    x = centres[label] + spread * rng.normal(size=(len(label), 12))
    return (x * np.linspace(0.1, 30, 12) + 7).astype(np.float32), label


@pytest.mark.parametrize("num_classes", [2, 4])
def test_saved_probe_gives_the_probabilities_of_scikit_learn(num_classes, tmp_path):
    x, label = make_blobs(num_classes, 20)
    names = tuple(f"class {k}" for k in range(num_classes))
    probe = probes.fit_probe(x, label, probes.Settings(0.1, "each"), names, "ordered")
    probes.save_probe(tmp_path / "probe.npz", probe)
    loaded = probes.load_probe(tmp_path / "probe.npz")
    mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    reference = LogisticRegression(C=0.1, max_iter=2000).fit((x - mean) / std, label)
    new, _ = make_blobs(num_classes, 5, seed=1)
    expected = reference.predict_proba((new - mean) / std)
    np.testing.assert_allclose(probes.predict_scores(loaded, new), expected, atol=1e-6)
    assert (loaded.class_names, loaded.pooling) == (names, "ordered")


def test_a_constant_feature_does_no_harm():
    x, label = make_blobs(3, 10)
    x[:, 4] = 5.0
    probe = probes.fit_probe(x, label, probes.Settings(1.0, "each"), ("a", "b", "c"), "ordered")
    moved = x.copy()
    moved[:, 4] = 5.1
    assert np.all(np.isfinite(probes.predict_scores(probe, moved)))


def test_a_file_that_is_not_a_probe_is_named(tmp_path):
    for name, content in (("empty.npz", b""), ("text.npz", b"PK\x03\x04 broken")):
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("missing.npz", "empty.npz", "text.npz", "other.npz"):
        with pytest.raises(ValueError, match=f"{name} holds no probe"):
            probes.load_probe(tmp_path / name)


def test_features_of_another_length_are_refused():
    x, label = make_blobs(2, 5)
    probe = probes.fit_probe(x, label, probes.Settings(1.0, "each"), ("a", "b"), "stats")
    with pytest.raises(ValueError, match=r"reads 12 features \(stats\), got 3"):
        probes.predict_scores(probe, np.zeros((1, 3)))


def test_regularization_is_chosen_without_sharing_groups():
    # The features name the group and nothing else: only a split that cuts groups can score.
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 6)
    label = np.random.default_rng(1).permutation(np.repeat([0, 1], 10))[group]
    x = rng.normal(size=(20, 30))[group] * 5 + 0.01 * rng.normal(size=(120, 30))
    _, accuracy = probes.select_settings(x, label, group)
    _, leaking = probes.select_settings(x, label, np.arange(120))
    assert leaking > 0.99
    assert accuracy < 0.8


@pytest.mark.parametrize("num_features", [12, 90])
def test_settings_are_those_of_a_direct_cross_validation(num_features):
    """Neither the rotation nor starting from the fit before changes what is chosen."""
    rng = np.random.default_rng(5)
    label, group = np.arange(64) % 4, np.arange(64) // 8
    x = rng.normal(size=(4, num_features))[label] * 0.4 + rng.normal(size=(64, num_features))
    x = (x * np.exp(rng.normal(size=num_features)) + 3).astype(np.float32)
    accuracy = {}
    for scaling in probes.SCALINGS:
        for c in probes.REGULARIZATIONS:
            hits = []
            for fitted, held in GroupKFold(4).split(x, label, group):
                mean, std = x[fitted].mean(0, np.float64), x[fitted].std(0, dtype=np.float64)
                scale = std if scaling == "each" else np.sqrt(np.mean(std**2))
                plain = LogisticRegression(C=c, max_iter=5000, tol=1e-8)
                plain.fit((x[fitted] - mean) / scale, label[fitted])
                hits.append(np.mean(plain.predict((x[held] - mean) / scale) == label[held]))
            accuracy[probes.Settings(c, scaling)] = np.mean(hits)
    settings, chosen = probes.select_settings(x, label, group)
    assert settings == max(accuracy, key=accuracy.get)
    assert chosen == pytest.approx(accuracy[settings])
    assert len(set(accuracy.values())) > 3


def test_a_feature_that_is_there_three_times_counts_as_three_times_the_weight():
    """Twelve features are fitted as they are, 36 of as many videos in the basis of their span."""
    x, label = make_blobs(3, 4)
    wide = np.concatenate([x, x, x], axis=1)
    narrow_probe = probes.fit_probe(x, label, probes.Settings(0.3, "each"), tuple("abc"), "x")
    wide_probe = probes.fit_probe(wide, label, probes.Settings(0.1, "each"), tuple("abc"), "x")
    first = probes.predict_scores(narrow_probe, x)
    np.testing.assert_allclose(first, probes.predict_scores(wide_probe, wide), atol=1e-3)


def test_one_group_leaves_nothing_to_choose_by():
    x, label = make_blobs(2, 5)
    with pytest.raises(ValueError, match="one group"):
        probes.select_settings(x, label, np.array(["anna"] * 10))


def test_nearest_neighbours_vote_and_shuffled_labels_give_chance():
    x, label = make_blobs(4, 30, spread=0.3)
    new, new_label = make_blobs(4, 30, spread=0.3, seed=1)
    scores = probes.knn_scores(x, label, new, 4)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)
    assert np.mean(scores.argmax(1) == new_label) > 0.95
    shuffled = np.random.default_rng(2).permutation(label)
    for predicted in (
        probes.knn_scores(x, shuffled, new, 4).argmax(1),
        probes.predict_scores(
            probes.fit_probe(x, shuffled, probes.Settings(1.0, "each"), tuple("abcd"), "x"), new
        ).argmax(1),
    ):
        assert np.mean(predicted == new_label) < 0.5


# --- baselines ------------------------------------------------------------------------------------


def test_sampled_frames_are_distinct_valid_frames(dataset):
    clips = dataset.splits["train"]
    every = clips.read(np.arange(len(clips)))[clips.mask_NT]
    np.testing.assert_array_equal(sample_frames(clips, 10**6, 0), every)
    some = sample_frames(clips, 20, 0)
    known = {frame.tobytes() for frame in every}
    assert len(some) == 20 and {frame.tobytes() for frame in some} <= known
    assert len({frame.tobytes() for frame in some}) == 20
    np.testing.assert_array_equal(some, sample_frames(clips, 20, 0))
    assert np.any(some != sample_frames(clips, 20, 1))


def test_pca_reconstructs_frames_exactly_with_all_components_and_best_with_few(dataset):
    clips = dataset.splits["train"]
    frames = sample_frames(clips, 10**6, 0).astype(np.float32)
    full = fit_frame_pca(clips, 10**6, 0)
    np.testing.assert_allclose(reconstruct_frames(full, frames), frames, atol=0.05)
    centred = frames.reshape(len(frames), -1) - frames.reshape(len(frames), -1).mean(0)
    left_over = np.square(np.linalg.svd(centred, compute_uv=False)[3:]).sum()
    few = fit_frame_pca(clips, 3, 0)
    error = np.square(reconstruct_frames(few, frames) - frames).sum()
    np.testing.assert_allclose(error, left_over, rtol=0.02)
    assert project_frames(few, frames).shape == (len(frames), 3)


def test_random_weights_keep_the_standardisation_and_nothing_else(params):
    fresh = randomize_params(MODEL, params, seed=3)
    assert fresh["stats"] is params["stats"]
    assert jax.tree.structure(fresh["params"]) == jax.tree.structure(params["params"])
    kernel = fresh["params"]["encoder"]["dense"]["kernel"]
    assert np.all(kernel != params["params"]["encoder"]["dense"]["kernel"])
    other = randomize_params(MODEL, params, seed=4)["params"]["encoder"]["dense"]["kernel"]
    assert np.all(kernel != other)


def test_middle_frames_are_valid(dataset):
    clips = dataset.splits["train"]
    ids = np.arange(len(clips))
    frames = middle_frames(clips, ids)
    short = int(np.flatnonzero(clips.mask_NT.sum(1) == 3)[0])
    np.testing.assert_array_equal(frames[short], clips.read([short])[0, 1])


# --- latents --------------------------------------------------------------------------------------


def test_active_units_of_planted_posteriors():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(500, 4)) * np.array([1.0, 0.01, 1.0, 0.001])
    variance = np.broadcast_to([0.1, 1.0, 0.1, 1e-7], mean.shape)
    kl = np.array([1.0, 1.0, 0.001, 1.0])
    # Dimension 3 hardly varies, but is known even better: a learned prior may choose such a scale.
    assert collapse.find_active_units(mean, variance, kl).tolist() == [True, False, False, True]
    assert collapse.count_burda_units(mean) == 2


def test_mutual_information_of_a_gaussian_channel_is_its_closed_form():
    mean = np.random.default_rng(0).normal(size=(3000, 2)) * np.array([2.0, 1.0])
    variance = np.broadcast_to([1.0, 0.5], mean.shape)
    exact = 0.5 * math.log(1 + 4 / 1) + 0.5 * math.log(1 + 1 / 0.5)
    information, count = collapse.estimate_mutual_information(mean, variance, 2000, seed=0)
    assert count == 2000
    assert information == pytest.approx(exact, abs=0.1)


def test_mutual_information_is_zero_for_a_collapsed_level_and_at_most_log_n():
    mean = np.zeros((400, 3))
    nothing, _ = collapse.estimate_mutual_information(mean, np.ones_like(mean), 400, seed=0)
    assert nothing == pytest.approx(0.0, abs=1e-9)
    mean = np.random.default_rng(0).normal(size=(400, 3)) * 1e3
    everything, count = collapse.estimate_mutual_information(mean, np.ones_like(mean), 100, seed=0)
    assert everything == pytest.approx(math.log(count), abs=1e-6) and count == 100


def test_collapse_is_described_in_words():
    alive, dead = np.array([True, False]), np.array([False, False])
    collapsed, words = collapse.describe_collapse({"frame": alive, "clip": alive}, 0.2, 1.0)
    assert not collapsed and "1 of 2 frame" in words and "20%" in words
    collapsed, words = collapse.describe_collapse({"frame": alive, "clip": dead}, 0.2, 1.0)
    assert collapsed and "COLLAPSED: none of the 2 units of the clip latent" in words
    for error in (0.98, math.nan):
        collapsed, words = collapse.describe_collapse({"frame": alive}, error, 1.0)
        assert collapsed and "of the variance about the mean frame" in words


# --- results --------------------------------------------------------------------------------------


def test_results_are_written_as_finite_json_and_printed_aligned(tmp_path):
    def metric(value):
        return make_metric("psnr", value, "dB", "definition", "mean", split="test")

    result = Result(
        task="demo",
        rows={"vae": {"psnr": metric(31.25)}, "pca": {"psnr": metric(math.nan)}},
        details={"curve": np.array([1.0, np.nan]), "count": np.int64(3), "flags": (np.True_,)},
        notes=("A note.",),
    )
    content = json.loads(write_result(result, tmp_path).read_text())
    assert content["rows"]["vae"]["psnr"]["value"] == 31.25
    assert content["rows"]["pca"]["psnr"]["value"] is None
    assert content["rows"]["vae"]["psnr"]["card"]["split"] == "test"
    assert content["details"] == {"curve": [1.0, None], "count": 3, "flags": [True]}
    lines = format_result(result).splitlines()
    assert lines == [
        "demo  psnr (dB)",
        "----  ---------",
        "vae       31.25",
        "pca           -",
        "A note.",
    ]


def test_as_json_keeps_what_json_has():
    assert as_json({"a": [1, "x", None, True, math.inf]}) == {"a": [1, "x", None, True, None]}


def test_numbers_have_four_digits():
    values = [0.85249, 23.456, -12345.6, 0.0, 1e-5, math.nan, 999.96]
    texts = ["0.8525", "23.46", "-12346", "0.0000", "1.0e-05", "-", "1000.0"]
    assert [format_number(value) for value in values] == texts
    table = format_table(["x", "long"], [["abc", "1"]])
    assert table.splitlines() == ["x    long", "---  ----", "abc     1"]


# --- the tasks, end to end ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reconstructed(dataset, params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reconstruct")
    result = reconstruction.answer(ask(MODEL, params, dataset, folder), options.Reconstruct())
    return draw(result, folder), folder


def test_reconstruct_measures_what_a_slow_computation_does(reconstructed, dataset, params):
    result, _ = reconstructed
    clips = dataset.splits["test"]
    x = clips.read(np.arange(len(clips)))
    y = jitted.reconstruct(MODEL, params, jnp.asarray(x), jnp.asarray(clips.mask_NT))
    y = np.clip((np.asarray(y, np.float64) + 1) * 127.5, 0, 255)
    mse_NT = np.square(x - y).mean((2, 3, 4))
    by_video = [
        mse_NT[clips.video_index_N == v][clips.mask_NT[clips.video_index_N == v]].mean()
        for v in range(len(clips.videos))
    ]
    row = result.rows["vae"]
    assert row["mse"].value == pytest.approx(np.mean(by_video), rel=1e-4)
    psnr = np.sort(10 * np.log10(255**2 / mse_NT[clips.mask_NT]))
    worst = psnr[: round(0.05 * len(psnr))]
    assert row["psnr_worst5"].value == pytest.approx(worst.mean(), abs=1e-3)
    difference = np.diff(x - y, axis=1)
    pair = clips.mask_NT[:, 1:]
    error_NT = np.square(difference).mean((2, 3, 4))
    by_video = [
        error_NT[clips.video_index_N == v][pair[clips.video_index_N == v]].mean()
        for v in range(len(clips.videos))
    ]
    assert row["difference_mse"].value == pytest.approx(np.mean(by_video), rel=1e-4)


def test_reconstruct_ranks_the_baselines_and_keeps_cards_comparable(reconstructed):
    result, folder = reconstructed
    rows = result.rows
    assert set(rows) == {"vae", "pca", "mean_frame"}
    assert rows["pca"]["psnr"].value > rows["mean_frame"]["psnr"].value + 3
    assert "5 components" in rows["pca"]["psnr"].card["method"]
    for name in rows["vae"]:
        cards = [dict(row[name].card, method=None) for row in rows.values()]
        assert cards[0] == cards[1] == cards[2]
    assert len(result.details["by_frame_position"]["vae"]["psnr"]) == 4
    for name in result.files:
        assert (folder / name).stat().st_size > 1000
    assert probe_video(folder / "reconstruct.mp4").num_frames == 4


def test_small_frames_have_no_ssim():
    frames = np.zeros((1, 2, 8, 8, 1), np.uint8)
    assert "ssim" not in score_frames(frames, frames)


@pytest.fixture(scope="module")
def measured(dataset, params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("density")
    question = ask(MODEL, params, dataset, folder, num_samples=6)
    return draw(density.answer(question, options.Density()), folder), folder


def test_density_is_the_elbo_of_every_clip(measured, dataset, params):
    result, folder = measured
    row, clips = result.rows["vae"], dataset.splits["test"]
    x, key = clips.read(np.arange(len(clips))), jax.random.key(0)
    elbo_N = jax.jit(elbo, static_argnums=0)(MODEL, params, x, key, clips.mask_NT)
    assert row["elbo"].value == pytest.approx(float(np.mean(elbo_N)), rel=1e-5)
    parts = row["log_likelihood"].value - row["kl_frame"].value - row["kl_clip"].value
    assert row["elbo"].value == pytest.approx(parts, rel=1e-6)
    assert (folder / "density_kl.png").stat().st_size > 1000


def test_density_bounds_and_dimensions_agree(measured):
    result, _ = measured
    row, details = result.rows["vae"], result.details
    iwae = details["iwae"]
    expected = np.mean(np.array(iwae["value"]) - np.array(iwae["elbo"]))
    assert row["iwae_gain"].value == pytest.approx(expected, rel=1e-6)
    assert row["iwae"].card["num_samples"] == 6
    assert 1.0 <= row["iwae_effective_samples"].value <= 6.0
    assert details["kl_by_dimension"]["frame"].shape == (3,)
    clip_kl = details["kl_by_dimension"]["clip"].sum()
    assert row["kl_clip"].value == pytest.approx(clip_kl, rel=1e-5)
    assert "active_burda_clip" in row and "active_burda_frame" not in row


def make_density_context(likelihood):
    return {"likelihood": density.LIKELIHOODS[likelihood]}


def test_bits_per_dim_are_given_only_where_they_are_meaningful(dataset):
    clips = dataset.splits["test"]
    num_values = clips.mask_NT.sum() * 16 * 16
    elbo_N = np.full(len(clips), -8 * math.log(2) * num_values / len(clips))
    bits = density.summarize_bits(elbo_N, clips, make_density_context("discretized_logistic"))
    assert list(bits) == ["bits_per_dim"]
    assert bits["bits_per_dim"].value == pytest.approx(8.0)
    assert list(density.summarize_bits(elbo_N, clips, make_density_context("gaussian"))) == [
        "density"
    ]
    assert density.summarize_bits(elbo_N, clips, make_density_context("bernoulli")) == {}


@pytest.fixture(scope="module")
def classified(dataset, params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classify")
    question = ask(MODEL, params, dataset, folder, pooling="ordered")
    return draw(classify.answer(question, options.Classify()), folder), folder


def test_classes_of_brightness_are_recognised_and_chance_is_chance(classified):
    result, folder = classified
    rows = result.rows
    for method in ("vae/linear", "vae/knn", "random_encoder/linear"):
        assert rows[method]["top1"].value == 1.0, method
        assert rows[method]["mean_class"].value == 1.0
    assert rows["frame_pca/linear"]["top1"].value > 0.5
    assert rows["chance"]["top1"].value == pytest.approx(1 / 3)
    assert rows["chance"]["mean_class"].value == pytest.approx(1 / 3)
    np.testing.assert_array_equal(result.details["confusion"], 4 * np.eye(3))
    assert all((folder / name).exists() for name in result.files)
    assert "pooling ordered" in rows["vae/linear"]["top1"].card["method"]


def test_the_table_of_recognition_leads_with_its_strongest_rival_and_tells_how_sure_it_is(
    classified,
):
    result, folder = classified
    rows = result.rows
    best, *_ = rows
    assert best.startswith(("random_encoder", "frame_pca"))
    assert rows[best]["top1"].value == 1.0
    assert list(rows["vae/linear"]) == ["top1", "mean_class"]  # any of three is among the best five
    interval = rows["vae/linear"]["top1"].interval
    assert (interval.low, interval.high) == estimate_share(12, 12)
    text = format_result(result)
    assert f"1.000 [{interval.low:.3f}, 1.000]" in text
    assert "n = 12 videos" in text and "FEW TEST VIDEOS: 12" in text
    assert f"vae/linear and its best rival {best} are both perfect (top1 1.000)" in text
    assert "What to try" not in text
    stored = json.loads(write_result(result, folder).read_text())
    assert stored["rows"]["vae/linear"]["top1"]["interval"]["low"] == interval.low
    assert stored["details"]["comparison"]["p_value"] == 1.0
    few = result.details["few_labels"]
    assert few["rows"]["vae"]["mean"][-1] == rows["vae/linear"]["top1"].value
    with open(folder / "classify_rows.csv", newline="") as file:
        predicted = list(csv.DictReader(file))
    for name, row in rows.items():
        hits = [video[name] == video["label"] for video in predicted]
        assert np.mean(hits) == row["top1"].value


def test_every_row_of_latents_gets_the_pooling_that_is_best_in_its_training_videos(
    dataset, params, tmp_path
):
    assert tuple(POOLINGS) == task_table.POOLINGS
    question = ask(MODEL, params, dataset, tmp_path, pooling="ordered")
    labels = match_labels(
        dataset.splits["train"].label_V, dataset.splits["test"].label_V, dataset.class_names
    )
    names = ("steps", "stats")
    chosen = classify._extract_features(question, ("random_encoder",), labels, names)
    # Steps between frames of noise tell nothing about brightness.
    assert [row.pooling for row in chosen.values()] == ["stats", "stats"]
    assert "the best of steps, stats" in chosen["vae"].text
    (alone, _) = classify._extract_features(
        question, ("random_encoder",), labels, names[:1]
    ).values()
    assert alone.pooling == "steps"


def test_saved_probe_labels_new_videos_and_is_measured_where_they_state_a_class(
    classified, dataset, params
):
    _, folder = classified
    clips = dataset.splits["val"]
    videos = (*clips.videos[:2], dataclasses.replace(clips.videos[2], label="unheard of"))
    new = dataclasses.replace(dataset, splits={"val": dataclasses.replace(clips, videos=videos)})
    question = ask(MODEL, params, new, folder, split="val", batch_size=2, is_new=True)
    (folder / "eval").mkdir(exist_ok=True)
    (folder / "eval/probe.npz").write_bytes((folder / "probe.npz").read_bytes())
    result = draw(label.label_new_videos(question), folder)
    with open(folder / "classify.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [video.name for video in clips.videos]
    assert [row["label"] for row in rows] == [video.label for video in clips.videos]
    assert [row["true_label"] for row in rows] == [video.label for video in videos]
    assert all(1 / 3 < float(row["score"]) <= 1 for row in rows)
    top1 = result.rows["vae/linear"]["top1"]
    assert (top1.value, top1.card["num_videos"]) == (1.0, 2)
    assert (top1.interval.low, top1.interval.high) == estimate_share(2, 2)
    assert result.details["confusion"].sum() == np.trace(result.details["confusion"]) == 2
    text = format_result(result)
    assert "Videos by class: dark 1, light 1, middle 1." in text
    assert "unheard of (1)" in text
    unknown = dataclasses.replace(
        new.splits["val"], videos=tuple(dataclasses.replace(v, label=None) for v in videos)
    )
    question = dataclasses.replace(
        question, dataset=dataclasses.replace(new, splits={"val": unknown})
    )
    result = label.label_new_videos(question)
    assert (result.rows, result.files) == ({}, ("classify.csv",))
    assert not (folder / "classify_confusion.png").exists()


@pytest.mark.parametrize(
    "train, test, message",
    [
        ([0, 0, 1], [0, 1], "class 'b' has one training video"),
        ([0, 0, 1, 1], [0, 2], "class 'c' has test videos but no training video"),
        ([-1, -1], [0, 1], "needs labelled videos"),
        ([0, 0, 1, 1], [-1, -1], "needs labelled videos"),
        ([1, 1, 1], [1], "of one class \\('b'\\)"),
    ],
)
def test_labels_that_cannot_be_learned_are_named(train, test, message):
    with pytest.raises(ValueError, match=message):
        match_labels(np.array(train), np.array(test), ("a", "b", "c"))


def test_classes_without_videos_are_left_out_and_unlabelled_videos_counted():
    labels = match_labels(np.array([0, 2, 0, 2, -1]), np.array([2, -1, 0]), ("a", "b", "c"))
    assert labels.class_names == ("a", "c")
    assert labels.train_label_V.tolist() == [0, 1, 0, 1]
    assert labels.test_label_V.tolist() == [1, 0]
    assert labels.train_V.tolist() == [True, True, True, True, False]


def decode(params):
    return jax.jit(lambda latents_: contract.decode(MODEL, params, latents_))


def make_latents(seed):
    rng = np.random.default_rng(seed)
    return Latents(
        jnp.asarray(rng.normal(size=(1, 4, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=(1, 2)), jnp.float32),
    )


def test_interpolation_ends_at_its_ends_and_is_straight_in_between(params):
    first, second = make_latents(0), make_latents(1)
    videos = generate.interpolate(decode(params), first, second, jnp.array([0.0, 0.5, 1.0]))
    middle = jax.tree.map(lambda a, b: 0.5 * (a + b), first, second)
    for video, point in zip(videos, (first, middle, second)):
        np.testing.assert_allclose(video, decode(params)(point)[0], atol=1e-5)


def test_traversal_changes_one_dimension_of_the_clip_latent(params):
    start = make_latents(2)
    values = jnp.array([-2.0, start.clip[0, 1], 2.0])
    videos = generate.traverse(decode(params), start, 1, values)
    np.testing.assert_allclose(videos[1], decode(params)(start)[0], atol=1e-5)
    expected = decode(params)(Latents(start.frame, start.clip.at[0, 1].set(2.0)))
    np.testing.assert_allclose(videos[2], expected[0], atol=1e-5)
    assert np.abs(videos[0] - videos[2]).max() > 1e-3


def test_generate_writes_every_picture_and_scores_predictions(dataset, params, tmp_path):
    result = generate.answer(ask(MODEL, params, dataset, tmp_path), options.Generate())
    draw(result, tmp_path)
    kinds = ("samples", "interpolation", "traversal", "traversal_prior", "prediction")
    assert set(result.files) == {f"{kind}.{end}" for kind in kinds for end in ("png", "mp4")}
    for kind in kinds:
        assert (tmp_path / f"{kind}.png").stat().st_size > 1000
        assert probe_video(tmp_path / f"{kind}.mp4").num_frames == 4
    clips = dataset.splits["test"]
    x = clips.read(np.arange(len(clips))).astype(float)
    mse_NT = np.square(x[:, 2:] - x[:, 1:2]).mean((2, 3, 4))
    mask, video_N = clips.mask_NT[:, 2:], clips.video_index_N
    by_video = [
        mse_NT[video_N == v][mask[video_N == v]].mean()
        for v in range(len(clips.videos))
        if mask[video_N == v].any()
    ]
    assert result.rows["repeat_last"]["mse"].value == pytest.approx(np.mean(by_video), rel=1e-5)
    assert result.rows["vae_mean"]["mse"].card["num_context"] == 2
    assert result.details["comparison"]["rival"] == "repeat_last"
    assert result.rows["vae_mean"]["psnr"].interval is not None


def test_traversals_that_change_nothing_to_be_seen_are_left_out(
    dataset, params, tmp_path, monkeypatch
):
    monkeypatch.setattr(generate, "MIN_CHANGE", 256.0)
    (tmp_path / "traversal.png").write_bytes(b"of an older answer")
    (tmp_path / "generate.json").write_text('{"files": ["traversal.png"]}')
    result = generate.answer(ask(MODEL, params, dataset, tmp_path), options.Generate())
    assert not any(name.startswith("traversal") for name in result.files)
    publish(dataclasses.replace(result, pictures=()), tmp_path)
    assert not (tmp_path / "traversal.png").exists()
    notes = [note for note in result.notes if "which cannot be seen" in note]
    assert len(notes) == 2 and "the frame latents follow the prior" in notes[1]


def test_clips_of_one_frame_have_no_prediction(dataset, params, tmp_path):
    clip_format = ClipFormat("gray", 16, 16, Sampling(num_frames=1))
    single = open_dataset(dataset.root, clip_format, Decoding(Cache(tmp_path, 2**28)))
    question = ask(MODEL, params, single, tmp_path, batch_size=8)
    result = draw(generate.answer(question, options.Generate()), tmp_path)
    assert result.rows == {} and "Prediction is left out" in result.notes[0]
    summary = reconstruction.answer(question, options.Reconstruct()).rows["vae"]
    assert "psnr" in summary and "difference_mse" not in summary


def test_a_missing_split_is_named(dataset, params, tmp_path):
    with pytest.raises(ValueError, match="no split 'holdout' to evaluate on; it has train, val"):
        density.answer(ask(MODEL, params, dataset, tmp_path, split="holdout"), options.Density())
