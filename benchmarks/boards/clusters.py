"""The built-in performers: clusters of clips against their actions."""

from benchmarks.boards.running import train
from benchmarks.results import Board, Measurement, Request

METRICS = ("accuracy", "nmi", "ari")
# Rows of PCA of raw clips, and of latents of random weights; all others are of the model.
BASELINES = ("clip_pca", "random")

BOARD = Board(
    task="clusters",
    protocol="Clusters of the clips of unseen performers against their 10 actions: accuracy of the "
    "best one-to-one matching (Hungarian method), view rootflow. No label enters the training or "
    "the fits, but view, prior and length of the training were chosen by the accuracy on labelled "
    "training videos. A plain Gaussian mixture on the same latents (`clip_latent/gmm`) is no worse "
    "than the headline.",
    data="built-in performers, 1,440 training and 300 test videos",
    headlines=("mixture_prior",),
    columns=METRICS,
)


def measure(request: Request) -> list[Measurement]:
    """Trains one VAE with a mixture prior; everything is fitted anew in each seed."""
    run = train(request, "clusters", ["configs/clusters.py", "--evaluate.tasks", "cluster"])
    rows = []
    for name, values in run.read_task("cluster")["rows"].items():
        is_vae = not name.startswith(BASELINES)
        rows.append(
            Measurement(
                row=name,
                family="vae" if is_vae else "baseline",
                metrics={metric: values[metric]["value"] for metric in METRICS},
                parameters=run.parameters if is_vae else 0,
                frames_per_second=run.frames_per_second if is_vae else None,
            )
        )
    return rows
