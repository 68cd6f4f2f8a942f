"""Files of the contexts of a run: one for each set of parameters, written once."""

from pathlib import Path
from typing import Any

from vvae.inference.contexts import ContextModel
from vvae.models.digest import digest_params
from vvae.tasks.npz_files import load_fields, save_fields

FOLDER = "contexts"


def name_contexts(workdir: Path, params: Any) -> Path:
    """Returns the path of the contexts of a run for parameters."""
    return Path(workdir) / FOLDER / f"{digest_params(params).hex()[:16]}.npz"


def save_contexts(workdir: Path, params: Any, model: ContextModel) -> None:
    """Writes the contexts for parameters."""
    path = name_contexts(workdir, params)
    path.parent.mkdir(exist_ok=True)
    save_fields(path, model)


def find_contexts(workdir: Path, params: Any) -> ContextModel | None:
    """Returns the contexts for parameters, or None where none were fitted.

    Raises:
      ValueError: naming the file, if it is damaged.
    """
    path = name_contexts(workdir, params)
    if not path.exists():
        return None
    remedy = (
        "restore it: files that were compressed with it cannot be read without it; or delete it "
        "and fit other contexts by the task code"
    )
    return load_fields(path, ContextModel, "contexts", remedy)
