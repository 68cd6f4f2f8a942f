"""The options of each task and command of `evaluate`. Imports no jax, so that --help is quick.

--help prints the docstring of a class as the description of its task, and the string below a field
as that of the option.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from vvae import cli
from vvae.files import check_output
from vvae.task_table import BASELINES, POOLINGS, TASKS


@dataclass(frozen=True)
class Videos:
    """Other videos than those of the run."""

    path: str | None = None
    """Folder of videos."""


@dataclass(frozen=True)
class RunOptions:
    """A run, and one of its checkpoints."""

    workdir: Path | None = None
    """Run directory."""
    which: str = "best"
    """Checkpoint: best, latest or a step."""

    @property
    def checkpoint(self) -> str | int:
        """The checkpoint as `vvae.load` takes it."""
        return parse_checkpoint(self.which)

    def check_run(self) -> None:
        """Raises ValueError if no run is given."""
        _require_run(self.workdir)


def parse_checkpoint(which: str) -> str | int:
    """Returns a step as a number, and best and latest as they are."""
    return int(which) if which.isdecimal() else which


def _require_run(workdir: Path | None) -> None:
    if workdir is None:
        raise ValueError("give the run to evaluate: --workdir RUN")


@dataclass(frozen=True)
class CommonOptions(RunOptions):
    """The options of all tasks: the run, the videos to measure, and the processes.

    Without --data.path, the run's own test videos are measured.
    """

    data: Videos = Videos()
    parallel: cli.ProcessOptions = field(default_factory=cli.ProcessOptions)


# --- tasks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskOptions:
    """The options of one task."""

    def check(self, common: CommonOptions) -> None:
        """Raises ValueError if these options do not go with the common ones."""
        common.check_run()


@dataclass(frozen=True)
class ClipSize:
    """The size of clips for published weights. A run has its own."""

    height: int | None = None
    """With --pretrained: rows of a frame (256)."""
    width: int | None = None
    """With --pretrained: columns of a frame (256)."""
    num_frames: int | None = None
    """With --pretrained: frames of a clip (17)."""


@dataclass(frozen=True)
class Reconstruct(TaskOptions):
    """Measures PSNR, SSIM and errors of reconstructions, beside PCA and the mean frame."""

    pretrained: Path | None = None
    """Folder of published weights (config.json and .safetensors files), instead of a run."""
    data: ClipSize = ClipSize()

    def check(self, common: CommonOptions) -> None:
        given = [name for name, value in vars(self.data).items() if value is not None]
        if self.pretrained is None:
            if given:
                raise ValueError(
                    f"--data.{given[0]} needs --pretrained: a run has clips of its own size"
                )
            super().check(common)
        elif common.data.path is None or common.workdir is not None:
            raise ValueError(
                "published weights need videos and no run: "
                "reconstruct --pretrained FOLDER --data.path DIR"
            )
        elif common.parallel.coordinator is not None:
            raise ValueError("--pretrained runs in one process: leave --parallel.coordinator out")


@dataclass(frozen=True)
class Density(TaskOptions):
    """Measures ELBO, IWAE, bits/dim, KL and mutual information of the latents."""


@dataclass(frozen=True)
class Classify(TaskOptions):
    """Measures a linear probe and nearest neighbours on the latents; labels new videos."""

    baselines: tuple[str, ...] | None = None
    """Baselines to measure, instead of those of the run's settings (evaluate.baselines)."""
    poolings: tuple[str, ...] = ()
    """Poolings to choose from, for the model and for the random encoder each by cross-validation
    over training videos, instead of evaluate.pooling."""

    def __post_init__(self):
        for name in self.poolings:
            if name not in POOLINGS:
                text = cli.describe_unknown("pooling", name, POOLINGS)
                raise ValueError(f"--poolings: {text}")
        for name in self.baselines or ():
            if name not in BASELINES:
                text = cli.describe_unknown("baseline", name, BASELINES)
                raise ValueError(f"--baselines: {text}")


@dataclass(frozen=True)
class Generate(TaskOptions):
    """Draws samples, interpolations and traversals; measures predictions of the next frames."""


@dataclass(frozen=True)
class Features(TaskOptions):
    """Writes the latents of every clip and frame, with a Parquet index."""


@dataclass(frozen=True)
class Cluster(TaskOptions):
    """Clusters videos by their latents, and by PCA of raw clips."""


@dataclass(frozen=True)
class Search(TaskOptions):
    """Finds the clips most similar to a video or a clip."""

    query: str | None = None
    """What to search for, VIDEO or one clip of it, VIDEO:CLIP: a video of the run, or a file."""
    count: int = 8
    """Number of clips to find."""
    per_video: int = 1
    """Largest number of clips of one video among them."""

    def __post_init__(self):
        for name in ("count", "per_video"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"--{name}={value}: must be greater than 0")

    def check(self, common: CommonOptions) -> None:
        super().check(common)
        if self.query is None:
            raise ValueError("the task search needs --query VIDEO")


@dataclass(frozen=True)
class Anomaly(TaskOptions):
    """Learns from normal videos; scores how abnormal frames and videos are, also new ones."""


@dataclass(frozen=True)
class Segment(TaskOptions):
    """Finds shot boundaries and foreground masks; finds the shots of new videos."""


@dataclass(frozen=True)
class Moderate(TaskOptions):
    """Learns unwanted content from marked videos; finds it in new videos.

    It learns from --unwanted or from --marks. With --data.path, it applies what it has learned.
    """

    unwanted: str | None = None
    """Class to declare unwanted."""
    num_marks: int | None = None
    """How many training videos of this class are marked (10, or all if there are fewer), beside up
    to 30 of other classes."""
    marks: Path | None = None
    """CSV file of videos with columns path and label, wanted or unwanted."""

    def __post_init__(self):
        if self.num_marks is not None and self.unwanted is None:
            raise ValueError("--num_marks is an option of moderate, beside --unwanted CLASS")
        if self.num_marks is not None and self.num_marks < 2:
            raise ValueError(f"--num_marks={self.num_marks}: must be at least 2")

    def check(self, common: CommonOptions) -> None:
        super().check(common)
        given = sum(option is not None for option in (self.unwanted, self.marks))
        learns = common.data.path is None
        if learns and given != 1:
            raise ValueError(
                "the task moderate learns from --unwanted CLASS or from --marks FILE.csv: give one "
                "of them"
            )
        if given and not learns:
            raise ValueError(
                "--unwanted and --marks are options of moderate on the run's own videos; on others "
                "(--data.path) it applies what it has learned from those"
            )


@dataclass(frozen=True)
class Latents(TaskOptions):
    """Writes the latents of a run's own clips, with statistics (vvae evaluate latents)."""


@dataclass(frozen=True)
class Code(TaskOptions):
    """Fits the probabilities that compress codes latents with; measures the bits that they save."""

    step: float | None = None
    """Step of the quantisation, in standard deviations of the posterior (2)."""

    def __post_init__(self):
        _check_step(self.step)


def _check_step(step: float | None) -> None:
    if step is not None and not 0 < step < math.inf:
        raise ValueError(f"--step={step}: must be positive")


# --- commands ------------------------------------------------------------------------------------


def _list_records(run: Path) -> list[Path]:
    """Lists the JSON files of a run, which a comparison reads."""
    return [run / "config.json", run / "classes.json", *sorted((run / "eval").rglob("*.json"))]


@dataclass(frozen=True)
class Check:
    """Describes a folder of videos, and what is broken in it."""

    data: Videos = Videos()

    def __post_init__(self):
        if self.data.path is None:
            raise ValueError("check needs a folder of videos: --data.path DIR")


@dataclass(frozen=True)
class Export(RunOptions):
    """Writes the encoder as one file that runs with jax alone."""

    def __post_init__(self):
        self.check_run()


@dataclass(frozen=True)
class Compare:
    """Compares two runs; refuses to compare numbers whose metric cards differ."""

    operands: ClassVar[tuple[str, str]] = ("RUN", "RUN")
    runs: tuple[Path, Path]
    """The two run directories."""
    out: Path | None = None
    """JSON file to write."""
    overwrite: bool = False
    """Replace the JSON file if it exists."""

    def __post_init__(self):
        if self.out is not None:
            inputs = [path for run in self.runs for path in _list_records(run)]
            check_output(self.out, inputs=inputs, suffixes=(".json",), overwrite=self.overwrite)


@dataclass(frozen=True)
class Report:
    """Writes one HTML page of a run."""

    workdir: Path | None = None
    """Run directory."""

    def __post_init__(self):
        _require_run(self.workdir)


@dataclass(frozen=True, kw_only=True)
class Compress(RunOptions):
    """Writes a video as coded latents."""

    operands: ClassVar[tuple[str, str]] = ("IN.mp4", "OUT.vvz")
    files: tuple[Path, Path]
    """The video, and the file to write."""
    step: float | None = None
    """Step of the quantisation, in standard deviations of the posterior (2)."""
    overwrite: bool = False
    """Replace OUT.vvz if it exists."""

    def __post_init__(self):
        self.check_run()
        _check_step(self.step)
        source, target = self.files
        check_output(target, inputs=[source], suffixes=(".vvz",), overwrite=self.overwrite)


@dataclass(frozen=True, kw_only=True)
class Decompress(RunOptions):
    """Writes the video of coded latents."""

    operands: ClassVar[tuple[str, str]] = ("IN.vvz", "OUT.mp4")
    files: tuple[Path, Path]
    """The coded latents, and the video to write."""
    lossless: bool = False
    """Write the decoded frames without loss."""
    overwrite: bool = False
    """Replace OUT.mp4 if it exists."""

    def __post_init__(self):
        from vvae.video.writing import CONTAINERS

        self.check_run()
        source, target = self.files
        check_output(target, inputs=[source], suffixes=tuple(CONTAINERS), overwrite=self.overwrite)


COMMANDS = {
    "check": Check,
    "compare": Compare,
    "report": Report,
    "export": Export,
    "compress": Compress,
    "decompress": Decompress,
}


def find_options(name: str) -> type:
    """Returns the class of the options of a task or a command."""
    return COMMANDS[name] if name in COMMANDS else globals()[TASKS[name].options]
