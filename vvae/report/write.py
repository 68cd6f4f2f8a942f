"""One HTML page of a run, from the files in its directory: nothing is computed and no jax starts.

Every task is shown by what its JSON file holds; nothing here knows which tasks there are. The page
needs no network and no other file, except for what is too large to be put into it, which it names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vvae.files import write_text
from vvae.report.files import Inliner, read_run
from vvae.report.page import write_page

NAME = "report.html"
LIMIT_BYTES = 20_000_000


def write_report(workdir, defaults: Mapping[str, Any], limit_bytes: int = LIMIT_BYTES) -> Path:
    """Writes RUN/report.html and returns its path.

    Args:
      workdir: the run directory.
      defaults: settings of `python train.py` without arguments, as nested dictionaries; those of
        the run that differ are named, and are in the command that repeats it.
      limit_bytes: most that pictures and videos may add to the page; files above are linked.

    Raises:
      ValueError: if there is no run, or its config.json cannot be read.
    """
    run = read_run(workdir)
    page = write_page(run, defaults, Inliner(run.workdir, limit_bytes))
    path = run.workdir / NAME
    write_text(path, page)
    return path
