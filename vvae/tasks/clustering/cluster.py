"""Which videos belong together? Clusters of latents, beside clusters of PCA of the raw clips."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from threadpoolctl import threadpool_limits

from vvae import distributions as dist
from vvae import figures
from vvae.data.clips import NO_LABEL, Clips
from vvae.data.dataset import Dataset
from vvae.data.views import view_to_rgb
from vvae.measure.mapping import map_clips
from vvae.measure.pca import MAX_FIT_BYTES, READ_CLIPS
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.models import contract
from vvae.tasks.clustering import mixtures
from vvae.tasks.clustering.mixtures import Clusters
from vvae.tasks.csv_files import open_csv
from vvae.tasks.pooling import average_by_video, get_pooling
from vvae.tasks.random_params import randomize_params
from vvae.tasks.result import Result, describe_data, require_split

MIXTURE_PRIOR = "mixture_prior"
POOLED_NUMBERS = 20
TYPICAL_CLIPS = 4
TYPICAL_FRAMES = 3
MAX_SHEET_CLUSTERS = 20
MAX_MAP_VIDEOS = 2000
MIN_MAP_VIDEOS = 5
PERPLEXITY = 30.0
FILES = ("cluster_sheet.png", "cluster_map.png", "cluster.csv")

BY_VIDEO = "over videos; vectors of a video's clips are averaged; clusters fitted on train"
DEFINITIONS = {
    "accuracy": "share of videos that agree with the best one-to-one matching of clusters and "
    "classes, found on the measured videos (Hungarian method)",
    "accuracy_by_train": "share of videos that agree with the best one-to-one matching of clusters "
    "and classes, found on the training videos (Hungarian method)",
    "nmi": "mutual information of clusters and classes over the mean of their entropies",
    "ari": "Rand index adjusted for chance (Hubert and Arabie 1985)",
    "num_clusters": "clusters that were fitted",
    "used_clusters": "clusters that at least one measured video is in",
    "largest_share": "share of the measured videos in the largest cluster",
}


@dataclasses.dataclass(frozen=True)
class Vectors:
    """One vector a video of both splits, and what it is in words."""

    train_VF: np.ndarray
    test_VF: np.ndarray
    text: str


@dataclasses.dataclass(frozen=True)
class Grouping:
    """Clusters of the videos of both splits.

    Attributes:
      train_V, test_V: int64 cluster of each video.
      rating_VK: how well each measured video suits each cluster; the highest is its own.
      num_clusters: K.
      text: what was clustered, and how, in words.
    """

    train_V: np.ndarray
    test_V: np.ndarray
    rating_VK: np.ndarray
    num_clusters: int
    text: str


def cluster(
    model,
    params,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    batch_size: int,
    pooling: str = "dynamics",
    split: str = "test",
    seed: int = 0,
) -> Result:
    """Clusters videos by their latents, beside PCA of raw clips with as many numbers.

    Clusters are fitted to the videos of `train`, without their labels, and `split` is measured.
    Each representation is clustered by a Gaussian mixture whose number is chosen by BIC
    (`gmm_bic`), and by a Gaussian mixture (`gmm`) and k-means of a given number: the components
    of the mixture prior if there is one, else the number of classes, else the choice of BIC on the
    pooled latents.

    Args:
      model: a SequentialVAE.
      params: its variables.
      dataset: has `train` and `split`.
      folder: where a sheet, maps and the assignments (CSV) go; must exist.
      batch_size: clips at a time.
      pooling: how the latents of a clip become one vector, see `features.POOLINGS`.
      split: which split is measured.
      seed: of starts, solvers and random weights.

    Raises:
      ValueError: if a split is missing, or there are fewer than two training videos.
    """
    train, test = require_split(dataset, "train"), require_split(dataset, split)
    if len(train.videos) < 2:
        raise ValueError(f"cluster needs two or more training videos, not {len(train.videos)}")
    represented = represent(model, params, train, test, batch_size, pooling, seed)
    train_label_V, test_label_V = train.label_V, test.label_V
    selected = {
        name: mixtures.select_gmm(vectors.train_VF, seed) for name, vectors in represented.items()
    }
    given, origin = _choose_number(model, train_label_V, selected["pooled"][0])
    given = min(given, len(train.videos))
    groupings = {}
    if model.clip_prior == "mixture":
        groupings[MIXTURE_PRIOR] = group_by_prior(model, params, train, test, batch_size)
    for name, vectors in represented.items():
        fits = {
            "gmm": mixtures.fit_gmm(vectors.train_VF, given, seed),
            "kmeans": mixtures.fit_kmeans(vectors.train_VF, given, seed),
            "gmm_bic": selected[name][0],
        }
        groupings |= {f"{name}/{way}": _group(fit, vectors) for way, fit in fits.items()}
    context = describe_data(dataset, split)
    rows = {
        name: score_grouping(grouping, train_label_V, test_label_V, dataset.class_names, context)
        for name, grouping in groupings.items()
    }
    shown = MIXTURE_PRIOR if MIXTURE_PRIOR in groupings else "pooled/gmm"
    folder = Path(folder)
    _draw_sheet(folder / FILES[0], shown, groupings[shown], test, dataset.class_names)
    shown_vectors = represented["clip_latent" if shown == MIXTURE_PRIOR else "pooled"]
    drawn = _draw_maps(
        folder / FILES[1], shown, groupings[shown], shown_vectors, test, dataset.class_names, seed
    )
    _write_assignments(folder / FILES[2], groupings, test, split)
    bic_by_name = {name: by_number for name, (_, by_number) in selected.items()}
    notes = [
        f"gmm and kmeans have {given} clusters, {origin}; gmm_bic chooses "
        f"{', '.join(f'{n} {c.num_clusters}' for n, (c, _) in selected.items())}.",
        *_note_labels(train_label_V, test_label_V),
    ]
    if MIXTURE_PRIOR in groupings:
        notes.append(_judge_prior(groupings[MIXTURE_PRIOR]))
    if not drawn:
        notes.append(f"No maps: there are fewer than {MIN_MAP_VIDEOS} videos.")
    return Result(
        task="cluster",
        rows=rows,
        details={
            "bic": bic_by_name,
            "sizes": {
                name: np.bincount(grouping.test_V, minlength=grouping.num_clusters)
                for name, grouping in groupings.items()
            },
            "shown": shown,
        },
        notes=tuple(notes),
        files=FILES if drawn else (FILES[0], FILES[2]),
    )


# --- representations ------------------------------------------------------------------------------


def represent(
    model, params, train: Clips, test: Clips, batch_size: int, pooling: str, seed: int
) -> dict[str, Vectors]:
    """Returns every representation of the videos; PCA is fitted to training clips alone.

    Returns:
      clip_latent: means of q(w | x); pooled: PCA of pooled latents; random_pooled: the same of the
      same network with random weights; clip_pca_W: PCA of raw clips with as many numbers as the
      clip latent, and clip_pca_20 with as many as the pooled ones.
    """
    encode = _make_encoder(model, pooling)
    latents = [_encode_videos(encode, params, clips, batch_size) for clips in (train, test)]
    vectors = {
        "clip_latent": Vectors(*(latent["clip"] for latent in latents), "posterior means of w"),
        "pooled": _reduce(
            *(latent["pooled"] for latent in latents), f"latents, pooling {pooling}", seed
        ),
    }
    random = randomize_params(model, params, seed)
    fresh = [_encode_videos(encode, random, clips, batch_size)["pooled"] for clips in (train, test)]
    text = f"latents of the same network with random weights, pooling {pooling}"
    vectors["random_pooled"] = _reduce(*fresh, text, seed)
    num_clip = vectors["clip_latent"].train_VF.shape[1]
    for number in dict.fromkeys((num_clip, vectors["pooled"].train_VF.shape[1])):
        vectors[f"clip_pca_{number}"] = project_clips(train, test, number, seed)
    return vectors


def _make_encoder(model, pooling: str):
    pool = get_pooling(pooling)

    @jax.jit
    def encode(params, video_BTHWC, mask_BT):
        posterior = contract.encode(model, params, video_BTHWC, mask_BT)
        pooled_BF = pool(posterior, mask_BT)
        return {"clip": posterior.clip.mean, "pooled": pooled_BF}

    return encode


def _encode_videos(encode, params, clips: Clips, batch_size: int) -> dict[str, np.ndarray]:
    by_clip = map_clips(
        lambda batch: encode(params, batch["video"], batch["mask"]), clips, batch_size
    )
    return {name: average_by_video(array, clips).feature_VF for name, array in by_clip.items()}


def _reduce(train_VF: np.ndarray, test_VF: np.ndarray, text: str, seed: int) -> Vectors:
    number = min(POOLED_NUMBERS, len(train_VF) - 1, train_VF.shape[1])
    pca = _fit_pca(train_VF, number, seed)
    return Vectors(
        pca.transform(train_VF), pca.transform(test_VF), f"{number} principal components of {text}"
    )


def _fit_pca(train_NF: np.ndarray, number: int, seed: int) -> PCA:
    with threadpool_limits(1):
        return PCA(number, svd_solver="randomized", random_state=seed).fit(train_NF)


def project_clips(train: Clips, test: Clips, number: int, seed: int) -> Vectors:
    """Returns PCA of whole raw clips, fitted to training clips (up to 256 MiB of them, drawn)."""
    most = max(2, MAX_FIT_BYTES // (4 * train.clip_format.clip_bytes))
    ids = np.arange(len(train))
    if len(train) > most:
        random = np.random.Generator(np.random.Philox(key=[seed, 0]))
        ids = np.sort(random.choice(len(train), most, replace=False))
    fitted_ND = train.read(ids).reshape(len(ids), -1).astype(np.float32)
    number = min(number, len(ids) - 1, fitted_ND.shape[1]) if len(ids) > 1 else 1
    pca = _fit_pca(fitted_ND, number, seed)
    projected = (_project(pca, clips) for clips in (train, test))
    return Vectors(*projected, f"{number} principal components of raw clips of the same view")


def _project(pca: PCA, clips: Clips) -> np.ndarray:
    parts = []
    for start in range(0, len(clips), READ_CLIPS):
        videos = clips.read(np.arange(start, min(start + READ_CLIPS, len(clips))))
        parts.append(pca.transform(videos.reshape(len(videos), -1).astype(np.float32)))
    return average_by_video(np.concatenate(parts), clips).feature_VF


# --- clusters -------------------------------------------------------------------------------------


def group_by_prior(model, params, train: Clips, test: Clips, batch_size: int) -> Grouping:
    """Groups videos by the components of the learned mixture prior of w.

    A video's responsibilities are those of its clips' posterior means, averaged.
    """
    both = [measure_responsibilities(model, params, clips, batch_size) for clips in (train, test)]
    train_V, test_V = (responsibility_VK.argmax(axis=1) for responsibility_VK, _ in both)
    text = "responsibilities of the mixture prior at the posterior mean of w"
    return Grouping(train_V, test_V, both[1][1], model.num_components, text)


def measure_responsibilities(
    model, params, clips: Clips, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns q(k | w) of each video, [V, K], and log pi_k + log N_k(w), nats, [V, K]."""
    mixture = model.apply(params, method="clip_prior_mixture")

    @jax.jit
    def measure(params, video_BTHWC, mask_BT):
        w_BW = contract.encode(model, params, video_BTHWC, mask_BT).clip.mean
        return {
            "responsibility": dist.mixture_responsibilities(mixture, w_BW),
            "log_prob": dist.mixture_component_log_prob(mixture, w_BW),
        }

    by_clip = map_clips(
        lambda batch: measure(params, batch["video"], batch["mask"]), clips, batch_size
    )
    return tuple(
        average_by_video(by_clip[name], clips).feature_VF for name in ("responsibility", "log_prob")
    )


def _group(fit: Clusters, vectors: Vectors) -> Grouping:
    rating_VK = mixtures.rate_members(fit, vectors.test_VF)
    return Grouping(
        mixtures.assign(fit, vectors.train_VF),
        rating_VK.argmax(axis=1),
        rating_VK,
        fit.num_clusters,
        f"{vectors.text}; {fit.text}",
    )


def _choose_number(model, train_label_V: np.ndarray, by_bic: Clusters) -> tuple[int, str]:
    """Returns how many clusters are asked for where the number is given, and why."""
    if model.clip_prior == "mixture":
        return model.num_components, "as many as the mixture prior"
    num_classes = len(np.unique(train_label_V[train_label_V != NO_LABEL]))
    if num_classes > 1:
        return num_classes, "as many as the training videos have classes"
    return by_bic.num_clusters, "as many as BIC chooses on the pooled latents"


def score_grouping(
    grouping: Grouping,
    train_label_V: np.ndarray,
    test_label_V: np.ndarray,
    class_names: Sequence[str],
    context: Mapping[str, Any],
) -> dict[str, Metric]:
    """Measures a grouping of the measured videos; against labels where there are any.

    Args:
      grouping: clusters of the videos of both splits.
      train_label_V, test_label_V: class ids, -1 for none; such videos are not counted.
      class_names: by class id; those that the measured videos have go into the cards.
      context: goes into every card.
    """
    size_K = np.bincount(grouping.test_V, minlength=grouping.num_clusters)
    values = {
        "num_clusters": (grouping.num_clusters, "clusters"),
        "used_clusters": (np.count_nonzero(size_K), "clusters"),
        "largest_share": (size_K.max() / size_K.sum(), ""),
    }
    card = {**context, METHOD: grouping.text}
    sizes = {
        name: make_metric(name, value, unit, DEFINITIONS[name], BY_VIDEO, **card)
        for name, (value, unit) in values.items()
    }
    known_V = test_label_V != NO_LABEL
    if not known_V.any():
        return sizes
    label_V, cluster_V = test_label_V[known_V], grouping.test_V[known_V]
    card |= {
        "num_labelled_videos": int(known_V.sum()),
        "classes": [class_names[k] for k in np.unique(label_V)],
    }
    matching = mixtures.match_clusters(cluster_V, label_V)
    agreement = {
        "accuracy": mixtures.score_matching(matching, cluster_V, label_V),
        "nmi": normalized_mutual_info_score(label_V, cluster_V),
        "ari": adjusted_rand_score(label_V, cluster_V),
    }
    train_V = train_label_V != NO_LABEL
    if train_V.any():
        matching = mixtures.match_clusters(grouping.train_V[train_V], train_label_V[train_V])
        agreement["accuracy_by_train"] = mixtures.score_matching(matching, cluster_V, label_V)
    order = ("accuracy", "accuracy_by_train", "nmi", "ari")
    scores = {
        name: make_metric(name, agreement[name], "", DEFINITIONS[name], BY_VIDEO, **card)
        for name in order
        if name in agreement
    }
    return scores | sizes


def _judge_prior(grouping: Grouping) -> str:
    """Says how many components of the mixture prior the training videos use."""
    used = len(np.unique(grouping.train_V))
    if used == 1:
        return (
            "WARNING: COLLAPSED: every training video is of one component of the mixture prior, so "
            "that it clusters nothing."
        )
    return (
        f"{used} of {grouping.num_clusters} components of the mixture prior have training videos."
    )


def _note_labels(train_label_V: np.ndarray, test_label_V: np.ndarray) -> list[str]:
    known_V = test_label_V != NO_LABEL
    if not known_V.any():
        return ["No measured video has a label: the table tells sizes only."]
    missing = int(np.sum(~known_V))
    notes = [f"{missing} measured videos without a label are not counted."] if missing else []
    if not (train_label_V != NO_LABEL).any():
        notes.append("No training video has a label: accuracy_by_train is not measured.")
    return notes


# --- pictures and tables ------------------------------------------------------------------------


def _draw_sheet(path, name: str, grouping: Grouping, clips: Clips, class_names) -> None:
    """Draws the most typical videos of each cluster, a few frames of the first clip of each."""
    label_V = clips.label_V
    size_K = np.bincount(grouping.test_V, minlength=grouping.num_clusters)
    largest = np.argsort(-size_K, kind="stable")[:MAX_SHEET_CLUSTERS]
    first_V = np.unique(clips.video_index_N, return_index=True)[1]
    rows, row_labels = [], []
    for k in largest[size_K[largest] > 0]:
        own = np.flatnonzero(grouping.test_V == k)
        typical = own[np.argsort(-grouping.rating_VK[own, k], kind="stable")[:TYPICAL_CLIPS]]
        rows.append(_read_stills(clips, first_V[typical]))
        row_labels.append(_describe_cluster(k, label_V[own], class_names))
    # Few videos leave columns empty: a label there would stretch the sheet beyond its pictures.
    columns = (["start", *[""] * (TYPICAL_FRAMES - 2), "end"] * TYPICAL_CLIPS)[
        : max(map(len, rows))
    ]
    shown = "" if len(rows) == np.count_nonzero(size_K) else f", the {len(rows)} largest"
    title = (
        f"Most typical videos of each cluster, {name}{shown}\n"
        f"up to {TYPICAL_CLIPS} videos a row, {TYPICAL_FRAMES} frames of each"
    )
    figures.write_sheet(path, rows, row_labels, columns, title)


def _read_stills(clips: Clips, ids: np.ndarray) -> np.ndarray:
    """Reads a few frames of clips, from the first valid one to the last, RGB [n * F, H, W, 3]."""
    stills = []
    for clip, video_THWC in zip(ids, clips.read(ids)):
        valid = np.flatnonzero(clips.mask_NT[clip])
        valid = valid if len(valid) else np.arange(len(video_THWC))
        chosen = valid[np.linspace(0, len(valid) - 1, TYPICAL_FRAMES).round().astype(int)]
        stills.append(view_to_rgb(clips.view, video_THWC[chosen]))
    return np.concatenate(stills)


def _describe_cluster(number: int, label_V: np.ndarray, class_names) -> str:
    text = f"cluster {number}\n{len(label_V)} " + ("video" if len(label_V) == 1 else "videos")
    known = label_V[label_V != NO_LABEL]
    if not len(known):
        return text
    classes, count = np.unique(known, return_counts=True)
    best = count.argmax()
    return f"{text}\n{class_names[classes[best]]} {count[best] / len(label_V):.0%}"


def _draw_maps(
    path, name: str, grouping: Grouping, vectors: Vectors, clips: Clips, class_names, seed: int
) -> bool:
    """Draws the measured videos in the plane by PCA and t-SNE; False if they are too few."""
    label_V, cluster_V, vector_VF = clips.label_V, grouping.test_V, vectors.test_VF
    if len(vector_VF) > MAX_MAP_VIDEOS:
        random = np.random.Generator(np.random.Philox(key=[seed, 1]))
        chosen = np.sort(random.choice(len(vector_VF), MAX_MAP_VIDEOS, replace=False))
        label_V, cluster_V, vector_VF = label_V[chosen], cluster_V[chosen], vector_VF[chosen]
    if len(vector_VF) < MIN_MAP_VIDEOS or vector_VF.shape[1] < 2:
        Path(path).unlink(missing_ok=True)
        return False
    plane = _fit_pca(vectors.train_VF, 2, seed).transform(vector_VF)
    perplexity = min(PERPLEXITY, (len(vector_VF) - 1) / 3)
    with threadpool_limits(1):
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
        embedded = tsne.fit_transform(vector_VF.astype(np.float64))
    used, cluster_V = np.unique(cluster_V, return_inverse=True)
    colorings = {"cluster": (cluster_V, [str(k) for k in used])}
    classes = np.unique(label_V[label_V != NO_LABEL])
    if len(classes):
        number_V = np.where(label_V == NO_LABEL, -1, np.searchsorted(classes, label_V))
        colorings["class"] = (number_V, [class_names[k] for k in classes])
    maps = {"PCA of training videos": plane, f"t-SNE, perplexity {perplexity:.0f}": embedded}
    figures.write_maps(path, maps, colorings, f"{len(vector_VF)} videos, {name}: {vectors.text}")
    return True


def _write_assignments(path, groupings: Mapping[str, Grouping], clips: Clips, split: str) -> None:
    """Writes path, label, split and the cluster of each measured video by every method."""
    with open_csv(path) as writer:
        writer.writerow(["path", "label", "split", *groupings])
        for v, video in enumerate(clips.videos):
            own = [int(grouping.test_V[v]) for grouping in groupings.values()]
            writer.writerow([video.name, video.label or "", split, *own])
