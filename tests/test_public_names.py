"""The public names: they exist, are typed, and their help is short."""

import ast
import inspect
import pydoc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vvae

ROOT = Path(__file__).resolve().parents[1]


def read_typed_names(path):
    """Returns the names that a package imports for type checkers alone: name -> module."""
    tree = ast.parse(path.read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {a.asname: f"{node.module}.{a.name}" for node in block.body for a in node.names}


@pytest.mark.parametrize("package", ["vvae", "vvae.data", "vvae.metrics"])
def test_lazy_names_are_those_that_type_checkers_see(package):
    module = sys.modules.get(package) or __import__(package, fromlist=["_"])
    typed = read_typed_names(Path(module.__file__))
    assert sorted(typed) == dir(module)
    for name, full in typed.items():
        value = getattr(module, name)
        home, _, own = full.rpartition(".")
        expected = sys.modules.get(full) if inspect.ismodule(value) else None
        assert value is (expected or getattr(sys.modules[home], own))


def test_there_are_no_other_names():
    assert isinstance(vvae.__version__, str)
    with pytest.raises(AttributeError, match=r"module 'vvae' has no attribute 'enocde'"):
        vvae.enocde  # noqa: B018


def test_help_is_short_and_names_everything():
    text = pydoc.plain(pydoc.render_doc(vvae))
    assert len(text.splitlines()) < 90
    assert [name for name in dir(vvae) if name not in text] == []


def test_every_public_function_says_what_it_does():
    for name in dir(vvae):
        value = getattr(vvae, name)
        assert inspect.getdoc(value), name


PROGRAM = """
import jax
import numpy as np
import vvae

model, params = vvae.load("RUN")
x = np.zeros((1, 4, 8, 8, 1), np.uint8)
reveal_type(vvae.reconstruct(model, params, x))
reveal_type(vvae.elbo(model, params, x, jax.random.key(0)))
reveal_type(vvae.load_run("RUN").label("a.mp4").name)
reveal_type(vvae.metrics.compare)
reveal_type(next(vvae.watch(vvae.load_run("RUN"), iter([x[0, 0]]))).alarm)
sequential: vvae.Model = vvae.SequentialVAE((8, 8, 1))
causal: vvae.Model = vvae.CausalVideoVAE((8, 8, 3))
imported, weights = vvae.load_pretrained("FOLDER", dtype="bfloat16", subfolder="vae")
other: vvae.Model = imported
params = vvae.train(sequential, [x[0]], num_steps=1)
"""
TYPES = ["Array", "Array", "str", "(first: Metric, second: Metric) -> float", "bool"]


def test_pyright_accepts_programs_and_examples(tmp_path):
    program = shutil.which("pyright", path=str(Path(sys.executable).parent)) or shutil.which(
        "pyright"
    )
    if program is None:
        pytest.skip("pyright is not installed")
    (tmp_path / "program.py").write_text(PROGRAM)
    files = [tmp_path / "program.py", *sorted((ROOT / "examples").glob("*.py"))]
    config = tmp_path / "pyrightconfig.json"
    config.write_text(
        f'{{"include": {[str(file) for file in files]}, "typeCheckingMode": "basic", '
        f'"extraPaths": ["{ROOT}", "{ROOT / "examples"}"]}}'.replace("'", '"')
    )
    result = subprocess.run(
        [program, "--project", str(config), "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
    )
    if "program.py" not in result.stdout:
        pytest.skip(f"pyright does not run here: {(result.stdout + result.stderr)[-200:]}")
    assert "0 errors" in result.stdout, result.stdout
    for kind in TYPES:
        assert f'is "{kind}"' in result.stdout, result.stdout
