"""The folder of a latent store.

    DIR/
      README.md            what is here, and how it is read
      collection.json      the encoder, the plan of the clips, the number of shards, and their hash
      record.schema.json   JSON schema of a record
      shards/latents-00003-of-00064.safetensors
      index.json           the shards with their numbers of clips; statistics of all latents; videos
                           that could not be encoded. Written last, from the shards alone
      unfinished/          parts of shards that are not complete

A video belongs to the shard that the hash of its name says, whatever the other videos are, and lies
there in the order of names. So the files follow from the videos and the settings alone, not from
the order of work, the number of processes or how often they were killed.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vvae.files import TEMPORARY_SUFFIX, write_json, write_text
from vvae.latents.record import FORMAT, SCHEMA, merge_statistics, vvae_version
from vvae.latents.shards import Shard

COLLECTION, INDEX, SCHEMA_FILE = "collection.json", "index.json", "record.schema.json"
README = "README.md"
SHARDS, UNFINISHED = "shards", "unfinished"
_SETTINGS = ("encoder", "plan", "view", "dtype")


@dataclass(frozen=True)
class Collection:
    """What determines the latents of a folder.

    Attributes:
      folder: the store.
      num_shards: of the whole collection.
      settings: `encoder`, `plan`, `view` and `dtype`, JSON values.
      digest: SHA-256 of the settings: latents are valid for equal digests.
      encoder_digest: SHA-256 of the encoder alone.
    """

    folder: Path
    num_shards: int
    settings: dict[str, Any]
    digest: str
    encoder_digest: str

    def choose_shard(self, name: str) -> int:
        """Returns the number of the shard of a video."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.num_shards

    def shard_path(self, number: int) -> Path:
        """Returns the path of a shard."""
        width = max(5, len(str(self.num_shards)))
        name = f"latents-{number:0{width}}-of-{self.num_shards:0{width}}.safetensors"
        return self.folder / SHARDS / name

    def part_folder(self, number: int) -> Path:
        """Returns the folder of the parts of a shard that is not complete."""
        return self.folder / UNFINISHED / f"{number:05}"

    def make_key(self, content: str) -> str:
        """Returns the key of a video of this SHA-256 under these settings."""
        return hashlib.sha256(f"{self.digest} {content}".encode()).hexdigest()[:32]


def read_collection(folder: Path) -> Collection:
    """Reads the collection of a store.

    Raises:
      ValueError: if the folder is no store, or of another format.
    """
    path = Path(folder) / COLLECTION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']}, this vvae reads {FORMAT}")
        settings = {name: values[name] for name in _SETTINGS}
        return Collection(
            Path(folder), values["num_shards"], settings, values["digest"], values["encoder_digest"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not a store of latents: {path.name}: {error}") from error


def check_same(collection: Collection, wanted: Collection) -> None:
    """Raises ValueError, with the first difference, unless both have the same settings."""
    if collection.digest == wanted.digest:
        return
    difference = next(_compare(collection.settings, wanted.settings, ""), "their digests differ")
    raise ValueError(
        f"{collection.folder} holds latents of other settings ({difference}): give another folder, "
        "or the same settings"
    )


def _compare(old: Any, new: Any, name: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _compare(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name} was {_show(old)} and is {_show(new)}"


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def write_collection(collection: Collection) -> None:
    """Writes the files that describe a new store, collection.json last: it makes it one."""
    folder = collection.folder
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    write_json(folder / SCHEMA_FILE, SCHEMA)
    write_text(folder / README, _describe(collection))
    values = {
        "format": FORMAT,
        "digest": collection.digest,
        "encoder_digest": collection.encoder_digest,
        "num_shards": collection.num_shards,
        **collection.settings,
    }
    write_json(folder / COLLECTION, values)


def _describe(collection: Collection) -> str:
    encoder, plan = collection.settings["encoder"], collection.settings["plan"]
    scale = encoder["normalization"]
    identity = set(scale["mean"]) == {0.0} and set(scale["std"]) == {1.0}
    lines = [
        "# Latents of videos",
        "",
        f"Written by vvae {vvae_version()}, format {FORMAT}. Read by `vvae.latents.open(DIR)` or by"
        " any reader of safetensors.",
        "",
        f"- Encoder: {encoder['network'].get('_class_name')}, {encoder['channels']} channels, "
        f"{encoder['temporal_compression']}x{encoder['spatial_compression']}x"
        f"{encoder['spatial_compression']} (frames, rows, columns), weights "
        f"`{encoder['weights'][:12]}`.",
        f"- Clips: {json.dumps(plan)}",
        f"- `KEY.mean` and `KEY.std` in shards/*.safetensors: {collection.settings['dtype']} "
        "[t, h, w, Z], mean and standard deviation of the posterior, "
        + ("not scaled: no scale was published." if identity else "normalised:")
        + ("" if identity else " (z - mean) / std of each channel, by `normalization` in "
           "collection.json."),
        "- `records` in each shard: bytes of a JSON list with the record of each clip, as "
        "record.schema.json describes it; `sources`: the videos.",
        "- `collection.json`: the encoder and the plan in full. `index.json`: the shards, "
        "statistics of all latents, and the videos that could not be encoded.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def list_shards(collection: Collection) -> Iterator[Shard]:
    """Opens the shards that are there, in order."""
    for number in range(collection.num_shards):
        path = collection.shard_path(number)
        if path.exists():
            yield Shard(path)


def write_index(collection: Collection) -> dict[str, Any]:
    """Writes index.json from the shards, one of which is in memory at a time; returns it."""
    shards, parts, failed = [], [], []
    totals = {"videos": 0, "clips": 0, "frames_left_out": 0, "bytes": 0}
    for shard in list_shards(collection):
        records, entries = shard.read_records(), shard.read_entries()
        size = shard.path.stat().st_size
        shards.append({"file": shard.path.name, "clips": len(records), "bytes": size})
        totals["clips"] += len(records)
        totals["bytes"] += size
        totals["videos"] += sum(entry["error"] is None for entry in entries)
        totals["frames_left_out"] += sum(entry["left_out"] for entry in entries)
        failed += [{name: e[name] for name in ("name", "error")} for e in entries if e["error"]]
        if records:
            parts.append({"statistics": merge_statistics(records)})
    index = {
        "format": FORMAT,
        "digest": collection.digest,
        **totals,
        "statistics": merge_statistics(parts),
        "failed": failed,
        "shards": shards,
    }
    write_json(collection.folder / INDEX, index)
    return index


def remove_leftovers(collection: Collection) -> None:
    """Removes what killed processes left half-written; no other process may be writing."""
    folder = collection.folder
    for place in (folder, folder / SHARDS, *(folder / UNFINISHED).glob("*")):
        for path in place.glob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def group_by_shard(collection: Collection, names: Sequence[str]) -> dict[int, list[int]]:
    """Returns number of a shard -> positions of its videos in `names`."""
    groups: dict[int, list[int]] = {}
    for position, name in enumerate(names):
        groups.setdefault(collection.choose_shard(name), []).append(position)
    return groups


def read_index(collection: Collection) -> dict[str, Any]:
    """Reads index.json.

    Raises:
      ValueError: if it cannot be read.
    """
    path = collection.folder / INDEX
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
