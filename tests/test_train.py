"""`python train.py` and `python evaluate.py` as a user types them, on small real videos."""

import csv
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import programs
import pytest
from watching import Watch

import evaluate
import train
import vvae
from vvae import build, video
from vvae.config import Config, Data
from vvae.session.prior_fits import plan_fits
from vvae.training.checkpoint import Checkpointer
from vvae.training.log import read_metrics

ROOT = Path(__file__).resolve().parents[1]
TINY = str(ROOT / "configs" / "tiny.py")
CLASSES = ("left", "right")


def run_program(program, *arguments, check=True):
    """Runs a program of the project in this process."""
    result = programs.run_in_process(program, *arguments)
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


def run_as_user(program, *arguments):
    """Runs a program in a process of its own; returns what it has printed."""
    process = programs.start(program, *arguments, stderr=subprocess.STDOUT)
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    return printed


def write_square(path, direction, seed):
    """A bright square that moves left or right over a noisy background."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 40, (10, 16, 16, 3), dtype=np.uint8)
    row, start = rng.integers(0, 12), rng.integers(0, 3)
    for t in range(10):
        column = start + t if direction == "right" else 11 - start - t
        frames[t, row : row + 4, max(column, 0) : max(column, 0) + 4] = 220
    video.write_video(path, frames, fps=10, lossless=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty-four videos of two classes by six groups, and a broken one."""
    folder = tmp_path_factory.mktemp("my videos")
    rows = []
    for number in range(24):
        label = CLASSES[number % 2]
        name = f"{label} {number}.mkv"
        write_square(folder / name, label, number)
        split = "train" if number < 14 else "val" if number < 18 else "test"
        rows.append({"path": name, "label": label, "group": f"g{number // 2}", "split": split})
    (folder / "broken.mkv").write_bytes(b"this is no video")
    rows.append({"path": "broken.mkv", "label": "left", "group": "g99", "split": "train"})
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(folder, cache, tmp_path_factory):
    """A finished run of 12 steps and what was printed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    result = run_program(
        "train.py", TINY, "--data.path", folder, "--data.cache_dir", cache, "--workdir", workdir
    )
    return workdir, result.stdout


def read_state(workdir):
    """Every array of the newest checkpoint."""
    with Checkpointer(workdir / "checkpoints", read_only=True) as checkpointer:
        step = checkpointer.latest_step
        last = checkpointer.restore_variables(step, ema=False)
        return step, jax.tree.leaves((last, checkpointer.restore_variables(step, ema=True)))


def test_a_run_leaves_numbers_pictures_and_videos(trained):
    workdir, printed = trained
    for word in ("estimate:", "broken.mkv", "psnr", "elbo", "top1", "pictures, videos"):
        assert word in printed
    named = "to compile and for reconstruct, density, classify, generate"
    assert re.search(rf"^estimate: about .* in all: .* for 12 steps, .* {named}", printed, re.M)
    for task in ("reconstruct", "density", "classify", "generate"):
        assert re.search(rf"^{task}: \d+\.\d s$", printed, re.M)
    assert json.loads((workdir / "classes.json").read_text()) == list(CLASSES)
    record = json.loads((workdir / "config.json").read_text())
    assert list(record["data"]["broken"]) == ["broken.mkv"]
    assert record["versions"]["jax"] == jax.__version__
    _, params = build.load(workdir)
    assert record["data"]["num_parameters"] == sum(
        a.size for a in jax.tree.leaves(params["params"])
    )
    rows = read_metrics(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == [4, 8, 12]
    assert all(row["flop_utilization"] > 0 for row in rows if row["kind"] == "train")
    assert all(0 <= row["data_wait"] < 1 for row in rows if row["kind"] == "train")
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [6, 12]
    assert (workdir / "validation" / "step_00000012.png").stat().st_size > 1000
    for task in ("reconstruct", "density", "classify", "generate"):
        result = json.loads((workdir / "eval" / f"{task}.json").read_text())
        assert all((workdir / "eval" / name).stat().st_size > 0 for name in result["files"])
        for row in result["rows"].values():
            for metric in row.values():
                assert {"value", "card"} <= set(metric) <= {"value", "card", "interval"}


def test_metric_cards_say_what_was_measured(trained):
    result = json.loads((trained[0] / "eval" / "reconstruct.json").read_text())
    card = result["rows"]["vae"]["psnr"]["card"]
    assert card["split"] == "test" and card["num_videos"] == 6 and card["unit"] == "dB"


@pytest.fixture(scope="module")
def whole_and_stopped(folder, cache, tmp_path_factory):
    """Two runs by real processes: one of 12 steps at once, one that is stopped and continued.

    Their mixture prior is fitted after steps 2, 5, 10 and 12: before and after the stop.
    """
    place = tmp_path_factory.mktemp("runs")
    arguments = [TINY, "--data.path", folder, "--data.cache_dir", cache]
    arguments += ["--objective.kl_warmup", 0.2, "--objective.prior_every", 5]
    arguments += ["--model.clip_prior", "mixture", "--model.num_components", 3]
    arguments += ["--evaluate.tasks", "density"]
    run_as_user("train.py", *arguments, "--workdir", place / "whole")
    stop_and_continue(arguments, place / "stopped")
    return place / "whole", place / "stopped"


def stop_and_continue(arguments, workdir):
    """Trains, interrupts it after the first logged step, and goes on to the end."""
    workdir.mkdir()
    with Watch(workdir) as watch:
        process = programs.start(
            "train.py", *arguments, "--workdir", workdir, stderr=subprocess.STDOUT
        )
        # The first logged step has been done when its line is there; Ctrl-C then saves and stops.
        for name in watch.names(is_alive=lambda: process.poll() is None):
            if name == "metrics.jsonl" and (workdir / name).stat().st_size:
                process.send_signal(signal.SIGINT)
                break
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    step, _ = read_state(workdir)
    if step < 12:
        assert f"go on: python train.py --workdir {workdir}" in printed
    run_as_user("train.py", "--workdir", workdir)


def test_stopping_and_continuing_is_bit_identical(whole_and_stopped):
    """The newest checkpoints are those of step 12 and equal bit by bit; so are the logs."""
    states = [read_state(workdir) for workdir in whole_and_stopped]
    assert states[0][0] == states[1][0] == 12
    for a, b in zip(states[0][1], states[1][1], strict=True):
        np.testing.assert_array_equal(a, b)
    timing = ("frames_per_second", "flop_utilization", "data_wait")
    lines = [
        [
            {k: v for k, v in row.items() if k not in timing}
            for row in read_metrics(workdir / "metrics.jsonl")
        ]
        for workdir in whole_and_stopped
    ]
    assert [row for row in lines[1] if row["step"] in (4, 8)] == [
        row for row in lines[0] if row["step"] in (4, 8)
    ]


def test_a_mixture_prior_is_fitted_the_same_in_a_run_that_is_continued(whole_and_stopped):
    params = []
    for workdir in whole_and_stopped:
        with Checkpointer(workdir / "checkpoints", read_only=True) as checkpointer:
            params.append(checkpointer.restore_variables("latest")["params"])
    for name in ("mixture_mean", "mixture_logvar", "mixture_logits"):
        np.testing.assert_array_equal(params[0][name], params[1][name])
    # Without a fit they are equal for ever: they begin so, and so do their gradients.
    assert len(np.unique(params[0]["mixture_mean"], axis=0)) == 3


def test_the_mixture_prior_is_fitted_from_the_end_of_the_warm_up_to_the_end_of_the_training():
    assert plan_fits(2, 5, 12) == {2, 5, 10, 12}
    assert plan_fits(5, 5, 10) == {5, 10}
    assert plan_fits(0, 5, 12) == {1, 5, 10, 12}
    assert plan_fits(12, 50, 12) == {12}


def test_more_components_than_training_clips_are_refused_before_the_training(
    folder, cache, tmp_path
):
    arguments = (TINY, "--data.path", folder, "--data.cache_dir", cache)
    arguments += ("--model.clip_prior", "mixture", "--model.num_components", 99)
    result = run_program("train.py", *arguments, "--workdir", tmp_path / "run", check=False)
    assert result.returncode == 2 and "model.num_components=99: the mixture prior" in result.stderr


def test_a_finished_run_says_so(trained):
    result = run_program("train.py", "--workdir", trained[0], "--evaluate.tasks", "density")
    assert "is finished: all 12 steps are done" in result.stdout


def test_continuing_with_other_settings_shows_the_difference(trained):
    result = run_program(
        "train.py", "--workdir", trained[0], "--optim.learning_rate", "0.1", check=False
    )
    assert result.returncode == 2
    assert "optim.learning_rate: 0.002 -> 0.1" in result.stderr


def test_a_longer_training_continues_a_shorter_one_as_if_it_had_been_planned(
    folder, cache, tmp_path
):
    """With a constant learning rate, 6 steps and then 12 are the same as 12 at once."""
    arguments = (TINY, "--data.path", folder, "--data.cache_dir", cache, "--optim.warmup", 0)
    arguments += ("--optim.final_fraction", 1, "--objective.kl_warmup", 0)
    arguments += ("--evaluate.tasks", "density")
    for workdir, steps in (("longer", 6), ("longer", 12), ("planned", 12)):
        place = ("--workdir", tmp_path / workdir, "--train.num_steps", steps)
        run_program("train.py", *arguments, *place)
    (step, longer), (_, planned) = (read_state(tmp_path / name) for name in ("longer", "planned"))
    assert step == 12
    for a, b in zip(longer, planned, strict=True):
        np.testing.assert_array_equal(a, b)
    record = json.loads((tmp_path / "longer" / "config.json").read_text())
    assert record["data"]["num_steps"] == record["config"]["train"]["num_steps"] == 12


def test_a_run_whose_data_moved_goes_on_and_is_evaluated(trained, folder, tmp_path, monkeypatch):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(trained[0], workdir)
    shutil.copytree(folder, moved)
    arguments = ("--workdir", workdir, "--data.path", moved.name, "--evaluate.tasks", "density")
    monkeypatch.chdir(tmp_path)
    run_program("train.py", *arguments)
    record = json.loads((workdir / "config.json").read_text())
    assert record["data"]["path"] == record["config"]["data"]["path"] == str(moved)
    # The changed runtime settings are on record, and that there was one more start.
    before = json.loads((trained[0] / "config.json").read_text())
    assert len(record["history"]) == len(before["history"]) + 1
    assert record["config"]["evaluate"]["tasks"] == ["density"]
    (workdir / "eval" / "density.json").unlink()
    run_program("evaluate.py", "density", "--workdir", workdir)
    assert (workdir / "eval" / "density.json").exists()


def test_init_from_starts_with_the_parameters_of_a_run(trained, folder, cache, tmp_path):
    arguments = (TINY, "--data.path", folder, "--data.cache_dir", cache, "--train.num_steps", 1)
    arguments += ("--optim.warmup", 0, "--optim.learning_rate", 1e-9, "--evaluate.tasks", "density")
    workdir = tmp_path / "second"
    run_program("train.py", *arguments, "--workdir", workdir, "--init_from", trained[0])
    with Checkpointer(trained[0] / "checkpoints", read_only=True) as checkpointer:
        first = jax.tree.leaves(checkpointer.restore_variables("best")["params"])
    with Checkpointer(workdir / "checkpoints", read_only=True) as checkpointer:
        second = jax.tree.leaves(checkpointer.restore_variables(1, ema=False)["params"])
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_new_videos_are_labelled(trained, tmp_path):
    for number in range(3):
        write_square(tmp_path / f"new{number}.mkv", "left", 100 + number)
    result = run_program(
        "evaluate.py", "classify", "--workdir", trained[0], "--data.path", tmp_path
    )
    path = trained[0] / "eval" / tmp_path.name / "classify.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["new0.mkv", "new1.mkv", "new2.mkv"]
    assert {row["label"] for row in rows} <= set(CLASSES)
    assert all(0.5 <= float(row["score"]) <= 1 for row in rows)
    assert all(row["score"] == row[row["label"]] for row in rows)
    assert all(abs(sum(float(row[name]) for name in CLASSES) - 1) < 1e-5 for row in rows)
    assert "3 videos are labelled" in result.stdout


def test_the_exported_encoder_runs_without_vvae(trained, tmp_path):
    run_program("evaluate.py", "export", "--workdir", trained[0])
    video_BTHWC = np.random.default_rng(0).integers(0, 256, (3, 5, 16, 16, 1), dtype=np.uint8)
    np.save(tmp_path / "video.npy", video_BTHWC)
    program = str(trained[0] / "encoder.jax")
    code = (
        "import sys, numpy as np, jax.export\n"
        f"program = jax.export.deserialize(open({program!r}, 'rb').read())\n"
        "out = program.call(np.load('video.npy'))\n"
        "assert not any(name.startswith('vvae') for name in sys.modules)\n"
        "np.savez('out.npz', **out)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True)
    model, params = build.load(trained[0])
    from vvae import encode

    posterior = encode(model, params, video_BTHWC)
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_allclose(out["frame_mean"], posterior.frame.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out["clip_logvar"], posterior.clip.logvar, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_with_its_step(folder, cache, tmp_path):
    arguments = (TINY, "--data.path", folder, "--data.cache_dir", cache, "--optim.warmup", 0)
    arguments += ("--optim.learning_rate", 1e30, "--workdir", tmp_path / "run")
    arguments += ("--train.validate_every", 1)
    result = run_program("train.py", *arguments, check=False)
    assert result.returncode == 3, result.stderr
    assert "error: step 2: the loss" in result.stderr
    assert not (tmp_path / "run" / "eval").exists()
    step, leaves = read_state(tmp_path / "run")
    assert step == 1 and all(np.isfinite(leaf).all() for leaf in leaves)


def test_the_example_of_the_readme_runs(trained):
    text = (ROOT / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    scope = {}
    exec(code.replace('"RUN"', repr(str(trained[0]))), scope)
    assert scope["video"].shape == scope["x"].shape
    assert scope["better"].shape == scope["bound"].shape == (2,)
    assert scope["new"].shape == (4, 24, *scope["model"].shape_HWC)


def test_a_network_that_cannot_reconstruct_is_called_collapsed(folder, cache, tmp_path):
    """After the warm-up, a KL weight of 1e6 leaves the latents nothing to say."""
    arguments = (TINY, "--data.path", folder, "--data.cache_dir", cache, "--model.linear", False)
    arguments += ("--objective.beta", 1e6, "--train.num_steps", 40, "--train.validate_every", 40)
    arguments += ("--evaluate.tasks", "density", "--optim.learning_rate", 0.02)
    result = run_program("train.py", *arguments, "--workdir", tmp_path / "run")
    assert "COLLAPSED" in result.stdout.upper(), result.stdout


def test_tensorboard_gets_the_metrics(folder, cache, tmp_path):
    arguments = (TINY, "--data.path", folder, "--data.cache_dir", cache, "--train.num_steps", 4)
    arguments += ("--train.tensorboard", True, "--evaluate.tasks", "density")
    result = run_program("train.py", *arguments, "--workdir", tmp_path / "run", check=False)
    if importlib.util.find_spec("tensorboardX") is None:
        assert result.returncode == 2 and "pip install 'vvae[tensorboard]'" in result.stderr
    else:
        assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents*"))


def test_activations_in_bfloat16(folder, cache, tmp_path):
    arguments = (TINY, "--data.path", folder, "--data.cache_dir", cache, "--train.num_steps", 2)
    arguments += ("--model.dtype", "bfloat16", "--evaluate.tasks", "density")
    result = run_program("train.py", *arguments, "--workdir", tmp_path / "run")
    assert "elbo" in result.stdout
    with Checkpointer(tmp_path / "run" / "checkpoints", read_only=True) as checkpointer:
        leaves = jax.tree.leaves(checkpointer.restore_variables("latest"))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_check_names_what_is_broken(folder):
    result = run_program("evaluate.py", "check", "--data.path", folder)
    assert "broken.mkv" in result.stdout and "16x16" in result.stdout


@pytest.mark.parametrize(
    ("program", "arguments", "text"),
    [
        ("train.py", ["--data.path", "no/such/dir"], "no/such/dir"),
        ("train.py", ["--data.heigth", "32"], "--data.height"),
        ("train.py", ["--data.height", "20"], "data.height=20: must be a multiple of 8"),
        ("train.py", ["--worksdir", "x"], "did you mean --workdir (run directory"),
        ("train.py", ["configs/nope.py"], "no configuration configs/nope.py"),
        ("train.py", ["gestures"], "for your videos: give their folder with --data.path"),
        ("train.py", ["--init_from", "nowhere", "--data.path", "FOLDER"], "nowhere is not a run"),
        ("evaluate.py", ["recontruct"], "did you mean reconstruct?"),
        (
            "evaluate.py",
            ["check", "--data.pth", "x"],
            "did you mean --data.path (folder of videos)?",
        ),
        ("evaluate.py", ["--workdir", "nowhere"], "nowhere is not a run directory"),
        ("evaluate.py", ["check"], "--data.path DIR"),
    ],
)
def test_bad_input_is_one_line_and_status_2(program, arguments, text, folder, tmp_path):
    arguments = [str(folder) if word == "FOLDER" else word for word in arguments]
    if program == "train.py":
        arguments += ["--workdir", str(tmp_path / "run")]
    result = run_program(program, *arguments, check=False)
    assert result.returncode == 2, result.stdout + result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and text in errors[0], result.stderr
    assert "Traceback" not in result.stderr


def test_folders_that_cannot_be_trained_on_say_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    result = run_program("train.py", TINY, "--data.path", empty, check=False)
    assert result.returncode == 2 and str(empty) in result.stderr
    alone = tmp_path / "alone"
    alone.mkdir()
    for number in range(2):
        write_square(alone / f"{number}.mkv", "left", number)
    result = run_program("train.py", TINY, "--data.path", alone, check=False)
    assert result.returncode == 2 and "group" in result.stderr
    assert not list((tmp_path / "runs").iterdir())  # nothing is left of runs that never began


def test_what_is_written_into_the_folder_of_videos_is_refused_before_it_is_read(tmp_path):
    """It would be read as videos by the next command."""
    data, text = str(tmp_path), "is inside the folder of videos"
    with pytest.raises(ValueError, match=rf"run {text}"):
        train.read_request(["default", "--data.path", data, "--workdir", f"{data}/run"])
    with pytest.raises(ValueError, match=rf"eval {text}"):
        evaluate.main(["classify", "--workdir", f"{data}/run", "--data.path", data])
    with pytest.raises(ValueError, match=rf"eval {text}"):
        evaluate.main(["reconstruct", "--pretrained", f"{data}/weights", "--data.path", data])
    config = Config(data=Data(path=data, cache_dir=f"{data}/cache"))
    for open_data in (build.open_data, lambda *given: build.open_new_data(*given, ())):
        with pytest.raises(ValueError, match=rf"cache {text}"):
            open_data(config, data)
    assert not list(tmp_path.iterdir())


def test_a_class_of_one_video_is_refused_before_the_training(tmp_path):
    for number in range(6):
        label = "up" if number == 5 else "left"
        (tmp_path / "videos" / label).mkdir(parents=True, exist_ok=True)
        write_square(tmp_path / "videos" / label / f"{number}.mkv", "left", number)
    arguments = (TINY, "--data.path", tmp_path / "videos", "--workdir", tmp_path / "run")
    result = run_program("train.py", *arguments, check=False)
    assert result.returncode == 2 and not (tmp_path / "run").exists()
    assert "class 'up' has a single video" in result.stderr
    assert "--evaluate.tasks reconstruct density generate" in result.stderr


def test_a_causal_model_is_trained_and_measured(folder, cache, tmp_path):
    """On clips whose size and length are no multiples of its latents; other tasks say why not."""
    config = str(ROOT / "configs" / "causal_tiny.py")
    small = "--causal.widths 4 4 4 --data.height 12 --data.width 16 --data.num_frames 4 "
    small += "--data.sampling whole --train.num_steps 4 --train.validate_every 4"
    arguments = ["--data.path", folder, "--data.cache_dir", cache, "--workdir", tmp_path / "run"]
    printed = run_program("train.py", config, *small.split(), *arguments).stdout
    for word in ("estimate:", "psnr", "kl_grid (nats/clip)", "active_grid"):
        assert word in printed
    model, variables = build.load(tmp_path / "run")
    assert model.temporal_compression == 4 and variables["stats"]["std"].shape == (1,)
    x = np.zeros((1, 9, 20, 12, 1), np.uint8)
    assert vvae.reconstruct(model, variables, x).shape == x.shape
    refused = run_program("evaluate.py", "classify", "--workdir", tmp_path / "run", check=False)
    assert refused.returncode == 2 and "model.kind=causal answers" in refused.stderr
