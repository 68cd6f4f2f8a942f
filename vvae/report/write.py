"""Writes one HTML page of a run from the files in its directory; computes nothing.

The page needs no network and no other file, except the pictures and videos that are too large for
it: it links to these and names them.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from vvae.files import write_text
from vvae.report import charts, values
from vvae.report.files import read_run
from vvae.report.media import Inliner
from vvae.report.page import describe_run

NAME = "report.html"
LIMIT_BYTES = 20_000_000

_FOLDER = Path(__file__).parent
# HTML text cannot contain control characters except tab and line ends.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


def write_report(workdir, defaults: Mapping[str, Any], limit_bytes: int = LIMIT_BYTES) -> Path:
    """Writes RUN/report.html and returns its path.

    Args:
      workdir: the run directory.
      defaults: settings of `python train.py` without arguments, as nested dictionaries; the page
        names the settings of the run that differ, and the command that repeats the run has them.
      limit_bytes: the most that pictures and videos may add to the page; larger files are linked.

    Raises:
      ValueError: if the directory is not a run, or its config.json cannot be read.
    """
    run = read_run(workdir)
    page = render(describe_run(run, defaults, Inliner(run.workdir, limit_bytes)))
    path = run.workdir / NAME
    write_text(path, page)
    return path


def render(view: Mapping[str, Any]) -> str:
    """Returns the HTML of a page that shows `view`, the values of page.html."""
    return render_page("page.html", view)


def render_page(name: str, view: Mapping[str, Any]) -> str:
    """Returns the HTML of a page: a template of this folder with its values."""
    template = make_environment().get_template(name)
    assets = {
        "style": (_FOLDER / "report.css").read_text(encoding="utf-8"),
        "script": (_FOLDER / "report.js").read_text(encoding="utf-8"),
    }
    # The page names its own size: the first rendering measures it.
    draft = template.render(view, **assets, page_bytes=view["inliner"].used_bytes)
    return template.render(view, **assets, page_bytes=len(draft.encode()))


def make_environment() -> jinja2.Environment:
    """Returns the environment of the templates, which escapes every value that is not `safe`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["frame"] = charts.FRAME
    environment.filters |= {
        "breakable": _break,
        "bytes": values.format_bytes,
        "count": "{:,}".format,
        "csp_hash": _hash,
        "plain": values.format_value,
        "quoted": repr,
    }
    return environment


def _clean(value):
    """Replaces what an HTML file cannot contain: control characters and halves of surrogates.

    File names may have both. HTML of a macro, and values marked as safe, stay as they are.
    """
    if hasattr(value, "__html__"):
        return value
    text = _FORBIDDEN.sub("\ufffd", str(value))
    return text.encode("utf-8", "replace").decode("utf-8")


def _break(text: str) -> Markup:
    """Lets lines break behind the underscores and slashes of a name."""
    return Markup(re.sub("([_/])", r"\1<wbr>", str(escape(_clean(text)))))


def _hash(text: str) -> str:
    """Returns the SHA-256 of an inline style or script as a content security policy has it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
