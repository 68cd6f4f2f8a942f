"""Priors on stores of latents: trained, continued, drawn from, as the commands do it."""

import json
import shutil

import jax
import numpy as np
import pytest
from tiny_latents import write_videos

from vvae import generate, latents, video
from vvae.commands import dispatch
from vvae.data.clips import NO_LABEL
from vvae.generate.clips import measure_scale, open_latents
from vvae.training.checkpoint import Checkpointer

WAN = "tests/golden/wan21"
SETTINGS = "--network.width 8 --network.depth 1 --network.heads 1 --train.batch_size 8 "
SETTINGS += "--train.num_steps 6 --train.validate_every 2 --train.log_every 1 --samples.count 2 "
SETTINGS += "--samples.num_steps 2"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Returns a folder with `videos` of two classes and a `store` of their latents."""
    root = tmp_path_factory.mktemp("prior")
    names = [f"{label}/{number}" for label in ("up", "down") for number in range(8)]
    write_videos(root / "videos", dict.fromkeys(names, 9), size=(16, 16))
    line = f"latents --pretrained {WAN} --data.path {root / 'videos'} --out {root / 'store'}"
    assert dispatch.main(line.split()) == 0
    return root


@pytest.fixture(scope="module")
def run(place):
    """Returns the run directory of a prior with classes, trained by the command."""
    workdir = place / "run"
    assert dispatch.main(write_command(place, workdir).split()) == 0
    return workdir


def write_command(place, workdir, more="") -> str:
    line = f"train generate --latents {place / 'store'} --vae {WAN} --workdir {workdir} {SETTINGS}"
    return f"{line} --data.path {place / 'videos'} {more}"


def read_params(workdir):
    with Checkpointer(workdir / "checkpoints", "val_score", read_only=True) as checkpointer:
        return checkpointer.restore_variables("latest")


def test_a_run_holds_its_record_its_losses_and_its_samples(run):
    record = json.loads((run / "prior.json").read_text())
    facts = record["data"]["latents"]
    assert facts["shape"] == [3, 4, 4, 3] and facts["class_names"] == ["down", "up"]
    assert sum(facts["num_clips"].values()) == 16
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(row["val_loss"]) for row in rows if row["kind"] == "validation")
    assert {path.name for path in (run / "samples").iterdir()} == {"up.mp4", "down.mp4"}
    page = (run / "report.html").read_text()
    assert page.count("<video") == 2 and "vvae sample" in page


def test_a_continued_training_is_bit_identical(place, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "step_00000006")
    assert dispatch.main(["train", "--workdir", str(copy)]) == 0
    jax.tree.map(np.testing.assert_array_equal, read_params(copy), read_params(run))
    assert (copy / "metrics.jsonl").read_text().count('"step": 6') == 2


def test_a_run_is_continued_with_its_own_settings_and_latents_alone(place, run):
    with pytest.raises(ValueError, match=r"other settings \(network.depth: 1 -> 2\)"):
        dispatch.main(write_command(place, run, "--network.depth 2").split())
    line = write_command(place, run).replace(f"--data.path {place / 'videos'}", "")
    with pytest.raises(ValueError, match="begun with other latents, or other classes"):
        dispatch.main([*line.split(), "--data.path", "none"])


def test_videos_are_drawn_by_class_and_number(run, tmp_path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    line = f"sample {run} {first} --count 3 --classes up --steps 2 --frames 21"
    assert dispatch.main(line.split()) == 0
    assert sorted(path.name for path in first.iterdir()) == [f"up_{n:04}.mp4" for n in range(3)]
    assert video.probe(first / "up_0000.mp4").num_frames == 21
    assert dispatch.main(f"sample {run} {second} --count 2 --steps 2 --frames 21".split()) == 0
    assert len(list(second.iterdir())) == 4
    frames = [
        video.read_frames(folder / "up_0001.mp4")[1].astype(int) for folder in (first, second)
    ]
    assert np.abs(frames[0] - frames[1]).max() <= 2
    with pytest.raises(ValueError, match=r"up_0000.mp4 exists: give another folder"):
        dispatch.main(line.split())
    with pytest.raises(ValueError, match=r"no class 'left'; its classes are down, up"):
        dispatch.main(f"sample {run} {tmp_path / 'c'} --classes left".split())
    assert not (tmp_path / "c").exists()


def test_another_vae_is_refused(place, run, tmp_path):
    with pytest.raises(ValueError, match="is not what the latents were encoded with"):
        dispatch.main(f"sample {run} {tmp_path / 'c'} --vae tests/golden/wan22".split())
    with pytest.raises(ValueError, match="--vae nowhere: no such run"):
        dispatch.main(f"sample {run} {tmp_path / 'c'} --vae nowhere".split())


def test_clips_without_a_folder_of_videos_have_no_classes(place):
    data = open_latents(place / "store")
    assert {name: len(clips) for name, clips in data.splits.items()} == {"train": 14, "val": 2}
    assert data.class_names == () and set(data.splits["train"].label_N) == {NO_LABEL}
    batch = data.splits["val"].read([1])
    record = data.splits["val"].store.record(int(data.splits["val"].index_N[1]))
    assert record["source"]["name"] in data.splits["val"].describe_clip(1)
    np.testing.assert_array_equal(batch["index"], [1])


def test_the_scale_is_that_of_samples_of_the_posteriors(place):
    clips = open_latents(place / "store").splits["train"]
    scale = measure_scale(clips)
    batch = clips.read(range(len(clips)))
    rng = np.random.default_rng(0)
    drawn = batch["mean"] + batch["std"] * rng.standard_normal((200, *batch["mean"].shape))
    np.testing.assert_allclose(scale["mean"], drawn.mean((0, 1, 2, 3, 4)), atol=0.02)
    np.testing.assert_allclose(scale["std"], drawn.std((0, 1, 2, 3, 4)), rtol=0.01)


def test_clips_of_several_shapes_are_refused(tmp_path):
    videos = write_videos(tmp_path / "videos", {"a": 5, "b": 9}, size=(16, 16))
    line = f"latents --pretrained {WAN} --data.path {videos} --out {tmp_path / 'store'}"
    dispatch.main(line.split())
    assert len(latents.open(tmp_path / "store")) == 2
    with pytest.raises(ValueError, match=r"2 shapes \(2x4x4x3, 3x4x4x3\), a prior takes one"):
        open_latents(tmp_path / "store")


def test_a_loaded_prior_is_pure_functions(run):
    prior = generate.load(run)
    keys = jax.vmap(jax.random.key)(np.arange(2))
    sampling = prior.sampling(num_steps=2, guidance=1.5)
    z = generate.sample_latents(
        prior.model, prior.variables, keys, [0, 1], prior.shape_thw, sampling
    )
    assert z.shape == (2, 3, 4, 4, 3) and np.isfinite(np.asarray(z)).all()
