"""Latents of stores become videos again: those that the whole network reconstructs."""

import jax
import numpy as np
import pytest
from tiny_causal import LOOKING_AHEAD, make_variables
from tiny_latents import encode, tiny, write_videos

import vvae
from vvae import latents, video
from vvae.latents import decode
from vvae.latents.plan import ClipPlan
from vvae.models import contract

LENGTHS = {"a": 11, "d/b": 4}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), LENGTHS)


@pytest.fixture(scope="module")
def store(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "store"
    encode(videos, out)
    return out


def reconstruct(frames_THWC):
    model, params = tiny()
    whole = jax.jit(vvae.reconstruct, static_argnums=0)(model, params, frames_THWC[None])
    return np.rint(np.asarray(contract.to_codes(whole)[0]))


def close(found, expected):
    """Whether 8-bit frames agree but for roundings."""
    return np.abs(found.astype(int) - expected).max() <= 1


def test_videos_come_back_as_the_network_reconstructs_them(videos, store, tmp_path):
    decoded = decode.decode_store(*tiny(), store, tmp_path, lossless=True, say=lambda _: None)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in decoded.paths) == ["a.mp4", "d/b.mp4"]
    for name, length in LENGTHS.items():
        times, found = video.read_frames(tmp_path / f"{name}.mp4")
        assert len(found) == length and times[1] == pytest.approx(1 / 25, abs=1e-3)
        assert close(found, reconstruct(np.load(videos / f"{name}.npy")))
    again = decode.decode_store(*tiny(), store, tmp_path, say=lambda _: None)
    assert again.num_kept == 2


def test_clips_that_carry_the_state_become_one_video_and_others_one_each(videos, tmp_path):
    for start, names in (("carried", ["a"]), ("first_frame", ["a_00000", "a_00001"])):
        plan = ClipPlan(frames=(5,), start=start)
        _, dataset = encode(videos, tmp_path / start, plan=plan)
        targets = decode.list_targets(dataset, ["a.npy"])
        assert [target.name for target in targets] == names
        pieces = [
            np.concatenate(list(decode.decode_clips(*tiny(), dataset, target.indices)))
            for target in targets
        ]
        frames = np.load(videos / "a.npy")
        if start == "carried":
            # 5 + 6 frames: the latents are those of the whole video.
            assert close(pieces[0], reconstruct(frames))
        else:
            assert close(pieces[0], reconstruct(frames[:5]))
            assert close(pieces[1], reconstruct(frames[5:10]))


def test_samples_differ_from_the_mean_by_the_seed(store, videos):
    dataset = latents.open(store)
    mean, first, again, other = (
        np.concatenate(list(decode.decode_clips(*tiny(), dataset, [0], seed)))
        for seed in (None, 1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != mean).any() and (first != other).any()


def test_one_video_becomes_one_file(store, tmp_path):
    path = tmp_path / "b.mkv"
    with pytest.raises(ValueError, match="2 videos would be written"):
        decode.decode_file(*tiny(), store, path)
    decode.decode_file(*tiny(), store, path, name="d/b.npy")
    assert video.probe(path).num_frames == 4
    with pytest.raises(ValueError, match=r"holds no latents of 'c.npy'"):
        decode.decode_file(*tiny(), store, path, name="c.npy")


def test_videos_of_a_list_stay_below_the_folder_and_two_of_one_name_are_refused(tmp_path):
    folder = write_videos(tmp_path / "videos", {"a": 5, "d/b": 5})
    (folder / "d" / "list.csv").write_text(f"path\n../a.npy\n{folder}/d/b.npy\n")
    encode(folder / "d" / "list.csv", tmp_path / "store")
    decode.decode_store(*tiny(), tmp_path / "store", tmp_path / "out", say=lambda _: None)
    place = tmp_path / "out"
    below = place / str(folder).lstrip("/") / "d" / "b.mp4"
    assert sorted(tmp_path.rglob("*.mp4")) == sorted([place / "a.mp4", below])
    (folder / "d" / "list.csv").write_text("path\nb.npy\n../b.npy\n")
    write_videos(folder, {"b": 5}, seed=1)
    for start in ("first_frame", "carried"):
        plan = ClipPlan(frames=(5,), start=start)
        encode(folder / "d" / "list.csv", tmp_path / start, plan=plan)
        with pytest.raises(ValueError, match="would be one file"):
            decode.decode_store(*tiny(), tmp_path / start, place / start, say=lambda _: None)


def test_another_encoder_is_refused(store, tmp_path):
    model, _ = tiny()
    with pytest.raises(ValueError, match=r"another encoder \(weights differs\)"):
        decode.decode_store(model, make_variables(model, seed=1), store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_decoder_that_looks_ahead_decodes_whole_clips(videos, tmp_path):
    model = LOOKING_AHEAD["ltx"].clone(shape_HWC=(8, 8, 3))
    network = model, make_variables(model)
    _, dataset = encode(videos / "d", tmp_path / "store", network=network)
    found = np.concatenate(list(decode.decode_clips(*network, dataset, [0])))
    whole = jax.jit(vvae.reconstruct, static_argnums=0)
    expected = whole(*network, np.load(videos / "d" / "b.npy")[None])
    assert close(found, np.rint(np.asarray(contract.to_codes(expected)[0])))
