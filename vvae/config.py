"""Every setting of a run, once, with its default, its range and what it means.

A setting is *identity* (it decides the result: data selection, model, objective, optimizer, seed,
batch, precision) or *runtime* (where and how the work is done). A run is continued only with the
identity it began with; `identity` and `difference` say what that is.
"""

import dataclasses
import json
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

DEFAULT_TASKS = ("reconstruct", "density", "classify", "generate")
TASKS = (
    *DEFAULT_TASKS,
    "features",
    "cluster",
    "search",
    "anomaly",
    "segment",
    "moderate",
    "latents",
)
TILE_TASKS = ("density", "anomaly")
GRID_TASKS = ("reconstruct", "density", "latents")
ONLY_GRID_TASKS = ("latents",)

DEFAULT_BASELINES = ("random_encoder", "frame_pca", "chance")
BASELINES = (
    *DEFAULT_BASELINES,
    "raw",
    "raw_pca",
    "hog",
    "haar",
    "sift",
    "orb",
    "flow_histogram",
    "time",
    "brightness",
    "shuffled_labels",
    "cnn",
    "surf",
)


def _runtime(default) -> Any:
    return field(default=default, metadata={"runtime": True})


def is_runtime(setting: dataclasses.Field) -> bool:
    """Whether a field of a settings dataclass is a runtime setting."""
    return bool(setting.metadata.get("runtime"))


def _require(condition: bool, name: str, value, rule: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r}: {rule}")


def _require_positive(section: str, settings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(value > 0, f"{section}.{name}", value, "must be greater than 0")


def _require_at_least_zero(section: str, settings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(value >= 0, f"{section}.{name}", value, "must not be negative")


def _require_fraction(section: str, settings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(0 <= value <= 1, f"{section}.{name}", value, "must be between 0 and 1")


@dataclass(frozen=True)
class Data:
    """Which videos are read, and how."""

    path: str | None = _runtime(None)
    """Folder of videos; may be left out for the built-in data set only."""
    name: str = _runtime("performers")
    """Data set that the settings are made for; `performers` is built in, others need data.path."""
    view: str = "gray"
    """What the model sees: gray, rgb, difference, motion, flow, rootflow, otsu, or a stack such as
    gray+flow."""
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
    """Side of the square tiles that the model sees, each as a clip of its own; None is the whole
    frame. Of the tasks, density and anomaly can be answered from tiles."""
    on_error: Literal["skip", "raise"] = "skip"
    """Unreadable files are named, counted and left out, or end the run."""
    flip: bool = False
    """Augmentation: mirror half of the clips."""
    crop: int = 0
    """Augmentation: shift a clip by up to this many pixels."""
    brightness: float = 0.0
    """Augmentation: change a clip's brightness by up to this fraction."""
    images: float = 0.0
    """Share of training clips that are one of their frames alone, for model.kind=causal or
    published. They take as much time as whole clips."""
    cache_dir: str | None = _runtime(None)
    """Where decoded clips are kept; None is the user's cache folder."""
    cache_gb: float = _runtime(20.0)
    """Most the decoded clips may take on disk, in GB."""
    workers: int | None = _runtime(None)
    """Processes that decode videos; None is one a processor core."""
    max_megapixels: float = _runtime(64.0)
    """Most a frame of a file may have; a larger one is broken. Decoding takes 14 bytes a pixel in
    each worker."""
    decode_seconds: float = _runtime(3600.0)
    """Longest that a worker may decode one video; then it is broken, and the worker replaced."""

    def __post_init__(self):
        _require_positive("data", self, "height", "width", "num_frames", "frame_stride", "cache_gb")
        _require_positive("data", self, "max_megapixels", "decode_seconds")
        _require_at_least_zero("data", self, "crop")
        _require_fraction("data", self, "brightness", "images")
        workers = self.workers
        _require(workers is None or workers >= 0, "data.workers", workers, "must not be negative")


@dataclass(frozen=True)
class Model:
    """SequentialVAE: a latent a frame with dynamics, and one latent a clip; or CausalVideoVAE, or a
    network with published weights."""

    kind: Literal["sequential", "causal", "published"] = "sequential"
    """sequential: the settings below; causal: a grid of latents, by the settings causal.*;
    published: the network of the weights that --init_from names."""
    network: str = ""
    """The published network, as JSON; written here by --init_from FOLDER."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels after each stride-2 convolution; their number is how often a frame is halved, () for
    dense layers alone."""
    hidden: int = 256
    """Width of the dense layers."""
    latent_dim: int = 50
    """Numbers in a frame latent."""
    clip_latent_dim: int = 5
    """Numbers in the clip latent; 0 is a model without one."""
    prior: Literal["learned", "static", "standard"] = "learned"
    """Prior of the frame latents: p(z_t | z_<t, w), p(z_t | w) or N(0, I)."""
    clip_prior: Literal["normal", "mixture"] = "normal"
    """Prior of the clip latent: N(0, I) or a learned mixture of Gaussians."""
    num_components: int = 10
    """Gaussians in the mixture."""
    posterior: Literal["frame", "filter"] = "frame"
    """q(z_t | x_t), or q(z_t | x_<=t)."""
    linear: bool = True
    """A linear path beside the networks, which starts as PCA of the training frames."""
    likelihood: Literal["gaussian", "bernoulli", "discretized_logistic"] = "gaussian"
    """Of the frames; bernoulli needs data.view=otsu, discretized_logistic gray or rgb."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Activations of the convolutional networks."""

    def __post_init__(self):
        fits = not self.network or self.kind == "published"
        _require(fits, "model.network", self.network, "needs model.kind=published")
        rule = "must be greater than 0"
        _require(min(self.widths, default=1) > 0, "model.widths", self.widths, rule)
        _require_positive("model", self, "hidden", "latent_dim", "num_components")
        _require_at_least_zero("model", self, "clip_latent_dim")
        has_clip = self.clip_latent_dim > 0 or self.clip_prior == "normal"
        rule = "must be greater than 0 for model.clip_prior=mixture"
        _require(has_clip, "model.clip_latent_dim", self.clip_latent_dim, rule)


@dataclass(frozen=True)
class Causal:
    """CausalVideoVAE: a grid of latents from causal convolutions, for model.kind=causal."""

    widths: tuple[int, ...] = (24, 48, 72, 80)
    """Channels at each resolution, the finest first; one more than there are halvings."""
    blocks: tuple[int, int] = (2, 2)
    """Residual blocks at each resolution of the encoder and of the decoder."""
    temporal_compression: int = 4
    """Frames a latent frame, 1, 2, 4 or 8; the first frame has one of its own."""
    spatial_compression: int = 8
    """Rows and columns a latent, 4, 8, 16 or 32."""
    stem: Literal["none", "patch", "wavelet", "pca"] = "none"
    """Halves frames before the first convolution: 2x2 pixels or their Haar coefficients; pca:
    principal components of the blocks that a latent covers, and a linear path that starts at PCA;
    then widths is one number."""
    components: int = 96
    """Principal components of a block, for causal.stem=pca."""
    attention: bool = True
    """Attention within each frame at the coarsest resolution."""
    norm: Literal["position", "frame"] = "position"
    """Over the channels of a position, or over groups of channels of a frame."""
    channels: int = 16
    """Numbers a latent, with a N(0, I) prior."""
    levels: tuple[int, ...] = ()
    """Finite scalar quantisation: levels of each number of a latent, in the place of channels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Activations."""

    def __post_init__(self):
        _require_positive("causal", self, "channels", "components")
        rule = "must be greater than 0"
        _require(min(self.widths, default=0) > 0, "causal.widths", self.widths, rule)
        _require(min(self.blocks, default=0) > 0, "causal.blocks", self.blocks, rule)
        rule = "must be at least 2"
        _require(min(self.levels, default=2) >= 2, "causal.levels", self.levels, rule)


@dataclass(frozen=True)
class Objective:
    """The ELBO and what is done to it while training; reported ELBOs have none of it.

    The settings from likelihood to wavelet are weights of sums over a clip's elements; all but
    likelihood need model.kind=causal or published.
    """

    beta: float = 1.0
    """Weight of the KL."""
    likelihood: float = 1.0
    """Weight of the negative log-likelihood."""
    l1: float = 0.0
    """Weight of the absolute error of the decoded video in [-1, 1]."""
    mse: float = 0.0
    """Weight of its squared error."""
    lpips: float = 0.0
    """Weight of the perceptual distance LPIPS, of frames of gray or rgb (extra `perceptual`)."""
    lpips_net: Literal["alexnet", "vgg16"] = "vgg16"
    """Network of that distance."""
    wavelet: float = 0.0
    """Weight of the absolute error of Haar coefficients in time, rows and columns."""
    kl_warmup: float = 0.1
    """Fraction of the training over which that weight grows from 0."""
    free_bits: float = 0.0
    """Nats per clip and level below which a KL is not pushed; 0 for none."""
    prior_every: int = 100
    """model.clip_prior=mixture: steps between fits of the mixture to the training clips by EM, from
    the end of kl_warmup on; between them it follows the gradient."""

    def __post_init__(self):
        _require_at_least_zero("objective", self, "beta", "free_bits", "likelihood")
        _require_at_least_zero("objective", self, "l1", "mse", "lpips", "wavelet")
        _require_positive("objective", self, "prior_every")
        _require_fraction("objective", self, "kl_warmup")


@dataclass(frozen=True)
class Critic:
    """A critic of patches of videos that models with a grid of latents are trained against."""

    weight: float = 0.0
    """Of the critic's gradient, in units of the norm of that of all other terms; 0 for none."""
    start: int = 0
    """First step, counted from 0, that it takes part in."""
    lecam: float = 0.0
    """Weight of the LeCam penalty in its loss."""
    learning_rate: float = 1e-4
    """Of its Adam, with decays 0.5 and 0.9; constant."""
    width: int = 32
    """Channels after its first convolution."""
    depth: int = 3
    """Convolutions that halve rows and columns."""

    def __post_init__(self):
        _require_at_least_zero("critic", self, "weight", "start", "lecam")
        _require_positive("critic", self, "learning_rate", "width", "depth")


@dataclass(frozen=True)
class Optim:
    """AdamW with warm-up and cosine decay."""

    learning_rate: float = 2e-3
    """Highest learning rate."""
    warmup: float = 0.05
    """Fraction of the training over which the learning rate grows from 0."""
    final_fraction: float = 0.02
    """Learning rate at the end, as a fraction of the highest."""
    weight_decay: float = 0.0
    """Of the kernels; 0 is Adam."""
    clip_norm: float = 1e4
    """Largest norm of the gradient, which is a sum over a clip and so is large."""
    sigma_rate: float = 5.0
    """Factor on the learning rate of the likelihood's scale, which has far to go."""
    ema_decay: float = 0.995
    """Decay of the moving average of the parameters, which evaluation uses."""
    freeze: Literal["none", "encoder"] = "none"
    """encoder: only the decoder is trained, such as after --init_from; not of
    model.kind=sequential."""

    def __post_init__(self):
        _require_positive("optim", self, "learning_rate", "clip_norm", "sigma_rate")
        _require_fraction("optim", self, "warmup", "final_fraction", "ema_decay")
        _require_at_least_zero("optim", self, "weight_decay")


@dataclass(frozen=True)
class Train:
    """How long, in which portions."""

    batch_size: int = 16
    """Clips in a step, over all devices."""
    num_steps: int | None = 600
    """Steps; None to count in epochs."""
    num_epochs: int | None = None
    """Passes over the training clips; None to count in steps."""
    clip_lengths: tuple[int, ...] = ()
    """Frames of the clips in equal parts of the training, such as 5 9 17, each at most
    data.num_frames, for model.kind=causal or published; () for whole clips. Speeds are told as if
    they were whole."""
    accumulate: int | None = None
    """Micro-batches that each device splits its share of the batch into, whose gradients it
    averages. None chooses: on a CPU the fastest, of about 32 frames of 64x64 or 64 of 32x32 (more
    where the stem of a causal model leaves fewer positions); on an accelerator a single one."""
    seed: int = 0
    """Of everything random."""
    log_every: int = _runtime(20)
    """Steps between lines of metrics.jsonl."""
    validate_every: int = _runtime(250)
    """Steps between validations, each with a checkpoint and a reconstruction sheet."""
    validation_clips: int = _runtime(128)
    """Most validation clips a validation looks at."""
    tensorboard: bool = _runtime(False)
    """Write TensorBoard events too (needs the extra `tensorboard`)."""
    skip_nonfinite: int = _runtime(0)
    """Most steps in a row that are skipped, and counted, where the loss or its gradient is not
    finite; one more ends the run."""
    profile: str | None = _runtime(None)
    """FIRST:LAST, such as 20:25: steps that are traced into RUN/profile, for TensorBoard and
    Perfetto."""

    def __post_init__(self):
        _require_positive("train", self, "batch_size", "log_every")
        _require_positive("train", self, "validate_every", "validation_clips")
        _require_at_least_zero("train", self, "seed", "skip_nonfinite")
        _require(
            (self.num_steps is None) != (self.num_epochs is None),
            "train.num_steps, train.num_epochs",
            (self.num_steps, self.num_epochs),
            "give one of them and set the other to None",
        )
        count = self.num_steps if self.num_epochs is None else self.num_epochs
        _require(count > 0, "train.num_steps or train.num_epochs", count, "must be greater than 0")
        if self.profile is not None:
            rule = "must be FIRST:LAST, two steps such as 20:25, counted from 1"
            _require(
                bool(re.fullmatch(r"\d+:\d+", self.profile)), "train.profile", self.profile, rule
            )
            first, last = self.profiled_steps()
            _require(1 <= first <= last, "train.profile", self.profile, rule)

    def profiled_steps(self) -> tuple[int, int] | None:
        """Returns the first and the last step that are traced."""
        if self.profile is None:
            return None
        first, last = map(int, self.profile.split(":"))
        return first, last


@dataclass(frozen=True)
class Parallel:
    """How the devices share a step."""

    kind: Literal["pmap", "mesh"] = _runtime("pmap")
    """pmap over the local devices, or jit over a mesh."""


@dataclass(frozen=True)
class Checkpoint:
    """How a run goes on."""

    fallback: bool = _runtime(False)
    """Quarantine a damaged newest checkpoint and continue from the newest intact one."""


@dataclass(frozen=True)
class Evaluate:
    """What is measured at the end of training, and by evaluate.py without tasks."""

    tasks: tuple[str, ...] = _runtime(DEFAULT_TASKS)
    """Among reconstruct, density, classify, generate, features, cluster, anomaly, segment."""
    finetune_steps: int = _runtime(0)
    """classify: most steps of supervised training of the encoder; 0 leaves it out."""
    num_samples: int = _runtime(50)
    """Importance samples of IWAE."""
    pooling: Literal["dynamics", "ordered", "steps", "mean_dynamics", "means", "clip", "stats"] = (
        _runtime("dynamics")
    )
    """How the latents of a clip become one vector: z at 16 equal times in units of its uncertainty
    and the sizes of its steps, z at those times alone, the sizes alone, the first two of posterior
    means as they are (for model.linear false), the clip latent w, or means and standard deviations
    of z."""
    baselines: tuple[str, ...] = _runtime(DEFAULT_BASELINES)
    """classify: what the latents are measured beside, among random_encoder, frame_pca, chance, raw,
    raw_pca, hog, haar, sift, orb, flow_histogram, time, brightness, shuffled_labels, cnn (a small
    3-D network trained on the labels) and surf (which says why it is not run)."""

    false_positive_rate: float = _runtime(0.01)
    """anomaly: share of normal frames, and of normal videos, that may be called strange;
    moderate: share of wanted videos that may be called unwanted."""
    anomaly_score: str = _runtime("fusion")
    """anomaly: the score that verdicts and intervals come from, such as fusion, surprise or
    reconstruction; chosen without looking at test videos."""
    anomaly_block: int = _runtime(16)
    """anomaly: side, in pixels of the view, of the squares of the scores `..._block`."""
    regret_steps: int = _runtime(5)
    """anomaly: gradient steps of the likelihood regret; 0 leaves it out."""
    lpips: tuple[Literal["alexnet", "vgg16"], ...] = _runtime(())
    """reconstruct: networks of the perceptual distances that are measured (extra `perceptual`)."""

    def __post_init__(self):
        rate = self.false_positive_rate
        rule = "must be between 0 and 1, without them"
        _require(0 < rate < 1, "evaluate.false_positive_rate", rate, rule)
        _require_positive("evaluate", self, "anomaly_block")
        _require_at_least_zero("evaluate", self, "regret_steps", "finetune_steps")
        for name in self.baselines:
            rule = f"is not among {', '.join(BASELINES)}"
            _require(name in BASELINES, "evaluate.baselines", name, rule)
        for task in self.tasks:
            _require(task in TASKS, "evaluate.tasks", task, f"is not among {', '.join(TASKS)}")
        _require_positive("evaluate", self, "num_samples")


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    name: str = _runtime("run")
    """Of the run directory, runs/NAME-TIME, where no --workdir is given."""
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
        if self.model.kind == "sequential":
            self._check_size()
            self._check_grid_only()
        if self.data.tile is not None:
            self._check_tile()
        self.check_tasks(self.evaluate.tasks)
        for length in self.train.clip_lengths:
            rule = f"must be between 1 and data.num_frames={self.data.num_frames}"
            _require(1 <= length <= self.data.num_frames, "train.clip_lengths", length, rule)
        num_micro_batches, batch_size = self.train.accumulate, self.train.batch_size
        if num_micro_batches is not None:
            _require(
                num_micro_batches > 0 and batch_size % num_micro_batches == 0,
                "train.accumulate",
                num_micro_batches,
                f"must divide train.batch_size={batch_size}",
            )
        self._check_likelihood()

    def _check_size(self):
        scale = 2 ** len(self.model.widths)
        for name in ("height", "width") if self.data.tile is None else ("tile",):
            value = getattr(self.data, name)
            rule = f"must be a multiple of {scale}, since model.widths halves it "
            rule += f"{len(self.model.widths)} times"
            _require(value % scale == 0, f"data.{name}", value, rule)

    def _check_grid_only(self):
        rule = "needs model.kind=causal or published"
        for name in ("l1", "mse", "lpips", "wavelet"):
            value = getattr(self.objective, name)
            _require(value == 0.0, f"objective.{name}", value, rule)
        _require(self.data.images == 0.0, "data.images", self.data.images, rule)
        _require(not self.train.clip_lengths, "train.clip_lengths", self.train.clip_lengths, rule)
        likelihood = self.objective.likelihood
        _require(likelihood == 1.0, "objective.likelihood", likelihood, "other than 1 " + rule)
        _require(self.critic.weight == 0.0, "critic.weight", self.critic.weight, rule)
        _require(self.optim.freeze == "none", "optim.freeze", self.optim.freeze, rule)

    def _check_tile(self):
        tile, size = self.data.tile, (self.data.height, self.data.width)
        fits = tile > 0 and size[0] % tile == 0 and size[1] % tile == 0
        rule = f"must divide data.height and data.width, {size[0]}x{size[1]}"
        _require(fits, "data.tile", tile, rule)

    def check_tasks(self, tasks):
        """Raises ValueError for a task that the model or tiles of frames cannot answer."""
        if self.model.kind == "sequential":
            for task in tasks:
                known = task not in ONLY_GRID_TASKS
                _require(known, "evaluate.tasks", task, "needs model.kind=causal or published")
        else:
            rule = f"model.kind={self.model.kind} answers {', '.join(GRID_TASKS)} so far"
            for task in tasks:
                _require(task in GRID_TASKS, "evaluate.tasks", task, rule)
        rule = f"needs whole frames, and data.tile={self.data.tile} cuts them; of tiles there are "
        rule += ", ".join(TILE_TASKS)
        for task in tasks:
            known = self.data.tile is None or task in TILE_TASKS
            _require(known, "evaluate.tasks", task, rule)

    def _check_likelihood(self):
        likelihood, view = self.model.likelihood, self.data.view
        if self.model.kind != "sequential":
            rule = f"model.kind={self.model.kind} has a gaussian one"
            _require(likelihood == "gaussian", "model.likelihood", likelihood, rule)
        if self.objective.lpips:
            rule = "objective.lpips needs pictures: gray or rgb"
            _require(view in ("gray", "rgb"), "data.view", view, rule)
        if likelihood == "bernoulli":
            _require(view == "otsu", "data.view", view, "model.likelihood=bernoulli needs otsu")
            rule = "must be False for model.likelihood=bernoulli: its start is a Gaussian one"
            _require(not self.model.linear, "model.linear", self.model.linear, rule)
        if likelihood == "discretized_logistic":
            rule = "model.likelihood=discretized_logistic needs 8-bit values: gray or rgb"
            _require(view in ("gray", "rgb"), "data.view", view, rule)


def to_dict(config) -> dict:
    """Returns the settings as nested dictionaries of JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict, cls: type = Config, prefix: str = ""):
    """Builds settings from nested dictionaries, as `to_dict` gives them.

    A setting that is missing takes its default.

    Raises:
      ValueError: for a setting that does not exist, naming it and the settings that do, and for a
        value of another type or out of range.
    """
    hints = typing.get_type_hints(cls)
    if not isinstance(values, dict):
        raise ValueError(f"{prefix.rstrip('.') or 'settings'}={values!r}: must be a JSON object")
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"no setting {prefix}{unknown[0]}; those of this version are "
            f"{', '.join(prefix + name for name in hints)}"
        )
    return cls(**{k: _from_json(v, hints[k], f"{prefix}{k}.") for k, v in values.items()})


def _from_json(value, hint, prefix: str):
    if dataclasses.is_dataclass(hint):
        return from_dict(value, hint, prefix)
    name = prefix.rstrip(".")
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        _require(isinstance(value, list | tuple), name, value, "must be a list")
        hints = options[:1] * len(value) if options[1:] == (...,) else options
        _require(len(hints) == len(value), name, value, f"must be {len(hints)} values")
        return tuple(_from_json(item, hint, prefix) for item, hint in zip(value, hints))
    if origin is Literal:
        _require(value in options, name, value, f"must be one of {', '.join(options)}")
        return value
    kinds = options if origin is types.UnionType else (hint,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    words = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in kinds)
    _require(type(value) in kinds, name, value, f"must be {words}")
    return value


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


def load_config_file(path) -> Config:
    """Runs `get_config()` of a Python file.

    Args:
      path: configs/NAME.py; the user's own code, which is executed.

    Raises:
      ValueError: if there is no such file, or it has no get_config() that returns a Config.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(p) for p in Path("configs").glob("*.py"))
        raise ValueError(f"no configuration {path}; there are {', '.join(known) or 'none'}")
    scope: dict[str, Any] = {"__name__": f"configuration_{path.stem}", "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    if not callable(scope.get("get_config")):
        raise ValueError(f"{path} does not define get_config()")
    config = scope["get_config"]()
    if not isinstance(config, Config):
        raise ValueError(f"get_config() of {path} returned {type(config).__name__}, not Config")
    return config
