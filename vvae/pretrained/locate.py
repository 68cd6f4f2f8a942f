"""Finds published weights on disk: the folder that a path names, and the files that count in it."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_PIPELINE = "model_index.json"
# Files as diffusers names them: NAME.VARIANT-00001-of-00002.safetensors, and the index of these.
_FILE = re.compile(
    r"diffusion_pytorch_model(?:\.(?P<variant>[\w-]+?))?(?:-(?P<number>\d+)-of-(?P<count>\d+))?"
    r"\.safetensors"
)
_INDEX = re.compile(r"diffusion_pytorch_model\.safetensors\.index(?:\.(?P<variant>[\w-]+))?\.json")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_POINTER = b"version https://git-lfs"
_MAX_NAMED = 5  # the largest number of files or tensors that a message names


# --- the folder ---------------------------------------------------------------------------------


def find_folder(path: str | os.PathLike, subfolder: str | None = None) -> Path:
    """Returns the folder of published weights that a path names.

    This is the path itself or its given subfolder, or the folder `vae` of a whole pipeline.

    Raises:
      ValueError: if the path is not a folder, or has no such subfolder.
    """
    folder = Path(path)
    if not folder.exists():
        raise ValueError(describe_missing(path))
    if subfolder is not None:
        if not (folder / subfolder).is_dir():
            raise ValueError(f"{path} has no folder {subfolder!r}: {describe_contents(folder)}")
        folder = folder / subfolder
    if not folder.is_dir():
        raise ValueError(
            f"{path} is a file: give the folder that holds it together with {CONFIG}, here "
            f"{folder.absolute().parent}"
        )
    is_pipeline = (folder / _PIPELINE).is_file() or (folder / "vae" / CONFIG).is_file()
    return folder / "vae" if is_pipeline and not (folder / CONFIG).is_file() else folder


def describe_missing(path: str | os.PathLike) -> str:
    """Describes a path that does not exist, which may be a name on the Hugging Face Hub."""
    text = f"{path}: no such folder"
    if not _HUB_NAME.fullmatch(str(path)):
        return text
    return (
        f"{text}; weights of this name on the Hugging Face Hub must be downloaded first: "
        f"hf download {path} --local-dir FOLDER"
    )


def describe_contents(folder: Path) -> str:
    """Names the first files of a folder that may not exist."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return f"it holds {_join(names)}" if names else "it is empty or missing"


def refuse_pointer(path: Path) -> None:
    """Raises ValueError if git has left a pointer in the place of a large file."""
    try:
        with open(path, "rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER
    except OSError:
        return  # whoever reads the file says why it cannot be read
    if is_pointer:
        raise ValueError(
            f"{path} is a pointer of git-lfs, not the file itself: run `git lfs pull` in its "
            "repository, or download the file"
        )


def _join(names: Iterable[str]) -> str:
    """Joins names; counts those after the first few."""
    names = list(names)
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


# --- the files ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold the weights of a folder.

    Attributes:
      folder: The folder.
      paths: The files.
      index: Name of a tensor -> name of its file; None where there is no index.
    """

    folder: Path
    paths: tuple[Path, ...]
    index: dict[str, str] | None

    def check_index(self, found: dict[str, str]) -> None:
        """Raises ValueError unless the index, if there is one, says what the files hold.

        Args:
          found: Name of a tensor -> name of the file that holds it.
        """
        if self.index is None or self.index == found:
            return
        problems = [
            f"{name} is in {found.get(name, 'no file')} and by the index in "
            f"{self.index.get(name, 'no file')}"
            for name in sorted(self.index.keys() | found.keys())
            if self.index.get(name) != found.get(name)
        ]
        raise ValueError(f"{self.folder}: the index does not fit the files: {_join(problems)}")


def find_files(folder: Path) -> WeightFiles:
    """Finds the files that hold the weights.

    Where there is an index, these are the files that it names. Otherwise they are a single file or
    a complete set of shards. A variant, such as fp16, counts only where it is the only one.

    Raises:
      ValueError: if there are no weights, if a file is missing, or if it is not clear which files
        are meant: several variants, or further files that nothing names.
    """
    variant = _choose_variant(folder)
    index = _read_index(folder, variant)
    names = _list_shards(folder, variant) if index is None else sorted(set(index.values()))
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise ValueError(
            f"{folder}: files of the weights are missing: {_join(missing)}; download them"
        )
    strays = [match[0] for match in _list_files(folder)[variant] if match[0] not in names]
    if strays:
        raise ValueError(
            f"{folder}: nothing names {_join(strays)}, beside the files of the weights, "
            f"{_join(names)}: remove what is not meant"
        )
    return WeightFiles(folder=folder, paths=tuple(folder / name for name in names), index=index)


def refuse_other_weights(folder: Path) -> None:
    """Raises ValueError if shards or an index in a folder would contradict a new single file."""
    others = [match[0] for match in _list_files(folder)[""] if match[0] != WEIGHTS]
    others += [INDEX] if "" in _list_indices(folder) else []
    if others:
        raise ValueError(f"{folder} holds other weights ({_join(others)}): write to another folder")


def _list_files(folder: Path) -> dict[str, list[re.Match]]:
    """Returns variant -> its files; "" is the variant without a name."""
    files = defaultdict(list)
    for name in sorted(os.listdir(folder)):
        if match := _FILE.fullmatch(name):
            files[match["variant"] or ""].append(match)
    return files


def _list_indices(folder: Path) -> dict[str, Path]:
    """Returns variant -> its index."""
    matches = (_INDEX.fullmatch(name) for name in os.listdir(folder))
    return {match["variant"] or "": folder / match[0] for match in matches if match}


def _choose_variant(folder: Path) -> str:
    variants = sorted(_list_files(folder).keys() | _list_indices(folder).keys())
    if not variants:
        raise ValueError(
            f"{folder} holds no weights, neither {WEIGHTS} nor {INDEX}; {describe_contents(folder)}"
        )
    if variants[0] and len(variants) > 1:
        raise ValueError(
            f"{folder} holds several variants of the weights ({', '.join(variants)}) and not the "
            "main one: leave only one of them there"
        )
    return variants[0]


def _read_index(folder: Path, variant: str) -> dict[str, str] | None:
    path = _list_indices(folder).get(variant)
    if path is None:
        return None
    refuse_pointer(path)
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = set(index.values())
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("its weight_map does not name files in the folder")
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a readable index of weights: {error!r}") from error
    return index


def _list_shards(folder: Path, variant: str) -> list[str]:
    """Returns the name of the single file, or those of all shards, missing ones included."""
    files = _list_files(folder)[variant]
    single = [match[0] for match in files if match["number"] is None]
    if single:
        return single
    counts = sorted({match["count"] for match in files})
    if len(counts) > 1:
        raise ValueError(
            f"{folder} holds shards of several sets (-of-{', -of-'.join(counts)}), and no index "
            "says which are meant: remove the others"
        )
    (count,) = counts
    stem = files[0][0].partition("-")[0]
    numbers = range(1, int(count) + 1)
    return [f"{stem}-{number:0{len(count)}}-of-{count}.safetensors" for number in numbers]
