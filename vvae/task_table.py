"""The tasks: where each is answered, and what it needs of model and data. Imports nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A question to a trained model: where it is answered, and what it needs.

    Attributes:
      module: module of `vvae.tasks` with the function `answer(question, options)`.
      options: class of its options in `vvae.tasks.options`.
      sequential: whether a SequentialVAE can answer it.
      grid: whether models with a grid of latents can (model.kind=causal or published).
      tiles: whether it can be answered from tiles of frames (data.tile).
      training_clips: whether it reads the training clips of the run, even for new videos.
      fitted: file of RUN/eval that it fits to the videos of the run, and needs for new videos.
      fit_options: what its command needs for fitting.
      package: optional package that it needs; the extra named after the task installs it.
      seconds: how long it takes on two CPU cores for 48 short videos and the settings `actions`,
        three quarters of its processor time; compiling is most of it. None where it was not timed.
    """

    module: str
    options: str
    sequential: bool = True
    grid: bool = False
    tiles: bool = False
    training_clips: bool = False
    fitted: str | None = None
    fit_options: str = ""
    package: str | None = None
    seconds: float | None = None


TASKS = {
    "reconstruct": Task(
        "quality.reconstruct", "Reconstruct", grid=True, training_clips=True, seconds=6
    ),
    "density": Task("quality.density", "Density", grid=True, tiles=True, seconds=13),
    "classify": Task("recognition.classify", "Classify", fitted="probe.npz", seconds=10),
    "generate": Task("quality.generate", "Generate", seconds=26),
    "features": Task("storage.features", "Features", package="pyarrow"),
    "cluster": Task("clustering.cluster", "Cluster", training_clips=True),
    "search": Task("storage.search", "Search"),
    "anomaly": Task("anomaly.anomaly", "Anomaly", tiles=True, fitted="anomaly.npz"),
    "segment": Task("segmentation.segment", "Segment", fitted="boundaries.npz"),
    "moderate": Task(
        "moderation.moderate", "Moderate", fitted="moderate.npz", fit_options="--unwanted CLASS"
    ),
    "latents": Task("storage.latents", "Latents", sequential=False, grid=True),
    "code": Task("storage.code", "Code", sequential=False, grid=True, training_clips=True),
}
DEFAULT_TASKS = ("reconstruct", "density", "classify", "generate")

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

# Names of `vvae.tasks.pooling.POOLINGS`.
POOLINGS = ("clip", "dynamics", "mean_dynamics", "means", "ordered", "stats", "steps")

# Scores of the task anomaly.
ANOMALY_SCORES = (
    "fusion",
    "fusion_motion",
    "reconstruction",
    "reconstruction_block",
    "surprise",
    "frame_kl",
    "clip_kl",
    "negative_elbo",
    "iwae",
    "typicality",
    "regret",
    "latent_gmm",
    "latent_knn",
    "random_encoder",
    "frame_difference",
    "frame_difference_block",
    "background",
    "background_block",
    "motion",
    "motion_block",
    "motion_window",
    "motion_standardized",
    "brightness",
    "time_index",
)


def list_tasks(ability: str) -> list[str]:
    """Returns the tasks of which a field of `Task` is true."""
    return [name for name, task in TASKS.items() if getattr(task, ability)]
