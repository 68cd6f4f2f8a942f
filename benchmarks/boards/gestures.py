"""EgoGestAR: recognition of gestures in environments that no training saw, and with few labels.

What a fold has given is kept in the folder of the request: a task that was stopped goes on with the
next fold.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator

import jax
import numpy as np

from benchmarks import gestures
from benchmarks.results import Board, Measurement, Request
from vvae.data.dataset import UNSPLIT, Clips, Dataset
from vvae.tasks.pooling import VideoFeatures, average_by_video, extract, make_encoder
from vvae.tasks.random_params import randomize_params
from vvae.tasks.recognition import classical
from vvae.tasks.recognition.few_labels import estimate_interval, measure_few_labels
from vvae.tasks.recognition.scores import score_recognition

NUM_FOLDS = 8
# Few labels cannot choose how latents are pooled.
FEW_POOLING = "mean_dynamics"
LABELS = 5
CLASSICAL = ("hog", "haar", "sift", "orb", "flow_histogram")
CONTROLS = ("time", "brightness")
HEADLINE = "vae"

BOARD = Board(
    task="gestures",
    protocol="Recognition of 10 gestures in 217 clips, 8 folds by environment; the VAE sees "
    "training folds and unlabelled clips only. C and scaling are chosen by cross-validation inside "
    "the training folds; so is one of four poolings for `vae` and `random_encoder`, while every "
    "other row has one. View, network and classifier were chosen earlier on environments of these "
    "folds, which favours `vae`. `sift` and `orb` read the 24x32 pictures of flow, for which they "
    "were not made. `top1_5_labels`: 5 labels a class, 20 draws that are the same for every row; "
    "`vae_gain_5_labels`: the VAE of the same seed (0 for rows without one) less this row. ± is "
    "the standard deviation over training seeds; that over environments is not in it.",
    data="EgoGestAR, view rootflow, 24x32, 16 frames",
    headlines=(HEADLINE,),
    columns=("top1", "top5", "mean_class", "top1_5_labels", "vae_gain_5_labels"),
    unit="environments",
    published=(
        {
            "row": "DrawInAir (Garg et al. 2018): fingertip regression and LSTM, split of its own",
            "value": "(0.880)",
            "source": "ECCV Workshops 2018",
        },
        {
            "row": "GestARLite (Jain et al. 2019): hand detector, fingertip regression and LSTM, "
            "split of its own",
            "value": "(0.80)",
            "source": "arXiv:1904.09843",
        },
    ),
)


@dataclasses.dataclass(frozen=True)
class FoldRow:
    """What a row has given in one fold.

    Attributes:
      family: see `benchmarks.results.Measurement`.
      parameters: numbers that training fits by gradients.
      scores: probabilities of the test videos, V lists of K.
      labels: their class numbers, V.
      groups: their environments, V.
      few_hits: number of test videos recognised with few labels, in each draw.
    """

    family: str
    parameters: int
    scores: list[list[float]]
    labels: list[int]
    groups: list[str]
    few_hits: list[float]


@dataclasses.dataclass(frozen=True)
class _Method:
    """A row in one fold: candidates of features, of which the first serves few labels."""

    name: str
    family: str
    extractors: tuple[Callable[[Clips], VideoFeatures], ...]
    parameters: int = 0


def measure(request: Request) -> list[Measurement]:
    """Trains one VAE a fold; rows that do not depend on a seed are measured in seed 0 only."""
    folds = [measure_fold(request, number) for number in range(NUM_FOLDS)]
    rows = {name: [fold[name] for fold in folds] for name in folds[0]}
    headline_D = _average_draws(rows[HEADLINE])
    return [_summarize(name, found, headline_D) for name, found in rows.items()]


def measure_fold(request: Request, number: int) -> dict[str, FoldRow]:
    """Measures all rows in one fold, or reads what an earlier start has measured of it."""
    known = request.folder / f"gestures-{request.seed}-fold-{number}.json"
    if known.is_file():
        return {name: FoldRow(**row) for name, row in json.loads(known.read_text()).items()}
    config = gestures.configure(num_steps=request.num_steps)
    dataset = gestures.open_videos(config, request.data_path)
    clips = dataset.splits[UNSPLIT]
    own, extra, test = gestures.find_folds(clips, NUM_FOLDS)[number]
    seen, fitted, held_out = (clips.select(ids) for ids in ([*own, *extra], own, test))
    methods = _list_methods(config, dataset, seen, fitted, request.seed)
    rows = {method.name: _judge(method, fitted, held_out, request.seed) for method in methods}
    known.write_text(json.dumps({name: dataclasses.asdict(row) for name, row in rows.items()}))
    return rows


def _list_methods(
    config, dataset: Dataset, seen: Clips, fitted: Clips, seed: int
) -> Iterator[_Method]:
    model, params = gestures.train(config, dataset, seen, seed)
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(params["params"]))
    encoders = [make_encoder(model, pooling) for pooling in gestures.POOLINGS]
    for name, variables, family, count in (
        ("vae", params, "vae", size),
        ("random_encoder", randomize_params(model, params, seed + 100), "baseline", 0),
    ):
        yield _Method(name, family, _read_latents(encoders, variables, config), count)
    if seed:
        return
    for name, extractors in gestures.list_fixed_methods(seen, config.model.latent_dim).items():
        yield _Method(name, "baseline", tuple(extractors))
    for name in (*CLASSICAL, *CONTROLS):
        feature = classical.FEATURES[name](fitted, seed)
        family = "control" if name in CONTROLS else "baseline"
        yield _Method(name, family, (_read_feature(feature),))


def _read_latents(encoders, variables, config) -> tuple[Callable, ...]:
    assert gestures.POOLINGS[0] == FEW_POOLING
    batch_size = config.train.batch_size
    return tuple(
        lambda clips, encoder=encoder: extract(encoder, variables, clips, batch_size)
        for encoder in encoders
    )


def _read_feature(feature: classical.Feature) -> Callable:
    return lambda clips: average_by_video(feature.extract(clips), clips)


def _judge(method: _Method, fitted: Clips, held_out: Clips, seed: int) -> FoldRow:
    both = [[extractor(clips) for extractor in method.extractors] for clips in (fitted, held_out)]
    scores_VK, names, label_V = gestures.judge_best(*both)
    train, test = both[0][0], both[1][0]
    few = measure_few_labels(
        {method.name: (train.feature_VF, test.feature_VF)},
        np.searchsorted(names, train.label_V),
        np.searchsorted(names, test.label_V),
        seed=0,
    )
    drawn = few["rows"][method.name]["top1"][few["labels"].index(LABELS)]
    return FoldRow(
        family=method.family,
        parameters=int(method.parameters),
        scores=scores_VK.tolist(),
        labels=np.searchsorted(names, label_V).tolist(),
        groups=[str(group) for group in test.group_V],
        few_hits=(np.asarray(drawn) * len(label_V)).tolist(),
    )


def _average_draws(found: list[FoldRow]) -> np.ndarray:
    """Top-1 with few labels in each draw, over the test videos of all folds."""
    return np.sum([row.few_hits for row in found], axis=0) / sum(len(row.labels) for row in found)


def _summarize(name: str, found: list[FoldRow], headline_D: np.ndarray) -> Measurement:
    scores_VK = np.concatenate([row.scores for row in found])
    answer = score_recognition(scores_VK, np.concatenate([row.labels for row in found]), {})
    own_D = _average_draws(found)
    gain, low, high = estimate_interval(headline_D - own_D)
    values = {metric: answer[metric].value for metric in ("top1", "top5", "mean_class")}
    values[f"top1_{LABELS}_labels"] = float(own_D.mean())
    if name != HEADLINE:
        key = f"vae_gain_{LABELS}_labels"
        values |= {key: gain, f"{key}_low": low, f"{key}_high": high}
    return Measurement(
        row=name,
        family=found[0].family,
        metrics=values,
        parameters=found[0].parameters,
        hits=_count_hits(found),
    )


def _count_hits(found: list[FoldRow]) -> dict[str, tuple[float, int]]:
    """Returns environment -> (recognised videos, videos), of all folds."""
    groups = [group for row in found for group in row.groups]
    hits = np.concatenate([np.argmax(row.scores, axis=1) == row.labels for row in found])
    counts = Counter(groups)
    right = Counter(group for group, hit in zip(groups, hits) if hit)
    return {group: (float(right[group]), counts[group]) for group in sorted(counts)}
