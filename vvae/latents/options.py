"""The options of `vvae latents`, `vvae latents export` and `vvae decode`. Imports no jax.

--help prints the docstring of a class as the description of its command, and the string below a
field as that of the option.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from vvae import cli
from vvae.latents.plan import ClipPlan
from vvae.tasks.options import RunOptions, Videos
from vvae.video.writing import CONTAINERS

FORMATS = ("maxdiffusion", "fastvideo", "musubi", "ltx2", "finetrainers", "automodel")
_SIZE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class NetworkOptions(RunOptions):
    """The network: published weights, or a run."""

    pretrained: Path | None = None
    """Folder of published weights, instead of a run."""

    activations: Literal["float32", "bfloat16"] | None = None
    """Dtype of the activations of published weights; bfloat16 is faster on accelerators."""

    def check_network(self) -> None:
        """Raises ValueError unless exactly one network is given."""
        if (self.pretrained is None) == (self.workdir is None):
            raise ValueError("give the network: --pretrained DIR, or --workdir RUN")
        if self.workdir is not None and self.activations is not None:
            raise ValueError("--activations is for --pretrained: a run has a dtype of its own")


@dataclass(frozen=True, kw_only=True)
class EncodeLatents(NetworkOptions):
    """Encodes a collection of videos to a store of latents, or goes on where it stopped.

    VIDEOS is a folder of videos, a .csv or .parquet with a column `path`, or WebDataset tars.
    """

    data: Videos = field(default_factory=Videos)
    out: Path | None = None
    """Folder of the store."""
    sizes: tuple[str, ...] = ()
    """HEIGHTxWIDTH of buckets; by default each video's own size."""
    crop: Literal["center", "stretch"] = "center"
    """How a video is fitted into its bucket."""
    frames: tuple[int, ...] = ()
    """Lengths of clips, in frames; by default whole videos."""
    cut: Literal["all", "first"] = "all"
    """All clips of a video, or its first one."""
    fps: float | None = None
    """Frames a second to resample to; by default every frame."""
    tail: Literal["repeat", "drop"] = "repeat"
    """Frames at the end that fill no latent frame: repeat the last one, or leave them out."""
    start: Literal["first_frame", "carried"] = "first_frame"
    """Clips are encoded alone, or cut from the latents of the whole video."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the stored latents."""
    piece: int | None = None
    """Latent frames computed at a time, fewer take less memory (1 on CPUs, else 4)."""
    readers: int | None = None
    """Videos decoded at a time (one a core, at most 8)."""
    shard_mb: float = 1024.0
    """Size of a file of the store, MB; counts when the store is begun."""
    verify: bool = False
    """Read the bytes of all videos again, instead of trusting size and time."""
    reuse: tuple[Path, ...] = ()
    """Stores of the same settings, to take latents from."""
    parallel: cli.ProcessOptions = field(default_factory=cli.ProcessOptions)

    def __post_init__(self):
        self.check_network()
        if self.data.path is None or self.out is None:
            raise ValueError(
                "latents needs videos and a folder: --data.path VIDEOS --out STORE (those of the "
                "run's own clips: vvae evaluate latents)"
            )
        counts = [count for count in (self.piece, self.readers) if count is not None]
        if min(counts, default=1) < 1 or self.shard_mb <= 0:
            raise ValueError(
                f"--piece={self.piece}, --readers={self.readers}, --shard_mb={self.shard_mb}: must "
                "be greater than 0"
            )
        self.plan()

    def plan(self) -> ClipPlan:
        """Returns the clips.

        Raises:
          ValueError: for a size that is not HEIGHTxWIDTH, and as ClipPlan.
        """
        matches = {size: _SIZE.fullmatch(size) for size in self.sizes}
        wrong = [size for size, match in matches.items() if match is None]
        if wrong:
            raise ValueError(f"--sizes {wrong[0]}: must be HEIGHTxWIDTH, such as 480x832")
        return ClipPlan(
            sizes=tuple((int(m[1]), int(m[2])) for m in matches.values() if m is not None),
            crop=self.crop,
            frames=self.frames,
            cut=self.cut,
            fps=self.fps,
            tail=self.tail,
            start=self.start,
        )


@dataclass(frozen=True, kw_only=True)
class ExportLatents:
    """Writes the latents of a store as the cache of a trainer."""

    operands: ClassVar[tuple[str, str]] = ("STORE", "OUT")
    files: tuple[Path, Path]
    """The store, and the folder to write."""
    format: str = ""
    """The trainer: maxdiffusion, fastvideo, musubi, ltx2, finetrainers or automodel."""
    text: Path | None = None
    """Folder of embeddings of captions, NAME.npy [L, D] for a video NAME.mp4."""
    seed: int = 0
    """Of the noise of samples, in formats that hold samples."""

    def __post_init__(self):
        if self.format not in FORMATS:
            given = f"no format {self.format!r}" if self.format else "export needs --format"
            raise ValueError(f"{given}: choose {', '.join(FORMATS)}")


@dataclass(frozen=True, kw_only=True)
class DecodeLatents(NetworkOptions):
    """Writes the videos of a store of latents: a folder of them, or one file."""

    operands: ClassVar[tuple[str, str]] = ("STORE", "OUT")
    files: tuple[Path, Path]
    """The store, and the folder or the video to write."""
    name: str | None = None
    """Name of one video in the collection."""
    seed: int | None = None
    """Decode a sample with this seed, instead of the mean."""
    lossless: bool = False
    """Write the decoded frames without loss."""
    overwrite: bool = False
    """Replace a video if it exists."""

    def __post_init__(self):
        self.check_network()
        out = self.files[1]
        if self.is_one_file and out.exists() and not self.overwrite:
            raise ValueError(f"{out} exists: give another name, or --overwrite to replace it")

    @property
    def is_one_file(self) -> bool:
        """Whether OUT is a video, not a folder."""
        return self.files[1].suffix.lower() in CONTAINERS
