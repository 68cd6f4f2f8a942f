"""Which videos of a collection are trained on, and the few that are held out."""

from dataclasses import dataclass

import numpy as np

from vvae.data.collection.index import Index
from vvae.data.collection.permutation import Permutation
from vvae.data.split_names import MAIN_SPLITS

# Not the seed of a training: all trainings of a collection hold out the same videos.
_KEY = (2**64 - 1, 0)
_LEAST = 3


@dataclass(frozen=True)
class Rows:
    """Some rows of an index in a fixed, shuffled order, computed and not stored.

    Attributes:
      permutation: Of the places in `base`.
      first: The first place that is theirs.
      count: How many there are.
      base: The rows that the permuted numbers stand for; None for the numbers themselves.
    """

    permutation: Permutation
    first: int
    count: int
    base: np.ndarray | None = None

    def __len__(self) -> int:
        return self.count

    def __call__(self, places_N: np.ndarray) -> np.ndarray:
        """Returns the rows at places 0 .. count - 1, int64."""
        found_N = self.permutation(np.asarray(places_N, np.int64) + self.first)
        return found_N if self.base is None else self.base[found_N]

    def take(self, count: int) -> np.ndarray:
        """Returns the first rows, at most `count`."""
        return self(np.arange(min(count, self.count)))


@dataclass(frozen=True)
class Division:
    """The rows of each split, and the numbers of videos of splits that are not opened."""

    splits: dict[str, Rows]
    left_out: dict[str, int]


def divide(index: Index, subset: int) -> Division:
    """Divides a collection: as stated, or `subset` videos each for validation and test.

    Where no split is stated, at most a tenth of the videos is validation and at most a tenth test,
    drawn by a seed that is always the same. Where splits are stated without `val`, it is drawn
    from `train`. Of a stated `val` and `test`, `subset` videos are drawn.

    Raises:
      ValueError: If there are too few videos, if groups are stated without splits, or if there is
        no split `train`.
    """
    stated = index.find_splits()
    if not stated:
        if index.has_groups:
            raise ValueError(
                "the list states groups and no splits: a collection that is not decoded "
                "beforehand is not divided by groups; state the column `split`"
            )
        return Division(_draw(len(index), subset, None, ("val", "test", "train")), {})
    if not len(stated.get("train", ())):
        raise ValueError(f"no split train among the stated ones ({', '.join(sorted(stated))})")
    splits = {
        name: Rows(Permutation(len(stated[name]), _KEY), 0, len(stated[name]), stated[name])
        for name in MAIN_SPLITS
        if name in stated
    }
    if "val" not in splits:
        splits |= _draw(len(stated["train"]), subset, stated["train"], ("val", "train"))
    left_out = {name: len(rows) for name, rows in stated.items() if name not in MAIN_SPLITS}
    return Division(splits, left_out)


def _draw(
    count: int, subset: int, base: np.ndarray | None, names: tuple[str, ...]
) -> dict[str, Rows]:
    """Gives `subset` rows to every split but the last, which gets the others."""
    if count < _LEAST:
        raise ValueError(f"{count} videos are too few to divide: give at least {_LEAST}")
    size = min(subset, max(1, count // 10))
    permutation, first, splits = Permutation(count, _KEY), 0, {}
    for name in names[:-1]:
        splits[name] = Rows(permutation, first, size, base)
        first += size
    splits[names[-1]] = Rows(permutation, first, count - first, base)
    return splits
