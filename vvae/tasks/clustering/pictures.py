"""Pictures of clusters: their most typical videos, and maps of all videos in the plane."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from vvae import figures
from vvae.data.clips import NO_LABEL, Clips
from vvae.data.views import view_to_rgb
from vvae.measure.legends import explain_view
from vvae.tasks.clustering.mixtures import Grouping
from vvae.tasks.clustering.vectors import Vectors, fit_pca

TYPICAL_CLIPS = 4
TYPICAL_FRAMES = 3
MAX_SHEET_CLUSTERS = 20
MAX_MAP_VIDEOS = 2000
# With fewer, the perplexity of t-SNE, the number of neighbours that count, would be below 5, the
# least that is customary (van der Maaten and Hinton 2008).
MIN_MAP_VIDEOS = 16
PERPLEXITY = 30.0


@dataclasses.dataclass(frozen=True)
class Shown:
    """Clusters of the measured videos that are shown.

    Attributes:
      name: the name of the clusters.
      grouping: the clusters.
      clips: the measured clips.
      class_names: the name of each class id.
    """

    name: str
    grouping: Grouping
    clips: Clips
    class_names: Sequence[str]


def draw_sheet(path: Path, shown: Shown) -> None:
    """Draws the most typical videos of each cluster: a few frames of the first clip of each."""
    grouping, clips = shown.grouping, shown.clips
    label_V = clips.label_V
    size_K = np.bincount(grouping.test_V, minlength=grouping.num_clusters)
    largest = np.argsort(-size_K, kind="stable")[:MAX_SHEET_CLUSTERS]
    first_V = np.unique(clips.video_index_N, return_index=True)[1]
    rows, row_labels = [], []
    for k in largest[size_K[largest] > 0]:
        own = np.flatnonzero(grouping.test_V == k)
        typical = own[np.argsort(-grouping.rating_VK[own, k], kind="stable")[:TYPICAL_CLIPS]]
        rows.append(_read_stills(clips, first_V[typical]))
        row_labels.append(_describe_cluster(k, label_V[own], shown.class_names))
    # Label no empty columns: the labels would make the sheet wider than its images.
    columns = (["start", *[""] * (TYPICAL_FRAMES - 2), "end"] * TYPICAL_CLIPS)[
        : max(map(len, rows))
    ]
    which = "" if len(rows) == np.count_nonzero(size_K) else f", the {len(rows)} largest"
    title = (
        f"Most typical videos of each cluster, {shown.name}{which}\n"
        f"up to {TYPICAL_CLIPS} videos a row, {TYPICAL_FRAMES} frames of each"
    )
    figures.write_sheet(path, rows, row_labels, columns, title, legend=explain_view(clips.view))


def _read_stills(clips: Clips, ids: np.ndarray) -> np.ndarray:
    """Reads F frames of each clip, from the first valid one to the last, RGB [n * F, H, W, 3]."""
    stills = []
    for clip, video_THWC in zip(ids, clips.read(ids)):
        valid = np.flatnonzero(clips.mask_NT[clip])
        valid = valid if len(valid) else np.arange(len(video_THWC))
        chosen = valid[np.linspace(0, len(valid) - 1, TYPICAL_FRAMES).round().astype(int)]
        stills.append(view_to_rgb(clips.view, video_THWC[chosen]))
    return np.concatenate(stills)


def _describe_cluster(number: int, label_V: np.ndarray, class_names: Sequence[str]) -> str:
    text = f"cluster {number}\n{len(label_V)} " + ("video" if len(label_V) == 1 else "videos")
    known = label_V[label_V != NO_LABEL]
    if not len(known):
        return text
    classes, count = np.unique(known, return_counts=True)
    best = count.argmax()
    return f"{text}\n{class_names[classes[best]]} {count[best] / len(label_V):.0%}"


def has_maps(vectors: Vectors) -> bool:
    """Whether the measured videos are enough to be drawn in the plane."""
    return len(vectors.test_VF) >= MIN_MAP_VIDEOS and vectors.test_VF.shape[1] >= 2


def draw_maps(path: Path, shown: Shown, vectors: Vectors, seed: int) -> None:
    """Draws the measured videos in the plane by PCA and by t-SNE (see `has_maps`)."""
    label_V, cluster_V, vector_VF = shown.clips.label_V, shown.grouping.test_V, vectors.test_VF
    if len(vector_VF) > MAX_MAP_VIDEOS:
        random = np.random.Generator(np.random.Philox(key=[seed, 1]))
        chosen = np.sort(random.choice(len(vector_VF), MAX_MAP_VIDEOS, replace=False))
        label_V, cluster_V, vector_VF = label_V[chosen], cluster_V[chosen], vector_VF[chosen]
    plane = fit_pca(vectors.train_VF, 2, seed).transform(vector_VF)
    perplexity = min(PERPLEXITY, (len(vector_VF) - 1) / 3)
    with threadpool_limits(1):
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
        embedded = tsne.fit_transform(vector_VF.astype(np.float64))
    used, cluster_V = np.unique(cluster_V, return_inverse=True)
    colorings = {"cluster": (cluster_V, [str(k) for k in used])}
    classes = np.unique(label_V[label_V != NO_LABEL])
    if len(classes):
        number_V = np.where(label_V == NO_LABEL, -1, np.searchsorted(classes, label_V))
        colorings["class"] = (number_V, [shown.class_names[k] for k in classes])
    maps = {"PCA of training videos": plane, f"t-SNE, perplexity {perplexity:.0f}": embedded}
    title = f"{len(vector_VF)} videos, {shown.name}: {vectors.text}"
    figures.write_maps(path, maps, colorings, title)
