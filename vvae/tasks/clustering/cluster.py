"""Which videos belong together? Clusters of latents, beside clusters of PCA of raw clips."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from vvae import distributions as dist
from vvae import progress
from vvae.data.clips import NO_LABEL, Clips
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.metrics.intervals import Units, compare_means, estimate_mean
from vvae.tasks.clustering import mixtures, pictures
from vvae.tasks.clustering.mixtures import Clusters, Grouping
from vvae.tasks.clustering.pictures import MIN_MAP_VIDEOS, Shown
from vvae.tasks.clustering.vectors import Vectors, represent
from vvae.tasks.csv_files import open_csv
from vvae.tasks.options import Cluster
from vvae.tasks.pooling import average_by_video, encode_clips, make_encoder
from vvae.tasks.question import Question
from vvae.tasks.result import Picture, Result
from vvae.tasks.rivals import (
    Comparison,
    advise,
    describe_rival,
    describe_units,
    find_best_rival,
    find_units,
)

MIXTURE_PRIOR = "mixture_prior"
SHEET_FILE, MAP_FILE = "cluster_sheet.png", "cluster_map.png"
SHEET_CAPTION = "The most typical videos of each cluster: a row for each, the largest first"
MAP_CAPTION = (
    "Every measured video as a point: similar videos lie close together. In t-SNE, distances "
    "between groups and their sizes mean nothing"
)
ASSIGNMENTS_FILE = "cluster.csv"

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


def answer(question: Question, options: Cluster) -> Result:
    """Clusters videos by their latents, and by PCA of raw clips with as many numbers.

    Clusters are fitted to the training videos, without their labels, and measured on the split.
    Each representation gets three clusterings: a Gaussian mixture whose number of clusters is
    chosen by BIC (`gmm_bic`), and a Gaussian mixture (`gmm`) and k-means with a given number. The
    given number is that of the components of the mixture prior; without such a prior, that of the
    classes; without classes, that chosen by BIC on the pooled latents. The clusters of all measured
    videos are written to cluster.csv.

    Raises:
      ValueError: if a split is missing, or there are fewer than two training videos.
    """
    del options
    train, test = question.train, question.clips
    if len(train.videos) < 2:
        raise ValueError(f"cluster needs two or more training videos, not {len(train.videos)}")
    with progress.stage("cluster: latents"):
        represented = represent(question)
    selected = {
        name: mixtures.select_gmm(vectors.train_VF, question.seed)
        for name, vectors in progress.track("cluster: mixtures", list(represented.items()))
    }
    given, origin = _choose_number(question.model, train.label_V, selected["pooled"][0])
    given = min(given, len(train.videos))
    by_bic = {name: clusters for name, (clusters, _) in selected.items()}
    groupings = _group_all(question, represented, given, by_bic)
    context, names = question.describe_data(), question.dataset.class_names
    units = find_units(test, test.label_V != NO_LABEL, question.seed)
    rows = {
        name: score_grouping(grouping, train.label_V, test.label_V, names, context, units)
        for name, grouping in groupings.items()
    }
    _write_assignments(question.folder / ASSIGNMENTS_FILE, groupings, test, question.split)
    shown = MIXTURE_PRIOR if MIXTURE_PRIOR in groupings else "pooled/gmm"
    comparison = _compare(rows, groupings, train.label_V, test.label_V, units)
    vectors = represented["clip_latent" if shown == MIXTURE_PRIOR else "pooled"]
    planned = _plan_pictures(question, shown, groupings[shown], vectors)
    drawn = tuple(name for picture in planned for name in picture.names)
    chosen = ", ".join(f"{name} {clusters.num_clusters}" for name, clusters in by_bic.items())
    notes = [
        f"gmm and kmeans have {given} clusters, {origin}; gmm_bic chooses {chosen}.",
        *_note_labels(train.label_V, test.label_V),
        *(describe_units(len(units.index_V), units) if len(units) else ()),
        *(() if comparison is None else [describe_rival(comparison, advise(question, "actions"))]),
    ]
    if MIXTURE_PRIOR in groupings:
        notes.append(_describe_prior(groupings[MIXTURE_PRIOR]))
    if MAP_FILE not in drawn:
        notes.append(_explain_no_maps(len(test.videos)))
    sizes = {
        name: np.bincount(grouping.test_V, minlength=grouping.num_clusters)
        for name, grouping in groupings.items()
    }
    bic = {name: by_number for name, (_, by_number) in selected.items()}
    return Result(
        task="cluster",
        rows=rows,
        details={
            "bic": bic,
            "sizes": sizes,
            "shown": shown,
            "comparison": {} if comparison is None else comparison.as_json(),
        },
        notes=tuple(notes),
        files=(*drawn, ASSIGNMENTS_FILE),
        pictures=planned,
    )


def _group_all(
    question: Question,
    represented: Mapping[str, Vectors],
    number: int,
    by_bic: Mapping[str, Clusters],
) -> dict[str, Grouping]:
    """Returns "representation/clustering" -> clusters; a mixture prior comes first.

    Args:
      question: the videos, and the model.
      represented: name of a representation -> vectors.
      number: the number of clusters of `gmm` and `kmeans`.
      by_bic: name of a representation -> the clusters of `gmm_bic`.
    """
    groupings = {}
    if question.model.clip_prior == "mixture":
        groupings[MIXTURE_PRIOR] = group_by_prior(question)
    for name, vectors in represented.items():
        fits = {
            "gmm": mixtures.fit_gmm(vectors.train_VF, number, question.seed),
            "kmeans": mixtures.fit_kmeans(vectors.train_VF, number, question.seed),
            "gmm_bic": by_bic[name],
        }
        groupings |= {f"{name}/{way}": _group(fit, vectors) for way, fit in fits.items()}
    return groupings


def _plan_pictures(
    question: Question, name: str, grouping: Grouping, vectors: Vectors
) -> tuple[Picture, ...]:
    """Returns the pictures of one grouping; removes an old map if there can be none."""
    shown = Shown(
        name=name,
        grouping=grouping,
        clips=question.clips,
        class_names=question.dataset.class_names,
    )

    def draw_sheet(folder: Path) -> None:
        pictures.draw_sheet(folder / SHEET_FILE, shown)

    def draw_maps(folder: Path) -> None:
        pictures.draw_maps(folder / MAP_FILE, shown, vectors, question.seed)

    sheet = Picture({SHEET_FILE: SHEET_CAPTION}, draw_sheet)
    if pictures.has_maps(vectors):
        return (sheet, Picture({MAP_FILE: MAP_CAPTION}, draw_maps))
    (question.folder / MAP_FILE).unlink(missing_ok=True)
    return (sheet,)


# --- clusters -------------------------------------------------------------------------------------


def group_by_prior(question: Question) -> Grouping:
    """Groups videos by the components of the learned mixture prior of w.

    The responsibilities of a video are the mean over its clips, at their posterior means.
    """
    model = question.model
    both = [
        measure_responsibilities(model, question.params, clips, question.batch_size)
        for clips in (question.train, question.clips)
    ]
    train_V, test_V = (responsibility_VK.argmax(axis=1) for responsibility_VK, _ in both)
    return Grouping(
        train_V=train_V,
        test_V=test_V,
        rating_VK=both[1][1],
        num_clusters=model.num_components,
        text="responsibilities of the mixture prior at the posterior mean of w",
    )


def measure_responsibilities(
    model, params, clips: Clips, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns q(k | w) and log pi_k + log N_k(w) (nats) of each video, both [V, K]."""
    mixture = model.apply(params, method="clip_prior_mixture")

    def read(posterior, mask_BT):
        del mask_BT  # w was inferred from the valid frames alone
        w_BW = posterior.clip.mean
        return {
            "responsibility": dist.mixture_responsibilities(mixture, w_BW),
            "log_prob": dist.mixture_component_log_prob(mixture, w_BW),
        }

    by_clip = encode_clips(make_encoder(model, read), params, clips, batch_size)
    return tuple(
        average_by_video(by_clip[name], clips).feature_VF for name in ("responsibility", "log_prob")
    )


def _group(fit: Clusters, vectors: Vectors) -> Grouping:
    rating_VK = mixtures.rate_members(fit, vectors.test_VF)
    return Grouping(
        train_V=mixtures.assign(fit, vectors.train_VF),
        test_V=rating_VK.argmax(axis=1),
        rating_VK=rating_VK,
        num_clusters=fit.num_clusters,
        text=f"{vectors.text}; {fit.text}",
    )


def _choose_number(model, train_label_V: np.ndarray, by_bic: Clusters) -> tuple[int, str]:
    """Returns the number of clusters of `gmm` and `kmeans`, and where it comes from."""
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
    units: Units,
) -> dict[str, Metric]:
    """Measures the sizes of clusters, and their agreement with labels if there are any.

    Args:
      grouping: clusters of the videos of both splits.
      train_label_V, test_label_V: class ids; videos without a label have -1 and are not counted.
      class_names: the name of each class id; the cards list the classes of the measured videos.
      context: further entries of every metric card.
      units: the independent units of the measured videos with a label, for intervals of accuracies;
        the matching of clusters and classes is kept in all resamples.

    Returns:
      `accuracy`, `accuracy_by_train`, `nmi` and `ari` as far as labels allow, then the sizes.
    """
    size_K = np.bincount(grouping.test_V, minlength=grouping.num_clusters)
    values = {
        "num_clusters": (int(grouping.num_clusters), "clusters"),
        "used_clusters": (int(np.count_nonzero(size_K)), "clusters"),
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
    hits = _find_hits(grouping, train_label_V, test_label_V)
    agreement = {name: float(hit_V.mean()) for name, hit_V in hits.items()} | {
        "nmi": normalized_mutual_info_score(label_V, cluster_V),
        "ari": adjusted_rand_score(label_V, cluster_V),
    }
    intervals = {name: estimate_mean(units, hit_V) for name, hit_V in hits.items()}
    order = ("accuracy", "accuracy_by_train", "nmi", "ari")
    scores = {
        name: dataclasses.replace(
            make_metric(name, agreement[name], "", DEFINITIONS[name], BY_VIDEO, **card),
            interval=intervals.get(name),
        )
        for name in order
        if name in agreement
    }
    return scores | sizes


def _find_hits(
    grouping: Grouping, train_label_V: np.ndarray, test_label_V: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns accuracy -> whether each labelled video agrees with the matching, bool [V]."""
    known_V, train_V = test_label_V != NO_LABEL, train_label_V != NO_LABEL
    cluster_V, label_V = grouping.test_V[known_V], test_label_V[known_V]
    fitted = {"accuracy": (cluster_V, label_V)}
    if train_V.any():
        fitted["accuracy_by_train"] = (grouping.train_V[train_V], train_label_V[train_V])
    return {
        name: mixtures.find_agreement(mixtures.match_clusters(*pair), cluster_V, label_V)
        for name, pair in fitted.items()
    }


def _compare(
    rows: Mapping[str, Mapping[str, Metric]],
    groupings: Mapping[str, Grouping],
    train_label_V: np.ndarray,
    test_label_V: np.ndarray,
    units: Units,
) -> Comparison | None:
    """Compares the best clustering of the latents with the best of the other vectors."""
    metric = next((m for m in ("accuracy_by_train", "accuracy") if m in rows["pooled/gmm"]), None)
    if metric is None:
        return None
    rivals = [name for name in rows if name.startswith(("random_", "clip_pca"))]
    own = find_best_rival(rows, [name for name in rows if name not in rivals], metric)
    rival = find_best_rival(rows, rivals, metric)
    own_V, rival_V = (
        _find_hits(groupings[name], train_label_V, test_label_V)[metric] for name in (own, rival)
    )
    values = (rows[own][metric].value, rows[rival][metric].value)
    return Comparison(own, rival, metric, values, compare_means(units, own_V, rival_V))


def _explain_no_maps(num_videos: int) -> str:
    if num_videos >= MIN_MAP_VIDEOS:
        return "No maps: a single number describes a video."
    return (
        f"No maps: {num_videos} measured videos are too few; with fewer than {MIN_MAP_VIDEOS}, the "
        "places of points in a t-SNE map are chance."
    )


def _describe_prior(grouping: Grouping) -> str:
    """Describes how many components of the mixture prior the training videos use."""
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


def _write_assignments(path, groupings: Mapping[str, Grouping], clips: Clips, split: str) -> None:
    """Writes path, label, group, split and the cluster by every method of each measured video."""
    with open_csv(path) as writer:
        writer.writerow(["path", "label", "group", "split", *groupings])
        for v, video in enumerate(clips.videos):
            own = [int(grouping.test_V[v]) for grouping in groupings.values()]
            writer.writerow([video.name, video.label or "", video.group, split, *own])
