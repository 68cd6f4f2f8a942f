"""Reading a file never runs code: no pickle, eval or the like in the sources, but for a list."""

import ast
from pathlib import Path

import numpy as np
import pytest

from vvae.data.cache import open_codes
from vvae.tasks.segmentation import boundaries

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / "train.py", ROOT / "evaluate.py", *sorted((ROOT / "vvae").rglob("*.py"))]
SOURCES += sorted((ROOT / "benchmarks").rglob("*.py"))
MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "runpy",
}
CALLS = {"eval", "exec", "__import__", "system", "popen"}
EXCEPTIONS = {
    ("vvae/config_files.py", "exec"),  # configs/*.py: the user's own code, which they name
    ("vvae/data/workers.py", "pickle"),  # between a process and the workers that it has started
    (
        "vvae/objectives/lpips.py",
        "pickle",
    ),  # published as such; the reader makes arrays and nothing else
    ("vvae/pretrained/pytorch_files.py", "pickle"),  # likewise
}


def find_dangers(source: str):
    """Yields what runs code that it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from {node.module.split(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", None))
            is_method_of_a_model = name == "eval" and isinstance(node.func, ast.Attribute)
            if name in CALLS and not is_method_of_a_model:
                yield name
            for keyword in node.keywords:
                constant = getattr(keyword.value, "value", True)
                if keyword.arg in ("allow_pickle", "shell") and constant is not False:
                    yield keyword.arg


def test_no_source_runs_what_it_reads():
    found = {
        (path.relative_to(ROOT).as_posix(), danger)
        for path in SOURCES
        for danger in find_dangers(path.read_text(encoding="utf-8"))
    }
    assert found == EXCEPTIONS


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("import os, pickle as p", "pickle"),
        ("eval('1')", "eval"),
        ("builtins.exec(x)", "exec"),
        ("os.system(x)", "system"),
        ("np.load(p, allow_pickle=True)", "allow_pickle"),
        ("np.load(p, allow_pickle=flag)", "allow_pickle"),
        ("subprocess.run(x, shell=True)", "shell"),
    ],
)
def test_the_search_finds(source, danger):
    assert set(find_dangers(source)) == {danger}


def test_the_search_passes_what_is_harmless():
    assert not set(find_dangers("np.load(p, allow_pickle=False); model.eval(); map_eval(f)"))


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_cache_entry_of_objects_is_refused_and_not_run(tmp_path):
    payload = np.array([Payload(tmp_path / "was_here")], dtype=object)
    np.save(tmp_path / "entry.npy", payload, allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects in dtype"):
        open_codes(str(tmp_path / "entry.npy"))
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("name", ["precision_SZZ", "examples.edge_XE", "examples.label_N"])
def test_a_detector_of_objects_is_refused_and_not_run(tmp_path, name):
    path, numbers = tmp_path / "boundaries.npz", np.zeros((40, 2))
    arrays = {"precision_SZZ": numbers, "threshold": 0.5, "examples.seed": 0}
    arrays |= {"examples.edge_XE": numbers.T, "examples.code_NX": numbers.astype(np.uint8)}
    arrays |= {"examples.label_N": np.arange(40) % 2}
    np.savez(path, **arrays)
    boundaries.load_detector(path)
    arrays[name] = np.array([Payload(tmp_path / "was_here")], dtype=object)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="holds no detector of boundaries"):
        boundaries.load_detector(path)
    assert not (tmp_path / "was_here").exists()
