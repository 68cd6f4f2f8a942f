"""The clips of a store of latents as examples of a prior: their splits, classes and statistics."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vvae.data.clips import NO_LABEL
from vvae.data.dataset import list_class_names
from vvae.data.listing import list_videos
from vvae.data.splits import assign_splits
from vvae.data.stream import Batch, make_shuffle
from vvae.inference.statistics import ChannelMoments
from vvae.latents.dataset import LatentDataset
from vvae.measure.examples import spread_evenly

_VAL_SHARE = 0.1
_MAX_STATISTICS = 4096  # clips


@dataclass(frozen=True)
class LatentClips:
    """Some clips of a store, all of one shape. A `vvae.data.stream.Source`.

    Attributes:
      store: the store.
      index_N: numbers of the clips in it.
      label_N: int32, the class of each; NO_LABEL where there is none.
    """

    store: LatentDataset
    index_N: np.ndarray
    label_N: np.ndarray

    def __len__(self) -> int:
        return len(self.index_N)

    @contextlib.contextmanager
    def open_reader(self, seed: int) -> Iterator[Callable[[range], Batch]]:
        """Opens the clips as a `Source`: every epoch is a new permutation."""
        find = make_shuffle(seed, len(self))
        yield lambda positions: self.read(find(positions))

    def read(self, ids: Sequence[int] | np.ndarray) -> Batch:
        """Reads clips by their number here.

        Returns:
          `mean` and `std` float32 [b, t, h, w, Z], `label` and `index` int32 [b].
        """
        clips = [self.store[int(self.index_N[k])] for k in ids]
        arrays = {
            name: np.stack([np.asarray(clip[name], np.float32) for clip in clips])
            for name in ("mean", "std")
        }
        ids = np.asarray(ids, np.int32)
        return arrays | {"label": self.label_N[ids], "index": ids}

    def describe_clip(self, index: int) -> str:
        """Names a clip: its video, and which of its clips."""
        record = self.store.record(int(self.index_N[index]))
        return f"{record['source']['name']} clip {record['clip']}"


@dataclass(frozen=True)
class LatentData:
    """A store divided into splits.

    Attributes:
      splits: `train` and `val`, and `test` where the videos have it.
      class_names: in the order of the labels; empty without classes.
      shape: (t, h, w, Z) of every clip.
    """

    splits: dict[str, LatentClips]
    class_names: tuple[str, ...]
    shape: tuple[int, int, int, int]


def open_latents(folder, videos=None) -> LatentData:
    """Opens a store, and finds the splits and classes of its clips.

    Args:
      folder: the store.
      videos: folder of the videos that were encoded: its labels and splits count, as for a training
        on the videos themselves. None: no classes, and a tenth of the videos, by the hashes of
        their names, is for validation.

    Raises:
      ValueError: if there are too few clips, clips of several shapes, or clips of videos that the
        folder does not hold.
    """
    store = LatentDataset(folder)
    records = list(store.records())
    shapes = sorted({tuple(record["shape"]) for record in records})
    if len(shapes) != 1:
        found = ", ".join("x".join(map(str, shape)) for shape in shapes[:4]) or "none"
        raise ValueError(
            f"{folder} has latents of {len(shapes)} shapes ({found}), a prior takes one: encode "
            "with --sizes HEIGHTxWIDTH and --frames NUMBER"
        )
    names = [record["source"]["name"] for record in records]
    if videos is None:
        split_N, label_N, class_names = _split_by_hash(names), [None] * len(names), ()
    else:
        split_N, label_N, class_names = _find_splits(folder, names, videos)
    ids = {name: number for number, name in enumerate(class_names)}
    labels = np.array([ids.get(label, NO_LABEL) for label in label_N], np.int32)
    splits = {}
    for split in ("train", "val", "test"):
        index_N = np.flatnonzero(np.array(split_N) == split)
        if len(index_N):
            splits[split] = LatentClips(store, index_N, labels[index_N])
    for split in ("train", "val"):
        if split not in splits:
            raise ValueError(f"{folder} has no clip for {split}: {len(names)} clips are too few")
    return LatentData(splits, class_names, shapes[0])


def _split_by_hash(names: Sequence[str]) -> list[str]:
    videos = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(videos[: max(1, round(_VAL_SHARE * len(videos)))])
    return ["val" if name in held_out else "train" for name in names]


def _find_splits(folder, names: Sequence[str], root) -> tuple[list, list, tuple[str, ...]]:
    listed = {video.name: video for video in assign_splits(list_videos(root))}
    unknown = sorted(set(names) - set(listed))
    if unknown:
        raise ValueError(
            f"{folder} has latents of {unknown[0]}, and {len(unknown) - 1} more videos that are "
            f"not in {root}: give the folder that was encoded"
        )
    found = [listed[name] for name in names]
    return [v.split for v in found], [v.label for v in found], list_class_names(listed.values())


def measure_scale(clips: LatentClips) -> dict[str, np.ndarray]:
    """Returns mean and standard deviation [Z], float32, of samples of the posteriors.

    Channels that the encoder does not use have the width of their posterior, so that none is
    divided by nothing.
    """
    means, variances = ChannelMoments(), ChannelMoments()
    for k in spread_evenly(np.arange(len(clips)), _MAX_STATISTICS):
        batch = clips.read([k])
        means.add(batch["mean"])
        variances.add(np.square(batch["std"]))
    _, mean_Z, between_Z = means.current()
    std_Z = np.sqrt(np.square(between_Z) + variances.current()[1])
    return {"mean": mean_Z.astype(np.float32), "std": std_Z.astype(np.float32)}
