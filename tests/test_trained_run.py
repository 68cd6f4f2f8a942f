"""A run as an object answers as the commands do; live scores are those of the whole video."""

import csv
import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest
import tiny_run

import vvae
from vvae import video
from vvae.metrics.detection import SMOOTHING_SIGMA
from vvae.run import open_run
from vvae.tasks.options import find_options
from vvae.tasks.question import answer, open_question


def ask(workdir, task, data_path=None):
    """Runs a task as evaluate.py does, without pictures; returns the folder of its answer."""
    with open_question(open_run(workdir), data_path, "best") as question:
        answer(question, task, find_options(task)())
        return question.folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    tiny_run.write_videos(folder)
    return folder


@pytest.fixture(scope="module")
def workdir(videos, tmp_path_factory):
    """A run whose probe and scorer are fitted."""
    workdir = tiny_run.write_run(tmp_path_factory.mktemp("runs"), videos / "known")
    for task in ("classify", "anomaly"):
        ask(workdir, task)
    return workdir


@pytest.fixture(scope="module")
def run(workdir):
    return vvae.load_run(workdir)


def test_a_video_is_read_as_the_training_videos_were(run, videos):
    path = videos / "known" / "train" / "dark" / "1.npy"
    x, mask = run.read(path)
    stored = np.load(path)
    assert x.shape == (3, 4, 16, 16, 1) and mask.sum() == 10 and not mask[2, 2:].any()
    np.testing.assert_array_equal(x[mask], stored)
    posterior = run.encode(path)
    expected = vvae.encode(run.model, run.params, x, mask)
    np.testing.assert_allclose(posterior.frame.mean, expected.frame.mean, rtol=1e-4, atol=1e-5)
    assert posterior.clip.mean.shape == (3, 2)


def test_labels_and_scores_are_those_of_the_commands(run, workdir, videos):
    new = videos / "new"
    labels = tiny_run.read_csv(ask(workdir, "classify", str(new)) / "classify.csv")
    folder = ask(workdir, "anomaly", str(new))
    verdicts = tiny_run.read_csv(folder / "anomaly_videos.csv")
    with (folder / "anomaly_intervals.csv").open(newline="") as file:
        intervals = list(csv.DictReader(file))
    for name in ("dark.mkv", "light.mkv"):
        found, row = run.label(new / name), labels[name]
        assert found.name == row["label"] == max(found.scores, key=found.scores.get)
        for label in tiny_run.CLASSES:
            assert found.scores[label] == pytest.approx(float(row[label]), abs=2e-6)
        assert found.score == found.scores[found.name]
        judged = run.score(new / name)
        assert judged.peak == pytest.approx(float(verdicts[name]["peak_score"]), rel=1e-3)
        assert judged.is_abnormal == (verdicts[name]["verdict"] == "abnormal")
        assert len(judged.score_F) == 11
        own = [row for row in intervals if row["path"] == name]
        assert [i.start_frame for i in judged.intervals] == [int(i["start_frame"]) for i in own]
    assert run.label(videos / "known" / "test" / "dark" / "0.npy").name == "dark"


def list_live(run, frames):
    return list(vvae.watch(run, frames))


def check_live(run, path):
    """Checks that the frames of a video, watched live, have the scores of the whole video."""
    _, frames = video.read_frames(path, (16, 16))
    live, whole = list_live(run, frames), run.score(path)
    assert [score.frame for score in live] == list(range(len(frames)))
    raw_F = np.array([score.raw for score in live])
    np.testing.assert_allclose(raw_F, whole.raw_F, rtol=2e-3, atol=2e-3)
    weight_F = np.exp(-0.5 * (np.arange(len(frames)) / SMOOTHING_SIGMA) ** 2)
    for t, score in enumerate(live):
        own = weight_F[: t + 1][::-1]
        assert score.score == pytest.approx(np.dot(own, raw_F[: t + 1]) / own.sum())
        assert score.alarm == (score.raw > run.scorer.threshold(run.scorer.headline))
    return live


def judge_by(run, score):
    """Returns the run with another score of verdicts."""
    other = dataclasses.replace(run)
    vars(other)["scorer"] = dataclasses.replace(run.scorer, headline=score)
    return other


def test_live_scores_of_clips_are_those_of_the_whole_video(run, videos):
    live = check_live(run, videos / "new" / "dark.mkv")
    assert any(score.alarm for score in live[6:8])
    for score in ("reconstruction", "typicality", "frame_difference_block", "time_index"):
        check_live(judge_by(run, score), videos / "new" / "light.mkv")


@pytest.mark.parametrize(
    ("scores", "data"),
    [
        (("surprise", "fusion_motion"), {"view": "gray+motion", "frame_stride": 2}),
        (("latent_knn", "random_encoder"), {"tile": 8}),
    ],
)
def test_live_scores_of_other_views_and_of_tiles(videos, tmp_path, scores, data):
    workdir = tiny_run.write_run(tmp_path, videos / "known", **data)
    ask(workdir, "anomaly")
    run = vvae.load_run(workdir)
    for score in scores:
        check_live(judge_by(run, score), videos / "new" / "light.mkv")
    assert run.read(videos / "new" / "light.mkv")[0].shape[2] == data.get("tile", 16)


def test_scores_of_single_frames_do_not_wait(run, videos):
    given = []

    def give():
        for frame in np.load(videos / "known" / "test" / "dark" / "0.npy"):
            given.append(frame)
            yield frame[..., 0]

    live = vvae.watch(judge_by(run, "reconstruction"), give())
    assert [(score.frame, len(given)) for score in live] == [(t, t + 1) for t in range(10)]


def run_example(name, *arguments):
    path = Path(__file__).resolve().parents[1] / "examples" / f"{name}.py"
    return runpy.run_path(str(path))["main"](*map(str, arguments))


def test_the_examples_of_a_run(run, workdir, videos, capsys):
    path = videos / "new" / "dark.mkv"
    run_example("label_video", workdir, path)
    printed = capsys.readouterr().out
    assert f"{path}: {run.label(path).name} (" in printed
    assert f"{path}: {'abnormal' if run.score(path).is_abnormal else 'normal'}, peak" in printed
    assert run_example("watch_camera", workdir, path) == 11


def test_what_is_missing_or_wrong_is_one_line(run, videos, tmp_path):
    bare = vvae.load_run(tiny_run.write_run(tmp_path, videos / "known"))
    path = videos / "new" / "dark.mkv"
    with pytest.raises(ValueError, match=r"run `vvae classify --workdir .*` first"):
        bare.label(path)
    with pytest.raises(ValueError, match=r"run `vvae anomaly --workdir .*` first"):
        bare.score(path)
    with pytest.raises(ValueError, match="holds 2 videos: give one of them"):
        run.label(videos / "new")
    with pytest.raises(video.VideoError, match=r"missing\.mp4: no such file"):
        run.read("missing.mp4")
    with pytest.raises(ValueError, match=r"frame 0 is float64 \(16, 16, 3\)"):
        list_live(run, [np.zeros((16, 16, 3))])
    with pytest.raises(ValueError, match=r"0 frame\(s\) are too few"):
        list_live(run, [])
    with pytest.raises(ValueError, match="is not a run directory"):
        vvae.load_run(tmp_path)
