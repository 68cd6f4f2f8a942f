"""Every setting of a generative prior with its default, its range and its meaning."""

from dataclasses import dataclass, field
from typing import Literal

from vvae.config import Checkpoint, Optim, Parallel, Train, runtime_setting
from vvae.config_checks import require, require_fraction, require_positive


@dataclass(frozen=True)
class Videos:
    """The videos that the latents were encoded from."""

    path: str | None = runtime_setting(None)
    """Folder of the videos, whose labels and splits count; None for latents without classes, of
    which a tenth is for validation."""


@dataclass(frozen=True)
class Network:
    """A diffusion transformer over the positions of a grid of latents."""

    width: int = 192
    """Channels of a position; a multiple of 4 and of twice network.heads."""
    depth: int = 6
    """Number of blocks."""
    heads: int = 4
    """Attention heads."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the activations."""

    def __post_init__(self):
        require_positive("network", self, "width", "depth", "heads")
        fits = self.width % 4 == 0 and self.width % (2 * self.heads) == 0
        rule = f"must be a multiple of 4 and of twice network.heads={self.heads}"
        require(fits, "network.width", self.width, rule)


@dataclass(frozen=True)
class Flow:
    """What the loss draws beside noise."""

    known: float = 0.5
    """Share of examples that begin with known latent frames, which teaches to continue videos."""
    class_dropout: float = 0.1
    """Share of examples whose class is hidden, which guidance needs."""

    def __post_init__(self):
        require_fraction("flow", self, "known", "class_dropout")


@dataclass(frozen=True)
class Samples:
    """What is drawn at the end of the training."""

    count: int = runtime_setting(8)
    """Videos of each class; 0 for none."""
    num_steps: int = runtime_setting(25)
    """Steps of Heun's method."""
    guidance: float = runtime_setting(1.0)
    """1 for the velocity of the class; more exaggerates what the class changes."""

    def __post_init__(self):
        require(self.count >= 0, "samples.count", self.count, "must not be negative")
        require_positive("samples", self, "num_steps")
        require(self.guidance >= 0, "samples.guidance", self.guidance, "must not be negative")


@dataclass(frozen=True)
class GenerateConfig:
    """All settings of a generative prior."""

    name: str = runtime_setting("generate")
    """Name of the run directory without --workdir: runs/NAME-TIME."""
    latents: str | None = runtime_setting(None)
    """Store of latents, as `vvae latents` writes it."""
    vae: str | None = runtime_setting(None)
    """Run, or published weights, whose decoder makes videos of latents; None for no videos."""
    data: Videos = Videos()
    network: Network = Network()
    flow: Flow = Flow()
    optim: Optim = field(
        default_factory=lambda: Optim(learning_rate=1e-3, clip_norm=1.0, ema_decay=0.999)
    )
    train: Train = field(
        default_factory=lambda: Train(batch_size=64, num_steps=3000, validate_every=500)
    )
    parallel: Parallel = field(default_factory=Parallel)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    samples: Samples = Samples()

    def __post_init__(self):
        rule = "does not apply to latents: leave it out"
        require(not self.train.clip_lengths, "train.clip_lengths", self.train.clip_lengths, rule)
        require(self.optim.freeze == "none", "optim.freeze", self.optim.freeze, rule)
        accumulate, batch_size = self.train.accumulate or 1, self.train.batch_size
        require(
            accumulate > 0 and batch_size % accumulate == 0,
            "train.accumulate",
            accumulate,
            f"must divide train.batch_size={batch_size}",
        )
