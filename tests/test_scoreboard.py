"""The scoreboard: summaries by hand, tables from files, and a task measured in miniature."""

import dataclasses
import json
import os
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest
from compiling import xla_flags

from benchmarks import equal_psnr, origin, resampling, scoreboard, summary, tables
from benchmarks.boards import clusters, gestures, moderation, ped2, performers
from benchmarks.results import Board, Measurement, read_board, summarize, write_board

BOARD = Board("toy", "What is measured.", "toys", ("a",), ("top1", "top5"))
ORIGIN = {
    "git_commit": "0" * 40,
    "machine": {"cpu": "abacus", "cores": 2, "device": {"platform": "cpu"}},
    "versions": {"python": "3.11"},
}


def measure_toys(family="vae"):
    return [
        (0, Measurement("b|x", "baseline", {"top1": 0.9, "top5": 1.0})),
        (0, Measurement("a", family, {"top1": 0.25, "top5": 0.5}, 7, 100.0)),
        (
            1,
            Measurement(
                "a",
                family,
                {"top1": 0.75, "top5": float("nan")},
                parameters=7,
                frames_per_second=300.0,
                origin=ORIGIN,
            ),
        ),
    ]


def test_rows_are_means_over_the_seeds_they_were_measured_in(tmp_path):
    content = summarize(BOARD, measure_toys(), "python toys")
    write_board(tmp_path / "toy.json", content)
    read = read_board(tmp_path / "toy.json")
    first, second = read["rows"]
    assert (first["row"], first["seeds"], first["headline"]) == ("b|x", [0], False)
    assert first["metrics"]["top1"] == {"mean": 0.9, "std": None}
    assert (second["seeds"], second["headline"], second["parameters"]) == ([0, 1], True, 7)
    assert second["metrics"]["top1"] == {"mean": 0.5, "std": round(0.5 / np.sqrt(2), 5)}
    assert second["metrics"]["top5"] == {"mean": None, "std": None}
    assert second["frames_per_second"] == 200
    assert read["machines"] == ["abacus, usable cores: 2"]
    assert read["origins"] == {"1": ORIGIN}
    assert set(read) >= {"task", "protocol", "data", "command", "rows"}


def test_a_board_has_one_headline_of_the_vae():
    with pytest.raises(ValueError, match="no row a was measured"):
        summarize(BOARD, measure_toys()[:1], "")
    with pytest.raises(ValueError, match="one headline row of the family vae"):
        summarize(BOARD, measure_toys("fusion"), "")


def test_tables_come_from_the_files_and_show_losses(tmp_path):
    write_board(tmp_path / "toy.json", summarize(BOARD, measure_toys(), "python toys"))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- scoreboard toy -->\nold\n<!-- end -->\nafter\n")
    assert tables.write_tables(tmp_path, readme) == ["toy"]
    text = readme.read_text()
    assert text.startswith("before\n<!-- scoreboard toy -->\n") and "old" not in text
    assert text.endswith("<!-- end -->\nafter\n")
    assert "What is measured. `python toys` (abacus, usable cores: 2)\n" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| b\\|x | baseline | 0.900 | 1.000 | 1 |  |",
        "| a | vae, headline | 0.500 ± 0.354 |  | 2 | 7 |",
    ]
    tables.write_tables(tmp_path, readme)
    assert readme.read_text() == text
    readme.write_text("<!-- scoreboard other -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match=r"shows scoreboard other: there is no .*other"):
        tables.write_tables(tmp_path, readme)


def test_a_row_that_was_not_run_says_so(tmp_path):
    rows = [*measure_toys(), (0, Measurement("c", "baseline", {"top1": None, "top5": None}))]
    write_board(tmp_path / "toy.json", summarize(BOARD, rows, "python toys"))
    table = tables.format_board(read_board(tmp_path / "toy.json"))
    assert "| c | baseline | not run |  | 1 |  |" in table


def measure_hits(row, family, hits):
    units = {f"person {n}": (float(hit), 4) for n, hit in enumerate(hits)}
    top1 = sum(hits) / (4 * len(hits))
    return Measurement(row, family, {"top1": top1}, hits=units)


@pytest.mark.parametrize(
    ("rival", "is_bold"), [([2, 2, 2, 2], True), ([3, 2, 2, 2], True), ([3, 3, 3, 2], False)]
)
def test_a_headline_is_bold_only_if_it_is_ahead_over_units(rival, is_bold):
    board = Board("toy", "", "toys", ("a",), ("top1",), unit="people")
    own, other = measure_hits("a", "vae", [3, 3, 3, 3]), measure_hits("b", "baseline", rival)
    table = tables.format_board(summarize(board, [(0, own), (0, other)], ""))
    assert ("| **a** |" in table) == is_bold
    # Without the hits of units nothing is bold, however small the spread over seeds.
    bare = [(seed, dataclasses.replace(row, hits=None)) for row in (own, other) for seed in (0, 1)]
    assert "**" not in tables.format_board(summarize(board, bare, ""))


def test_rows_with_hits_of_units_have_intervals_over_them():
    board = Board("toy", "", "toys", ("a",), ("top1",), unit="people")
    measured = [
        (0, measure_hits("a", "vae", [3, 3, 4, 2])),
        (1, measure_hits("a", "vae", [3, 3, 2, 4])),  # the mean over seeds is 3 of 4 for all
        (0, measure_hits("b", "baseline", [2, 2, 2, 2])),
        (0, Measurement("c", "baseline", {"top1": 0.5})),
    ]
    content = summarize(board, measured, "")
    first, second, third = content["rows"]
    assert first["units"]["person 2"] == [3.0, 4]
    assert first["interval"] == {"low": 0.75, "high": 0.75, "num_units": 4}
    assert "headline_gain" not in first
    # One hit of four more for each person; as likely as not in 2 of 2^4 patterns of signs.
    assert second["headline_gain"] == {"mean": 0.25, "low": 0.25, "high": 0.25, "p": 2 / 16}
    assert "interval" not in third
    table = tables.format_board(content)
    assert "| top1 | top1, 95 % over people | headline's gain, 95 % over people |" in table
    assert "| 0.500 | [0.500, 0.500] | 0.250 [0.250, 0.250], p = 0.125 | 1 |" in table
    other = dataclasses.replace(measured[2][1], hits={"someone": (1.0, 4)})
    with pytest.raises(ValueError, match="b and a were not measured on the same units"):
        summarize(board, [*measured[:2], (0, other)], "")


def test_hits_of_environments_are_those_of_all_folds():
    def make_fold(scores, labels, groups):
        return gestures.FoldRow(
            family="vae", parameters=1, scores=scores, labels=labels, groups=groups, few_hits=[]
        )

    folds = [
        make_fold([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], [0, 1, 0], ["hall", "hall", "desk"]),
        make_fold([[0.4, 0.6]], [1], ["desk"]),
    ]
    assert gestures._count_hits(folds) == {"desk": (1.0, 2), "hall": (2.0, 2)}


def test_hits_of_performers_come_from_the_kept_predictions(tmp_path):
    path = tmp_path / "classify_rows.csv"
    path.write_text(
        "path,group,label,vae/linear,cnn\n"
        "a.mp4,p2,run,run,walk\nb.mp4,p1,walk,run,walk\nc.mp4,p2,walk,walk,walk\n"
    )
    assert performers.count_hits(path) == {
        "vae/linear": {"p1": (0.0, 1), "p2": (2.0, 2)},
        "cnn": {"p1": (1.0, 1), "p2": (1.0, 2)},
    }


def test_hits_of_clusters_are_those_of_the_best_matching(tmp_path):
    path = tmp_path / "cluster.csv"
    path.write_text(
        "path,label,group,split,mixture_prior\n"
        "a.mp4,run,p2,test,1\nb.mp4,walk,p1,test,0\nc.mp4,walk,p2,test,0\nd.mp4,run,p1,test,0\n"
    )
    found = clusters.count_hits(path)
    assert found == {"mixture_prior": {"p1": (1.0, 2), "p2": (2.0, 2)}}


def test_detectors_of_all_actions_are_averaged_from_the_kept_scores(tmp_path):
    path = tmp_path / "moderate_scores.csv"
    found = []
    # Both actions rank one of the two pairs rightly; the second calls a wanted video unwanted.
    for scores, called in (((3, 1, 2, 0), "yes no no no"), ((3, 1, 2, 0), "yes no yes no")):
        cells = zip("abcd", ("p1", "p1", "p2", "p2"), ("yes", "yes", "no", "no"), scores)
        lines = [
            f"{name}.mp4,{group},{unwanted},{score},{said}"
            for (name, group, unwanted, score), said in zip(cells, called.split())
        ]
        path.write_text("path,group,unwanted,score_vae,called_vae\n" + "\n".join(lines) + "\n")
        found.append(moderation.read_scores(path)["vae"])
    row = moderation.measure_row("vae", found, parameters=7)
    assert (row.metrics["auroc"], row.metrics["recall"], row.metrics["fpr"]) == (0.75, 0.5, 0.25)
    assert (row.metrics["lowest_recall"], row.metrics["highest_fpr"]) == (0.5, 0.5)
    assert row.metrics["ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert (row.family, row.parameters, row.num_units) == ("vae", 7, 2)
    # Resamples of one performer alone have one kind of videos, for which nothing is defined.
    assert {value for value in row.draws if value == value} == {0.75}


def measure_drawn(row, family, value, seed):
    random = np.random.default_rng(seed)
    draws = (value + 0.01 * random.normal(size=1000)).tolist()
    return Measurement(row, family, {"bits": value}, draws=draws, num_units=50)


@pytest.mark.parametrize(("rival", "is_bold"), [(1.2, True), (1.01, False), (0.9, False)])
def test_a_column_of_bits_is_best_when_low_and_has_intervals_by_draws(rival, is_bold):
    board = Board("toy", "", "toys", ("a",), ("bits",), unit="clips", lower_is_better=True)
    own, other = measure_drawn("a", "vae", 1.0, 0), measure_drawn("b", "baseline", rival, 1)
    content = summarize(board, [(0, own), (0, other)], "")
    rows = {row["row"]: row for row in content["rows"]}
    assert rows["a"]["interval"]["num_units"] == 50
    assert rows["a"]["interval"]["low"] == pytest.approx(1.0 - 0.0196, abs=0.003)
    assert rows["b"]["headline_gain"]["mean"] == pytest.approx(1.0 - rival)
    assert (rows["b"]["headline_gain"]["p"] < 0.05) == (abs(rival - 1.0) > 0.05)
    table = tables.format_board(content)
    assert ("| **a** |" in table) == is_bold
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert ("| b |" in lines[0]) == (rival < 1.0)  # the lowest first
    fewer = dataclasses.replace(other, num_units=49)
    with pytest.raises(ValueError, match="b and a were not measured on the same units"):
        summarize(board, [(0, own), (0, fewer)], "")


def test_rows_with_the_same_units_share_their_resamples():
    cases = np.arange(6.0)
    units = np.array(["a", "a", "b", "b", "c", "c"])
    mean, double = (
        resampling.draw_values(measure, (cases,), units)
        for measure in (lambda x: float(x.mean()), lambda x: float(2 * x.mean()))
    )
    np.testing.assert_allclose(double, 2 * np.array(mean))
    # Whole units are drawn: the means are those of 3 of the numbers 0.5, 2.5 and 4.5.
    assert set(np.round(mean, 6)) <= {round((1.5 + 2 * k) / 3, 6) for k in range(7)}
    assert resampling.find_p_value(np.full(999, 1.0)) == 2 / 1000
    assert resampling.find_p_value(np.array([-1.0, 1.0] * 50)) == 1.0
    assert resampling.find_interval(np.array([np.nan, 2.0, 2.0])) == (2.0, 2.0)
    with pytest.raises(ValueError, match="undefined on every resample"):
        resampling.find_interval(np.array([np.nan]))


def test_scores_of_frames_are_those_that_were_kept(tmp_path):
    path = tmp_path / "anomaly_frames.csv"
    path.write_text(
        "path,group,frame,time_s,verdict,score,abnormal,raw_iwae,raw_motion\n"
        "a.mp4,,0,0.000,normal,1,no,0.5,2\na.mp4,,1,0.100,abnormal,3,yes,-1e3,4\n"
    )
    frames = ped2.read_frames(path)
    assert {name: score.tolist() for name, score in frames.scores.items()} == {
        "iwae": [0.5, -1000.0],
        "motion": [2.0, 4.0],
    }
    assert frames.abnormal_F.tolist() == [False, True]
    assert frames.video_F.tolist() == ["a.mp4", "a.mp4"]


def test_the_score_without_latents_is_the_likelihood_of_the_largest_pixel(monkeypatch):
    codes = np.array([[[0.0, 10.0]], [[4.0, 30.0]]])[None, ..., None]  # [1, 2, 1, 2, 1]

    class OneClip:
        mask_NT = np.array([[True, True]])
        read = staticmethod(lambda ids: codes.astype(np.uint8))

        def __len__(self):
            return 1

    mean, std = ped2.fit_normal(OneClip(), by_place=True)
    np.testing.assert_allclose(mean[..., 0], [[2, 20]])
    np.testing.assert_allclose(std[..., 0], [[2, 10]])
    frames = dataclasses.make_dataclass("Frames", ["clip_F"])(np.array([0, 0]))
    monkeypatch.setattr(ped2, "list_frames", lambda clips: frames)
    _, score = ped2.score_normal(OneClip(), mean, std)
    # Both pixels are one deviation away in both frames; the second one has the wider density.
    expected = 0.5 + np.log(10) + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(score, [expected, expected])


def test_a_result_names_its_commit_machine_versions_and_command(tmp_path, monkeypatch):
    content = origin.stamp({"score": 1.5}, "python toys")
    origin.write_result(tmp_path / "new" / "toy.json", content)
    read = json.loads((tmp_path / "new" / "toy.json").read_text())
    assert (read["command"], read["score"]) == ("python toys", 1.5)
    found = read["origin"]
    git = ["git", "-C", str(origin.RESULTS), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True)
    if commit.returncode == 0:
        assert found["git_commit"].rstrip("+") == commit.stdout.strip()
    assert found["machine"]["cpu"] == origin.find_cpu_model() != ""
    assert 1 <= found["machine"]["cores"] <= os.cpu_count()
    assert found["machine"]["device"]["platform"] == jax.devices()[0].platform
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["jax"] == jax.__version__
    assert None not in found["versions"].values()
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/toys.py", "--seeds", "3"])
    assert origin.describe_command() == "python -m benchmarks.toys --seeds 3"
    with pytest.raises(ValueError, match="not JSON compliant"):
        origin.write_result(tmp_path / "nan.json", {"score": float("nan")})


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_the_pages_are_what_the_files_say(page):
    text = page.read_text(encoding="utf-8")
    assert tables.fill_marks(text, scoreboard.RESULTS, page) == text


def test_a_value_and_a_summary_come_from_the_files(tmp_path):
    write_board(tmp_path / "toy.json", summarize(BOARD, measure_toys(), "python toys"))
    text = (
        "It is <!-- value toy a top1 -->0<!-- end --> of <!-- value toy b|x top5 --><!-- end -->."
    )
    filled = "It is <!-- value toy a top1 -->0.500 ± 0.354<!-- end --> of "
    filled += "<!-- value toy b|x top5 -->1.000<!-- end -->."
    assert tables.fill_marks(text, tmp_path, "page") == filled
    with pytest.raises(ValueError, match="toy has no value c top1"):
        tables.fill_marks("<!-- value toy c top1 --><!-- end -->", tmp_path, "page")
    row = summary.format_row(summary.Row("Toys", "Top-1", "toy"), tmp_path)
    assert (
        row == "| Toys | Top-1 | `a` 0.500 ± 0.354 | `b\\|x` 0.900 | [toy](docs/results/toy.md) |"
    )


def test_a_summary_shows_intervals_over_units_where_they_are_known(tmp_path):
    hits = {f"p{n}": (float(n % 2), 1) for n in range(8)}
    rows = [
        Measurement("a", "vae", {"top1": 0.5, "top5": 1.0}, hits=hits),
        Measurement(
            "b", "baseline", {"top1": 0.0, "top5": 1.0}, hits=dict.fromkeys(hits, (0.0, 1))
        ),
    ]
    content = summarize(BOARD, [(0, row) for row in rows], "")
    write_board(tmp_path / "toy.json", content)
    row = summary.format_row(summary.Row("Toys", "Top-1", "toy"), tmp_path)
    low, high = (content["rows"][0]["interval"][end] for end in ("low", "high"))
    assert 0.0 < low < 0.5 < high < 1.0
    assert f"`a` 0.500 [{low:.3f}, {high:.3f}] | `b` 0.000 [0.000, 0.000] |" in row
    assert "p = 0.125 |" in tables.format_board(content)  # 2 of the 16 patterns of four differences


def test_bits_at_equal_psnr_come_from_the_curves(tmp_path):
    curves = {
        "vae": [[0.2, 20.0, ""], [0.4, 30.0, ""]],
        "x264": [[0.1, 20.0, ""], [0.2, 30.0, ""]],
        "jpeg": [[0.4, 25.0, ""], [0.8, 30.0, ""]],
    }
    content = {"curves": curves, "command": "python toys", "data": "toys"}
    (tmp_path / "rate_distortion.json").write_text(json.dumps(content))
    table = equal_psnr.format_table(tmp_path)
    assert "| 0.200 | 20.00 | 2.0 | beyond its curve |" in table
    assert "| 0.400 | 30.00 | 2.0 | 0.5 |" in table
    # Between 25 and 30 dB the logarithm of the ratio falls from log 0.5 sqrt(2) to log 0.5.
    assert "| BD-rate |  | +100 % | -41 % |" in table
    others = {"data": "toys", "curves": {"x265": [{"rate": 0.1, "psnr": 20.0}]}}
    (tmp_path / "codec_curves.json").write_text(json.dumps(others))
    assert "| x265 |" in equal_psnr.format_table(tmp_path)
    (tmp_path / "codec_curves.json").write_text(json.dumps(others | {"data": "others"}))
    with pytest.raises(ValueError, match="of other clips: others, toys"):
        equal_psnr.format_table(tmp_path)


@pytest.fixture
def crossing(tmp_path):
    """Walkers that cross the frame; in the test videos one runs in the second half."""
    root, rng = tmp_path / "crossing", np.random.default_rng(0)
    root.mkdir()
    lines = ["path,split,abnormal"]
    texture = rng.integers(0, 256, (48, 72)).astype(np.uint8)
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        for number in range(count):
            frames = np.full((24, 48, 72, 1), 90, np.uint8)
            for frame in range(24):
                step = frame + 2 * max(0, frame - 12) * (split == "test")
                x = (5 * number + step) % 52
                frames[frame, 10:30, x : x + 20, 0] = texture[10:30, :20]
            name = f"{split}{number}.npy"
            np.save(root / name, frames)
            lines.append(f"{name},{split},{'13-23' if split == 'test' else ''}")
    (root / "manifest.csv").write_text("\n".join(lines))
    return root


def test_a_task_in_miniature(crossing, tmp_path, monkeypatch):
    # As on a user's machine: one device. The run of whole frames takes too long for a test.
    monkeypatch.setenv("XLA_FLAGS", xla_flags())
    monkeypatch.setattr(ped2, "RUNS", {"speed": ped2.RUNS["speed"]})
    arguments = ["ped2", "--data.path", str(crossing), "--steps", "3", "--seeds", "2"]
    folders = ["--out", str(tmp_path / "out"), "--folder", str(tmp_path / "runs")]
    assert scoreboard.main([*arguments, *folders]) == 0
    content = read_board(tmp_path / "out/ped2.json")
    rows = {row["row"]: row for row in content["rows"]}
    assert rows["speed/iwae"]["headline"] and rows["speed/iwae"]["seeds"] == [0, 1]
    assert rows["speed/motion_block"]["seeds"] == [0]
    assert rows["speed/motion_block"]["metrics"]["micro_raw"]["mean"] > 0.9
    assert rows["speed/time_index"]["family"] == "control"
    assert rows["speed/fusion_motion"]["family"] == "fusion"
    assert rows["speed/no_latent"]["seeds"] == [0] and rows["speed/no_latent"]["parameters"] == 0
    # After three steps latents say nothing yet: the VAE is a normal distribution too.
    without, iwae = (
        rows[f"speed/{name}"]["metrics"]["micro_raw"] for name in ("no_latent", "iwae")
    )
    assert without["mean"] == pytest.approx(iwae["mean"], abs=0.02) and without["mean"] > 0.8
    assert rows["speed/iwae"]["metrics"]["inactive"]["mean"] in (0.0, 0.5, 1.0)
    assert rows["speed/iwae"]["parameters"] > 0
    assert set(content["origins"]) == {"0", "1"} and len(content["machines"]) == 1
    assert {"micro_raw", "micro_minmax", "macro", "micro_raw_smoothed", "active_frame"} <= set(
        rows["speed/iwae"]["metrics"]
    )
    # Started again, it goes on from what is known: nothing is trained.
    known = tmp_path / "runs/ped2-1.json"
    changed = json.loads(known.read_text())
    changed[0]["metrics"]["micro_raw"] = 0.125
    known.write_text(json.dumps(changed))
    scoreboard.main([*arguments, *folders])
    again = read_board(tmp_path / "out/ped2.json")["rows"][0]["metrics"]["micro_raw"]["mean"]
    assert again != rows[changed[0]["row"]]["metrics"]["micro_raw"]["mean"]


def test_figures_of_a_trial_are_not_for_the_readme(capsys):
    with pytest.raises(SystemExit):
        scoreboard.main(["performers", "--steps", "3"])
    assert "give --out with --steps" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        scoreboard.main(["ped2"])
    assert "ped2 needs --data.path FOLDER" in capsys.readouterr().err
