"""Reads stores of latents: random access to clips, and shuffled batches of NumPy arrays."""

import itertools
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vvae.latents import posterior
from vvae.latents.collection import list_shards, read_collection
from vvae.latents.posterior import Scale
from vvae.latents.record import merge_statistics
from vvae.latents.shards import Shard

_MAX_SHARDS = 64  # whose records are kept in memory
Read = Callable[[Mapping[str, Any], int], np.ndarray]


def open(folder: str | os.PathLike) -> "LatentDataset":
    """Opens a store of latents.

    Raises:
      ValueError: if the folder is no store, or if a shard is damaged.
    """
    return LatentDataset(folder)


class LatentDataset:
    """The clips of a store, in a fixed order. A random access data source for grain.

    `dataset[i]` reads clip i from the disk:

        mean, std   [t, h, w, Z], float32 or bfloat16: the posterior, normalised
        record      the record of the clip, as record.schema.json of the store describes it

    Nothing but names and places is in memory; other processes may get copies by pickle.

    Attributes:
      folder: the store.
      scale: the normalisation of the latents.
      settings: the encoder, the plan of the clips, the view and the dtype of the store.
    """

    def __init__(self, folder: str | os.PathLike):
        """Opens a store; see `open`."""
        self.folder = Path(folder)
        self._store = read_collection(self.folder)
        self.settings = self._store.settings
        self.scale = Scale.from_json(self.settings["encoder"]["normalization"])
        self._shards = list(list_shards(self._store))
        self._records: dict[int, list[dict[str, Any]]] = {}
        counts = [int(shard.metadata["clips"]) for shard in self._shards]
        self._ends = list(itertools.accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __repr__(self) -> str:
        return f"LatentDataset({str(self.folder)!r}: {len(self)} clips)"

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def read(self, index: int, frames: slice = slice(None)) -> dict[str, Any]:
        """Reads a clip, or a slice of its latent frames.

        Args:
          index: number of the clip; negative ones count from the end.
          frames: which latent frames. Those of encoders that are causal mean the same in a clip
            that is cut off later, not in one that begins later: see `ClipPlan.start`.

        Raises:
          IndexError: if there is no such clip.
          ValueError: naming the shard and the clip, if its bytes are damaged.
        """
        shard, record = self._find(index)
        arrays = {name: shard.read_array(record, name, frames) for name in ("mean", "std")}
        return arrays | {"record": record}

    def record(self, index: int) -> dict[str, Any]:
        """Returns the record of a clip."""
        return self._find(index)[1]

    def records(self) -> Iterator[dict[str, Any]]:
        """Yields the records of all clips, one shard in memory at a time."""
        for shard in self._shards:
            yield from shard.read_records()

    def statistics(self) -> dict[str, Any] | None:
        """Returns count, mean and std [Z] of the stored means of all clips; None for none."""
        return merge_statistics(list(self.records()))

    def _find(self, index: int) -> tuple[Shard, dict[str, Any]]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no clip {index}: the store has {len(self)}")
        index %= len(self)
        number = bisect_right(self._ends, index)
        if number not in self._records:
            if len(self._records) >= _MAX_SHARDS:
                del self._records[next(iter(self._records))]
            self._records[number] = self._shards[number].read_records()
        records = self._records[number]
        return self._shards[number], records[index - self._ends[number] + len(records)]

    # --- batches ---------------------------------------------------------------------------------

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        position: int = 0,
        read: Read | None = None,
        count: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yields shuffled batches of clips of one shape, without end.

        An epoch takes each clip once, except that a rest of a shape that fills no batch waits for
        another epoch. The order follows from the seed and the number of the epoch; the noise of a
        sample from the seed, the epoch and the clip. One integer continues it all.

        Args:
          batch_size: B.
          seed: of order and noise.
          position: how many batches have been taken before.
          read: (clip, noise seed) -> array, by default a sample of the posterior.
          count: how many batches to yield; None for no end.

        Yields:
          `latents` [B, t, h, w, Z], `records`, `index` int64 [B], and `position`, the number of the
          next batch.

        Raises:
          ValueError: if no shape has batch_size clips.
        """
        groups = self._group_by_shape()
        per_epoch = sum(len(group) // batch_size for group in groups) if batch_size > 0 else 0
        if not per_epoch:
            raise ValueError(
                f"batch_size={batch_size}: no shape has so many clips (the largest group has "
                f"{max(map(len, groups), default=0)})"
            )
        read = read or read_sample
        end = None if count is None else position + count
        for number in itertools.count(position):
            if number == end:
                return
            epoch, place = divmod(number, per_epoch)
            if number == position or place == 0:
                plan = _shuffle(groups, batch_size, seed, epoch)
            clips = [self[int(index)] for index in plan[place]]
            noise_seed = (seed << 32) + epoch
            yield {
                "latents": np.stack([read(clip, noise_seed) for clip in clips]),
                "records": [clip["record"] for clip in clips],
                "index": plan[place],
                "position": number + 1,
            }

    def _group_by_shape(self) -> list[np.ndarray]:
        """Returns the indices of the clips of each shape."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, record in enumerate(self.records()):
            groups.setdefault(tuple(record["shape"]), []).append(index)
        return [np.array(groups[shape], np.int64) for shape in sorted(groups)]

    # --- forms of a clip -------------------------------------------------------------------------

    def raw(self, clip: Mapping[str, Any], noise: np.ndarray | None = None) -> np.ndarray:
        """Returns raw latents of a clip, as the decoder takes them: the mean, or a sample."""
        mean, std = clip["mean"], clip["std"]
        z = mean if noise is None else posterior.sample(mean, std, noise)
        return posterior.raw(self.scale, np.asarray(z, np.float32))

    def moments(self, clip: Mapping[str, Any]) -> np.ndarray:
        """Returns raw mean and log-variance of a clip, float32 [t, h, w, 2 Z]."""
        mean, std = (np.asarray(clip[name], np.float32) for name in ("mean", "std"))
        return posterior.moments(self.scale, mean, std)


def read_sample(clip: Mapping[str, Any], seed: int) -> np.ndarray:
    """Returns a sample of a clip's posterior, float32, normalised; the noise is the clip's own."""
    noise = posterior.draw_noise(seed, clip["record"]["key"], clip["mean"].shape)
    return posterior.sample(*(np.asarray(clip[n], np.float32) for n in ("mean", "std")), noise)


def read_mode(clip: Mapping[str, Any], seed: int) -> np.ndarray:
    """Returns the mean of a clip's posterior, float32, normalised."""
    del seed
    return np.asarray(posterior.mode(clip["mean"], clip["std"]), np.float32)


def _shuffle(groups: list[np.ndarray], batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the indices of the batches of an epoch, [batches, batch_size]."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    batches = []
    for group in groups:
        order = rng.permutation(group)
        whole = len(order) // batch_size * batch_size
        batches.append(order[:whole].reshape(-1, batch_size))
    return rng.permutation(np.concatenate(batches))
