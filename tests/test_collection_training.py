"""`vvae train` on a tar: broken videos are replaced and named, and a continued run is the same."""

import contextlib
import csv
import io
import itertools
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import programs
import pytest
from tiny_run import make_frames

from vvae import build
from vvae.commands import train as command
from vvae.config import Config, Data
from vvae.data.loader import train_batches
from vvae.run import Run, open_run
from vvae.session import preview
from vvae.session.broken import BrokenVideos
from vvae.training.checkpoint import Checkpointer

TINY = str(Path(__file__).resolve().parents[1] / "configs" / "tiny.py")
SETTINGS = ("--train.num_steps", "8", "--train.validate_every", "4", "--data.subset", "2")
SETTINGS += ("--train.batch_size", "8", "--data.workers", "0")


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    """Twenty-four videos with captions, two of them no videos."""
    path = tmp_path_factory.mktemp("tars") / "000.tar"
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(24):
            data = io.BytesIO()
            np.save(data, make_frames(rng, 60 + 5 * number, (10, 16, 16)))
            content = b"no video" if number in (4, 5) else data.getvalue()
            for name, part in ((f"{number:02}.npy", content), (f"{number:02}.txt", b"a spot")):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def train(tar, cache, workdir, capsys):
    arguments = [TINY, "--data.path", str(tar), "--data.cache_dir", str(cache), *SETTINGS]
    command.train(command.read_request([*arguments, "--workdir", str(workdir)]))
    return capsys.readouterr().out


def read_state(workdir, step):
    with Checkpointer(workdir / "checkpoints", read_only=True) as checkpointer:
        return jax.tree.leaves(checkpointer.restore_variables(step, ema=False))


def test_a_tar_trains_names_what_is_broken_and_goes_on_bit_by_bit(tar, cache, tmp_path, capsys):
    workdir = tmp_path / "run"
    printed = train(tar, cache, workdir, capsys)
    assert "data: 24 videos (tars: 1), decoded as needed" in printed
    assert "data: train, decoded as needed: 20 videos" in printed
    replaced = json.loads((workdir / "broken_videos.json").read_text())
    assert set(replaced) <= {"000.tar/04.npy", "000.tar/05.npy"} and replaced
    for name in replaced:
        assert f"replaced, cannot be read: {name}: " in printed
    assert f"data: {len(replaced)} of 20 training videos could not be read" in printed
    run = open_run(workdir)
    assert run.record["data"]["collection"] == {"num_videos": 24, "num_training": 20}
    known = build.open_data(run.config, run.record["data"]["path"])  # as the tasks open it
    assert known.fingerprint == run.record["data"]["fingerprint"] and known.num_decoded == 0

    whole = read_state(workdir, 8)
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        checkpointer.quarantine_after(4)
    assert "(continued)" in train(tar, cache, workdir, capsys)
    for one, other in zip(whole, read_state(workdir, 8), strict=True):
        np.testing.assert_array_equal(one, other)
    assert json.loads((workdir / "broken_videos.json").read_text()) == replaced


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--data.cache", "clips"), "data.cache=clips needs a folder of videos"),
        (("--data.tile", "8"), "data.tile=8 cuts clips that were decoded beforehand"),
    ],
)
def test_settings_that_need_decoded_clips_are_refused(tar, cache, tmp_path, settings, message):
    arguments = (TINY, "--data.path", tar, "--data.cache_dir", cache, "--workdir", tmp_path / "r")
    arguments += ("--model.widths", "8", "--evaluate.tasks", "density")
    result = programs.run_in_process("train.py", *arguments, *settings)
    assert result.returncode == 2 and message in result.stderr


def test_broken_videos_are_named_once_over_all_starts(tar, cache, tmp_path, capsys):
    data = Data(path=str(tar), height=16, width=16, cache_dir=str(cache), workers=0, subset=2)
    config = Config(data=data)
    dataset = preview.open_data(config, videos=None)
    printed = capsys.readouterr().out
    assert "data: 24 videos (tars: 1), decoded as needed" in printed
    assert "data: val, decoded beforehand: 2 videos" in printed
    assert "data: train, decoded as needed: 20 videos" in printed
    run, said = Run(tmp_path, config, {}, ()), []
    first = BrokenVideos(run, dataset)
    first.record(said.append)
    assert said == [] and not list(tmp_path.iterdir())
    with contextlib.closing(train_batches(dataset.stream, 20, seed=0)) as batches:
        next(batches)
    first.record(said.append)
    first.record(said.append)
    met = dataset.collection.broken
    assert met and met.keys() <= {"000.tar/04.npy", "000.tar/05.npy"}
    assert said == [f"replaced, cannot be read: {name}: {met[name]}" for name in sorted(met)]
    again = BrokenVideos(run, dataset)  # of the next start, which meets the same ones
    again.record(said.append)
    assert len(said) == len(met)
    again.summarize()
    assert f"data: {len(met)} of 20 training videos could not be read" in capsys.readouterr().out
    assert json.loads((tmp_path / "broken_videos.json").read_text()) == met


def test_a_folder_can_be_decoded_as_needed(tmp_path, cache):
    folder, rng = tmp_path / "videos", np.random.default_rng(0)
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split"])
        for number in range(8):
            np.save(folder / f"{number}.npy", make_frames(rng, 60 + 10 * number, (8, 16, 16)))
            writer.writerow([f"{number}.npy", ("train", "val")[number // 4]])
    data = Data(height=16, width=16, cache_dir=str(cache), workers=0)
    assert build.open_data(Config(data=data), folder).collection is None
    dataset = build.open_data(Config(data=replace(data, cache="none", subset=2)), folder)
    assert {name: len(clips.videos) for name, clips in dataset.splits.items()} == {
        "train": 2,
        "val": 2,
    }
    (_, batch), *_ = itertools.islice(train_batches(dataset.stream, 4, seed=0), 1)
    assert {dataset.stream.describe_clip(n) for n in batch["index"]} == {
        f"{number}.npy" for number in range(4)
    }
