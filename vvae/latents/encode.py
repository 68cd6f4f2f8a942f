"""Encodes collections of videos to stores of latents: resumable, shared out, in constant memory."""

import contextlib
import errno
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vvae import processes
from vvae.data.collection.index import INDICES, list_sources
from vvae.data.collection.sources import (
    Source,
    digest_content,
    open_path,
    read_metadata,
    read_state,
)
from vvae.data.views import encode_view, get_view
from vvae.files import is_disk_full
from vvae.latents import collection as collections
from vvae.latents.ahead import run_ahead
from vvae.latents.collection import Collection
from vvae.latents.encoder import LatentEncoder, describe_encoder, digest_json, make_encoder
from vvae.latents.estimate import check_disk, estimate, estimate_disk, look_at
from vvae.latents.plan import ClipPlan, Framing, choose_framing, count_latents, resample
from vvae.latents.progress import Progress
from vvae.latents.record import FORMAT, count_frames, describe_frames, vvae_version
from vvae.latents.shards import PartWriter, Shard, StoredSource, read_part, write_shard
from vvae.run import lock
from vvae.runtime import cache_folder, release_memory
from vvae.units import format_bytes
from vvae.video import iterate_frames, read_pixel_aspect

VIEWS = {1: "gray", 3: "rgb"}
_FRAMES_AHEAD = 8  # frames of a group that is read ahead
_GROUPS_AHEAD = 4
_RELEASE_EVERY = 256  # videos
_SHARD_BYTES = 1 << 30
_MAX_NAMED = 20


@dataclass(frozen=True)
class Work:
    """How an encoding runs; the latents do not depend on it.

    Attributes:
      latents_per_piece: the largest number of latent frames computed at a time; see
        `make_encoder`.
      readers: videos that are decoded at a time; by default one per core, at most 8.
      shard_bytes: about how large a shard becomes; counts when a store is begun.
      verify: whether the bytes of all videos are read again, instead of comparing size and time.
      reuse: other stores, from which latents of equal content and settings are taken.
      devices: to encode on; by default all accelerators of this process, or one CPU device.
    """

    latents_per_piece: int | None = None
    readers: int | None = None
    shard_bytes: int = _SHARD_BYTES
    verify: bool = False
    reuse: tuple[str | os.PathLike, ...] = ()
    devices: Sequence[Any] | None = None

    def __post_init__(self):
        if self.shard_bytes < 1 or (self.readers is not None and self.readers < 1):
            raise ValueError(
                f"shard_bytes={self.shard_bytes}, readers={self.readers}: must be at least 1"
            )


@dataclass(frozen=True)
class Summary:
    """What an encoding has done.

    Attributes:
      folder: the store.
      index: its index.json.
      encoded: videos that were encoded now.
      reused: videos whose latents were copied from other names or stores.
      absent: videos of the store that the collection does not list any more; they are kept.
    """

    folder: Path
    index: dict[str, Any]
    encoded: int
    reused: int
    absent: int

    def lines(self) -> list[str]:
        """Describes it, with the videos that could not be encoded."""
        index = self.index
        statistics = index["statistics"]
        lines = [
            f"{index['clips']} clips of {index['videos']} videos, {format_bytes(index['bytes'])}: "
            f"{self.folder}",
            f"encoded now: {self.encoded} videos; reused: {self.reused}",
        ]
        if statistics:
            mean, std = (np.array(statistics[name]) for name in ("mean", "std"))
            overall = np.sqrt(np.mean(std**2 + (mean - mean.mean()) ** 2))
            lines.append(f"stored means: mean {mean.mean():.3f}, deviation {overall:.3f}")
        if index["frames_left_out"]:
            lines.append(f"{index['frames_left_out']} frames filled no clip and were left out")
        if self.absent:
            lines.append(f"{self.absent} videos are not listed any more; their latents are kept")
        failed = index["failed"]
        if failed:
            lines.append(f"{len(failed)} videos could not be encoded and are left out:")
            lines += [f"  {entry['name']}: {entry['error']}" for entry in failed[:_MAX_NAMED]]
            more = len(failed) - _MAX_NAMED
            lines += [f"  and {more} more, in index.json"] if more > 0 else []
        return lines


def encode_collection(
    model,
    params,
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    plan: ClipPlan = ClipPlan(),  # noqa: B008 (immutable)
    dtype: str = "float32",
    work: Work = Work(),
    say: Callable[[str], None] = print,
) -> Summary:
    """Encodes the videos of a collection to a store, or what is missing of it.

    A call that was interrupted, however it was, is continued by the same call: what is done is
    found by content and settings, and in the end the files are those of a call that was not
    interrupted. Videos that cannot be read are recorded with the reason, and left out. Of several
    processes (`vvae.processes`), each encodes the shards of its own; all see one folder.

    Args:
      model: a GridVideoVAE for gray or RGB videos.
      params: its variables.
      root: the collection; see `vvae.data.collection.index.list_sources`.
      out: the folder of the store; made if it is missing.
      plan: the clips.
      dtype: of the latents, float32 or bfloat16.
      work: how it runs.
      say: takes each line of progress.

    Returns:
      What was done; the index is the same in all processes.

    Raises:
      ValueError: if the folder holds latents of other settings, if the disk is too small, if
        another process writes to the folder, if the collection is empty or damaged, or if the
        model has no grid of latents.
      OSError: if the disk fails or becomes full; nothing that was done is lost.
    """
    out = Path(out)
    plan.check_model(model.temporal_compression)
    sources = list_sources(root, cache_folder() / INDICES)
    _refuse_inside(out, root)
    devices = list(work.devices or _choose_devices())
    encoders = [
        make_encoder(
            model,
            params,
            dtype=dtype,
            tail=plan.tail,
            latents_per_piece=work.latents_per_piece,
            device=device,
        )
        for device in devices
    ]
    settings = {
        "encoder": describe_encoder(model, params),
        "plan": plan.as_json(),
        "view": VIEWS[model.shape_HWC[-1]],
        "dtype": dtype,
    }
    looks = look_at(sources, plan)
    needed = estimate_disk(looks, encoders[0], plan) * len(sources)
    num_shards = max(1, -(-int(needed) // work.shard_bytes), processes.count() * len(devices))
    wanted = Collection(
        folder=out,
        num_shards=num_shards,
        settings=settings,
        digest=digest_json({"format": FORMAT} | settings),
        encoder_digest=digest_json(settings["encoder"]),
    )
    with processes.first_only(lock(out)):
        processes.do_first(_open_store, wanted)
        store = collections.read_collection(out)
        job = _Job(store, plan, work, sources)
        missing = int(processes.gather(np.array(len(job.pending))).sum())
        if looks and missing:
            processes.do_first(check_disk, out, needed * missing / len(sources))
            workers = len(devices) * processes.count()
            say(estimate(looks, missing, encoders[0], plan).line(workers))
        job.run(encoders, say)
        processes.wait_for_all()  # the first process reads the shards of all
        processes.do_first(_finish, store)
        return job.summarize()


def _refuse_inside(out: Path, root) -> None:
    """Raises ValueError if the store would lie among the videos: it would be listed with them."""
    folder = Path(root).resolve()
    if folder.is_dir() and out.resolve().is_relative_to(folder):
        raise ValueError(f"{out} is inside the folder of videos {root}: give another folder")


def _choose_devices() -> list[Any]:
    devices = jax.local_devices()
    return devices[:1] if devices[0].platform == "cpu" else devices


def _open_store(wanted: Collection) -> None:
    """Begins a store, or checks that the one that is there has the same settings."""
    if (wanted.folder / collections.COLLECTION).exists():
        collections.check_same(collections.read_collection(wanted.folder), wanted)
        (wanted.folder / collections.SHARDS).mkdir(exist_ok=True)
        collections.remove_leftovers(wanted)
        return
    known = {collections.SHARDS, collections.README, collections.SCHEMA_FILE, ".lock"}
    others = sorted(
        path.name
        for path in wanted.folder.iterdir()
        if path.name not in known and not path.name.startswith(".")
    )
    if others:
        raise ValueError(
            f"{wanted.folder} holds other files ({', '.join(others[:3])}): give an empty folder"
        )
    collections.write_collection(wanted)


def _finish(store: Collection) -> None:
    shutil.rmtree(store.folder / collections.UNFINISHED, ignore_errors=True)
    collections.remove_leftovers(store)
    collections.write_index(store)


# --- the work of one process ----------------------------------------------------------------------


class _SourceError(Exception):
    """A video cannot be encoded, for a reason that lies in the video."""


@dataclass(frozen=True)
class _Task:
    """One video to encode."""

    shard: int
    source: Source


@dataclass(frozen=True)
class _Opened:
    """What is known of a video before its frames: size, time and SHA-256, and what is done."""

    state: dict[str, int]
    content: str
    part: StoredSource | None = None
    same: tuple[Path, int] | None = None


@dataclass(frozen=True)
class _Start:
    """What is known of a video with its first frame."""

    framing: Framing
    pixel_aspect: tuple[int, int]
    metadata: dict[str, Any]


@dataclass
class _Job:
    """The shards of this process: which videos are done, and which are not."""

    store: Collection
    plan: ClipPlan
    work: Work
    sources: Sequence[Source]
    absent: int = 0
    encoded: int = 0
    reused: int = 0
    pending: list[_Task] = field(default_factory=list)

    def __post_init__(self):
        self._same: dict[str, tuple[Path, int]] = {}
        names = [source.name for source in self.sources]
        groups = collections.group_by_shard(self.store, names)
        for number in range(self.store.num_shards):
            path = self.store.shard_path(number)
            entries = Shard(path).read_entries() if path.exists() else []
            self._remember(path, entries)
            if number % processes.count() == processes.index():
                listed = [self.sources[position] for position in groups.get(number, ())]
                self._sort(number, listed, {entry["name"]: entry for entry in entries})
        for folder in self.work.reuse:
            self._add_store(Path(folder))

    def _remember(self, path: Path, entries: Iterable[dict[str, Any]]) -> None:
        """Remembers where the latents of a content lie."""
        for position, entry in enumerate(entries):
            if entry["error"] is None:
                self._same.setdefault(entry["sha256"], (path, position))

    def _add_store(self, folder: Path) -> None:
        other = collections.read_collection(folder)
        collections.check_same(other, self.store)
        for shard in collections.list_shards(other):
            self._remember(shard.path, shard.read_entries())

    def _sort(self, number: int, listed: list[Source], entries: dict[str, dict]) -> None:
        """Finds what of a shard is missing: videos that are new or have changed."""
        self.absent += len(entries.keys() - {source.name for source in listed})
        for source in listed:
            entry = entries.get(source.name)
            if entry is None or not self._is_unchanged(source, entry):
                self.pending.append(_Task(number, source))

    def _is_unchanged(self, source: Source, entry: dict[str, Any]) -> bool:
        try:
            state = read_state(source)
            if any(entry[name] != value for name, value in state.items()):
                return False
            return not self.work.verify or digest_content(source) == entry["sha256"]
        except OSError:
            return False

    # --- running ---------------------------------------------------------------------------------

    def run(self, encoders: Sequence[LatentEncoder], say: Callable[[str], None]) -> None:
        """Encodes what is pending, a thread for each device, and writes the shards."""
        self._progress = progress = Progress(len(self.pending), say, len(encoders))
        shards = sorted({task.shard for task in self.pending})
        shares = [set(shards[k :: len(encoders)]) for k in range(len(encoders))]
        errors: list[BaseException] = []

        def encode_share(encoder: LatentEncoder, share: set[int]) -> None:
            try:
                tasks = [task for task in self.pending if task.shard in share]
                self._encode_tasks(encoder, tasks, errors)
            except BaseException as error:
                errors.append(error)

        threads = [
            threading.Thread(target=encode_share, args=arguments)
            for arguments in list(zip(encoders, shares))[1:]
        ]
        for thread in threads:
            thread.start()
        encode_share(encoders[0], shares[0])
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        if self.pending:
            say(progress.line())
        self.encoded, self.reused = progress.videos - progress.failed, progress.reused

    def _encode_tasks(
        self,
        encoder: LatentEncoder,
        tasks: Sequence[_Task],
        errors: Sequence[BaseException],
    ) -> None:
        readers = self.work.readers or min(os.cpu_count() or 1, 8)
        done: dict[str, StoredSource] = {}
        read = run_ahead(self._read, tasks, readers, _GROUPS_AHEAD)
        with contextlib.closing(read):
            for number, (task, items) in enumerate(read):
                if errors:
                    return
                before, waits = encoder.clock.device, _Waits(items)
                done[task.source.name] = stored = self._encode_source(encoder, task, waits)
                self._progress.add(
                    videos=1,
                    clips=len(stored.clips),
                    frames=sum(count_frames(clip.record) for clip in stored.clips),
                    written=sum(s.size for clip in stored.clips for s in clip.arrays.values()),
                    failed=stored.entry["error"] is not None,
                    device_seconds=encoder.clock.device - before,
                    waited_seconds=waits.seconds,
                )
                if number + 1 == len(tasks) or tasks[number + 1].shard != task.shard:
                    self._complete(task.shard, done)
                    done = {}
                if number % _RELEASE_EVERY == _RELEASE_EVERY - 1:
                    release_memory()

    def _complete(self, number: int, done: dict[str, StoredSource]) -> None:
        """Writes a shard of what was kept of it and what is new."""
        path = self.store.shard_path(number)
        before = Shard(path).read_sources() if path.exists() else []
        stored = {source.entry["name"]: source for source in before} | done
        sources = [stored[name] for name in sorted(stored)]
        metadata = {
            "format": f"vvae-latents-{FORMAT}",
            "settings": self.store.digest,
            "encoder": self.store.encoder_digest,
        }
        write_shard(path, sources, metadata)
        shutil.rmtree(self.store.part_folder(number), ignore_errors=True)

    # --- one video: read in a thread -------------------------------------------------------------

    def _read(self, task: _Task) -> Generator[Any, None, None]:
        """Yields _Opened, then, unless that says it is done, _Start and groups of frames."""
        try:
            opened = self._open(task)
            yield opened
            if opened.part is None and opened.same is None:
                yield from self._read_frames(task.source)
                if read_state(task.source) != opened.state:
                    raise _SourceError("it changed while it was read: run the command again")
        except _SourceError:
            raise
        except (ValueError, OSError) as error:
            if is_disk_full(error):
                raise
            reason = str(error).removeprefix(f"{task.source.path}: ")
            raise _SourceError(" ".join(reason.split())) from error

    def _open(self, task: _Task) -> _Opened:
        state, content = read_state(task.source), digest_content(task.source)
        part = read_part(self._part_path(task, content))
        return _Opened(state, content, part, self._same.get(content))

    def _part_path(self, task: _Task, content: str) -> Path:
        # Two videos of one content have parts of their own.
        name = digest_json(task.source.name)[:16]
        key = self.store.make_key(content)
        return self.store.part_folder(task.shard) / f"{key}-{name}.part"

    def _read_frames(self, source: Source) -> Iterator[Any]:
        view = get_view(self.store.settings["view"])
        with open_path(source) as path:
            size = next(iterate_frames(path))[1].shape[:2]
            framing = choose_framing(self.plan, size)
            aspect = read_pixel_aspect(path).as_integer_ratio()
            yield _Start(framing, aspect, read_metadata(source))
            whole = None if framing.resized == size else framing.resized
            used = resample(iterate_frames(path, whole), self.plan.fps)
            if self.plan.cut == "first":
                used = itertools.islice(used, self.plan.longest)
            group = []
            for number, (seconds, frame) in used:
                codes_HWC = encode_view(view, framing.cut(frame)[None])[0][0]
                group.append((number, seconds, codes_HWC))
                if len(group) == _FRAMES_AHEAD:
                    yield group
                    group = []
            if group:
                yield group

    # --- one video: encoded ----------------------------------------------------------------------

    def _encode_source(
        self, encoder: LatentEncoder, task: _Task, items: Iterator[Any]
    ) -> StoredSource:
        opened = None
        try:
            opened = next(items)
            if opened.part is not None:
                return opened.part
            path = self._part_path(task, opened.content)
            path.parent.mkdir(parents=True, exist_ok=True)
            with PartWriter(path, encoder.dtype) as part:
                copied = self._copy(task, opened, part)
                entry = copied or self._encode_clips(encoder, task, opened, items, part)
                part.commit(entry)
        except _SourceError as error:
            return StoredSource(_make_entry(task.source, opened, error=str(error)), ())
        stored = read_part(path)
        if stored is None:
            raise OSError(errno.EIO, "what was written cannot be read back", str(path))
        return stored

    def _copy(self, task: _Task, opened: _Opened, part: PartWriter) -> dict[str, Any] | None:
        """Copies the latents of equal content and settings; returns None if there are none."""
        if opened.same is None:
            return None
        path, position = opened.same
        shard = Shard(path)
        sources = shard.read_sources()
        found = sources[position] if position < len(sources) else None
        if found is None or found.entry["sha256"] != opened.content:
            return None  # the shard has been written anew since
        metadata = read_metadata(task.source)
        for clip in found.clips:
            record = clip.record
            for start in range(0, record["shape"][0], 64):
                rows = slice(start, start + 64)
                part.append(*(shard.read_array(record, name, rows) for name in ("mean", "std")))
            source = record["source"] | {"name": task.source.name}
            part.end_clip(record | {"source": source, "metadata": metadata})
        self._progress.add(reused=1)
        return _make_entry(
            task.source, opened, clips=len(found.clips), left_out=found.entry["left_out"]
        )

    def _encode_clips(
        self,
        encoder: LatentEncoder,
        task: _Task,
        opened: _Opened,
        items: Iterator[Any],
        part: PartWriter,
    ) -> dict[str, Any]:
        """Encodes the clips of a video into its part; returns its entry."""
        start = next(items)
        writer = _ClipWriter(
            part=part,
            plan=self.plan,
            step=encoder.model.temporal_compression,
            framing=start.framing,
            common={
                "key": self.store.make_key(opened.content),
                "source": {
                    "name": task.source.name,
                    "sha256": opened.content,
                    "bytes": opened.state["bytes"],
                },
                "pixel_aspect": list(start.pixel_aspect),
                "start": self.plan.start,
                "dtype": encoder.dtype,
                "encoder": self.store.encoder_digest,
                "settings": self.store.digest,
                "metadata": start.metadata,
                "vvae": vvae_version(),
            },
        )
        frames = itertools.chain.from_iterable(items)
        try:
            encode = writer.encode_carried if self.plan.start == "carried" else writer.encode_each
            encode(encoder, frames)
        except ValueError as error:
            raise _SourceError(str(error)) from error
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise ValueError(
                f"{task.source.name}: the device has too little memory for frames of "
                f"{start.framing.size}: take smaller sizes, or fewer latents_per_piece than "
                f"{encoder.latents_per_piece}"
            ) from error
        return _make_entry(task.source, opened, clips=writer.num_clips, left_out=writer.left_out)

    def summarize(self) -> Summary:
        """Returns what was done, by all processes together."""
        counts = processes.gather(np.array([self.encoded, self.reused, self.absent], np.int64))
        encoded, reused, absent = (int(count) for count in counts.sum(axis=0))
        index = collections.read_index(self.store)
        return Summary(self.store.folder, index, encoded - reused, reused, absent)


class _Waits:
    """An iterator that counts the seconds that its reader waits."""

    def __init__(self, items: Iterator[Any]):
        self._items, self.seconds = items, 0.0

    def __iter__(self) -> "_Waits":
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.seconds += time.perf_counter() - start


def _make_entry(
    source: Source,
    opened: _Opened | None,
    *,
    clips: int = 0,
    left_out: int = 0,
    error: str | None = None,
) -> dict[str, Any]:
    state = {"bytes": None, "mtime_ns": None} if opened is None else opened.state
    return {
        "name": source.name,
        "sha256": None if opened is None else opened.content,
        **state,
        "clips": clips,
        "left_out": left_out,
        "error": error,
    }


@dataclass
class _ClipWriter:
    """Cuts the frames, or the latents, of one video into clips, and writes them to its part."""

    part: PartWriter
    plan: ClipPlan
    step: int
    framing: Framing
    common: dict[str, Any]
    num_clips: int = 0
    left_out: int = 0

    def encode_each(self, encoder: LatentEncoder, frames: Iterator[tuple]) -> None:
        """Encodes each clip alone: its first frame fills a latent frame."""
        for first in frames:
            seen: list[tuple[int, float]] = []
            chosen = itertools.chain([first], _take(frames, self.plan.longest))
            for pieces in encoder.encode(_note(chosen, seen), self.plan.longest):
                self.part.append(*pieces)
            self._end(seen, first_latent=0)

    def encode_carried(self, encoder: LatentEncoder, frames: Iterator[tuple]) -> None:
        """Encodes the whole video, and cuts its latents into clips."""
        size = count_latents(self.plan.longest, self.step, self.plan.tail)
        seen: list[tuple[int, float]] = []
        first, filled = 0, 0
        for mean, std in encoder.encode(_note(frames, seen)):
            while len(mean):
                room = size - filled
                self.part.append(mean[:room], std[:room])
                filled += len(mean[:room])
                mean, std = mean[room:], std[room:]
                if filled == size:
                    self._end(self._take_seen(seen, first, size), first_latent=first)
                    first, filled = first + size, 0
        if filled:
            self._end(seen, first_latent=first)

    def _take_seen(self, seen: list, first: int, size: int) -> list:
        """Takes the frames of the next latent frames off the list."""
        count = size * self.step - (0 if first else self.step - 1)
        taken, seen[:] = seen[:count], seen[count:]
        return taken

    def _end(self, seen: Sequence[tuple[int, float]], first_latent: int) -> None:
        """Ends a clip: all of it, the longest length that fits, or nothing of it."""
        kept = self._choose(len(seen), first_latent)
        self.left_out += len(seen) - (kept or 0)
        if not kept:
            self.part.drop_clip()
            return
        numbers, times = zip(*seen[:kept])
        record = {
            **self.common,
            "key": f"{self.common['key']}-{self.num_clips:05}",
            "clip": self.num_clips,
            "first_latent": first_latent,
            **describe_frames(self.framing, numbers, times),
        }
        self.part.end_clip(record, self._count_latents(kept, first_latent))
        self.num_clips += 1

    def _choose(self, available: int, first_latent: int) -> int | None:
        """Returns how many frames of a clip are kept."""
        if not first_latent:
            kept = self.plan.choose_length(available)
            if kept is not None and self.plan.tail == "drop":
                kept -= (kept - 1) % self.step
            return kept
        # A clip that carries the state has no frame alone: its lengths are step - 1 longer.
        longer = self.plan.choose_length(available - self.step + 1)
        return None if longer is None else longer + self.step - 1

    def _count_latents(self, num_frames: int, first_latent: int) -> int:
        if first_latent:
            return num_frames // self.step
        return count_latents(num_frames, self.step, self.plan.tail)


def _take(frames: Iterator[Any], longest: int | None) -> Iterator[Any]:
    """Yields what follows the first frame of a clip."""
    return frames if longest is None else itertools.islice(frames, longest - 1)


def _note(frames: Iterable[tuple], seen: list[tuple[int, float]]) -> Iterator[np.ndarray]:
    """Yields frames alone, and appends their numbers and times to `seen`."""
    for number, seconds, frame in frames:
        seen.append((number, seconds))
        yield frame
