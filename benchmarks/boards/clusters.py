"""The built-in performers: clusters of clips against their actions."""

import csv
from pathlib import Path

import numpy as np

from benchmarks import results
from benchmarks.boards.running import train
from benchmarks.results import Board, Measurement, Request
from vvae.tasks.clustering.mixtures import find_agreement, match_clusters

METRICS = ("accuracy", "nmi", "ari")
# Rows of PCA of raw clips, and of latents of random weights; all others are of the model.
BASELINES = ("clip_pca", "random")
# The cluster of every video by all methods, by the task cluster, and what its first columns are.
ASSIGNMENTS_FILE, KNOWN = "cluster.csv", ("path", "label", "group", "split")

BOARD = Board(
    task="clusters",
    protocol="Clusters of the clips of unseen performers against their 10 actions: accuracy of the "
    "best one-to-one matching (Hungarian method), view rootflow. No label enters the training or "
    "the fits, but view, prior and length of the training were chosen by the accuracy on labelled "
    "training videos. A plain Gaussian mixture on the same latents (`clip_latent/gmm`) is no worse "
    "than the headline. Intervals resample the 10 performers, which are few: such intervals cover "
    "less than 95 %; the matching is kept.",
    data="built-in performers, 1,440 training and 300 test videos",
    headlines=("mixture_prior",),
    columns=METRICS,
    unit="performers",
)


def measure(request: Request) -> list[Measurement]:
    """Trains one VAE with a mixture prior; everything is fitted anew in each seed."""
    run = train(request, "clusters", ["configs/clusters.py", "--evaluate.tasks", "cluster"])
    hits = count_hits(run.workdir / "eval" / ASSIGNMENTS_FILE)
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
                hits=hits[name],
            )
        )
    return rows


def count_hits(path: Path) -> dict[str, dict[str, tuple[float, int]]]:
    """Reads the clusters of all videos; returns row -> performer -> (matched videos, videos).

    Clusters are matched one to one to the actions, as for the accuracy.
    """
    with open(path, newline="", encoding="utf-8") as file:
        videos = list(csv.DictReader(file))
    labels = sorted({video["label"] for video in videos})
    label_V = np.array([labels.index(video["label"]) for video in videos])
    group_V = [video["group"] for video in videos]
    hits = {}
    for name in videos[0]:
        if name in KNOWN:
            continue
        cluster_V = np.array([int(video[name]) for video in videos])
        hit_V = find_agreement(match_clusters(cluster_V, label_V), cluster_V, label_V)
        hits[name] = results.count_hits(group_V, hit_V)
    return hits
