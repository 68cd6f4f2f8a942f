"""Comparing two runs: equal cards give differences; others are refused, naming both entries."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
from vvae.config import Config, Model
from vvae.config_files import to_dict
from vvae.report.compare import compare_runs, format_comparison

ROOT = Path(__file__).resolve().parents[1]


def make_metric(name, value, **card):
    card = {"name": name, "unit": "dB", "definition": "d", "aggregation": "a", **card}
    return {"value": value, "card": card}


ROWS = {
    "vae": {"psnr": make_metric("psnr", 20.0, data="x", method="vae")},
    "vae/linear": {"top1": make_metric("top1", None, data="x", method="vae")},
}


def write_run(folder, config=Config(), rows=ROWS, task="reconstruct", **data):  # noqa: B008
    (folder / "eval").mkdir(parents=True)
    record = {
        "config": to_dict(config),
        "data": {"num_steps": 600, "fingerprint": "x", **data},
        "versions": {"vvae": "0.1.0"},
        "git_commit": None,
    }
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").write_text('{"step": 20}\n{"step": 40}\n{"st')
    (folder / "eval" / f"{task}.json").write_text(json.dumps({"task": task, "rows": rows}))
    (folder / "eval" / "other.json").write_text('{"what": "is not of a task"}')
    return folder


def test_equal_cards_give_the_difference_and_the_method_may_differ(tmp_path):
    rows = copy.deepcopy(ROWS)
    rows["vae"]["psnr"]["value"] = 22.5
    rows["vae"]["psnr"]["card"]["method"] = "another"
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b", rows=rows, num_parameters=7)
    result = compare_runs(first, second)
    psnr, top1 = result["values"]
    assert (psnr["task"], psnr["row"], psnr["metric"]) == ("reconstruct", "vae", "psnr")
    assert (psnr["first"], psnr["second"], psnr["difference"]) == (20.0, 22.5, 2.5)
    assert (top1["row"], top1["first"], top1["difference"]) == ("vae/linear", None, None)
    assert result["refused"] == [] and result["settings"] == {}
    assert result["facts"]["steps done"] == [40, 40]
    assert result["facts"]["parameters"] == [None, 7]
    text = format_comparison(result)
    assert "+2.500" in text and "vae psnr (dB)" in text
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("data", "y", "data ('x' against 'y')"),
        ("split", "val", "split ('nothing' against 'val')"),
        ("unit", "nats", "unit ('dB' against 'nats')"),
    ],
)
def test_a_planted_difference_of_cards_is_refused_with_both_entries(tmp_path, key, value, why):
    rows = copy.deepcopy(ROWS)
    rows["vae"]["psnr"]["card"][key] = value
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", rows=rows)
    result = compare_runs(first, second)
    assert [entry["why"] for entry in result["refused"]] == [why]
    assert [entry["metric"] for entry in result["values"]] == ["top1"]
    text = format_comparison(result)
    assert "Not comparable" in text and why in text and "reconstruct/vae: psnr" in text


def test_differing_settings_and_values_of_one_run_only_are_listed(tmp_path):
    first = write_run(tmp_path / "a", Config(model=Model(latent_dim=7, widths=(8, 16))))
    second = write_run(tmp_path / "b", rows={"pca": ROWS["vae"]})
    result = compare_runs(first, second)
    assert result["settings"] == {
        "model.latent_dim": [7, 50],
        "model.widths": [[8, 16], [32, 64, 128]],
    }
    assert result["only_first"] == ["reconstruct/vae/psnr", "reconstruct/vae/linear/top1"]
    assert result["only_second"] == ["reconstruct/pca/psnr"]
    text = format_comparison(result)
    assert "No value of the two runs can be compared." in text
    assert "reconstruct/vae/linear: top1" in text


def test_errors_name_a_directory_without_a_run_or_results_and_a_broken_file(tmp_path):
    good = write_run(tmp_path / "good")
    with pytest.raises(ValueError, match="none is not a run directory"):
        compare_runs(good, tmp_path / "none")
    empty = write_run(tmp_path / "empty", rows={})
    with pytest.raises(ValueError, match="holds no measured value: run `vvae evaluate"):
        compare_runs(good, empty)
    for name, text in (("cut", '{"task": "x", "ro'), ("odd", '{"task": "x", "rows": {"a": 3}}')):
        broken = write_run(tmp_path / name)
        (broken / "eval" / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json"):
            compare_runs(good, broken)


def test_the_program_prints_and_writes_without_loading_jax(tmp_path):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    out = tmp_path / "out.json"
    script = (
        "import sys, evaluate\n"
        f"evaluate.main(['compare', {str(first)!r}, {str(second)!r}, '--out', {str(out)!r}])\n"
        "sys.exit(3 if 'jax' in sys.modules or 'sklearn' in sys.modules else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "The settings that decide the result are equal." in done.stdout
    assert json.loads(out.read_text()) == compare_runs(first, second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "a"], "compare takes two runs"),
        (["compare", "a", "b", "c"], "compare takes two runs"),
        (["density", "compare", "a"], "compare takes two runs"),
        (["density", "--workdir", "a", "--out", "x"], "--out is an option of compare"),
        (["search", "--workdir", "a"], "needs --query VIDEO"),
        (["density", "--workdir", "a", "--query", "x"], "--query is an option of search, not of"),
        (["search", "--workdir", "a", "--query", "x", "--count", "0"], "--count=0"),
    ],
)
def test_invalid_command_lines_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate.read_request(arguments)


def test_counts_stay_integers(tmp_path):
    rows = {"vae": {"active": make_metric("active", 50, data="x")}}
    more = {"vae": {"active": make_metric("active", 48, data="x")}}
    result = compare_runs(
        write_run(tmp_path / "a", rows=rows), write_run(tmp_path / "b", rows=more)
    )
    assert "50" in format_comparison(result).split() and "-2" in format_comparison(result).split()
