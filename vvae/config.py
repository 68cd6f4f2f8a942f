"""Every setting of a run with its default, its range and its meaning.

A setting is *identity* (it decides the result: data selection, model, objective, optimizer, seed,
batch, precision) or *runtime* (where and how the work is done). A run can only be continued with
the identity settings that it began with; see `identity` and `difference`.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from vvae import config_checks
from vvae.config_checks import (
    require,
    require_at_least_zero,
    require_finite,
    require_fraction,
    require_positive,
)
from vvae.task_table import ANOMALY_SCORES, BASELINES, DEFAULT_BASELINES, DEFAULT_TASKS, TASKS


def runtime_setting(default) -> Any:
    """Returns a field that is no identity setting: it does not decide the result."""
    return field(default=default, metadata={"runtime": True})


def is_runtime(setting: dataclasses.Field) -> bool:
    """Whether a field of a settings dataclass is a runtime setting."""
    return bool(setting.metadata.get("runtime"))


@dataclass(frozen=True)
class Data:
    """The videos, and how they are read."""

    path: str | None = runtime_setting(None)
    """Folder of videos, WebDataset tars, or a .csv or .parquet with a column `path`; None only for
    the built-in data set."""
    name: str = runtime_setting("performers")
    """Data set of these settings; `performers` is built in, others need data.path."""
    view: str = "gray"
    """What the model sees: gray, rgb, difference, motion, flow, rootflow, rootspeed, otsu, or a
    stack such as gray+flow."""
    height: int = 32
    """Rows of a frame after resizing."""
    width: int = 32
    """Columns of a frame after resizing."""
    num_frames: int = 16
    """Frames in a clip."""
    frame_stride: int = 1
    """Every n-th frame of the file is used (windows sampling)."""
    sampling: Literal["windows", "whole"] = "windows"
    """windows: consecutive clips; whole: num_frames spread over the video by its timestamps."""
    tile: int | None = None
    """Side of square tiles; each tile is a clip of its own. None for whole frames. Only the tasks
    density and anomaly work with tiles."""
    on_error: Literal["skip", "raise"] = "skip"
    """skip: name, count and leave out unreadable files; raise: end the run at the first one."""
    flip: bool = False
    """Augmentation: mirror half of the clips."""
    crop: int = 0
    """Augmentation: shift a clip by up to this many pixels."""
    brightness: float = 0.0
    """Augmentation: change a clip's brightness by up to this fraction."""
    images: float = 0.0
    """Share of training clips that are cut to a single frame, for model.kind=causal or published.
    They take as much time as whole clips."""
    cache_dir: str | None = runtime_setting(None)
    """Folder of decoded clips and of indices of collections; None for the user's cache folder."""
    cache_gb: float = runtime_setting(20.0)
    """Quota of the decoded clips on disk, in GB."""
    cache: Literal["auto", "none", "clips"] = "auto"
    """clips: decode a folder of videos once, before training; none: decode what is needed when it
    is needed; auto: clips for a folder, none for WebDataset tars and lists of paths."""
    subset: int = 128
    """Videos that are decoded beforehand where data.cache=none: so many for validation, for test,
    and of the training videos, for statistics."""
    workers: int | None = runtime_setting(None)
    """Processes that decode videos; None for one per processor core."""
    max_megapixels: float = runtime_setting(64.0)
    """Largest frame that is decoded, in megapixels; a file with a larger one counts as broken. Each
    worker needs 14 bytes per pixel."""
    decode_seconds: float = runtime_setting(3600.0)
    """Time limit for decoding one video; after it the video counts as broken, and its worker is
    replaced."""

    def __post_init__(self):
        rule = "must name a folder; leave it out for the built-in data set"
        require(self.path != "", "data.path", self.path, rule)
        require_positive("data", self, "height", "width", "num_frames", "frame_stride", "cache_gb")
        require_positive("data", self, "subset", "max_megapixels", "decode_seconds")
        require_at_least_zero("data", self, "crop")
        require_fraction("data", self, "brightness", "images")
        workers = self.workers
        require(workers is None or workers >= 0, "data.workers", workers, "must not be negative")


@dataclass(frozen=True)
class Model:
    """SequentialVAE: one latent per frame with dynamics, and one per clip; or CausalVideoVAE, or a
    network with published weights."""

    kind: Literal["sequential", "causal", "published"] = "sequential"
    """sequential: the settings below; causal: a grid of latents, by the settings causal.*;
    published: the network of the weights in --init_from."""
    network: str = ""
    """The published network as JSON; set by --init_from FOLDER."""
    decoder_widths: tuple[int, ...] = ()
    """published: channels of a small decoder in place of the published one, at each resolution, the
    coarsest first; () for the published decoder."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels after each stride-2 convolution, each of which halves the frame; () for dense layers
    only."""
    hidden: int = 256
    """Width of the dense layers."""
    latent_dim: int = 50
    """Dimensions of a frame latent."""
    clip_latent_dim: int = 5
    """Dimensions of the clip latent; 0 for a model without one."""
    prior: Literal["learned", "static", "standard"] = "learned"
    """Prior of the frame latents: p(z_t | z_<t, w), p(z_t | w) or N(0, I)."""
    clip_prior: Literal["normal", "mixture"] = "normal"
    """Prior of the clip latent: N(0, I) or a learned mixture of Gaussians."""
    num_components: int = 10
    """Components of the mixture."""
    posterior: Literal["frame", "filter"] = "frame"
    """q(z_t | x_t), or q(z_t | x_<=t)."""
    linear: bool = True
    """Whether a linear path, which starts as PCA of the training frames, runs beside the
    networks."""
    likelihood: Literal["gaussian", "bernoulli", "discretized_logistic"] = "gaussian"
    """Likelihood of the frames; bernoulli needs data.view=otsu, discretized_logistic gray or
    rgb."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the activations of the convolutional networks."""

    def __post_init__(self):
        fits = not self.network or self.kind == "published"
        require(fits, "model.network", self.network, "needs model.kind=published")
        fits = not self.decoder_widths or self.kind == "published"
        rule = "needs model.kind=published"
        require(fits, "model.decoder_widths", self.decoder_widths, rule)
        rule = "must be greater than 0"
        fits = min(self.decoder_widths, default=1) > 0
        require(fits, "model.decoder_widths", self.decoder_widths, rule)
        require(min(self.widths, default=1) > 0, "model.widths", self.widths, rule)
        require_positive("model", self, "hidden", "latent_dim", "num_components")
        require_at_least_zero("model", self, "clip_latent_dim")
        has_clip = self.clip_latent_dim > 0 or self.clip_prior == "normal"
        rule = "must be greater than 0 for model.clip_prior=mixture"
        require(has_clip, "model.clip_latent_dim", self.clip_latent_dim, rule)


@dataclass(frozen=True)
class Causal:
    """CausalVideoVAE: a grid of latents from causal convolutions, for model.kind=causal."""

    widths: tuple[int, ...] = (24, 48, 72, 80)
    """Channels at each resolution, the finest first; one more than the number of halvings."""
    blocks: tuple[int, int] = (2, 2)
    """Residual blocks per resolution, of the encoder and of the decoder."""
    temporal_compression: int = 4
    """Frames per latent frame: 1, 2, 4 or 8; the first frame has a latent frame of its own."""
    spatial_compression: int = 8
    """Rows and columns per latent: 4, 8, 16 or 32."""
    stem: Literal["none", "patch", "wavelet", "pca"] = "none"
    """Compression before the first convolution: patch (2x2 pixels), wavelet (their Haar
    coefficients), or pca (principal components of the block of pixels of a latent, and a linear
    path that starts at PCA; widths is then one number)."""
    components: int = 96
    """Principal components per block, for causal.stem=pca."""
    attention: bool = True
    """Whether positions attend to each other within a frame, at the coarsest resolution."""
    norm: Literal["position", "frame"] = "position"
    """position: RMSNorm over the channels of a position; frame: GroupNorm within a frame."""
    channels: int = 16
    """Channels of a latent, with the prior N(0, I)."""
    levels: tuple[int, ...] = ()
    """Finite scalar quantisation: levels of each channel of a latent, instead of
    causal.channels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the activations."""

    def __post_init__(self):
        require_positive("causal", self, "channels", "components")
        factor, rule = self.temporal_compression, "must be 1, 2, 4 or 8"
        require(factor in (1, 2, 4, 8), "causal.temporal_compression", factor, rule)
        factor, rule = self.spatial_compression, "must be 4, 8, 16 or 32"
        require(factor in (4, 8, 16, 32), "causal.spatial_compression", factor, rule)
        rule = "must be greater than 0"
        require(min(self.widths, default=0) > 0, "causal.widths", self.widths, rule)
        require(min(self.blocks, default=0) > 0, "causal.blocks", self.blocks, rule)
        rule = "must be at least 2"
        require(min(self.levels, default=2) >= 2, "causal.levels", self.levels, rule)


@dataclass(frozen=True)
class Objective:
    """The training loss: the ELBO, its schedule and further terms. Reported ELBOs have none of it.

    likelihood, l1, mse, lpips, wavelet, teacher and features are weights of sums over the elements
    of a clip; a weight of likelihood other than 1, and all others, need model.kind=causal or
    published.
    """

    beta: float = 1.0
    """Weight of the KL."""
    likelihood: float = 1.0
    """Weight of the negative log-likelihood."""
    l1: float = 0.0
    """Weight of the absolute error of the decoded video in [-1, 1]."""
    mse: float = 0.0
    """Weight of the squared error of the decoded video in [-1, 1]."""
    lpips: float = 0.0
    """Weight of the perceptual distance LPIPS of gray or rgb frames (extra `perceptual`)."""
    lpips_net: Literal["alexnet", "vgg16"] = "vgg16"
    """Network of LPIPS."""
    wavelet: float = 0.0
    """Weight of the absolute error of the Haar coefficients over time, rows and columns."""
    teacher: float = 0.0
    """Weight of the absolute difference from what the published decoder makes of the same latents,
    for model.decoder_widths."""
    features: float = 0.0
    """Weight of the absolute difference between the latents that the published encoder gives the
    decoded video and the real one, for model.decoder_widths."""
    kl_warmup: float = 0.1
    """Fraction of the training over which beta grows from 0."""
    free_bits: float = 0.0
    """Free bits: the KL of a level has no gradient below this many nats per clip; 0 for none."""
    prior_every: int = 100
    """Steps between EM fits of the mixture (model.clip_prior=mixture) to the training clips, from
    the end of kl_warmup on; between fits the mixture follows the gradient."""

    def __post_init__(self):
        require_at_least_zero("objective", self, "beta", "free_bits", "likelihood")
        terms = ("l1", "mse", "lpips", "wavelet", "teacher", "features")
        require_at_least_zero("objective", self, *terms)
        require_finite("objective", self, "beta", "free_bits", "likelihood")
        require_finite("objective", self, *terms)
        require_positive("objective", self, "prior_every")
        require_fraction("objective", self, "kl_warmup")


@dataclass(frozen=True)
class Critic:
    """A patch critic for adversarial training, for model.kind=causal or published."""

    weight: float = 0.0
    """Weight of the critic's gradient, relative to the norm of the gradient of all other terms; 0
    for none."""
    start: int = 0
    """First step, counted from 0, with the critic."""
    lecam: float = 0.0
    """Weight of the LeCam penalty in the loss of the critic."""
    learning_rate: float = 1e-4
    """Learning rate of the critic's Adam (decays 0.5 and 0.9), constant."""
    width: int = 32
    """Channels after the first convolution."""
    depth: int = 3
    """Number of convolutions that halve rows and columns."""

    def __post_init__(self):
        require_at_least_zero("critic", self, "weight", "start", "lecam")
        require_positive("critic", self, "learning_rate", "width", "depth")
        require_finite("critic", self, "weight", "lecam", "learning_rate")


@dataclass(frozen=True)
class Optim:
    """The optimizer: AdamW with warm-up and cosine decay."""

    learning_rate: float = 2e-3
    """Highest learning rate."""
    warmup: float = 0.05
    """Fraction of the training over which the learning rate grows from 0."""
    final_fraction: float = 0.02
    """Learning rate at the end, as a fraction of the highest."""
    weight_decay: float = 0.0
    """Weight decay of the kernels; 0 for Adam."""
    clip_norm: float = 1e4
    """Largest norm of the gradient. The loss is a sum over a clip, so norms are large."""
    sigma_rate: float = 5.0
    """Factor on the learning rate of the scale of the likelihood, which starts far from its
    optimum."""
    ema_decay: float = 0.995
    """Decay of the exponential moving average of the parameters, which evaluation uses."""
    freeze: Literal["none", "encoder"] = "none"
    """encoder: train only the decoder, for example after --init_from; for model.kind=causal or
    published."""

    def __post_init__(self):
        require_positive("optim", self, "learning_rate", "clip_norm", "sigma_rate")
        require_fraction("optim", self, "warmup", "final_fraction", "ema_decay")
        require_at_least_zero("optim", self, "weight_decay")
        require_finite("optim", self, "learning_rate", "sigma_rate", "weight_decay")


@dataclass(frozen=True)
class Train:
    """Length of the training, batches, logging."""

    batch_size: int = 16
    """Clips per step, over all devices."""
    num_steps: int | None = 600
    """Steps; None to count in epochs."""
    num_epochs: int | None = None
    """Passes over the training clips; None to count in steps."""
    clip_lengths: tuple[int, ...] = ()
    """Clip lengths, in frames, of equal parts of the training, such as 5 9 17; each at most
    data.num_frames. For model.kind=causal or published; () for whole clips. The logged frames/s
    count whole clips."""
    accumulate: int | None = None
    """Micro-batches that each device splits its share of the batch into, whose gradients it
    averages. None chooses: on a CPU the fastest, of about 32 frames of 64x64 or 64 of 32x32 (more
    where the stem of a causal model leaves fewer positions); on an accelerator a single one."""
    seed: int = 0
    """Seed of everything random."""
    log_every: int = runtime_setting(20)
    """Steps between lines of metrics.jsonl."""
    validate_every: int = runtime_setting(250)
    """Steps between validations, each with a checkpoint and a reconstruction sheet."""
    validation_clips: int = runtime_setting(128)
    """Largest number of clips per validation."""
    tensorboard: bool = runtime_setting(False)
    """Also write TensorBoard events (extra `tensorboard`)."""
    skip_nonfinite: int = runtime_setting(0)
    """Steps in a row that may be skipped, and counted, because the loss or its gradient is not
    finite; one more ends the run."""
    profile: str | None = runtime_setting(None)
    """FIRST:LAST, such as 20:25: trace these steps into RUN/profile, for TensorBoard and
    Perfetto."""

    def __post_init__(self):
        require_positive("train", self, "batch_size", "log_every")
        require_positive("train", self, "validate_every", "validation_clips")
        require_at_least_zero("train", self, "seed", "skip_nonfinite")
        require(self.seed < 2**63, "train.seed", self.seed, "must be less than 2**63")
        require(
            (self.num_steps is None) != (self.num_epochs is None),
            "train.num_steps, train.num_epochs",
            (self.num_steps, self.num_epochs),
            "give one of them and set the other to None",
        )
        count = self.num_steps if self.num_epochs is None else self.num_epochs
        require(count > 0, "train.num_steps or train.num_epochs", count, "must be greater than 0")
        if self.profile is not None:
            rule = "must be FIRST:LAST, two steps such as 20:25, counted from 1"
            require(
                bool(re.fullmatch(r"\d+:\d+", self.profile)), "train.profile", self.profile, rule
            )
            first, last = self.profiled_steps()
            require(1 <= first <= last, "train.profile", self.profile, rule)

    def profiled_steps(self) -> tuple[int, int] | None:
        """Returns the first and the last step that are traced."""
        if self.profile is None:
            return None
        first, last = map(int, self.profile.split(":"))
        return first, last


@dataclass(frozen=True)
class Parallel:
    """How devices share a step."""

    kind: Literal["pmap", "mesh"] = runtime_setting("pmap")
    """pmap over the local devices, or jit over a mesh of all devices."""


@dataclass(frozen=True)
class Checkpoint:
    """How a run is continued."""

    fallback: bool = runtime_setting(False)
    """Quarantine a damaged newest checkpoint and continue from the newest intact one."""


@dataclass(frozen=True)
class Evaluate:
    """What is measured after training, and by evaluate without a task."""

    tasks: tuple[str, ...] = runtime_setting(DEFAULT_TASKS)
    """Tasks after training, and of evaluate without a task; its --help lists them."""
    finetune_steps: int = runtime_setting(0)
    """classify: largest number of steps of supervised fine-tuning of the encoder; 0 for none."""
    num_samples: int = runtime_setting(50)
    """density: importance samples of IWAE."""
    pooling: Literal["dynamics", "ordered", "steps", "mean_dynamics", "means", "clip", "stats"] = (
        runtime_setting("dynamics")
    )
    """How the latents of a clip become one vector. dynamics: z at 16 equal times, in units of its
    uncertainty, and the sizes of its steps; ordered: z at these times; steps: the sizes of the
    steps; mean_dynamics and means: dynamics and ordered of plain posterior means (for
    model.linear=false); clip: the clip latent w; stats: means and standard deviations of z."""
    baselines: tuple[str, ...] = runtime_setting(DEFAULT_BASELINES)
    """classify: baselines, among random_encoder, frame_pca, chance, raw, raw_pca, hog, haar, sift,
    orb, flow_histogram, time, brightness, shuffled_labels, cnn (a small supervised 3-D network) and
    surf (not run; its row says why)."""

    false_positive_rate: float = runtime_setting(0.01)
    """anomaly: accepted share of false alarms among normal frames and among normal videos;
    moderate: the same among wanted videos."""
    anomaly_score: str = runtime_setting("fusion")
    """anomaly: the score of verdicts and intervals, such as fusion, surprise or reconstruction.
    Choose it without looking at test videos."""
    anomaly_block: int = runtime_setting(16)
    """anomaly: side of the squares of the `..._block` scores, in pixels of the view."""
    regret_steps: int = runtime_setting(5)
    """anomaly: gradient steps of the likelihood regret; 0 for none."""
    lpips: tuple[Literal["alexnet", "vgg16"], ...] = runtime_setting(())
    """reconstruct: networks of LPIPS to measure (extra `perceptual`)."""

    def __post_init__(self):
        rate = self.false_positive_rate
        rule = "must be between 0 and 1, without them"
        require(0 < rate < 1, "evaluate.false_positive_rate", rate, rule)
        require_positive("evaluate", self, "anomaly_block")
        require_at_least_zero("evaluate", self, "regret_steps", "finetune_steps")
        for name in self.baselines:
            rule = f"is not among {', '.join(BASELINES)}"
            require(name in BASELINES, "evaluate.baselines", name, rule)
        score, rule = self.anomaly_score, f"is not among {', '.join(ANOMALY_SCORES)}"
        require(score in ANOMALY_SCORES, "evaluate.anomaly_score", score, rule)
        rule = "needs evaluate.regret_steps greater than 0"
        require(score != "regret" or self.regret_steps > 0, "evaluate.anomaly_score", score, rule)
        for task in self.tasks:
            require(task in TASKS, "evaluate.tasks", task, f"is not among {', '.join(TASKS)}")
        require_positive("evaluate", self, "num_samples")


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    name: str = runtime_setting("run")
    """Name of the run directory without --workdir: runs/NAME-TIME, or runs/FOLDER-NAME-TIME where
    the settings have a name of their own and data.path names a folder."""
    data: Data = Data()
    model: Model = Model()
    causal: Causal = Causal()
    objective: Objective = Objective()
    critic: Critic = Critic()
    optim: Optim = Optim()
    train: Train = Train()
    parallel: Parallel = Parallel()
    checkpoint: Checkpoint = Checkpoint()
    evaluate: Evaluate = Evaluate()

    def __post_init__(self):
        config_checks.check_sections(self)


def identity(config, prefix: str = "") -> dict[str, Any]:
    """Returns the settings that decide the result, as a flat dictionary `section.name` -> value."""
    flat = {}
    for setting in dataclasses.fields(config):
        value, name = getattr(config, setting.name), prefix + setting.name
        if dataclasses.is_dataclass(value):
            flat |= identity(value, f"{name}.")
        elif not is_runtime(setting):
            flat[name] = value
    return flat


def difference(old: Config, new: Config) -> dict[str, tuple]:
    """Returns the identity settings in which two configurations differ, name -> (old, new)."""
    before, after = identity(old), identity(new)
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def find_length_settings(config: Config) -> tuple[str, ...]:
    """Returns the settings that count in parts of the whole training, and are not off.

    Without any, a training is the beginning of each longer one.
    """
    optim, train = config.optim, config.train
    in_use = {
        "optim.warmup": optim.warmup > 0,
        "optim.final_fraction": optim.final_fraction < 1,
        "objective.kl_warmup": config.objective.kl_warmup > 0,
        "train.clip_lengths": bool(train.clip_lengths),
        "model.clip_prior": config.model.clip_prior == "mixture",  # fitted after the last step
    }
    return tuple(name for name, is_used in in_use.items() if is_used)


def require_videos(config: Config) -> None:
    """Raises ValueError if the settings are not for the built-in data set and name no folder."""
    if config.data.path is None and config.data.name != "performers":
        raise ValueError(
            f"these settings are for {config.data.name}: give their folder with --data.path"
        )
