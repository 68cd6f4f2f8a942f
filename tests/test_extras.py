"""What is said where a package of an extra is missing."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from vvae.extras import locate_extra, require_extra

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"require_extra", "locate_extra"}


def test_an_installed_module_is_returned():
    import xml.dom

    assert require_extra("xml.dom", "any", "a test") is xml.dom
    assert locate_extra("xml", "any", "a test") == Path(xml.__file__).parent


@pytest.mark.parametrize("find", [require_extra, locate_extra])
def test_a_missing_module_is_named_with_what_to_install(find):
    with pytest.raises(ValueError) as caught:
        find("no_such_module", "coding", "the range coder")
    message = str(caught.value)
    assert message.startswith("the range coder needs no_such_module (")
    assert message.endswith("): pip install 'vvae[coding]'")


def test_a_package_is_found_without_running_its_code(tmp_path, monkeypatch):
    (tmp_path / "harmful.py").write_text("raise SystemExit('was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate_extra("harmful", "any", "a test") == tmp_path
    assert "harmful" not in sys.modules


def test_a_module_that_does_not_load_gives_its_reason(tmp_path, monkeypatch):
    (tmp_path / "halfway.py").write_text("raise ImportError('libGL.so.1 is missing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"halfway \(libGL\.so\.1 is missing\): pip install"):
        require_extra("halfway", "vision", "flow")


def test_every_extra_that_is_named_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    used = {
        node.args[1].value
        for path in (ROOT / "vvae").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in NAMES
    }
    assert used <= extras.keys() and len(used) == 7
