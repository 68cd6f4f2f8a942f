"""The built-in performers without labels: clusters of clips against their actions."""

from benchmarks.boards.running import train
from benchmarks.results import Board, Measurement, Request

METRICS = ("accuracy", "nmi", "ari")
# Rows of PCA of raw clips, and of latents of random weights; all others are of the model.
BASELINES = ("clip_pca", "random")

BOARD = Board(
    task="clusters",
    protocol="Clusters of the clips of unseen performers against their 10 actions: accuracy of the "
    "best one-to-one matching (Hungarian method), fitted to training videos without their labels, "
    "view rootflow.",
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
                name,
                "vae" if is_vae else "baseline",
                {metric: values[metric]["value"] for metric in METRICS},
                run.seconds if is_vae else 0.0,
                run.parameters if is_vae else 0,
                run.frames_per_second if is_vae else None,
            )
        )
    return rows
