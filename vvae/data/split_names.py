"""The names of splits, in the spellings that data sets use."""

import re
from collections.abc import Iterable

MAIN_SPLITS = ("train", "val", "test")
HOW_TO_STATE = "state them in a column `split` of manifest.csv or by folders train, val, test"
_SPELLINGS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
# Words of a name: TrainVideos and train_videos_01 have the words train and videos.
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def find_main_split(name: str) -> str | None:
    """Returns the main split that a name spells, in any case; None for another name."""
    return _SPELLINGS.get(name.casefold())


def guess_main_split(name: str) -> str | None:
    """Returns the main split that the first or the last word of a name spells, or None."""
    words = _WORD.findall(name)
    guesses = [find_main_split(word) for word in (*words[:1], *words[-1:])]
    return next((split for split in guesses if split is not None), None)


def unify_splits(stated: Iterable[str], where: str) -> dict[str, str]:
    """Maps the stated name of each split to the split.

    Args:
      stated: The names, in any spelling. Those that spell no main split stay as they are.
      where: Where they are stated, for the error.

    Raises:
      ValueError: If two names that differ in more than their case spell the same main split.
    """
    split_of = {name: find_main_split(name) or name for name in sorted(stated)}
    first_of: dict[str, str] = {}
    for name, split in split_of.items():
        first = first_of.setdefault(split, name)
        if first.casefold() != name.casefold():
            raise ValueError(
                f"{where}: {first!r} and {name!r} both mean the split {split}: rename one of them "
                f"({', '.join(MAIN_SPLITS)}, or a name of its own for what is neither)"
            )
    return split_of
