"""Tiles are cut and joined exactly, scored as separate videos, and used for training."""

import json

import jax
import jitted
import numpy as np
import pytest

import evaluate
import train as program
from vvae.config import Config, Data, Evaluate, Model
from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_dataset
from vvae.data.tiles import cut_tiles, join_tiles
from vvae.models import contract
from vvae.models.sequential import SequentialVAE, begin_stream
from vvae.tasks.anomaly import intervals, pictures
from vvae.tasks.anomaly import scorer as scorers
from vvae.tasks.anomaly.controls import fit_untrained, score_controls
from vvae.tasks.anomaly.scores import score_stream
from vvae.tasks.anomaly.streams import ScoreSettings

MODEL = SequentialVAE(
    (4, 4, 1), widths=(), hidden=8, latent_dim=2, clip_latent_dim=0, prior="standard", linear=False
)
FORMAT = ClipFormat("gray", 8, 12, Sampling(num_frames=4))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Writes videos of noise; in frames 4 to 6 of the test videos, one corner is brighter."""
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    lines = ["path,split,abnormal"]
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for number in range(count):
            frames = rng.integers(100, 140, (9, 8, 12, 1), np.uint8)
            if split == "test":
                frames[4:7, :4, 8:] += 80
            name = f"{split}{number}.npy"
            np.save(root / name, frames)
            lines.append(f"{name},{split},{'4-6' if split == 'test' else ''}")
    (root / "manifest.csv").write_text("\n".join(lines))
    return open_dataset(root, FORMAT, Decoding(Cache(root / "cache", 2**28)))


@pytest.fixture(scope="module")
def params():
    return jitted.init_variables(MODEL, jax.random.key(0))


def test_tiles_are_parts_of_the_frames_and_join_to_them(dataset):
    clips = dataset.splits["train"]
    tiles = cut_tiles(clips, 4, 3)
    assert len(tiles) == 8 * len(clips) and len(tiles.videos) == 8 * len(clips.videos)
    whole_NTHWC = clips.read(np.arange(len(clips)))
    parts = tiles.read(np.arange(len(tiles)))
    assert parts.shape[1:] == tiles.clip_format.clip_shape == (4, 4, 3, 1)
    for clip in range(len(clips)):
        for row, col in np.ndindex(2, 4):
            number = clip * 8 + row * 4 + col
            wanted = whole_NTHWC[clip][:, 4 * row : 4 * row + 4, 3 * col : 3 * col + 3]
            np.testing.assert_array_equal(parts[number], wanted)
            np.testing.assert_array_equal(tiles.mask_NT[number], clips.mask_NT[clip])
            video = tiles.video_index_N[number]
            assert tiles.videos[video] == clips.videos[clips.video_index_N[clip]]
    grid = join_tiles(parts, 2, 4)  # [N, T, 2, 4, 4, 3, 1]
    np.testing.assert_array_equal(np.swapaxes(grid, 3, 4).reshape(whole_NTHWC.shape), whole_NTHWC)
    chosen = tiles.select([13, 2])
    np.testing.assert_array_equal(chosen.read([0, 1]), parts[[13, 2]])


@pytest.mark.parametrize("size", [(3, 4), (4, 5), (0, 4), (16, 12)])
def test_tiles_that_do_not_fill_the_frames_are_refused(dataset, size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} do not fill frames of 8x12"):
        cut_tiles(dataset.splits["train"], *size)


def test_a_frame_has_the_largest_score_of_its_tiles(dataset, params):
    clips = dataset.splits["test"]
    settings = ScoreSettings(block=4, num_samples=2, regret_steps=1)
    reference = scorers.fit_reference(MODEL, params, dataset.splits["train"], settings, 5)
    frames, scores = scorers.compute_scores(MODEL, params, reference, settings, clips, 5)
    for video in range(2):
        own = frames.video_F == video
        whole_FHWC = clips.read(frames.clip_F[own])[np.arange(9), frames.position_F[own]]
        surprises = []
        for row, col in np.ndindex(2, 3):
            tile = whole_FHWC[None, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4]
            state, mask = begin_stream(MODEL, params, 1), np.ones((1, 9), bool)
            surprises.append(score_stream(MODEL, params, state, tile, mask, 4)[1]["surprise"][0])
        np.testing.assert_allclose(scores["surprise"][own], np.max(surprises, axis=0), rtol=1e-5)


def test_heat_of_tiles_is_the_surprise_of_each_tile(dataset, params):
    clips = dataset.splits["test"]
    heat_NTHW = pictures.compute_heat(MODEL, params, clips, 5)
    assert heat_NTHW.shape == (len(clips), 4, 8, 12)
    tile = clips.read([0])[:, :, 4:, 8:]
    _, scores = score_stream(
        MODEL, params, begin_stream(MODEL, params, 1), tile, clips.mask_NT[:1], 4
    )
    wanted = np.broadcast_to(np.asarray(scores["surprise"])[0, :, None, None], (4, 4, 4))
    np.testing.assert_allclose(heat_NTHW[0, :, 4:, 8:], wanted, rtol=2e-5)


def test_motion_is_standardized_for_each_position(dataset):
    clips = dataset.splits["train"]
    known = fit_untrained(clips, block=2, seed=0)
    assert known.motion_mean.shape == (1, 1)  # the view gray has no motion
    view = ClipFormat("difference", 8, 12, Sampling(num_frames=4))
    moving = open_dataset(dataset.root, view, Decoding(Cache(dataset.root / "cache", 2**28)))
    train, test = moving.splits["train"], moving.splits["test"]
    known = fit_untrained(train, block=2, seed=0)
    size = np.abs(train.read(np.arange(len(train)))[train.mask_NT][..., 0] - 128.0) * 2
    blocks = sum(size[:, y : y + 7, x : x + 11] for y, x in np.ndindex(2, 2)) / 4
    np.testing.assert_allclose(known.motion_mean, blocks.mean(axis=0), rtol=1e-5)
    spread = np.sqrt(blocks.var(axis=0) + blocks.var(axis=0).mean())
    np.testing.assert_allclose(known.motion_scale, spread, rtol=1e-5)
    frames = intervals.list_frames(test)
    scores = score_controls(test, known, 2)
    codes_SHW = test.read([1])[0, test.mask_NT[1], ..., 0]
    window = np.abs(codes_SHW - 128.0).mean(axis=0) * 2
    largest = max(window[y : y + 2, x : x + 2].mean() for y, x in np.ndindex(7, 11))
    np.testing.assert_allclose(scores["motion_window"][1, test.mask_NT[1]], largest, rtol=1e-5)
    strange = frames.take(scores["motion_standardized"])
    jumps = np.isin(frames.number_F, (4, 7))  # the square appears and disappears
    assert strange[jumps].min() > 2 * strange[~jumps].max()


def test_a_model_without_a_clip_latent_has_no_kl_of_the_clip(params):
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 1), np.uint8)
    terms = contract.terms(MODEL, params, video, jax.random.key(0))
    np.testing.assert_array_equal(terms.kl_by_level["clip"], 0)
    assert np.abs(terms.kl_by_level["frame"]).min() > 0
    assert contract.encode(MODEL, params, video).clip.mean.shape == (2, 0)
    assert contract.sample(MODEL, params, jax.random.key(0), 2, 5).shape == (2, 5, 4, 4, 1)


def test_tiles_need_a_size_that_fits_and_tasks_that_support_them():
    with pytest.raises(ValueError, match=r"data\.tile=5: must divide data\.height and data\.width"):
        Config(data=Data(tile=5), evaluate=Evaluate(tasks=("anomaly",)), model=Model(widths=()))
    with pytest.raises(ValueError, match=r"data\.tile=4: must be a multiple of 8"):
        Config(data=Data(tile=4), evaluate=Evaluate(tasks=("anomaly",)))
    with pytest.raises(ValueError, match=r"'reconstruct': needs whole frames, and data\.tile=8"):
        Config(data=Data(tile=8))
    with pytest.raises(ValueError, match="clip_latent_dim=0: must be greater than 0 for"):
        Model(clip_latent_dim=0, clip_prior="mixture")


def test_a_run_of_tiles_trains_and_finds_anomalies(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = (
        "configs/tiny.py --data.height 8 --data.width 12 --data.num_frames 4 --data.tile 4 "
        "--data.workers 0 --model.linear False --model.clip_latent_dim 0 --model.prior standard "
        "--train.num_steps 30 --train.validate_every 30 --evaluate.tasks density anomaly "
        "--evaluate.anomaly_score iwae --evaluate.anomaly_block 4 --evaluate.regret_steps 0"
    )
    arguments = [*settings.split(), "--data.path", str(dataset.root), "--workdir"]
    assert program.main([*arguments, str(tmp_path / "run")]) == 0
    answer = json.loads((tmp_path / "run/eval/anomaly.json").read_text())
    assert answer["rows"]["iwae"]["macro"]["value"] > 0.9
    assert "tiles" in str(answer["rows"]["iwae"]["macro"])
    capsys.readouterr()
    with pytest.raises(ValueError, match="'classify': needs whole frames"):
        evaluate.main(["classify", "--workdir", str(tmp_path / "run")])
